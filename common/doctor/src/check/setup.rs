//! How the host is set up: what is read once, and given to the judges.

use std::net::IpAddr;
use std::path::Path;

use rtt0_core::service::Service;
use rtt0_netio::emit::EMIT_MARK;
use rtt0_netio::{guard as kernel_guard, offload};

use super::presence::{self, Presence};
use super::reverse_path::{self, Arrival};
use super::routing::{self, Led};
use super::{capabilities, cloud, forwarding, guard, interfaces, leftovers, mtu, neighbours, race, traffic};
use crate::look::counters::Counters;
use crate::look::firewall::Firewall;
use crate::look::interval::Interval;
use crate::look::network::Network;
use crate::look::parameters::{Here, Parameters};
use crate::look::{self, ingress, routes};
use crate::patient::{Daemon, Patient};
use crate::report::Report;

/// Both programs, either of which may have left something on any host.
const PROGRAMS: [&str; 2] = ["clientnic", "servernic"];

/// Judges the network's configuration and the daemon.
pub(super) fn preconditions(patient: &Patient, before: &Counters, report: &mut Report) {
    let network = match Network::read() {
        Ok(network) => network,
        Err(why) => {
            report.is_blind_to("interfaces and routes", why);
            Network::default()
        }
    };
    judge_network(patient, &network, report);
    forwarding::judge(patient, &Here, report);
    cloud::judge(patient.role, look::cloud::instance().filter(|_| patient.role.forwards()).as_ref(), report);
    match &patient.daemon {
        Some(daemon) => judge_daemon(patient, daemon, before, &network, report),
        None => judge_remains(&network, report),
    }
}

fn judge_network(patient: &Patient, network: &Network, report: &mut Report) {
    interfaces::judge(patient, network, report);
    for name in patient.interfaces.iter().filter(|name| network.link(name).is_some()) {
        match offload::read(name) {
            Ok(offloads) => interfaces::judge_offloads(patient.role, name, offloads, report),
            Err(error) => report.cannot_see(format!("offloads of {name}"), error.to_string()),
        }
    }
    mtu::judge(patient, network, report);
    let led = led(patient, network);
    routing::judge_services(patient, network, &led, report);
    routing::judge_rules(patient, network, report);
    if !patient.role.forwards() {
        let ways: Vec<_> = routing::refusing(network)
            .into_iter()
            .map(|(route, to)| (route, to, routes::way(to, 0)))
            .collect();
        routing::judge_refusing(network, &ways, report);
    }
    let strict = reverse_path::strict(patient, &Here, report);
    let arrivals: Vec<_> = reverse_path::neighbours(network, &strict)
        .into_iter()
        .map(|(interface, from)| Arrival { interface, from, back: routes::way(from, 0) })
        .collect();
    reverse_path::judge(patient, network, &strict, &arrivals, report);
    neighbours::judge_permanent(network, report);
    race::note_xdp(patient, network, report);
    note_default(network, report);
}

/// Asks which way packets of each service go, as the daemon sends them.
fn led(patient: &Patient, network: &Network) -> Vec<Led> {
    let ask = |service: &Service, to: IpAddr| Led {
        service: service.to_string(),
        to,
        is_single: service.prefix.length() == if to.is_ipv4() { 32 } else { 128 },
        way: routes::way(to, EMIT_MARK),
    };
    let of = |service| routing::samples(service, network).into_iter().map(move |to| ask(service, to));
    patient.services.rules().iter().flat_map(of).collect()
}

fn note_default(network: &Network, report: &mut Report) {
    for route in network.routes.iter().filter(|route| route.to.length() == 0 && route.refusal.is_none()) {
        let router = route.via.map(|via| format!(" by the router {via}")).unwrap_or_default();
        report.note(
            format!("default route {}", route.to),
            format!("out of {}{router}", network.name(route.interface)),
        );
    }
}

