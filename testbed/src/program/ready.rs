//! Waits until a server process listens, without connecting to it: a trial connection would show
//! in the very counters that a comparison reads.

use super::memory_file;
use crate::host::Host;
use anyhow::{Context, bail};
use std::fs::File;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long a server may take to start.
const BOUND: Duration = Duration::from_secs(5);

/// Waits until something in `host` listens on the port of `address`.
///
/// # Errors
/// If that takes more than 5 s; the error quotes `log`, where the program wrote its complaints.
pub fn wait_for_listener(host: &Host, program: &str, address: SocketAddr, log: &File) -> anyhow::Result<()> {
    let deadline = Instant::now() + BOUND;
    while Instant::now() < deadline {
        if host.enter(|| listens(address))?? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let said = memory_file::contents(log);
    let said = if said.trim().is_empty() { "nothing" } else { said.trim() };
    bail!("{program} does not listen on {address} after {} s; it said: {said}", BOUND.as_secs())
}

/// Tells whether the calling thread's network namespace has a listening socket on the port.
fn listens(address: SocketAddr) -> anyhow::Result<bool> {
    // Not /proc/net, which shows the namespace of the process's main thread.
    let table = if address.is_ipv4() { "/proc/thread-self/net/tcp" } else { "/proc/thread-self/net/tcp6" };
    let text = std::fs::read_to_string(table).with_context(|| format!("can't read {table}"))?;
    Ok(has_listener(&text, address.port()))
}

/// Finds a socket in state `TCP_LISTEN` (0x0A) in a table as proc(5) describes it.
fn has_listener(table: &str, port: u16) -> bool {
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next().and_then(|address| address.rsplit_once(':'));
        let is_port = local.is_some_and(|(_, hex)| u16::from_str_radix(hex, 16) == Ok(port));
        is_port && fields.nth(1) == Some("0A")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn reads_the_kernels_table() {
        let table = "  sl  local_address rem_address   st\n   0: 0A02010A:1F90 00000000:0000 0A 0\n   \
                     1: 0A02010A:0050 00000000:0000 01 0\n";
        assert!(has_listener(table, 8080));
        assert!(!has_listener(table, 80), "an established connection is no listener");
        assert!(!has_listener("", 80));
    }

    #[test]
    fn sees_a_real_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(listens(address).unwrap());
        drop(listener);
        assert!(!listens(address).unwrap());
    }
}
