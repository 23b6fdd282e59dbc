//! TCP's memory, and connections that no program has any more.

use super::Growth;
use crate::causes::{MEMORY_PRESSURE, ORPHANS};
use crate::finding::{Finding, Layer, Rank};
use crate::look::counters::memory::Memory;
use crate::report::Report;

/// What counts what is lost for want of memory.
const LOST: [&str; 3] = ["TcpExtTCPAbortOnMemory", "TcpExtPFMemallocDrop", "TcpExtTCPRcvQDrop"];

pub(super) fn judge(growth: &Growth<'_>, report: &mut Report) {
    let aborted = growth.count("TcpExtTCPAbortOnMemory");
    let memory = growth.after().memory.as_ref().ok();
    if aborted > 0 && !memory.is_some_and(is_exhausted) {
        report.find(orphans(growth, aborted, memory));
        return;
    }
    let pressures = growth.count("TcpExtTCPMemoryPressures");
    let lost = growth.sum(&LOST);
    let is_always = memory.is_some_and(is_pressed) && growth.before().memory.as_ref().is_ok_and(is_pressed);
    let rank = match () {
        () if lost > 0 && (pressures > 0 || is_always || aborted > 0) => Rank::Loss,
        () if memory.is_some_and(is_exhausted) => Rank::Fault,
        // Windows shrink, and nothing is lost yet.
        () if pressures > 0 || is_always => Rank::Suspicion,
        () => return,
    };
    let names = [&LOST[..], &["TcpExtTCPMemoryPressures"]].concat();
    let mut finding = growth.found(&MEMORY_PRESSURE, (Layer::Transport, rank), lost, &names);
    if let Some(memory) = memory {
        finding = finding.because(told(memory));
    }
    report.find(
        finding
            .seen_by(
                "cat /proc/net/sockstat /proc/sys/net/ipv4/tcp_mem; nstat -asz TcpExtTCPMemoryPressures \
                 TcpExtTCPAbortOnMemory",
            )
            .mended_by("find the connections that hold it (ss -tmn), or raise net.ipv4.tcp_mem (in pages)"),
    );
}

fn orphans(growth: &Growth<'_>, aborted: u64, memory: Option<&Memory>) -> Finding {
    let names = ["TcpExtTCPAbortOnMemory"];
    let mut finding = growth.found(&ORPHANS, (Layer::Transport, Rank::Loss), aborted, &names);
    if let Some(count) = memory.and_then(|memory| memory.number("TCP.orphan")) {
        let limit = memory.and_then(|memory| memory.orphans_limit);
        let limit = limit.map_or("not to be seen from here".to_owned(), |limit| limit.to_string());
        finding = finding.because(format!(
            "{count} connections of all network namespaces together belong to no program any more; the \
             limit is {limit}, and a quarter of it for those that do not get on"
        ));
    }
    finding
        .seen_by(
            "cat /proc/net/sockstat; ss -tn state all | grep -c -e FIN-WAIT-1 -e LAST-ACK; nstat -asz \
             TcpExtTCPAbortOnMemory",
        )
        .mended_by(
            "find out why the other side does not acknowledge the end of connections, or raise \
             net.ipv4.tcp_max_orphans",
        )
}

fn told(memory: &Memory) -> String {
    let pages = memory.number("TCP.mem").unwrap_or_default();
    match memory.tcp_limits {
        Some([_, pressure, most]) => format!(
            "TCP holds {pages} pages in all network namespaces together; above {pressure} it saves, and \
             above {most} it has none"
        ),
        None => format!(
            "TCP holds {pages} pages in all network namespaces together; its limit is not to be seen from \
             here"
        ),
    }
}

fn is_pressed(memory: &Memory) -> bool {
    is_above(memory, 1)
}

fn is_exhausted(memory: &Memory) -> bool {
    is_above(memory, 2)
}

fn is_above(memory: &Memory, limit: usize) -> bool {
    memory.tcp_limits.zip(memory.number("TCP.mem")).is_some_and(|(limits, pages)| pages >= limits[limit])
}

#[cfg(test)]
mod tests {
    use super::super::tests::{found, interval};
    use super::*;
    use crate::look::interval::Interval;

    fn with_memory(mut interval: Interval, pages: u64) -> Interval {
        let numbers = [("TCP.mem".to_owned(), pages), ("TCP.orphan".to_owned(), 4096)].into();
        let memory = Memory { numbers, tcp_limits: Some([10, 20, 30]), orphans_limit: Some(8192) };
        interval.before.memory = Ok(memory.clone());
        interval.after.memory = Ok(memory);
        interval
    }

    #[test]
    fn pressure_is_suspicious_and_with_losses_a_loss() {
        let quiet = || interval([("TcpExtTCPMemoryPressures", 0)]);
        assert_eq!(found(&with_memory(quiet(), 19), judge), []);
        assert_eq!(found(&with_memory(quiet(), 20), judge), [("memory-pressure", Rank::Suspicion, 0)]);
        assert_eq!(found(&with_memory(quiet(), 30), judge), [("memory-pressure", Rank::Fault, 0)]);
        let growth = [("TcpExtTCPMemoryPressures", 2), ("TcpExtTCPRcvQDrop", 3)];
        assert_eq!(found(&interval(growth), judge), [("memory-pressure", Rank::Loss, 3)]);
    }

    #[test]
    fn connections_are_aborted_for_orphans_if_there_is_memory() {
        let aborted = || interval([("TcpExtTCPAbortOnMemory", 5)]);
        assert_eq!(found(&with_memory(aborted(), 5), judge), [("orphans", Rank::Loss, 5)]);
        assert_eq!(found(&with_memory(aborted(), 30), judge), [("memory-pressure", Rank::Loss, 5)]);
    }
}
