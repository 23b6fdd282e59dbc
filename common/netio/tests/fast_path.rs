//! The kernel's program against what `Offloaded::apply` says, byte by byte (BPF_PROG_TEST_RUN). Needs
//! root: a user namespace may not load BPF.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::cell::RefCell;
use std::net::IpAddr;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rtt0_core::flow::FlowKey;
use rtt0_core::limits::Limits;
use rtt0_core::offer::Promise;
use rtt0_core::offload::{Applied, FastPath, Offloaded, Queued};
use rtt0_core::packet::{Offload, Packet};
use rtt0_core::profile::SynAck;
use rtt0_core::seq::Seq;
use rtt0_core::service::{Direction, Services};
use rtt0_core::time::Instant;
use rtt0_core::translate::{Agreement, Translation};
use rtt0_core::translated::Translated;
use rtt0_core::wire::build::Control;
use rtt0_core::wire::options::{SynOptions, Timestamps};
use rtt0_core::wire::segment::Segment;
use rtt0_core::wire::tcp::Flags;
use rtt0_netio::fast_path::{Attach, KernelOffload, KernelPath, OffloadOptions};
use rtt0_netio::netns::Namespace;
use sha2::{Digest, Sha256};

const LARGEST: u16 = 1500;
const PROMISED_TSVAL: u32 = 77;

/// A connection, and what is sent on it.
#[derive(Debug, Clone)]
struct Trial {
    is_v6: bool,
    client_is_lower: bool,
    client_isn: u32,
    promised_isn: u32,
    real_isn: u32,
    timestamps: bool,
    sack_refused: bool,
    client_scale: u8,
    promised_scale: u8,
    real_scale: u8,
    is_translated: bool,
    is_opening: bool,
    is_attended: bool,
    hide_echo: bool,
    segments: Vec<Sent>,
}

/// A segment; its numbers are near the ends' own.
#[derive(Debug, Clone)]
struct Sent {
    to_server: bool,
    flags: u16,
    sequence: i32,
    acknowledgement: i32,
    window: u16,
    payload: usize,
    timestamps: Option<(u32, u32)>,
    sack: Vec<u32>,
    is_corrupt: bool,
    gso_size: u16,
}

fn sent() -> impl Strategy<Value = Sent> {
    let near = prop_oneof![6 => -1..3000i32, 1 => -100_000..100_000i32, 1 => any::<i32>()];
    let usual = Flags::ACK.bits();
    let fin = (Flags::FIN | Flags::ACK).bits();
    let flags = prop_oneof![6 => Just(usual), 2 => Just((Flags::ACK | Flags::PSH).bits()), 2 => Just(fin), 3 => 0u16..64];
    let acknowledged = prop_oneof![2 => Just(0), 1 => near.clone()];
    let numbers = (any::<bool>(), flags, near, acknowledged, any::<u16>(), 0usize..100);
    let echo = prop_oneof![Just(0), Just(PROMISED_TSVAL), any::<u32>()];
    let options = (prop::option::of((any::<u32>(), echo)), prop::collection::vec(any::<u32>(), 0..5));
    (numbers, options, prop::bool::weighted(0.1), prop_oneof![3 => Just(0u16), 1 => 1u16..2000]).prop_map(
        |(
            (to_server, flags, sequence, acknowledgement, window, payload),
            (timestamps, sack),
            is_corrupt,
            gso_size,
        )| Sent {
            to_server,
            flags,
            sequence,
            acknowledgement,
            window,
            payload,
            timestamps,
            sack,
            is_corrupt,
            gso_size,
        },
    )
}

fn trial() -> impl Strategy<Value = Trial> {
    let isn = prop_oneof![any::<u32>(), Just(u32::MAX), Just(0)];
    (
        [0.5, 0.5, 0.5, 0.5, 0.8, 0.5, 0.7, 0.5].map(prop::bool::weighted),
        [isn.clone(), isn.clone(), isn],
        [0u8..15, 0..15, 0..15],
        prop::collection::vec(sent(), 1..12),
    )
        .prop_map(|(choices, isns, scales, segments)| {
            let [
                is_v6,
                client_is_lower,
                timestamps,
                sack_refused,
                is_translated,
                is_opening,
                is_attended,
                hide_echo,
            ] = choices;
            let [client_isn, promised_isn, real_isn] = isns;
            let [client_scale, promised_scale, real_scale] = scales;
            Trial {
                is_v6,
                client_is_lower,
                client_isn,
                promised_isn,
                real_isn,
                timestamps,
                sack_refused,
                client_scale,
                promised_scale,
                real_scale,
                is_translated,
                is_opening,
                is_attended,
                hide_echo,
                segments,
            }
        })
}

