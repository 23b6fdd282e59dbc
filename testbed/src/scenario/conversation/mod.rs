//! Two programs that talk over one connection by a script, and what each of them sees.
//!
//! What an application can know of its connection is what its system calls return: bytes, the end
//! of the stream, error numbers, and their order. Two ways to forward packets are the same to it
//! if these are.

mod act;
mod stage;

use std::fmt;
use std::io;
use std::time::Duration;

pub(super) use stage::{Stage, listen, meet_halfway};

/// Something that a program does with its connection. After the last step it closes it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// Sends so many bytes.
    Send(u64),
    /// Reads so many bytes.
    Read(u64),
    /// Reads until the stream or the connection ends.
    ReadToEnd,
    /// Ends its own direction: `shutdown(SHUT_WR)`.
    Finish,
    /// Waits until the other program has come as far; not a packet is sent for it.
    Meet,
    /// Leaves the packets under way time to arrive.
    Pause(Duration),
    /// Closes with a reset: `SO_LINGER` of 0 (socket(7)).
    Abort,
    /// Sends a byte of urgent data: `MSG_OOB` (tcp(7)).
    SendUrgent(u8),
    /// Reads the byte of urgent data.
    ReadUrgent,
    /// Has the kernel probe a silent other side every second and give it up after three probes:
    /// `SO_KEEPALIVE` (socket(7)).
    KeepAlive,
    /// Drops every packet that comes from now on, as a filter on the way that tells nobody would.
    Deafen,
    /// Forgets the connection without a packet, as a host that reboots does.
    Vanish,
}

/// What a program saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// `connect(2)` or `accept(2)` succeeded.
    Connected,
    /// So many bytes were taken by the kernel.
    Sent(u64),
    /// So many bytes came, and whether they were those that the other side sends.
    Received {
        /// How many.
        bytes: u64,
        /// Whether they were the right ones.
        intact: bool,
    },
    /// This byte came as urgent data.
    Urgent(u8),
    /// The other side ended its direction.
    EndOfStream,
    /// A system call failed with this error number; `EAGAIN` if it would have waited too long.
    Failed(i32),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected => f.write_str("connected"),
            Self::Sent(bytes) => write!(f, "sent {bytes}"),
            Self::Received { bytes, intact: true } => write!(f, "received {bytes}"),
            Self::Received { bytes, intact: false } => write!(f, "received {bytes} wrong bytes"),
            Self::Urgent(byte) => write!(f, "urgent {byte}"),
            Self::EndOfStream => f.write_str("end"),
            Self::Failed(errno) => write!(f, "{}", io::Error::from_raw_os_error(*errno)),
        }
    }
}

/// What both programs saw, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// The client's.
    pub(super) client: Vec<Event>,
    /// The server's.
    pub(super) server: Vec<Event>,
}

impl Seen {
    /// Returns whether `event` was seen at either end.
    pub(super) fn has(&self, event: impl Fn(&Event) -> bool) -> bool {
        self.client.iter().chain(&self.server).any(event)
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |events: &[Event]| events.iter().map(Event::to_string).collect::<Vec<_>>().join(", ");
        write!(f, "client [{}], server [{}]", list(&self.client), list(&self.server))
    }
}

/// What the two programs do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dialogue {
    /// What it shows.
    pub(super) name: &'static str,
    /// The client's script.
    pub(super) client: &'static [Step],
    /// The server's script.
    pub(super) server: &'static [Step],
}
