//! What the kernels counted: retransmissions, resets, forwarded packets (proc(5), `/proc/net/snmp`).

use crate::host::Host;
use crate::topology::Topology;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::ops::Sub;

// Not /proc/net, which shows the namespace of the process's main thread.
const SNMP: &str = "/proc/thread-self/net/snmp";
const NETSTAT: &str = "/proc/thread-self/net/netstat";
const SNMP6: &str = "/proc/thread-self/net/snmp6";

/// Counters of one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HostCounters {
    /// TCP segments sent again, SYN and SYN-ACK included.
    pub retrans_segs: u64,
    /// SYN and SYN-ACK sent again.
    pub syn_retrans: u64,
    /// Retransmission time-outs (RFC 6298), those of SYNs included.
    pub timeouts: u64,
    /// Tail loss probes (RFC 8985 §7).
    pub loss_probes: u64,
    /// Reports of the peer that it received something twice (RFC 2883): what was sent again to no
    /// purpose.
    pub duplicates: u64,
    /// Resets sent.
    pub out_rsts: u64,
    /// Established connections that ended by a reset, sent or received.
    pub estab_resets: u64,
    /// IPv4 and IPv6 packets the kernel forwarded.
    pub forwarded: u64,
}

impl HostCounters {
    /// Reads the counters of a host.
    ///
    /// # Errors
    /// If proc is not mounted or lacks a counter.
    pub fn read(host: &Host) -> anyhow::Result<Self> {
        host.enter(Self::here)?
    }

    /// Reads the counters of the calling thread's network namespace.
    ///
    /// # Errors
    /// As [`HostCounters::read`].
    pub fn here() -> anyhow::Result<Self> {
        let read = |path: &str| std::fs::read_to_string(path).with_context(|| format!("can't read {path}"));
        let (snmp, netstat, snmp6) = (read(SNMP)?, read(NETSTAT)?, read(SNMP6)?);
        let of = |table, protocol, name| {
            field(table, protocol, name)
                .with_context(|| format!("the kernel does not count {protocol} {name}"))
        };
        Ok(Self {
            retrans_segs: of(&snmp, "Tcp", "RetransSegs")?,
            syn_retrans: of(&netstat, "TcpExt", "TCPSynRetrans")?,
            timeouts: of(&netstat, "TcpExt", "TCPTimeouts")?,
            loss_probes: of(&netstat, "TcpExt", "TCPLossProbes")?,
            duplicates: of(&netstat, "TcpExt", "TCPDSACKRecv")?,
            out_rsts: of(&snmp, "Tcp", "OutRsts")?,
            estab_resets: of(&snmp, "Tcp", "EstabResets")?,
            forwarded: of(&snmp, "Ip", "ForwDatagrams")? + field6(&snmp6, "Ip6OutForwDatagrams").unwrap_or(0),
        })
    }
}

impl Sub for HostCounters {
    type Output = Self;
    /// What was counted since `earlier`.
    fn sub(self, earlier: Self) -> Self {
        Self {
            retrans_segs: self.retrans_segs.saturating_sub(earlier.retrans_segs),
            syn_retrans: self.syn_retrans.saturating_sub(earlier.syn_retrans),
            timeouts: self.timeouts.saturating_sub(earlier.timeouts),
            loss_probes: self.loss_probes.saturating_sub(earlier.loss_probes),
            duplicates: self.duplicates.saturating_sub(earlier.duplicates),
            out_rsts: self.out_rsts.saturating_sub(earlier.out_rsts),
            estab_resets: self.estab_resets.saturating_sub(earlier.estab_resets),
            forwarded: self.forwarded.saturating_sub(earlier.forwarded),
        }
    }
}

/// Counters of all hosts at one time.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot {
    client: HostCounters,
    nics: [HostCounters; 2],
    server: HostCounters,
}

impl Snapshot {
    /// Reads the counters of all four hosts.
    ///
    /// # Errors
    /// As [`HostCounters::read`].
    pub fn take(topology: &Topology) -> anyhow::Result<Self> {
        let [client, client_nic, server_nic, server] = topology.hosts().map(HostCounters::read);
        Ok(Self::of([client?, client_nic?, server_nic?, server?]))
    }

    /// Takes counters that were read already, of the hosts from client to server.
    pub fn of([client, client_nic, server_nic, server]: [HostCounters; 4]) -> Self {
        Self { client, nics: [client_nic, server_nic], server }
    }

    /// Returns the client's counters, and the server's.
    pub fn ends(&self) -> [HostCounters; 2] {
        [self.client, self.server]
    }

