//! The kernel guard: what user space forwards, the kernel must not forward as well.
//!
//! What is captured is only a copy; the kernel would forward the original, and a kernel
//! that forwards in parallel wins the race. The guard is an nf_tables table at the interfaces'
//! netdev ingress hook, which drops the originals after `AF_PACKET` (`ETH_P_ALL`) and the tc
//! ingress hook have seen them.
//! It belongs to a netlink socket (`NFT_TABLE_F_OWNER`, Linux 5.12): whichever way the process
//! ends, the kernel removes it, and plain forwarding resumes.
//!
//! # What is dropped
//!
//! Exactly the packets for which [`rtt0_core::claim::claims`] returns `Some`, of the frames
//! whose link-layer destination is this host (`meta pkttype host`; the kernel forwards no
//! others, and nobody may touch them):
//!
//! 1. TCP, all 20 bytes of the fixed header present, not a later IPv4 fragment, no IPv6 fragment
//!    header; neither address is the host's own; destination *or* source (address and port) is
//!    a service, not both.
//! 2. ICMP type 3 and ICMPv6 types 1 and 2, likewise no such fragment, not addressed to the host
//!    itself, that quote, right behind the 8 bytes of ICMP header, a segment with addresses and
//!    ports as in 1 and of which the sequence number is still quoted: an IPv4 header without
//!    options (first byte 0x45), protocol 6 and fragment offset 0, or an IPv6 header with next
//!    header 6.
//!
//! While a flood of SYNs lasts, unsigned ones are let through instead ([`Guard::let_through`]).
//!
//! "Present" means within the captured frame, link padding included. IPv6 extension headers are
//! walked by the kernel as `claims` walks them. What is malformed is not dropped here: the
//! kernel does that a step later, with its own counters.
//!
//! The netdev family is used and not inet's ingress hook, because the latter by itself drops
//! what it can't parse, among it some legal IPv6 fragments.
//!
//! A second table (inet, same name) hooks `output` before connection tracking and marks our own
//! emissions, known by their `SO_MARK`, as untracked: half of each conversation would look
//! invalid to conntrack. It does the same in `prerouting` with what is emitted through a device of
//! ours ([`crate::emit::DEVICE_PREFIX`]), and gives that the mark too.
//!
//! [`MirrorGuard`] is another guard, of a traffic mirror.

mod mirror;
pub(crate) mod netlink;
pub(crate) mod ruleset;
mod standing;
mod text;

#[cfg(test)]
mod tests;

use std::ffi::{CStr, CString, NulError};
use std::fmt;

use netlink_socket2::{NetlinkSocket, ReplyError};
use rtt0_core::claim::Bypass;
use rtt0_core::service::Services;

use crate::interface::{self, UnknownInterface};
pub use mirror::{Exit, MirrorGuard};
use netlink::{ANY, HOOK_INGRESS, HOOK_OUTPUT, HOOK_PREROUTING, INET, Message, NETDEV};
use ruleset::Ruleset;
pub use standing::{Standing, standing};
use text::Text;

/// Why the guard could not be installed or read.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// An interface name holds a NUL byte.
    #[error("interface name {0:?} is not valid")]
    InterfaceName(String, #[source] NulError),
    /// Nothing of that name to guard. (Linux 6.16 and newer would wait for one to appear.)
    #[error(transparent)]
    UnknownInterface(#[from] UnknownInterface),
    /// The kernel refused a message.
    #[error("kernel guard: cannot {action} (needs CAP_NET_ADMIN and Linux 5.12 with nf_tables for netdev)")]
    Refused {
        /// What was tried.
        action: &'static str,
        /// The kernel's answer.
        source: ReplyError,
    },
    /// The kernel took every message, and yet rules are missing.
    #[error("kernel guard: {found} of {expected} rules are in place; is another program changing nf_tables?")]
    Incomplete {
        /// Rules sent.
        expected: usize,
        /// Rules listed afterwards.
        found: usize,
    },
}

/// Packets dropped by one rule of the guard: packets that user space has to forward.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// The rule's chain, such as `tcp4_to_service` or `icmp6_from_service`.
    pub chain: String,
    /// Frames; a GRO super-packet counts as one.
    pub packets: u64,
    /// Bytes from the IP header on.
    pub bytes: u64,
}

/// An installed guard. Dropping it removes it; so does the kernel if the process dies.
pub struct Guard {
    socket: NetlinkSocket,
    table: CString,
    untracked: bool,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("table", &self.table)
            .field("untracked", &self.untracked)
            .finish_non_exhaustive()
    }
}

