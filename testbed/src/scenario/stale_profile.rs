//! The server changes behind the daemons' backs: what was promised has to be kept, or the client told.

use super::conversation::Dialogue;
use super::conversation::Step::{Finish, Read, ReadToEnd, Send};
use super::oracle::{Change, Early, Trial};
use super::{Case, Lab, Report, Scenario};
use anyhow::ensure;
use rtt0_netio::sysctl;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "stale-profile",
    about: "the server drops an option, shrinks its MSS or closes its port after it was learned",
    run,
};

/// More than one window of either end: losses, scaled windows and SACK all come into play.
const MUCH: u64 = 1 << 20;

const DIALOGUES: &[Dialogue] = &[
    Dialogue {
        name: "request and answer",
        client: &[Send(1000), Read(1000)],
        server: &[Read(1000), Send(1000), ReadToEnd],
    },
    Dialogue {
        name: "download",
        client: &[Send(1), ReadToEnd],
        server: &[Read(1), Send(MUCH), Finish, ReadToEnd],
    },
    Dialogue { name: "upload", client: &[Send(MUCH), Finish, ReadToEnd], server: &[ReadToEnd, Send(1)] },
];

/// What a client does with a port that was closed: it writes, or waits.
const REFUSED: &[Dialogue] = &[
    Dialogue { name: "waits for the server", client: &[ReadToEnd], server: &[] },
    Dialogue { name: "sends and waits", client: &[Send(1000), ReadToEnd], server: &[] },
];

fn set(lab: &Lab, name: &str, value: &str) -> anyhow::Result<()> {
    Ok(sysctl::set(lab.topology().server.namespace(), &[(name, value)])?)
}

/// Changes that leave the promise repairable.
const REPAIRABLE: &[(&str, Change, &str)] = &[
    ("no SACK", |lab| set(lab, "net.ipv4.tcp_sack", "0"), "event.repaired_sack"),
    ("no window scale", |lab| set(lab, "net.ipv4.tcp_window_scaling", "0"), "event.repaired_window_scale"),
];

fn run(report: &mut Report) -> anyhow::Result<()> {
    for case in Case::IPS {
        for (what, change, counter) in REPAIRABLE {
            let verified = Trial::new(case, DIALOGUES).upset(*change).verify(report)?;
            let repaired = verified.server.of(counter);
            ensure!(repaired > 0, "{case}, {what}: ServerNIC repaired nothing");
            report.note(format!("{case}, {what}: {repaired} of {} repaired", DIALOGUES.len()));
        }
        Trial::new(case, REFUSED).deaf().early(Early::Any).verify(report)?;
    }
    Ok(())
}
