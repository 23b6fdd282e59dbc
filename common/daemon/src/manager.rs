//! What the service manager is told (sd_notify(3)); nothing where there is none.

use sd_notify::NotifyState;

/// Packets are served; or what was read again is in force, or is not and never will be.
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// The configuration is read again. [`ready`] has to follow, however that ends.
pub fn reloading() {
    // Whoever waits for a reload tells by the time that it is this one.
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        notify(&[NotifyState::Reloading, now]);
    }
}

/// The end has begun.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// What `systemctl status` is to show, in one line.
pub fn status(line: &str) {
    notify(&[NotifyState::Status(line)]);
}

/// A sign of life.
pub(crate) fn alive() {
    notify(&[NotifyState::Watchdog]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager can't be told");
    }
}
