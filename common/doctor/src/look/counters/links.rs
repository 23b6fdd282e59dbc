//! Statistics of the network interfaces, over rtnetlink: `/sys` may show another namespace's devices.

use std::collections::BTreeMap;

use netlink_bindings::rt_link::{Ifinfomsg, IterableLinkAttrs, Request};
use netlink_socket2::NetlinkSocket;

use super::{Seen, refused};

/// `IFF_UP`.
const UP: u32 = 1;
/// `IFF_PROMISC`.
const PROMISCUOUS: u32 = 1 << 8;

/// One interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// The kernel's index of it.
    pub index: u32,
    /// Whether it is administratively up.
    pub is_up: bool,
    /// Whether it takes all frames, whosever they are: by its own flag or for a capture.
    pub is_promiscuous: bool,
    /// What it is, such as `veth`; empty for hardware.
    pub kind: String,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Length of its transmit queue (`txqueuelen`), in packets.
    pub queue_length: u32,
    /// How often it has lost its carrier; none if this kernel does not tell.
    pub carrier_losses: Option<u32>,
    /// What has passed and what has not.
    pub counts: Counts,
}

macro_rules! counts {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// `struct rtnl_link_stats64`, as far as it is about losses.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Counts { $($(#[doc = $doc])+ pub $name: u64,)+ }

        fn counts(link: &IterableLinkAttrs<'_>) -> Option<Counts> {
            let stats = link.get_stats64().ok()?;
            Some(Counts { $($name: stats.$name,)+ })
        }
    };
}

counts! {
    /// Packets received.
    rx_packets,
    /// Packets sent.
    tx_packets,
    /// Received frames that were broken; holds those of the kinds below.
    rx_errors,
    /// Packets that could not be sent; holds those of the kinds below.
    tx_errors,
    /// Received packets dropped by the driver, or by the kernel for want of room or of a protocol that takes them.
    rx_dropped,
    /// Packets to be sent that were dropped by the driver, or by the kernel on their way into it.
    tx_dropped,
    /// Of another length than they say, or too long.
    rx_length_errors,
    /// The ring was full.
    rx_over_errors,
    /// Wrong check sequence.
    rx_crc_errors,
    /// Misaligned.
    rx_frame_errors,
    /// The device's buffer was full.
    rx_fifo_errors,
    /// The host was too slow to take them.
    rx_missed_errors,
    /// Given up by the device.
    tx_aborted_errors,
    /// No carrier, or no tunnel's route.
    tx_carrier_errors,
    /// The device ran out of data.
    tx_fifo_errors,
    /// Frames for another host's Ethernet address; zero before Linux 5.19.
    rx_otherhost_dropped,
}

/// Reads those of all interfaces, by name.
pub(super) fn read() -> Seen<BTreeMap<String, Link>> {
    let failed = |error: std::io::Error| refused("RTM_GETLINK", error);
    let mut socket = NetlinkSocket::new();
    let request = Request::new().op_getlink_dump(&Ifinfomsg::default());
    let mut replies = socket.request(&request).map_err(failed)?;
    let mut links = BTreeMap::new();
    while let Some(reply) = replies.recv() {
        let (header, attributes) = reply.map_err(|error| failed(error.into()))?;
        let Ok(name) = attributes.get_ifname() else { continue };
        links.insert(name.to_string_lossy().into_owned(), link(&header, &attributes));
    }
    Ok(links)
}

fn link(header: &Ifinfomsg, attributes: &IterableLinkAttrs<'_>) -> Link {
    let kind = attributes.get_linkinfo().and_then(|info| info.get_kind());
    let is_captured = attributes.get_promiscuity().is_ok_and(|count| count > 0);
    Link {
        index: header.ifi_index.cast_unsigned(),
        is_up: header.ifi_flags & UP != 0,
        is_promiscuous: header.ifi_flags & PROMISCUOUS != 0 || is_captured,
        kind: kind.map(|kind| kind.to_string_lossy().into_owned()).unwrap_or_default(),
        mtu: attributes.get_mtu().unwrap_or_default(),
        queue_length: attributes.get_txqlen().unwrap_or_default(),
        carrier_losses: attributes.get_carrier_down_count().ok(),
        counts: counts(attributes).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtt0_netio::netns::Namespace;

    #[test]
    fn loopback_counts_what_it_carries() {
        let links = match Namespace::create() {
            Ok(namespace) => namespace
                .enter(|| {
                    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
                    socket.send_to(b"hello", socket.local_addr().unwrap()).unwrap();
                    read().unwrap()
                })
                .unwrap(),
            Err(error) => return println!("skipped: needs CAP_SYS_ADMIN and CAP_NET_ADMIN: {error}"),
        };
        let lo = &links["lo"];
        assert_eq!((lo.index, lo.is_up, lo.is_promiscuous, lo.kind.as_str()), (1, true, false, ""));
        assert_eq!((lo.counts.rx_packets, lo.counts.tx_packets, lo.counts.rx_dropped), (1, 1, 0));
    }
}
