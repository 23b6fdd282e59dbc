//! What the applications at both ends do, and what they have seen.

use rtt0_core::time::Instant;
use std::sync::LazyLock;
use std::time::Duration;

/// The pattern's period in bytes: a prime, so that no shift by a segment hides.
const PERIOD: usize = 65_521;

/// Bytes twice the period long, so that any run up to a period is one slice.
static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut random = fastrand::Rng::with_seed(0x5a52);
    let once: Vec<u8> = (0..PERIOD).map(|_| random.u8(..)).collect();
    once.repeat(2)
});

/// Returns `length` bytes (at most [`PERIOD`]) of the stream `salt` from `offset` on.
pub(super) fn bytes(salt: u32, offset: u32, length: usize) -> &'static [u8] {
    let from = (u64::from(salt) + u64::from(offset)) as usize % PERIOD;
    &PATTERN[from..from + length.min(PERIOD)]
}

/// How an application ends its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Close {
    /// With a FIN once all is sent and so much received.
    After(u32),
    /// With a reset as soon as so much was written and so much received.
    Abort(u32, u32),
}

/// What one application does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Script {
    /// Names its stream of bytes.
    pub(super) salt: u32,
    /// Bytes it sends.
    pub(super) send: u32,
    /// It writes nothing before it has received so much.
    pub(super) start_after: u32,
    /// How it ends.
    pub(super) close: Close,
    /// After having written so much it says nothing for a while.
    pub(super) rest: Option<(u32, Duration)>,
    /// After having received so much it reads nothing for a while: its window closes.
    pub(super) pause: Option<(u32, Duration)>,
    /// Interval of keepalives.
    pub(super) keepalive: Option<Duration>,
}

/// How far a connection has come at one end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Fate {
    /// Not connected yet.
    #[default]
    Waiting,
    /// Connected.
    Open,
    /// All sent, all received, or closed in good order.
    Closed,
    /// The other side refused or reset it.
    Reset,
    /// This application aborted it, or a newer connection took its ports.
    Gone,
}

/// A byte that is not the one sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WrongBytes {
    /// Where in the stream.
    pub(super) offset: u32,
}

/// One application at work.
#[derive(Debug, Clone)]
pub(super) struct App {
    pub(super) script: Script,
    /// The other end's script: what is to come.
    peer: Script,
    /// Bytes handed to TCP.
    pub(super) written: u32,
    /// Bytes taken from TCP.
    pub(super) received: u32,
    /// The peer's FIN has been read.
    pub(super) finished: bool,
    pub(super) fate: Fate,
    resting: Hold,
    pausing: Hold,
}

/// Something done once for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    Due,
    Until(Instant),
    Over,
}

impl Hold {
    /// Tells whether it is on at `now`, beginning it if `begins`.
    fn is_on(&mut self, now: Instant, begins: bool, time: Duration) -> bool {
        if *self == Self::Due && begins {
            *self = Self::Until(now + time);
        }
        if matches!(self, Self::Until(until) if now >= *until) {
            *self = Self::Over;
        }
        matches!(self, Self::Until(_))
    }

    fn end(self) -> Option<Instant> {
        if let Self::Until(until) = self { Some(until) } else { None }
    }
}

impl App {
    /// Begins.
    pub(super) fn new(script: Script, peer: Script) -> Self {
        Self {
            script,
            peer,
            written: 0,
            received: 0,
            finished: false,
            fate: Fate::Waiting,
            resting: Hold::Due,
            pausing: Hold::Due,
        }
    }

    /// Returns the bytes to write now, a run of at most `room`.
    pub(super) fn next_run(&mut self, now: Instant, room: usize) -> &'static [u8] {
        if self.received < self.script.start_after {
            return &[];
        }
        let mut until = self.script.send;
        if let Close::Abort(sent, _) = self.script.close {
            until = until.min(sent);
        }
        if let Some((after, time)) = self.script.rest {
            if self.resting.is_on(now, self.written >= after, time) {
                return &[];
            }
            if self.resting == Hold::Due {
                until = until.min(after);
            }
        }
        let length = (until.saturating_sub(self.written) as usize).min(room);
        bytes(self.script.salt, self.written, length)
    }

    /// Tells whether it reads now.
    pub(super) fn reads(&mut self, now: Instant) -> bool {
        match self.script.pause {
            Some((after, time)) => !self.pausing.is_on(now, self.received >= after, time),
            None => true,
        }
    }

    /// Takes what TCP delivers.
    ///
    /// # Errors
    /// [`WrongBytes`] if it is not what the other end sent next.
    pub(super) fn take(&mut self, data: &[u8]) -> Result<(), WrongBytes> {
        for run in data.chunks(PERIOD) {
            let expected = bytes(self.peer.salt, self.received, run.len());
            let beyond = self.received as usize + run.len() > self.peer.send as usize;
            if beyond || run != expected {
                return Err(WrongBytes { offset: self.received });
            }
            self.received += run.len() as u32;
        }
        Ok(())
    }

    /// Tells whether it now wants its FIN sent.
    pub(super) fn wants_close(&self) -> bool {
        match self.script.close {
            Close::After(received) => self.written >= self.script.send && self.received >= received,
            Close::Abort(..) => false,
        }
    }

    /// Tells whether it now wants to abort.
    pub(super) fn wants_abort(&self) -> bool {
        matches!(self.script.close, Close::Abort(sent, received)
            if self.fate == Fate::Open && self.written >= sent && self.received >= received)
    }

    /// Returns salt and length of the stream it receives.
    pub(super) fn peer_stream(&self) -> (u32, u32) {
        (self.peer.salt, self.peer.send)
    }

    /// Tells whether it has received all there is.
    pub(super) fn has_all(&self) -> bool {
        self.received >= self.peer.send
    }

    /// Returns when, after `now`, it wants to be asked again although nothing has happened.
    pub(super) fn wake(&self, now: Instant) -> Option<Instant> {
        [self.resting.end(), self.pausing.end()].into_iter().flatten().filter(|at| *at > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(send: u32) -> Script {
        let close = Close::After(0);
        Script { salt: 7, send, start_after: 0, close, rest: None, pause: None, keepalive: None }
    }

    #[test]
    fn a_wrong_a_repeated_and_a_further_byte_are_noticed() {
        let fresh = || App::new(script(0), script(1000));
        let mut app = fresh();
        assert_eq!(app.take(bytes(7, 0, 600)), Ok(()));
        assert_eq!(app.take(bytes(7, 599, 10)), Err(WrongBytes { offset: 600 }), "one byte twice");
        assert_eq!(app.take(bytes(7, 601, 10)), Err(WrongBytes { offset: 600 }), "one byte missing");
        assert_eq!(app.take(bytes(7, 600, 401)), Err(WrongBytes { offset: 600 }), "more than was sent");
        assert_eq!(app.take(bytes(7, 600, 400)), Ok(()));
        assert!(app.has_all());
        assert!(fresh().take(bytes(8, 0, 100)).is_err(), "another connection's");
    }

    #[test]
    fn a_rest_is_kept_once() {
        let second = |n: u64| Instant::from_micros(n * 1_000_000);
        let mut app = App::new(Script { rest: Some((10, Duration::from_secs(5))), ..script(30) }, script(0));
        assert_eq!(app.next_run(second(1), 100).len(), 10);
        app.written = 10;
        assert_eq!(app.next_run(second(2), 100).len(), 0);
        assert_eq!(app.wake(second(2)), Some(second(7)));
        assert_eq!(app.next_run(second(7), 100).len(), 20);
        assert_eq!(app.wake(second(7)), None);
    }
}