impl Trial {
    /// The client's end and the server's.
    fn ends(&self) -> [(IpAddr, u16); 2] {
        let lower: IpAddr = if self.is_v6 { "fd00::1" } else { "10.1.0.1" }.parse().unwrap();
        let higher: IpAddr = if self.is_v6 { "fd00:0:1::" } else { "10.1.2.0" }.parse().unwrap();
        // The same address at both ends once in a while, so that ports decide.
        let (lower, higher) =
            if self.client_isn.is_multiple_of(5) { (lower, lower) } else { (lower, higher) };
        if self.client_is_lower { [(lower, 80), (higher, 40_000)] } else { [(higher, 40_000), (lower, 80)] }
    }

    fn flow(&self) -> Offloaded {
        let [client, server] = self.ends();
        let key = FlowKey::new(client, server, Direction::ToServer);
        let client_isn = Seq::new(self.client_isn);
        if !self.is_translated && self.is_opening {
            return Offloaded::opening(key, client_isn, Seq::new(self.promised_isn));
        }
        if !self.is_translated {
            return Offloaded::passing(key, client_isn, client_isn.plus(1));
        }
        let promise = Promise {
            mss: 1460,
            window_scale: Some(self.promised_scale),
            sack: true,
            tsval: self.timestamps.then_some(PROMISED_TSVAL),
            ..Promise::default()
        };
        let options = SynOptions {
            mss: Some(1460),
            window_scale: Some(self.real_scale),
            sack_permitted: !self.sack_refused,
            timestamps: self.timestamps.then_some(Timestamps { value: u32::MAX - 5, echo: 3 }),
        };
        let answer = SynAck { options, window: 500, ecn: false };
        let agreement = Agreement {
            promised_isn: Seq::new(self.promised_isn),
            real_isn: Seq::new(self.real_isn),
            promise: &promise,
            answer: &answer,
            client_window_scale: self.client_scale,
        };
        let (translation, _) = Translation::new(agreement, self.hide_echo).unwrap();
        let limits = Limits::default();
        let flow =
            Translated::new(translation, client_isn, self.client_scale, answer, 0, &limits, Instant::ZERO)
                .offloaded(key)
                .unwrap();
        if self.is_opening { flow.until_proven() } else { flow }
    }

    fn packet(&self, sent: &Sent) -> Vec<u8> {
        let [client, server] = self.ends();
        let (source, destination) = if sent.to_server { (client, server) } else { (server, client) };
        let (own, other) = match sent.to_server {
            true => (self.client_isn, self.promised_isn),
            false if self.is_translated => (self.real_isn, self.client_isn),
            false => (self.promised_isn, self.client_isn),
        };
        let mut options = Vec::new();
        if let Some((value, echo)) = sent.timestamps {
            options.extend([1, 1, 8, 10]);
            options.extend([value, echo].iter().flat_map(|number| number.to_be_bytes()));
        }
        let blocks = (sent.sack.len() / 2).min(if sent.timestamps.is_some() { 3 } else { 4 });
        if blocks > 0 {
            options.extend([1, 1, 5, 2 + 8 * blocks as u8]);
            options.extend(sent.sack[..blocks * 2].iter().flat_map(|edge| edge.to_be_bytes()));
        }
        let mut bytes = Vec::new();
        Control {
            source,
            destination,
            sequence: own.wrapping_add(1).wrapping_add_signed(sent.sequence),
            acknowledgement: other.wrapping_add(1).wrapping_add_signed(sent.acknowledgement),
            flags: Flags::from_bits(sent.flags),
            window: sent.window,
        }
        .write(&options, &mut bytes);
        bytes.resize(bytes.len() + sent.payload, 0x5a);
        let length = bytes.len() as u16;
        if self.is_v6 {
            bytes[4..6].copy_from_slice(&(length - 40).to_be_bytes());
        } else {
            bytes[2..4].copy_from_slice(&length.to_be_bytes());
            rtt0_core::wire::ipv4::Ipv4::unverified(&mut bytes[..]).unwrap().fill_checksum();
        }
        let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
        Segment::parse(&mut packet).unwrap().fill_checksum();
        if sent.is_corrupt {
            *bytes.last_mut().unwrap() ^= 0x40;
        }
        bytes
    }

    /// What the kernel leaves to the engine besides what `Offloaded::apply` does: it is larger than what
    /// every interface carries.
    fn is_too_large(&self, sent: &Sent, packet: &[u8]) -> bool {
        let headers = packet.len() - sent.payload;
        let length = if sent.gso_size == 0 { packet.len() } else { headers + usize::from(sent.gso_size) };
        length > LARGEST.into()
    }
}

