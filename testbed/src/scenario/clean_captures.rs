//! What the packets of 0-RTT connections look like at every device on the way.

use super::figure::Answer;
use super::sighting::Sighting;
use super::{Case, Lab, Report, Scenario, Setting};
use crate::address::WAN0;
use crate::compare::counters::HostCounters;
use crate::nic::NicMode;
use crate::program::client::{Ask, Request};
use crate::record::Recorder;
use anyhow::{Context, ensure};
use rtt0_core::wire::tcp::Flags;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "clean-captures",
    about: "at every device: spoof before the real SYN-ACK, no reset, repeat, bad checksum, stray option",
    run,
};

/// Connections per case.
const CONNECTIONS: usize = 20;
/// Bytes of the transfers among them: several flights of the sender's window.
const TRANSFER: u64 = 100_000;
/// Round-trip time of the path.
const RTT: Duration = Duration::from_millis(25);
/// Room for any super-packet.
const WHOLE: usize = 65_536 + 40;
/// Connections of a case that may be reset for a reason that is known.
const EXCUSED: usize = 2;
/// TTL and hop limit with which Linux sends.
const HOPS: u8 = 64;

/// The devices on the way to the server, with how many NICs lie before each.
const DEVICES: [(&str, u8); 6] = [
    ("client:eth0", 0),
    ("clientnic:lan0", 0),
    ("clientnic:wan0", 1),
    ("servernic:wan0", 1),
    ("servernic:lan0", 2),
    ("server:eth0", 2),
];
/// Both ends of each link.
const LINKS: [(&str, &str); 3] = [
    ("client:eth0", "clientnic:lan0"),
    ("clientnic:wan0", "servernic:wan0"),
    ("servernic:lan0", "server:eth0"),
];

fn run(report: &mut Report) -> anyhow::Result<()> {
    for case in Case::ALL {
        let mut lab = Lab::raise(Setting { rtt: RTT, ..Setting::new(case, Some(NicMode::Paired)) })?;
        let kernel = ask(&Lab::raise(Setting { rtt: RTT, ..Setting::new(case, None) })?)?;
        let (seen, answers, forwarded) = record(&lab)?;
        for (kernel, nics) in kernel.iter().zip(&answers) {
            report.equal(case, kernel, nics)?;
        }
        let excused = judge(&seen).with_context(|| case.to_string())?;
        if excused > 0 {
            report.note(format!(
                "{case}: {excused} connections reset: a cable had swapped packets, or a FIN was probed early"
            ));
        }
        if let Some(nics) = lab.take_nics() {
            let (client, server) = nics.stop()?;
            let spoofed = client.of("event.spoofed_paired");
            // Established flows, and super-packets that the daemons had it route.
            let wanted: u64 =
                [&client, &server].map(|nic| nic.of("offload.packets") + nic.of("sent_whole")).iter().sum();
            ensure!(
                forwarded <= wanted,
                "{case}: the NICs' kernels forwarded {forwarded} packets, {wanted} of them for the daemons"
            );
            ensure!(spoofed == CONNECTIONS as u64, "{case}: {spoofed} of {CONNECTIONS} were 0-RTT");
        }
        report.note(format!("{case}: {} packets of {CONNECTIONS} connections, all clean", seen.len()));
    }
    Ok(())
}

/// Makes the connections.
fn ask(lab: &Lab) -> anyhow::Result<Vec<Answer>> {
    let asks = [Ask::Greeting, Ask::Download(TRANSFER), Ask::Greeting, Ask::Upload(TRANSFER)];
    let fetch = |ask| Ok(Answer::from(&lab.fetch(&Request { ask, ..lab.request() })?));
    asks.into_iter().cycle().take(CONNECTIONS).map(fetch).collect()
}

/// Makes the connections; returns what the six devices saw, what was answered, and what the NICs'
/// kernels forwarded.
fn record(lab: &Lab) -> anyhow::Result<(Vec<Sighting>, Vec<Answer>, u64)> {
    let topology = lab.topology();
    let forwarded = || -> anyhow::Result<u64> {
        let nics = [&topology.client_nic, &topology.server_nic];
        nics.into_iter().map(|host| Ok(HostCounters::read(host)?.forwarded)).sum()
    };
    // The connection that taught the daemons is over, but its last packets may be under way.
    std::thread::sleep(Duration::from_millis(100));
    let before = forwarded()?;
    let recorders = topology.devices().map(|(host, device)| Recorder::start(host, device, WHOLE, None));
    let recorders = recorders.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let answers = ask(lab)?;
    std::thread::sleep(Duration::from_millis(100));
    let mut seen = Vec::new();
    for recorder in recorders {
        let read = |record: &_| Sighting::read(record, lab.target());
        seen.extend(recorder.stop()?.iter().filter_map(read));
    }
    Ok((seen, answers, forwarded()? - before))
}

