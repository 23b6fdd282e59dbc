//! Calls of the AWS CLI.

use super::super::bounded;
use super::super::interrupt::Interrupt;
use super::super::transport::Output;
use anyhow::{Context, bail};
use serde::de::DeserializeOwned;
use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Bound of a call that only asks or orders.
pub(super) const CALL: Duration = Duration::from_secs(60);

/// The AWS CLI, versions 1 and 2.
#[derive(Debug)]
pub(super) struct Cli<'a> {
    program: PathBuf,
    region: Option<String>,
    interrupt: &'a Interrupt,
}

impl<'a> Cli<'a> {
    pub(super) fn new(program: PathBuf, region: Option<String>, interrupt: &'a Interrupt) -> Self {
        Self { program, region, interrupt }
    }

    /// Makes a call and returns what it says, whether it succeeds or not.
    pub(super) fn call(&self, arguments: &[&str], bound: Duration) -> anyhow::Result<Output> {
        self.make(arguments, bound, Some(self.interrupt))
    }

    /// Makes a call that the user's interrupt does not keep from being made.
    pub(super) fn call_regardless(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        self.make(arguments, CALL, None)
    }

    fn make(
        &self,
        arguments: &[&str],
        bound: Duration,
        interrupt: Option<&Interrupt>,
    ) -> anyhow::Result<Output> {
        let mut command = Command::new(&self.program);
        command.args(arguments).args(["--output", "json"]);
        if let Some(region) = &self.region {
            command.args(["--region", region]);
        }
        // Version 2 would have a pager show the answer.
        command.env("AWS_PAGER", "");
        match bounded::run(command, bound, interrupt) {
            Err(error) if is_missing(&error) => Err(error).context(
                "the AWS CLI is missing: install it, or name it with --aws-program (RTT0_AWS_PROGRAM)",
            ),
            outcome => outcome.with_context(|| named(arguments)),
        }
    }

    /// Makes a call that has to succeed and returns what it prints.
    pub(super) fn text(&self, arguments: &[&str], bound: Duration) -> anyhow::Result<String> {
        let output = self.call(arguments, bound)?;
        if output.status != 0 {
            bail!("{}: {}{}", named(arguments), output.stderr.trim(), advice(&output.stderr));
        }
        Ok(output.stdout)
    }

    /// Makes a call that has to succeed and reads its answer.
    pub(super) fn json<T: DeserializeOwned>(&self, arguments: &[&str]) -> anyhow::Result<T> {
        let text = self.text(arguments, CALL)?;
        serde_json::from_str(&text).with_context(|| format!("{}: unexpected answer", named(arguments)))
    }
}

/// Names a call by its service and operation.
pub(super) fn named(arguments: &[&str]) -> String {
    format!("aws {}", arguments.iter().take(2).copied().collect::<Vec<_>>().join(" "))
}

fn is_missing(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Says what to do about a complaint of the CLI's.
fn advice(complaint: &str) -> &'static str {
    let known = [
        ("locate credentials", "; configure them: aws configure, or aws sso login"),
        ("ExpiredToken", "; renew the credentials: aws sso login"),
        ("specify a region", "; name the stack's region with --region"),
        ("AccessDenied", "; the user lacks that permission, see deploy/aws/README.md"),
        ("UnauthorizedOperation", "; the user lacks that permission, see deploy/aws/README.md"),
    ];
    known.iter().find(|(words, _)| complaint.contains(words)).map_or("", |(_, advice)| advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_cli_says_what_to_do() {
        let interrupt = Interrupt::watch().unwrap();
        let cli = Cli::new("/absent/aws".into(), None, &interrupt);
        let error = cli.text(&["ec2", "describe-instances"], CALL).unwrap_err();
        assert!(error.to_string().contains("--aws-program"), "{error:#}");
    }

    #[test]
    fn complaints_come_with_advice() {
        assert!(advice("Unable to locate credentials. You can configure").contains("aws configure"));
        assert_eq!(advice("a new kind of error"), "");
    }
}
