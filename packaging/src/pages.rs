//! The manual pages of a program: one for itself, and one for each subcommand.

use std::io;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

/// Commands for administrators.
const SECTION: &str = "8";

/// A manual page.
pub(crate) struct Page {
    command: Command,
    /// Whether it is the program's own.
    is_first: bool,
}

/// Returns all pages of a program, its own first.
pub(crate) fn all(program: &Command) -> Vec<Page> {
    let mut program = program.clone().disable_help_subcommand(true);
    // Subcommands get their full names by this.
    program.build();
    let mut pages = vec![Page { command: program.clone(), is_first: true }];
    add_subcommands(&program, program.get_version(), &mut pages);
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
        let program = name.split('-').next().unwrap_or(&name).to_owned();
        let command = self.command.clone().name(name.clone());
        let page = Man::new(command).title(name).section(SECTION).manual("System Administration");
        let mut text = Vec::new();
        page.render(&mut text)?;
        self.closing(&program).to_writer(&mut text)?;
        Ok(text)
    }

    /// Returns what no option says.
    fn closing(&self, program: &str) -> Roff {
        let mut roff = Roff::new();
        if !self.is_first {
            return also(roff, &[program]);
        }
        roff.control("SH", ["FILES"]);
        for (file, meaning) in files(program) {
            entry(&mut roff, &file.replace("NAME", program), meaning);
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
        match program {
            "mirror" => also(roff, &["mirror-run", "mirror-observe", "mirror-check"]),
            "clientnic" => also(roff, &["clientnic-run", "clientnic-show", "servernic"]),
            _ => also(roff, &["servernic-run", "servernic-show", "clientnic"]),
        }
    }
}

/// Returns a program's files, `NAME` in place of its name, and what they are.
fn files(program: &str) -> &'static [(&'static str, &'static str)] {
    match program {
        "mirror" => &[
            ("/etc/rtt0/mirror.toml", "settings, with all keys and their meanings"),
            ("/etc/rtt0/allow.json", "whose packets may be sent on, as the settings have it"),
        ],
        _ => &[
            ("/etc/rtt0/NAME.toml", "settings; every option of run is a key, by its long name"),
            ("/etc/rtt0/key", "keys that both NICs share, mode 0600, of the daemon's user"),
            ("/run/rtt0/NAME.state", "established connections, which survive a restart by it"),
            ("/run/rtt0/NAME.sock", "where a running daemon is asked"),
            ("/sys/fs/bpf/rtt0", "what outlives the daemon in the kernel"),
        ],
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
        const OF_NICS: &[&str] = &["", "-run", "-check-config", "-keygen", "-show", "-show-stats", "-top"];
        for program in crate::commands() {
            let pages = all(&program);
            let files: Vec<String> = pages.iter().map(Page::file).collect();
            let is_mirror = program.get_name() == "mirror";
            for suffix in if is_mirror { &["", "-run", "-observe", "-check"] } else { OF_NICS } {
                let file = format!("{}{suffix}.8", program.get_name());
                assert!(files.contains(&file), "no {file} in {files:?}");
            }
        }
    }

    #[test]
    fn a_page_says_what_the_help_says_and_more() {
        let pages: Vec<Page> = crate::commands().iter().flat_map(all).collect();
        let text = |file: &str| {
            let page = pages.iter().find(|page| page.file() == file).unwrap();
            String::from_utf8(page.text().unwrap()).unwrap().replace("\\-", "-")
        };
        for (file, words) in [
            (
                "clientnic.8",
                [".TH clientnic 8", "clientnic-run(8)", "/etc/rtt0/clientnic.toml", "EXIT STATUS"],
            ),
            ("clientnic-run.8", [".TH clientnic-run 8", "--key-file", "--exclude-source", "default: 10"]),
            ("mirror.8", [".TH mirror 8", "mirror-observe(8)", "/etc/rtt0/allow.json", "EXIT STATUS"]),
            ("mirror-run.8", [".TH mirror-run 8", "--backend", "default: /etc/rtt0/mirror.toml", "SEE ALSO"]),
        ] {
            let text = text(file);
            for words in words {
                assert!(text.contains(words), "no {words} in {text}");
            }
        }
    }
}
