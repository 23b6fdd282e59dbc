//! What a 0-RTT middlebox would have saved, told from a mirror's copies of the traffic.
//!
//! ```text
//!  segment ─► flow ────────────► change ─► statistics ─► report ─► text, JSON, HTML
//!             one connection,    what it   of each
//!             judged as          taught    service
//!             ClientNIC would
//! ```
//!
//! Sans-IO: segments and the time come in, a [`Report`] comes out. A mirror may double, reorder and lose what it copies,
//! or show one direction only; each figure is taken only where what was seen allows it, and says of how many
//! connections it is. [`Report::assumptions`] says what is taken for granted.
//!
//! *Bounds.* Connections, services and destinations known are bounded by [`Options`] and constants, some 20 MB in all.
//! A connection whose first byte has been seen makes room for a new one in a full table; if there is none, the new one
//! is not tracked, and that is counted. Once tables have their size nothing is allocated.

mod chart;
mod distribution;
mod flow;
mod html;
mod judge;
mod report;
mod services;
mod statistics;
mod syns;
#[cfg(test)]
mod tests;
mod text;
mod tracker;

pub use distribution::Quantiles;
pub use report::{
    Connections, FirstByteTimes, OneOption, Reason, Report, RoundTrips, ServiceReport, Sight, SynReport,
    Uploads,
};

use crate::inner::{Inner, Transport};
use judge::Judge;
use rtt0_core::flow::FlowTable;
use rtt0_core::service::Service;
use rtt0_core::time::Instant;
use rtt0_core::wire::tcp::Tcp;
use services::Table;
use syns::Syns;

/// What is observed, and how much of it.
#[derive(Debug, Clone)]
pub struct Options {
    /// Connections to these are observed; with none, all are, and each destination is a service of its own.
    pub services: Vec<Service>,
    /// Connections known at a time, some 160 bytes each.
    pub max_flows: usize,
    /// Services told apart; what goes to others is counted together.
    pub max_services: usize,
}

impl Default for Options {
    /// Every destination; 65,536 connections, 4,096 services.
    fn default() -> Self {
        Self { services: Vec::new(), max_flows: 65_536, max_services: 4_096 }
    }
}

/// Packets that tell nothing of a connection, and connections that there was no room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Unused {
    /// Not TCP.
    pub not_tcp: u64,
    /// TCP headers that contradict themselves or were cut off by the mirror.
    pub malformed: u64,
    /// Connections to none of the services asked for.
    pub other_services: u64,
    /// Segments of connections whose beginning was not seen.
    pub no_flow: u64,
    /// Connections not tracked, since the table was full.
    pub flows_not_tracked: u64,
    /// Connections no longer tracked once their first byte had been seen, to make room.
    pub flows_let_go: u64,
    /// SYN-ACKs that nothing was learned from, since the table of destinations was full.
    pub profile_table_full: u64,
}

/// Follows connections.
#[derive(Debug)]
pub struct Observer {
    flows: FlowTable<flow::Flow>,
    services: Table,
    judge: Judge,
    syns: Syns,
    unused: Unused,
    first: Option<Instant>,
    /// The latest time of any segment: the clock here never goes back.
    now: Instant,
}

impl Observer {
    /// Makes one that has seen nothing.
    pub fn new(options: Options) -> Self {
        Self {
            flows: FlowTable::new(options.max_flows),
            services: Table::new(options.services, options.max_services),
            judge: Judge::new(),
            syns: Syns::new(),
            unused: Unused::default(),
            first: None,
            now: Instant::ZERO,
        }
    }

    /// Takes in a mirrored packet at `now`. `bytes` begin with the IP header and may be cut behind the TCP header;
    /// `inner` says what they are. A time before that of an earlier segment counts as that one's.
    pub fn segment(&mut self, now: Instant, bytes: &[u8], inner: &Inner) {
        self.now = self.now.max(now);
        self.first.get_or_insert(self.now);
        self.expire();
        if inner.transport != Transport::Tcp {
            self.unused.not_tcp += 1;
            return;
        }
        let tcp = bytes.get(inner.upper..).and_then(|bytes| Tcp::new(bytes).ok());
        let Some((tcp, length)) = tcp.and_then(|tcp| Some((tcp, payload(inner, &tcp)?))) else {
            self.unused.malformed += 1;
            return;
        };
        self.track(&tcp, length, inner);
    }

    /// Tells what was seen until `now`.
    pub fn report(&self, now: Instant) -> Report {
        report::make(self, now.max(self.now))
    }
}

/// Returns the payload's length as the headers have it, in bytes; `None` if they contradict each other.
fn payload(inner: &Inner, tcp: &Tcp<'_>) -> Option<u32> {
    let length = inner.length.checked_sub(inner.upper)?.checked_sub(tcp.header_length())?;
    u32::try_from(length).ok()
}
