use std::collections::BTreeSet;

use rtt0_core::engine::Verdict;
use rtt0_core::flow::FlowKey;
use rtt0_core::journal::Journal;
use rtt0_core::offer::Promise;
use rtt0_core::packet::{Outbox, Packet};
use rtt0_core::profile::SynAck;
use rtt0_core::reason::Counters;
use rtt0_core::seq::Seq;
use rtt0_core::service::Direction;
use rtt0_core::time::Instant as CoreInstant;
use rtt0_core::translate::{Agreement, Translation};
use rtt0_core::translated::Stage;
use rtt0_core::wire::options::SynOptions;
use tempfile::TempDir;

use super::*;

const FLOWS: u32 = 500;

/// Keeps what it is given.
#[derive(Default)]
struct Keeper {
    journal: Journal,
    records: Vec<Record>,
    counters: Counters,
}

impl Engine for Keeper {
    fn handle(&mut self, _: CoreInstant, _: &mut Packet<'_>, _: &mut Outbox) -> Verdict {
        Verdict::Forward
    }
    fn too_big(&mut self, _: CoreInstant, _: &[u8], _: u16, _: &mut Outbox) {}
    fn next_timeout(&self) -> Option<CoreInstant> {
        None
    }
    fn handle_timeout(&mut self, _: CoreInstant, _: &mut Outbox) {}
    fn counters(&self) -> &Counters {
        &self.counters
    }
    fn journal(&mut self) -> Option<&mut Journal> {
        Some(&mut self.journal)
    }
    fn restore(&mut self, _: CoreInstant, slot: Slot, record: &Record) -> bool {
        let adopted = self.journal.adopt(slot, record.stage).is_some();
        self.records.extend(adopted.then_some(*record));
        adopted
    }
}

fn record(number: u32) -> Record {
    let promise = Promise { mss: 1460, ..Promise::default() };
    let options = SynOptions { mss: Some(1460), ..SynOptions::default() };
    let answer = SynAck { options, window: 500, ecn: false };
    let agreement = Agreement {
        promised_isn: Seq::new(number),
        real_isn: Seq::new(7),
        promise: &promise,
        answer: &answer,
        client_window_scale: 0,
    };
    let client = ([10, 1, 0, 10].into(), 30_000 + number as u16);
    Record {
        key: FlowKey::new(client, ([10, 1, 2, 10].into(), 80), Direction::ToServer),
        translation: Translation::new(agreement, true).unwrap().0,
        client_isn: Seq::new(number),
        client_window_scale: 0,
        answer,
        stage: Stage::default(),
    }
}

/// Restores with `workers` engines; checks that each has its own flows and returns how many files
/// there are.
fn restored(folder: &TempDir, workers: usize) -> usize {
    let path = folder.path().join("state");
    let mut engines: Vec<Keeper> = (0..workers).map(|_| Keeper::default()).collect();
    let stores = restore(&path, "testnic", 1_000_000, &mut engines).unwrap();
    assert_eq!(stores.len(), workers);
    let mut found = BTreeSet::new();
    for (index, engine) in engines.iter().enumerate() {
        for record in &engine.records {
            assert_eq!(worker_of(record, workers), index);
            assert!(found.insert(record.client_isn.get()), "each flow has one worker");
        }
        assert!(engine.records.len() > FLOWS as usize / workers / 2);
    }
    assert!(found.into_iter().eq(0..FLOWS), "all flows go on with {workers} workers");
    std::fs::read_dir(path).unwrap().count()
}

#[test]
fn flows_survive_any_change_of_the_number_of_workers() {
    let folder = TempDir::new().unwrap();
    let mut store = Store::open(&folder.path().join("state"), "testnic").unwrap();
    store.load(0, |_, _| false).unwrap();
    for number in 0..FLOWS {
        let slot = Slot::new(number).unwrap();
        assert!(store.write(&Change { slot, record: Some(record(number)) }));
    }
    drop(store);
    for workers in [1, 3, 3, 5, 2, 4, 1, 1] {
        assert_eq!(restored(&folder, workers), workers, "files of workers there are no more are gone");
    }
}

#[test]
fn another_daemon_is_noticed_whatever_its_number_of_workers() {
    let folder = TempDir::new().unwrap();
    let keepers = |count: usize| (0..count).map(|_| Keeper::default()).collect::<Vec<_>>();
    let _held =
        restore(folder.path().join("state").as_path(), "testnic", 1_000_000, &mut keepers(3)).unwrap();
    let second = restore(folder.path().join("state").as_path(), "testnic", 1_000_000, &mut keepers(1));
    assert!(matches!(second, Err(Failure::State(StoreError::Locked { .. }))));
}
