//! Places on the way out of this host, and what stands between them.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use rtt0_netio::attached;
use rtt0_netio::interface;
use rtt0_netio::links::{Links, Neighbour, Way};
use rtt0_netio::ruleset_dump::Point;
use rtt0_netio::sighting::{Direction, Hooks, Packets, Place, Tap};

use super::{Sighting, Target, sighting};
use crate::finding::Layer;

/// How long packets may still be on their way through queues and address resolution; that gives up after three seconds.
const PATIENCE: Duration = Duration::from_millis(3500);

/// How long it may take until all places have counted what no queue holds back.
const SETTLE: Duration = Duration::from_millis(300);

/// Counters in place along the way out.
#[derive(Debug)]
pub(super) struct Leaving {
    hooks: Result<Hooks, String>,
    tap: Result<Tap, String>,
    /// The interface that packets leave by; empty if routing does not say.
    pub(super) interface: String,
    /// What routing says of the target.
    pub(super) way: Result<Way, String>,
    next_hop: std::net::IpAddr,
    transmit_drops: u64,
}

/// What was counted.
#[derive(Debug)]
pub(super) struct Left {
    /// The places, in their order.
    pub(super) sightings: Vec<Sighting>,
    /// What is known of the next hop; `None` if it needs no resolution.
    pub(super) neighbour: Option<Neighbour>,
    /// How many packets the device has dropped meanwhile, whoever's they were.
    pub(super) transmit_drops: u64,
}

impl Leaving {
    /// Puts counters in place. What can't be is told by [`Leaving::finish`].
    pub(super) fn start(target: &Target, packets: &Packets) -> Self {
        let links = Links::here().map_err(|error| error.to_string());
        let way = links.and_then(|links| links.way(target.address.ip()).map_err(|error| error_words(&error)));
        let index = way.as_ref().map_or(0, |way| way.device);
        let interface =
            interface::list().into_iter().find(|on| on.index == index).map(|on| on.name).unwrap_or_default();
        let hooks = Hooks::start(packets, places(&interface)).map_err(|error| error.to_string());
        let tap = match index {
            0 => Err("no interface: there is no route".to_owned()),
            _ => Tap::start(index, Direction::Outgoing, packets).map_err(|error| error.to_string()),
        };
        let next_hop = way.as_ref().ok().and_then(|way| way.gateway).unwrap_or_else(|| target.address.ip());
        let transmit_drops = transmit_drops(&interface);
        Self { hooks, tap, interface, way, next_hop, transmit_drops }
    }

    /// Counts, as soon as all `tried` packets have left or no more can be expected to.
    pub(super) fn finish(mut self, tried: u64) -> Left {
        let start = Instant::now();
        loop {
            let neighbour = self.neighbour();
            let sightings = self.sightings(tried);
            let count = |place: usize| sightings.get(place).and_then(|sighting| sighting.packets);
            let (tap, last) = (count(7), count(6).or_else(|| count(4)));
            // They wait in a queue, or for the neighbour's address, or are just being counted.
            let is_underway = match neighbour {
                Some(Neighbour::Asked) => true,
                _ if tap < last => start.elapsed() < SETTLE || self.is_queued(),
                _ => false,
            };
            if !is_underway || start.elapsed() > PATIENCE {
                let dropped = transmit_drops(&self.interface).saturating_sub(self.transmit_drops);
                return Left { sightings, neighbour, transmit_drops: dropped };
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn is_queued(&self) -> bool {
        let Ok(way) = &self.way else { return false };
        attached::queues()
            .is_ok_and(|queues| queues.iter().any(|queue| queue.interface == way.device && queue.length > 0))
    }

    fn neighbour(&self) -> Option<Neighbour> {
        let way = self.way.as_ref().ok().filter(|way| !way.is_local)?;
        Links::here().ok()?.neighbour(way.device, self.next_hop).ok()?
    }

    fn sightings(&mut self, tried: u64) -> Vec<Sighting> {
        let interface = if self.interface.is_empty() { "no interface" } else { &self.interface };
        let mut counts = match &mut self.hooks {
            Ok(hooks) => hooks.counts().unwrap_or_default(),
            Err(_) => Vec::new(),
        }
        .into_iter();
        let mut next = || counts.next().and_then(Result::ok);
        vec![
            sighting("sent by the program", Layer::Socket, Some(tried)),
            sighting("netfilter output, first", Layer::Routing, next()),
            sighting("netfilter output, last", Layer::Output, next()),
            sighting("netfilter postrouting, first", Layer::Ip, next()),
            sighting("netfilter postrouting, last", Layer::Postrouting, next()),
            sighting(format!("netfilter egress of {interface}, first"), Layer::Neighbour, next()),
            sighting(format!("netfilter egress of {interface}, last"), Layer::NetdevEgress, next()),
            sighting(
                format!("tap of {interface}, leaving"),
                Layer::Qdisc,
                self.tap.as_mut().ok().and_then(|tap| tap.count().ok()),
            ),
        ]
    }

    /// Says what could not be put in place, and why.
    pub(super) fn unseen(&self) -> Vec<(String, String)> {
        let hooks = self.hooks.as_ref().err().map(|why| {
            ("counters at netfilter's hooks".to_owned(), format!("{why}; need CAP_NET_ADMIN and Linux 5.12"))
        });
        let tap = self.tap.as_ref().err().filter(|_| self.way.is_ok());
        let tap = tap.map(|why| ("packet tap".to_owned(), format!("{why}; needs CAP_NET_RAW")));
        hooks.into_iter().chain(tap).collect()
    }
}

/// Returns the hooks on the way out, in its order.
fn places(interface: &str) -> Vec<Place> {
    let mut places = vec![
        Place::at(Point::Output, false),
        Place::at(Point::Output, true),
        Place::at(Point::Postrouting, false),
        Place::at(Point::Postrouting, true),
    ];
    if !interface.is_empty() {
        places.push(Place::at_device(Point::Egress, false, interface));
        places.push(Place::at_device(Point::Egress, true, interface));
    }
    places
}

/// Says what an error is, with what the kernel said.
pub(super) fn error_words(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Reads how many packets the device has dropped, or failed on, when it was to send them.
fn transmit_drops(interface: &str) -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    transmit_drops_in(&text, interface)
}

fn transmit_drops_in(text: &str, interface: &str) -> u64 {
    let line = text.lines().find_map(|line| {
        let (name, numbers) = line.split_once(':')?;
        (name.trim() == interface).then_some(numbers)
    });
    let Some(line) = line else { return 0 };
    let numbers: Vec<u64> = line.split_ascii_whitespace().map_while(|number| number.parse().ok()).collect();
    // Eight numbers of what was received; then bytes, packets, errs, drop, fifo, colls, carrier, compressed.
    [10, 11, 12, 14].iter().filter_map(|index| numbers.get(*index)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transmit_drops_are_read_from_the_kernels_table() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets\n    lo: 1 2 3 4 5 6 7 8 9 10 0 0 0 0 0 0\n\
            eth0: 1 2 3 4 5 6 7 8 9 10 1 20 300 4000 50000 0\n";
        assert_eq!(transmit_drops_in(text, "eth0"), 50_321);
        assert_eq!(transmit_drops_in(text, "lo"), 0);
        assert_eq!(transmit_drops_in("eth0: x", "eth0"), 0);
        assert_eq!(transmit_drops_in("", "eth0"), 0);
    }
}
