//! Whether the kernel would forward if the daemon were not there.

use std::path::Path;

use rtt0_core::service::Services;

/// IP version, and the kernel parameter that says whether it is forwarded.
const PARAMETERS: [(&str, &str); 2] =
    [("IPv4", "net.ipv4.ip_forward"), ("IPv6", "net.ipv6.conf.all.forwarding")];

/// Warns of each IP version among the services that this host does not forward: when the daemon
/// stops or dies, connections would then stall instead of going on over plain forwarding.
pub(crate) fn warn_if_off(services: &Services) {
    for (version, parameter) in PARAMETERS {
        let served =
            services.rules().iter().any(|rule| rule.prefix.address().is_ipv4() == (version == "IPv4"));
        if served && !is_on(parameter) {
            tracing::warn!(
                parameter,
                "{version} forwarding is off: nothing gets through when this daemon stops; set {parameter}=1"
            );
        }
    }
}

/// Reads the parameter of the calling thread's network namespace.
fn is_on(parameter: &str) -> bool {
    let path = Path::new("/proc/sys").join(parameter.replace('.', "/"));
    std::fs::read_to_string(path).is_ok_and(|value| value.trim() != "0")
}
