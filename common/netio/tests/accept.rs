//! The handshakes with servers that the kernel's program makes by itself, held against `AtOnce` byte by byte, through real interfaces. Needs
//! root: a user namespace may not load BPF.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod rig;

use std::time::Duration;

use rig::{
    Host, Hosts, ROUTER, aged, any_packet, client, eventually, has_captured, meet, on_router, server,
    services, start,
};
use rtt0_core::accept::{AtOnce, Heard, Opened};
use rtt0_core::flow::FlowKey;
use rtt0_core::offer::{Keys, Kind, LENGTH, Offer, Promise};
use rtt0_core::offload::{FastPath, Offloaded};
use rtt0_core::packet::{Offload, Outbox, Packet};
use rtt0_core::seq::Seq;
use rtt0_core::service::Direction;
use rtt0_core::wire::build::Control;
use rtt0_core::wire::options::{SynOptions, Timestamps};
use rtt0_core::wire::segment::Segment;
use rtt0_core::wire::tcp::Flags;
use rtt0_netio::capture::spread::place;
use rtt0_netio::capture::{Capture, CaptureOptions};
use rtt0_netio::clock;
use rtt0_netio::fast_path::{
    Attach, HandshakeOptions, Handshakes, KernelOffload, KernelPath, OffloadOptions,
};

const WORKERS: usize = 3;

/// A ServerNIC's kernel between two hosts, and its daemon's view.
struct Bench {
    kernel: KernelOffload,
    paths: Vec<KernelPath>,
    capture: Capture,
    keys: Keys,
    client: Host,
    server: Host,
    random: fastrand::Rng,
    next_port: u16,
}

fn run(seed: u64, test: impl FnOnce(Bench) + Send) {
    on_router(|Hosts { client, server }| {
        let services = services();
        let keys =
            Keys::new((2, std::array::from_fn(|index| index as u8 * 7 + 1)), Some((1, [3; 16]))).unwrap();
        let started = start(&OffloadOptions {
            interfaces: &ROUTER.map(str::to_owned),
            services: &services,
            largest: 1500,
            flows: 1000,
            pins: None,
            attach: Attach::Auto,
            outlet: None,
            handshakes: Some(HandshakeOptions { keys: &keys, workers: WORKERS, which: Handshakes::Accepted }),
        });
        let Some(kernel) = started else { return };
        let options = CaptureOptions { sent: true, ..CaptureOptions::default() };
        let capture = Capture::open(kernel.outlet(), &services, &options).unwrap();
        let paths: Vec<_> = (0..WORKERS).map(|worker| kernel.path(Some(worker as u8)).unwrap()).collect();
        // The way to the server is the kernel's only where it knows the neighbour.
        meet(["10.9.0.1:9", "[fd09::1]:9"]);
        let random = fastrand::Rng::with_seed(seed);
        let mut bench = Bench { kernel, paths, capture, keys, client, server, random, next_port: 40_000 };
        bench.allow(true);
        bench.warm_up();
        test(bench);
    });
}

