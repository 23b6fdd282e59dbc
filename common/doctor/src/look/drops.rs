//! The packets that the kernel drops, by its own reasons (tracepoint skb:kfree_skb).

use rtt0_netio::drop_reasons::DropCounter;
pub use rtt0_netio::drop_reasons::Dropped;

/// Stands for [`Dropped::reason`] of those that the bounded tables had no room for.
pub const UNCOUNTED: &str = "UNCOUNTED";

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
        let mut dropped = counted.drops;
        if counted.uncounted > 0 {
            let reason = UNCOUNTED.to_owned();
            dropped.push(Dropped { reason, packets: counted.uncounted, ..Dropped::default() });
        }
        Ok(dropped)
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
