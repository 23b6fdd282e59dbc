//! Looks at a few of the packets that come, to say why none is of use.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use rtt0_core::packet::{Offload, Packet};
use rtt0_netio::capture::{Capture, CaptureOptions};
use rtt0_netio::counters::IoCounters;

use crate::examples::Examples;
use crate::inner::{self, Transport};
use crate::judgement::Judgement;
use crate::reason::DropReason;
use crate::tunnel::{self, Kind, Listening, Tunnels};
use crate::watchdog::Trouble;

/// How long examples are waited for.
const PATIENCE: Duration = Duration::from_millis(1500);
const PAUSE: Duration = Duration::from_millis(50);

/// Says what is wrong, and of what comes the most, in the log.
pub(super) fn tell(
    trouble: &Trouble,
    interface: &str,
    ports: &[u16],
    judgement: &Judgement,
    examples: &Examples,
) {
    let examples = match trouble {
        // What the mirror does not take, it can't show.
        Trouble::Silence => captured(interface),
        Trouble::NoneMatches { .. } => shown(examples),
    };
    let seen = examples.iter().map(|packet| explain(packet, judgement));
    let most = most_frequent(seen);
    let most = most.as_deref().unwrap_or("no example was caught");
    match trouble {
        Trouble::Silence if examples.is_empty() => tracing::warn!(
            interface,
            ?ports,
            "nothing arrives by UDP: is the mirror session on, and is this interface its target? Security groups and \
             network ACLs have to let the tunnel's port in"
        ),
        Trouble::Silence => {
            tracing::warn!(interface, ?ports, "packets arrive, none at the tunnels' ports: {most}");
        }
        Trouble::NoneMatches { reason, packets } => tracing::warn!(
            interface,
            reason,
            packets,
            "packets arrive, none matches: {most}. {}",
            meaning(reason)
        ),
    }
}

fn meaning(label: &str) -> &'static str {
    DropReason::ALL.iter().find(|reason| reason.label() == label).map_or("", |reason| reason.meaning())
}

/// Returns a few packets that were of no use.
fn shown(examples: &Examples) -> Vec<Vec<u8>> {
    let deadline = Instant::now() + PATIENCE;
    examples.want();
    while !examples.are_there() && Instant::now() < deadline {
        thread::sleep(PAUSE);
    }
    examples.take()
}

/// Captures a few packets of UDP, whatever their port; none if that is not possible, which the log then says.
fn captured(interface: &str) -> Vec<Vec<u8>> {
    let options = CaptureOptions { ring: 1 << 20, receive_buffer: 1 << 20, ..CaptureOptions::default() };
    let mut capture = match Capture::open_tunnels(interface, &[], &options) {
        Ok(capture) => capture,
        Err(error) => {
            tracing::warn!(%error, "no examples can be captured");
            return Vec::new();
        }
    };
    let (counters, deadline) = (IoCounters::default(), Instant::now() + PATIENCE);
    loop {
        capture.receive(&counters);
        let packets: Vec<Vec<u8>> =
            capture.packets_mut().map(|Packet { bytes, .. }| bytes.to_vec()).collect();
        if !packets.is_empty() || Instant::now() >= deadline {
            return packets;
        }
        thread::sleep(PAUSE);
    }
}

/// Says what becomes of one packet, and which of its properties is why.
fn explain(packet: &[u8], judgement: &Judgement) -> String {
    let any = Offload { needs_csum: true, gso_size: 0 };
    let found = match tunnel::decapsulate(packet, &judgement.tunnels, any) {
        Ok(found) => found,
        Err(DropReason::NoTunnel) => return elsewhere(packet),
        Err(DropReason::Vni) => return foreign(packet, &judgement.tunnels),
        Err(reason) => return format!("{} ({} bytes)", reason.label(), packet.len()),
    };
    let inner = match packet.get(found.inner).map(inner::parse) {
        Some(Ok(inner)) => inner,
        Some(Err(reason)) => return reason.label().to_owned(),
        None => return DropReason::OuterMalformed.label().to_owned(),
    };
    let allowed = judgement.allowlist.as_ref().is_none_or(|list| list.owner(inner.source).is_some());
    let protocol = match inner.transport {
        Transport::Tcp => "TCP",
        Transport::Udp => "UDP",
        Transport::Icmp => "ICMP",
    };
    if allowed {
        format!("{protocol} from {} to {} port {}", inner.source, inner.destination, inner.destination_port)
    } else {
        format!("from {}, which is not on the allowlist", inner.source)
    }
}

/// Names the port of UDP that is for no tunnel.
fn elsewhere(packet: &[u8]) -> String {
    tunnel::port(packet).map_or("no UDP".to_owned(), |port| format!("UDP to port {port}"))
}

/// Names the identifier of a tunnel that nobody asked for.
fn foreign(packet: &[u8], tunnels: &Tunnels) -> String {
    let any = |kind| {
        let listening: Vec<_> =
            tunnels.ports().map(|port| Listening { kind, port, vnis: Vec::new() }).collect();
        let tunnels = Tunnels::new(&listening).ok()?;
        tunnel::decapsulate(packet, &tunnels, Offload { needs_csum: true, gso_size: 0 }).ok()
    };
    let found = any(Kind::Vxlan).or_else(|| any(Kind::Geneve));
    found.map_or("an unknown identifier".to_owned(), |found| format!("VNI {}", found.vni))
}

fn most_frequent(texts: impl Iterator<Item = String>) -> Option<String> {
    let mut counts = HashMap::<String, usize>::new();
    for text in texts {
        *counts.entry(text).or_default() += 1;
    }
    counts.into_iter().max_by(|a, b| a.1.cmp(&b.1).then_with(|| b.0.cmp(&a.0))).map(|(text, _)| text)
}