fn judge_daemon(
    patient: &Patient,
    daemon: &Daemon,
    before: &Counters,
    network: &Network,
    report: &mut Report,
) {
    let presence = Presence {
        processes: look::processes::daemons(daemon.name),
        are_hidden: look::processes::are_hidden(),
        answer: before.daemon.clone(),
        socket: presence::knock(daemon.control_socket.as_deref()),
    };
    presence::judge(daemon, &presence, report);
    let processes = presence.processes.as_deref().unwrap_or_default();
    presence::judge_several(processes, report);
    let lacks_offload =
        daemon.is_offloading && presence.answer.as_ref().is_ok_and(|answer| !answer.is_offloaded);
    for process in processes {
        capabilities::judge(process, lacks_offload, report);
    }
    let runs = presence.runs();
    judge_guard(patient, &presence, network, report);
    judge_race(patient, &before.firewall, report);
    leftovers::note_pins(&daemon.bpf_dir, daemon.name, runs, report);
    if runs || presence.are_hidden || presence.processes.is_err() {
        return;
    }
    if !PROGRAMS.iter().any(|program| look::processes::daemons(program).is_ok_and(|found| !found.is_empty()))
    {
        leftovers::judge(network, report);
    }
    if let Some(own) = look::capabilities::of_threads(Path::new("/proc/self")).first() {
        capabilities::judge_environment(own, report);
    }
}

fn judge_guard(patient: &Patient, presence: &Presence, network: &Network, report: &mut Report) {
    let blind = |report: &mut Report, what: &str, why: String| {
        if presence.runs() { report.is_blind_to(what, why) } else { report.cannot_see(what, why) }
    };
    match kernel_guard::standing() {
        Err(error) => blind(report, "the kernel guard", chain(&error)),
        Ok(guards) if presence.has_settled() => {
            let own: Vec<_> = network.addresses.iter().map(|address| address.address).collect();
            guard::judge(patient, &guards, &own, report);
        }
        Ok(guards) if !presence.runs() && !presence.are_hidden && presence.processes.is_ok() => {
            guard::judge_doubles(&guards, report);
            if is_nobody_here() {
                guard::judge_orphans(&guards, report);
            }
        }
        Ok(_) => report.cannot_see("the kernel guard", "the daemon has just been started"),
    }
}

fn judge_race(patient: &Patient, firewall: &Firewall, report: &mut Report) {
    race::judge(patient, &firewall.forwarders, report);
    match ingress::flowtables() {
        Ok(flowtables) => race::judge(patient, &flowtables, report),
        Err(why) => report
            .cannot_see("who forwards at the ingress", format!("{why} (needs CAP_NET_ADMIN and nf_tables)")),
    }
}

/// Tells whether neither daemon is seen on this host.
fn is_nobody_here() -> bool {
    !look::processes::are_hidden()
        && PROGRAMS
            .iter()
            .all(|program| look::processes::daemons(program).is_ok_and(|found| found.is_empty()))
}

/// Judges what daemons may have left on a host that is to have none.
fn judge_remains(network: &Network, report: &mut Report) {
    if !is_nobody_here() {
        return;
    }
    leftovers::judge(network, report);
    if let Ok(guards) = kernel_guard::standing() {
        guard::judge_orphans(&guards, report);
    }
}

/// Judges what the daemon and the neighbour tables say of an interval.
pub(super) fn interval(patient: &Patient, interval: &Interval, report: &mut Report) {
    if let (Ok(before), Ok(after)) = (&interval.before.daemon, &interval.after.daemon) {
        let has_strict_filter = Here.number("net.ipv4.conf.all.rp_filter") == Some(1);
        traffic::judge(traffic::Between { before, after }, has_strict_filter, report);
    }
    let address_errors = interval.growth(|counters| {
        counters.tables.as_ref().ok().and_then(|tables| tables.number("IpInAddrErrors")).unwrap_or_default()
    });
    // If it can't be read, the preconditions have said so.
    let Ok(network) = Network::read() else { return };
    forwarding::judge_unforwarded(patient, &network, &Here, address_errors, report);
    let hops = neighbours::next_hops(&network, &led(patient, &network));
    let tables = (&interval.before.neighbour_entries[..], &interval.after.neighbour_entries[..]);
    neighbours::judge_unanswered(&network, &hops, tables, interval.elapsed, report);
}

/// Writes an error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
