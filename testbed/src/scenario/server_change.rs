//! Ways a server's kernel can differ from what Linux does by default.

use super::Lab;
use super::oracle::Change;
use crate::address::ETH0;
use rtt0_netio::links::Links;
use rtt0_netio::sysctl;

/// It takes no timestamps (RFC 7323).
pub(super) const NO_TIMESTAMPS: Change = |lab| set(lab, "net.ipv4.tcp_timestamps", "0");
/// It takes no selective acknowledgements (RFC 2018).
pub(super) const NO_SACK: Change = |lab| set(lab, "net.ipv4.tcp_sack", "0");
/// It scales no windows (RFC 7323).
pub(super) const NO_WINDOW_SCALE: Change = |lab| set(lab, "net.ipv4.tcp_window_scaling", "0");
/// It answers every SYN with a cookie (RFC 4987 §3.6) and keeps no state of it.
pub(super) const COOKIES: Change = |lab| set(lab, "net.ipv4.tcp_syncookies", "2");
/// It takes smaller segments than the path carries: its own MTU is smaller, and nobody else knows.
pub(super) const SMALL_MSS: Change =
    |lab| Ok(Links::open(lab.topology().server.namespace())?.set_mtu_and_queue(ETH0, SMALL_MTU, QUEUE)?);

/// In bytes; IPv6 needs 1,280.
const SMALL_MTU: u32 = 1300;
/// Packets a device queues, as Linux has it.
const QUEUE: u32 = 1000;

fn set(lab: &Lab, name: &str, value: &str) -> anyhow::Result<()> {
    Ok(sysctl::set(lab.topology().server.namespace(), &[(name, value)])?)
}
