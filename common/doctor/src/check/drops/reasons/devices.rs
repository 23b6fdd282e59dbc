//! Devices, their queues and their neighbours.

use super::{Blame, LOTS, SOME, Verdict};
use crate::causes;
use crate::finding::Layer;
use crate::look::drops::Dropped;

const STALE_ADDRESS: &str = "the sender has an old or wrong neighbour entry for this host: correct it there \
                             (ip neigh flush); whoever re-sends frames must set the next hop's address";

/// Devices and their queues.
pub(super) fn devices(reason: &str, dropped: &Dropped) -> Verdict {
    Some(Some(match reason {
        // A share of what is sent is a queue's way to slow TCP down; its own counters tell how much.
        "QDISC_DROP" | "QDISC_OVERLIMIT" | "CAKE_FLOOD" | "FQ_BAND_LIMIT" | "FQ_FLOW_LIMIT" => Blame::loss(
            &causes::QDISC_DROP,
            Layer::Qdisc,
            "tc -s qdisc show dev DEV",
            "raise the queue's limit or rate, or send less: tc qdisc replace dev DEV root …",
        )
        .from(LOTS),
        "CPU_BACKLOG" => Blame::loss(
            &causes::BACKLOG_FULL,
            Layer::Backlog,
            "cat /proc/net/softnet_stat",
            "raise net.core.netdev_max_backlog, or use more processors for receiving (RSS, RPS)",
        ),
        "FULL_RING" if dropped.ethertype != 0 => {
            device("whoever reads the device (TUN, TAP) is too slow: make its queue longer").from(SOME)
        }
        "NO_TX_TARGET" => device("the device has nowhere to send to: look at its members or its remote end"),
        "RECURSION_LIMIT" => device("devices are stacked in a loop"),
        "SKB_CSUM" | "SKB_GSO_SEG" => {
            device("the kernel could not finish checksums or segments for the device: ethtool -k DEV")
        }
        "DEV_HDR" | "MAC_INVALID_SOURCE" | "HDR_TRUNC" | "PKT_TOO_SMALL" => Blame::loss(
            &causes::DEVICE_ERRORS,
            Layer::Device,
            "ip -s -s link",
            "frames are cut or broken: look at the sender and the link",
        ),
        "OTHERHOST" => Blame::loss(
            &causes::WRONG_MAC,
            Layer::Device,
            "tcpdump -e -n -i DEV; ip link show dev DEV; ip neigh",
            STALE_ADDRESS,
        )
        .from(SOME),
        "NEIGH_CREATEFAIL" | "NEIGH_FAILED" | "NEIGH_QUEUEFULL" | "NEIGH_DEAD" | "NEIGH_HH_FILLFAIL" => {
            Blame::loss(
                &causes::NEIGHBOUR_FAILED,
                Layer::Neighbour,
                "ip neigh show nud failed",
                "the next hop does not answer: is its address right, is it up, is it on this link?",
            )
        }
        _ => return None,
    }))
}

fn device(fix: &'static str) -> Blame {
    Blame::loss(&causes::DEVICE_TX_DROP, Layer::Device, "ip -s link; ethtool -S DEV", fix)
}
