//! What devices merge, cut and check for the kernel, switched on and off in every place.

use super::conversation::Dialogue;
use super::conversation::Step::{Finish, Read, ReadToEnd, Send};
use super::oracle::{Change, Trial};
use super::{Case, Lab, Report, Scenario, Setting};
use crate::address::{ETH0, LAN0};
use crate::host::Host;
use anyhow::Context;
use rtt0_netio::offload::{self, Offloads};
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "offloads",
    about: "GRO, TSO, GSO and checksums on and off at the hosts and at the NICs: as with kernel forwarding",
    run,
};

/// Many super-packets.
const MUCH: u64 = 4 << 20;

const DIALOGUES: &[Dialogue] = &[
    Dialogue {
        name: "request and answer",
        client: &[Send(3000), Read(3000), ReadToEnd],
        server: &[Read(3000), Send(3000), Finish, ReadToEnd],
    },
    Dialogue {
        name: "download",
        client: &[Send(1), ReadToEnd],
        server: &[Read(1), Send(MUCH), Finish, ReadToEnd],
    },
    Dialogue { name: "upload", client: &[Send(MUCH), Finish, ReadToEnd], server: &[ReadToEnd, Send(1)] },
];

const CHANGES: [(&str, Change); 5] = [
    ("GRO everywhere", |lab| set(lab, &[HOSTS, NICS], |had| Offloads { gro: true, ..had })),
    ("GRO at the NICs, no TSO at the hosts", |lab| {
        set(lab, &[NICS], |had| Offloads { gro: true, ..had })?;
        set(lab, &[HOSTS], |had| Offloads { tso: false, gso: false, ..had })
    }),
    ("no TSO, no GSO at the NICs", |lab| set(lab, &[NICS], |had| Offloads { tso: false, gso: false, ..had })),
    ("no checksums at the hosts", |lab| {
        set(lab, &[HOSTS], |had| Offloads { tx_checksum: false, tso: false, ..had })
    }),
    ("no checksums at the NICs", |lab| {
        set(lab, &[NICS], |had| Offloads { tx_checksum: false, tso: false, ..had })
    }),
];

/// Client and server.
const HOSTS: [usize; 2] = [0, 3];
/// Both NICs, on their local legs.
const NICS: [usize; 2] = [1, 2];

fn run(report: &mut Report) -> anyhow::Result<()> {
    for case in Case::IPS {
        report.at_once(&CHANGES, |(what, change), report| {
            let setting = Setting { rtt: Duration::from_millis(10), ..Setting::new(case, None) };
            let trial = Trial::new(case, DIALOGUES).setting(setting).upset(*change);
            let verified = trial.verify(report).with_context(|| *what)?;
            let total = |world: usize| verified.times.iter().map(|times| times[world]).sum::<Duration>();
            report.note(format!("{}, {what}: {:.0?}, kernel {:.0?}", case.ip, total(1), total(0)));
            Ok(())
        })?;
    }
    Ok(())
}

/// Changes the offloads of the local legs' devices at the places given.
fn set(lab: &Lab, places: &[[usize; 2]], change: fn(Offloads) -> Offloads) -> anyhow::Result<()> {
    let hosts = lab.topology().hosts();
    for place in places.concat() {
        let device = if HOSTS.contains(&place) { ETH0 } else { LAN0 };
        set_one(hosts[place], device, change)?;
    }
    Ok(())
}

fn set_one(host: &Host, device: &str, change: fn(Offloads) -> Offloads) -> anyhow::Result<()> {
    host.enter(|| offload::write(device, change(offload::read(device)?)))?
        .with_context(|| format!("can't set the offloads of {device} on {}", host.name()))
}
