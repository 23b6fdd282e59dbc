//! Makes the manual pages and shell completions of both daemons and of the mirror: `packaging [FOLDER]`.
//!
//! They are made from what clap parses by, so that nothing can be documented in another way than it is. The folder is
//! `target/dist` of the workspace if none is named, which is where the packages are made from:
//!
//! ```text
//! man/clientnic.8, man/clientnic-run.8, …        one page for each subcommand
//! completions/clientnic.bash, _clientnic, clientnic.fish
//! ```

mod pages;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Command, CommandFactory, Parser};
use clap_complete::Shell;

/// Makes manual pages and shell completions of both daemons and of the mirror
#[derive(Debug, Parser)]
#[command(name = "packaging")]
struct Cli {
    /// Where to
    #[arg(default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/dist"))]
    folder: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let folder = Cli::parse().folder;
    for command in commands() {
        make(command, &folder)?;
    }
    Ok(())
}

fn commands() -> [Command; 3] {
    [clientnic::command(), servernic::command(), mirror::cli::Cli::command()]
}

fn make(mut command: Command, folder: &Path) -> anyhow::Result<()> {
    let [man, completions] = ["man", "completions"].map(|name| folder.join(name));
    for folder in [&man, &completions] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let name = command.get_name().to_owned();
    for page in pages::all(&command) {
        let file = man.join(page.file());
        fs::write(&file, page.text()?).with_context(|| format!("cannot write {}", file.display()))?;
    }
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, &name, &completions)
            .with_context(|| format!("cannot write the completions of {shell} for {name}"))?;
    }
    Ok(())
}
