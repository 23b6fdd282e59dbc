//! Packets on their way, and how the simulator reads them.

use rtt0_core::flow::FlowKey;
use rtt0_core::offer::is_offer;
use rtt0_core::packet::{Offload, Packet};
use rtt0_core::service::Direction;
use rtt0_core::wire::segment::Segment;
use rtt0_core::wire::tcp::{Flags, Tcp};
use rtt0_core::wire::{PROTOCOL_TCP, checksum};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Ports below this are servers'.
pub(super) const FIRST_CLIENT_PORT: u16 = 1024;

/// A packet on its way.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    /// From the first byte of its IP header.
    pub(super) bytes: Vec<u8>,
    /// What its sender left to a network card.
    pub(super) offload: Offload,
    /// Whether the network has flipped bits in it.
    pub(super) spoiled: bool,
}

/// The client's and the server's address of a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Addresses {
    /// The client.
    pub(super) client: IpAddr,
    /// The server.
    pub(super) server: IpAddr,
}

impl Addresses {
    /// Those of IPv6 or IPv4.
    pub(super) fn new(v6: bool) -> Self {
        if v6 {
            let address = |net| IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, net, 0, 0, 0, 10));
            return Self { client: address(0), server: address(2) };
        }
        let address = |net| IpAddr::V4(Ipv4Addr::new(10, 1, net, 10));
        Self { client: address(0), server: address(2) }
    }

    /// The flow between two ports.
    pub(super) fn flow(&self, client_port: u16, server_port: u16) -> FlowKey {
        FlowKey::new((self.client, client_port), (self.server, server_port), Direction::ToServer)
    }
}

/// Bytes of the IP header. No sender here uses IP options or extension headers.
pub(super) fn ip_header(bytes: &[u8]) -> usize {
    if bytes.first().is_some_and(|b| b >> 4 == 6) { 40 } else { 20 }
}

/// Tells which way a packet goes by its destination, or `None` if it goes nowhere.
pub(super) fn direction(bytes: &[u8], addresses: &Addresses) -> Option<Direction> {
    let destination = |address: IpAddr| match address {
        IpAddr::V4(a) => bytes.get(16..20) == Some(&a.octets()[..]),
        IpAddr::V6(a) => bytes.get(24..40) == Some(&a.octets()[..]),
    };
    if destination(addresses.server) {
        Some(Direction::ToServer)
    } else if destination(addresses.client) {
        Some(Direction::ToClient)
    } else {
        None
    }
}

/// Reads a TCP segment; `None` if it is something else.
pub(super) fn tcp(bytes: &[u8]) -> Option<Tcp<'_>> {
    let header = ip_header(bytes);
    let protocol = *bytes.get(if header == 40 { 6 } else { 9 })?;
    (protocol == PROTOCOL_TCP).then(|| Tcp::new(bytes.get(header..)?).ok()).flatten()
}

/// The client's and the server's port of a segment that goes in `to`.
pub(super) fn ports(tcp: &Tcp<'_>, to: Direction) -> (u16, u16) {
    match to {
        Direction::ToServer => (tcp.source_port(), tcp.destination_port()),
        Direction::ToClient => (tcp.destination_port(), tcp.source_port()),
    }
}

/// Tells whether IPv4 header and TCP checksum are right; a partial TCP checksum counts as right.
pub(super) fn is_right(bytes: &[u8], offload: Offload) -> bool {
    let header = ip_header(bytes);
    let Some(upper) = bytes.get(header..) else { return false };
    let (source, destination, sound) = if header == 40 {
        let address = |at: usize| {
            let octets: Option<[u8; 16]> = bytes.get(at..at + 16).and_then(|b| b.try_into().ok());
            IpAddr::from(octets.unwrap_or_default())
        };
        (address(8), address(24), true)
    } else {
        let address = |at: usize| {
            let octets: Option<[u8; 4]> = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
            IpAddr::from(octets.unwrap_or_default())
        };
        (address(12), address(16), checksum::sum(&bytes[..20]) == 0xffff)
    };
    let pseudo = checksum::pseudo_header(source, destination, PROTOCOL_TCP, upper.len());
    sound && (offload.needs_csum || checksum::add(pseudo, checksum::sum(upper)) == 0xffff)
}

/// Tells whether a segment carries the NICs' signalling option.
pub(super) fn has_signal(tcp: &Tcp<'_>) -> bool {
    tcp.flags().contains(Flags::SYN) && tcp.options().map_while(Result::ok).any(|option| is_offer(&option))
}

/// Leaves only the sum over the pseudo-header in the checksum field, as a sender with checksum
/// offload does.
pub(super) fn make_partial(wire: &mut Wire) {
    let header = ip_header(&wire.bytes);
    let length = wire.bytes.len() - header;
    let mut packet = Packet { bytes: &mut wire.bytes, offload: Offload::default() };
    let Ok(segment) = Segment::parse(&mut packet) else { return };
    let pseudo = checksum::pseudo_header(segment.source().0, segment.destination().0, PROTOCOL_TCP, length);
    wire.bytes[header + 16..header + 18].copy_from_slice(&pseudo.to_be_bytes());
    wire.offload.needs_csum = true;
}

/// Calls `change` with a segment to patch in place; does nothing if it is none.
pub(super) fn patch(bytes: &mut [u8], offload: Offload, change: impl FnOnce(&mut Segment<'_>)) {
    let mut packet = Packet { bytes, offload };
    if let Ok(mut segment) = Segment::parse(&mut packet) {
        change(&mut segment);
    }
}

/// Describes a packet for a trace.
pub(super) fn describe(bytes: &[u8], offload: Offload) -> String {
    let Some(tcp) = tcp(bytes) else { return format!("no TCP, {} bytes", bytes.len()) };
    let names =
        [(Flags::SYN, 'S'), (Flags::FIN, 'F'), (Flags::RST, 'R'), (Flags::PSH, 'P'), (Flags::ACK, '.')];
    let flags: String =
        names.iter().filter(|(flag, _)| tcp.flags().contains(*flag)).map(|(_, name)| *name).collect();
    let options: Vec<String> = tcp
        .options()
        .map_while(Result::ok)
        .filter(|option| option.kind != 1)
        .map(|option| format!("{}:{}", option.kind, hex(option.value)))
        .collect();
    format!(
        "{} > {} [{flags}] seq {:08x} ack {:08x} win {} len {} {}{}{}",
        tcp.source_port(),
        tcp.destination_port(),
        tcp.sequence(),
        tcp.acknowledgement(),
        tcp.window(),
        tcp.payload().len(),
        options.join(" "),
        if offload.needs_csum { " partial" } else { "" },
        if is_right(bytes, offload) { "" } else { " WRONG CHECKSUM" },
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
