//! Where frames enter and leave the delay line, and the thread between two such places.

use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::{ClockId, clock_gettime};

use super::line::Line;

/// Length of `struct virtio_net_hdr`, which precedes every frame.
pub(crate) const VNET_HEADER: usize = 10;
/// Room for a vnet header and the largest super-packet with its Ethernet header.
pub(super) const FRAME_CAPACITY: usize = 68 * 1024;

/// Frames taken in before due ones are looked after.
const BATCH: usize = 64;
/// Rest after an error of the device.
const PAUSE: Duration = Duration::from_millis(10);
/// Real-time priority, above that of ordinary packet threads (1–99).
const PRIORITY: i32 = 30;

/// One end of the long leg as the delay line sees it. Frames are Ethernet frames behind a
/// [`VNET_HEADER`]; none of the calls blocks.
pub(super) trait Port: Send {
    /// The descriptor that becomes readable when a frame is there.
    fn readable(&self) -> BorrowedFd<'_>;

    /// Reads a frame: its length and how long ago it arrived.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if none is there.
    fn receive(&self, buffer: &mut [u8; FRAME_CAPACITY]) -> io::Result<(usize, Duration)>;

    /// Sends a frame.
    ///
    /// # Errors
    /// The kernel's, if it does not take the frame.
    fn send(&self, frame: &[u8]) -> io::Result<()>;
}

/// Carries frames from one port through a line to another until asked to stop.
pub(super) struct Carrier {
    /// Where frames enter.
    pub(super) from: Box<dyn Port>,
    /// Where they leave.
    pub(super) to: Box<dyn Port>,
    /// The line between.
    pub(super) line: Arc<Mutex<Line>>,
    /// Becomes readable when the carrier is to stop.
    pub(super) stop: Arc<OwnedFd>,
}

impl Carrier {
    /// Runs on the calling thread, which becomes a real-time thread where that is permitted.
    pub(super) fn run(self) {
        sharpen_timers();
        let mut buffer = Box::new([0; FRAME_CAPACITY]);
        let mut due = Vec::new();
        loop {
            let received = self.take_in(&mut buffer);
            let next = self.deliver(&mut due);
            if received == BATCH {
                continue;
            }
            let timeout = next.map(|due| due.saturating_sub(monotonic()));
            match self.wait(timeout) {
                Ok(Wake::Stop) | Err(_) => return,
                Ok(Wake::Work) => {}
            }
        }
    }

    fn take_in(&self, buffer: &mut [u8; FRAME_CAPACITY]) -> usize {
        for received in 0..BATCH {
            let (length, age) = match self.from.receive(buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return received,
                Err(_) => {
                    // The device is down or was removed by hand. A real-time thread must not
                    // spin on that.
                    thread::sleep(PAUSE);
                    return received;
                }
            };
            let arrived = monotonic().saturating_sub(age);
            let link_bytes = length.saturating_sub(VNET_HEADER);
            self.line().push(arrived, buffer[..length].to_vec(), link_bytes);
        }
        BATCH
    }

    /// Sends what is due and returns when the next frame will be.
    fn deliver(&self, due: &mut Vec<Vec<u8>>) -> Option<Duration> {
        let next = {
            let mut line = self.line();
            let now = monotonic();
            while due.len() < BATCH
                && let Some(frame) = line.pop(now)
            {
                due.push(frame);
            }
            line.next_due()
        };
        // The lock is not held over system calls, so that whoever reads counters waits for nothing.
        let refused = due.drain(..).filter(|frame| self.to.send(frame).is_err()).count();
        if refused > 0 {
            self.line().count_refused(refused as u64);
        }
        next
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<Wake> {
        let readable = self.from.readable();
        let mut fds = [
            PollFd::from_borrowed_fd(readable, PollFlags::IN),
            PollFd::from_borrowed_fd(self.stop.as_fd(), PollFlags::IN),
        ];
        let timeout = timeout.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) if !fds[1].revents().is_empty() => Ok(Wake::Stop),
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(Wake::Work),
            Err(error) => Err(error.into()),
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Wake {
    Work,
    Stop,
}

/// Makes the calling thread wake up on time, as far as it is permitted.
fn sharpen_timers() {
    // An ordinary thread without CAP_SYS_NICE is up to 4 ms late now and then, not wrong.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    let parameters = libc::sched_param { sched_priority: PRIORITY };
    // SAFETY: sched_setscheduler(2) reads one `sched_param`, which outlives the call; 0 is the
    // calling thread.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
}

/// Reads `CLOCK_MONOTONIC`.
pub(super) fn monotonic() -> Duration {
    clock(ClockId::Monotonic)
}

/// Reads a clock that is never negative.
pub(super) fn clock(id: ClockId) -> Duration {
    Duration::try_from(clock_gettime(id)).unwrap_or_default()
}
