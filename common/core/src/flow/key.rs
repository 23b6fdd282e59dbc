//! The name of a flow.

use crate::service::Direction;
use crate::wire::segment::Endpoint;
use siphasher::sip::SipHasher24;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr};

/// An address in words: those of bytes are written one by one, and reading them together has to wait for
/// that.
type Address = [u64; 2];

/// Client and server of a TCP connection, the same for both directions. IPv4 addresses are kept in
/// their IPv4-mapped form (RFC 4291 §2.5.5.2).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FlowKey {
    client: Address,
    server: Address,
    client_port: u16,
    server_port: u16,
}

impl FlowKey {
    /// Makes the key of a segment that travels in `direction`.
    pub fn new(source: Endpoint, destination: Endpoint, direction: Direction) -> Self {
        let (client, server) = match direction {
            Direction::ToServer => (source, destination),
            Direction::ToClient => (destination, source),
        };
        Self {
            client: words(client.0),
            server: words(server.0),
            client_port: client.1,
            server_port: server.1,
        }
    }

    /// Returns the client's address and port.
    pub fn client(&self) -> Endpoint {
        (address(self.client), self.client_port)
    }

    /// Returns the server's address and port.
    pub fn server(&self) -> Endpoint {
        (address(self.server), self.server_port)
    }

    /// Returns the 36 bytes that keyed hashes cover: addresses, then ports, big-endian.
    pub fn to_bytes(&self) -> [u8; 36] {
        let mut bytes = [0; 36];
        bytes[..16].copy_from_slice(&bits(self.client).to_be_bytes());
        bytes[16..32].copy_from_slice(&bits(self.server).to_be_bytes());
        bytes[32..34].copy_from_slice(&self.client_port.to_be_bytes());
        bytes[34..].copy_from_slice(&self.server_port.to_be_bytes());
        bytes
    }

    /// Returns a number by which people tell connections apart: the same on both NICs. It hides no
    /// address: whoever can guess those can compute it. Two connections have the same in one of 2³² pairs.
    pub fn id(&self) -> u32 {
        let mut hasher = SipHasher24::new();
        hasher.write(&self.to_bytes());
        (hasher.finish() >> 32) as u32
    }

    /// Makes the key back from [`FlowKey::to_bytes`].
    pub(crate) fn from_bytes(bytes: [u8; 36]) -> Self {
        let words = |at: usize| split(u128::from_be_bytes(std::array::from_fn(|index| bytes[at + index])));
        let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        Self { client: words(0), server: words(16), client_port: port(32), server_port: port(34) }
    }
}

impl Hash for FlowKey {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        for word in [self.client, self.server].as_flattened() {
            state.write_u64(*word);
        }
        state.write_u32(u32::from(self.client_port) << 16 | u32::from(self.server_port));
    }
}

impl fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((client, client_port), (server, server_port)) = (self.client(), self.server());
        write!(f, "[{client}]:{client_port} > [{server}]:{server_port}")
    }
}

fn words(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(a) => [0, 0xffff << 32 | u64::from(a.to_bits())],
        IpAddr::V6(a) => split(a.to_bits()),
    }
}

fn split(bits: u128) -> Address {
    [(bits >> 64) as u64, bits as u64]
}

fn bits([high, low]: Address) -> u128 {
    u128::from(high) << 64 | u128::from(low)
}

fn address(words: Address) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from_bits(bits(words))).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_address_is_mapped() {
        let ends = [("10.1.0.10", 40_000), ("10.1.2.10", 443)].map(|(a, port)| (a.parse().unwrap(), port));
        let bytes = FlowKey::new(ends[0], ends[1], Direction::ToServer).to_bytes();
        assert_eq!(bytes[..16], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 1, 0, 10]);
        assert_eq!(bytes[28..], [10, 1, 2, 10, 0x9c, 0x40, 1, 187]);
    }

    #[test]
    fn both_directions_have_one_key() {
        for (client, server) in [("10.1.0.10", "10.1.2.10"), ("fd00::1", "fd00::2")] {
            let client = (client.parse().unwrap(), 40_000);
            let server = (server.parse().unwrap(), 443);
            let there = FlowKey::new(client, server, Direction::ToServer);
            assert_eq!(there, FlowKey::new(server, client, Direction::ToClient));
            assert_eq!((there.client(), there.server()), (client, server));
            assert_ne!(there, FlowKey::new(server, client, Direction::ToServer));
            assert_eq!(FlowKey::from_bytes(there.to_bytes()), there);
        }
    }
}
