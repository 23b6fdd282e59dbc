//! The portable backend: the `pnet_datalink` crate.
//!
//! `pnet_datalink` knows neither filters nor PACKET_IGNORE_OUTGOING, but it accepts a socket, so
//! it gets one that has both; own emissions are therefore never captured again.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::time::Duration;

use pnet_datalink::{Channel, Config, DataLinkReceiver};
use rtt0_core::packet::{Offload, Packet};

use super::batch::{Batch, SLOT, Slot};
use super::socket::PacketSocket;
use super::{CaptureError, CaptureOptions, Received};
use crate::counters::IoCounters;

pub(super) struct Pnet {
    receiver: Box<dyn DataLinkReceiver>,
    /// The receiver's socket: it does not show its own descriptor.
    fd: OwnedFd,
    link_header: usize,
    batch: Batch,
}

impl fmt::Debug for Pnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pnet").field("fd", &self.fd).finish_non_exhaustive()
    }
}

impl Pnet {
    pub(super) fn start(socket: PacketSocket, options: &CaptureOptions) -> Result<Self, CaptureError> {
        let PacketSocket { fd: ours, interface, link_header, .. } = socket;
        let system = |call, source| CaptureError::System { call, interface: interface.clone(), source };
        let link =
            pnet_datalink::interfaces().into_iter().find(|link| link.name == interface).ok_or_else(|| {
                CaptureError::UnknownInterface {
                    interface: interface.clone(),
                    source: io::Error::from_raw_os_error(libc::ENODEV),
                }
            })?;
        let fd = ours.try_clone().map_err(|e| system("fcntl(F_DUPFD_CLOEXEC)", e))?;
        let config = Config {
            read_buffer_size: SLOT,
            read_timeout: Some(Duration::ZERO),
            promiscuous: false,
            // The channel owns the descriptor from here on, and closes it also when it fails.
            socket_fd: Some(ours.into_raw_fd()),
            ..Config::default()
        };
        match pnet_datalink::channel(&link, config) {
            Ok(Channel::Ethernet(_, receiver)) => {
                Ok(Self { receiver, fd, link_header, batch: Batch::new(options.batch) })
            }
            Ok(_) => Err(system("pnet_datalink::channel", io::ErrorKind::Unsupported.into())),
            Err(error) => Err(system("pnet_datalink::channel", error)),
        }
    }

    /// Replaces the batch by what has come.
    pub(super) fn receive(&mut self, counters: &IoCounters) -> io::Result<Received> {
        self.batch.slots.clear();
        let received = self.fill(counters)?;
        counters.received.add(self.batch.slots.len() as u64);
        counters.received_bytes.add(self.batch.slots.iter().map(|slot| slot.length as u64).sum());
        Ok(Received { any: received > 0, more: received == self.batch.capacity })
    }

    /// Fills the empty batch; returns how many packets the kernel handed out.
    fn fill(&mut self, counters: &IoCounters) -> io::Result<usize> {
        let batch = &mut self.batch;
        for index in 0..batch.capacity {
            let frame = match self.receiver.next() {
                Ok(frame) => frame,
                Err(e) if matches!(e.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => {
                    return Ok(index);
                }
                // The packets before stay in the batch; a lasting error shows again.
                Err(_) if index > 0 => return Ok(index),
                Err(error) => return Err(error),
            };
            // The kernel cuts silently what exceeds the buffer.
            match frame.get(self.link_header..) {
                Some(packet) if frame.len() < SLOT => {
                    batch.memory[index * SLOT..][..packet.len()].copy_from_slice(packet);
                    let length = packet.len();
                    batch.slots.push(Slot { index, start: 0, length, offload: Offload::default() });
                }
                _ => counters.received_truncated.add(1),
            }
        }
        Ok(batch.capacity)
    }

    pub(super) fn packets_mut(&mut self) -> impl Iterator<Item = Packet<'_>> {
        self.batch.packets_mut()
    }

    pub(super) fn packet(&self, index: usize) -> Option<(&[u8], Offload)> {
        self.batch.packet(index)
    }
}

impl AsFd for Pnet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
