//! The packages: installed, run, upgraded, removed and purged.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::{Completion, Failed};
use tempfile::TempDir;

use crate::machine::{self, Files, Machine};
use crate::mirrored::{self, Session};
use crate::{NICS, Outcome, PROGRAMS, is_installed, repository, skipped, success};

const INSTALL: &str = "dpkg --install /packages/clientnic.deb /packages/servernic.deb /packages/mirror.deb";

/// All that is there, but for what dpkg and others keep for themselves.
const EVERYTHING: &str = "find /etc /usr /var /run/rtt0 /sys/fs/bpf /lib/systemd -xdev 2>/dev/null |
    grep -vE '^/var/(lib/dpkg|log|cache|tmp)/|^/etc/(passwd|shadow|group|gshadow)-$|^/etc/rtt0/key$' | sort";

pub(crate) fn packages() -> Outcome {
    for tool in ["cargo-deb", "dpkg"] {
        if !is_installed(tool) {
            return skipped(format!("{tool} is not installed"));
        }
    }
    if let Some(lack) = machine::lacks() {
        return skipped(lack);
    }
    let built = build()?;
    let mut files = Files::new()?;
    for name in PROGRAMS {
        files = files.add(&format!("/packages/{name}.deb"), package(&built, name)?)?;
    }
    let machine = files.start()?;
    let network = machine.network()?;
    let before = machine.sh(EVERYTHING)?;
    // All at once.
    machine.sh(INSTALL)?;
    is_installed_whole(&machine)?;

    machine.sh("clientnic keygen /etc/rtt0/key && chown rtt0: /etc/rtt0/key")?;
    machine.start("clientnic")?;
    machine.sh("clientnic show stats && systemctl enable clientnic")?;
    let mut open = network.connect()?;
    open.say(1000)?;
    let session = Session::new(&network)?;
    mirrored::configure(&machine)?;
    machine.start("mirror")?;
    session.is_forwarded()?;

    // An upgrade restarts what runs, keeps the settings, and breaks no connection.
    machine.sh("echo '# mine' >> /etc/rtt0/clientnic.toml")?;
    let processes = || -> Result<_, Failed> {
        Ok((machine.property("clientnic", "MainPID")?, machine.property("mirror", "MainPID")?))
    };
    let before_upgrade = processes()?;
    machine.sh(INSTALL)?;
    let after_upgrade = processes()?;
    assert!(before_upgrade.0 != after_upgrade.0 && before_upgrade.1 != after_upgrade.1, "not restarted");
    machine.sh("grep -q mine /etc/rtt0/clientnic.toml && clientnic show stats")?;
    assert_eq!(machine.property("servernic", "ActiveState")?, "inactive");
    open.say(1000)?;
    open.close()?;
    session.is_forwarded()?;

    machine.sh("dpkg --remove clientnic servernic mirror")?;
    machine.sh("test -e /etc/rtt0/clientnic.toml -a ! -e /usr/bin/clientnic")?;
    machine.sh("test -e /etc/rtt0/mirror.toml -a -e /etc/rtt0/allow.json -a ! -e /usr/bin/mirror")?;
    let running = machine.sh("ps -e -o comm")?;
    assert!(!running.contains("nic") && !running.contains("mirror"), "still runs: {running}");
    machine.sh("dpkg --purge clientnic servernic mirror")?;
    let after = machine.sh(EVERYTHING)?;
    let [before, after] = [&before, &after].map(|text| text.lines().collect::<BTreeSet<&str>>());
    let left: Vec<_> = after.difference(&before).copied().collect();
    let taken: Vec<_> = before.difference(&after).copied().collect();
    // For the key, which is not the package's.
    assert_eq!((left, taken), (vec!["/etc/rtt0"], vec![]));
    machine.sh("systemctl daemon-reload && ! systemctl cat clientnic && ! systemctl cat mirror")?;
    Ok(Completion::Completed)
}

/// Builds all packages, unoptimised, with manual pages and completions.
fn build() -> Result<TempDir, Failed> {
    let folder = tempfile::tempdir()?;
    success(Command::new(env!("CARGO_BIN_EXE_packaging")).output()?)?;
    for name in PROGRAMS {
        let mut cargo = Command::new("cargo");
        cargo.args([
            "deb",
            "--quiet",
            "--profile",
            "dev",
            "--fast",
            "--no-strip",
            "--package",
            name,
            "--output",
        ]);
        success(cargo.arg(folder.path()).current_dir(repository("")).output()?)?;
    }
    Ok(folder)
}

fn package(folder: &TempDir, name: &str) -> Result<PathBuf, Failed> {
    let packages = fs::read_dir(folder.path())?.flatten().map(|entry| entry.path());
    let is_it = |path: &PathBuf| {
        let file = path.file_name().and_then(|file| file.to_str()).unwrap_or_default();
        file.starts_with(&format!("{name}_")) && Path::new(file).extension().is_some_and(|end| end == "deb")
    };
    packages.into_iter().find(is_it).ok_or_else(|| format!("no package {name}").into())
}

fn is_installed_whole(machine: &Machine) -> Result<(), Failed> {
    for name in PROGRAMS {
        for (property, value) in
            [("ActiveState", "inactive"), ("UnitFileState", "disabled"), ("LoadState", "loaded")]
        {
            assert_eq!(machine.property(name, property)?, value, "{name}: {property}");
        }
        for file in [
            "/usr/share/man/man8/NAME.8.gz",
            "/usr/share/man/man8/NAME-run.8.gz",
            "/usr/share/bash-completion/completions/NAME",
            "/usr/share/zsh/vendor-completions/_NAME",
            "/usr/share/fish/vendor_completions.d/NAME.fish",
            "/usr/share/doc/NAME/copyright",
            "/usr/share/doc/NAME/docs/OPERATING.md",
        ] {
            machine.sh(&format!("test -e {}", file.replace("NAME", name)))?;
        }
        let conffiles = machine.sh(&format!("dpkg-query --show --showformat '${{Conffiles}}' {name}"))?;
        assert!(conffiles.contains(&format!("/etc/rtt0/{name}.toml")), "{conffiles}");
        assert!(name != "mirror" || conffiles.contains("/etc/rtt0/allow.json"), "{conffiles}");
        machine.sh(&format!("dpkg --verify {name} && {name} --version"))?;
    }
    for name in NICS {
        machine.sh(&format!("test -e /usr/share/doc/{name}/examples/credential.conf"))?;
    }
    // Here with the manual pages that they name, and the programs.
    let verify =
        machine.output("systemd-analyze verify clientnic.service servernic.service mirror.service")?;
    let said = String::from_utf8_lossy(&verify.stderr).into_owned();
    assert!(verify.status.success() && said.is_empty(), "{said}");
    machine.sh("id rtt0-mirror && mirror check --forwarding && id rtt0 && test $(stat --format %U /sys/fs/bpf/rtt0) = rtt0")?;
    Ok(())
}
