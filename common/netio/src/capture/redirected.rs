//! The AF_XDP backend, for tunnels only: the sockets of one receiver as one capture.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rtt0_core::packet::{Offload, Packet};
use rustix::event::epoll;

use crate::counters::IoCounters;
use crate::xdp::{Fault, Receiver, XdpError};

/// Frames in AF_XDP sockets say nothing about their checksums, so that any may be partial.
const UNKNOWN: Offload = Offload { needs_csum: true, gso_size: 0 };

#[derive(Debug)]
pub(super) struct Redirected {
    receiver: Receiver,
    /// Readable when one of the sockets is.
    any: OwnedFd,
}

impl Redirected {
    /// Makes one descriptor to wait for of the receiver's sockets, epoll(7).
    pub(super) fn new(receiver: Receiver) -> Result<Self, XdpError> {
        let interface = receiver.interface().to_owned();
        let failed = |call| {
            let interface = interface.clone();
            move |source: rustix::io::Errno| XdpError::System { call, interface, source: source.into() }
        };
        let any = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed("epoll_create1"))?;
        for (index, socket) in receiver.fds().enumerate() {
            let data = epoll::EventData::new_u64(index as u64);
            epoll::add(&any, socket, data, epoll::EventFlags::IN).map_err(failed("epoll_ctl"))?;
        }
        Ok(Self { receiver, any })
    }

    pub(super) fn describe(&self) -> String {
        self.receiver.describe()
    }

    pub(super) fn receive(&mut self, counters: &IoCounters) -> bool {
        self.receiver.receive(counters)
    }

    pub(super) fn packets_mut(&mut self) -> impl Iterator<Item = Packet<'_>> {
        self.receiver.packets_mut().map(|packet| Packet { offload: UNKNOWN, ..packet })
    }

    pub(super) fn packet(&self, index: usize) -> Option<(&[u8], Offload)> {
        self.receiver.packet(index).map(|(bytes, _)| (bytes, UNKNOWN))
    }

    /// Counts and tells what was lost; returns whether the interface is still there.
    pub(super) fn check(&mut self, counters: &IoCounters) -> bool {
        match self.receiver.check(counters) {
            Ok(()) => true,
            Err(Fault::Gone) => false,
            Err(fault) => {
                tracing::warn!(interface = self.receiver.interface(), "{fault}");
                true
            }
        }
    }
}

impl AsFd for Redirected {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.any.as_fd()
    }
}
