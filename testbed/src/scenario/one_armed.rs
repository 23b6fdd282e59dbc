//! NICs with a single device each: packets come in and go out by the same, led there by routes.

use super::conversation::Dialogue;
use super::conversation::Step::{Abort, Finish, Read, ReadToEnd, Send};
use super::oracle::Trial;
use super::{Case, Report, Scenario, Setting};
use crate::topology::Wiring;
use anyhow::ensure;
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "one-armed",
    about: "NICs with one device, beside the path and not across it: as with kernel forwarding, and 0-RTT",
    run,
};

const RTT: Duration = Duration::from_millis(50);
const MUCH: u64 = 4 << 20;

/// The first is timed: what 0-RTT is worth shows in it.
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
    Dialogue {
        name: "server speaks first",
        client: &[Read(2000), Send(1000), ReadToEnd],
        server: &[Send(2000), Read(1000)],
    },
    Dialogue {
        name: "client aborts",
        client: &[Send(1000), Read(1000), Abort],
        server: &[Read(1000), Send(1000), ReadToEnd],
    },
];

fn run(report: &mut Report) -> anyhow::Result<()> {
    report.at_once(&Case::ALL, |case, report| {
        let setting = Setting { rtt: RTT, wiring: Wiring::OneArmed, ..Setting::new(*case, None) };
        let verified = Trial::new(*case, DIALOGUES).setting(setting).verify(report)?;
        let established = verified.server.of("event.established");
        let wanted = DIALOGUES.len() as u64;
        ensure!(established >= wanted, "{case}: ServerNIC translated {established} of {wanted} dialogues");
        if let Some([kernel, nics]) = verified.times.first() {
            report.note(format!("{case}: request and answer {nics:.0?}, kernel forwarding {kernel:.0?}"));
        }
        Ok(())
    })
}
