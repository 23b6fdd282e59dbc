//! Random packets around the edges of the rules: nearly right more often than plain noise.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The services of the comparison; the pools below sit on their edges.
pub(super) const RULES: &[&str] = &[
    "10.1.2.0/24:443",
    "10.1.2.128/25:7999-8000",
    "10.9.0.0/15:8000-8010",
    "192.0.2.7:22",
    "[fd00:1:2::/64]:443",
    "[fd00:900::/21]:8000-8010",
    "[2001:db8::7]:1-65535",
];

const V4: &[[u8; 4]] = &[
    [10, 1, 0, 10],
    [10, 1, 1, 2],
    [10, 1, 2, 0],
    [10, 1, 2, 1],
    [10, 1, 2, 10],
    [10, 1, 2, 127],
    [10, 1, 2, 128],
    [10, 1, 2, 255],
    [10, 1, 3, 0],
    [10, 7, 255, 255],
    [10, 8, 0, 0],
    [10, 9, 255, 255],
    [10, 10, 0, 0],
    [192, 0, 2, 7],
    [192, 0, 2, 8],
];

const V6: &[&str] = &[
    "fd00:1:0::10",
    "fd00:1:1::2",
    "fd00:1:2::",
    "fd00:1:2::1",
    "fd00:1:2::10",
    "fd00:1:2:0:ffff:ffff:ffff:ffff",
    "fd00:1:2:1::",
    "fd00:8ff:ffff::",
    "fd00:900::",
    "fd00:fff:ffff::1",
    "fd00:1000::",
    "2001:db8::7",
    "2001:db8::8",
];

const PORTS: &[u16] =
    &[0, 1, 22, 23, 442, 443, 443, 443, 444, 7998, 7999, 8000, 8005, 8010, 8011, 40_000, 65_535];

const TCP: u8 = 6;

/// SplitMix64: small, seeded, the same everywhere.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 up to `bound`, exclusive.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, pool: &[T]) -> T {
        pool[self.below(pool.len())]
    }

    fn v6(&mut self) -> [u8; 16] {
        self.pick(V6).parse::<Ipv6Addr>().unwrap().octets()
    }

    /// Makes a packet, perhaps damaged.
    pub(super) fn packet(&mut self) -> Vec<u8> {
        let mut packet = if self.one_in(2) { self.ipv4() } else { self.ipv6() };
        if self.one_in(8) {
            packet.truncate(self.below(packet.len()));
        }
        if self.one_in(8) && !packet.is_empty() {
            let at = self.below(packet.len());
            packet[at] ^= 1 << self.below(8);
        }
        packet
    }

    fn ipv4(&mut self) -> Vec<u8> {
        let protocol = self.pick(&[TCP, TCP, TCP, 1, 1, 17]);
        let payload = match protocol {
            1 => self.icmp(&[3, 3, 3, 11, 8], 4),
            _ => self.tcp(),
        };
        let (source, destination) = (self.pick(V4), self.pick(V4));
        let options = if self.one_in(4) { 4 * self.below(11) } else { 0 };
        let mut packet = header_v4(source, destination, protocol, options + payload.len());
        packet[0] += (options / 4) as u8;
        if self.one_in(6) {
            packet[6..8]
                .copy_from_slice(&self.pick(&[0x2000u16, 0x2001, 0x0001, 0x4000, 0x1fff]).to_be_bytes());
        }
        packet.resize(20 + options, 1);
        packet.extend(payload);
        packet
    }

    fn ipv6(&mut self) -> Vec<u8> {
        let protocol = self.pick(&[TCP, TCP, TCP, 58, 58, 17]);
        let payload = match protocol {
            58 => self.icmp(&[1, 2, 2, 3, 128], 6),
            _ => self.tcp(),
        };
        let mut extensions = Vec::new();
        let mut next = protocol;
        while self.one_in(3) {
            let kind = self.pick(&[0, 43, 44, 51, 59, 60]);
            extensions.splice(0..0, self.extension(kind, next));
            next = kind;
        }
        let (source, destination) = (self.v6(), self.v6());
        let mut packet = header_v6(source, destination, next, extensions.len() + payload.len());
        packet.extend(extensions);
        packet.extend(payload);
        packet
    }

    fn extension(&mut self, kind: u8, next: u8) -> Vec<u8> {
        let units = if kind == 44 { self.pick(&[0, 9]) } else { self.below(3) as u8 };
        let length = if kind == 44 { 8 } else { 8 * (1 + usize::from(units)) };
        let mut header = vec![0; length];
        header[0] = next;
        header[1] = units;
        if kind == 44 {
            header[2..4].copy_from_slice(&self.pick(&[0u16, 1, 1, 8, 9, 6]).to_be_bytes());
        }
        header
    }

    fn tcp(&mut self) -> Vec<u8> {
        let mut segment = tcp_header(self.pick(PORTS), self.pick(PORTS));
        segment[13] = self.pick(&[0x10, 0x02, 0x02, 0x12, 0x03, 0xc2]);
        match self.below(4) {
            0 => {
                segment[12] = self.pick(&[0x40, 0x60, 0xa0]);
                segment.extend(self.pick(&[[253, 20, 0x5a, 0x52], [2, 4, 5, 0xb4]]));
                segment.truncate(24 - self.pick(&[0, 0, 1]));
            }
            _ => segment.extend(vec![0; self.below(12)]),
        }
        segment
    }

    /// An ICMP error that quotes a segment: types from `types`, version 4 or 6.
    fn icmp(&mut self, types: &[u8], version: u8) -> Vec<u8> {
        let mut message = vec![self.pick(types), 0, 0, 0, 0, 0, 5, 0];
        let protocol = self.pick(&[TCP, TCP, TCP, TCP, 17]);
        let mut quote = if version == 4 {
            header_v4(self.pick(V4), self.pick(V4), protocol, 20)
        } else {
            header_v6(self.v6(), self.v6(), protocol, 20)
        };
        if self.one_in(8) && version == 4 {
            quote[7] = 1;
        }
        if self.one_in(12) {
            quote[0] = self.pick(&[0x45, 0x46, 0x60, 0x6f]);
        }
        quote.extend(self.tcp());
        if self.one_in(3) {
            quote.truncate(quote.len() - self.below(24));
        }
        message.extend(quote);
        message
    }
}