/// Returns how many connections were reset since a cable has swapped their packets, or their client has probed early.
fn judge(seen: &[Sighting]) -> anyhow::Result<usize> {
    let clients: BTreeSet<SocketAddr> = seen.iter().map(|sighting| sighting.client).collect();
    ensure!(clients.len() == CONNECTIONS, "{} connections recorded of {CONNECTIONS}", clients.len());
    every_packet(seen)?;
    let mut excused = 0;
    for client in clients {
        let flow: Vec<&Sighting> = seen.iter().filter(|sighting| sighting.client == client).collect();
        if flow.iter().any(|sighting| sighting.flags.contains(Flags::RST)) {
            excused += 1;
            ensure!(excused <= EXCUSED, "{excused} connections reset");
            if probed_early(&flow) {
                // A declared difference, with a repeated FIN in it.
                continue;
            }
            let swapped = LINKS.iter().any(|(near, far)| !kept_order(&flow, near, far));
            ensure!(swapped, "a reset, at the client: {}", story(&flow));
        }
        spoof_comes_first(&flow)?;
        for (device, _) in DEVICES {
            for to_server in [true, false] {
                let here = flow.iter().filter(|s| s.device == device && s.to_server == to_server);
                let here: Vec<&Sighting> = here.copied().collect();
                sent_once(&here, device).with_context(|| format!("{device}, to server: {to_server}"))?;
                acknowledged_as_often(&here, &flow).with_context(|| device.to_owned())?;
            }
        }
        for (near, far) in LINKS {
            crossed_once(&flow, near, far)?;
        }
    }
    Ok(excused)
}

/// Tells whether a client has repeated its FIN before an answer to the first had come, and was then reset: the declared
/// difference `reset-after-early-probe`.
fn probed_early(flow: &[&Sighting]) -> bool {
    let at_client = || flow.iter().filter(|s| s.device == "client:eth0");
    let fins: Vec<_> = at_client().filter(|s| s.outgoing && s.flags.contains(Flags::FIN)).collect();
    let closed = at_client().find(|s| !s.outgoing && s.flags.contains(Flags::FIN));
    let reset = at_client().find(|s| s.outgoing && s.flags.contains(Flags::RST));
    match (fins.as_slice(), closed, reset) {
        ([first, second], Some(closed), Some(reset)) => {
            first.sequence == second.sequence && reset.at > second.at && reset.at > closed.at
        }
        _ => false,
    }
}

/// Tells the end of a connection as its client saw it.
fn story(flow: &[&Sighting]) -> String {
    let at_client: Vec<_> = flow.iter().filter(|s| s.device == "client:eth0").collect();
    let tell = |s: &&&Sighting| {
        let (way, ms) = (if s.outgoing { "→" } else { "←" }, s.at.as_secs_f64() * 1e3 % 1e5);
        format!(
            "{ms:.3} {way} {:?} seq {} ack {} length {}",
            s.flags, s.sequence, s.acknowledgement, s.payload
        )
    };
    let last = at_client.len().saturating_sub(12);
    at_client[last..].iter().map(tell).collect::<Vec<_>>().join("; ")
}

/// Tells whether packets arrived in the order in which they were sent. A veth queues what a host sends from two
/// processors twice, and then a FIN may overtake an acknowledgement; the answer to that finds nobody.
fn kept_order(flow: &[&Sighting], near: &str, far: &str) -> bool {
    [(near, far), (far, near)].into_iter().all(|(from, to)| {
        let sent = flow.iter().filter(|s| s.device == from && s.outgoing);
        let mut arrived = flow.iter().filter(|s| s.device == to && !s.outgoing);
        sent.clone().all(|packet| arrived.any(|other| packet.equals(other)))
    })
}

