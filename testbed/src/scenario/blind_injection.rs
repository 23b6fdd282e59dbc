//! An attacker who knows a connection's addresses and ports, but not its numbers.

use super::conversation::Step::{Abort, Finish, Meet, Pause, Read, ReadToEnd, Send};
use super::conversation::{Dialogue, Event, Seen, Stage};
use super::oracle::Observation;
use super::{Case, Lab, Report, Scenario, Setting};
use crate::address::WAN0;
use crate::attack::blind::{Attacker, Replays};
use crate::attack::ear::Ear;
use crate::nic::{Counts, NicMode};
use crate::record::{Record, Recorder};
use anyhow::{Context, ensure};
use rtt0_core::packet::{Offload, Packet};
use rtt0_core::wire::segment::Segment;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "blind-injection",
    about: "forged RST, SYN, ACK, FIN, data, ICMP, offers, replayed offers: harm nothing that plain TCP keeps",
    run,
};

/// Time between two packets from each of the four places.
const PAUSE: Duration = Duration::from_millis(2);
/// Likewise while a handshake is attacked, which lasts a round trip.
const RARELY: Duration = Duration::from_millis(20);
/// How long a connection is idle under attack.
const IDLE: Duration = Duration::from_millis(1500);
/// Three round trips: the first exchange is over.
const SETTLE: Duration = Duration::from_millis(150);
/// Bytes recorded of a SYN: all there are.
const SNAPLEN: usize = 200;
/// How long an end waits for the other: a busy machine is no attack.
const PATIENCE: Duration = Duration::from_secs(15);
/// What a busy connection carries each way.
const MUCH: u64 = 3 << 20;
/// Ports of the servers and clients, one for each dialogue.
const SERVER_PORT: u16 = 9000;
const CLIENT_PORT: u16 = 20_000;

/// Has each pair of NICs see the handshake that is replayed later; no TIME-WAIT keeps the port.
const EARLIER: Dialogue = Dialogue {
    name: "earlier connection of the same ports",
    client: &[Send(1000), Read(1000), Meet, Abort],
    server: &[Read(1000), Send(1000), Meet, ReadToEnd],
};

const DIALOGUES: &[Dialogue] = &[
    Dialogue {
        name: "idle",
        client: &[Send(1000), Read(1000), Pause(IDLE), Send(1000), Read(1000), Finish, ReadToEnd],
        server: &[Read(1000), Send(1000), Read(1000), Send(1000), ReadToEnd],
    },
    Dialogue {
        name: "busy",
        client: &[Send(MUCH), Read(MUCH), Send(1000), Finish, ReadToEnd],
        server: &[Read(MUCH), Send(MUCH), Read(1000), ReadToEnd],
    },
    Dialogue {
        name: "client has ended its direction",
        client: &[Send(1000), Finish, Read(1000), ReadToEnd],
        server: &[ReadToEnd, Pause(IDLE), Send(1000)],
    },
    Dialogue {
        name: "server has ended its direction",
        client: &[Send(1000), ReadToEnd, Pause(IDLE), Send(1000)],
        server: &[Read(1000), Finish, ReadToEnd],
    },
];

/// Attacked from before its SYN on. What becomes of it depends on chance even under plain TCP: a forged
/// SYN that comes first may cost it a second, or its life.
const EARLY: Dialogue = Dialogue {
    name: "from the first packet on",
    client: &[Send(1000), Read(1000), Finish, ReadToEnd],
    server: &[Read(1000), Send(1000), ReadToEnd],
};
/// How many of these there are.
const EARLY_CONNECTIONS: u16 = 20;

/// How many more of these may be harmed than under kernel forwarding, by chance. About a third of them
/// are, either way: two such counts differ with a standard deviation of 3.
const CHANCE: usize = 10;

fn run(report: &mut Report) -> anyhow::Result<()> {
    let worlds =
        [(Case::IPS[0], NicMode::Paired), (Case::IPS[1], NicMode::Paired), (Case::IPS[0], NicMode::Solo)];
    // One after the other: what is injected into one keeps two processors busy.
    worlds.into_iter().try_for_each(|(case, mode)| attack(case, mode, report))
}

fn attack(case: Case, mode: NicMode, report: &mut Report) -> anyhow::Result<()> {
    let (kernel, nics) = thread::scope(|scope| {
        let kernel = scope.spawn(|| attacked(case, None));
        let nics = attacked(case, Some(mode));
        (kernel.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), nics)
    });
    let what = format!("{case}, {mode:?}");
    let (kernel, nics) = (kernel.context("under kernel forwarding")?, nics.with_context(|| what.clone())?);
    for ((dialogue, kernel), seen) in DIALOGUES.iter().zip(&kernel.seen).zip(&nics.seen) {
        let observation = |seen: &Seen| Observation { seen: seen.clone(), endings: Default::default() };
        let name = format!("{what}: {}", dialogue.name);
        ensure!(!is_harmed(kernel), "{name}: even plain TCP was harmed: {kernel}");
        let compared = report.compare(&name, &observation(kernel), &observation(seen), None);
        compared.with_context(|| format!("{:?}", nics.counts))?;
    }
    let harmed = |world: &World| world.early.iter().filter(|seen| is_harmed(seen)).count();
    let (plain, ours) = (harmed(&kernel), harmed(&nics));
    let example = nics.early.iter().find(|seen| is_harmed(seen));
    ensure!(
        ours <= plain + CHANCE,
        "{what}: of {EARLY_CONNECTIONS} connections attacked from their first packet on {ours} were harmed, \
         under kernel forwarding {plain}; one: {}",
        example.map_or_else(String::new, Seen::to_string)
    );
    let Some((client, server)) = nics.counts else { return Ok(()) };
    let forged = client.of("event.offer_forged") + server.of("event.offer_forged");
    let spoofed = client.of("event.spoofed_paired") + client.of("event.spoofed_solo");
    ensure!(spoofed >= DIALOGUES.len() as u64, "{what}: only {spoofed} connections were 0-RTT");
    ensure!(mode == NicMode::Solo || forged > 0, "{what}: no forged offer has reached a daemon");
    report.note(format!(
        "{what}: {} packets into {} connections, none harmed; attacked from the first packet on, {ours} of \
         {EARLY_CONNECTIONS} harmed (kernel: {plain}); {forged} forged offers stripped",
        nics.injected,
        DIALOGUES.len(),
    ));
    Ok(())
}