fn tcp_header(source: u16, destination: u16) -> Vec<u8> {
    let mut header = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    header.resize(20, 0);
    header[12] = 0x50;
    header
}

/// Makes an IPv4 header for `payload` bytes; the checksum is left out, nobody here looks at it.
pub(super) fn header_v4(source: [u8; 4], destination: [u8; 4], protocol: u8, payload: usize) -> Vec<u8> {
    let mut header = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
    header[2..4].copy_from_slice(&(20 + payload as u16).to_be_bytes());
    header.extend(source);
    header.extend(destination);
    header
}

/// Makes an IPv6 header for `payload` bytes.
pub(super) fn header_v6(source: [u8; 16], destination: [u8; 16], next: u8, payload: usize) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0, 0, 0, next, 64];
    header[4..6].copy_from_slice(&(payload as u16).to_be_bytes());
    header.extend(source);
    header.extend(destination);
    header
}

/// Makes a plain segment.
pub(super) fn tcp_v4(source: [u8; 4], sport: u16, destination: [u8; 4], dport: u16) -> Vec<u8> {
    let mut packet = header_v4(source, destination, TCP, 20);
    packet.extend(tcp_header(sport, dport));
    packet
}

#[test]
fn the_pools_reach_both_sides_of_every_rule() {
    let rules: Vec<rtt0_core::service::Service> = RULES.iter().map(|rule| rule.parse().unwrap()).collect();
    let v4 = V4.iter().map(|octets| IpAddr::from(Ipv4Addr::from(*octets)));
    let v6 = V6.iter().map(|text| text.parse::<IpAddr>().unwrap());
    let addresses: Vec<IpAddr> = v4.chain(v6).collect();
    for rule in rules {
        let inside = addresses.iter().filter(|address| rule.prefix.contains(**address)).count();
        assert!(inside > 0 && inside < addresses.len(), "{rule}");
        assert!(PORTS.iter().any(|port| rule.ports.contains(port)), "{rule}");
    }
}
