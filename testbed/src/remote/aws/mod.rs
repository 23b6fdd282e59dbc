//! The hosts as VMs of the CloudFormation stack in `deploy/aws`, by the AWS CLI: EC2 knows where they are, SSM runs
//! scripts on them, S3 carries files.
//!
//! No host has a public address or an open port, and nothing here needs one.

mod cli;
mod invocation;
mod shapes;
mod stack;

use super::interrupt::Interrupt;
use super::script::quote;
use super::site::{Role, Site};
use super::transport::{Output, Transport};
use anyhow::{Context, bail};
use cli::Cli;
use stack::Stack;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bound of carrying a file.
const CARRYING: Duration = Duration::from_secs(600);

/// Which stack, and how to reach it.
#[derive(Debug, Clone)]
pub struct AwsOptions {
    /// The AWS CLI.
    pub program: PathBuf,
    /// Name of the stack.
    pub stack: String,
    /// Its region, else as the CLI is configured.
    pub region: Option<String>,
    /// Folder on the VMs in which ours is made.
    pub folder: String,
    /// How long to wait for VMs that are starting.
    pub patience: Duration,
}

/// Four VMs of a stack.
#[derive(Debug)]
pub struct Aws<'a> {
    options: AwsOptions,
    cli: Cli<'a>,
    interrupt: &'a Interrupt,
    /// Distinguishes this run's objects from others'.
    run: String,
    /// None before the VMs are found.
    stack: Option<Stack>,
}

impl<'a> Aws<'a> {
    /// Asks for nothing yet.
    pub fn new(options: AwsOptions, interrupt: &'a Interrupt) -> Self {
        let cli = Cli::new(options.program.clone(), options.region.clone(), interrupt);
        Self { options, cli, interrupt, run: format!("{:016x}", fastrand::u64(..)), stack: None }
    }

    fn stack(&self) -> anyhow::Result<&Stack> {
        self.stack.as_ref().context("the stack has not been looked for")
    }

    /// Returns where an object of this run lies.
    fn object(&self, name: &str) -> anyhow::Result<String> {
        Ok(format!("s3://{}/runs/{}/{name}", self.stack()?.bucket, self.run))
    }

    /// Runs a script that has to succeed.
    fn succeed(&self, role: Role, purpose: &str, script: &str) -> anyhow::Result<()> {
        let output = self.run(role, purpose, script, CARRYING)?;
        if output.status != 0 {
            bail!("{role}: {purpose}: status {}: {}", output.status, output.stderr.trim());
        }
        Ok(())
    }

    /// Writes the command by which a host copies from or to S3.
    fn host_copy(&self, from: &str, to: &str) -> anyhow::Result<String> {
        let region = &self.stack()?.region;
        Ok(format!("aws s3 cp {} {} --only-show-errors --region {}", quote(from), quote(to), quote(region)))
    }

    fn remove(&self, object: &str) -> anyhow::Result<()> {
        self.cli.text(&["s3", "rm", object, "--only-show-errors"], CARRYING).map(drop)
    }
}

impl Transport for Aws<'_> {
    fn description(&self) -> String {
        format!("AWS, stack {}", self.options.stack)
    }

    fn discover(&mut self) -> anyhow::Result<Site> {
        let stack = stack::find(&self.cli, &self.options.stack, self.options.patience, self.interrupt)?;
        let site = stack.site;
        self.stack = Some(stack);
        Ok(site)
    }

    fn run(&self, role: Role, purpose: &str, script: &str, bound: Duration) -> anyhow::Result<Output> {
        let instance = self.stack()?.instance(role);
        invocation::run(&self.cli, self.interrupt, (role, instance), purpose, script, bound)
    }

    fn put(&self, roles: &[Role], from: &Path, name: &str, mode: u32) -> anyhow::Result<()> {
        let object = self.object(name)?;
        let local = from.to_str().with_context(|| format!("{} is no UTF-8", from.display()))?;
        self.cli.text(&["s3", "cp", local, &object, "--only-show-errors"], CARRYING)?;
        let put = || -> anyhow::Result<()> {
            for role in roles {
                let copy = self.host_copy(&object, name)?;
                let folder = quote(&self.folder(*role));
                let name = quote(name);
                let script =
                    format!("set -eu\numask 077\ncd {folder}\nrm -f {name}\n{copy}\nchmod {mode:o} {name}\n");
                self.succeed(*role, "put", &script)?;
            }
            Ok(())
        };
        let outcome = put().with_context(|| format!("can't put {name}"));
        // A key is not to lie there for longer than it takes.
        let removed = self.remove(&object);
        outcome.and(removed)
    }

    fn get(&self, role: Role, name: &str, to: &Path) -> anyhow::Result<()> {
        let object = self.object(&format!("{role}/{name}"))?;
        let local = to.to_str().with_context(|| format!("{} is no UTF-8", to.display()))?;
        let copy = self.host_copy(name, &object)?;
        let script = format!("set -eu\ncd {}\n{copy}\n", quote(&self.folder(role)));
        self.succeed(role, "get", &script).with_context(|| format!("can't get {name}"))?;
        let got = self.cli.text(&["s3", "cp", &object, local, "--only-show-errors"], CARRYING);
        let removed = self.remove(&object);
        got.and(removed.map(|()| String::new())).map(drop)
    }

    fn folder(&self, role: Role) -> String {
        format!("{}/rtt0-testbed-{role}", self.options.folder.trim_end_matches('/'))
    }

    fn wants_delay(&self) -> bool {
        true
    }

    fn finish(&self) -> anyhow::Result<()> {
        let objects = self.object("")?;
        self.cli.text(&["s3", "rm", &objects, "--recursive", "--only-show-errors"], CARRYING).map(drop)
    }
}
