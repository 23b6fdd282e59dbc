//! What is known to keep a process from loading a BPF program that traces the kernel.

use std::fs;

use caps::{CapSet, Capability};

/// Returns what is in the way here, each beginning with `; `.
pub(super) fn known() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let missing = |capability| !caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false);
    describe(
        // Before Linux 5.8 these two were part of CAP_SYS_ADMIN, which still does for them.
        missing(Capability::CAP_SYS_ADMIN)
            .then(|| [Capability::CAP_BPF, Capability::CAP_PERFMON].map(|needed| (needed, missing(needed)))),
        &read("/proc/self/uid_map"),
        &read("/proc/sys/kernel/unprivileged_bpf_disabled"),
        &read("/sys/kernel/security/lockdown"),
    )
}

fn describe(
    capabilities: Option<[(Capability, bool); 2]>,
    uid_map: &str,
    unprivileged_bpf: &str,
    lockdown: &str,
) -> String {
    let mut text = String::new();
    let missing: Vec<_> = capabilities
        .iter()
        .flatten()
        .filter(|(_, is_missing)| *is_missing)
        .map(|(capability, _)| capability.to_string())
        .collect();
    if !missing.is_empty() {
        text += &format!("; this process lacks {}: run as root", missing.join(" and "));
        if matches!(unprivileged_bpf.trim(), "1" | "2") {
            text += ", kernel.unprivileged_bpf_disabled forbids BPF to all others";
        }
    }
    if is_user_namespace(uid_map) {
        text += "; this process is in a user namespace, whose root may not trace the kernel: run it outside";
    }
    if lockdown.contains("[confidentiality]") {
        text += "; the kernel is locked down (confidentiality), and nobody may read its memory";
    }
    text
}

/// Outside of user namespaces all identities are mapped to themselves.
fn is_user_namespace(uid_map: &str) -> bool {
    let is_initial = uid_map.split_ascii_whitespace().eq(["0", "0", "4294967295"]);
    !uid_map.is_empty() && !is_initial
}

#[cfg(test)]
mod tests {
    use super::*;

    const INITIAL: &str = "         0          0 4294967295\n";

    #[test]
    fn each_obstacle_is_named() {
        let neither = Some([(Capability::CAP_BPF, true), (Capability::CAP_PERFMON, true)]);
        let lacking = describe(neither, INITIAL, "2\n", "");
        assert_eq!(
            lacking,
            "; this process lacks CAP_BPF and CAP_PERFMON: run as root, kernel.unprivileged_bpf_disabled forbids BPF to \
             all others"
        );
        assert!(describe(None, "0 1000 1\n", "2\n", "").contains("user namespace"));
        assert!(describe(None, INITIAL, "", "none integrity [confidentiality]").contains("locked down"));
    }

    #[test]
    fn root_has_none() {
        assert_eq!(describe(None, INITIAL, "2\n", "[none] integrity confidentiality\n"), "");
    }
}
