//! Filters and queueing disciplines of traffic control, with what they have counted. No capability is needed.

use std::fmt;
use std::io;

use netlink_bindings::tc::{
    ActAttrs, ActOptionsMsg, Attrs, BpfAttrs, IterableActAttrs, IterableAttrs, OptionsMsg, Request,
    TcaStatsAttrs, Tcmsg,
};
use netlink_socket2::NetlinkSocket;

/// Filters of a device, and queues of a host, that are read at most.
const MOST: usize = 4096;
/// TC_H_CLSACT with TC_H_MIN_INGRESS and TC_H_MIN_EGRESS: where a clsact qdisc has its filters.
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
/// TC_ACT_SHOT.
const SHOT: i32 = 2;

/// An Ethernet frame of 1500 bytes of IP.
const FULL_SIZE: u32 = 1514;
/// `TC_H_ROOT`.
const ROOT: u32 = u32::MAX;

/// One queueing discipline.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Queue {
    /// Index of its interface.
    pub interface: u32,
    /// Such as `tbf`.
    pub kind: String,
    /// Its handle: the major number in the upper 16 bits. Those that the kernel makes by itself have 0.
    pub handle: u32,
    /// The class that it is of, or `TC_H_ROOT`.
    pub parent: u32,
    /// Packets sent.
    pub packets: u64,
    /// Packets dropped. The kernel has 32 bits for them.
    pub drops: u32,
    /// Times that a packet had to wait for its rate.
    pub overlimits: u32,
    /// Packets that wait.
    pub length: u32,
    /// Bytes that wait.
    pub backlog: u32,
    /// How many may wait; none if it does not say or is not asked.
    pub limit: Option<Limit>,
}

/// How many may wait in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Packets.
    Packets(u32),
    /// Bytes.
    Bytes(u32),
}

impl Limit {
    /// Returns about how many packets of full size may wait.
    pub fn packets(self) -> u32 {
        match self {
            Self::Packets(packets) => packets,
            Self::Bytes(bytes) => bytes / FULL_SIZE,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packets(packets) => write!(f, "{packets} packets"),
            Self::Bytes(bytes) => write!(f, "{bytes} bytes"),
        }
    }
}

impl Queue {
    /// Tells whether it is its interface's outermost.
    pub fn is_root(&self) -> bool {
        self.parent == ROOT
    }

    /// Returns its handle as tc(8) writes it, such as `8001:`.
    pub fn handle_text(&self) -> String {
        format!("{:x}:", self.handle >> 16)
    }
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
        if queues.len() < MOST {
            queues.push(queue(&header, &attributes));
        }
    }
    Ok(queues)
}

fn queue(header: &Tcmsg, attributes: &IterableAttrs<'_>) -> Queue {
    let kind = attributes.get_kind().map(|kind| kind.to_string_lossy().into_owned()).unwrap_or_default();
    let mut queue = Queue {
        interface: header.ifindex.cast_unsigned(),
        handle: header.handle,
        parent: header.parent,
        limit: limit(attributes),
        kind,
        ..Queue::default()
    };
    let Ok(stats) = attributes.get_stats2() else { return queue };
    if let Ok(basic) = stats.get_basic() {
        queue.packets = basic.packets.into();
    }
    // The basic ones have 32 bits, and these more where the others don't do.
    if let Ok(packets) = stats.get_pkt64() {
        queue.packets = packets;
    }
    if let Ok(counts) = stats.get_queue() {
        queue.drops = counts.drops;
        queue.overlimits = counts.overlimits;
        queue.length = counts.qlen;
        queue.backlog = counts.backlog;
    }
    queue
}

/// Reads the limit of those for which it is most often too small.
fn limit(attributes: &IterableAttrs<'_>) -> Option<Limit> {
    Some(match attributes.get_options().ok()? {
        OptionsMsg::Pfifo(fifo) | OptionsMsg::PfifoHeadDrop(fifo) => Limit::Packets(fifo.limit),
        OptionsMsg::Bfifo(fifo) => Limit::Bytes(fifo.limit),
        OptionsMsg::Tbf(bucket) => Limit::Bytes(bucket.get_parms().ok()?.limit),
        OptionsMsg::Netem(netem, _) => Limit::Packets(netem.limit),
        OptionsMsg::FqCodel(options) => Limit::Packets(options.get_limit().ok()?),
        _ => return None,
    })
}

/// Reads the filters of a device, given its own `queues`.
///
/// # Errors
/// The kernel's.
pub fn filters(device: u32, queues: &[Queue]) -> io::Result<Vec<Filter>> {
    let mut filters = Vec::new();
    for queue in queues.iter().filter(|queue| queue.interface == device) {
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
    fn handles_are_written_as_tc_does() {
        let queue = Queue { handle: 0x8001_0000, parent: ROOT, ..Queue::default() };
        assert_eq!((queue.handle_text().as_str(), queue.is_root()), ("8001:", true));
    }

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
        assert!(queues.iter().all(|queue| queue.interface == 1 && queue.drops == 0), "{queues:?}");
        assert!(filters.is_empty());
    }
}
