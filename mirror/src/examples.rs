//! A few of the packets that are of no use, for who has to say why.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Packets that are kept at most.
pub const MOST: usize = 64;

/// Copies of packets, when they are asked for. Else an offer costs a look at a number.
#[derive(Debug, Default)]
pub struct Examples {
    wanted: AtomicUsize,
    caught: Mutex<Vec<Vec<u8>>>,
}

impl Examples {
    /// Asks for the next [`MOST`] packets.
    pub fn want(&self) {
        self.lock().clear();
        self.wanted.store(MOST, Ordering::Relaxed);
    }

    /// Returns what was caught since they were asked for, and wants no more.
    pub fn take(&self) -> Vec<Vec<u8>> {
        self.wanted.store(0, Ordering::Relaxed);
        std::mem::take(&mut *self.lock())
    }

    /// Tells whether there are any.
    pub fn are_there(&self) -> bool {
        !self.lock().is_empty()
    }

    /// Keeps a copy of `packet` if that is wanted, and nobody just takes them.
    pub fn offer(&self, packet: &[u8]) {
        if self.wanted.load(Ordering::Relaxed) == 0 {
            return;
        }
        if let Ok(mut caught) = self.caught.try_lock() {
            if caught.len() < MOST {
                caught.push(packet.to_vec());
            } else {
                self.wanted.store(0, Ordering::Relaxed);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.caught.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_are_kept_when_they_are_wanted() {
        let examples = Examples::default();
        examples.offer(b"early");
        assert!(!examples.are_there());
        examples.want();
        (0..=u8::MAX).for_each(|n| examples.offer(&[n]));
        assert!(examples.are_there());
        let taken = examples.take();
        assert_eq!((taken.len(), &*taken[0], &*taken[63]), (MOST, &[0][..], &[63][..]));
        examples.offer(b"late");
        assert!(!examples.are_there() && examples.take().is_empty());
    }
}
