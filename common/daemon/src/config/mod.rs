//! Where settings come from.
//!
//! ```text
//! flag  >  environment (RTT0_…)  >  file (/etc/rtt0/NAME.toml)  >  default
//! ```
//!
//! Every option of `run` is a key of the file, by its long name, and a variable of the environment. The
//! command line's own parser reads all of them, so that a value is right or wrong wherever it stands:
//! what the file says takes the place of the option's default.

mod file;
mod show;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

use file::ConfigFile;
pub use file::ConfigFileError;

/// Subcommands that have settings.
const CONFIGURED: [&str; 3] = ["run", "check-config", "doctor"];
/// Options that say what to do and not how.
const ORDERS: [&str; 13] = [
    "help",
    "config",
    "dry-run",
    "print-config", // and those of the doctor:
    "agent",
    "bundle",
    "interval",
    "json",
    "listen",
    "peer",
    "probe",
    "probes",
    "redact",
];
/// Where a daemon's file lies unless another is named.
const FOLDER: &str = "/etc/rtt0";

/// Everything that settings are read from.
#[derive(Debug)]
pub(crate) struct Layers {
    command: Command,
    arguments: Vec<OsString>,
    usual_file: PathBuf,
}

/// Why there is no configuration.
#[derive(Debug)]
pub(crate) enum Unusable {
    /// The command line or the environment is wrong, or only asks for help.
    Arguments(clap::Error),
    /// The file is wrong.
    File(ConfigFileError),
}

/// What the layers come to.
#[derive(Debug)]
pub(crate) struct Configured {
    /// To be read like those of any command line.
    pub(crate) matches: ArgMatches,
    /// The settings of `run`; none for other subcommands.
    pub(crate) settings: Vec<Setting>,
}

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    /// The option's long name.
    pub(crate) name: String,
    /// As they would be written on the command line.
    values: Vec<String>,
    is_list: bool,
    origin: Origin,
}

/// Who has set a value.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    Flag,
    Environment(String),
    File(String),
    Default,
}

impl Layers {
    /// `arguments` begin with the program's name.
    pub(crate) fn new(command: Command, arguments: Vec<OsString>) -> Self {
        let usual_file = Path::new(FOLDER).join(command.get_name()).with_extension("toml");
        let command = CONFIGURED.iter().fold(command, |command, name| match command.find_subcommand(name) {
            Some(_) => command.mut_subcommand(name, |subcommand| subcommand.mut_args(with_variable)),
            None => command,
        });
        Self { command, arguments, usual_file }
    }

    /// Reads all layers as they now are.
    pub(crate) fn read(&self) -> Result<Configured, Unusable> {
        let file = self.file().map_err(Unusable::File)?;
        let mut command = self.command.clone();
        if let Some(file) = &file {
            for name in CONFIGURED {
                let Some(subcommand) = command.find_subcommand(name).cloned() else { continue };
                let filled = file.fill(subcommand, &ORDERS).map_err(Unusable::File)?;
                command = command.mut_subcommand(name, |_| filled);
            }
        }
        let matches = command.clone().try_get_matches_from(&self.arguments).map_err(Unusable::Arguments)?;
        let settings = match matches.subcommand() {
            Some((name, matches)) if CONFIGURED.contains(&name) => {
                let arguments = command.find_subcommand(name).into_iter().flat_map(Command::get_arguments);
                arguments.filter_map(|argument| Setting::read(argument, matches, file.as_ref())).collect()
            }
            _ => Vec::new(),
        };
        Ok(Configured { matches, settings })
    }

    /// Reads the file that the flags or the environment name, or else the usual one if it exists.
    fn file(&self) -> Result<Option<ConfigFile>, ConfigFileError> {
        // Whatever else is wrong with the command line is said when it is read in earnest.
        let lenient = self.command.clone().ignore_errors(true);
        let Ok(matches) = lenient.try_get_matches_from(&self.arguments) else { return Ok(None) };
        let Some((name, matches)) = matches.subcommand() else { return Ok(None) };
        if !CONFIGURED.contains(&name) {
            return Ok(None);
        }
        match matches.get_one::<PathBuf>("config") {
            Some(named) => ConfigFile::read(named).map(Some),
            None if self.usual_file.exists() => ConfigFile::read(&self.usual_file).map(Some),
            None => Ok(None),
        }
    }
}

