//! Listens to a connection's numbers at both hosts, so that forged ones can be near them.

use super::blind::FORGED_WINDOW;
use crate::address::ETH0;
use crate::host::Host;
use crate::record::Recorder;
use crate::topology::Topology;
use rtt0_core::packet::{Offload, Packet};
use rtt0_core::wire::segment::Segment;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Bytes looked at of a packet: all, for a cut one can't be parsed.
const SNAPLEN: usize = 1 << 16;

/// The numbers that the client and the server will send next, as they are on one host's link. 0
/// until something is heard.
#[derive(Debug, Default)]
pub struct Numbers {
    client: AtomicU32,
    server: AtomicU32,
}

impl Numbers {
    /// Returns what the client, or else the server, will send next.
    pub fn next(&self, of_client: bool) -> u32 {
        if of_client { &self.client } else { &self.server }.load(Ordering::Relaxed)
    }

    fn hear(&self, packet: &[u8], ends: (SocketAddr, SocketAddr)) {
        let mut bytes = packet.to_vec();
        let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
        let Ok(segment) = Segment::parse(&mut packet) else { return };
        let heard = (SocketAddr::from(segment.source()), SocketAddr::from(segment.destination()));
        let tcp = segment.tcp();
        if tcp.window() == FORGED_WINDOW {
            return;
        }
        let next = tcp.sequence().wrapping_add(tcp.sequence_length());
        if heard == ends {
            self.client.store(next, Ordering::Relaxed);
        } else if heard == (ends.1, ends.0) {
            self.server.store(next, Ordering::Relaxed);
        }
    }
}

/// Both hosts' links.
#[derive(Debug)]
pub struct Ear {
    /// As the client's host sees them.
    pub at_client: Arc<Numbers>,
    /// As the server's host sees them.
    pub at_server: Arc<Numbers>,
    _recorders: [Recorder; 2],
}

impl Ear {
    /// Tells whether both ends have been heard on both links.
    pub fn has_heard_both(&self) -> bool {
        [&self.at_client, &self.at_server]
            .iter()
            .all(|numbers| numbers.next(true) != 0 && numbers.next(false) != 0)
    }

    /// Listens to the connection between the ends (client, server).
    ///
    /// # Errors
    /// As [`Recorder::start`].
    pub fn open(topology: &Topology, ends: (SocketAddr, SocketAddr)) -> anyhow::Result<Self> {
        let listen = |host: &Host| -> anyhow::Result<_> {
            let numbers = Arc::new(Numbers::default());
            let heard = Arc::clone(&numbers);
            // Nothing is kept.
            let filter = Box::new(move |packet: &[u8]| {
                heard.hear(packet, ends);
                false
            });
            Ok((numbers, Recorder::start(host, ETH0, SNAPLEN, Some(filter))?))
        };
        let (at_client, first) = listen(&topology.client)?;
        let (at_server, second) = listen(&topology.server)?;
        Ok(Self { at_client, at_server, _recorders: [first, second] })
    }
}
