//! Both ends of the path in one hand: what one sends, and what the other catches of it.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::arrival::{Arrival, Caught, Change};
use super::order::Order;
use super::station::{SERVICE_LANE, Shot, Station, Unsent};
use crate::talk::Agent;

/// How long a segment may be under way beyond the round trip.
const JITTER: Duration = Duration::from_millis(150);
/// How often a segment is sent until it arrives, until more is known of the path. If that loses 5 %, one of 64 million is thought to
/// vanish.
const TRIES: u32 = 6;
/// How often on the worst of paths.
const MOST_TRIES: u32 = 14;
/// One segment in so many may wrongly be thought to vanish.
const MISTAKES: f64 = 1e-6;

/// Which way something goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// From here to the peer.
    Out,
    /// From the peer to here.
    In,
}

impl Way {
    /// Returns the other.
    pub(super) fn back(self) -> Self {
        match self {
            Self::Out => Self::In,
            Self::In => Self::Out,
        }
    }
}

/// What has become of a segment.
#[derive(Debug, Clone)]
pub(super) struct Flight {
    /// As it was sent.
    pub(super) order: Order,
    /// How often it was sent.
    pub(super) tries: u32,
    /// Whether the sender's own kernel refused to send it.
    pub(super) is_refused: bool,
    /// As it came, if it did.
    pub(super) arrival: Option<Arrival>,
    /// What the path has changed.
    pub(super) changes: Vec<Change>,
}

impl Flight {
    /// Tells whether there is any use in sending it once more.
    fn is_awaited(&self) -> bool {
        self.arrival.is_none() && !self.is_refused
    }
}

/// What has become of several.
#[derive(Debug, Default)]
pub(super) struct Volley {
    /// Those that came, and whatever else did.
    pub(super) arrivals: Vec<Arrival>,
    /// Those that have not left.
    pub(super) unsent: Unsent,
}

impl Volley {
    /// Adds another.
    pub(super) fn extend(&mut self, other: Self) {
        self.arrivals.extend(other.arrivals);
        self.unsent.too_large.extend(other.unsent.too_large);
        self.unsent.refused.extend(other.unsent.refused);
    }

    /// Tells whether the segment of that number has come.
    pub(super) fn has(&self, number: u16) -> bool {
        self.arrivals.iter().any(|arrival| Order::number_of(arrival.window) == Some(number))
    }
}

/// Both ends.
#[derive(Debug)]
pub(super) struct Course {
    station: Station,
    agent: Agent,
    peer: IpAddr,
    near: Vec<u16>,
    far: Vec<u16>,
    /// The near ports as the far side sees them.
    reached: Vec<u16>,
    /// MTU of the interface there.
    far_mtu: u16,
    next: u16,
    tries: u32,
}

impl Course {
    /// Opens both ends; that which answers, if connections begin this way, with the port of a service if one is given.
    ///
    /// # Errors
    /// In words, which end can't be had and why.
    pub(super) fn open(
        mut agent: Agent,
        peer: IpAddr,
        opener: Way,
        service: Option<u16>,
    ) -> Result<Self, String> {
        let (near, far) = if opener == Way::Out { (None, service) } else { (service, None) };
        let station = Station::open(agent.local(), peer, near)?;
        let (far, far_mtu) = agent.open(far)?;
        let near = station.ports();
        if far.len() != near.len() {
            return Err("the other doctor has another number of ports".to_owned());
        }
        Ok(Self { reached: near.clone(), station, agent, peer, near, far, far_mtu, next: 0, tries: TRIES })
    }

    /// Takes note of how much gets lost anyway, a part of 1: the more, the oftener everything is tried.
    pub(super) fn expect_losses(&mut self, part: f64) {
        // A part of 0 or less has no logarithm that counts.
        let needed = if part > 0.0 { (MISTAKES.ln() / part.min(0.99).ln()).ceil() } else { 0.0 };
        self.tries = (needed as u32).clamp(self.tries, MOST_TRIES);
    }

    /// Returns how often something has to be sent, at least `usual` times, so that what does not come is known to vanish.
    pub(super) fn copies(&self, usual: usize) -> usize {
        if self.tries == TRIES { usual } else { self.tries as usize }
    }

    /// Tells whether a lane leads to that port, if connections begin this way.
    pub(super) fn leads_to(&self, opener: Way, port: u16) -> bool {
        let ports = if opener == Way::Out { &self.far } else { &self.near };
        ports.get(SERVICE_LANE) == Some(&port)
    }

    /// Returns how long an answer of the other doctor takes.
    pub(super) fn round_trip(&self) -> Duration {
        self.agent.round_trip()
    }

    /// Tells which IP version the path has.
    pub(super) fn is_ipv4(&self) -> bool {
        self.peer.is_ipv4()
    }

    /// Returns the largest packet in bytes that the sender's interface takes.
    pub(super) fn mtu(&self, way: Way) -> u16 {
        match way {
            Way::Out => self.station.mtu(),
            Way::In => self.far_mtu,
        }
    }

    /// Returns where segments come from and go to, if nobody changes that.
    fn ends(&self, way: Way, lane: usize) -> (SocketAddr, SocketAddr) {
        let near = SocketAddr::new(self.agent.local(), self.near[lane]);
        let far = SocketAddr::new(self.peer, self.far[lane]);
        if way == Way::Out { (near, far) } else { (far, near) }
    }