    /// Returns what a measurement that began at `self` and ended at `end` reports.
    pub fn until(&self, end: &Self) -> Counted {
        let (client, server) = (end.client - self.client, end.server - self.server);
        Counted {
            retransmits: client.retrans_segs + server.retrans_segs.saturating_sub(server.syn_retrans),
            synack_repeats: server.syn_retrans,
            resets: client.out_rsts + client.estab_resets + server.out_rsts + server.estab_resets,
            forwarded: end.nics.iter().zip(self.nics).map(|(end, start)| (*end - start).forwarded).sum(),
        }
    }
}

/// What the kernels counted while a measurement lasted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counted {
    /// Segments that either endpoint sent again, without the server's SYN-ACKs.
    pub retransmits: u64,
    /// SYN-ACKs the server sent again: in paired and solo mode one per connection on purpose,
    /// asked for by a second SYN, so that the server takes no false RTT sample (Karn's rule).
    pub synack_repeats: u64,
    /// Resets sent, and connections ended by a reset, at either endpoint.
    pub resets: u64,
    /// Packets that the NICs' kernels forwarded.
    pub forwarded: u64,
}

/// Reads one counter of a host, such as `Tcp` `PassiveOpens` or `TcpExt` `SyncookiesSent`.
///
/// # Errors
/// If proc is not mounted or lacks the counter.
pub(crate) fn read_one(host: &Host, protocol: &str, name: &str) -> anyhow::Result<u64> {
    let path = if protocol.ends_with("Ext") { NETSTAT } else { SNMP };
    let table =
        host.enter(|| std::fs::read_to_string(path))?.with_context(|| format!("can't read {path}"))?;
    field(&table, protocol, name).with_context(|| format!("the kernel does not count {protocol} {name}"))
}

/// Reads a counter of a host that nstat(8) shows too: `netstat(host, "TcpExt", "TCPDeliveredCE")`.
///
/// # Errors
/// If proc is not mounted or lacks the counter.
pub fn netstat(host: &Host, protocol: &str, name: &str) -> anyhow::Result<u64> {
    let table =
        host.enter(|| std::fs::read_to_string(NETSTAT))?.with_context(|| format!("can't read {NETSTAT}"))?;
    field(&table, protocol, name).with_context(|| format!("the kernel does not count {protocol} {name}"))
}

/// Finds a counter in a table of line pairs: names, then values, both led by the protocol.
fn field(table: &str, protocol: &str, name: &str) -> Option<u64> {
    let mut lines = table.lines().filter_map(|line| line.split_once(": ")).filter(|(p, _)| *p == protocol);
    let (names, values) = (lines.next()?.1, lines.next()?.1);
    let index = names.split_whitespace().position(|candidate| candidate == name)?;
    values.split_whitespace().nth(index)?.parse().ok()
}

/// Finds a counter in a table of one name and value per line.
fn field6(table: &str, name: &str) -> Option<u64> {
    table.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "Ip: Forwarding ForwDatagrams\nIp: 1 77\n\
                         Tcp: MaxConn OutRsts RetransSegs\nTcp: -1 3 12\n";

    #[test]
    fn fields_are_found_by_name() {
        assert_eq!(field(TABLE, "Ip", "ForwDatagrams"), Some(77));
        assert_eq!(field(TABLE, "Tcp", "RetransSegs"), Some(12));
        assert_eq!(field(TABLE, "Tcp", "Absent"), None);
        assert_eq!(field(TABLE, "Udp", "InErrors"), None);
        assert_eq!(field6("Ip6InReceives   5\nIp6OutForwDatagrams    \t9\n", "Ip6OutForwDatagrams"), Some(9));
    }

    #[test]
    fn the_running_kernel_has_all_of_them() {
        let snmp = std::fs::read_to_string(SNMP).unwrap();
        let netstat = std::fs::read_to_string(NETSTAT).unwrap();
        for (table, protocol, name) in [
            (&snmp, "Tcp", "RetransSegs"),
            (&snmp, "Tcp", "OutRsts"),
            (&snmp, "Tcp", "EstabResets"),
            (&snmp, "Ip", "ForwDatagrams"),
            (&netstat, "TcpExt", "TCPSynRetrans"),
            (&netstat, "TcpExt", "TCPTimeouts"),
            (&netstat, "TcpExt", "TCPLossProbes"),
            (&netstat, "TcpExt", "TCPDSACKRecv"),
        ] {
            assert!(field(table, protocol, name).is_some(), "{protocol} {name}");
        }
    }

    #[test]
    fn repeated_syn_acks_are_counted_apart() {
        let zero = Snapshot {
            client: HostCounters::default(),
            nics: [HostCounters::default(); 2],
            server: HostCounters { out_rsts: 5, ..HostCounters::default() },
        };
        let mut end = zero;
        end.client.retrans_segs = 1;
        end.server.retrans_segs = 42;
        end.server.syn_retrans = 40;
        end.nics[1].forwarded = 7;
        let expected = Counted { retransmits: 3, synack_repeats: 40, resets: 0, forwarded: 7 };
        assert_eq!(zero.until(&end), expected);
    }
}
