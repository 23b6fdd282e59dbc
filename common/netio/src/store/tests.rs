use super::*;
use rtt0_core::flow::FlowKey;
use rtt0_core::offer::Promise;
use rtt0_core::profile::SynAck;
use rtt0_core::seq::Seq;
use rtt0_core::service::Direction;
use rtt0_core::translate::{Agreement, Translation};
use rtt0_core::translated::Stage;
use rtt0_core::wire::options::SynOptions;
use std::fs::Permissions;
use std::os::unix::fs::symlink;
use tempfile::TempDir;

const BOUND: usize = 100_000;

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
    let client = (std::net::Ipv4Addr::from(0x0a01_0000 + number / 60_000).into(), (number % 60_000) as u16);
    Record {
        key: FlowKey::new(client, ([10, 1, 2, 10].into(), 80), Direction::ToServer),
        translation: Translation::new(agreement, true).unwrap().0,
        client_isn: Seq::new(number),
        client_window_scale: 0,
        answer,
        stage: Stage::default(),
    }
}

fn slot(number: u32) -> Slot {
    Slot::new(number).unwrap()
}

fn open(folder: &TempDir) -> Store {
    Store::open(&folder.path().join("state"), "servernic").unwrap()
}

/// Opens the file and returns what it holds.
fn load(folder: &TempDir) -> (Store, Found, Vec<(u32, Record)>) {
    let (mut store, mut records) = (open(folder), Vec::new());
    let found = store.load(BOUND, |slot, record| {
        records.push((slot.number(), *record));
        true
    });
    (store, found.unwrap(), records)
}

fn put(store: &mut Store, number: u32) {
    assert!(store.write(&Change { slot: slot(number), record: Some(record(number)) }));
}

/// A file with records in slots 0, 1 and 9,000, which is beyond the first read.
fn filled() -> TempDir {
    let folder = TempDir::new().unwrap();
    let (mut store, found, _) = load(&folder);
    assert_eq!(found, Found::default());
    [0, 1, 2, 9_000].into_iter().for_each(|number| put(&mut store, number));
    assert!(store.write(&Change { slot: slot(2), record: None }));
    folder
}

fn file(folder: &TempDir) -> PathBuf {
    folder.path().join("state/servernic.state")
}

#[test]
fn what_was_written_is_found_by_the_next() {
    let folder = filled();
    for _ in 0..2 {
        let (_, found, records) = load(&folder);
        assert_eq!(found, Found { restored: 3, ..Found::default() });
        assert_eq!(records, [0, 1, 9_000].map(|number| (number, record(number))));
    }
}

#[test]
fn folder_and_file_are_private_and_sparse() {
    let folder = filled();
    let metadata = std::fs::metadata(file(&folder)).unwrap();
    assert_eq!(metadata.mode() & 0o777, 0o600);
    assert!(
        metadata.blocks() * 512 < metadata.len() / 4,
        "{} of {}",
        metadata.blocks() * 512,
        metadata.len()
    );
    assert_eq!(std::fs::metadata(folder.path().join("state")).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn damaged_records_are_refused_once_and_the_others_kept() {
    let folder = filled();
    let bytes = OpenOptions::new().write(true).open(file(&folder)).unwrap();
    bytes.write_all_at(&[0xff], offset(1) + 50).unwrap();
    let (_, found, records) = load(&folder);
    assert_eq!((found.restored, found.refused, records.len()), (2, 1, 2));
    let (_, found, _) = load(&folder);
    assert_eq!((found.restored, found.refused), (2, 0));
}

#[test]
fn a_file_of_another_version_or_boot_or_of_nonsense_is_begun_anew() {
    for (at, bytes) in [(8, &[VERSION + 1][..]), (20, b"z"), (0, b"nonsense")] {
        let folder = filled();
        OpenOptions::new().write(true).open(file(&folder)).unwrap().write_all_at(bytes, at).unwrap();
        let (mut store, found, records) = load(&folder);
        assert_eq!(found, Found { is_foreign: true, ..Found::default() });
        assert!(records.is_empty());
        put(&mut store, 5);
        drop(store);
        assert_eq!(load(&folder).2, [(5, record(5))]);
    }
}

#[test]
fn a_file_cut_anywhere_is_read_as_far_as_it_goes() {
    for length in [0, 1, 127, 128, 4095, 4096, 4097, 4096 + 127, 4096 + 128, 4096 + 300] {
        let folder = filled();
        OpenOptions::new().write(true).open(file(&folder)).unwrap().set_len(length).unwrap();
        let (_, found, records) = load(&folder);
        let whole = if length < 4096 { 0 } else { ((length - 4096) / 128) as usize };
        assert_eq!((records.len(), found.restored), (whole, whole), "{length} bytes");
        assert_eq!(found.is_foreign, length != 0 && length < 4096);
    }
}

#[test]
fn nothing_is_read_beyond_the_bound_and_what_was_not_taken_is_forgotten() {
    let folder = filled();
    let mut store = open(&folder);
    let found = store.load(9_000, |slot, _| slot.number() == 0).unwrap();
    assert_eq!(found, Found { restored: 1, refused: 1, is_foreign: false });
    assert_eq!(std::fs::metadata(file(&folder)).unwrap().len(), offset(1));
    drop(store);
    assert_eq!(load(&folder).2, [(0, record(0))]);
}

#[test]
fn two_daemons_never_share_a_file() {
    let folder = filled();
    let store = open(&folder);
    let error = Store::open(&folder.path().join("state"), "servernic").unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }));
    let message = error.to_string();
    assert!(message.contains("servernic.state") && message.contains("--state-dir"), "{message}");
    assert!(Store::open(&folder.path().join("state"), "clientnic").is_ok());
    drop(store);
    open(&folder);
}

#[test]
fn links_folders_and_exposed_folders_are_refused() {
    let folder = TempDir::new().unwrap();
    let state = folder.path();
    symlink("/dev/null", state.join("link.state")).unwrap();
    assert!(matches!(Store::open(state, "link"), Err(StoreError::Open { .. })));
    std::fs::create_dir(state.join("folder.state")).unwrap();
    assert!(matches!(Store::open(state, "folder"), Err(StoreError::Open { .. })));
    std::fs::write(state.join("file"), "").unwrap();
    assert!(matches!(Store::open(&state.join("file/under"), "x"), Err(StoreError::Folder { .. })));
    std::fs::set_permissions(state, Permissions::from_mode(0o777)).unwrap();
    let error = Store::open(state, "x").unwrap_err().to_string();
    assert!(error.contains("chmod 700"), "{error}");
}

#[test]
fn a_write_that_fails_is_told() {
    let folder = filled();
    let mut store = open(&folder);
    store.file = File::open(file(&folder)).unwrap();
    let change = Change { slot: slot(3), record: Some(record(3)) };
    assert!(!store.write(&change) && !store.write(&change));
}

#[test]
fn tmpfs_is_told_from_a_disk() {
    let in_memory = TempDir::new_in("/dev/shm").unwrap();
    assert!(Store::open(in_memory.path(), "x").unwrap().is_in_memory());
    // A kernel file system that is none of the two.
    let store =
        Store { file: File::open("/proc/self/status").unwrap(), path: PathBuf::new(), is_failing: false };
    assert!(!store.is_in_memory());
}
