//! Connections whose handshake this host has answered and whose client has not yet: how many, and how many may be.

use rtt0_netio::sysctl;

use super::Seen;
use super::listeners::{each_socket, family};

/// `TCP_SYN_RECV` and `TCP_NEW_SYN_RECV`, as bits.
const STATES: u32 = 1 << 3 | 1 << 12;

/// The half-open connections of a network namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HalfOpen {
    /// How many there are, of all listening sockets together.
    pub connections: u64,
    /// `net.ipv4.tcp_max_syn_backlog`, which is asked only where there are no cookies.
    pub most: Option<u64>,
    /// Whether SYN cookies take over when there are too many (`net.ipv4.tcp_syncookies`).
    pub has_cookies: Option<bool>,
}

impl HalfOpen {
    /// Tells whether the kernel takes no SYN of a client that it does not know: without cookies it keeps the last quarter of
    /// the queue for those that it does, and counts no reason.
    pub fn is_full(&self) -> bool {
        let is_near = |most: u64| self.connections >= most - most / 4;
        self.has_cookies == Some(false) && self.most.is_some_and(is_near)
    }
}

/// Reads them.
pub(super) fn read() -> Seen<HalfOpen> {
    let connections = [family::INET, family::INET6].into_iter().map(count).sum::<Seen<u64>>()?;
    let number = |name: &str| sysctl::read_here(name).ok()?.parse::<u64>().ok();
    Ok(HalfOpen {
        connections,
        most: number("net.ipv4.tcp_max_syn_backlog"),
        has_cookies: number("net.ipv4.tcp_syncookies").map(|value| value > 0),
    })
}

fn count(family: u8) -> Seen<u64> {
    let mut connections = 0;
    each_socket(family, STATES, |_| connections += 1)?;
    Ok(connections)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_quarters_of_the_queue_are_full_unless_cookies_take_over() {
        let full = HalfOpen { connections: 6, most: Some(8), has_cookies: Some(false) };
        assert!(full.is_full());
        assert!(!HalfOpen { connections: 5, ..full }.is_full());
        assert!(!HalfOpen { has_cookies: Some(true), ..full }.is_full());
        assert!(!HalfOpen { most: None, ..full }.is_full());
    }

    #[test]
    fn the_kernel_tells() {
        let seen = read().unwrap();
        assert!(seen.most.is_some() && seen.has_cookies.is_some());
    }
}
