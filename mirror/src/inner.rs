//! What is inside the tunnel: an IP packet and its ports.

use std::net::IpAddr;

/// What an inner packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP or ICMPv6.
    Icmp,
}

/// Where things are in an inner packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inner {
    /// Sender.
    pub source: IpAddr,
    /// Receiver.
    pub destination: IpAddr,
    /// What it carries.
    pub transport: Transport,
    /// The sender's port; 0 for ICMP.
    pub source_port: u16,
    /// The receiver's port; 0 for ICMP.
    pub destination_port: u16,
    /// Where the upper layer's header begins, in bytes from the start of the IP header.
    pub upper: usize,
    /// Length of the IP packet by its header, in bytes; can exceed what has come when the mirror cuts packets.
    pub length: usize,
    /// Time to live or hop limit.
    pub hop_limit: u8,
}
