//! The example configuration in `deploy/` against the daemon.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../../common/daemon/tests/example/mod.rs"]
mod example;

#[test]
fn the_example_is_right_and_says_what_the_defaults_are() {
    let text = include_str!("../../deploy/servernic.toml");
    example::verify(env!("CARGO_BIN_EXE_servernic"), text, &["cpus", "control-socket", "pcap"]);
}
