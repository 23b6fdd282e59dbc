//! The example configuration in `deploy/` against the daemon.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

const EXAMPLE: &str = include_str!("../../deploy/servernic.toml");
/// Keys whose example is no default, for want of one.
const WITHOUT_DEFAULT: &[&str] = &["cpus"];

/// Runs `check-config --print-config` on `text`; returns the settings that it makes.
fn settings(folder: &Path, text: &str) -> BTreeMap<String, String> {
    let (key, file) = (folder.join("key"), folder.join("servernic.toml"));
    std::fs::write(&key, "0 000102030405060708090a0b0c0d0e0f\n").unwrap();
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::write(&file, text).unwrap();
    let output = check(&file, &key);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let shown = String::from_utf8(output.stdout).unwrap();
    let setting = |line: &str| {
        let (setting, _origin) = line.rsplit_once('#')?;
        let (name, value) = setting.split_once(" = ")?;
        Some((name.to_owned(), value.trim().to_owned()))
    };
    shown.lines().filter_map(setting).collect()
}

/// The example's interfaces are of another machine.
fn check(file: &Path, key: &Path) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_servernic"));
    command.args(["check-config", "--print-config", "--interface", "lo", "--config"]).arg(file);
    command.arg("--key-file").arg(key).output().unwrap()
}

/// The example with every commented setting in effect.
fn uncommented() -> String {
    let uncomment = |line: &str| match line.strip_prefix("# ") {
        Some(setting) if setting.contains(" = ") => setting.to_owned(),
        _ => line.to_owned(),
    };
    EXAMPLE.lines().map(uncomment).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_is_right_and_says_what_the_defaults_are() {
    let folder = tempfile::tempdir().unwrap();
    let (as_it_is, all) = (settings(folder.path(), EXAMPLE), settings(folder.path(), &uncommented()));
    for (name, value) in &all {
        match as_it_is.get(name) {
            Some(default) => assert_eq!(value, default, "{name}"),
            None => assert!(WITHOUT_DEFAULT.contains(&name.as_str()), "{name} has no default"),
        }
    }
    for name in as_it_is.keys().map(String::as_str).chain(WITHOUT_DEFAULT.iter().copied()) {
        let is_it = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{name} = "));
        assert!(EXAMPLE.lines().any(is_it), "{name} is not in the example");
    }
}
