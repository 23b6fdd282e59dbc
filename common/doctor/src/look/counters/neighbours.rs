//! Statistics of the neighbour tables (ARP, neighbour discovery), over rtnetlink. The kernel keeps them for all network
//! namespaces together.

use std::collections::BTreeMap;

use netlink_bindings::rt_neigh::{Ndtmsg, Request};
use netlink_socket2::NetlinkSocket;

use super::{Seen, refused};

/// What happened to the entries of one table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Table {
    /// Addresses that nobody answered for.
    pub unanswered: u64,
    /// Entries that found no room (`net.ipv4.neigh.default.gc_thresh3`).
    pub overflows: u64,
}

/// By name: `arp_cache`, `ndisc_cache`.
pub type Tables = BTreeMap<String, Table>;

/// Reads them.
pub(super) fn read() -> Seen<Tables> {
    let failed = |error: std::io::Error| refused("RTM_GETNEIGHTBL", error);
    let mut socket = NetlinkSocket::new();
    let request = Request::new().op_getneightbl_dump(&Ndtmsg::default());
    let mut replies = socket.request(&request).map_err(failed)?;
    let mut tables = Tables::new();
    while let Some(reply) = replies.recv() {
        let (_, attributes) = reply.map_err(|error| failed(error.into()))?;
        // A table is told once for itself, with these, and once for each device, without.
        let (Ok(name), Ok(stats)) = (attributes.get_name(), attributes.get_stats()) else { continue };
        let table = Table { unanswered: stats.res_failed, overflows: stats.table_fulls };
        tables.insert(name.to_string_lossy().into_owned(), table);
    }
    Ok(tables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_has_a_table_of_arp() {
        assert!(read().unwrap().contains_key("arp_cache"));
    }
}
