//! What the kernel's program answers by itself, held against `spoof_at_once` byte by byte, through real interfaces. Needs root: a user
//! namespace may not load BPF.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod rig;

use std::time::Duration;

use rig::{
    Host, Hosts, ROUTER, aged, any_packet, client, eventually, has_captured, meet, on_router, server,
    services, start,
};
use rtt0_core::flow::FlowKey;
use rtt0_core::offer::{Keys, LENGTH};
use rtt0_core::offload::{FastPath, Offloaded, Queued};
use rtt0_core::packet::{Offload, Packet};
use rtt0_core::profile::{Board, Posted};
use rtt0_core::seq::Seq;
use rtt0_core::service::Direction;
use rtt0_core::spoof::{Spoof, spoof_at_once};
use rtt0_core::wire::build::Control;
use rtt0_core::wire::options::{SynOptions, Timestamps};
use rtt0_core::wire::segment::Segment;
use rtt0_core::wire::tcp::{Flags, MAX_OPTIONS};
use rtt0_netio::capture::spread::place;
use rtt0_netio::capture::{Capture, CaptureOptions};
use rtt0_netio::clock;
use rtt0_netio::fast_path::{
    Attach, HandshakeOptions, Handshakes, KernelOffload, KernelPath, OffloadOptions,
};

const CLAMP: (u16, u16) = (1400, 1300);
const WORKERS: usize = 3;
const LARGE: u32 = 10_000;

/// A ClientNIC's kernel between two hosts, and its daemon's view.
struct Bench {
    kernel: KernelOffload,
    paths: Vec<KernelPath>,
    board: Box<dyn Board>,
    capture: Capture,
    keys: Keys,
    client: Host,
    server: Host,
    next_port: u16,
}

fn run(test: impl FnOnce(Bench) + Send) {
    on_router(|Hosts { client, server }| {
        let services = services();
        let keys = Keys::new((2, std::array::from_fn(|index| index as u8 * 7 + 1)), None).unwrap();
        let started = start(&OffloadOptions {
            interfaces: &ROUTER.map(str::to_owned),
            services: &services,
            largest: 1500,
            flows: 1000,
            pins: None,
            attach: Attach::Auto,
            outlet: None,
            handshakes: Some(HandshakeOptions {
                keys: &keys,
                workers: WORKERS,
                which: Handshakes::Answered { mss_clamp: CLAMP, large_upload: LARGE },
            }),
        });
        let Some(mut kernel) = started else { return };
        let options = CaptureOptions { sent: true, ..CaptureOptions::default() };
        let capture = Capture::open(kernel.outlet(), &services, &options).unwrap();
        let mut paths: Vec<_> = (0..WORKERS).map(|worker| kernel.path(Some(worker as u8)).unwrap()).collect();
        for path in &mut paths {
            assert!(path.allow(Some(clock::now() + Duration::from_secs(600))));
        }
        let board = kernel.board().unwrap();
        // The way back is the kernel's to answer only where it knows the neighbour.
        meet(["10.8.0.1:9", "[fd08::1]:9"]);
        test(Bench { kernel, paths, board, capture, keys, client, server, next_port: 40_000 });
    });
}

fn usual(random: &mut fastrand::Rng) -> Vec<u8> {
    let options = SynOptions {
        mss: Some(random.u16(..)),
        window_scale: Some(random.u8(..=14)),
        sack_permitted: true,
        timestamps: Some(Timestamps { value: random.u32(..), echo: random.u32(..) }),
    };
    let mut bytes = Vec::new();
    options.write(&mut bytes);
    bytes
}

/// A SYN of the client's, whatever its fields are.
fn syn(is_v6: bool, port: u16, flags: Flags, options: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    let control = Control {
        source: (client(is_v6), port),
        destination: server(is_v6),
        sequence: random.u32(..),
        acknowledgement: random.u32(..),
        flags,
        window: random.u16(..),
    };
    any_packet(control, options, random)
}

impl Bench {
    fn post(&self, is_v6: bool, posted: &Posted) {
        assert!(self.board.post(&server(is_v6), Some(posted)));
    }

    fn port(&mut self) -> u16 {
        self.next_port += 1;
        self.next_port
    }

    fn send(&mut self, packet: &[u8]) {
        self.client.send(packet);
    }

    /// What the specification makes of a SYN.
    fn expected(&self, packet: &[u8], posted: &Posted) -> (FlowKey, Option<Spoof>) {
        let mut bytes = packet.to_vec();
        let clamp = if packet[0] >> 4 == 6 { CLAMP.1 } else { CLAMP.0 };
        let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
        let segment = Segment::parse(&mut packet).unwrap();
        let key = FlowKey::new(segment.source(), segment.destination(), Direction::ToServer);
        (key, spoof_at_once(key, &segment, posted, &self.keys, clamp))
    }

