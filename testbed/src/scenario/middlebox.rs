//! Somebody else's middlebox on the long leg: it moves sequence numbers, or strips the NICs' option.

use super::conversation::Dialogue;
use super::conversation::Step::{Abort, Finish, Read, ReadToEnd, Send};
use super::oracle::{Change, Early, Trial};
use super::{Case, Lab, Report, Scenario, Setting};
use crate::nic::NicMode;
use crate::wan::{Fate, Saboteur};
use anyhow::{Context, ensure};
use rtt0_core::service::Direction::{self, ToClient, ToServer};
use rtt0_core::wire::options::kind::{NOP, SACK};
use rtt0_core::wire::segment::Segment;
use rtt0_core::wire::tcp::Flags;
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "middlebox",
    about: "a box between the NICs rewrites ISNs or strips their option, always or from now on: as without the NICs",
    run,
};

const RTT: Duration = Duration::from_millis(20);
const MUCH: u64 = 300_000;
/// What the box adds to the client's and to the server's sequence numbers.
const MOVES: (u32, u32) = (0x1234_5678, 0x9abc_def0);

const DIALOGUES: &[Dialogue] = &[
    Dialogue {
        name: "request and answer",
        client: &[Send(1000), Read(1000), ReadToEnd],
        server: &[Read(1000), Send(1000), Finish, ReadToEnd],
    },
    Dialogue {
        name: "download",
        client: &[Send(1), ReadToEnd],
        server: &[Read(1), Send(MUCH), Finish, ReadToEnd],
    },
    Dialogue { name: "upload", client: &[Send(MUCH / 3), Finish, ReadToEnd], server: &[ReadToEnd, Send(1)] },
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

/// Boxes.
const BOXES: [(&str, Change); 4] = [
    ("rewrites ISNs", |lab| put(lab, [Some(mover(ToServer)), Some(mover(ToClient))])),
    ("strips the option", |lab| put(lab, [Some(stripper()), Some(stripper())])),
    ("strips it from SYNs", |lab| put(lab, [Some(stripper()), None])),
    ("strips it from SYN-ACKs", |lab| put(lab, [None, Some(stripper())])),
];

/// When the box comes, and what the daemons make of it.
#[derive(Debug, Clone, Copy)]
enum When {
    /// It has always been there: the NICs do not find each other.
    Always,
    /// It comes when the NICs have found each other.
    Suddenly,
}

fn run(report: &mut Report) -> anyhow::Result<()> {
    let trials: Vec<_> = BOXES.into_iter().flat_map(|b| [(b, When::Always), (b, When::Suddenly)]).collect();
    for (case, mode) in [(Case::IPS[0], NicMode::Paired), (Case::IPS[1], NicMode::Auto)] {
        report.at_once(&trials, |((what, change), when), report| {
            let setting = Setting { rtt: RTT, ..Setting::new(case, None) };
            let trial = Trial::new(case, DIALOGUES).setting(setting).mode(mode).early(Early::Any);
            let trial = match when {
                When::Always => trial.prepare(*change),
                When::Suddenly => trial.upset(*change),
            };
            let context = || format!("{case}, {mode:?}, {what}, {when:?}");
            let verified = trial.verify(report).with_context(context)?;
            let of = |event: &str| verified.client.of(event);
            let (paired, solo) = (of("event.spoofed_paired"), of("event.spoofed_solo"));
            if let When::Suddenly = when {
                let wanted = DIALOGUES.len() as u64;
                ensure!(paired == wanted, "{}: {paired} of {wanted} dialogues were 0-RTT", context());
            }
            let fell = of("event.fell_back_to_solo");
            report.note(format!(
                "{} {mode:?}, {what}, {when:?}: {paired} paired, {solo} solo, {fell} fell back",
                case.ip
            ));
            Ok(())
        })?;
    }
    Ok(())
}

/// Puts the box's two halves on the long leg: towards the server, towards the client.
fn put(lab: &Lab, [to_server, to_client]: [Option<Saboteur>; 2]) -> anyhow::Result<()> {
    lab.topology().wan().sabotage(ToServer, to_server);
    lab.topology().wan().sabotage(ToClient, to_client);
    Ok(())
}

/// Moves the numbers of both ends, SACK blocks included, as a firewall that randomises ISNs does.
fn mover(way: Direction) -> Saboteur {
    let (mine, others) = if way == ToServer { MOVES } else { (MOVES.1, MOVES.0) };
    Box::new(move |packet| {
        let Ok(mut segment) = Segment::parse(packet) else { return Fate::Keep };
        let tcp = segment.tcp();
        let (sequence, acknowledgement) = (tcp.sequence(), tcp.acknowledgement());
        let acknowledges = tcp.flags().contains(Flags::ACK);
        let edges: Vec<_> = tcp
            .options()
            .map_while(Result::ok)
            .filter(|option| option.kind == SACK)
            .flat_map(|option| (option.offset + 2..).step_by(4).zip(option.value.chunks(4)))
            .filter_map(|(at, edge)| Some((at, u32::from_be_bytes(edge.try_into().ok()?))))
            .collect();
        segment.set_sequence(sequence.wrapping_add(mine));
        if acknowledges {
            segment.set_acknowledgement(acknowledgement.wrapping_sub(others));
        }
        for (at, edge) in edges {
            segment.patch_options(at, &edge.wrapping_sub(others).to_be_bytes());
        }
        Fate::Keep
    })
}

/// Overwrites options of a SYN or SYN-ACK beyond RFC 9293 and RFC 7323 with NOPs.
fn stripper() -> Saboteur {
    const KNOWN: u8 = 8;
    Box::new(move |packet| {
        let Ok(mut segment) = Segment::parse(packet) else { return Fate::Keep };
        if !segment.tcp().flags().contains(Flags::SYN) {
            return Fate::Keep;
        }
        let unknown: Vec<_> = segment
            .tcp()
            .options()
            .map_while(Result::ok)
            .filter(|option| option.kind > KNOWN)
            .map(|option| (option.offset, vec![NOP; option.length()]))
            .collect();
        for (at, nops) in unknown {
            segment.patch_options(at, &nops);
        }
        Fate::Keep
    })
}