impl Guard {
    /// Installs the guard on `interfaces` of the calling thread's network namespace, for packets
    /// of `services`. `mark` is the `SO_MARK` of our own emissions; with `is_offloaded` also of packets that
    /// the kernel's program has rewritten before ([`crate::fast_path`]), which pass. Needs `CAP_NET_ADMIN`.
    ///
    /// The ingress hooks come last, so that packets are dropped only once all is in place.
    ///
    /// # Errors
    ///
    /// [`GuardError::UnknownInterface`]; [`GuardError::Refused`] if a capability or the kernel's
    /// nf_tables is missing. Nothing is left installed then. A kernel without `nft_ct` is no error: see
    /// [`Guard::untracked`].
    pub fn install(
        interfaces: &[String],
        services: &Services,
        mark: u32,
        is_offloaded: bool,
    ) -> Result<Self, GuardError> {
        for interface in interfaces {
            interface::by_name(interface)?;
        }
        let ruleset = Ruleset::new(services, mark, is_offloaded);
        let mut socket = NetlinkSocket::new();
        let table = make_table(&mut socket)?;
        let mut guard = Self { socket, table, untracked: false };
        guard.untracked = guard.make_output(&ruleset)?;
        guard.make_ingress(&ruleset, interfaces)?;
        Ok(guard)
    }

    /// Returns the ruleset that [`Guard::install`] would install, in the syntax of `nft`.
    /// Touches nothing and needs no privilege.
    pub fn describe(interfaces: &[String], services: &Services, mark: u32, is_offloaded: bool) -> String {
        let ruleset = Ruleset::new(services, mark, is_offloaded);
        Text { ruleset: &ruleset, table: &table_name(0), interfaces }.to_string()
    }

    /// Returns the table's name: `rtt0_` and the process id.
    pub fn table(&self) -> String {
        self.table.to_string_lossy().into_owned()
    }

    /// Tells whether our emissions bypass connection tracking. They don't if the kernel lacks
    /// `nft_ct`; then it has no connection tracking rules by nf_tables either.
    pub fn untracked(&self) -> bool {
        self.untracked
    }

    /// Reads how much each rule has dropped. A system call; not for the packet path.
    ///
    /// # Errors
    ///
    /// [`GuardError::Refused`] if the kernel does not answer.
    pub fn dropped(&mut self) -> Result<Vec<Dropped>, GuardError> {
        let mut rules = self.counted()?;
        rules.retain(|rule| !ruleset::BYPASS.contains(&rule.chain.as_str()));
        Ok(rules)
    }

    fn counted(&mut self) -> Result<Vec<Dropped>, GuardError> {
        let rules = netlink::list_rules(&mut self.socket, NETDEV, &self.table)
            .map_err(|source| GuardError::Refused { action: "list rules", source })?;
        Ok(rules
            .into_iter()
            .filter_map(|rule| {
                rule.counter.map(|(packets, bytes)| Dropped { chain: rule.chain, packets, bytes })
            })
            .collect())
    }

