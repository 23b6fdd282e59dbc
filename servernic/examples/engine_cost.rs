//! Instructions of each stage of a packet's way through the engines, for callgrind. See
//! docs/performance/engine.md for the command; `engine_cost STAGE` does one stage 1,000 times.
#![allow(clippy::unwrap_used, reason = "an example may panic")]

#[path = "../benches/stages/mod.rs"]
mod stages;

use clientnic::engine::Mode;
use rtt0_core::engine::Engine;
use rtt0_core::limits::Limits;
use rtt0_core::packet::{Offload, Outbox, Packet};
use rtt0_core::service::Direction;
use rtt0_core::time::Instant;
use rtt0_core::wire::segment::Segment;
use stages::load::{Connection, Extras};
use stages::{KINDS, WAYS};

const TIMES: u32 = 1_000;
const NOW: Instant = Instant::from_micros(30_000_000);

fn main() {
    let stage = std::env::args().nth(1).unwrap_or_default();
    let limits = Limits::default();
    if stage == "parse" {
        let (mut door, mut out) = (stages::door(), Outbox::new());
        each(Direction::ToServer, Extras::Timestamps, 64, |bytes| {
            stages::parse(&mut door, NOW, bytes, &mut out);
        });
    } else if stage == "look_up" {
        let (mut table, keys) = stages::table(TIMES);
        keys.iter().for_each(|key| assert!(stages::look_up(&mut table, key) < TIMES.into()));
    } else if stage == "checksum_in_full" {
        each_segment(Direction::ToServer, Extras::None, 1_400, |segment| {
            assert!(stages::checksum_in_full(segment));
        });
    } else if stage == "checksum_incrementally" {
        each_segment(Direction::ToServer, Extras::None, 1_400, |segment| {
            stages::checksum_incrementally(segment, 7);
        });
    } else if let Some(((extras, _), (to, _))) = case(&stage, "translate") {
        let mut flow = stages::flow(NOW);
        each_segment(to, extras, 64, |segment| match to {
            Direction::ToServer => _ = stages::translate_to_server(&mut flow, segment, &limits),
            Direction::ToClient => _ = stages::translate_to_client(&mut flow, segment, &limits, NOW),
        });
    } else if let Some(((extras, _), (to, _))) = case(&stage, "servernic") {
        let mut world = stages::world(Mode::Auto, 1_000);
        engine(world.server_nic.as_mut().unwrap(), to, extras);
    } else if let Some(((extras, _), (to, _))) = case(&stage, "clientnic") {
        let mut world = stages::world(Mode::Solo, 1_000);
        engine(&mut world.client_nic, to, extras);
    } else {
        eprintln!(
            "stages: parse, look_up, checksum_in_full, checksum_incrementally, and translate, servernic, clientnic \
             followed by :0 to :5 for no options, timestamps, SACK, each to server and to client"
        );
        std::process::exit(2);
    }
}

type Case = ((Extras, &'static str), (Direction, &'static str));

/// Reads `name:number`.
fn case(stage: &str, name: &str) -> Option<Case> {
    let number: usize = stage.strip_prefix(name)?.strip_prefix(':')?.parse().ok()?;
    Some((*KINDS.get(number / 2)?, WAYS[number % 2]))
}

fn each(to: Direction, extras: Extras, payload: u32, mut stage: impl FnMut(&mut [u8])) {
    let bytes = stages::packet(0, to, extras, payload);
    for _ in 0..TIMES {
        stage(&mut bytes.clone());
    }
}

fn each_segment(to: Direction, extras: Extras, payload: u32, mut stage: impl FnMut(&mut Segment<'_>)) {
    each(to, extras, payload, |bytes| {
        stage(&mut Segment::parse(&mut Packet { bytes, offload: Offload::default() }).unwrap());
    });
}

/// Each packet is of another flow than the one before.
fn engine(nic: &mut dyn Engine, to: Direction, extras: Extras) {
    let (mut out, mut bytes) = (Outbox::new(), Vec::new());
    for n in 0..TIMES {
        Connection::new(n).data(to, extras, 64, &mut bytes);
        stages::engine(nic, NOW, &mut bytes, &mut out);
    }
}
