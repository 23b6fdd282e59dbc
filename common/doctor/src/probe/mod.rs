//! *Where did it go*: sends marked packets and compares what each layer says it has seen of them.

pub mod arriving;

use std::net::SocketAddr;

use crate::patient::Patient;
use crate::report::Report;

/// How probes are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// Datagrams.
    Udp,
    /// Connections.
    Tcp,
}

/// Where they are sent.
#[derive(Debug, Clone)]
pub struct Target {
    /// How.
    pub protocol: Protocol,
    /// Where.
    pub address: SocketAddr,
    /// How many.
    pub count: u32,
    /// A doctor that listens on the far host, and says what arrives there.
    pub agent: Option<SocketAddr>,
}

/// How many of the probes a layer has seen.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Sighting {
    /// The place, in words, such as `nft output, first`.
    pub place: String,
    /// The layer's name ([`crate::finding::Layer::name`]) in which packets are lost that are seen before this place and not here.
    pub layer: String,
    /// How many were seen; none if it can't tell.
    pub packets: Option<u64>,
    /// What stands between the place before and this one and may drop them, such as rules or programs.
    pub suspects: Vec<String>,
}

/// Sends probes and reports the first layer that has seen fewer than the one before.
pub fn probe(_patient: &Patient, _target: &Target, _report: &mut Report) {}
