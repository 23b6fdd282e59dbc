//! A whole IP packet that carries a TCP segment, for reading and for patching in place.

use super::ipv4::Ipv4;
use super::ipv6::Ipv6;
use super::tcp::{Flags, MAX_OPTIONS, MIN_HEADER, Tcp, field};
use super::{Malformed, PROTOCOL_TCP, checksum, read_u16};
use crate::packet::Packet;
use std::net::IpAddr;

/// An address and a port.
pub type Endpoint = (IpAddr, u16);

/// Why a packet is no segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotASegment {
    /// The IP header is wrong: a router discards it.
    #[error("malformed IP packet: {0}")]
    Ip(Malformed),
    /// The TCP header is wrong: the endpoint's business.
    #[error("malformed TCP header: {0}")]
    Tcp(Malformed),
    /// Another protocol.
    #[error("not TCP")]
    Protocol,
    /// A fragment that is not the first, or whose TCP header is cut.
    #[error("IP fragment without a TCP header")]
    Fragment,
}

/// A checked TCP segment in its IP packet.
#[derive(Debug)]
pub struct Segment<'a> {
    bytes: &'a mut [u8],
    tcp: usize,
    payload: usize,
    source: Endpoint,
    destination: Endpoint,
    fragment: bool,
    needs_csum: bool,
}

impl<'a> Segment<'a> {
    /// Checks `packet`; link padding behind the IP packet is cut off.
    ///
    /// # Errors
    /// [`NotASegment`] tells why not.
    pub fn parse(packet: &'a mut Packet<'_>) -> Result<Self, NotASegment> {
        let needs_csum = packet.offload.needs_csum;
        let bytes = &mut *packet.bytes;
        let ip = locate(bytes)?;
        let bytes = bytes.get_mut(..ip.total).ok_or(NotASegment::Ip(Malformed::Length))?;
        let cut = |error| if ip.fragment { NotASegment::Fragment } else { NotASegment::Tcp(error) };
        let tcp = Tcp::new(&bytes[ip.upper..]).map_err(cut)?;
        let (payload, source, destination) =
            (ip.upper + tcp.header_length(), tcp.source_port(), tcp.destination_port());
        Ok(Self {
            bytes,
            tcp: ip.upper,
            payload,
            source: (ip.source, source),
            destination: (ip.destination, destination),
            fragment: ip.fragment,
            needs_csum,
        })
    }

    /// Returns the whole IP packet without padding.
    pub fn bytes(&self) -> &[u8] {
        self.bytes
    }

    /// Returns the TCP header and payload as a view for reading.
    pub fn tcp(&self) -> Tcp<'_> {
        // The constructor made the same view from the same bytes; patches keep its lengths.
        Tcp::new(&self.bytes[self.tcp..]).unwrap_or_else(|_| unreachable!("checked by parse"))
    }

    /// Returns the sender.
    pub fn source(&self) -> Endpoint {
        self.source
    }

    /// Returns the receiver.
    pub fn destination(&self) -> Endpoint {
        self.destination
    }

    /// Returns where the TCP header begins, in bytes from the start of the packet.
    pub fn tcp_offset(&self) -> usize {
        self.tcp
    }

    /// Returns the payload's length in bytes.
    pub fn payload_length(&self) -> usize {
        self.bytes.len() - self.payload
    }

    /// Tells whether this is the first of several IP fragments.
    pub fn is_fragment(&self) -> bool {
        self.fragment
    }

    /// Verifies the TCP checksum in full. A partial checksum is right by definition; that of a
    /// fragment can't be known and counts as right.
    pub fn checksum_ok(&self) -> bool {
        if self.needs_csum || self.fragment {
            return true;
        }
        let tcp = &self.bytes[self.tcp..];
        let pseudo = checksum::pseudo_header(self.source.0, self.destination.0, PROTOCOL_TCP, tcp.len());
        checksum::add(pseudo, checksum::sum(tcp)) == 0xffff
    }

    /// Computes the TCP checksum from nothing: for packets captured with a partial one.
    pub fn fill_checksum(&mut self) {
        fill_tcp_checksum(self.bytes, self.tcp, self.source.0, self.destination.0);
        self.needs_csum = false;
    }

    /// Overwrites bytes at `at` from the start of the TCP header (within the header) and updates
    /// the TCP checksum; a partial checksum covers no header field and stays.
    ///
    /// # Panics
    /// If the range leaves the TCP header.
    pub fn patch(&mut self, at: usize, new: &[u8]) {
        let header = &mut self.bytes[self.tcp..self.payload];
        if self.needs_csum {
            header[at..at + new.len()].copy_from_slice(new);
            return;
        }
        // Options may stand at odd offsets: sum over the 16-bit words that enclose the change.
        let words = at & !1..(at + new.len()).next_multiple_of(2);
        let old = checksum::sum(&header[words.clone()]);
        header[at..at + new.len()].copy_from_slice(new);
        let value = checksum::update(read_u16(header, field::CHECKSUM), old, checksum::sum(&header[words]));
        header[field::CHECKSUM..field::CHECKSUM + 2].copy_from_slice(&value.to_be_bytes());
    }

    /// Overwrites the number at `at` from the start of the TCP header, like [`Segment::patch`]: nearly all
    /// that is ever patched, and in a few instructions if it stands at an even offset.
    fn patch_number(&mut self, at: usize, new: u32) {
        let header = &mut self.bytes[self.tcp..self.payload];
        if self.needs_csum || !at.is_multiple_of(2) {
            return self.patch(at, &new.to_be_bytes());
        }
        let Some(number) = header[at..].first_chunk_mut() else { return };
        let old = u32::from_be_bytes(std::mem::replace(number, new.to_be_bytes()));
        let (old, new) = (checksum::sum_number(old), checksum::sum_number(new));
        let value = checksum::update(read_u16(header, field::CHECKSUM), old, new);
        header[field::CHECKSUM..field::CHECKSUM + 2].copy_from_slice(&value.to_be_bytes());
    }

    /// Sets SEG.SEQ.
    pub fn set_sequence(&mut self, sequence: u32) {
        self.patch_number(field::SEQUENCE, sequence);
    }

    /// Sets SEG.ACK.
    pub fn set_acknowledgement(&mut self, acknowledgement: u32) {
        self.patch_number(field::ACKNOWLEDGEMENT, acknowledgement);
    }

    /// Sets SEG.WND as it stands on the wire.
    pub fn set_window(&mut self, window: u16) {
        self.patch(field::WINDOW, &window.to_be_bytes());
    }

    /// Overwrites option bytes at `at` from the start of the options.
    ///
    /// # Panics
    /// If the range leaves the options.
    pub fn patch_options(&mut self, at: usize, new: &[u8]) {
        self.patch(field::OPTIONS + at, new);
    }

    /// Overwrites the number at `at` from the start of the options.
    ///
    /// # Panics
    /// If it leaves the options.
    pub fn patch_option_number(&mut self, at: usize, new: u32) {
        assert!(field::OPTIONS + at + 4 <= self.payload - self.tcp);
        self.patch_number(field::OPTIONS + at, new);
    }

    /// Appends to `out` a copy of this packet with other TCP options and control bits and a
    /// fresh checksum; the IP header stays but for its length.
    ///
    /// # Panics
    /// If `options` exceeds 40 bytes or is no multiple of 4, or the copy would be longer than
    /// its IP version's length field can say: callers shorten the options or have no payload.
    pub fn write_with_options(&self, options: &[u8], flags: Flags, out: &mut Vec<u8>) {
        assert!(options.len() <= MAX_OPTIONS && options.len().is_multiple_of(4));
        let start = out.len();
        out.extend_from_slice(&self.bytes[..self.tcp + MIN_HEADER]);
        out.extend_from_slice(options);
        out.extend_from_slice(&self.bytes[self.payload..]);
        let copy = &mut out[start..];
        set_length(copy);
        let word = ((MIN_HEADER + options.len()) as u16 / 4) << 12 | flags.bits();
        copy[self.tcp + field::OFFSET_FLAGS..][..2].copy_from_slice(&word.to_be_bytes());
        fill_tcp_checksum(copy, self.tcp, self.source.0, self.destination.0);
    }
}

