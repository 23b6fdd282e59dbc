//! The connections that are pretended: what is sent each way, in which order.
//!
//! ```text
//!  lane  opener                                   answerer
//!   0    SYN, usual options                  ─▶
//!                                            ◀─   SYN-ACK, usual options
//!        data: plain, ECT(0), CE, DSCP, URG  ─▶◀─  likewise; then trains of data, and packets of many sizes
//!   1    SYN with the signalling option      ─▶
//!                                            ◀─   SYN-ACK with it
//!   2    SYN with ECE and CWR                ─▶
//!                                            ◀─   SYN-ACK with ECE
//!   3    SYN with the signalling option, then data before any answer, as early data goes
//!   4    as 0 and 1, to the port of a service, which a middlebox may treat in another way
//!  all   RST                                 ─▶
//! ```
//!
//! The opener is ClientNIC's end: a firewall may let connections begin in one direction only.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use super::arrival::{Arrival, Change};
use super::course::{Course, Flight, Way};
use super::mtu::{self, Mtu};
use super::order::{Options, Order, Shape};
use super::station::{BATCH, SERVICE_LANE};

/// ECN field: capable, and congestion experienced (RFC 3168 §5).
const ECT_0: u8 = 2;
const CE: u8 = 3;
/// A class that means something, expedited forwarding (RFC 3246).
const DSCP_EF: u8 = 46;
/// Bytes of a packet with a little data.
const SMALL: u16 = 120;
/// Segments of a train.
const TRAIN: usize = BATCH - 4;
/// How many of a train may get lost before it is worth another look, one in so many.
const SUSPICIOUS: usize = 10;
/// How late a segment of a train may be.
const SLACK: Duration = Duration::from_millis(500);

/// What a segment is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// A plain SYN or SYN-ACK.
    Plain(Shape),
    /// One with the signalling option.
    Offer(Shape),
    /// A plain one to the port of a service.
    Service(Shape),
    /// One with the signalling option to such a port.
    ServiceOffer(Shape),
    /// One that negotiates ECN.
    Ecn(Shape),
    /// Data before the handshake's answer.
    Early,
    /// Data in an established connection.
    Data,
    /// Data that may be marked instead of being dropped.
    Capable,
    /// Data that has been marked.
    Congested,
    /// Data of a DiffServ class.
    Dscp,
    /// Urgent data.
    Urgent,
}

/// A segment, what it was for and what has become of it.
#[derive(Debug, Clone)]
pub(super) struct Flown {
    /// What for.
    pub(super) what: What,
    /// Which way.
    pub(super) way: Way,
    /// What has become of it.
    pub(super) flight: Flight,
}

/// How many of many segments have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Train {
    /// Which way.
    pub(super) way: Way,
    /// Sent.
    pub(super) sent: usize,
    /// Come.
    pub(super) come: usize,
}

/// Everything that was observed.
#[derive(Debug, Clone)]
pub(super) struct Observed {
    /// Which way the opener sends.
    pub(super) opener: Way,
    /// All single segments.
    pub(super) flown: Vec<Flown>,
    /// One a way.
    pub(super) trains: Vec<Train>,
    /// One a way.
    pub(super) mtus: Vec<Mtu>,
}

impl Observed {
    /// Returns what has become of a segment; none if it was not sent.
    pub(super) fn flight(&self, what: What, way: Way) -> Option<&Flight> {
        self.flown.iter().find(|flown| (flown.what, flown.way) == (what, way)).map(|flown| &flown.flight)
    }

    /// Tells whether it was sent and has come.
    pub(super) fn has_come(&self, what: What, way: Way) -> bool {
        self.flight(what, way).is_some_and(|flight| flight.arrival.is_some())
    }
}

/// The sequence numbers of a pretended connection, as each end sees them.
#[derive(Debug, Clone, Copy)]
struct Numbers {
    opener: u32,
    /// The opener's, as they arrive.
    opener_seen: u32,
    answerer: u32,
    answerer_seen: u32,
}

/// Plays all of it.
///
/// # Errors
/// In words, what one of the ends can't do.
pub(super) fn play(course: &mut Course, opener: Way, has_service: bool) -> Result<Observed, String> {
    let mut seen = Observed { opener, flown: Vec::new(), trains: Vec::new(), mtus: Vec::new() };
    let usual = |shape| Order {
        options: Options::Usual,
        mss: course.mtu(Way::Out).min(course.mtu(Way::In)).saturating_sub(60),
        ..Order::new(0, shape, 0, 0)
    };
    let templates = [Shape::Syn, Shape::SynAck].map(usual);
    let Some(numbers) = handshake(course, &mut seen, 0, templates, What::Plain)? else { return Ok(seen) };
    for way in [opener, opener.back()] {
        established(course, &mut seen, way, numbers)?;
    }
    end(course, opener, 0, numbers.opener, numbers.answerer_seen)?;
    let offers = templates.map(|order| Order { options: Options::Offer, ..order });
    let offered = handshake(course, &mut seen, 1, offers, What::Offer)?;
    handshake(course, &mut seen, 2, templates.map(|order| Order { is_ecn_setup: true, ..order }), What::Ecn)?;
    let early = if offered.is_some() { offers[0] } else { templates[0] };
    early_data(course, &mut seen, early)?;
    // A port that is closed to the NICs themselves says nothing of their options.
    if has_service && handshake(course, &mut seen, SERVICE_LANE, templates, What::Service)?.is_some() {
        handshake(course, &mut seen, SERVICE_LANE, offers, What::ServiceOffer)?;
    }
    Ok(seen)
}

