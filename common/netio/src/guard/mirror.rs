//! The guard of a traffic mirror: its tunnels and the replies end here, and what it translates leaves by one interface only.

use std::ffi::{CStr, CString};
use std::fmt;

use netlink_socket2::NetlinkSocket;

use super::netlink::{self, HOOK_INGRESS, HOOK_OUTPUT, HOOK_POSTROUTING, INET, Message, NETDEV};
use super::ruleset::{Action, Base, Field, Match, Meta, Rule, V4, V6};
use super::{GuardError, c_string, make_table};
use crate::interface::{self, UnknownInterface};
use crate::replies::Claimed;

const UDP: u8 = 17;
const UDP_DESTINATION_PORT: Field =
    Field { base: Base::Transport, offset: 2, length: 2, name: Some("udp dport") };

/// The only way out for what bears a mark.
#[derive(Debug, Clone, Copy)]
pub struct Exit<'a> {
    /// The interface.
    pub interface: &'a str,
    /// SO_MARK.
    pub mark: u32,
}

/// An installed guard. Dropping it removes it; so does the kernel if the process dies.
///
/// It has three parts, in tables of nf_tables that belong to a netlink socket:
///
/// - At the ingress of the mirror's interface it drops, behind the capture, whole UDP packets to the tunnels' ports which
///   are addressed to this host. Else the kernel, which has no socket there, would answer each with an ICMP error.
/// - At the ingress of the interface by which replies arrive it drops those that are claimed, behind their capture. Else
///   the kernel would forward them as they are, or answer them with a reset.
/// - What bears the mark of one of the mirror's emissions is not tracked, and is dropped wherever it would leave by another
///   interface than its exit. Nothing should get there, since the sockets are bound to that interface. If it is
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
    /// Installs the guard in the calling thread's network namespace: for tunnels at `ports` that arrive by `ingress`, for
    /// what may leave by `exits` only, and for replies at the interface that is named with them. Needs `CAP_NET_ADMIN`.
    ///
    /// # Errors
    /// [`GuardError::UnknownInterface`]; [`GuardError::Refused`] if a capability or the kernel's nf_tables is missing.
    /// Nothing is left installed then.
    pub fn install(
        ingress: &str,
        ports: &[u16],
        exits: &[Exit<'_>],
        replies: Option<(&str, &Claimed)>,
    ) -> Result<Self, GuardError> {
        interface::by_name(ingress)?;
        if let Some((interface, _)) = replies {
            interface::by_name(interface)?;
        }
        let exits = exits
            .iter()
            .map(|exit| Ok((interface::by_name(exit.interface)?.index, exit.mark)))
            .collect::<Result<Vec<_>, UnknownInterface>>()?;
        let mut socket = NetlinkSocket::new();
        let table = make_table(&mut socket)?;
        let mut guard = Self { socket, table };
        if !exits.is_empty() {
            guard.confine(&exits)?;
        }
        guard.end_here(c"ingress0", ingress, &of_tunnels(ports))?;
        if let Some((interface, claimed)) = replies {
            guard.end_here(c"replies", interface, &claimed.rules())?;
        }
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

    /// Sees to it that what bears a mark leaves by the interface with the index beside it.
    fn confine(&mut self, exits: &[(u32, u32)]) -> Result<(), GuardError> {
        let marked = |mark| Match::Meta(Meta::Mark(mark));
        let strayed = exits.iter().map(|(index, mark)| Rule {
            matches: vec![marked(*mark), Match::Meta(Meta::LeavesElsewhere(*index))],
            action: Action::CountedDrop,
        });
        let untracked =
            exits.iter().map(|(_, mark)| Rule { matches: vec![marked(*mark)], action: Action::Notrack });
        let (strayed, untracked): (Vec<_>, Vec<_>) = (strayed.collect(), untracked.collect());
        let (output, postrouting) = (c"output", c"postrouting");
        let hook = |name, hook| Message::BaseChain { name, hook, device: None };
        let mut must = vec![Message::Table, hook(postrouting, HOOK_POSTROUTING)];
        must.extend(strayed.iter().map(|rule| Message::Rule { chain: postrouting, rule }));
        netlink::make(&mut self.socket, INET, &self.table, &must)
            .map_err(|source| GuardError::Refused { action: "watch what leaves", source })?;
        let mut may = vec![hook(output, HOOK_OUTPUT)];
        may.extend(untracked.iter().map(|rule| Message::Rule { chain: output, rule }));
        if let Err(error) = netlink::make(&mut self.socket, INET, &self.table, &may) {
            tracing::warn!(%error, "the kernel has no notrack: conntrack sees what is sent on");
        }
        Ok(())
    }

    /// Hooks the ingress of an interface with rules, in a chain of this name.
    fn end_here(&mut self, name: &CStr, interface: &str, rules: &[Rule]) -> Result<(), GuardError> {
        let device = c_string(interface)?;
        let mut messages = vec![Message::BaseChain { name, hook: HOOK_INGRESS, device: Some(&device) }];
        messages.extend(rules.iter().map(|rule| Message::Rule { chain: name, rule }));
        netlink::make(&mut self.socket, NETDEV, &self.table, &messages)
            .map_err(|source| GuardError::Refused { action: "hook the interfaces' ingress", source })
    }
}

/// Makes the rules that drop what comes to the tunnels' ports.
fn of_tunnels(ports: &[u16]) -> Vec<Rule> {
    let both = [&V4, &V6].into_iter().flat_map(|version| ports.iter().map(move |port| (version, *port)));
    both.map(|(version, port)| Rule {
        matches: vec![
            Match::Meta(Meta::PacketTypeHost),
            Match::Meta(Meta::Protocol(version.ether_type)),
            Match::Meta(Meta::TransportProtocol(UDP)),
            version.whole.clone(),
            Match::Between(UDP_DESTINATION_PORT, port, port),
        ],
        action: Action::CountedDrop,
    })
    .collect()
}

impl Drop for MirrorGuard {
    fn drop(&mut self) {
        super::remove(&mut self.socket, &self.table);
    }
}
