//! Several receivers, for a thread each, share an interface's queues.

use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rtt0_netio::counters::IoCounters;
use rtt0_netio::links::Links;
use rtt0_netio::netns::Namespace;
use rtt0_netio::xdp::{Fault, Mode, Options, Receiver, XdpError};

use super::rig::{eventually, namespaces};
use super::{LEFT, RIGHT, VXLAN, options, pair, pair_of_queues, payload, receive, udp};

const FLOWS: usize = 64;

fn open_group(namespace: &Namespace, options: &Options, count: usize) -> Result<Vec<Receiver>, XdpError> {
    namespace.enter(|| Receiver::open_group("right0", options, count)).unwrap()
}

/// Sends numbered packets in turns of all flows, with a pause behind each hundred.
fn send(clients: &[UdpSocket], count: u32) {
    for (number, client) in (0..count).zip(clients.iter().cycle()) {
        client.send_to(&payload(number), (IpAddr::from(RIGHT), VXLAN)).unwrap();
        if number % 100 == 99 {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn clients(namespace: &Namespace) -> Vec<UdpSocket> {
    (0..FLOWS).map(|_| udp(namespace, LEFT)).collect()
}

/// Receives until `all` threads together have `count` packets; returns the numbers of this one's, and its sources.
fn share(receiver: &mut Receiver, counters: &IoCounters, all: &AtomicU64, count: u64) -> Vec<(u32, [u8; 2])> {
    let (mut own, start, mut checked) = (Vec::new(), Instant::now(), Instant::now());
    while all.load(Ordering::Relaxed) < count {
        assert!(start.elapsed() < Duration::from_secs(20), "{} of {count}", all.load(Ordering::Relaxed));
        receiver.receive(counters);
        let packets = receiver.packets_mut().map(|packet| {
            let number = packet.bytes[28..32].try_into().unwrap();
            (u32::from_be_bytes(number), [packet.bytes[20], packet.bytes[21]])
        });
        let before = own.len();
        own.extend(packets);
        all.fetch_add((own.len() - before) as u64, Ordering::Relaxed);
        // As a worker does, and more often.
        if checked.elapsed() > Duration::from_millis(20) {
            assert_eq!(receiver.check(counters), Ok(()), "nothing is lost");
            checked = Instant::now();
        }
    }
    own
}

#[test]
fn every_packet_comes_to_one_of_them_and_the_counts_add_up() {
    const PACKETS: u32 = 20_000;
    for (mode, queues, count) in [(Mode::Native, 4, 2), (Mode::Generic, 4, 4), (Mode::Native, 3, 2)] {
        let Some([left, right]) = namespaces() else { return };
        pair_of_queues(&left, &right, queues);
        let mut receivers = open_group(&right, &options(mode), count).unwrap();
        let line = receivers[0].describe();
        let queues = [
            "queues 0,2 | 1,3 of 2 workers",
            "queues 0 | 1 | 2 | 3 of 4 workers",
            "queues 0,2 | 1 of 2 workers",
        ];
        assert!(queues.iter().any(|queues| line.contains(queues)), "{line}");
        let counters: Vec<_> = receivers.iter().map(|_| IoCounters::default()).collect();
        let (clients, all) = (clients(&left), AtomicU64::new(0));
        let shares: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = receivers
                .iter_mut()
                .zip(&counters)
                .map(|(receiver, counters)| scope.spawn(|| share(receiver, counters, &all, PACKETS.into())))
                .collect();
            send(&clients, PACKETS);
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let mut numbers: Vec<u32> = shares.iter().flatten().map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..PACKETS), "each once");
        let served = shares.iter().filter(|share| !share.is_empty()).count();
        assert!(served >= 2, "{served} of {count} had any");
        // A flow is one receiver's.
        let mut flows: Vec<_> =
            shares.iter().map(|share| share.iter().map(|(_, port)| *port).collect::<Vec<_>>()).collect();
        flows.iter_mut().for_each(|flows| {
            flows.sort_unstable();
            flows.dedup();
        });
        assert_eq!(flows.iter().map(Vec::len).sum::<usize>(), FLOWS);

        for (receiver, counters) in receivers.iter_mut().zip(&counters) {
            assert_eq!(receiver.check(counters), Ok(()));
        }
        let sum = |value: fn(&IoCounters) -> u64| counters.iter().map(value).sum::<u64>();
        let received = sum(|counters| counters.received.value());
        let sockets: u64 = receivers.iter().map(|receiver| receiver.socket_counts().unwrap().received).sum();
        let program = receivers[0].program_counts().unwrap();
        assert_eq!((received, sockets, program.redirected), (PACKETS.into(), PACKETS.into(), PACKETS.into()));
        assert_eq!((sum(|counters| counters.received_overflow.value()), program.unserved), (0, 0));
    }
}

#[test]
fn what_finds_no_room_is_counted_by_whose_it_is() {
    const PACKETS: u32 = 4_000;
    for mode in [Mode::Native, Mode::Generic] {
        let Some([left, right]) = namespaces() else { return };
        // Before generic XDP a veth makes less of its queues: two of three, for example.
        pair_of_queues(&left, &right, 4);
        // 64 frames for each queue.
        let mut receivers = open_group(&right, &Options { memory: 1, ..options(mode) }, 2).unwrap();
        let counters = [IoCounters::default(), IoCounters::default()];
        send(&clients(&left), PACKETS);
        let all = u64::from(PACKETS);
        eventually("all must have come", || {
            (receivers[0].program_counts().unwrap().redirected == all).then_some(())
        });
        eventually("all must be counted", || {
            for (receiver, counters) in receivers.iter_mut().zip(&counters) {
                assert_eq!(receiver.check(counters), Ok(()), "what is counted is no silent loss");
                receiver.receive(counters);
            }
            let counted =
                |counters: &IoCounters| counters.received.value() + counters.received_overflow.value();
            (counters.iter().map(counted).sum::<u64>() == all).then_some(())
        });
        for counters in &counters {
            assert!(counters.received.value() >= 64 && counters.received_overflow.value() > 0);
        }
    }
}

#[test]
fn the_program_stands_until_the_last_has_ended() {
    let Some([left, right]) = namespaces() else { return };
    pair_of_queues(&left, &right, 2);
    let links = Links::open(&right).unwrap();
    let mut receivers = open_group(&right, &options(Mode::Auto), 2).unwrap();
    drop(receivers.remove(0));
    assert_eq!(links.xdp_programs("right0").unwrap().len(), 1);
    let (clients, counters) = (clients(&left), IoCounters::default());
    send(&clients, FLOWS as u32);
    let counts = eventually("all must be counted", || {
        let counts = receivers[0].program_counts().unwrap();
        (counts.redirected + counts.unserved == FLOWS as u64).then_some(counts)
    });
    assert!(counts.redirected > 0 && counts.unserved > 0, "{counts:?}");
    receive(&mut receivers[0], counts.redirected as usize, &counters);
    assert_eq!(receivers[0].check(&counters), Ok(()), "whoever has ended misses nothing");
    assert_eq!(counters.received_overflow.value(), 0);
    receivers.clear();
    assert_eq!(links.xdp_programs("right0").unwrap(), []);
}

#[test]
fn what_is_left_to_the_kernel_is_told_by_one() {
    let Some([left, right]) = namespaces() else { return };
    pair_of_queues(&left, &right, 3);
    let some = Options { queues: Some(vec![0, 2]), ..options(Mode::Native) };
    let mut receivers = open_group(&right, &some, 2).unwrap();
    send(&clients(&left), 10 * FLOWS as u32);
    let unserved = eventually("all must be counted", || {
        let counts = receivers[0].program_counts().unwrap();
        (counts.redirected + counts.unserved == 10 * FLOWS as u64).then_some(counts.unserved)
    });
    assert!(unserved > 0);
    let counters = [IoCounters::default(), IoCounters::default()];
    let told: Vec<_> = receivers
        .iter_mut()
        .zip(&counters)
        .rev()
        .map(|(receiver, counters)| receiver.check(counters))
        .collect();
    assert_eq!(told, [Err(Fault::Unserved { packets: unserved }), Ok(())]);
    assert_eq!(counters.each_ref().map(|counters| counters.received_overflow.value()), [0, unserved]);
}

#[test]
fn more_receivers_than_queues_are_refused() {
    let Some([left, right]) = namespaces() else { return };
    pair(&left, &right, 1500);
    let error = open_group(&right, &options(Mode::Auto), 2).unwrap_err();
    assert_eq!(
        error.to_string(),
        "2 workers need a receive queue each, and interface 'right0' has 1: `ethtool -L right0 rx N`, and tx N on \
         the veth's peer, or, if that is refused, a veth made with more (`ip link add ... numrxqueues N`); or ask for at most 1"
    );
    assert_eq!(Links::open(&right).unwrap().xdp_programs("right0").unwrap(), []);
}
