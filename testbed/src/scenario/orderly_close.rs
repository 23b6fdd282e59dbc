//! The end of a direction, from either side, with data still going the other way.

use super::conversation::Dialogue;
use super::conversation::Step::{Finish, Meet, Pause, Read, ReadToEnd, Send};
use super::oracle::Trial;
use super::{Case, Report, Scenario};
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "orderly-close",
    about: "FIN from either side, half-close both ways, simultaneous close: as with kernel forwarding",
    run,
};

/// What is sent after the other side has ended its direction.
const MEGABYTE: u64 = 1 << 20;
/// Two round trips: nothing is under way any more.
const SETTLE: Duration = Duration::from_millis(100);

const DIALOGUES: &[Dialogue] = &[
    Dialogue {
        name: "client closes first",
        client: &[Send(1000), Read(2000)],
        server: &[Read(1000), Send(2000), ReadToEnd],
    },
    Dialogue {
        name: "server closes first",
        client: &[Send(1000), ReadToEnd],
        server: &[Read(1000), Send(2000)],
    },
    Dialogue {
        name: "server closes first, client much later",
        client: &[Send(1000), ReadToEnd, Pause(SETTLE)],
        server: &[Read(1000), Send(2000)],
    },
    Dialogue {
        name: "client ends its direction, server sends on",
        client: &[Send(1000), Finish, ReadToEnd],
        server: &[ReadToEnd, Pause(SETTLE), Send(MEGABYTE)],
    },
    Dialogue {
        name: "server ends its direction, client sends on",
        client: &[Send(1000), ReadToEnd, Pause(SETTLE), Send(MEGABYTE)],
        server: &[Read(1000), Send(10), Finish, ReadToEnd],
    },
    Dialogue {
        name: "server ends its direction before it was asked anything",
        client: &[ReadToEnd, Send(1000)],
        server: &[Finish, ReadToEnd],
    },
    Dialogue {
        name: "server speaks first",
        client: &[Read(2000), Send(1000), ReadToEnd],
        server: &[Send(2000), Read(1000)],
    },
    Dialogue {
        name: "both close at once",
        client: &[Send(1000), Read(1000), Meet, Finish, ReadToEnd],
        server: &[Read(1000), Send(1000), Meet, Finish, ReadToEnd],
    },
    Dialogue {
        name: "both send and close at once",
        client: &[Send(1000), Read(1000), Meet, Send(5000), Finish, ReadToEnd],
        server: &[Read(1000), Send(1000), Meet, Send(5000), Finish, ReadToEnd],
    },
    Dialogue {
        name: "client ends its direction at once, without a byte",
        client: &[Finish, ReadToEnd],
        server: &[ReadToEnd, Send(1000)],
    },
    Dialogue { name: "client closes at once", client: &[], server: &[ReadToEnd] },
];

fn run(report: &mut Report) -> anyhow::Result<()> {
    for case in Case::ALL {
        Trial::new(case, DIALOGUES).verify(report)?;
    }
    Ok(())
}