fn read<T>(bytes: &[u8], look: impl FnOnce(&Segment<'_>) -> T) -> T {
    let mut bytes = bytes.to_vec();
    let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
    look(&Segment::parse(&mut packet).unwrap())
}

fn written(options: &SynOptions) -> Vec<u8> {
    let mut bytes = Vec::new();
    options.write(&mut bytes);
    bytes
}

/// A handshake as the client and its NIC begin it.
struct Begun {
    key: FlowKey,
    syn: Vec<u8>,
    tsval: u32,
    isn: u32,
}

impl Bench {
    fn allow(&mut self, is_wanted: bool) {
        let until = is_wanted.then(|| clock::now() + Duration::from_secs(600));
        self.paths.iter_mut().for_each(|path| assert!(path.allow(until)));
    }

    fn packet(&mut self, control: Control, options: &[u8]) -> Vec<u8> {
        any_packet(control, options, &mut self.random)
    }

    /// A SYN with an offer, of a new port.
    fn syn(
        &mut self,
        is_v6: bool,
        kind: Kind,
        change: impl FnOnce(&mut Offer, &mut Vec<u8>, &mut Flags),
    ) -> Begun {
        self.next_port += 1;
        let (source, destination) = ((client(is_v6), self.next_port), server(is_v6));
        let key = FlowKey::new(source, destination, Direction::ToServer);
        let (isn, tsval) = (self.random.u32(..), self.random.u32(..));
        let mut options = written(&SynOptions {
            mss: Some(self.random.u16(..)),
            window_scale: Some(self.random.u8(..=14)),
            sack_permitted: true,
            timestamps: Some(Timestamps { value: tsval, echo: self.random.u32(..) }),
        });
        let promise = Promise {
            mss: 1380,
            window_scale: Some(self.random.u8(..=14)),
            sack: true,
            tsval: self.keys.promised_tsval(2, &key, Seq::new(isn)),
            ecn: false,
        };
        let (mut offer, mut flags) = (Offer { kind, key: 2, promise }, Flags::SYN);
        change(&mut offer, &mut options, &mut flags);
        let mut all = offer.encode(&self.keys, &key, Seq::new(isn)).unwrap().to_vec();
        all.extend(&options);
        let (sequence, acknowledgement, window) = (isn, self.random.u32(..), self.random.u16(..));
        let control = Control { source, destination, sequence, acknowledgement, flags, window };
        let syn = self.packet(control, &all);
        Begun { key, syn, tsval, isn }
    }

    fn usual(&mut self, is_v6: bool) -> Begun {
        self.syn(is_v6, Kind::Spoofed, |_, _, _| {})
    }

    /// The server's SYN-ACK, which echoes that TSval.
    fn answer(&mut self, begun: &Begun, isn: u32, tsval: u32, echo: u32, mss: u16) -> Vec<u8> {
        let options = SynOptions {
            mss: Some(mss),
            window_scale: Some(6),
            sack_permitted: true,
            timestamps: Some(Timestamps { value: tsval, echo }),
        };
        let control = Control {
            source: begun.key.server(),
            destination: begun.key.client(),
            sequence: isn,
            acknowledgement: begun.isn.wrapping_add(1),
            flags: Flags::SYN | Flags::ACK,
            window: 65_160,
        };
        self.packet(control, &written(&options))
    }

    fn path(&mut self, key: &FlowKey) -> &mut KernelPath {
        &mut self.paths[place(key.client(), key.server(), WORKERS)]
    }

    /// What the worker hears.
    fn opened(&mut self, key: &FlowKey) -> Option<Opened> {
        self.path(key).opened()
    }

    fn captures(&mut self, key: &FlowKey) {
        eventually("the daemon gets it", || has_captured(&mut self.capture, key.client().1).then_some(()));
    }

    fn has_captured(&mut self, key: &FlowKey) -> bool {
        has_captured(&mut self.capture, key.client().1)
    }

    /// Sends a SYN and returns how many the server gets.
    fn begin(&mut self, begun: &Begun) -> usize {
        self.client.send(&begun.syn);
        (0..2).map_while(|_| self.server.arrived(Direction::ToServer, begun.key.client().1)).count()
    }

    /// Has the kernel learn the server's address: until then offers are the daemon's.
    fn warm_up(&mut self) {
        for is_v6 in [false, true] {
            eventually("an offer is accepted", || {
                let begun = self.usual(is_v6);
                self.begin(&begun);
                self.opened(&begun.key)
            });
        }
        self.capture.receive(&rtt0_netio::counters::IoCounters::default());
        self.capture.release();
    }

    /// Returns the kernel's flow of this name.
    fn flow(&self, key: &FlowKey) -> Option<Offloaded> {
        let mut found = None;
        self.kernel
            .adopt(|flow| {
                found = found.or(Some(*flow).filter(|flow| flow.key == *key));
                true
            })
            .unwrap();
        found
    }
}

#[test]
fn usual_handshakes_are_made_as_the_specification_says() {
    run(7, |mut bench| {
        for (is_v6, clock) in [(false, 0), (true, 0), (false, 1), (true, u32::MAX)] {
            for _ in 0..5 {
                let begun = bench.usual(is_v6);
                let (key, port) = (begun.key, begun.key.client().1);
                let mut out = Outbox::new();
                let specified = read(&begun.syn, |syn| AtOnce::begin(key, syn, &bench.keys, &mut out));
                let mut specified = specified.unwrap();
                bench.client.send(&begun.syn);
                for index in 0..2 {
                    let expected = aged(out.get(index).unwrap().0.to_vec());
                    assert_eq!(
                        bench.server.arrived(Direction::ToServer, port),
                        Some(expected),
                        "SYN {index}"
                    );
                }
                let (isn, tsval) = (bench.random.u32(..), bench.random.u32(..));
                let elder = begun.tsval.wrapping_sub(1);
                let mss = [1380, 9000][bench.random.usize(..2)];
                let first = bench.answer(&begun, isn, tsval, elder, mss);
                bench.server.send(&first);
                assert!(matches!(read(&first, |answer| specified.hear(answer)), Heard::First));
                assert_eq!(bench.client.arrived(Direction::ToClient, port), None);
                assert_eq!(bench.path(&key).look(&key), None);
                let second = bench.answer(&begun, isn, tsval.wrapping_add(clock), elder, mss);
                bench.server.send(&second);
                let Heard::Made(mut expected) = read(&second, |answer| specified.hear(answer)) else {
                    panic!()
                };
                let flow = eventually("it is made", || bench.flow(&key));
                expected.progress.last_used = flow.progress.last_used;
                assert_eq!(flow, *expected);
                assert_eq!(bench.client.arrived(Direction::ToClient, port), None);
                assert!(!bench.has_captured(&key), "nobody is woken");
                let heard = bench.opened(&key).unwrap();
                assert!(clock::now() - heard.at < Duration::from_secs(10));
                let at = heard.at;
                assert_eq!(heard, Opened { syn: begun.syn, answer: Some(second), is_made: true, at });
                assert!(bench.paths.iter_mut().all(|path| path.opened().is_none()));
                bench.path(&key).recall(&key);
            }
        }
    });
}

#[test]
fn every_other_syn_is_left_to_the_daemon_and_so_is_what_follows_of_its_ports() {
    type Change = fn(&mut Offer, &mut Vec<u8>, &mut Flags);
    let changes: [Change; 9] = [
        |offer, _, _| offer.kind = Kind::Probe,
        |offer, _, _| offer.kind = Kind::Confirm,
        |offer, _, _| offer.key = 1,
        |offer, _, _| offer.promise.sack = false,
        |offer, _, _| offer.promise.window_scale = None,
        |offer, _, _| offer.promise.ecn = true,
        |_, options, _| options[..4].copy_from_slice(&[4, 2, 1, 1]),
        |_, options, _| options.truncate(16),
        |_, _, flags| *flags = Flags::SYN | Flags::ECE | Flags::CWR,
    ];
    run(3, |mut bench| {
        for (index, change) in changes.into_iter().enumerate() {
            let begun = bench.syn(false, Kind::Spoofed, change);
            let (key, mut out) = (begun.key, Outbox::new());
            assert!(
                read(&begun.syn, |syn| AtOnce::begin(key, syn, &bench.keys, &mut out)).is_none(),
                "{index}"
            );
            left(&mut bench, &begun, index);
        }
        // A wrong signature, a wrong checksum.
        for at in [20 + 20 + LENGTH - 1, 20 + 14] {
            let mut begun = bench.usual(false);
            begun.syn[at] ^= 1;
            left(&mut bench, &begun, at);
        }
        // What is served at both ends is nobody's.
        bench.next_port = 39_998;
        let begun = bench.usual(false);
        left(&mut bench, &begun, 39_999);
    });
    fn left(bench: &mut Bench, begun: &Begun, what: usize) {
        assert_eq!(bench.begin(begun), 1, "{what}: as it was, by the kernel");
        bench.captures(&begun.key);
        assert_eq!(bench.opened(&begun.key), None);
        bench.next_port -= 1;
        let again = bench.usual(false);
        bench.client.send(&again.syn);
        bench.captures(&again.key);
        assert_eq!((again.key, bench.opened(&again.key)), (begun.key, None));
    }
}

#[test]
fn what_is_not_as_expected_is_the_daemons_from_then_on() {
    run(4, |mut bench| {
        for first in [false, true] {
            for (what, is_from_client) in [
                ("another echo", false),
                ("a smaller MSS", false),
                ("another ISN", false),
                ("a reset", false),
                ("an ACK", true),
                ("a wrong checksum", false),
            ] {
                if what == "another ISN" && !first {
                    continue;
                }
                let begun = bench.usual(false);
                let key = begun.key;
                assert_eq!(bench.begin(&begun), 2);
                let elder = begun.tsval.wrapping_sub(1);
                let usual = bench.answer(&begun, 5, 6, elder, 1380);
                if first {
                    bench.server.send(&usual);
                    assert_eq!(bench.client.arrived(Direction::ToClient, key.client().1), None);
                }
                let mut odd = match what {
                    "another echo" => bench.answer(&begun, 5, 6, begun.tsval, 1380),
                    "a smaller MSS" => bench.answer(&begun, 5, 6, elder, 1379),
                    "another ISN" => bench.answer(&begun, 4, 6, elder, 1380),
                    _ => usual.clone(),
                };
                match what {
                    "a reset" => odd[33] = 0x14,
                    "a wrong checksum" => odd[37] ^= 1,
                    _ => {}
                }
                if is_from_client {
                    let control = Control {
                        source: key.client(),
                        destination: key.server(),
                        sequence: begun.isn.wrapping_add(1),
                        acknowledgement: 1,
                        flags: Flags::ACK,
                        window: 1,
                    };
                    odd = bench.packet(control, &[]);
                    bench.client.send(&odd);
                } else {
                    bench.server.send(&odd);
                }
                bench.captures(&key);
                let heard = bench.opened(&key).unwrap();
                let answer = first.then_some(usual.clone());
                assert_eq!((heard.syn, heard.answer, heard.is_made), (begun.syn, answer, false), "{what}");
                bench.server.send(&usual);
                bench.captures(&key);
                assert_eq!(bench.path(&key).look(&key), None);
            }
        }
    });
}

#[test]
fn what_follows_a_reset_is_the_daemons() {
    run(6, |mut bench| {
        // Of a flow in the kernel, and of one of the daemon's.
        for is_made in [true, false] {
            let begun = bench.usual(false);
            let key = begun.key;
            if is_made {
                assert_eq!(bench.begin(&begun), 2);
                let answer = bench.answer(&begun, 5, 6, begun.tsval.wrapping_sub(1), 1380);
                (0..2).for_each(|_| bench.server.send(&answer));
                eventually("the handshake is made", || bench.path(&key).look(&key));
                assert!(bench.opened(&key).is_some());
            }
            let reset = Control {
                source: key.client(),
                destination: key.server(),
                sequence: begun.isn.wrapping_add(1),
                acknowledgement: 0,
                flags: Flags::RST,
                window: 0,
            };
            let reset = bench.packet(reset, &[]);
            bench.client.send(&reset);
            bench.captures(&key);
            // The daemon has judged it, and not sent it yet.
            bench.path(&key).recall(&key);
            bench.next_port -= 1;
            let next = bench.usual(false);
            bench.client.send(&next.syn);
            bench.captures(&key);
            assert_eq!((next.key, bench.opened(&key)), (key, None), "{is_made}");
        }
    });
}

#[test]
fn the_daemon_takes_over_what_is_not_made_yet() {
    run(5, |mut bench| {
        for has_answered in [false, true] {
            let begun = bench.usual(true);
            assert_eq!(bench.begin(&begun), 2);
            let answer = bench.answer(&begun, 5, 6, begun.tsval.wrapping_sub(1), 1380);
            if has_answered {
                bench.server.send(&answer);
                assert_eq!(bench.client.arrived(Direction::ToClient, begun.key.client().1), None);
            }
            let heard = bench.opened(&begun.key).unwrap();
            assert_eq!((heard.answer, heard.is_made), (has_answered.then(|| answer.clone()), false));
            bench.server.send(&answer);
            bench.captures(&begun.key);
            bench.client.send(&begun.syn);
            bench.captures(&begun.key);
            assert_eq!((bench.opened(&begun.key), bench.flow(&begun.key)), (None, None));
        }
    });
}

#[test]
fn it_begins_while_it_is_allowed_to_and_the_worker_looks() {
    run(6, |mut bench| {
        let is_begun = |bench: &mut Bench| {
            let begun = bench.usual(false);
            let count = bench.begin(&begun);
            assert_eq!(count == 1, bench.has_captured(&begun.key));
            count == 2
        };
        assert!(is_begun(&mut bench));
        bench.allow(false);
        assert!(!is_begun(&mut bench));
        bench.allow(true);
        let begun = (0..1000).take_while(|_| is_begun(&mut bench)).count();
        assert!((127..=3 * 128).contains(&begun), "{begun}");
        bench.paths.iter_mut().for_each(|path| while path.opened().is_some() {});
        assert!(is_begun(&mut bench));
        bench.keys = Keys::new((3, [9; 16]), Some((2, [1; 16]))).unwrap();
        assert!(!is_begun(&mut bench), "its key is no more");
        bench.kernel.rekey(&bench.keys).unwrap();
        let begun = bench.syn(false, Kind::Spoofed, |offer, _, _| offer.key = 3);
        assert_eq!(bench.begin(&begun), 2);
        bench.paths.clear();
        let begun = bench.syn(false, Kind::Spoofed, |offer, _, _| offer.key = 3);
        assert_eq!(bench.begin(&begun), 1);
    });
}
