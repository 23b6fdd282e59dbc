//! Who forwards packets at an interface's ingress by nftables: flowtables, and chains with `fwd`. Needs CAP_NET_ADMIN.

use std::collections::BTreeSet;
use std::ffi::CStr;

use netlink_bindings::nftables::{
    self, ExprListAttrs, IterableChainAttrs, IterableFlowtableAttrs, IterableHookDevAttrs, IterableRuleAttrs,
    Nfgenmsg,
};
use netlink_socket2::{NetlinkSocket, ReplyError};

/// NFPROTO_NETDEV.
const NETDEV: u8 = 5;
/// NF_NETDEV_INGRESS.
const INGRESS: u32 = 0;
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

/// Lists all of them.
///
/// # Errors
/// Why the kernel does not tell.
pub fn forwarders() -> Result<Vec<Forwarder>, String> {
    let mut socket = NetlinkSocket::new();
    let read = |socket: &mut NetlinkSocket| -> Result<Vec<Forwarder>, ReplyError> {
        let mut all = flowtables(socket)?;
        let forwarding = forwarding_tables(socket)?;
        if !forwarding.is_empty() {
            all.extend(chains(socket, &forwarding)?);
        }
        Ok(all)
    };
    read(&mut socket).map_err(|error| error.to_string())
}

fn flowtables(socket: &mut NetlinkSocket) -> Result<Vec<Forwarder>, ReplyError> {
    let request = nftables::Request::new().op_getflowtable_dump(&Nfgenmsg::default());
    let mut replies = socket.request(&request)?;
    let mut tables = Vec::new();
    while let Some(reply) = replies.recv() {
        tables.extend(flowtable(&reply?.1));
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

/// Returns the tables of the netdev family in which a rule forwards.
fn forwarding_tables(socket: &mut NetlinkSocket) -> Result<BTreeSet<String>, ReplyError> {
    let header = Nfgenmsg { nfgen_family: NETDEV, ..Nfgenmsg::default() };
    let request = nftables::Request::new().op_getrule_dump(&header);
    let mut replies = socket.request(&request)?;
    let mut tables = BTreeSet::new();
    while let Some(reply) = replies.recv() {
        let (_, rule) = reply?;
        if forwards(&rule) {
            tables.insert(text(rule.get_table()?));
        }
    }
    Ok(tables)
}

fn forwards(rule: &IterableRuleAttrs<'_>) -> bool {
    rule.get_expressions().into_iter().flatten().flatten().any(|element| {
        let ExprListAttrs::Elem(expression) = element;
        expression.get_name().is_ok_and(|name| name == c"fwd")
    })
}

/// Returns the chains of these tables that have a hook at an ingress.
fn chains(socket: &mut NetlinkSocket, tables: &BTreeSet<String>) -> Result<Vec<Forwarder>, ReplyError> {
    let header = Nfgenmsg { nfgen_family: NETDEV, ..Nfgenmsg::default() };
    let request = nftables::Request::new().op_getchain_dump(&header);
    let mut replies = socket.request(&request)?;
    let mut chains = Vec::new();
    while let Some(reply) = replies.recv() {
        chains.extend(chain(&reply?.1, tables));
    }
    Ok(chains)
}

fn chain(attributes: &IterableChainAttrs<'_>, tables: &BTreeSet<String>) -> Option<Forwarder> {
    let (table, hook) = (text(attributes.get_table().ok()?), attributes.get_hook().ok()?);
    if !tables.contains(&table) || hook.get_num().ok()? != INGRESS {
        return None;
    }
    let interfaces = match hook.get_devs() {
        Ok(several) => names(several),
        Err(_) => hook.get_dev().into_iter().map(text).collect(),
    };
    Some(Forwarder {
        name: format!("chain netdev {table} {}", text(attributes.get_name().ok()?)),
        is_chain: true,
        priority: hook.get_priority().ok()?,
        is_hardware: false,
        interfaces,
    })
}

fn names(devices: IterableHookDevAttrs<'_>) -> Vec<String> {
    devices.get_name().map(text).collect()
}

fn text(name: &CStr) -> String {
    name.to_string_lossy().into_owned()
}
