//! SIGINT, SIGTERM and SIGHUP, remembered until the run has come to a place where it can end.

use anyhow::Context;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};

/// Between two looks while waiting.
const PERIOD: Duration = Duration::from_millis(50);

/// Remembers whether the user wants the run to end.
#[derive(Debug)]
pub struct Interrupt {
    signal: Arc<AtomicI32>,
    heeded: AtomicBool,
}

impl Interrupt {
    /// Catches the signals from now on, on a thread of its own.
    ///
    /// # Errors
    /// If the thread can't be had.
    pub fn watch() -> anyhow::Result<Self> {
        let caught = Arc::new(AtomicI32::new(0));
        let runtime =
            runtime::Builder::new_current_thread().enable_io().build().context("can't wait for signals")?;
        let mut signals = {
            let _entered = runtime.enter();
            let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
            let [interrupt, terminate, hangup] = kinds.map(signal);
            (interrupt?, terminate?, hangup?)
        };
        let seen = caught.clone();
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                runtime.block_on(async {
                    loop {
                        let number = tokio::select! {
                            _ = signals.0.recv() => libc::SIGINT,
                            _ = signals.1.recv() => libc::SIGTERM,
                            _ = signals.2.recv() => libc::SIGHUP,
                        };
                        seen.store(number, Ordering::Relaxed);
                        eprintln!("interrupted: stopping what runs on the hosts, which takes a moment");
                    }
                });
            })
            .context("can't start the thread that waits for signals")?;
        Ok(Self { signal: caught, heeded: AtomicBool::new(true) })
    }

    /// Makes [`Interrupt::check`] succeed from now on: what stops the hosts is not to be stopped.
    pub(super) fn set_aside(&self) {
        self.heeded.store(false, Ordering::Relaxed);
    }

    /// Fails once a signal has come.
    pub(super) fn check(&self) -> Result<(), Interrupted> {
        match self.signal.load(Ordering::Relaxed) {
            number if number != 0 && self.heeded.load(Ordering::Relaxed) => Err(Interrupted { number }),
            _ => Ok(()),
        }
    }

    /// Waits, unless a signal comes.
    pub(super) fn sleep(&self, time: Duration) -> Result<(), Interrupted> {
        let deadline = Instant::now() + time;
        loop {
            self.check()?;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(PERIOD));
        }
    }
}

/// The user has interrupted.
#[derive(Debug)]
pub(super) struct Interrupted {
    /// The signal.
    pub(super) number: i32,
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "interrupted by signal {}", self.number)
    }
}

impl Error for Interrupted {}
