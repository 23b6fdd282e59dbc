//! The sender: UDP segmentation offload cuts one message into 32 datagrams in the kernel, which costs a small part of 32
//! system calls.

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};

/// Datagrams of one message; the kernel takes 64 (128 since Linux 6.9).
pub(crate) const BATCH: usize = 32;
/// The sender's processor, and that of whoever receives at the end.
pub(crate) const SENDERS: usize = 0;
/// The processor that is measured.
pub(crate) const MEASURED: usize = 1;

/// Keeps the calling thread on one processor.
pub(crate) fn stay_on(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor);
    sched_setaffinity(None, &set).unwrap();
}

/// Datagrams of equal length, sent over and over.
pub(crate) struct Load {
    socket: UdpSocket,
    messages: Vec<Vec<u8>>,
    length: usize,
}

impl Load {
    /// Sends `datagrams` in turn through a connected socket; as many as go into whole messages.
    pub(crate) fn new(socket: UdpSocket, datagrams: &[Vec<u8>]) -> Self {
        let length = datagrams[0].len();
        assert!(datagrams.iter().all(|datagram| datagram.len() == length));
        nix::sys::socket::setsockopt(
            &socket.as_fd(),
            nix::sys::socket::sockopt::UdpGsoSegment,
            &(length as i32),
        )
        .unwrap();
        let messages = datagrams.chunks_exact(BATCH).map(<[Vec<u8>]>::concat).collect();
        Self { socket, messages, length }
    }

    /// Bytes of a datagram.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// Sends at most `rate` datagrams a second for `time`; returns how many, and how long it took.
    pub(crate) fn send(&self, rate: f64, time: Duration) -> (u64, f64) {
        std::thread::scope(|scope| {
            let work = || {
                stay_on(SENDERS);
                let (start, mut sent) = (Instant::now(), 0u64);
                for message in self.messages.iter().cycle() {
                    let elapsed = loop {
                        let elapsed = start.elapsed();
                        if elapsed >= time || sent as f64 <= rate * elapsed.as_secs_f64() {
                            break elapsed;
                        }
                        std::hint::spin_loop();
                    };
                    if elapsed >= time {
                        break;
                    }
                    // Refused is what a socket hears of earlier datagrams; nothing is sent then.
                    if self.socket.send(message).is_ok() {
                        sent += BATCH as u64;
                    }
                }
                (sent, start.elapsed().as_secs_f64())
            };
            scope.spawn(work).join().unwrap()
        })
    }
}
