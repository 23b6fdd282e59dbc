//! Resets from either side, at every stage of a connection.

use super::conversation::Dialogue;
use super::conversation::Step::{Abort, Meet, Pause, Read, ReadToEnd, Send};
use super::oracle::Trial;
use super::{Case, Report, Scenario};
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "reset",
    about: "RST from either side, also before the server has heard of the client: as with kernel forwarding",
    run,
};

/// More than the first flight (10 segments), so that some is still unsent when the sender aborts.
const FLIGHT: u64 = 32 << 10;
/// More than any buffer holds before the first acknowledgement: the sender has to wait.
const FLOOD: u64 = 16 << 20;
/// Two round trips: nothing is under way any more.
const SETTLE: Duration = Duration::from_millis(100);

const DIALOGUES: &[Dialogue] = &[
    Dialogue {
        name: "client aborts, nothing in flight",
        client: &[Send(1000), Read(1000), Pause(SETTLE), Meet, Abort],
        server: &[Read(1000), Send(1000), Meet, ReadToEnd, Send(1)],
    },
    Dialogue {
        name: "server aborts, nothing in flight",
        client: &[Send(1000), Read(1000), Meet, ReadToEnd, Send(1)],
        server: &[Read(1000), Send(1000), Pause(SETTLE), Meet, Abort],
    },
    Dialogue {
        name: "client aborts with its data in flight",
        client: &[Send(1000), Read(1000), Pause(SETTLE), Send(FLIGHT), Abort],
        server: &[Read(1000), Send(1000), ReadToEnd, Send(1)],
    },
    Dialogue {
        name: "server aborts with its data in flight",
        client: &[Send(1000), ReadToEnd, Send(1)],
        server: &[Read(1000), Send(FLIGHT), Abort],
    },
    Dialogue {
        name: "client aborts with the server's data in flight",
        client: &[Send(1000), Read(1000), Abort],
        server: &[Read(1000), Send(1000), Send(FLOOD), ReadToEnd],
    },
    Dialogue {
        name: "server aborts with the client's data in flight",
        client: &[Send(1000), Read(1000), Send(FLOOD), ReadToEnd],
        server: &[Read(1000), Send(1000), Read(1000), Abort],
    },
    Dialogue {
        name: "server closes without having read all",
        client: &[Send(3000), ReadToEnd, Send(1)],
        server: &[Read(1000), Send(1000), Pause(SETTLE)],
    },
    Dialogue {
        name: "client aborts as soon as connect() has returned",
        client: &[Abort],
        server: &[ReadToEnd, Send(1)],
    },
    Dialogue {
        name: "client aborts as soon as it has sent",
        client: &[Send(1000), Abort],
        server: &[ReadToEnd, Send(1)],
    },
    Dialogue {
        name: "client aborts as soon as it has sent much",
        client: &[Send(FLIGHT), Abort],
        server: &[ReadToEnd, Send(1)],
    },
    Dialogue {
        name: "client closes as soon as it has sent, and the server answers",
        client: &[Send(1000)],
        server: &[ReadToEnd, Send(1000), Pause(SETTLE), Send(1), ReadToEnd],
    },
    Dialogue {
        name: "server aborts as soon as it has accepted",
        client: &[ReadToEnd, Send(1)],
        server: &[Abort],
    },
];

fn run(report: &mut Report) -> anyhow::Result<()> {
    for case in Case::ALL {
        Trial::new(case, DIALOGUES).verify(report)?;
    }
    Ok(())
}
