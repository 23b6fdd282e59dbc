//! Urgent data (RFC 9293 §3.8.5), either way: the pointer travels with its byte.

use super::conversation::Dialogue;
use super::conversation::Step::{Finish, Meet, Read, ReadToEnd, ReadUrgent, Send, SendUrgent};
use super::oracle::Trial;
use super::{Case, Report, Scenario};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "urgent-data",
    about: "a byte sent out of band comes out of band, either way, also in the first flight",
    run,
};

const DIALOGUES: &[Dialogue] = &[
    Dialogue {
        name: "nothing but a byte of urgent data",
        client: &[SendUrgent(7), ReadToEnd],
        server: &[ReadUrgent, Send(1)],
    },
    Dialogue {
        name: "client sends urgent data in the midst of its request",
        client: &[Send(1000), SendUrgent(7), Send(1000), Finish, ReadToEnd],
        server: &[ReadUrgent, ReadToEnd, Send(1000)],
    },
    Dialogue {
        name: "server sends urgent data in the midst of its answer",
        client: &[Send(1000), ReadUrgent, ReadToEnd],
        server: &[Read(1000), Send(1000), SendUrgent(8), Send(1000)],
    },
    Dialogue {
        name: "both, later",
        client: &[Send(1000), Read(1000), Meet, SendUrgent(1), ReadUrgent, Send(10), Finish, ReadToEnd],
        server: &[Read(1000), Send(1000), Meet, SendUrgent(2), ReadUrgent, Send(10), Finish, ReadToEnd],
    },
];

fn run(report: &mut Report) -> anyhow::Result<()> {
    report.at_once(&Case::EACH, |&case, report| Trial::new(case, DIALOGUES).verify(report).map(drop))
}
