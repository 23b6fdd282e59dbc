//! Who forwards packets at an interface's ingress by nftables: flowtables, and chains with `fwd`. Needs CAP_NET_ADMIN.

use std::collections::BTreeSet;
use std::ffi::CStr;

use netlink_bindings::nftables::{self, IterableFlowtableAttrs, IterableHookDevAttrs, Nfgenmsg};
use netlink_socket2::NetlinkSocket;
use rtt0_netio::ruleset_dump::{Chain, Point, Ruleset};

/// The family of hooks at devices.
const NETDEV: &str = "netdev";
/// NFT_FLOWTABLE_HW_OFFLOAD.
const HARDWARE: u32 = 1;

/// Something that forwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarder {
    /// What it is, such as `flowtable filter ft`.
    pub name: String,
    /// It forwards what its rules say, and not only flows that were forwarded before.
    pub is_chain: bool,
    /// When it looks at packets: lower is earlier.
    pub priority: i32,
    /// The device itself forwards.
    pub is_hardware: bool,
    /// The interfaces.
    pub interfaces: Vec<String>,
}

/// Lists the flowtables.
///
/// # Errors
/// Why the kernel does not tell.
pub fn flowtables() -> Result<Vec<Forwarder>, String> {
    let request = nftables::Request::new().op_getflowtable_dump(&Nfgenmsg::default());
    let mut socket = NetlinkSocket::new();
    let mut replies = socket.request(&request).map_err(|error| error.to_string())?;
    let mut tables = Vec::new();
    while let Some(reply) = replies.recv() {
        tables.extend(flowtable(&reply.map_err(|error| error.to_string())?.1));
    }
    Ok(tables)
}

fn flowtable(attributes: &IterableFlowtableAttrs<'_>) -> Option<Forwarder> {
    let hook = attributes.get_hook().ok()?;
    let (table, name) = (attributes.get_table().ok()?, attributes.get_name().ok()?);
    Some(Forwarder {
        name: format!("flowtable {} {}", text(table), text(name)),
        is_chain: false,
        priority: hook.get_priority().ok()?.cast_signed(),
        is_hardware: attributes.get_flags().unwrap_or_default() & HARDWARE != 0,
        interfaces: hook.get_devs().map(names).unwrap_or_default(),
    })
}

/// Returns the chains at an ingress whose tables have a rule that forwards.
pub(super) fn chains(ruleset: &Ruleset) -> Vec<Forwarder> {
    let forwarding = ruleset.rules.iter().filter(|rule| rule.family == NETDEV && rule.forwards);
    let tables: BTreeSet<_> = forwarding.map(|rule| &rule.table).collect();
    let is_meant = |chain: &&Chain| chain.family == NETDEV && tables.contains(&chain.table);
    ruleset.chains.iter().filter(is_meant).filter_map(chain).collect()
}

fn chain(chain: &Chain) -> Option<Forwarder> {
    let hook = chain.hook.as_ref().filter(|hook| hook.point == Point::Ingress)?;
    Some(Forwarder {
        name: format!("chain {} {} {}", chain.family, chain.table, chain.name),
        is_chain: true,
        priority: hook.priority,
        is_hardware: false,
        interfaces: hook.devices.clone(),
    })
}

fn names(devices: IterableHookDevAttrs<'_>) -> Vec<String> {
    devices.get_name().map(text).collect()
}

fn text(name: &CStr) -> String {
    name.to_string_lossy().into_owned()
}