    /// Lets the kernel forward by itself what `bypass` includes, and no more than that. The captures
    /// have to leave it out.
    ///
    /// # Errors
    ///
    /// [`GuardError::Refused`]; what is let through is then uncertain until the next call.
    pub fn let_through(&mut self, bypass: Bypass) -> Result<(), GuardError> {
        let wanted = match bypass {
            Bypass::Nothing => [false, false],
            Bypass::Syns => [true, false],
            Bypass::Handshakes => [true, true],
        };
        let refused = |source| GuardError::Refused { action: "change what is let through", source };
        for ((name, rules), wanted) in ruleset::BYPASS.iter().zip(ruleset::bypass()).zip(wanted) {
            let chain = c_string(name)?;
            let rules = rules.each_ref().map(|rule| Message::Rule { chain: &chain, rule });
            let present = self.counted()?.iter().any(|rule| rule.chain == *name);
            match (present, wanted) {
                (false, true) => {
                    netlink::make(&mut self.socket, NETDEV, &self.table, &rules).map_err(refused)?
                }
                (true, false) => {
                    netlink::clear(&mut self.socket, NETDEV, &self.table, &chain).map_err(refused)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads how many SYNs have been let through since they last began to be.
    ///
    /// # Errors
    ///
    /// As [`Guard::dropped`].
    pub fn bypassed(&mut self) -> Result<u64, GuardError> {
        let rules = self.counted()?;
        Ok(rules.iter().filter(|rule| rule.chain == ruleset::BYPASS[0]).map(|rule| rule.packets).sum())
    }

    /// Makes the chains, then the hooks that lead to them, then asks the kernel what it has.
    fn make_ingress(&mut self, ruleset: &Ruleset, interfaces: &[String]) -> Result<(), GuardError> {
        let names = interfaces
            .iter()
            .enumerate()
            .map(|(index, interface)| {
                let device = c_string(interface)?;
                Ok((c_string(&format!("ingress{index}"))?, device))
            })
            .collect::<Result<Vec<_>, GuardError>>()?;
        let chains = ruleset
            .chains
            .iter()
            .map(|chain| Ok((c_string(chain.name)?, &chain.rules)))
            .collect::<Result<Vec<_>, GuardError>>()?;

        let mut messages: Vec<_> = chains.iter().map(|(name, _)| Message::Chain(name)).collect();
        for (chain, rules) in &chains {
            messages.extend(rules.iter().map(|rule| Message::Rule { chain, rule }));
        }
        for (name, device) in &names {
            messages.push(Message::BaseChain { name, hook: HOOK_INGRESS, device: Some(device) });
            messages.extend(ruleset.ingress.iter().map(|rule| Message::Rule { chain: name, rule }));
        }
        netlink::make(&mut self.socket, NETDEV, &self.table, &messages)
            .map_err(|source| GuardError::Refused { action: "hook the interfaces' ingress", source })?;
        let expected = messages.iter().filter(|message| matches!(message, Message::Rule { .. })).count();
        let found = netlink::list_rules(&mut self.socket, NETDEV, &self.table)
            .map_err(|source| GuardError::Refused { action: "list rules", source })?
            .len();
        if found == expected { Ok(()) } else { Err(GuardError::Incomplete { expected, found }) }
    }

    /// Makes the output table. Returns whether the kernel knows `notrack`.
    fn make_output(&mut self, ruleset: &Ruleset) -> Result<bool, GuardError> {
        let mut messages = vec![Message::Table];
        for (name, hook, rules) in
            [(c"output", HOOK_OUTPUT, &ruleset.output), (c"prerouting", HOOK_PREROUTING, &ruleset.prerouting)]
        {
            messages.push(Message::BaseChain { name, hook, device: None });
            messages.extend(rules.iter().map(|rule| Message::Rule { chain: name, rule }));
        }
        match netlink::make(&mut self.socket, INET, &self.table, &messages) {
            Ok(()) => Ok(true),
            Err(error) if is(&error, &[libc::ENOENT, libc::EOPNOTSUPP, libc::EAFNOSUPPORT]) => {
                tracing::warn!(%error, "the kernel has no notrack: conntrack sees our emissions");
                Ok(false)
            }
            Err(source) => Err(GuardError::Refused { action: "make the output table", source }),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        remove(&mut self.socket, &self.table);
    }
}

/// Removes a guard's tables. Closing the socket would do, unless a child process has inherited it. If the kernel
/// refuses there is nothing left to remove.
fn remove(socket: &mut NetlinkSocket, table: &CStr) {
    for family in [NETDEV, INET] {
        let _ = netlink::remove(socket, family, table);
    }
}

/// Lists all nf_tables tables, of any program and family, in the calling thread's network
/// namespace. Needs `CAP_NET_ADMIN`.
///
/// # Errors
/// [`GuardError::Refused`] if the kernel does not answer.
pub fn tables() -> Result<Vec<String>, GuardError> {
    let names = netlink::list_tables(&mut NetlinkSocket::new(), ANY)
        .map_err(|source| GuardError::Refused { action: "list tables", source })?;
    Ok(names.into_iter().map(|name| name.to_string_lossy().into_owned()).collect())
}

/// Names to try: a process of another pid namespace, or an earlier guard of this process, may
/// have taken the first.
const NAMES: u32 = 64;

/// Its priority at the ingress hook: the lower, the earlier.
pub const PRIORITY: i32 = netlink::PRIORITY_RAW;

/// What a table's name begins with; the number of its process follows.
const NAME_PREFIX: &str = "rtt0_";

fn table_name(attempt: u32) -> String {
    let pid = std::process::id();
    match attempt {
        0 => format!("{NAME_PREFIX}{pid}"),
        _ => format!("{NAME_PREFIX}{pid}_{attempt}"),
    }
}

/// Tells whether a table of nf_tables is called as a guard's are.
pub fn is_name(table: &str) -> bool {
    table.strip_prefix(NAME_PREFIX).is_some_and(|rest| {
        !rest.is_empty() && rest.chars().all(|character| character.is_ascii_digit() || character == '_')
    })
}

/// Makes the netdev table under the first free name.
fn make_table(socket: &mut NetlinkSocket) -> Result<CString, GuardError> {
    let mut attempt = 0;
    loop {
        let table = c_string(&table_name(attempt))?;
        match netlink::make(socket, NETDEV, &table, &[Message::Table]) {
            Ok(()) => return Ok(table),
            Err(error) if attempt < NAMES && is(&error, &[libc::EEXIST, libc::EPERM]) => {
                // An owned table of another socket answers EPERM; so does a missing capability,
                // which the last attempt then reports.
                attempt += 1;
            }
            Err(source) => return Err(GuardError::Refused { action: "make a table", source }),
        }
    }
}

fn is(error: &ReplyError, codes: &[i32]) -> bool {
    error.as_io_error().raw_os_error().is_some_and(|code| codes.contains(&code))
}

fn c_string(text: &str) -> Result<CString, GuardError> {
    CString::new(text).map_err(|error| GuardError::InterfaceName(text.to_owned(), error))
}
