//! The packets that the kernel drops, by its own reasons (tracepoint skb:kfree_skb).

use rtt0_netio::drop_reasons::{DropCounter, Drops};
use rtt0_netio::interface;

/// Stands for [`Dropped::reason`] of those that the bounded tables had no room for.
pub const UNCOUNTED: &str = "UNCOUNTED";

/// Packets dropped for one reason at one place.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dropped {
    /// The kernel's name for it without `SKB_DROP_REASON_`, such as `NETFILTER_DROP`.
    pub reason: String,
    /// The kernel's function that dropped them, if known.
    pub location: Option<String>,
    /// Those that had called it, the nearest first, as far as known.
    pub callers: Vec<String>,
    /// The device that they were on, or were to leave by, by index; 0 if none.
    pub interface: u32,
    /// Its name, if it still has one.
    pub device: Option<String>,
    /// What the device took them for, such as 0x0800 for IPv4; 0 if unknown.
    pub ethertype: u16,
    /// The IP protocol; 0 if unknown.
    pub protocol: u8,
    /// Source and destination port; 0 if unknown. Of ICMP the type and the code.
    pub ports: (u16, u16),
    /// Segments with SYN and without ACK.
    pub is_syn: bool,
    /// To a multicast address, or to everybody on the link.
    pub is_to_many: bool,
    /// The socket that was to receive them has a filter.
    pub has_socket_filter: bool,
    /// How many.
    pub packets: u64,
}

/// Watches this network namespace.
#[derive(Debug)]
pub struct DropMonitor {
    counter: DropCounter,
}

impl DropMonitor {
    /// Begins to count.
    ///
    /// # Errors
    /// Why this kernel or this user can't, and what would help.
    pub fn start() -> Result<Self, String> {
        DropCounter::start().map(|counter| Self { counter }).map_err(|error| error.to_string())
    }

    /// Returns what was dropped since.
    ///
    /// # Errors
    /// As [`DropMonitor::start`].
    pub fn stop(self) -> Result<Vec<Dropped>, String> {
        let counted = self.counter.stop().map_err(|error| error.to_string())?;
        let names = interface::list();
        let device =
            |index| names.iter().find(|device| device.index == index).map(|device| device.name.clone());
        let mut dropped: Vec<_> =
            counted.drops.into_iter().map(|drops| Dropped::new(device(drops.interface), drops)).collect();
        if counted.uncounted > 0 {
            let reason = UNCOUNTED.to_owned();
            dropped.push(Dropped { reason, packets: counted.uncounted, ..Dropped::default() });
        }
        Ok(dropped)
    }
}

impl Dropped {
    fn new(device: Option<String>, drops: Drops) -> Self {
        let Drops {
            reason,
            location,
            callers,
            interface,
            ethertype,
            protocol,
            ports,
            is_syn,
            is_to_many,
            has_socket_filter,
            packets,
        } = drops;
        Self {
            reason,
            location,
            callers,
            interface,
            device,
            ethertype,
            protocol,
            ports,
            is_syn,
            is_to_many,
            has_socket_filter,
            packets,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtt0_netio::netns::Namespace;
    use std::net::UdpSocket;

    #[test]
    fn devices_are_told_by_name() {
        let Ok(namespace) = Namespace::create() else {
            println!("SKIPPED: needs CAP_SYS_ADMIN and CAP_NET_ADMIN");
            return;
        };
        let watch = || {
            let monitor = DropMonitor::start()?;
            UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"nobody", "127.0.0.1:9").unwrap();
            monitor.stop()
        };
        match namespace.enter(watch).unwrap() {
            Ok(dropped) => {
                let one = dropped.iter().find(|dropped| dropped.ports.1 == 9).unwrap();
                assert_eq!(one.device.as_deref(), Some("lo"));
            }
            Err(why) => println!("SKIPPED: {why}"),
        }
    }
}
