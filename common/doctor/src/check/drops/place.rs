//! Where in the kernel a packet was, from the functions that had been called.

use crate::finding::Layer;
use crate::look::drops::Dropped;

/// Functions that run netfilter's hooks, each with the layer.
const HOOKS: &[(&str, Layer)] = &[
    ("__netif_receive_skb_core", Layer::NetdevIngress),
    ("__dev_queue_xmit", Layer::NetdevEgress),
    ("ip_rcv", Layer::Prerouting),
    ("ip_list_rcv", Layer::Prerouting),
    ("ip_sublist_rcv", Layer::Prerouting),
    ("ipv6_rcv", Layer::Prerouting),
    ("ipv6_list_rcv", Layer::Prerouting),
    ("ip6_sublist_rcv", Layer::Prerouting),
    ("arp_rcv", Layer::Input),
    ("ip_local_deliver", Layer::Input),
    ("ip6_input", Layer::Input),
    ("ip_forward", Layer::Forward),
    ("ip6_forward", Layer::Forward),
    ("ipmr_queue_xmit", Layer::Forward),
    ("__ip_local_out", Layer::Output),
    ("ip_local_out", Layer::Output),
    ("__ip6_local_out", Layer::Output),
    ("ip6_local_out", Layer::Output),
    ("ip6_xmit", Layer::Output),
    ("raw_sendmsg", Layer::Output),
    ("raw_send_hdrinc", Layer::Output),
    ("rawv6_sendmsg", Layer::Output),
    ("rawv6_send_hdrinc", Layer::Output),
    ("ndisc_send_skb", Layer::Output),
    ("mld_sendpack", Layer::Output),
    ("arp_xmit", Layer::Output),
    ("ip_output", Layer::Postrouting),
    ("ip_mc_output", Layer::Postrouting),
    ("ip6_output", Layer::Postrouting),
    ("xfrm4_output", Layer::Postrouting),
    ("xfrm6_output", Layer::Postrouting),
];

/// Returns the layer of the hook at which netfilter dropped it, if the functions tell.
pub(super) fn netfilter(dropped: &Dropped) -> Option<Layer> {
    names(dropped).find_map(|name| HOOKS.iter().find(|(hook, _)| *hook == name).map(|(_, layer)| *layer))
}

/// Tells whether a function's name says where in the kernel it is, to somebody who reads evidence.
pub(super) fn tells(name: &str) -> bool {
    HOOKS.iter().any(|(hook, _)| *hook == name)
}

/// Tells whether it was on its way out.
pub(super) fn is_leaving(dropped: &Dropped) -> bool {
    let leaves = |name: &str| name.contains("xmit") || name.contains("output") || name.contains("sendmsg");
    names(dropped).any(leaves)
}

/// Tells whether it was only passed to whoever captures packets, and went on besides.
pub(super) fn is_captured(dropped: &Dropped) -> bool {
    let taps = ["packet_rcv", "tpacket_rcv", "packet_rcv_spkt", "packet_rcv_fanout", "raw_rcv", "rawv6_rcv"];
    let is_tap =
        |name: &str| taps.contains(&name) || name.starts_with("netlink_") || name.starts_with("unix_");
    dropped.location.as_deref().is_some_and(is_tap)
}

/// Tells whether the function that dropped it has that in its name.
pub(super) fn is_in(dropped: &Dropped, part: &str) -> bool {
    dropped.location.as_deref().is_some_and(|name| name.contains(part))
}

fn names(dropped: &Dropped) -> impl Iterator<Item = &str> {
    dropped.location.iter().chain(&dropped.callers).map(String::as_str)
}
