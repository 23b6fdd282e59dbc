//! Keepalive probes (RFC 9293 §3.8.4) over silent connections, and what they find out.

use super::conversation::Dialogue;
use super::conversation::Step::{Deafen, KeepAlive, Meet, Pause, Read, ReadToEnd, Send, Vanish};
use super::oracle::Trial;
use super::{Case, Report, Scenario};
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "keepalive",
    about: "probes each second over a silent connection, answered, refused and lost: as with kernel forwarding",
    run,
};

/// Time for two probes and their answers.
const SILENCE: Duration = Duration::from_millis(2500);
/// Longer than it takes to give up: a second until the first probe and one after each of three.
const DEATH: Duration = Duration::from_millis(4500);
/// Two round trips: nothing is under way any more.
const SETTLE: Duration = Duration::from_millis(100);

const DIALOGUES: &[Dialogue] = &[
    Dialogue {
        name: "both probe, then talk on",
        client: &[KeepAlive, Send(1000), Read(1000), Pause(SILENCE), Send(1000), ReadToEnd],
        server: &[KeepAlive, Read(1000), Send(1000), Read(1000), Send(1000)],
    },
    Dialogue {
        name: "both probe before the first byte",
        client: &[KeepAlive, Pause(SILENCE), Send(1000), ReadToEnd],
        server: &[KeepAlive, Read(1000), Send(1000)],
    },
    Dialogue {
        name: "client finds the server gone silent",
        client: &[KeepAlive, Send(1000), Read(1000), Meet, ReadToEnd, Send(1)],
        server: &[Read(1000), Send(1000), Pause(SETTLE), Deafen, Meet, Pause(DEATH), Vanish],
    },
    Dialogue {
        name: "server finds the client gone silent",
        client: &[Send(1000), Read(1000), Pause(SETTLE), Deafen, Meet, Pause(DEATH), Vanish],
        server: &[KeepAlive, Read(1000), Send(1000), Meet, ReadToEnd, Send(1)],
    },
    Dialogue {
        name: "client finds that the server's host has rebooted",
        client: &[KeepAlive, Send(1000), Read(1000), ReadToEnd, Send(1)],
        server: &[Read(1000), Send(1000), Pause(SETTLE), Vanish],
    },
    Dialogue {
        name: "server finds that the client's host has rebooted",
        client: &[Send(1000), Read(1000), Pause(SETTLE), Vanish],
        server: &[KeepAlive, Read(1000), Send(1000), ReadToEnd, Send(1)],
    },
];

fn run(report: &mut Report) -> anyhow::Result<()> {
    report.at_once(&Case::EACH, |&case, report| {
        Trial::new(case, DIALOGUES).patience(Duration::from_secs(8)).verify(report).map(drop)
    })
}