/// Plays a handshake. Returns none if the SYN does not get through.
fn handshake(
    course: &mut Course,
    seen: &mut Observed,
    lane: usize,
    [syn, syn_ack]: [Order; 2],
    what: impl Fn(Shape) -> What,
) -> Result<Option<Numbers>, String> {
    let way = seen.opener;
    let (opener, answerer) = (random(), random());
    let syn = Order { sequence: opener, ..syn };
    let come = fly(course, seen, way, lane, vec![(what(Shape::Syn), syn)])?;
    let Some(opener_seen) = come.map(|arrival| arrival.sequence) else { return Ok(None) };
    let acknowledgement = opener_seen.wrapping_add(1);
    let syn_ack = Order { sequence: answerer, acknowledgement, ..syn_ack };
    let come = fly(course, seen, way.back(), lane, vec![(what(Shape::SynAck), syn_ack)])?;
    let answerer_seen = come.map_or(answerer, |arrival| arrival.sequence);
    if lane > 0 {
        end(course, way, lane, opener, answerer_seen)?;
    }
    Ok(Some(Numbers { opener, opener_seen, answerer, answerer_seen }))
}

/// Plays what an end sends in an established connection.
fn established(course: &mut Course, seen: &mut Observed, way: Way, numbers: Numbers) -> Result<(), String> {
    let (sequence, acknowledgement) = if way == seen.opener {
        (numbers.opener, numbers.answerer_seen)
    } else {
        (numbers.answerer, numbers.opener_seen)
    };
    let (sequence, acknowledgement) = (sequence.wrapping_add(1), acknowledgement.wrapping_add(1));
    let data = Order { length: SMALL, ..Order::new(0, Shape::Data, sequence, acknowledgement) };
    let of_class = |traffic_class| Order { traffic_class, ..data };
    let kinds = vec![
        (What::Data, data),
        (What::Capable, of_class(ECT_0)),
        (What::Congested, of_class(CE)),
        (What::Dscp, of_class(DSCP_EF << 2)),
        (What::Urgent, Order { is_urgent: true, ..data }),
    ];
    fly(course, seen, way, 0, kinds)?;
    if !seen.has_come(What::Data, way) {
        return Ok(());
    }
    let train = train(course, way, data)?;
    seen.trains.push(train);
    course.expect_losses((train.sent - train.come) as f64 / train.sent as f64);
    let mtu = mtu::measure(course, way, data)?;
    seen.mtus.push(mtu);
    Ok(())
}

/// Sends many; more of them, if many get lost.
fn train(course: &mut Course, way: Way, data: Order) -> Result<Train, String> {
    let mut train = Train { way, sent: 0, come: 0 };
    for _ in 0..3 {
        let orders: Vec<_> = (0..TRAIN).map(|_| course.numbered(data)).collect();
        let volley = course.fire(way, 0, &orders, SLACK)?;
        train.sent += TRAIN;
        train.come += orders.iter().filter(|order| volley.has(order.number)).count();
        if (train.sent - train.come) * SUSPICIOUS < train.sent {
            break;
        }
    }
    Ok(train)
}

fn early_data(course: &mut Course, seen: &mut Observed, syn: Order) -> Result<(), String> {
    let (way, sequence) = (seen.opener, random());
    let flights = course.insist(way, 3, vec![Order { sequence, ..syn }])?;
    if flights.iter().all(|flight| flight.arrival.is_none()) {
        return Ok(());
    }
    // It acknowledges what ClientNIC has promised in the server's name.
    let promised = random();
    let data = Order::new(0, Shape::Data, sequence.wrapping_add(1), promised.wrapping_add(1));
    fly(course, seen, way, 3, vec![(What::Early, Order { length: SMALL, ..data })])?;
    end(course, way, 3, sequence, promised)
}

/// Has firewalls forget a connection. Nobody looks whether it arrives.
fn end(course: &mut Course, way: Way, lane: usize, opener: u32, answerer: u32) -> Result<(), String> {
    let reset = Order::new(0, Shape::Reset, opener.wrapping_add(1), answerer.wrapping_add(1));
    let reset = course.numbered(reset);
    course.fire(way, lane, &[reset], Duration::ZERO)?;
    Ok(())
}

/// Sends segments until they come, and notes what has become of them. Returns how the first came.
fn fly(
    course: &mut Course,
    seen: &mut Observed,
    way: Way,
    lane: usize,
    orders: Vec<(What, Order)>,
) -> Result<Option<Arrival>, String> {
    let (whats, orders): (Vec<_>, Vec<_>) = orders.into_iter().unzip();
    let flights = course.insist(way, lane, orders)?;
    let first = flights.first().and_then(|flight| flight.arrival.clone());
    seen.flown.extend(whats.into_iter().zip(flights).map(|(what, flight)| Flown { what, way, flight }));
    Ok(first)
}

/// Tells whether a change is one of sequence numbers.
pub(super) fn moves_sequence(change: &Change) -> bool {
    matches!(change, Change::Sequence(..) | Change::Acknowledgement(..))
}

/// Nobody else knows the keys that the standard library draws.
fn random() -> u32 {
    RandomState::new().hash_one(()) as u32
}
