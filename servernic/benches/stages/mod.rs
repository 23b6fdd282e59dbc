//! What a packet of an established flow costs, stage by stage: each a function of its own, so that
//! callgrind can tell them apart.
#![allow(dead_code, unreachable_pub, reason = "the bench and the example each use a part of it")]
#![allow(clippy::unwrap_used, reason = "a bench may panic")]

#[path = "../../tests/load/mod.rs"]
pub mod load;

use clientnic::engine::Mode;
use load::packets::gateway;
use load::{Connection, Extras, World, mix};
use rtt0_core::engine::Engine;
use rtt0_core::flow::{FlowKey, FlowTable};
use rtt0_core::gateway::{Admitted, Gateway};
use rtt0_core::limits::Limits;
use rtt0_core::offer::Promise;
use rtt0_core::packet::{Offload, Outbox, Packet};
use rtt0_core::profile::SynAck;
use rtt0_core::seq::Seq;
use rtt0_core::service::Direction;
use rtt0_core::time::Instant;
use rtt0_core::translate::{Agreement, Translation};
use rtt0_core::translated::{Life, Translated};
use rtt0_core::wire::options::{SynOptions, Timestamps};
use rtt0_core::wire::segment::Segment;
use std::time::Duration;

/// The kinds of segments that are measured.
pub const KINDS: [(Extras, &str); 3] = [
    (Extras::None, "no options"),
    (Extras::Timestamps, "timestamps"),
    (Extras::Sack, "timestamps, 3 SACK blocks"),
];
pub const WAYS: [(Direction, &str); 2] =
    [(Direction::ToServer, "to server"), (Direction::ToClient, "to client")];

/// Bytes to a segment's flow, or `None`.
#[inline(never)]
pub fn parse(gateway: &mut Gateway, now: Instant, bytes: &mut [u8], out: &mut Outbox) -> Option<FlowKey> {
    match gateway.admit(now, &mut Packet { bytes, offload: Offload::default() }, out) {
        Ok(Admitted::Segment(_, key, _)) => Some(key),
        _ => None,
    }
}

#[inline(never)]
pub fn look_up(table: &mut FlowTable<[u64; 17]>, key: &FlowKey) -> u64 {
    table.get_mut(key).map_or(0, |entry| entry.value[0])
}

#[inline(never)]
pub fn translate_to_server(flow: &mut Translated, segment: &mut Segment<'_>, limits: &Limits) -> Life {
    flow.client_segment(segment, limits)
}

#[inline(never)]
pub fn translate_to_client(
    flow: &mut Translated,
    segment: &mut Segment<'_>,
    limits: &Limits,
    now: Instant,
) -> Life {
    flow.server_segment(segment, limits, now).unwrap()
}

#[inline(never)]
pub fn checksum_in_full(segment: &Segment<'_>) -> bool {
    segment.checksum_ok()
}

#[inline(never)]
pub fn checksum_incrementally(segment: &mut Segment<'_>, sequence: u32) {
    segment.set_sequence(sequence);
}

#[inline(never)]
pub fn engine(engine: &mut dyn Engine, now: Instant, bytes: &mut [u8], out: &mut Outbox) {
    engine.handle(now, &mut Packet { bytes, offload: Offload::default() }, out);
}

/// A segment of connection `n`.
pub fn packet(n: u32, to: Direction, extras: Extras, payload: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    Connection::new(n).data(to, extras, payload, &mut bytes);
    bytes
}

/// Connection 0 as its translator has it.
pub fn flow(now: Instant) -> Translated {
    let connection = Connection::new(0);
    let timestamps = Some(Timestamps { value: 1_000, echo: 999 });
    let options = SynOptions { mss: Some(1460), window_scale: Some(7), sack_permitted: true, timestamps };
    let tsval = Some(connection.promised_tsval);
    let promise = Promise { mss: 1460, window_scale: Some(7), sack: true, tsval, ecn: false };
    let answer = SynAck { options, window: 65_000, ecn: false };
    let agreement = Agreement {
        promised_isn: Seq::new(connection.promised_isn),
        real_isn: Seq::new(connection.real_isn),
        promise: &promise,
        answer: &answer,
        client_window_scale: 7,
    };
    let (translation, _) = Translation::new(agreement, true).unwrap();
    Translated::new(translation, Seq::new(connection.client_isn), 7, answer, 0, &Limits::default(), now)
}

/// A table of so many flows, their values as large as an engine's.
pub fn table(flows: u32) -> (FlowTable<[u64; 17]>, Vec<FlowKey>) {
    let mut table = FlowTable::new(flows as usize);
    let mut keys = Vec::new();
    for n in 0..flows {
        let key = Connection::new(n).key();
        table.insert(key, [n.into(); 17], Instant::ZERO + Duration::from_secs(1_000)).unwrap();
        keys.push(key);
    }
    // In random order.
    for n in (1..keys.len()).rev() {
        keys.swap(n, mix(n as u64) as usize % (n + 1));
    }
    (table, keys)
}

/// Both engines with so many flows, in paired or solo mode.
pub fn world(mode: Mode, flows: u32) -> World {
    let mut world = World::new(mode, Limits::default(), || 0);
    for n in 0..flows {
        world.connect(n);
        if n % 800 == 0 {
            world.advance(Duration::from_millis(8));
        }
    }
    world.advance(Duration::from_secs(16));
    world
}

/// The door of both engines.
pub fn door() -> Gateway {
    gateway()
}
