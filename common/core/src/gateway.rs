//! The door of both engines: from captured bytes to a flow's segment, or to a verdict at once.

use crate::claim::{Claim, claims, flow_of};
use crate::engine::Verdict;
use crate::flow::FlowKey;
use crate::notice::{Notice, Notices};
use crate::packet::{Offload, Outbox, Packet};
use crate::reason::{Counters, DropReason, Event, PassReason};
use crate::service::{Direction, Services};
use crate::time::Instant;
use crate::translate::Translation;
use crate::wire::icmp::{Complaint, Quote, write_error};
use crate::wire::ipv4::Ipv4;
use crate::wire::ipv6::Ipv6;
use crate::wire::segment::{NotASegment, Segment};
use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

/// The addresses from which the NIC, as a router, sends ICMP errors.
#[derive(Debug, Clone, Copy, Default)]
pub struct RouterAddresses {
    /// Its IPv4 address, if it has one.
    pub v4: Option<Ipv4Addr>,
    /// Its IPv6 address, if it has one.
    pub v6: Option<Ipv6Addr>,
}

/// ICMP errors of our own per second, as many as a Linux router sends (`icmp_msgs_per_sec`).
const ICMP_PER_SECOND: u32 = 1000;
/// What most hosts begin with (RFC 1700, "IP time to live").
const USUAL_HOP_LIMIT: u8 = 64;

