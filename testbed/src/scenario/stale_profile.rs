//! The server changes behind the daemons' backs: what was promised has to be kept, or the client told.

use super::conversation::Dialogue;
use super::conversation::Step::{Finish, Read, ReadToEnd, Send};
use super::oracle::{Change, Early, Ports, Trial};
use super::server_change::{COOKIES, NO_SACK, NO_TIMESTAMPS, NO_WINDOW_SCALE, SMALL_MSS};
use super::{Case, Report, Scenario};
use anyhow::ensure;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "stale-profile",
    about: "the server drops an option, shrinks its MSS, sends SYN cookies or closes its port after it was learned",
    run,
};

/// More than one window of either end: losses, scaled windows and SACK all come into play.
const MUCH: u64 = 1 << 20;
/// Likewise, and not so much that the upload gate closes.
const UPLOAD: u64 = 200_000;

pub(super) const DIALOGUES: &[Dialogue] = &[
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
    Dialogue { name: "upload", client: &[Send(UPLOAD), Finish, ReadToEnd], server: &[ReadToEnd, Send(1)] },
];

/// What a client does with a port that was closed: it writes, or waits.
const REFUSED: &[Dialogue] = &[
    Dialogue { name: "waits for the server", client: &[ReadToEnd], server: &[] },
    Dialogue { name: "sends and waits", client: &[Send(1000), ReadToEnd], server: &[] },
];

/// Changes that leave the promise repairable, and what ServerNIC counts.
const REPAIRABLE: &[(&str, Change, &str)] = &[
    ("no SACK", NO_SACK, "event.repaired_sack"),
    ("no window scale", NO_WINDOW_SCALE, "event.repaired_window_scale"),
    ("a small MSS", SMALL_MSS, "event.repaired_mss"),
];

fn run(report: &mut Report) -> anyhow::Result<()> {
    report.at_once(&Case::IPS, |&case, report| {
        let mut counted = Vec::new();
        for (what, change, counter) in REPAIRABLE {
            // The first round meets the stale profile, the second one what it has taught.
            let trial = Trial::new(case, DIALOGUES).upset(*change).rounds(2);
            let verified = trial.verify(report).map_err(|error| error.context(*what))?;
            let count = verified.server.of(counter);
            ensure!(count >= DIALOGUES.len() as u64, "{case}, {what}: {count} times {counter}");
            counted.push(format!("{what}: {counter} {count}"));
        }
        report.note(format!("{case}: {}", counted.join(", ")));
        let vanished = Trial::new(case, DIALOGUES).upset(NO_TIMESTAMPS).rounds(2).early(Early::Any);
        vanished.expect("reset-without-timestamps").verify(report)?;
        // Nothing stale about it, and so nothing to repair.
        Trial::new(case, DIALOGUES).upset(COOKIES).expect("reset-under-cookies").verify(report)?;
        let refused = Trial::new(case, REFUSED).ports(Ports::Closed).rounds(2).early(Early::Any);
        refused.expect("refused-after-connect").verify(report).map(drop)
    })
}
