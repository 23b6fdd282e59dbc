//! Filters and queueing disciplines of traffic control, with what they have counted. No capability is needed.

use std::io;

use netlink_bindings::tc::{
    ActAttrs, ActOptionsMsg, Attrs, BpfAttrs, GnetStatsQueue, IterableActAttrs, IterableAttrs, OptionsMsg,
    Request, TcaStatsAttrs, Tcmsg,
};
use netlink_socket2::NetlinkSocket;

/// Filters of a device, and queues of a host, that are read at most.
const MOST: usize = 4096;
/// TC_H_CLSACT with TC_H_MIN_INGRESS and TC_H_MIN_EGRESS: where a clsact qdisc has its filters.
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
/// TC_ACT_SHOT.
const SHOT: i32 = 2;

/// A queueing discipline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// The device's index.
    pub device: u32,
    /// Such as `fq_codel`, `noqueue`, `clsact`.
    pub kind: String,
    /// Its own handle.
    pub handle: u32,
    /// The class that it is in; `0xffff_ffff` of a device's root.
    pub parent: u32,
    /// Packets that it has handed on.
    pub packets: u64,
    /// Packets that it has dropped.
    pub drops: u64,
    /// Packets in it now.
    pub length: u32,
}

/// A filter that may drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Whether it is where packets leave.
    pub is_egress: bool,
    /// Such as `bpf`, `u32`, `flower`.
    pub kind: String,
    /// Its priority (`pref`).
    pub priority: u16,
    /// The BPF program, of one that is such.
    pub program: Option<u32>,
    /// Its actions.
    pub actions: Vec<FilterAction>,
}

/// What a filter does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterAction {
    /// Such as `gact`, `police`, `bpf`.
    pub kind: String,
    /// Whether it drops whatever comes to it.
    pub always_drops: bool,
    /// Packets that came to it.
    pub packets: u64,
    /// Packets that it has dropped, by its own account.
    pub drops: u64,
}

/// Reads all queueing disciplines of the calling thread's network namespace.
///
/// # Errors
/// The kernel's.
pub fn queues() -> io::Result<Vec<Queue>> {
    let mut socket = NetlinkSocket::new();
    let request = Request::new().op_getqdisc_dump(&Tcmsg::new());
    let mut replies = socket.request(&request)?;
    let mut queues = Vec::new();
    while let Some(reply) = replies.recv() {
        let (header, attributes) = reply.map_err(io::Error::from)?;
        if queues.len() == MOST {
            continue;
        }
        let (mut packets, mut queue) = (0, GnetStatsQueue::default());
        for statistic in attributes.get_stats2().into_iter().flatten().flatten() {
            match statistic {
                TcaStatsAttrs::Basic(basic) => packets = basic.packets.into(),
                TcaStatsAttrs::Queue(of) => queue = of,
                _ => {}
            }
        }
        queues.push(Queue {
            device: header.ifindex.cast_unsigned(),
            kind: kind(&attributes),
            handle: header.handle,
            parent: header.parent,
            packets,
            drops: queue.drops.into(),
            length: queue.qlen,
        });
    }
    Ok(queues)
}

/// Reads the filters of a device, given its own `queues`.
///
/// # Errors
/// The kernel's.
pub fn filters(device: u32, queues: &[Queue]) -> io::Result<Vec<Filter>> {
    let mut filters = Vec::new();
    for queue in queues.iter().filter(|queue| queue.device == device) {
        match queue.kind.as_str() {
            "clsact" => {
                read(device, INGRESS, false, &mut filters)?;
                read(device, EGRESS, true, &mut filters)?;
            }
            "ingress" => read(device, INGRESS, false, &mut filters)?,
            "noqueue" => {}
            _ => read(device, queue.handle, true, &mut filters)?,
        }
    }
    Ok(filters)
}

fn read(device: u32, parent: u32, is_egress: bool, filters: &mut Vec<Filter>) -> io::Result<()> {
    let mut socket = NetlinkSocket::new();
    let at = Tcmsg { ifindex: device.cast_signed(), parent, ..Tcmsg::new() };
    let request = Request::new().op_gettfilter_dump(&at);
    let mut replies = socket.request(&request)?;
    while let Some(reply) = replies.recv() {
        let (header, attributes) = match reply.map_err(io::Error::from) {
            // A queue that takes no filters, or one that has gone.
            Err(error) if is_absence(&error) => return Ok(()),
            reply => reply?,
        };
        // A filter's chain and its classifier say nothing by themselves; its entries have handles.
        if header.handle == 0 || filters.len() == MOST {
            continue;
        }
        filters.push(filter(&attributes, header.info, is_egress));
    }
    Ok(())
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL | libc::ENODEV | libc::EOPNOTSUPP))
}

fn kind(attributes: &IterableAttrs<'_>) -> String {
    attributes.get_kind().map(|kind| kind.to_string_lossy().into_owned()).unwrap_or_default()
}

fn filter(attributes: &IterableAttrs<'_>, info: u32, is_egress: bool) -> Filter {
    let mut filter = Filter {
        is_egress,
        kind: kind(attributes),
        priority: (info >> 16) as u16,
        program: None,
        actions: Vec::new(),
    };
    let options = (*attributes).flatten().find_map(|attribute| match attribute {
        Attrs::Options(options) => Some(options),
        _ => None,
    });
    let actions: Vec<IterableActAttrs<'_>> = match options {
        Some(OptionsMsg::Bpf(bpf)) => {
            filter.program = bpf.flatten().find_map(|attribute| match attribute {
                BpfAttrs::Id(id) => Some(id),
                _ => None,
            });
            bpf.get_act().into_iter().flatten().collect()
        }
        Some(OptionsMsg::U32(options)) => options.get_act().into_iter().flatten().collect(),
        Some(OptionsMsg::Matchall(options)) => options.get_act().into_iter().flatten().collect(),
        Some(OptionsMsg::Flower(options)) => options.get_act().into_iter().flatten().collect(),
        Some(OptionsMsg::Basic(options)) => options.get_act().into_iter().flatten().collect(),
        _ => Vec::new(),
    };
    filter.actions = actions.into_iter().take(32).map(|attributes| action(&attributes)).collect();
    filter
}

fn action(attributes: &IterableActAttrs<'_>) -> FilterAction {
    let mut action = FilterAction { kind: String::new(), always_drops: false, packets: 0, drops: 0 };
    for attribute in (*attributes).flatten() {
        match attribute {
            ActAttrs::Kind(kind) => action.kind = kind.to_string_lossy().into_owned(),
            ActAttrs::Options(ActOptionsMsg::Gact(gact)) => {
                action.always_drops = gact.get_parms().is_ok_and(|parameters| parameters.action == SHOT);
            }
            ActAttrs::Stats(statistics) => {
                for statistic in statistics.flatten() {
                    match statistic {
                        TcaStatsAttrs::Basic(basic) => action.packets = basic.packets.into(),
                        TcaStatsAttrs::Queue(queue) => action.drops = queue.drops.into(),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    action
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_loopback_has_no_filters() {
        let Ok(namespace) = crate::netns::Namespace::create() else {
            println!("skipped: needs CAP_SYS_ADMIN");
            return;
        };
        let (queues, filters) = namespace
            .enter(|| {
                let queues = queues().unwrap();
                let filters = filters(1, &queues).unwrap();
                (queues, filters)
            })
            .unwrap();
        assert!(queues.iter().all(|queue| queue.device == 1 && queue.drops == 0), "{queues:?}");
        assert!(filters.is_empty());
    }
}
