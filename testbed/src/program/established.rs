//! How many connections a host's kernel has made and not yet ended.

use crate::host::Host;
use anyhow::{Context, ensure};
use std::thread;
use std::time::{Duration, Instant};

/// ESTABLISHED, FIN-WAIT-1, CLOSE-WAIT, as proc(5) prints them: a program that has said all it had to say
/// has closed long before its bytes have left.
const STATES: [&str; 3] = ["01", "04", "08"];
/// Between two looks.
const PERIOD: Duration = Duration::from_millis(20);

/// Waits until `host` has `count` connections at its own `port`.
///
/// # Errors
/// There are fewer after `patience`, or the kernel's table can't be read.
pub fn await_established(host: &Host, port: u16, count: usize, patience: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        let found = host.enter(|| established(port))??;
        if found >= count {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "only {found} of {count} connections were established in time");
        thread::sleep(PERIOD);
    }
}

/// Counts the connections of the calling thread's network namespace.
fn established(port: u16) -> anyhow::Result<usize> {
    let count = |file: &str| -> anyhow::Result<usize> {
        let table = std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
        Ok(table.lines().filter(|line| is_established(line, port)).count())
    };
    Ok(count("/proc/thread-self/net/tcp")? + count("/proc/thread-self/net/tcp6")?)
}

fn is_established(line: &str, port: u16) -> bool {
    let mut fields = line.split_whitespace().skip(1);
    let local = fields.next().and_then(|address| address.rsplit_once(':'));
    local.is_some_and(|(_, digits)| u16::from_str_radix(digits, 16) == Ok(port))
        && fields.nth(1).is_some_and(|state| STATES.contains(&state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_is_established_at_the_port() {
        let line = "   1: 0202010A:1F91 0200010A:C350 01 00000000:00000000 00:00000000 00000000     0";
        assert!(is_established(line, 8081));
        assert!(!is_established(line, 0xC350));
        assert!(!is_established(&line.replace(" 01 ", " 0A "), 8081));
        assert!(!is_established("  sl  local_address rem_address   st tx_queue", 8081));
    }
}