impl Configured {
    /// Writes the settings as a file that would make the same, with who has set each.
    pub(crate) fn show(&self) -> String {
        show::show(&self.settings)
    }

    /// Takes over those settings of `other` of which `is_taken` is true.
    pub(crate) fn take_over(&mut self, other: &Self, is_taken: impl Fn(&str) -> bool) {
        self.settings.retain(|setting| !is_taken(&setting.name));
        self.settings.extend(other.settings.iter().filter(|setting| is_taken(&setting.name)).cloned());
    }

    /// Returns the names of the settings whose values differ from those of `other`.
    pub(crate) fn changes_since<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a str> {
        let value = |setting: &Setting| (setting.name.clone(), setting.values.clone());
        let before: Vec<_> = other.settings.iter().map(value).collect();
        let now: Vec<_> = self.settings.iter().map(value).collect();
        let changed = self.settings.iter().filter(move |setting| !before.contains(&value(setting)));
        let gone = other.settings.iter().filter(move |old| now.iter().all(|(name, _)| *name != old.name));
        changed.chain(gone).map(|setting| setting.name.as_str())
    }
}

impl Setting {
    fn read(argument: &Arg, matches: &ArgMatches, file: Option<&ConfigFile>) -> Option<Self> {
        let name = argument.get_long().filter(|name| !ORDERS.contains(name))?;
        let id = argument.get_id().as_str();
        let values: Vec<String> =
            matches.get_raw(id)?.map(|value| value.to_string_lossy().into_owned()).collect();
        let origin = match matches.value_source(id)? {
            ValueSource::CommandLine => Origin::Flag,
            ValueSource::EnvVariable => Origin::Environment(variable(name)),
            _ => file.and_then(|file| file.place_of(name)).map_or(Origin::Default, Origin::File),
        };
        Some(Self { name: name.to_owned(), values, is_list: is_list(argument), origin })
    }
}

/// Lets the environment set an option.
fn with_variable(argument: Arg) -> Arg {
    match argument.get_long() {
        // Orders are given where they are carried out; a file may be named anywhere.
        Some(name) if name == "config" || !ORDERS.contains(&name) => {
            let variable = variable(name);
            argument.env(variable).hide_env(true)
        }
        _ => argument,
    }
}

fn variable(name: &str) -> String {
    format!("RTT0_{}", name.to_uppercase().replace('-', "_"))
}

