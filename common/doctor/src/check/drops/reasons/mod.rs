//! What the kernel's reasons mean: whose fault it is, from how many packets on, and what to do.
//!
//! Names that older kernels had are here too; numbers differ between all of them.

mod devices;
mod filters;
mod internet;
mod transport;
mod usual;

use crate::causes;
use crate::finding::{Cause, Layer, Rank};
use crate::look::drops::Dropped;

use super::{ICMP6, place};

/// What a reason means.
#[derive(Debug, Clone, Copy)]
pub(super) struct Blame {
    pub(super) cause: &'static Cause,
    pub(super) layer: Layer,
    pub(super) rank: Rank,
    /// Fewer packets than that are nothing to speak of, unless another check has found the same.
    pub(super) least: u64,
    /// What shows it by hand; empty for the tracepoint itself.
    pub(super) command: &'static str,
    pub(super) fix: &'static str,
}

/// A few packets that stray are usual in every network.
const FEW: u64 = 3;
/// A traceroute sends three datagrams with each hop limit, to a port at which nobody listens.
const SOME: u64 = 5;
/// Happens to every busy host for a moment.
const MANY: u64 = 20;
/// Path MTU discovery takes a flight of packets to learn.
const LEARNING: u64 = 25;
/// Alone it proves nothing.
const LOTS: u64 = 1000;

/// What mac80211 can't use, as every radio hears it.
const WIRELESS: &str = "SUBSYSTEM_1_";

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;
/// Neighbour solicitations and advertisements.
const NEIGHBOUR_DISCOVERY: [u16; 2] = [135, 136];

impl Blame {
    fn loss(cause: &'static Cause, layer: Layer, command: &'static str, fix: &'static str) -> Self {
        Self { cause, layer, rank: Rank::Loss, least: FEW, command, fix }
    }

    fn from(self, least: u64) -> Self {
        Self { least, ..self }
    }

    fn symptom(self) -> Self {
        Self { rank: Rank::Symptom, ..self }
    }
}

/// Returns what is wrong where a packet is dropped so, or nothing where that is usual.
pub(super) fn blame(dropped: &Dropped) -> Option<Blame> {
    if place::is_captured(dropped) || is_noise(dropped) {
        return None;
    }
    let reason = dropped.reason.as_str();
    if usual::is_usual(reason) || reason.starts_with(WIRELESS) {
        return None;
    }
    filters::filters(reason, dropped)
        .or_else(|| devices::devices(reason, dropped))
        .or_else(|| internet::internet(reason, dropped))
        .or_else(|| transport::transport(reason, dropped))
        .unwrap_or_else(|| {
            let layer = if place::is_leaving(dropped) { Layer::Device } else { Layer::Ip };
            Some(Blame::loss(
                &causes::KERNEL_DROP,
                layer,
                "",
                "look the reason up in the kernel's include/net/dropreason-core.h",
            ))
        })
}

/// Multicast and other protocols than IP, that nobody has asked for. Neighbour discovery is needed, though, and ARP.
fn is_noise(dropped: &Dropped) -> bool {
    let is_needed = match dropped.ethertype {
        IPV4 | IPV6 if !dropped.is_to_many => return false,
        IPV6 => dropped.protocol == ICMP6 && NEIGHBOUR_DISCOVERY.contains(&dropped.ports.0),
        ARP => true,
        _ => false,
    };
    let filters = ["NETFILTER_DROP", "TC_INGRESS", "TC_EGRESS", "XDP"];
    !(is_needed && (filters.contains(&dropped.reason.as_str()) || place::is_in(dropped, "xdp")))
}

/// `Some(None)`: usual; `None`: another table's.
type Verdict = Option<Option<Blame>>;
