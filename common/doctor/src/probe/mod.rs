//! *Where did it go*: sends marked packets and compares what each layer says it has seen of them.
//!
//! ```text
//!  program ─▶ output ─▶ postrouting ─▶ control group ─▶ neighbour ─▶ egress ─▶ tc ─▶ qdisc ─▶ tap ─▶ driver
//!                                                                                                     │
//!  program ◀─ input ◀─ routing ◀─ prerouting ◀─ ingress ◀─ tc ◀─ tap ◀─ XDP ◀─ driver ◀───────────────┘
//! ```
//!
//! `leaving` counts on the upper way, `arriving` on the lower one: at the far host if a doctor listens there, on this
//! host for what it sends to itself, and here for the answers. `verdict` finds the first place that has seen fewer than
//! the one before, and who stands between the two. Whatever counts belongs to this process and vanishes with it.

pub mod arriving;
mod counts;
mod leaving;
mod send;
pub mod sighting;
mod verdict;

use std::net::SocketAddr;

use crate::finding::Layer;
use crate::look::drops::{DropMonitor, Dropped};
use crate::look::firewall::Firewall;
use crate::look::programs::Programs;
use crate::patient::Patient;
use crate::report::Report;
use crate::talk::Agent;
use arriving::Watch;
use leaving::Leaving;
use send::Marks;
pub use sighting::{Protocol, Sighting};
use verdict::Facts;

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

impl Sighting {
    fn suspecting(mut self, suspects: Vec<String>) -> Self {
        self.suspects = suspects;
        self
    }
}

fn sighting(place: impl Into<String>, layer: Layer, packets: Option<u64>) -> Sighting {
    Sighting { place: place.into(), layer: layer.name().to_owned(), packets, suspects: Vec::new() }
}

/// Sends probes and reports the first layer that has seen fewer than the one before.
pub fn probe(_patient: &Patient, target: &Target, report: &mut Report) {
    let mut target = target.clone();
    target.address.set_ip(target.address.ip().to_canonical());
    let marks = Marks::choose(&target);
    let monitor = DropMonitor::start();
    let leaving = Leaving::start(&target, &marks.leaving());
    let interface = leaving.interface.clone();
    let look = || (Firewall::read(), Programs::read(std::slice::from_ref(&interface)));
    let before = look();
    let far = Far::start(&target, &marks, &leaving);
    let answers = Watch::over(target.protocol, &marks.answers(), target.address.ip(), None);

    let sent = marks.send();

    for (what, why) in leaving.unseen() {
        report.cannot_see(what, why);
    }
    let way = leaving.way.clone();
    let left = leaving.finish(sent.tried);
    let far = far.finish(report);
    let answers = answers.finish();
    let drops = monitor.and_then(DropMonitor::stop).unwrap_or_default();
    let is_ours = |dropped: &Dropped| marks.fits(dropped.protocol, dropped.ports);
    let facts = Facts {
        target: &target,
        interface: &interface,
        way: &way,
        sent: &sent,
        left: &left,
        before: &before,
        after: &look(),
        drops: drops.into_iter().filter(is_ours).collect(),
        far,
        answers,
    };
    facts.note(report);
    facts.judge(report);
}

/// What counts at the other end.
enum Far {
    /// This host.
    Here(Box<Watch>),
    /// Another, where a doctor listens.
    Agent(Box<Agent>),
    /// One was asked for, and does not answer.
    Silent(String),
    /// Another, of which nothing is known.
    Unknown,
}

impl Far {
    fn start(target: &Target, marks: &Marks, leaving: &Leaving) -> Self {
        if leaving.way.as_ref().is_ok_and(|way| way.is_local) {
            let address = target.address.ip();
            return Self::Here(Box::new(Watch::over(target.protocol, &marks.leaving(), address, None)));
        }
        let Some(address) = target.agent else { return Self::Unknown };
        let agent = Agent::connect(address).and_then(|mut agent| {
            agent.watch(target.protocol, target.address.port())?;
            Ok(agent)
        });
        agent.map_or_else(Self::Silent, |agent| Self::Agent(Box::new(agent)))
    }

    /// Returns what arrived, and whether at another host.
    fn finish(self, report: &mut Report) -> Option<(Vec<Sighting>, bool)> {
        let agent = match self {
            Self::Here(watch) => return Some((watch.finish(), false)),
            Self::Agent(mut agent) => agent.report(),
            Self::Silent(why) => Err(why),
            Self::Unknown => return None,
        };
        match agent {
            Ok(sightings) => Some((sightings, true)),
            Err(why) => {
                report.is_blind_to("what arrives at the far host", why);
                None
            }
        }
    }
}
