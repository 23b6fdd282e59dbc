//! The guard of a traffic mirror: its tunnels end here, and what it translates leaves by one interface only.

use std::ffi::{CStr, CString};
use std::fmt;

use netlink_socket2::NetlinkSocket;

use super::netlink::{self, HOOK_INGRESS, HOOK_OUTPUT, HOOK_POSTROUTING, INET, Message, NETDEV};
use super::ruleset::{Action, Base, Field, Match, Meta, Rule, V4, V6};
use super::{GuardError, c_string, make_table};
use crate::interface;

const UDP: u8 = 17;
const UDP_DESTINATION_PORT: Field =
    Field { base: Base::Transport, offset: 2, length: 2, name: Some("udp dport") };

/// An installed guard. Dropping it removes it; so does the kernel if the process dies.
///
/// It has two parts, tables of nf_tables that belong to a netlink socket:
///
/// - At the ingress of the mirror's interface it drops, behind the capture, whole UDP packets to the tunnels' ports which
///   are addressed to this host. Else the kernel, which has no socket there, would answer each with an ICMP error.
/// - What bears the mark of the mirror's emissions is not tracked, and is dropped wherever it would leave by another
///   interface than the egress. Nothing should get there, since the sockets are bound to that interface. If the egress is
///   deleted and made anew, its index is another one, and nothing leaves.
pub struct MirrorGuard {
    socket: NetlinkSocket,
    table: CString,
}

impl fmt::Debug for MirrorGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MirrorGuard").field("table", &self.table).finish_non_exhaustive()
    }
}

impl MirrorGuard {
    /// Installs the guard in the calling thread's network namespace: for tunnels at `ports` that arrive by `ingress`, and
    /// for what bears `mark` and must leave by `egress`, if there is one. Needs `CAP_NET_ADMIN`.
    ///
    /// # Errors
    /// [`GuardError::UnknownInterface`]; [`GuardError::Refused`] if a capability or the kernel's nf_tables is missing.
    /// Nothing is left installed then.
    pub fn install(
        ingress: &str,
        ports: &[u16],
        egress: Option<&str>,
        mark: u32,
    ) -> Result<Self, GuardError> {
        interface::by_name(ingress)?;
        let egress = egress.map(interface::by_name).transpose()?;
        let mut socket = NetlinkSocket::new();
        let table = make_table(&mut socket)?;
        let mut guard = Self { socket, table };
        if let Some(egress) = egress {
            guard.confine(egress.index, mark)?;
        }
        guard.end_tunnels(ingress, ports)?;
        Ok(guard)
    }

    /// Returns the table's name.
    pub fn table(&self) -> String {
        self.table.to_string_lossy().into_owned()
    }

    /// Reads how many packets would have left by another interface, and were dropped. A system call.
    ///
    /// # Errors
    /// [`GuardError::Refused`] if the kernel does not answer.
    pub fn strayed(&mut self) -> Result<u64, GuardError> {
        let rules = netlink::list_rules(&mut self.socket, INET, &self.table)
            .map_err(|source| GuardError::Refused { action: "list rules", source })?;
        Ok(rules.iter().filter_map(|rule| rule.counter).map(|(packets, _)| packets).sum())
    }

    fn confine(&mut self, egress: u32, mark: u32) -> Result<(), GuardError> {
        let marked = Match::Meta(Meta::Mark(mark));
        let untracked = Rule { matches: vec![marked.clone()], action: Action::Notrack };
        let strayed = Rule {
            matches: vec![marked, Match::Meta(Meta::LeavesElsewhere(egress))],
            action: Action::CountedDrop,
        };
        let (output, postrouting) = (c"output", c"postrouting");
        let hook = |name, hook| Message::BaseChain { name, hook, device: None };
        let must = [
            Message::Table,
            hook(postrouting, HOOK_POSTROUTING),
            Message::Rule { chain: postrouting, rule: &strayed },
        ];
        netlink::make(&mut self.socket, INET, &self.table, &must)
            .map_err(|source| GuardError::Refused { action: "watch what leaves", source })?;
        let may = [hook(output, HOOK_OUTPUT), Message::Rule { chain: output, rule: &untracked }];
        if let Err(error) = netlink::make(&mut self.socket, INET, &self.table, &may) {
            tracing::warn!(%error, "the kernel has no notrack: conntrack sees what is sent on");
        }
        Ok(())
    }

    fn end_tunnels(&mut self, interface: &str, ports: &[u16]) -> Result<(), GuardError> {
        let device = c_string(interface)?;
        let name: &CStr = c"ingress0";
        let rules: Vec<Rule> = [&V4, &V6]
            .iter()
            .flat_map(|version| ports.iter().map(|port| (*version, *port)))
            .map(|(version, port)| Rule {
                matches: vec![
                    Match::Meta(Meta::PacketTypeHost),
                    Match::Meta(Meta::Protocol(version.ether_type)),
                    Match::Meta(Meta::TransportProtocol(UDP)),
                    version.whole.clone(),
                    Match::Between(UDP_DESTINATION_PORT, port, port),
                ],
                action: Action::CountedDrop,
            })
            .collect();
        let mut messages = vec![Message::BaseChain { name, hook: HOOK_INGRESS, device: Some(&device) }];
        messages.extend(rules.iter().map(|rule| Message::Rule { chain: name, rule }));
        netlink::make(&mut self.socket, NETDEV, &self.table, &messages)
            .map_err(|source| GuardError::Refused { action: "hook the mirror's ingress", source })
    }
}

impl Drop for MirrorGuard {
    fn drop(&mut self) {
        super::remove(&mut self.socket, &self.table);
    }
}
