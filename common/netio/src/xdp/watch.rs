//! Notices that packets get lost without anybody saying so.
//!
//! A redirection can fail after the program has asked for it: the socket belongs to another queue or device, generic XDP does
//! not take the map, a driver has no room. The program has counted the packet, no socket has, and no counter of the kernel's
//! shows it. So both ends are held against each other.

use super::program::ProgramCounts;

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

/// What both ends have counted since the beginning.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Observed {
    pub(super) program: ProgramCounts,
    /// Packets that have come to the sockets, those included that they have dropped for want of room.
    pub(super) arrived: u64,
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
    pub(super) fn judge(&mut self, now: Observed) -> Result<(), Fault> {
        let lost = self.before.program.redirected.saturating_sub(now.arrived);
        let newly_lost = lost.saturating_sub(self.lost);
        let has_any = now.arrived != self.before.arrived;
        let since = |count: fn(&ProgramCounts) -> u64| {
            count(&now.program).saturating_sub(count(&self.before.program))
        };
        let (unserved, too_long) = (since(|counts| counts.unserved), since(|counts| counts.too_long));
        self.lost = self.lost.max(lost);
        self.before = now;
        match (newly_lost, unserved, too_long) {
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

    fn observed(redirected: u64, arrived: u64) -> Observed {
        Observed { program: ProgramCounts { redirected, ..ProgramCounts::default() }, arrived }
    }

    #[test]
    fn what_is_on_its_way_is_not_lost() {
        let mut watch = Watch::default();
        assert_eq!(watch.judge(observed(10, 4)), Ok(()));
        assert_eq!(watch.judge(observed(20, 10)), Ok(()));
        assert_eq!(watch.judge(observed(20, 20)), Ok(()));
        assert_eq!(watch.judge(observed(20, 20)), Ok(()));
    }

    #[test]
    fn silence_and_losses_are_told_once() {
        let mut watch = Watch::default();
        assert_eq!(watch.judge(observed(7, 0)), Ok(()));
        assert_eq!(watch.judge(observed(7, 0)), Err(Fault::Silent { redirected: 7 }));
        assert_eq!(watch.judge(observed(17, 10)), Ok(()), "nothing new is lost");
        assert_eq!(watch.judge(observed(27, 11)), Ok(()));
        assert_eq!(watch.judge(observed(27, 18)), Err(Fault::Lost { lost: 2 }));
        assert_eq!(watch.judge(observed(27, 18)), Ok(()));
    }

    #[test]
    fn what_was_left_to_the_kernel_is_told() {
        let mut watch = Watch::default();
        let with = |unserved, too_long| Observed {
            program: ProgramCounts { unserved, too_long, ..ProgramCounts::default() },
            arrived: 0,
        };
        assert_eq!(watch.judge(with(3, 1)), Err(Fault::Unserved { packets: 3 }));
        assert_eq!(watch.judge(with(3, 2)), Err(Fault::TooLong { packets: 1 }));
        assert_eq!(watch.judge(with(3, 2)), Ok(()));
    }
}
