//! One host has rebooted and knows nothing of the connection any more (RFC 9293 §3.5.1).

use super::conversation::Dialogue;
use super::conversation::Step::{Finish, Meet, Pause, Read, ReadToEnd, Send, Vanish};
use super::oracle::Trial;
use super::{Case, Report, Scenario};
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "half-open",
    about: "either host forgets the connection, the other one sends on, ends or closes: as with kernel forwarding",
    run,
};

/// Two round trips: nothing is under way any more.
const SETTLE: Duration = Duration::from_millis(100);
/// More than a window.
const MUCH: u64 = 8 << 20;

const DIALOGUES: &[Dialogue] = &[
    Dialogue {
        name: "server's host reboots, client sends on",
        client: &[Send(1000), Read(1000), Meet, Pause(SETTLE), Send(1000), ReadToEnd, Send(1)],
        server: &[Read(1000), Send(1000), Pause(SETTLE), Meet, Vanish],
    },
    Dialogue {
        name: "client's host reboots, server sends on",
        client: &[Send(1000), Read(1000), Pause(SETTLE), Meet, Vanish],
        server: &[Read(1000), Send(1000), Meet, Pause(SETTLE), Send(1000), ReadToEnd, Send(1)],
    },
    Dialogue {
        name: "server's host reboots, client ends its direction",
        client: &[Send(1000), Read(1000), Meet, Pause(SETTLE), Finish, ReadToEnd],
        server: &[Read(1000), Send(1000), Pause(SETTLE), Meet, Vanish],
    },
    Dialogue {
        name: "client's host reboots, server closes",
        client: &[Send(1000), Read(1000), Pause(SETTLE), Meet, Vanish],
        server: &[Read(1000), Send(1000), Meet, Pause(SETTLE)],
    },
    Dialogue {
        name: "server's host reboots in the midst of an upload",
        client: &[Send(MUCH), ReadToEnd],
        server: &[Read(100_000), Vanish],
    },
    Dialogue {
        name: "client's host reboots in the midst of a download",
        client: &[Send(1000), Read(100_000), Vanish],
        server: &[Read(1000), Send(MUCH), ReadToEnd],
    },
    Dialogue {
        name: "server's host reboots before it has answered",
        client: &[Send(1000), Pause(SETTLE), Pause(SETTLE), Send(1000), ReadToEnd],
        server: &[Read(1000), Vanish],
    },
    Dialogue {
        name: "client's host reboots as soon as it has sent",
        client: &[Send(1000), Vanish],
        server: &[ReadToEnd, Send(1000), ReadToEnd],
    },
];

fn run(report: &mut Report) -> anyhow::Result<()> {
    report.at_once(&Case::EACH, |&case, report| Trial::new(case, DIALOGUES).verify(report).map(drop))
}