    /// Gives orders numbers of their own.
    pub(super) fn numbered(&mut self, order: Order) -> Order {
        let number = self.next;
        self.next = (self.next + 1) % super::order::NUMBERS;
        Order { number, ..order }
    }

    /// Sends each of `orders` once, and waits until all have come or none has for a round trip and `slack`: a slow link may have
    /// queued them.
    ///
    /// # Errors
    /// In words, what one of the ends can't do.
    pub(super) fn fire(
        &mut self,
        way: Way,
        lane: usize,
        orders: &[Order],
        slack: Duration,
    ) -> Result<Volley, String> {
        let to = if way == Way::Out { self.far[lane] } else { self.reached[lane] };
        let shots: Vec<_> = orders.iter().map(|&order| Shot { lane, to, order }).collect();
        let unsent = match way {
            Way::Out => self.station.send(&shots)?,
            Way::In => self.agent.send(&shots)?,
        };
        let mut volley = Volley { unsent, ..Volley::default() };
        let patience = self.round_trip() + slack;
        let (mut deadline, mut before) = (Instant::now() + patience, orders.len());
        loop {
            let is_missing = |order: &&Order| !volley.has(order.number) && !volley.unsent.has(order.number);
            let missing = orders.iter().filter(is_missing).count();
            if missing < before {
                (deadline, before) = (Instant::now() + patience, missing);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if missing == 0 || left.is_zero() {
                break;
            }
            let caught = self.catch(way, missing, left)?;
            let arrivals = caught.into_iter().filter_map(|caught| match caught {
                Caught::Segment(arrival) => Some(arrival),
                Caught::TooBig(_) => None,
            });
            let ports = [self.near[lane], self.far[lane]];
            volley.arrivals.extend(arrivals.filter(|arrival| ports.contains(&arrival.destination.port())));
        }
        Ok(volley)
    }

    /// Returns what routers have said meanwhile of links that something was too large for which went this way: MTUs in bytes, 0
    /// from routers that don't tell.
    ///
    /// # Errors
    /// As [`Course::fire`].
    pub(super) fn complaints(&mut self, way: Way) -> Result<Vec<u32>, String> {
        let caught = self.catch(way.back(), 0, Duration::ZERO)?;
        let mtu = |caught| match caught {
            Caught::TooBig(too_big) => Some(too_big.mtu),
            Caught::Segment(_) => None,
        };
        Ok(caught.into_iter().filter_map(mtu).collect())
    }

    /// Catches at the end where this way leads to.
    fn catch(&mut self, way: Way, expected: usize, patience: Duration) -> Result<Vec<Caught>, String> {
        match way {
            Way::Out => self.agent.catch(expected, patience),
            Way::In => self.station.catch(expected, patience),
        }
    }

    /// Sends each of `orders` until it has come, a few times at most, and says what has become of it.
    ///
    /// # Errors
    /// As [`Course::fire`].
    pub(super) fn insist(
        &mut self,
        way: Way,
        lane: usize,
        orders: Vec<Order>,
    ) -> Result<Vec<Flight>, String> {
        let mut flights: Vec<_> = orders
            .into_iter()
            .map(|order| Flight { order, tries: 0, is_refused: false, arrival: None, changes: Vec::new() })
            .collect();
        // Every try has a number of its own, so that one that comes late is known, too.
        let mut numbers: Vec<Vec<u16>> = vec![Vec::new(); flights.len()];
        for attempt in 1..=self.tries {
            let missing: Vec<_> = (0..flights.len()).filter(|&at| flights[at].is_awaited()).collect();
            if missing.is_empty() {
                break;
            }
            let mut sent = Vec::with_capacity(missing.len());
            for at in missing {
                flights[at].order = self.numbered(flights[at].order);
                flights[at].tries = attempt;
                numbers[at].push(flights[at].order.number);
                sent.push(flights[at].order);
            }
            let volley = self.fire(way, lane, &sent, JITTER * attempt.min(2))?;
            for flight in &mut flights {
                flight.is_refused |= volley.unsent.refused.contains(&flight.order.number);
            }
            self.recognise(volley.arrivals, &mut flights, &numbers);
        }
        let (from, to) = self.ends(way, lane);
        for flight in &mut flights {
            let Some(arrival) = &flight.arrival else { continue };
            flight.changes = arrival.changes(&flight.order, from, to);
            if way == Way::Out {
                self.reached[lane] = arrival.source.port();
            }
        }
        Ok(flights)
    }

    /// Finds out which segment is which: by number, or else, if the path changes windows, by what is like it.
    fn recognise(&self, arrivals: Vec<Arrival>, flights: &mut [Flight], numbers: &[Vec<u16>]) {
        for arrival in arrivals {
            let number = Order::number_of(arrival.window).filter(|number| *number < self.next);
            let found = match number {
                Some(number) => numbers.iter().position(|tried| tried.contains(&number)),
                None => flights
                    .iter()
                    .position(|flight| flight.arrival.is_none() && arrival.resembles(&flight.order)),
            };
            let Some(flight) = found.and_then(|at| flights.get_mut(at)) else { continue };
            if let Some(number) = number {
                flight.order.number = number;
            }
            flight.arrival.get_or_insert(arrival);
        }
    }
}
