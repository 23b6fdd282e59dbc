//! A receiver that stops reading: its window closes, is probed, and opens again.

use super::conversation::Dialogue;
use super::conversation::Step::{Finish, Meet, Pause, Read, ReadToEnd, Send, Vanish};
use super::oracle::Trial;
use super::{Case, Report, Scenario};
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "zero-window",
    about: "a receiver stops reading for two seconds, at the beginning or later: as with kernel forwarding",
    run,
};

/// More than any receive buffer takes that nobody reads.
const FLOOD: u64 = 4 << 20;
/// More than the first window, less than both buffers: sending it does not wait for a reader.
const SOME: u64 = 200_000;
/// Time for several probes: the first comes after an RTO of some 250 ms, each next after twice that.
const STALL: Duration = Duration::from_secs(2);

const DIALOGUES: &[Dialogue] = &[
    Dialogue {
        name: "client stops reading",
        client: &[Send(1000), Pause(STALL), ReadToEnd],
        server: &[Read(1000), Send(FLOOD), Finish, ReadToEnd],
    },
    Dialogue {
        name: "server does not begin to read",
        client: &[Send(FLOOD), Finish, ReadToEnd],
        server: &[Pause(STALL), ReadToEnd, Send(1000)],
    },
    Dialogue {
        name: "server stops reading",
        client: &[Send(1000), Read(1000), Send(FLOOD), Finish, ReadToEnd],
        server: &[Read(1000), Send(1000), Pause(STALL), ReadToEnd, Send(1000)],
    },
    Dialogue {
        name: "both stop reading",
        client: &[Send(SOME), Pause(STALL), Read(SOME), Finish, ReadToEnd],
        server: &[Send(SOME), Pause(STALL), Read(SOME), ReadToEnd],
    },
    Dialogue {
        name: "client's host reboots while its window is closed",
        client: &[Send(1000), Pause(STALL), Vanish],
        server: &[Read(1000), Send(FLOOD), ReadToEnd],
    },
    Dialogue {
        name: "window closes on the sender's end of stream",
        client: &[Send(1000), Read(1000), Meet, Pause(STALL), ReadToEnd],
        server: &[Read(1000), Send(1000), Meet, Send(FLOOD)],
    },
];

fn run(report: &mut Report) -> anyhow::Result<()> {
    report.at_once(&Case::EACH, |&case, report| Trial::new(case, DIALOGUES).verify(report).map(drop))
}