    fn has_captured(&mut self, port: u16) -> bool {
        has_captured(&mut self.capture, port)
    }

    /// Has the kernel learn the client's address: until then SYNs are the daemon's.
    fn warm_up(&mut self, is_v6: bool) {
        let mut random = fastrand::Rng::with_seed(1);
        eventually("a SYN is answered", || {
            let port = self.port();
            let packet = syn(is_v6, port, Flags::SYN, &usual(&mut random), &mut random);
            self.send(&packet);
            self.client.arrived(Direction::ToClient, port)
        });
        self.paths.iter_mut().for_each(|path| while path.begun().is_some() {});
    }
}

fn posted() -> Posted {
    Posted { mss: 1460, window: 65_160, window_scale: 7, expires: clock::now() + Duration::from_secs(600) }
}

#[test]
fn usual_syns_are_answered_as_the_specification_says() {
    run(|mut bench| {
        let mut random = fastrand::Rng::with_seed(7);
        for is_v6 in [false, true] {
            bench.post(is_v6, &posted());
            bench.warm_up(is_v6);
            for mss in [536, 1300, 1400, 1460, 9000, 1380, 1401, 0, 65_535, 1220] {
                let (window, window_scale) = (random.u16(..), random.u8(..=14));
                let posted = Posted { mss, window, window_scale, ..posted() };
                bench.post(is_v6, &posted);
                let port = bench.port();
                let packet = syn(is_v6, port, Flags::SYN, &usual(&mut random), &mut random);
                let (key, expected) = bench.expected(&packet, &posted);
                let expected = expected.unwrap();
                bench.send(&packet);
                assert_eq!(
                    bench.client.arrived(Direction::ToClient, port),
                    Some(expected.syn_ack),
                    "the SYN-ACK"
                );
                let on = expected.start.syn;
                let offer = on[on.len() - MAX_OPTIONS..][..LENGTH].to_vec();
                assert_eq!(bench.server.arrived(Direction::ToServer, port), Some(aged(on)), "the SYN");
                let path = &mut bench.paths[place(key.client(), key.server(), WORKERS)];
                let begun = path.begun().unwrap();
                assert_eq!((begun.syn, begun.offer.to_vec()), (packet, offer));
                assert!(clock::now() - begun.at < Duration::from_secs(10));
                let opening = Offloaded::opening(key, expected.start.client_isn, expected.start.promised_isn);
                let mut progress = path.look(&key).unwrap();
                progress.last_used = opening.progress.last_used;
                assert_eq!(progress, opening.progress);
                assert!(bench.paths.iter_mut().all(|path| path.begun().is_none()));
                assert!(!bench.has_captured(port), "nobody is woken");
            }
        }
    });
}

#[test]
fn every_other_syn_is_left_to_the_daemon_and_so_is_what_follows_of_its_ports() {
    run(|mut bench| {
        let random = &mut fastrand::Rng::with_seed(3);
        let posted = posted();
        bench.post(false, &posted);
        bench.warm_up(false);
        let all = usual(random);
        let mut swapped = all.clone();
        swapped[..4].copy_from_slice(&[4, 2, 1, 1]);
        let without_timestamps = vec![2, 4, 5, 0xb4, 1, 1, 4, 2, 1, 3, 3, 7];
        let mut scale_15 = all.clone();
        scale_15[19] = 15;
        for (flags, options) in [
            (Flags::SYN | Flags::ECE | Flags::CWR, &all),
            (Flags::SYN | Flags::PSH, &all),
            (Flags::SYN | Flags::AE, &all),
            (Flags::SYN, &Vec::new()),
            (Flags::SYN, &swapped),
            (Flags::SYN, &without_timestamps),
            (Flags::SYN, &scale_15),
        ] {
            let port = bench.port();
            let packet = syn(false, port, flags, options, random);
            assert!(bench.expected(&packet, &posted).1.is_none(), "{flags:?} {options:?}");
            let again = syn(false, port, Flags::SYN, &all, random);
            for packet in [packet, again] {
                bench.send(&packet);
                eventually("the daemon gets it", || bench.has_captured(port).then_some(()));
                assert_eq!(bench.client.arrived(Direction::ToClient, port), None, "{flags:?} {options:?}");
            }
        }
        // What is served at both ends is nobody's.
        bench.send(&syn(false, 39_999, Flags::SYN, &all, random));
        eventually("the daemon may look at it", || bench.has_captured(39_999).then_some(()));
        assert_eq!(bench.client.arrived(Direction::ToClient, 39_999), None);
        assert!(bench.paths.iter_mut().all(|path| path.begun().is_none()));
    });
}

