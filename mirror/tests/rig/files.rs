//! The program's files.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// Rules as the field has them, and one for each other kind of packet.
pub const RULES: &str = r#"
[[rule]]
name = "field"
protocol = "udp"
ports = "31765"
to = "172.30.82.95:8081"

[[rule]]
name = "field6"
protocol = "udp"
ports = "31765"
to = "[fd82::95]:8081"

[[rule]]
name = "web"
protocol = "tcp"
ports = "443"
to = "172.30.82.95:8443"

[[rule]]
name = "ping"
protocol = "icmp"
to = "172.30.82.95"
"#;

/// A configuration and its allowlist, in a directory that goes with this value.
pub struct Files {
    directory: TempDir,
    /// Lines before the first table, besides the usual ones.
    keys: String,
}

impl Files {
    /// Writes both: VXLAN with VNI 1, GENEVE with VNIs 1 and 2, and [`RULES`].
    pub fn new(allowed: &str) -> Self {
        Self::with_rules(allowed, RULES)
    }

    /// As [`Files::new`], with other rules.
    pub fn with_rules(allowed: &str, rules: &str) -> Self {
        Self::with_keys(allowed, "", rules)
    }

    /// As [`Files::with_rules`], with more keys before the first table.
    pub fn with_keys(allowed: &str, keys: &str, rules: &str) -> Self {
        let files = Self { directory: tempfile::tempdir().unwrap(), keys: keys.to_owned() };
        files.allow(allowed);
        files.rule(rules);
        files
    }

    /// Writes the configuration with these rules.
    pub fn rule(&self, rules: &str) {
        let allowlist = self.directory.path().join("allow.json");
        let text = format!(
            r#"interface = "in0"
egress = "out0"
allowlist = "{}"
{}
[[tunnel]]
kind = "vxlan"
port = 4789
vnis = [1]

[[tunnel]]
kind = "geneve"
port = 6081
vnis = [1, 2]
{rules}"#,
            allowlist.display(),
            self.keys
        );
        self.put("mirror.toml", &text);
    }

    /// Takes the line that names the allowlist out of the configuration.
    pub fn without_allowlist(&self) {
        let text = std::fs::read_to_string(self.configuration()).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with("allowlist"));
        self.put("mirror.toml", &lines.collect::<Vec<_>>().join("\n"));
    }

    /// Replaces the allowlist as a whole.
    pub fn allow(&self, json: &str) {
        self.put("allow.json", json);
    }

    /// Where the configuration is.
    pub fn configuration(&self) -> PathBuf {
        self.directory.path().join("mirror.toml")
    }

    /// By renaming: whoever reads meanwhile finds the old file or the new one.
    fn put(&self, name: &str, text: &str) {
        let path = |name: &str| Path::join(self.directory.path(), name);
        let new = path(&format!("{name}.new"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, path(name)).unwrap();
    }
}

/// Organisations of sixteen, as the field has them, with 324 addresses together.
pub fn field_sources() -> Vec<Vec<IpAddr>> {
    let count = |organisation| if organisation < 4 { 21 } else { 20 };
    (0..16u8)
        .map(|organisation| {
            (0..count(organisation))
                .map(|host| IpAddr::from([198, 51, organisation, 10 + 3 * host]))
                .collect()
        })
        .collect()
}

/// An allowlist of these organisations.
pub fn allowlist(organisations: &[Vec<IpAddr>]) -> String {
    let listed: Vec<_> = organisations
        .iter()
        .enumerate()
        .map(|(index, addresses)| {
            let name = format!("Organisation {}", index + 1);
            serde_json::json!({"name": name, "addresses": addresses})
        })
        .collect();
    serde_json::json!({ "organisations": listed }).to_string()
}
