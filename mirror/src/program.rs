//! The program: command line, log, exit codes.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | stopped by SIGTERM or SIGINT, or done |
//! | 1 | failed while starting or running |
//! | 2 | the command line is wrong |
//! | 77 | a capability is missing; the message names it |
//! | 78 | the configuration is wrong: file, allowlist, rule or interface |

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use rtt0_daemon::{LogFormat, exit, logging};
use rtt0_netio::awake::AwakeError;
use rtt0_netio::capture::filter::TooManyRules;
use rtt0_netio::guard::GuardError;
use rtt0_netio::interface::UnknownInterface;
use rtt0_netio::privilege::PrivilegeError;

use crate::allowlist::AllowlistError;
use crate::cli::{Cli, Command};
use crate::config::ConfigError;
use crate::nat::RulesError;
use crate::run;
use crate::tunnel::TunnelsError;

/// Does what the command line says, and returns the exit code.
pub fn main_from(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to standard output; nobody may be reading.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { exit::USAGE } else { 0 });
        }
    };
    let outcome = match &cli.command {
        Command::Run(args) => {
            logging::start(args.capture.log_format);
            run::run(args)
        }
        Command::Observe(args) => {
            logging::start(args.capture.log_format);
            run::observe(args)
        }
        Command::Check(args) => {
            logging::start(LogFormat::Text);
            run::check(args)
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::from(exit_code(&error))
        }
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    let is_configuration = error.is::<ConfigError>()
        || error.is::<AllowlistError>()
        || error.is::<RulesError>()
        || error.is::<TunnelsError>()
        || error.is::<TooManyRules>()
        || error.is::<UnknownInterface>()
        || matches!(error.downcast_ref(), Some(GuardError::UnknownInterface(_)));
    let is_sleep_denied = error.downcast_ref().is_some_and(AwakeError::is_permission_denied);
    match error.downcast_ref() {
        Some(PrivilegeError::Missing { .. }) => exit::PRIVILEGE,
        _ if is_sleep_denied => exit::PRIVILEGE,
        _ if is_configuration => exit::CONFIGURATION,
        _ => exit::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_configuration_has_its_exit_code() {
        let code = |error: anyhow::Error| exit_code(&error);
        let missing = rtt0_netio::interface::by_name("nosuch0").unwrap_err();
        assert_eq!(code(missing.into()), exit::CONFIGURATION);
        let list = crate::allowlist::Allowlist::parse("{}").unwrap_err();
        assert_eq!(code(list.into()), exit::CONFIGURATION);
        assert_eq!(code(anyhow::anyhow!("anything")), exit::FAILURE);
    }
}
