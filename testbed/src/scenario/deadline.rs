//! A bound on how long a scenario may take, so that one that stands still is a failure and not a
//! run without end.

use crate::program::realtime;
use std::io;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

/// Before whatever may stand in the way of the scenario: a real-time thread that spins, too.
const PRIORITY: i32 = 90;

/// Waits for a scenario's end; dropped, it waits no longer.
#[derive(Debug)]
pub(super) struct Deadline {
    _done: Sender<()>,
}

impl Deadline {
    /// Calls `missed` on a thread of its own, unless dropped within `limit`.
    ///
    /// # Errors
    /// The thread can't be started.
    pub(super) fn start(limit: Duration, missed: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (done, ended) = mpsc::channel();
        thread::Builder::new().name("deadline".into()).spawn(move || {
            realtime::run_at(PRIORITY);
            if ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                missed();
            }
        })?;
        Ok(Self { _done: done })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_deadline_that_passes_is_missed() {
        let (said, heard) = mpsc::channel();
        let _late = Deadline::start(Duration::from_millis(1), {
            let said = said.clone();
            move || said.send("late").unwrap()
        });
        drop(Deadline::start(Duration::from_millis(200), move || said.send("in time").unwrap()).unwrap());
        // Ends when neither can say anything any more.
        assert_eq!(heard.iter().collect::<Vec<_>>(), ["late"]);
    }
}