/// Tells whether an option takes several values.
fn is_list(argument: &Arg) -> bool {
    matches!(argument.get_action(), ArgAction::Append)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::io::Write;
    use tempfile::NamedTempFile;

    #[derive(Debug, Parser)]
    #[command(name = "testnic")]
    enum Line {
        Run(Options),
        CheckConfig(Options),
        Keygen,
    }

    #[derive(Debug, clap::Args)]
    struct Options {
        #[arg(long)]
        config: Option<PathBuf>,
        #[arg(long, value_delimiter = ',', required = true)]
        interface: Vec<String>,
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
        workers: u8,
        #[arg(long)]
        no_state: bool,
    }

    fn layers(file: &str, arguments: &[&str]) -> (Layers, NamedTempFile) {
        let mut kept = NamedTempFile::new().unwrap();
        kept.write_all(file.as_bytes()).unwrap();
        let path = kept.path().as_os_str().to_owned();
        let mut all: Vec<OsString> = vec!["testnic".into(), "run".into(), "--config".into(), path];
        all.extend(arguments.iter().map(OsString::from));
        (Layers::new(<Line as clap::CommandFactory>::command(), all), kept)
    }

    fn settings(file: &str, arguments: &[&str]) -> Vec<(String, Vec<String>, String)> {
        let (layers, kept) = layers(file, arguments);
        let configured = layers.read().unwrap();
        let path = kept.path().display().to_string();
        let told = |setting: Setting| {
            let origin = match setting.origin {
                Origin::Flag => "flag".to_owned(),
                Origin::Environment(name) => name,
                Origin::File(place) => place.replace(&path, "file"),
                Origin::Default => "default".to_owned(),
            };
            (setting.name, setting.values, origin)
        };
        configured.settings.into_iter().map(told).collect()
    }

    fn wrong(file: &str) -> String {
        let (layers, kept) = layers(file, &["--interface", "lo"]);
        match layers.read() {
            Err(Unusable::File(error)) => {
                error.to_string().replace(&kept.path().display().to_string(), "file")
            }
            other => panic!("{other:?}"),
        }
    }

    fn set(name: &str, values: &[&str], origin: &str) -> (String, Vec<String>, String) {
        (name.to_owned(), values.iter().map(|value| (*value).to_owned()).collect(), origin.to_owned())
    }

    #[test]
    fn flags_go_before_the_file_and_the_file_before_defaults() {
        let file = "interface = [\"a\", \"b\"]\n\nno-state = true\n";
        assert_eq!(
            settings(file, &[]),
            [
                set("interface", &["a", "b"], "file:1"),
                set("workers", &["1"], "default"),
                set("no-state", &["true"], "file:3"),
            ]
        );
        assert_eq!(
            settings("workers = 3\ninterface = 'a'", &["--interface", "c,d", "--workers", "4"]),
            [
                set("interface", &["c", "d"], "flag"),
                set("workers", &["4"], "flag"),
                set("no-state", &["false"], "default"),
            ]
        );
    }

    #[test]
    fn what_is_shown_makes_the_same_settings() {
        let file = "interface = ['a', \"b \\\" ' \\\\\"]\nworkers = 3\nno-state = true";
        let shown = layers(file, &[]).0.read().unwrap().show();
        let values = |file: &str| -> Vec<_> {
            settings(file, &[]).into_iter().map(|(name, values, _)| (name, values)).collect()
        };
        assert_eq!(values(&shown), values(file), "{shown}");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (file, message) in [
            ("workers = 3\nworker = 4\n", "file:2:1: unknown key 'worker'; did you mean 'workers'?"),
            ("config = 'x'", "file:1:1: unknown key 'config'; there are: interface, no-state, workers"),
            (
                "[limits]\nflows = 1",
                "file:1:2: unknown key 'limits'; there are: interface, no-state, workers",
            ),
            ("\n  workers = 65", "file:2:13: invalid value '65' for 'workers': 65 is not in 1..=64"),
            ("workers = [1, 2]", "file:1:11: 'workers' takes one value and no list"),
            ("workers = 1.5", "file:1:11: 'workers' takes a string, an integer or a boolean"),
            (
                "interface = ['a', 1979-05-27]",
                "file:1:19: 'interface' takes a string, an integer or a boolean",
            ),
            (
                "no-state = 'maybe'",
                "file:1:12: invalid value 'maybe' for 'no-state' [possible values: true, false]",
            ),
            ("workers = 3\nworkers = 4", "file:2:1: duplicate key"),
            ("workers", "file:1:8: key with no value, expected `=`"),
        ] {
            assert_eq!(wrong(file), message);
        }
    }

    #[test]
    fn only_a_file_that_was_named_has_to_exist() {
        let read = |arguments: &[&str]| {
            let arguments = arguments.iter().map(OsString::from).collect();
            Layers::new(<Line as clap::CommandFactory>::command(), arguments).read()
        };
        assert!(read(&["testnic", "run", "--interface", "lo"]).is_ok());
        let named = read(&["testnic", "run", "--interface", "lo", "--config", "/nonexistent/x.toml"]);
        assert!(matches!(named, Err(Unusable::File(ConfigFileError::Missing { .. }))));
        assert!(read(&["testnic", "keygen"]).is_ok_and(|configured| configured.settings.is_empty()));
        assert!(matches!(read(&["testnic", "run"]), Err(Unusable::Arguments(_))));
    }

    #[test]
    fn changes_are_told_by_name() {
        let read = |file: &str| layers(file, &[]).0.read().unwrap();
        let (before, after) = (read("interface = 'a'\nworkers = 2"), read("workers = 2\ninterface = 'b'"));
        assert_eq!(after.changes_since(&before).collect::<Vec<_>>(), ["interface"]);
        assert_eq!(after.changes_since(&after).count(), 0);
    }
}
