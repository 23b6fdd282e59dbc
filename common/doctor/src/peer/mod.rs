//! What the path between two NICs does to packets: what left here against what arrived there, and the other way.
//!
//! ```text
//!  script                course                        station ── the path ── station
//!  pretended      ─▶     sends at one end,      ─▶     raw socket, tap,       (the agent's, at the
//!  connections           catches at the other          silent ports            far end)
//!     │
//!     ▼
//!  verdict: which fields are others than when they left, and which modes this permits
//! ```
//!
//! No connection is real. Both ends have ports that nobody else uses, at which their kernels are silent, so that firewalls on the
//! way see nothing but what the script says: whole connections, from SYN to data.

pub mod arrival;
mod course;
mod mtu;
pub mod order;
mod script;
pub mod station;
mod verdict;

use std::net::{IpAddr, SocketAddr};

use crate::causes;
use crate::finding::{Finding, Layer, Rank};
use crate::patient::{Patient, Role};
use crate::report::Report;
use crate::talk::Agent;
use crate::talk::PORT;
use course::{Course, Way};

/// A range of so many ports has none that are particular.
const MANY_PORTS: usize = 10_000;

/// What can't be seen without the other doctor, or without raw sockets.
const SUBJECT: &str = "the path to the peer";

/// Sends crafted segments to the peer's doctor and reports what the path has changed.
pub fn compare(patient: &Patient, peer: SocketAddr, report: &mut Report) {
    let address = peer.ip().to_canonical();
    if matches!(address, IpAddr::V6(address) if address.is_unicast_link_local()) {
        report.is_blind_to(SUBJECT, "a link-local address names no path; give another one of the peer's");
        return;
    }
    let agent = match Agent::connect(SocketAddr::new(address, peer.port())) {
        Ok(agent) => agent,
        Err(why) => return report.find(silent(peer, &why)),
    };
    let (local, seen, round_trip) = (agent.local(), agent.seen(), agent.round_trip());
    let ends = verdict::Ends { local, seen, peer: address, round_trip };
    // Through a NAT nothing can be reached that has not sent before.
    let opener = if patient.role == Role::ServerNic && local == seen { Way::In } else { Way::Out };
    let service = service_port(patient, address);
    let observed = Course::open(agent, address, opener, service).and_then(|mut course| {
        let is_free = service.is_some_and(|port| course.leads_to(opener, port));
        report.note("service ports on the path", tried(service, is_free));
        script::play(&mut course, opener, is_free)
    });
    match observed {
        Ok(observed) => verdict::judge(&observed, &ends, report),
        Err(why) => report.is_blind_to(SUBJECT, why),
    }
}

/// Returns a port of the services, if they have particular ones.
fn service_port(patient: &Patient, peer: IpAddr) -> Option<u16> {
    let mut rules = patient.services.rules().iter();
    let rule = rules.find(|rule| {
        rule.prefix.address().is_ipv4() == peer.is_ipv4() && rule.ports.clone().count() < MANY_PORTS
    })?;
    Some(*rule.ports.start())
}

fn tried(service: Option<u16>, is_free: bool) -> String {
    match service {
        Some(port) if is_free => format!("port {port} was tried, too"),
        Some(port) => format!("not tried, for somebody has port {port} at the answering end"),
        None => format!(
            "not tried: only ports {}-{} were, and a middlebox may treat others in another way",
            station::PORTS.start(),
            station::PORTS.end()
        ),
    }
}

fn silent(peer: SocketAddr, why: &str) -> Finding {
    Finding::new(&causes::PEER_SILENT, Layer::Path, Rank::Symptom)
        .of(peer.to_string())
        .because(why)
        .seen_by(format!("nc -vz {} {}", peer.ip(), peer.port()))
        .mended_by(format!(
            "at the peer: `clientnic doctor --listen {}` (or servernic, testbed), and let TCP port {} through (usually {PORT})",
            peer.ip(),
            peer.port()
        ))
}
