//! The server's host answers no SYN for a while: ServerNIC holds what the client does meanwhile.

use super::conversation::Dialogue;
use super::conversation::Step::{Abort, Finish, Pause, Read, ReadToEnd, Send};
use super::oracle::{Ports, Trial};
use super::{Case, Report, Scenario};
use anyhow::ensure;
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "late-server",
    about: "accept queue full, or SYNs dropped, for 700 ms: what the client sends, ends or aborts meanwhile is kept in order",
    run,
};

/// Longer than it takes ServerNIC to repeat its SYN twice, shorter than a client's first repeat.
const LATE: Duration = Duration::from_millis(700);
/// Some round trips, all of them while the handshake is still under way.
const SHORTLY: Duration = Duration::from_millis(200);

const DIALOGUES: &[Dialogue] = &[
    Dialogue {
        name: "request and answer",
        client: &[Send(1000), Read(1000)],
        server: &[Read(1000), Send(1000), ReadToEnd],
    },
    Dialogue {
        name: "client sends as much as it may",
        client: &[Send(200_000), Finish, ReadToEnd],
        server: &[ReadToEnd, Send(1000)],
    },
    Dialogue {
        name: "client ends its direction while held",
        client: &[Send(1000), Pause(SHORTLY), Finish, ReadToEnd],
        server: &[ReadToEnd, Send(1000)],
    },
    Dialogue { name: "client closes while held", client: &[Send(1000)], server: &[ReadToEnd] },
    Dialogue {
        name: "client aborts while held",
        client: &[Send(1000), Pause(SHORTLY), Abort],
        server: &[ReadToEnd, Send(1)],
    },
    Dialogue {
        name: "client aborts while held without having sent a byte",
        client: &[Pause(SHORTLY), Abort],
        server: &[ReadToEnd, Send(1)],
    },
    Dialogue { name: "server speaks first", client: &[ReadToEnd], server: &[Send(1000)] },
];

fn run(report: &mut Report) -> anyhow::Result<()> {
    report.at_once(&Case::EACH, |&case, report| {
        for ports in [Ports::SilentFor(LATE), Ports::FullFor(LATE)] {
            let verified = Trial::new(case, DIALOGUES).ports(ports).verify(report);
            let verified = verified.map_err(|error| error.context(format!("{ports:?}")))?;
            let resent = verified.server.of("event.syn_resent");
            ensure!(resent > 0, "{case}, {ports:?}: ServerNIC repeated no SYN: nothing was late");
            report.note(format!("{case}, {ports:?}: {resent} SYNs repeated by ServerNIC"));
        }
        Ok(())
    })
}
