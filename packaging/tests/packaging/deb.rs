//! The packages: installed, run, upgraded, removed and purged.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::{Completion, Failed};
use tempfile::TempDir;

use crate::machine::{self, Files, Machine};
use crate::{DAEMONS, Outcome, is_installed, repository, skipped, success};

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
    for name in DAEMONS {
        files = files.add(&format!("/packages/{name}.deb"), package(&built, name)?)?;
    }
    let machine = files.start()?;
    let network = machine.network()?;
    let before = machine.sh(EVERYTHING)?;
    // Both at once.
    machine.sh("dpkg --install /packages/clientnic.deb /packages/servernic.deb")?;
    is_installed_whole(&machine)?;

    machine.sh("clientnic keygen /etc/rtt0/key && chown rtt0: /etc/rtt0/key")?;
    machine.start("clientnic")?;
    machine.sh("clientnic show stats && systemctl enable clientnic")?;
    let mut open = network.connect()?;
    open.say(1000)?;

    // An upgrade restarts what runs, keeps the settings, and breaks no connection.
    machine.sh("echo '# mine' >> /etc/rtt0/clientnic.toml")?;
    let process = machine.property("clientnic", "MainPID")?;
    machine.sh("dpkg --install /packages/clientnic.deb /packages/servernic.deb")?;
    assert_ne!(machine.property("clientnic", "MainPID")?, process, "not restarted");
    machine.sh("grep -q mine /etc/rtt0/clientnic.toml && clientnic show stats")?;
    assert_eq!(machine.property("servernic", "ActiveState")?, "inactive");
    open.say(1000)?;
    open.close()?;

    machine.sh(
        "dpkg --remove clientnic servernic && test -e /etc/rtt0/clientnic.toml -a ! -e /usr/bin/clientnic",
    )?;
    assert!(!machine.sh("ps -e -o comm")?.contains("nic"), "still runs");
    machine.sh("dpkg --purge clientnic servernic")?;
    let after = machine.sh(EVERYTHING)?;
    let [before, after] = [&before, &after].map(|text| text.lines().collect::<BTreeSet<&str>>());
    let left: Vec<_> = after.difference(&before).copied().collect();
    let taken: Vec<_> = before.difference(&after).copied().collect();
    // For the key, which is not the package's.
    assert_eq!((left, taken), (vec!["/etc/rtt0"], vec![]));
    machine.sh("systemctl daemon-reload && ! systemctl cat clientnic")?;
    Ok(Completion::Completed)
}

/// Builds both packages, unoptimised, with manual pages and completions.
fn build() -> Result<TempDir, Failed> {
    let folder = tempfile::tempdir()?;
    success(Command::new(env!("CARGO_BIN_EXE_packaging")).output()?)?;
    for name in DAEMONS {
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
    for name in DAEMONS {
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
            "/usr/share/doc/NAME/examples/credential.conf",
        ] {
            machine.sh(&format!("test -e {}", file.replace("NAME", name)))?;
        }
        machine.sh(&format!(
            "dpkg-query --show --showformat '${{Conffiles}}' {name} | grep -q /etc/rtt0/{name}.toml"
        ))?;
        machine.sh(&format!("dpkg --verify {name} && {name} --version"))?;
    }
    // Here with the manual pages that they name, and the programs.
    let verify = machine.output("systemd-analyze verify clientnic.service servernic.service")?;
    let said = String::from_utf8_lossy(&verify.stderr).into_owned();
    assert!(verify.status.success() && said.is_empty(), "{said}");
    machine.sh("id rtt0 && test $(stat --format %U /sys/fs/bpf/rtt0) = rtt0")?;
    Ok(())
}
