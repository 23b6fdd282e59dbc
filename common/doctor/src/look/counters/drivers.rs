//! The counters of a device's driver (`ethtool -S`), as far as they are about losses.

use std::collections::BTreeMap;

use rtt0_netio::driver;

use super::Seen;

/// What the names of those counters have in them.
const LOSSES: [&str; 10] =
    ["drop", "discard", "err", "miss", "fifo", "overrun", "exceeded", "no_buf", "out_of_buf", "alloc_fail"];

/// Reads those of `interface` that count losses.
pub(super) fn read(interface: &str) -> Seen<BTreeMap<String, u64>> {
    let counters = driver::counters(interface)
        .map_err(|error| format!("ioctl(SIOCETHTOOL) on {interface} (ethtool -S): {error}"))?;
    Ok(counters.into_iter().filter(|(name, _)| counts_losses(name)).collect())
}

fn counts_losses(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    LOSSES.iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_known_by_their_names() {
        for name in ["rx_queue_0_drops", "bw_in_allowance_exceeded", "rx_out_of_buffer", "rx_missed_errors"] {
            assert!(counts_losses(name), "{name}");
        }
        for name in ["peer_ifindex", "rx_queue_0_xdp_packets", "tx_bytes"] {
            assert!(!counts_losses(name), "{name}");
        }
    }
}
