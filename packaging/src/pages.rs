//! The manual pages of a daemon: one for itself, and one for each subcommand.

use std::io;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

/// Commands for administrators.
const SECTION: &str = "8";

/// A manual page.
pub(crate) struct Page {
    command: Command,
    /// Whether it is the daemon's own.
    is_first: bool,
}

/// Returns all pages of a daemon, its own first.
pub(crate) fn all(daemon: &Command) -> Vec<Page> {
    let mut daemon = daemon.clone().disable_help_subcommand(true);
    // Subcommands get their full names by this.
    daemon.build();
    let mut pages = vec![Page { command: daemon.clone(), is_first: true }];
    add_subcommands(&daemon, daemon.get_version(), &mut pages);
    pages
}

fn add_subcommands(command: &Command, version: Option<&str>, pages: &mut Vec<Page>) {
    for subcommand in command.get_subcommands() {
        let mut of_its_own = subcommand.clone();
        if let Some(version) = version {
            of_its_own = of_its_own.version(version.to_owned()).disable_version_flag(true);
        }
        pages.push(Page { command: of_its_own, is_first: false });
        add_subcommands(subcommand, version, pages);
    }
}

impl Page {
    fn name(&self) -> String {
        self.command.get_display_name().unwrap_or(self.command.get_name()).to_owned()
    }

    /// Returns the file's name, such as `clientnic-run.8`.
    pub(crate) fn file(&self) -> String {
        format!("{}.{SECTION}", self.name())
    }

    /// Returns the page in roff.
    ///
    /// # Errors
    /// Those of writing to memory: none.
    pub(crate) fn text(&self) -> io::Result<Vec<u8>> {
        let name = self.name();
        let daemon = name.split('-').next().unwrap_or(&name).to_owned();
        let command = self.command.clone().name(name.clone());
        let page = Man::new(command).title(name).section(SECTION).manual("System Administration");
        let mut text = Vec::new();
        page.render(&mut text)?;
        self.closing(&daemon).to_writer(&mut text)?;
        Ok(text)
    }

    /// Returns what no option says.
    fn closing(&self, daemon: &str) -> Roff {
        let mut roff = Roff::new();
        if !self.is_first {
            return also(roff, &[daemon]);
        }
        roff.control("SH", ["FILES"]);
        for (file, meaning) in [
            (format!("/etc/rtt0/{daemon}.toml"), "settings; every option of run is a key, by its long name"),
            ("/etc/rtt0/key".to_owned(), "keys that both NICs share, mode 0600, of the daemon's user"),
            (format!("/run/rtt0/{daemon}.state"), "established connections, which survive a restart by it"),
            (format!("/run/rtt0/{daemon}.sock"), "where a running daemon is asked"),
            ("/sys/fs/bpf/rtt0".to_owned(), "what outlives the daemon in the kernel"),
        ] {
            entry(&mut roff, &file, meaning);
        }
        roff.control("SH", ["EXIT STATUS"]);
        for (code, meaning) in [
            ("0", "stopped by SIGTERM or SIGINT, or done"),
            ("1", "failed while starting or running"),
            ("2", "the command line is wrong"),
            ("77", "a capability is missing"),
            ("78", "the configuration is wrong"),
        ] {
            entry(&mut roff, code, meaning);
        }
        let other = if daemon == "clientnic" { "servernic" } else { "clientnic" };
        also(roff, &[&format!("{daemon}-run"), &format!("{daemon}-show"), other])
    }
}

fn entry(roff: &mut Roff, term: &str, meaning: &str) {
    roff.control("TP", []).text([bold(term)]).text([roman(meaning)]);
}

fn also(mut roff: Roff, pages: &[&str]) -> Roff {
    roff.control("SH", ["SEE ALSO"]);
    let mut words = Vec::new();
    for page in pages {
        if !words.is_empty() {
            words.push(roman(", "));
        }
        words.push(bold(*page));
        words.push(roman(format!("({SECTION})")));
    }
    roff.text(words);
    roff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subcommand_has_a_page() {
        for daemon in [clientnic::command(), servernic::command()] {
            let pages = all(&daemon);
            let files: Vec<String> = pages.iter().map(Page::file).collect();
            for suffix in ["", "-run", "-check-config", "-keygen", "-show", "-show-stats", "-top"] {
                let file = format!("{}{suffix}.8", daemon.get_name());
                assert!(files.contains(&file), "no {file} in {files:?}");
            }
        }
    }

    #[test]
    fn a_page_says_what_the_help_says_and_more() {
        let text = |file: &str| {
            let pages = all(&clientnic::command());
            let page = pages.iter().find(|page| page.file() == file).unwrap();
            String::from_utf8(page.text().unwrap()).unwrap().replace("\\-", "-")
        };
        let (first, run) = (text("clientnic.8"), text("clientnic-run.8"));
        for words in [".TH clientnic 8", "clientnic-run(8)", "/etc/rtt0/clientnic.toml", "EXIT STATUS"] {
            assert!(first.contains(words), "no {words} in {first}");
        }
        for words in [".TH clientnic-run 8", "--key-file", "--exclude-source", "default: 10"] {
            assert!(run.contains(words), "no {words} in {run}");
        }
    }
}
