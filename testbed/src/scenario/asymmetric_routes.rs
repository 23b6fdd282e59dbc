//! Requests or replies avoid a NIC, from the beginning or from one moment on.
//!
//! Of connections begun from then on, none may break. One that a NIC translates already does, if
//! its packets no longer come by: nobody can help it.

use super::conversation::Dialogue;
use super::conversation::Step::{Finish, Pause, Read, ReadToEnd, Send};
use super::oracle::{Change, Early, Trial, Verified};
use super::{Case, Lab, Report, Scenario, Setting};
use crate::address::{CLIENT, CLIENT_GATE, CLIENT_NIC_LAN, Dual, SERVER, SERVER_GATE, SERVER_NIC_LAN};
use crate::host::Host;
use crate::nic::NicMode;
use crate::topology::Wiring;
use anyhow::{Context, ensure};
use rtt0_netio::links::Links;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "asymmetric-routes",
    about: "one direction avoids one NIC, always or from now on: new connections are as with kernel forwarding",
    run,
};

const RTT: Duration = Duration::from_millis(50);
/// More than a NIC waits for the end of a handshake (15 s).
const LONG: Duration = Duration::from_secs(16);
const PATIENCE: Duration = Duration::from_secs(20);

const DIALOGUES: &[Dialogue] = &[
    Dialogue {
        name: "request and answer",
        client: &[Send(1000), Read(1000), ReadToEnd],
        server: &[Read(1000), Send(1000), Finish, ReadToEnd],
    },
    Dialogue {
        name: "download",
        client: &[Send(1), ReadToEnd],
        server: &[Read(1), Send(200_000), Finish, ReadToEnd],
    },
    Dialogue { name: "upload", client: &[Send(200_000), Finish, ReadToEnd], server: &[ReadToEnd, Send(1)] },
    Dialogue {
        name: "server speaks first",
        client: &[Read(2000), Send(1000), ReadToEnd],
        server: &[Send(2000), Read(1000)],
    },
    Dialogue {
        name: "a second request much later",
        client: &[Send(1000), Read(1000), Pause(LONG), Send(1000), Read(1000), ReadToEnd],
        server: &[Read(1000), Send(1000), Read(1000), Send(1000), Finish, ReadToEnd],
    },
];

/// A way around a NIC.
#[derive(Debug, Clone, Copy)]
struct Detour {
    name: &'static str,
    change: Change,
    /// If it comes suddenly: whether dialogues are answered early all the same, and whether ClientNIC
    /// then has to translate.
    suddenly: (bool, bool),
}

const DETOURS: [Detour; 4] = [
    Detour {
        name: "requests avoid ClientNIC",
        change: |lab| redirect(&lab.topology().client, EVERYWHERE, CLIENT_NIC_LAN, Some(CLIENT_GATE)),
        suddenly: (false, false),
    },
    Detour {
        name: "replies avoid ClientNIC",
        change: |lab| redirect(gate(lab, 0)?, (CLIENT, 32, 128), CLIENT_NIC_LAN, None),
        suddenly: (true, false),
    },
    Detour {
        name: "requests avoid ServerNIC",
        change: |lab| redirect(gate(lab, 1)?, (SERVER, 32, 128), SERVER_NIC_LAN, None),
        suddenly: (true, true),
    },
    Detour {
        name: "replies avoid ServerNIC",
        change: |lab| redirect(&lab.topology().server, EVERYWHERE, SERVER_NIC_LAN, Some(SERVER_GATE)),
        suddenly: (true, true),
    },
];

/// A detour in a world, and whether it comes suddenly.
type Plan = (Case, NicMode, Detour, bool);

fn run(report: &mut Report) -> anyhow::Result<()> {
    let mut plans: Vec<Plan> = Vec::new();
    for (case, mode) in [(Case::IPS[0], NicMode::Paired), (Case::IPS[1], NicMode::Auto)] {
        for detour in DETOURS {
            plans.extend([false, true].map(|suddenly| (case, mode, detour, suddenly)));
        }
    }
    // One IP version after the other: their daemons' beginnings alone keep the processors busy for seconds.
    plans.chunks(2 * DETOURS.len()).try_for_each(|plans| report.at_once(plans, verify))
}

fn verify(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let (case, mode, detour, suddenly) = plan;
    let when = if *suddenly { "from now on" } else { "always" };
    let context = || format!("{} {mode:?}, {}, {when}", case.ip, detour.name);
    let setting =
        Setting { rtt: RTT, wiring: Wiring::OneArmed, patience: PATIENCE, ..Setting::new(*case, None) };
    let trial = Trial::new(*case, DIALOGUES).setting(setting).mode(*mode).early(Early::Any);
    let trial = trial.expect("reset-behind-confirm");
    let trial = if *suddenly { trial.upset(detour.change) } else { trial.prepare(detour.change) };
    let verified = trial.verify(report).with_context(context)?;
    expected(plan, &verified).with_context(context)?;
    let of = |event| verified.client.of(event);
    let (paired, solo) = (of("event.spoofed_paired"), of("event.spoofed_solo"));
    let fell = of("event.fell_back_to_solo");
    report.note(format!("{}: {paired} paired, {solo} solo, {fell} fell back", context()));
    Ok(())
}

/// Verifies by ClientNIC's counters that the detour was one.
fn expected((_, mode, detour, suddenly): &Plan, verified: &Verified) -> anyhow::Result<()> {
    let seen = ["event.spoofed_paired", "event.fell_back_to_solo"].map(|event| verified.client.of(event));
    let all = |yes: bool| if yes { DIALOGUES.len() as u64 } else { 0 };
    let (early, alone) = if *suddenly { detour.suddenly } else { (false, false) };
    let wanted = [all(early), all(alone)];
    ensure!(seen == wanted, "paired and fallen back {seen:?}, not {wanted:?}");
    let solo = verified.client.of("event.spoofed_solo");
    ensure!(*mode == NicMode::Auto || solo == 0, "{solo} dialogues were answered in solo mode");
    Ok(())
}

/// Networks by address and prefix lengths of IPv4 and IPv6.
type Networks = (Dual, u8, u8);

const EVERYWHERE: Networks = (Dual { v4: Ipv4Addr::UNSPECIFIED, v6: Ipv6Addr::UNSPECIFIED }, 0, 0);

fn gate(lab: &Lab, side: usize) -> anyhow::Result<&Host> {
    lab.topology().gates.as_ref().and_then(|gates| gates.get(side)).context("this lab has no gateways")
}

/// Leads what a host sends to the networks past `nic`: to `gateway`, or directly where they are on
/// its own link.
fn redirect(host: &Host, (to, v4, v6): Networks, nic: Dual, gateway: Option<Dual>) -> anyhow::Result<()> {
    let links = Links::open(host.namespace())?;
    for (to, prefix) in [(IpAddr::from(to.v4), v4), (to.v6.into(), v6)] {
        links.remove_route(to, prefix, nic.like(to))?;
        if let Some(gateway) = gateway {
            links.add_route(to, prefix, gateway.like(to))?;
        }
    }
    Ok(())
}
