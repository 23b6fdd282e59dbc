//! An example configuration of `deploy/` against its daemon.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

/// Runs `check-config --print-config` on `text`; returns the settings that it makes.
fn settings(daemon: &str, folder: &Path, text: &str) -> BTreeMap<String, String> {
    let (key, file) = (folder.join("key"), folder.join("example.toml"));
    std::fs::write(&key, "0 000102030405060708090a0b0c0d0e0f\n").unwrap();
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::write(&file, text).unwrap();
    let output = check(daemon, &file, &key);
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
fn check(daemon: &str, file: &Path, key: &Path) -> Output {
    let mut command = Command::new(daemon);
    command.args(["check-config", "--print-config", "--interface", "lo", "--config"]).arg(file);
    command.arg("--key-file").arg(key).output().unwrap()
}

/// The example with every commented setting in effect.
fn uncommented(example: &str) -> String {
    let uncomment = |line: &str| match line.strip_prefix("# ") {
        Some(setting) if setting.contains(" = ") => setting.to_owned(),
        _ => line.to_owned(),
    };
    example.lines().map(uncomment).collect::<Vec<_>>().join("\n")
}

/// Demands that the executable `daemon` takes `example` as it is and with all in effect that it comments out; that those
/// are the defaults, but for the keys `without_default`; and that no key is missing.
pub(super) fn verify(daemon: &str, example: &str, without_default: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let settings = |text: &str| settings(daemon, folder.path(), text);
    let (as_it_is, all) = (settings(example), settings(&uncommented(example)));
    for (name, value) in &all {
        match as_it_is.get(name) {
            Some(default) => assert_eq!(value, default, "{name}"),
            None => assert!(without_default.contains(&name.as_str()), "{name} has no default"),
        }
    }
    for name in as_it_is.keys().map(String::as_str).chain(without_default.iter().copied()) {
        let is_it = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{name} = "));
        assert!(example.lines().any(is_it), "{name} is not in the example");
    }
}
