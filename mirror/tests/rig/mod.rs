//! A mirror's surroundings, made by each test for itself: namespaces, the program as a child, packets, listeners.
#![allow(dead_code, unreachable_pub, reason = "each test uses the part it needs")]

pub mod counted;
pub mod crafted;
pub mod daemon;
pub mod files;
pub mod listen;
pub mod site;
pub mod spoiled;

use std::time::{Duration, Instant};

/// Calls `attempt` until it gives something; fails the test after `patience`.
#[track_caller]
pub fn within<T>(patience: Duration, what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(result) = attempt() {
            return result;
        }
        assert!(start.elapsed() < patience, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Calls `attempt` until it gives something; fails the test after fifteen seconds.
#[track_caller]
pub fn eventually<T>(what: &str, attempt: impl FnMut() -> Option<T>) -> T {
    within(Duration::from_secs(15), what, attempt)
}
