//! What happened to single connections that an operator may want to read of: failures, and what was done about
//! them. Never what happens to every connection, and never anything per packet.

use crate::flow::FlowKey;
use crate::reason::Event;

/// Notices that are kept until somebody takes them; of more only the number is.
pub const BOUND: usize = 64;

/// Something that happened to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notice {
    /// The connection.
    pub key: FlowKey,
    /// What it was to the engine: see [`Row::state`](crate::survey::Row::state).
    pub state: &'static str,
    /// What happened.
    pub event: Event,
}

/// The notices that nobody has taken yet.
#[derive(Debug, Default)]
pub struct Notices {
    kept: Vec<Notice>,
    missed: u64,
}

impl Notices {
    /// Adds one, or counts it if there are [`BOUND`] already.
    pub fn push(&mut self, notice: Notice) {
        if self.kept.len() < BOUND {
            self.kept.push(notice);
        } else {
            self.missed += 1;
        }
    }

    /// Takes them all; returns how many more there were since the last time.
    pub fn take(&mut self, mut each: impl FnMut(Notice)) -> u64 {
        self.kept.drain(..).for_each(&mut each);
        std::mem::take(&mut self.missed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Direction;

    #[test]
    fn the_bound_holds_and_what_is_beyond_is_counted() {
        let end = |port| ([10, 1, 0, 1].into(), port);
        let key = FlowKey::new(end(1), end(2), Direction::ToServer);
        let mut notices = Notices::default();
        for _ in 0..BOUND + 3 {
            notices.push(Notice { key, state: "opening", event: Event::Refused });
        }
        let mut taken = 0;
        assert_eq!((notices.take(|_| taken += 1), taken), (3, BOUND));
        assert_eq!(notices.take(|_| unreachable!("they are gone")), 0);
    }
}
