//! One table of flows for all packet threads.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rtt0_core::time::Instant;

use super::{Replies, RepliesCount, Rule};
use crate::inner::Inner;
use crate::reason::DropReason;

/// A [`Replies`] that the threads share which forward and the one that restores replies. Only packets of rules that want
/// replies, and replies, take its lock; a look-up is all that is done under it.
#[derive(Debug, Clone, Default)]
pub struct SharedReplies(Arc<Mutex<Replies>>);

impl SharedReplies {
    /// As [`Replies::note`].
    #[inline]
    pub fn note(&self, now: Instant, before: &Inner, rule: &Rule) {
        if rule.replies {
            self.lock().note(now, before, rule);
        }
    }

    /// As [`Replies::restore`], for a packet whose checksum is not partial.
    ///
    /// # Errors
    /// Those of [`Replies::restore`].
    pub fn restore(&self, now: Instant, bytes: &mut [u8], inner: &Inner) -> Result<(), DropReason> {
        self.lock().restore(now, bytes, inner, false)
    }

    /// Lets go of all flows that have been idle, a few at a time: packets don't wait for the whole of it.
    pub fn expire(&self, now: Instant) {
        let some = || {
            let mut replies = self.lock();
            let before = replies.len();
            replies.expire(now);
            replies.len() < before
        };
        while some() {}
    }

    /// Returns how many flows of TCP, of UDP and of ICMP take room, and what became of flows since the start.
    pub fn look(&self) -> ([usize; 3], RepliesCount) {
        let replies = self.lock();
        (replies.flows(), replies.count())
    }

    fn lock(&self) -> MutexGuard<'_, Replies> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inner::Transport;
    use crate::nat::{IDLE, Matching};

    fn packet(port: u16) -> Inner {
        Inner {
            source: [198, 51, 100, 7].into(),
            destination: [203, 0, 113, 9].into(),
            transport: Transport::Udp,
            source_port: port,
            destination_port: 31_765,
            upper: 20,
            length: 28,
            hop_limit: 64,
        }
    }

    fn rule(replies: bool) -> Rule {
        Rule {
            name: "field".to_owned(),
            matching: Matching::default(),
            to: ([192, 0, 2, 95].into(), Some(8081)),
            from: None,
            replies,
        }
    }

    #[test]
    fn every_thread_notes_in_the_same_table_and_all_of_it_expires() {
        let (shared, now) = (SharedReplies::default(), Instant::from_micros(5));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let shared = shared.clone();
                scope.spawn(move || {
                    for port in 0..500 {
                        shared.note(now, &packet(1 + 500 * thread + port), &rule(true));
                        shared.note(now, &packet(60_000), &rule(false));
                    }
                });
            }
        });
        assert_eq!(shared.look(), ([0, 2_000, 0], RepliesCount::default()));
        shared.expire(now + IDLE);
        assert_eq!(shared.look(), ([0; 3], RepliesCount::default()));
    }
}