#[test]
fn what_follows_a_reset_is_the_daemons() {
    run(|mut bench| {
        let random = &mut fastrand::Rng::with_seed(9);
        bench.post(false, &posted());
        bench.warm_up(false);
        let port = bench.port();
        for (flags, options) in [(Flags::RST, Vec::new()), (Flags::SYN, usual(random))] {
            bench.send(&syn(false, port, flags, &options, random));
            eventually("the daemon gets it", || bench.has_captured(port).then_some(()));
        }
        assert_eq!(bench.client.arrived(Direction::ToClient, port), None);
    });
}

#[test]
fn it_answers_while_it_is_allowed_to_and_knows_what_to_promise() {
    run(|mut bench| {
        let random = &mut fastrand::Rng::with_seed(4);
        bench.post(false, &posted());
        bench.warm_up(false);
        let mut is_answered = |bench: &mut Bench| {
            let port = bench.port();
            let packet = syn(false, port, Flags::SYN, &usual(random), random);
            bench.send(&packet);
            let answer = bench.client.arrived(Direction::ToClient, port);
            assert_ne!(answer.is_some(), bench.has_captured(port));
            answer.is_some()
        };
        assert!(is_answered(&mut bench));
        bench.paths.iter_mut().for_each(|path| assert!(path.allow(None)));
        assert!(!is_answered(&mut bench));
        // Nor if it was allowed to by a worker that has not come back.
        let soon = clock::now() + Duration::from_millis(1);
        bench.paths.iter_mut().for_each(|path| assert!(path.allow(Some(soon))));
        std::thread::sleep(Duration::from_millis(5));
        assert!(!is_answered(&mut bench));
        let until = clock::now() + Duration::from_secs(600);
        bench.paths.iter_mut().for_each(|path| assert!(path.allow(Some(until))));
        assert!(is_answered(&mut bench));
        bench.post(false, &Posted { expires: clock::now(), ..posted() });
        assert!(!is_answered(&mut bench));
        bench.post(false, &posted());
        assert!(is_answered(&mut bench));
        assert!(bench.board.post(&server(false), None));
        assert!(!is_answered(&mut bench));
        bench.post(false, &posted());
        // A worker that does not look.
        let answered = (0..1000).take_while(|_| is_answered(&mut bench)).count();
        assert!((128..=3 * 128).contains(&answered), "{answered}");
        bench.paths.iter_mut().for_each(|path| while path.begun().is_some() {});
        assert!(is_answered(&mut bench));
        // And a worker that is no more.
        bench.paths.clear();
        assert!(!is_answered(&mut bench));
        drop(bench.kernel);
    });
}

#[test]
fn behind_a_large_upload_the_engine_looks_first() {
    run(|mut bench| {
        let random = &mut fastrand::Rng::with_seed(6);
        bench.post(false, &posted());
        bench.warm_up(false);
        for upload in [LARGE, LARGE + 1] {
            let port = bench.port();
            let key = FlowKey::new((client(false), port), server(false), Direction::ToServer);
            let end = Seq::new(1 + upload);
            let worker = place(key.client(), key.server(), WORKERS);
            let flow = Offloaded::passing(key, Seq::new(0), end);
            assert!(bench.paths[worker].hand(&flow, Queued::Nothing));
            let mut fin = Vec::new();
            let (source, destination) = (key.client(), key.server());
            let (sequence, flags) = (end.get(), Flags::FIN | Flags::ACK);
            Control { source, destination, sequence, acknowledgement: 9, flags, window: 500 }
                .write(&[], &mut fin);
            bench.send(&fin);
            eventually("it is closed", || bench.paths[worker].closed());
            let port = bench.port();
            bench.send(&syn(false, port, Flags::SYN, &usual(random), random));
            let answer = bench.client.arrived(Direction::ToClient, port);
            assert_eq!(answer.is_some(), upload == LARGE);
        }
        let until = clock::now() + Duration::from_secs(600);
        bench.paths.iter_mut().for_each(|path| assert!(path.allow(Some(until))));
        bench.warm_up(false);
    });
}

#[test]
fn it_signs_with_the_key_that_it_is_given() {
    run(|mut bench| {
        let random = &mut fastrand::Rng::with_seed(5);
        bench.post(false, &posted());
        bench.warm_up(false);
        bench.keys = Keys::new((3, [9; 16]), Some((2, [1; 16]))).unwrap();
        bench.kernel.rekey(&bench.keys).unwrap();
        let port = bench.port();
        let packet = syn(false, port, Flags::SYN, &usual(random), random);
        let expected = bench.expected(&packet, &posted()).1.unwrap();
        bench.send(&packet);
        assert_eq!(bench.server.arrived(Direction::ToServer, port), Some(aged(expected.start.syn)));
    });
}