/// What holds for a packet by itself.
fn every_packet(seen: &[Sighting]) -> anyhow::Result<()> {
    let mut signals = 0;
    for sighting in seen {
        let nics = DEVICES.iter().find(|(device, _)| *device == sighting.device);
        let (_, nics_from_client) = *nics.with_context(|| format!("no such device: {sighting:?}"))?;
        ensure!(sighting.sound, "a bad checksum: {sighting:?}");
        let on_long_leg = sighting.device.ends_with(WAN0);
        ensure!(on_long_leg || !sighting.signals, "the signalling option: {sighting:?}");
        signals += usize::from(sighting.signals);
        // The NICs' own: the spoofed SYN-ACK and the confirm.
        let made_by_nic = sighting.is_syn(true) && !sighting.device.contains("server:");
        let nics = if sighting.to_server { nics_from_client } else { 2 - nics_from_client };
        ensure!(made_by_nic || sighting.hops == HOPS - nics, "not {HOPS} − {nics} hops: {sighting:?}");
    }
    // Offer and confirm, at both ends of the long leg: the eye that sees none elsewhere is not blind.
    ensure!(signals == 4 * CONNECTIONS, "{signals} signalling options on the long leg");
    Ok(())
}

fn spoof_comes_first(flow: &[&Sighting]) -> anyhow::Result<()> {
    let first = |device: &str, outgoing| {
        let mut syn_acks =
            flow.iter().filter(|s| s.device == device && s.outgoing == outgoing && s.is_syn(true));
        syn_acks.next().with_context(|| format!("no SYN-ACK at {device}"))
    };
    let (spoofed, real) = (first("client:eth0", false)?, first("server:eth0", true)?);
    ensure!(spoofed.at < real.at, "the real SYN-ACK left first: {real:?}; spoofed: {spoofed:?}");
    Ok(())
}

/// Neither data nor SYN nor FIN is repeated, but for what RTT honesty repeats on the server's leg.
fn sent_once(here: &[&Sighting], device: &str) -> anyhow::Result<()> {
    let on_server_leg = matches!(device, "servernic:lan0" | "server:eth0");
    let syns = here.iter().filter(|s| s.flags.contains(Flags::SYN)).count();
    let expected = if on_server_leg { 2 } else { 1 };
    ensure!(syns == expected, "{syns} SYNs instead of {expected}");
    let fins = here.iter().filter(|s| s.flags.contains(Flags::FIN)).count();
    ensure!(fins == 1, "{fins} FINs");
    let Some(start) = here.iter().find(|s| s.flags.contains(Flags::SYN)) else { return Ok(()) };
    let mut data: Vec<(u32, u32)> = here
        .iter()
        .filter(|s| s.payload > 0)
        .map(|s| (s.sequence.wrapping_sub(start.sequence).wrapping_sub(1), s.payload))
        .collect();
    data.sort_unstable();
    let mut next = 0;
    for (offset, length) in data {
        ensure!(offset == next, "data at {offset} where {next} was due: repeated or lost");
        next += length;
    }
    Ok(())
}

/// No bare ACK is there more often than its host sent it. A host may send the same twice: its peer's
/// own packets may have overtaken one another, between its processors.
fn acknowledged_as_often(here: &[&Sighting], flow: &[&Sighting]) -> anyhow::Result<()> {
    // What the client has sent so far: neither NIC changes it.
    let number = |s: &Sighting| if s.to_server { s.sequence } else { s.acknowledgement };
    let is_bare = |s: &Sighting| s.payload == 0 && !s.flags.intersects(Flags::SYN | Flags::FIN);
    for one in here.iter().filter(|one| is_bare(one)) {
        let same = |other: &&&Sighting| {
            is_bare(other) && other.to_server == one.to_server && number(other) == number(one)
        };
        let host = if one.to_server { "client:eth0" } else { "server:eth0" };
        let sent = flow.iter().filter(|s| s.device == host && s.outgoing).filter(same).count();
        let seen = here.iter().filter(same).count();
        ensure!(seen <= sent, "{seen} times and sent {sent} times: {one:?}");
    }
    Ok(())
}