fn check(kernel: &KernelOffload, path: &mut KernelPath, trial: &Trial) -> Result<(), TestCaseError> {
    let mut expected = trial.flow();
    assert!(path.hand(&expected, Queued::Nothing), "{:?} was refused", expected.key);
    for sent in &trial.segments {
        let mut bytes = trial.packet(sent);
        let mut frame = vec![0; 12];
        frame.extend(if trial.is_v6 { [0x86, 0xdd] } else { [0x08, 0x00] });
        frame.extend(&bytes);
        let (seen, is_marked) = kernel.trial(&frame, sent.gso_size).unwrap();
        let direction = if sent.to_server { Direction::ToServer } else { Direction::ToClient };
        let is_too_large = trial.is_too_large(sent, &bytes);
        let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
        let mut segment = Segment::parse(&mut packet).unwrap();
        let client_end = expected.client_end(direction, &segment.tcp());
        let applied = if is_too_large {
            expected.leave(direction, &segment.tcp());
            Applied::ToEngine
        } else {
            expected.apply(Instant::ZERO, direction, &mut segment, trial.is_attended)
        };
        prop_assert_eq!(is_marked, !matches!(applied, Applied::ToEngine | Applied::Forgotten), "{:?}", sent);
        let told = path.closed();
        match applied {
            Applied::Closed => {
                prop_assert_eq!(told, Some((expected.key, client_end)), "{:?}", sent)
            }
            // One that its receiver would not accept may have been taken for the last.
            _ => prop_assert!(
                told.is_none() || Flags::from_bits(sent.flags).contains(Flags::FIN),
                "{:?}",
                sent
            ),
        }
        prop_assert_eq!(&seen[14..], &bytes[..], "{:?}", sent);
        let progress = path.look(&expected.key);
        if applied == Applied::Forgotten {
            prop_assert_eq!(progress, None);
            return Ok(());
        }
        let mut progress = progress.expect("the flow is in the kernel");
        progress.last_used = Instant::ZERO;
        prop_assert_eq!(progress, expected.progress, "{:?}", sent);
    }
    prop_assert!(path.recall(&expected.key).is_some());
    prop_assert_eq!(path.look(&expected.key), None);
    Ok(())
}

#[test]
fn the_objects_are_of_their_sources() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("bpf");
    let sums = ["offload.bpf.sum", "drops.bpf.sum"];
    let sums = sums.map(|name| std::fs::read_to_string(folder.join(name)).unwrap()).concat();
    let sources = ["offload.bpf.c", "handshake.h", "answer.h", "accept.h", "drops.bpf.c"];
    for name in sources.into_iter().chain(["offload.bpf.o", "drops.bpf.o"]) {
        let bytes = std::fs::read(folder.join(name)).unwrap();
        let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(
            sums.contains(&format!("{digest}  {name}\n")),
            "{name} has changed: run common/netio/bpf/build"
        );
    }
}

#[test]
fn the_kernel_does_with_every_segment_what_the_translator_does() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: BPF needs root");
        return;
    }
    Namespace::create().unwrap().enter(compare).unwrap();
}

fn compare() {
    let services = Services::default();
    let options = OffloadOptions {
        interfaces: &[],
        services: &services,
        largest: LARGEST,
        flows: 1000,
        pins: None,
        attach: Attach::Auto,
        outlet: None,
        handshakes: None,
    };
    let kernel = KernelOffload::start(&options).unwrap();
    // Nothing is queued anywhere, so that nothing waits behind a SYN or a reset.
    kernel.served(0).unwrap().tell(Instant::from_micros(u64::MAX / 1000));
    for is_attended in [true, false] {
        if !is_attended {
            kernel.abandon().unwrap();
        }
        let path = RefCell::new(kernel.path(None).unwrap());
        let mut runner =
            TestRunner::new(Config { cases: 3000, failure_persistence: None, ..Config::default() });
        let trials = trial().prop_map(|mut trial| {
            trial.is_attended = is_attended;
            // A trial's super-packets have no kind, and so the kernel refuses to copy them before it can say whether
            // there is an outlet.
            let usual = [Flags::ACK, Flags::ACK | Flags::PSH].map(Flags::bits);
            let is_judged = trial.is_opening && trial.is_translated;
            let is_odd = |sent: &&mut Sent| {
                !usual.contains(&sent.flags) || is_judged || (trial.is_opening && !sent.to_server)
            };
            let odd = trial.segments.iter_mut().filter(is_odd);
            odd.filter(|_| !is_attended).for_each(|sent| sent.gso_size = 0);
            trial
        });
        runner.run(&trials, |trial| check(&kernel, &mut path.borrow_mut(), &trial)).unwrap();
    }
    let counts = kernel.counts().unwrap();
    assert!(counts.packets > 1000 && counts.left > 1000 && counts.forgotten > 0, "{counts:?}");
}
