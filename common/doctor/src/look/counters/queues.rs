//! The queueing disciplines of all interfaces, over rtnetlink.

use netlink_bindings::tc::{IterableAttrs, OptionsMsg, Request, Tcmsg};
use netlink_socket2::NetlinkSocket;

use super::{Seen, refused};

/// More queueing disciplines than are looked at.
const MOST: usize = 4096;
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
    /// How many may wait, in words; none if it does not say or is not asked.
    pub limit: Option<String>,
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

/// Reads them all.
pub(super) fn read() -> Seen<Vec<Queue>> {
    let failed = |error: std::io::Error| refused("RTM_GETQDISC", error);
    let mut socket = NetlinkSocket::new();
    let request = Request::new().op_getqdisc_dump(&Tcmsg::default());
    let mut replies = socket.request(&request).map_err(failed)?;
    let mut queues = Vec::new();
    while let Some(reply) = replies.recv() {
        let (header, attributes) = reply.map_err(|error| failed(error.into()))?;
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

/// Words the limit of those that are most often too small.
fn limit(attributes: &IterableAttrs<'_>) -> Option<String> {
    Some(match attributes.get_options().ok()? {
        OptionsMsg::Pfifo(fifo) | OptionsMsg::PfifoHeadDrop(fifo) => format!("{} packets", fifo.limit),
        OptionsMsg::Bfifo(fifo) => format!("{} bytes", fifo.limit),
        OptionsMsg::Tbf(bucket) => {
            let parameters = bucket.get_parms().ok()?;
            format!("{} bytes at {} bytes/s", parameters.limit, parameters.rate.rate)
        }
        OptionsMsg::Netem(netem, _) => format!("{} packets", netem.limit),
        OptionsMsg::FqCodel(options) => format!("{} packets", options.get_limit().ok()?),
        _ => return None,
    })
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
    fn this_kernel_lists_them() {
        read().unwrap();
    }
}
