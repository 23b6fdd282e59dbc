//! Notices that packets get lost without anybody saying so.
//!
//! A redirection can fail after the program has asked for it: the socket belongs to another queue or device, generic XDP does
//! not take the map, a driver has no room. The program has counted the packet, no socket has, and no counter of the kernel's
//! shows it. So both ends are held against each other.

/// What a receiver is found to suffer from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The interface is gone; nothing is received any more.
    #[error("the interface was deleted")]
    Gone,
    /// The program hands packets over, and no socket gets any.
    #[error(
        "the XDP program has redirected {redirected} packets and none has reached a socket: the kernel or the driver drops \
         them without a word (`bpftool prog tracelog`, tracepoint xdp:xdp_redirect_err); try the other XDP mode, or \
         capture by AF_PACKET"
    )]
    Silent {
        /// Packets lost since the last call.
        redirected: u64,
    },
    /// Some packets that the program has handed over have reached no socket.
    #[error(
        "{lost} packets that the XDP program has redirected have reached no socket (tracepoint xdp:xdp_redirect_err)"
    )]
    Lost {
        /// Packets lost since the last call.
        lost: u64,
    },
    /// Packets came by a queue that is not served, and were left to the kernel.
    #[error(
        "{packets} packets of tunnels came by a queue without a socket, and went to the kernel instead: the interface has \
         more queues than when it was opened, or not all were asked for"
    )]
    Unserved {
        /// Packets since the last call.
        packets: u64,
    },
    /// Packets were longer than a frame, and were left to the kernel.
    #[error(
        "{packets} packets of tunnels were longer than a frame of the sockets, and went to the kernel instead: larger frames \
         or a smaller MTU take them; GRO of tunnels (`ethtool -K INTERFACE gro off`) makes them so before generic XDP"
    )]
    TooLong {
        /// Packets since the last call.
        packets: u64,
    },
}

/// What both ends of a receiver's queues have counted since the beginning.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Observed {
    /// Packets that the program has handed to the queues' sockets.
    pub(super) redirected: u64,
    /// Packets that have come to the sockets, those included that they have dropped for want of room.
    pub(super) arrived: u64,
}

/// Tunnels' packets that the program has left to the kernel since that was told last, of whatever queue.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Left {
    pub(super) unserved: u64,
    pub(super) too_long: u64,
}

/// Remembers what was counted before.
#[derive(Debug, Default)]
pub(super) struct Watch {
    before: Observed,
    /// Redirected packets already known to be lost.
    lost: u64,
}

impl Watch {
    /// Compares. What was redirected before the last call must have arrived by now: it takes microseconds, and calls are
    /// further apart.
    pub(super) fn judge(&mut self, now: Observed, left: Left) -> Result<(), Fault> {
        let lost = self.before.redirected.saturating_sub(now.arrived);
        let newly_lost = lost.saturating_sub(self.lost);
        let has_any = now.arrived != self.before.arrived;
        self.lost = self.lost.max(lost);
        self.before = now;
        match (newly_lost, left.unserved, left.too_long) {
            (0, 0, 0) => Ok(()),
            (0, 0, packets) => Err(Fault::TooLong { packets }),
            (0, packets, _) => Err(Fault::Unserved { packets }),
            (lost, ..) if has_any => Err(Fault::Lost { lost }),
            (redirected, ..) => Err(Fault::Silent { redirected }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(watch: &mut Watch, redirected: u64, arrived: u64) -> Result<(), Fault> {
        watch.judge(Observed { redirected, arrived }, Left::default())
    }

    #[test]
    fn what_is_on_its_way_is_not_lost() {
        let mut watch = Watch::default();
        for (redirected, arrived) in [(10, 4), (20, 10), (20, 20), (20, 20)] {
            assert_eq!(judge(&mut watch, redirected, arrived), Ok(()));
        }
    }

    #[test]
    fn silence_and_losses_are_told_once() {
        let mut watch = Watch::default();
        assert_eq!(judge(&mut watch, 7, 0), Ok(()));
        assert_eq!(judge(&mut watch, 7, 0), Err(Fault::Silent { redirected: 7 }));
        assert_eq!(judge(&mut watch, 17, 10), Ok(()), "nothing new is lost");
        assert_eq!(judge(&mut watch, 27, 11), Ok(()));
        assert_eq!(judge(&mut watch, 27, 18), Err(Fault::Lost { lost: 2 }));
        assert_eq!(judge(&mut watch, 27, 18), Ok(()));
    }

    #[test]
    fn the_worst_is_told() {
        let mut watch = Watch::default();
        let left = |unserved, too_long| Left { unserved, too_long };
        let none = Observed::default();
        assert_eq!(watch.judge(none, left(3, 1)), Err(Fault::Unserved { packets: 3 }));
        assert_eq!(watch.judge(none, left(0, 1)), Err(Fault::TooLong { packets: 1 }));
        let some = Observed { redirected: 2, ..none };
        assert_eq!(watch.judge(some, left(0, 0)), Ok(()));
        assert_eq!(watch.judge(some, left(3, 1)), Err(Fault::Silent { redirected: 2 }));
    }
}
