//! What happened to packets between the kernel and the engine.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Counters of one worker. It adds; anyone may read at any time from any thread.
        #[derive(Debug, Default)]
        pub struct IoCounters { $($(#[doc = $doc])+ pub $name: Counter,)+ }

        impl IoCounters {
            /// Iterates over `(label, count)` of every counter.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
                [$((stringify!($name), self.$name.value()),)+].into_iter()
            }

            /// Says what the counter `label` counts, for operators; empty if there is none of that label.
            pub fn meaning(label: &str) -> &'static str {
                match label {
                    $(stringify!($name) => concat!($($doc),+).trim_ascii(),)+
                    _ => "",
                }
            }
        }
    };
}

counters! {
    /// Packets captured whole.
    received,
    /// IP bytes captured, link headers not included.
    received_bytes,
    /// Captured packets that were cut for want of buffer; not forwarded.
    received_truncated,
    /// Packets the kernel dropped because the capture socket's buffer was full.
    received_overflow,
    /// Receive calls that failed; the capture goes on (an interface that is down, for example).
    receive_errors,
    /// Packets handed to the kernel, each segment of a super-packet counted.
    sent,
    /// Packets handed to the kernel as they were captured, super-packets mostly; not among `sent`.
    sent_whole,
    /// Packets that were joined with their neighbours to super-packets, which `sent_whole` counts.
    joined,
    /// IP bytes handed to the kernel.
    sent_bytes,
    /// Super-packets cut into segments.
    resegmented,
    /// Packets not sent: their headers contradict their length.
    send_malformed,
    /// Packets not sent: larger than the MTU of the next hop (EMSGSIZE).
    send_too_big,
    /// Packets not sent: refused by netfilter or another policy (EPERM, EACCES).
    send_refused,
    /// Packets not sent: the send buffer or the device's queue stayed full (EAGAIN, ENOBUFS).
    send_queue_full,
    /// Packets not sent: no route (ENETUNREACH, EHOSTUNREACH).
    send_unreachable,
    /// Packets not sent for any other reason.
    send_failed,
    /// Changes of flows written into the state file.
    state_written,
    /// Lines for the log about single connections that found no room.
    notices_lost,
    /// Changes that could not be written: those flows will not survive a restart.
    state_failed,
}

impl IoCounters {
    /// Tells whether the counter `label` is one of something that failed.
    pub fn is_failure(label: &str) -> bool {
        !matches!(
            label,
            "received"
                | "received_bytes"
                | "sent"
                | "sent_whole"
                | "joined"
                | "sent_bytes"
                | "resegmented"
                | "state_written"
                | "notices_lost"
        )
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`. Only one thread may add to a counter: the sum isn't an atomic operation,
    /// which spares the packet path a locked instruction.
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// Returns the present value.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::IoCounters;

    #[test]
    fn counts_and_lists_by_label() {
        let counters = IoCounters::default();
        counters.sent.add(2);
        counters.sent.add(3);
        assert_eq!(counters.sent.value(), 5);
        let listed: Vec<_> = counters.iter().filter(|(_, count)| *count != 0).collect();
        assert_eq!(listed, [("sent", 5)]);
    }
}