/// A packet that concerns a flow.
#[derive(Debug)]
pub enum Admitted<'a> {
    /// A TCP segment; its hop limit is already decremented.
    Segment(Direction, FlowKey, Segment<'a>),
    /// An ICMP error about a segment that travelled in the given direction.
    Quote(Direction, FlowKey, Quote<'a>),
}

/// Sorts out what concerns no flow, and does what any router does.
#[derive(Debug)]
pub struct Gateway {
    services: Services,
    addresses: RouterAddresses,
    counters: Arc<Counters>,
    icmp_second: Instant,
    icmp_sent: u32,
    notices: RefCell<Notices>,
}

impl Gateway {
    /// Makes the door for `services`.
    pub fn new(services: Services, addresses: RouterAddresses, counters: Arc<Counters>) -> Self {
        Self {
            services,
            addresses,
            counters,
            icmp_second: Instant::ZERO,
            icmp_sent: 0,
            notices: RefCell::default(),
        }
    }

    /// Returns the counters.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Admits a packet, or says what becomes of it.
    ///
    /// # Errors
    /// The verdict on a packet that concerns no flow; it is counted.
    pub fn admit<'a>(
        &mut self,
        now: Instant,
        packet: &'a mut Packet<'_>,
        out: &mut Outbox,
    ) -> Result<Admitted<'a>, Verdict> {
        let Some(claim) = claims(&self.services, packet.bytes) else {
            return Err(self.drop(DropReason::Unclaimed));
        };
        if !ip_is_sound(packet.bytes) {
            return Err(self.drop(DropReason::MalformedIp));
        }
        if !age(packet.bytes) {
            // Never an ICMP error about an ICMP error (RFC 1812 §4.3.2.7, RFC 4443 §2.4).
            if matches!(claim, Claim::Tcp(_)) {
                self.complain(now, Complaint::HopLimit, packet.bytes, out);
            }
            return Err(self.drop(DropReason::HopLimit));
        }
        match claim {
            Claim::Tcp(direction) => match Segment::parse(packet) {
                Ok(segment) => {
                    let flow = FlowKey::new(segment.source(), segment.destination(), direction);
                    Ok(Admitted::Segment(direction, flow, segment))
                }
                Err(NotASegment::Ip(_)) => Err(self.drop(DropReason::MalformedIp)),
                Err(NotASegment::Tcp(_) | NotASegment::Protocol) => Err(self.pass(PassReason::MalformedTcp)),
                Err(NotASegment::Fragment) => Err(self.pass(PassReason::Fragment)),
            },
            Claim::IcmpError { quoted } => match Quote::parse(packet.bytes) {
                Ok(quote) => {
                    let flow = FlowKey::new(quote.source(), quote.destination(), quoted);
                    Ok(Admitted::Quote(quoted, flow, quote))
                }
                Err(_) => Err(self.pass(PassReason::IcmpMalformed)),
            },
        }
    }

    /// Tells of which flow a packet is that has gone on already: a fast path's copy of what a client sent, of which the hop
    /// limit is 0.
    pub fn flow_of_copy(&self, packet: &[u8]) -> Option<FlowKey> {
        let at = if packet.first()? >> 4 == 4 { 8 } else { 7 };
        let is_copy = *packet.get(at)? == 0;
        let is_ours = is_copy && claims(&self.services, packet)? == Claim::Tcp(Direction::ToServer);
        if is_ours { self.flow_ahead(packet) } else { None }
    }

    /// Admits such a packet, with another hop limit, since what it had is not known.
    pub fn admit_copy<'a>(
        &mut self,
        now: Instant,
        packet: &'a mut Packet<'_>,
        out: &mut Outbox,
    ) -> Option<Segment<'a>> {
        match Ipv4::unverified(&mut *packet.bytes) {
            Ok(mut ip) => ip.set_ttl(USUAL_HOP_LIMIT),
            Err(_) => Ipv6::unverified(&mut *packet.bytes).ok()?.set_hop_limit(USUAL_HOP_LIMIT),
        }
        match self.admit(now, packet, out) {
            Ok(Admitted::Segment(_, _, segment)) => Some(segment),
            _ => None,
        }
    }

    /// Tells which flow [`Gateway::admit`] will find a packet to be of, if it is a TCP segment.
    pub fn flow_ahead(&self, packet: &[u8]) -> Option<FlowKey> {
        flow_of(&self.services, packet)
    }

    /// Forwards an ICMP error about a segment that travelled in `quoted` direction, its quote put
    /// back into what the segment's sender sent if the flow has a `translation`.
    pub fn quote(
        &self,
        quoted: Direction,
        mut quote: Quote<'_>,
        translation: Option<&Translation>,
    ) -> Verdict {
        let Some(translation) = translation else { return self.pass(PassReason::IcmpNoFlow) };
        translation.quote(&mut quote, quoted);
        self.counters.event(Event::IcmpTranslated);
        Verdict::Forward
    }

    /// Notes that `event` happened to a connection that was in `state`. Counting is another matter.
    pub fn note(&self, key: &FlowKey, state: &'static str, event: Event) {
        self.notices.borrow_mut().push(Notice { key: *key, state, event });
    }

    /// Returns what was noted.
    pub fn notices(&mut self) -> &mut Notices {
        self.notices.get_mut()
    }

    /// Counts a packet passed untouched.
    pub fn pass(&self, reason: PassReason) -> Verdict {
        self.counters.pass(reason);
        Verdict::Forward
    }

    /// Counts a dropped packet.
    pub fn drop(&self, reason: DropReason) -> Verdict {
        self.counters.discard(reason);
        Verdict::Drop(reason)
    }

    /// Appends to `out` an ICMP error about `packet`, as it looks on our far side; returns
    /// whether it did (bounded to 1,000 a second; no address, no error).
    fn complain(&mut self, now: Instant, complaint: Complaint, packet: &[u8], out: &mut Outbox) -> bool {
        if now - self.icmp_second >= Duration::from_secs(1) {
            self.icmp_second = now;
            self.icmp_sent = 0;
        }
        let router: Option<IpAddr> = match packet.first().map(|b| b >> 4) {
            Some(4) => self.addresses.v4.map(Into::into),
            _ => self.addresses.v6.map(Into::into),
        };
        let Some(router) = router.filter(|_| self.icmp_sent < ICMP_PER_SECOND) else { return false };
        let mut error = Vec::new();
        if !write_error(complaint, router, packet, &mut error) {
            return false;
        }
        self.icmp_sent += 1;
        out.push(&error, Offload::default());
        self.counters.event(Event::IcmpSent);
        true
    }

    /// Answers the sender of `packet`, which the next hop can't carry ([`Engine::too_big`]).
    /// `translation` finds that of a flow, if it has one: the next hop would have quoted the packet
    /// as we sent it, but its sender knows another.
    ///
    /// [`Engine::too_big`]: crate::engine::Engine::too_big
    pub fn too_big<'t>(
        &mut self,
        now: Instant,
        packet: &[u8],
        mtu: u16,
        out: &mut Outbox,
        translation: impl FnOnce(&FlowKey) -> Option<&'t Translation>,
    ) {
        let mut copy = packet.to_vec();
        let Some((direction, flow)) = self.flow_of(&mut copy) else { return };
        let index = out.len();
        if self.complain(now, Complaint::TooBig(mtu), packet, out)
            && let Some((bytes, _)) = out.get_mut(index)
            && let Ok(mut quote) = Quote::parse(bytes)
            && let Some(translation) = translation(&flow)
        {
            translation.quote(&mut quote, direction);
        }
    }

    /// Finds the direction a packet of ours travels in, and its flow.
    fn flow_of(&self, packet: &mut [u8]) -> Option<(Direction, FlowKey)> {
        let Claim::Tcp(direction) = claims(&self.services, packet)? else { return None };
        let mut packet = Packet { bytes: packet, offload: Offload::default() };
        let segment = Segment::parse(&mut packet).ok()?;
        Some((direction, FlowKey::new(segment.source(), segment.destination(), direction)))
    }
}

/// A raw socket writes a right IPv4 header checksum, so a wrong one must end here.
fn ip_is_sound(bytes: &[u8]) -> bool {
    match bytes.first().map(|b| b >> 4) {
        Some(4) => Ipv4::new(bytes).is_ok(),
        _ => Ipv6::new(bytes).is_ok(),
    }
}

/// Decrements TTL or hop limit; false if it has run out (RFC 1812 §5.3.1).
pub fn age(bytes: &mut [u8]) -> bool {
    match bytes.first().map(|b| b >> 4) {
        Some(4) => match Ipv4::unverified(bytes) {
            Ok(mut ip) if ip.ttl() > 1 => {
                let ttl = ip.ttl() - 1;
                ip.set_ttl(ttl);
                true
            }
            _ => false,
        },
        _ => match Ipv6::unverified(bytes) {
            Ok(mut ip) if ip.hop_limit() > 1 => {
                let hops = ip.hop_limit() - 1;
                ip.set_hop_limit(hops);
                true
            }
            _ => false,
        },
    }
}