/// Tells whether a connection did not go as its programs wanted.
fn is_harmed(seen: &Seen) -> bool {
    seen.has(|event| matches!(event, Event::Failed(_) | Event::Received { intact: false, .. }))
}

/// What was seen in one world.
struct World {
    /// Of [`DIALOGUES`].
    seen: Vec<Seen>,
    /// Of [`EARLY`] ones.
    early: Vec<Seen>,
    injected: u64,
    counts: Option<(Counts, Counts)>,
}

fn attacked(case: Case, nics: Option<NicMode>) -> anyhow::Result<World> {
    let mut lab = Lab::raise(Setting { patience: PATIENCE, ..Setting::new(case, nics) })?;
    let count = DIALOGUES.len() as u16 + EARLY_CONNECTIONS;
    let stages = (SERVER_PORT..)
        .take(count.into())
        .map(|port| Stage::raise(&lab, port))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let record = |host| Recorder::start(host, WAN0, SNAPLEN, Some(Box::new(is_syn)));
    let (to_server, to_client) = (record(&lab.topology().client_nic)?, record(&lab.topology().server_nic)?);
    at_once(&stages, |stage, number| {
        stage.play(&EARLIER, Some(SocketAddr::new(lab.client_address(), CLIENT_PORT + number)))
    })?;
    let recorded = [to_server.stop()?, to_client.stop()?];
    let outcomes = at_once(&stages, |stage, number| {
        let late = DIALOGUES.get(usize::from(number));
        let dialogue = late.unwrap_or(&EARLY);
        under_attack(&lab, stage, dialogue, number, &recorded, late.is_none()).context(dialogue.name)
    })?;
    let (mut seen, injected): (Vec<_>, Vec<_>) = outcomes.into_iter().unzip();
    drop(stages);
    let early = seen.split_off(DIALOGUES.len());
    let counts = lab.take_nics().map(|nics| nics.stop()).transpose()?;
    Ok(World { seen, early, injected: injected.into_iter().sum(), counts })
}

/// Does something with every stage at once, by number.
fn at_once<T: std::marker::Send>(
    stages: &[Stage<'_>],
    act: impl Fn(&Stage<'_>, u16) -> anyhow::Result<T> + Sync,
) -> anyhow::Result<Vec<T>> {
    let act = &act;
    thread::scope(|scope| {
        let threads: Vec<_> =
            stages.iter().zip(0..).map(|(stage, number)| scope.spawn(move || act(stage, number))).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    })
}

/// Has a dialogue under attack: from before its first packet, or from when both ends have heard of
/// each other.
fn under_attack(
    lab: &Lab,
    stage: &Stage<'_>,
    dialogue: &Dialogue,
    number: u16,
    recorded: &[Vec<Record>; 2],
    early: bool,
) -> anyhow::Result<(Seen, u64)> {
    let client = SocketAddr::new(lab.client_address(), CLIENT_PORT + number);
    let server = SocketAddr::new(lab.server_address(), SERVER_PORT + number);
    let of = |records: &[Record], ends: (SocketAddr, SocketAddr)| -> Vec<Vec<u8>> {
        records
            .iter()
            .filter(|record| record.outgoing && ends_of(&record.bytes) == Some(ends))
            .map(|r| r.bytes.clone())
            .collect()
    };
    let replays = Replays {
        to_server: of(&recorded[0], (client, server)),
        to_client: of(&recorded[1], (server, client)),
    };
    ensure!(!replays.to_server.is_empty(), "no SYN was recorded on the long leg");
    let ear = Ear::open(lab.topology(), (client, server))?;
    let attacker = Attacker::new(lab.topology(), (client, server), replays, number.into())?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let attack = scope.spawn(|| {
            while !early && !ear.has_heard_both() && !stop.load(Ordering::Relaxed) {
                thread::sleep(PAUSE);
            }
            if !early {
                thread::sleep(SETTLE);
            }
            if early { attacker.blind().run(&ear, RARELY, &stop) } else { attacker.run(&ear, PAUSE, &stop) }
        });
        if early {
            thread::sleep(SETTLE);
        }
        let seen = stage.play(dialogue, Some(client));
        stop.store(true, Ordering::Relaxed);
        let injected = attack.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((seen?, injected))
    })
}

fn ends_of(packet: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let mut bytes = packet.to_vec();
    let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
    let segment = Segment::parse(&mut packet).ok()?;
    Some((segment.source().into(), segment.destination().into()))
}

/// Tells whether a packet is a SYN or SYN-ACK. The hosts send no extension headers.
fn is_syn(packet: &[u8]) -> bool {
    let tcp = match packet.first().map(|byte| byte >> 4) {
        Some(4) if packet.get(9) == Some(&6) => usize::from(packet[0] & 15) * 4,
        Some(6) if packet.get(6) == Some(&6) => 40,
        _ => return false,
    };
    packet.get(tcp + 13).is_some_and(|flags| flags & 2 != 0)
}