/// What leaves one end of a link arrives at the other, and nothing else does.
fn crossed_once(flow: &[&Sighting], near: &str, far: &str) -> anyhow::Result<()> {
    for (from, to) in [(near, far), (far, near)] {
        let sent: Vec<_> = flow.iter().filter(|s| s.device == from && s.outgoing).collect();
        let mut arrived: Vec<_> = flow.iter().filter(|s| s.device == to && !s.outgoing).collect();
        for packet in sent {
            let position = arrived.iter().position(|other| packet.equals(other));
            let position = position.with_context(|| format!("lost between {from} and {to}: {packet:?}"))?;
            arrived.swap_remove(position);
        }
        ensure!(arrived.is_empty(), "from nowhere at {to}: {:?}", arrived[0]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(sequence: u32, flags: Flags, payload: u32) -> Sighting {
        Sighting {
            at: Duration::ZERO,
            device: "client:eth0".to_owned(),
            outgoing: true,
            client: ([10, 1, 0, 10], 4000).into(),
            to_server: true,
            hops: HOPS,
            sequence,
            acknowledgement: 0,
            flags,
            window: 500,
            options: vec![],
            payload,
            signals: false,
            sound: true,
        }
    }

    /// A SYN just before the wrap, two segments of data, an ACK and a FIN.
    fn clean() -> Vec<Sighting> {
        vec![
            segment(u32::MAX - 1, Flags::SYN, 0),
            segment(u32::MAX, Flags::ACK, 100),
            segment(99, Flags::ACK, 50),
            segment(149, Flags::ACK, 0),
            segment(149, Flags::ACK | Flags::FIN, 0),
        ]
    }

    fn judged(seen: &[Sighting]) -> anyhow::Result<()> {
        let (sent, seen) = (clean(), seen.iter().collect::<Vec<_>>());
        acknowledged_as_often(&seen, &sent.iter().collect::<Vec<_>>())?;
        sent_once(&seen, "client:eth0")
    }

    #[test]
    fn only_a_repeated_fin_makes_a_reset_an_early_probes() {
        let at = |ms, outgoing, flags| Sighting {
            at: Duration::from_millis(ms),
            outgoing,
            ..segment(7, flags, 0)
        };
        let fin = Flags::FIN | Flags::ACK;
        let probed = [at(1, true, fin), at(9, true, fin), at(26, false, fin), at(34, true, Flags::RST)];
        assert!(probed_early(&probed.iter().collect::<Vec<_>>()));
        for left_out in 0..3 {
            let rest: Vec<_> = probed
                .iter()
                .enumerate()
                .filter(|(index, _)| *index != left_out)
                .map(|(_, one)| one)
                .collect();
            assert!(!probed_early(&rest), "without {left_out}");
        }
        assert_eq!(story(&probed.iter().collect::<Vec<_>>()).split("; ").count(), 4);
    }

    #[test]
    fn anything_repeated_or_lost_is_told() {
        judged(&clean()).unwrap();
        for index in 0..5 {
            let mut repeated = clean();
            repeated.push(repeated[index].clone());
            assert!(judged(&repeated).is_err(), "repeated {index}");
        }
        let mut lost = clean();
        lost.remove(1);
        assert!(judged(&lost).is_err());
        let mut overlapping = clean();
        overlapping.push(segment(120, Flags::ACK, 50));
        assert!(judged(&overlapping).is_err());
    }

    #[test]
    fn a_packet_lost_or_added_on_a_link_is_told() {
        let sent = segment(1, Flags::ACK, 10);
        let arrived = Sighting { device: "clientnic:lan0".to_owned(), outgoing: false, ..sent.clone() };
        let crossed = |flow: &[&Sighting]| crossed_once(flow, "client:eth0", "clientnic:lan0");
        crossed(&[&sent, &arrived]).unwrap();
        assert!(crossed(&[&sent]).is_err());
        assert!(crossed(&[&sent, &arrived, &arrived]).is_err());
    }

    #[test]
    fn a_cable_that_swaps_packets_is_told() {
        let sent = [segment(1, Flags::ACK, 0), segment(1, Flags::ACK | Flags::FIN, 0)];
        let arrived = sent.clone().map(|sent| Sighting {
            device: "clientnic:lan0".to_owned(),
            outgoing: false,
            ..sent
        });
        let kept = |flow: &[&Sighting]| kept_order(flow, "client:eth0", "clientnic:lan0");
        assert!(kept(&[&sent[0], &sent[1], &arrived[0], &arrived[1]]));
        assert!(!kept(&[&sent[0], &sent[1], &arrived[1], &arrived[0]]));
    }

    #[test]
    fn bad_checksums_stray_options_and_wrong_hops_are_told() {
        let good = segment(1, Flags::ACK, 0);
        let told = |bad: Sighting| format!("{:#}", every_packet(&[bad]).unwrap_err());
        assert!(told(Sighting { sound: false, ..good.clone() }).contains("checksum"));
        assert!(told(Sighting { signals: true, ..good.clone() }).contains("signalling"));
        assert!(told(Sighting { hops: 63, ..good }).contains("hops"));
    }
}