/// Where things are in an IP packet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Located {
    /// Length of the IP packet in bytes, without padding.
    pub(crate) total: usize,
    /// Where the upper layer begins.
    pub(crate) upper: usize,
    /// Whether this is a first fragment.
    pub(crate) fragment: bool,
    /// Sender.
    pub(crate) source: IpAddr,
    /// Receiver.
    pub(crate) destination: IpAddr,
}

/// Finds the TCP header of an IP packet.
fn locate(bytes: &[u8]) -> Result<Located, NotASegment> {
    match bytes.first().map(|b| b >> 4) {
        Some(4) => {
            let ip = Ipv4::new(bytes).map_err(NotASegment::Ip)?;
            if ip.protocol() != PROTOCOL_TCP {
                return Err(NotASegment::Protocol);
            }
            if ip.fragment_offset() != 0 {
                return Err(NotASegment::Fragment);
            }
            Ok(Located {
                total: usize::from(ip.total_length()),
                upper: ip.header_length(),
                fragment: ip.more_fragments(),
                source: ip.source().into(),
                destination: ip.destination().into(),
            })
        }
        Some(6) => {
            let ip = Ipv6::new(bytes).map_err(NotASegment::Ip)?;
            let upper = ip.upper().map_err(NotASegment::Ip)?;
            if upper.fragment.is_some_and(|f| f.offset != 0) {
                return Err(NotASegment::Fragment);
            }
            if upper.protocol != PROTOCOL_TCP {
                return Err(NotASegment::Protocol);
            }
            if upper.offset > ip.total_length() {
                return Err(NotASegment::Ip(Malformed::Length));
            }
            Ok(Located {
                total: ip.total_length(),
                upper: upper.offset,
                fragment: upper.fragment.is_some_and(|f| f.more),
                source: ip.source().into(),
                destination: ip.destination().into(),
            })
        }
        Some(_) => Err(NotASegment::Ip(Malformed::Version)),
        None => Err(NotASegment::Ip(Malformed::Truncated)),
    }
}

/// Makes the IP length field (and the IPv4 header checksum) say the length of `packet`.
pub(crate) fn set_length(packet: &mut [u8]) {
    let field = |length| u16::try_from(length).unwrap_or_else(|_| unreachable!("callers see to it"));
    let length = packet.len();
    if let Ok(mut ip) = Ipv4::unverified(&mut *packet) {
        ip.set_total_length(field(length));
    } else if let Ok(mut ip) = Ipv6::unverified(packet) {
        // The field leaves out the fixed header.
        ip.set_payload_length(field(length - super::ipv6::HEADER));
    }
}

/// Computes the TCP checksum of `packet` whose TCP header begins at `tcp`.
pub(crate) fn fill_tcp_checksum(packet: &mut [u8], tcp: usize, source: IpAddr, destination: IpAddr) {
    let segment = &mut packet[tcp..];
    segment[field::CHECKSUM..field::CHECKSUM + 2].fill(0);
    let pseudo = checksum::pseudo_header(source, destination, PROTOCOL_TCP, segment.len());
    let value = !checksum::add(pseudo, checksum::sum(segment));
    segment[field::CHECKSUM..field::CHECKSUM + 2].copy_from_slice(&value.to_be_bytes());
}
