//! Choices for a receiver, and their bounds.

use super::error::XdpError;

/// Most tunnel ports.
pub const MOST_PORTS: usize = 64;
/// Most receive queues; as many as the program's map has room for.
pub const MOST_QUEUES: u32 = 64;
/// What a frame may measure in bytes; 256 of them the kernel keeps free before the packet.
pub const FRAME_SIZES: [u32; 2] = [2048, 4096];
/// Most bytes of packet memory, all queues and all receivers of an interface together.
pub const MOST_MEMORY: usize = 16 << 20;

/// Bytes that the kernel keeps free at a frame's beginning (XDP_PACKET_HEADROOM).
const HEADROOM: u32 = 256;
/// Length of an Ethernet header in bytes.
const ETHERNET_HEADER: u32 = 14;

/// Returns the smallest frame size that holds packets of up to `mtu` bytes, IP header included; `None` if none does, as
/// above [`LARGEST_MTU`].
pub fn frame_size_for(mtu: u16) -> Option<u32> {
    let needed = u32::from(mtu) + ETHERNET_HEADER + HEADROOM;
    FRAME_SIZES.into_iter().find(|size| *size >= needed)
}

/// The largest MTU of which all packets fit into a frame.
pub const LARGEST_MTU: u32 = FRAME_SIZES[1] - HEADROOM - ETHERNET_HEADER;

/// Frames of each queue: at least one batch, and at most what the memory has room for.
const FRAMES: std::ops::RangeInclusive<usize> = 64..=8192;

/// Where the XDP program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// In the driver if that is possible, else in the kernel's stack.
    #[default]
    Auto,
    /// In the driver (native XDP).
    Native,
    /// In the kernel's stack (generic XDP): any interface, and less gained.
    Generic,
}

/// Choices for a [`Receiver`](super::Receiver).
#[derive(Debug, Clone)]
pub struct Options {
    /// UDP destination ports of the tunnels, 1 to [`MOST_PORTS`].
    pub ports: Vec<u16>,
    /// Where the program runs.
    pub mode: Mode,
    /// The receive queues to serve, all of the interface if `None`; at most [`MOST_QUEUES`]. What comes by another goes to
    /// the kernel.
    pub queues: Option<Vec<u32>>,
    /// Bytes of a frame, one of [`FRAME_SIZES`]. Frames longer than that less 256 bytes, Ethernet header included, go to
    /// the kernel.
    pub frame_size: u32,
    /// Bytes of packet memory for all queues together, whoever receives from them, at most [`MOST_MEMORY`]; each gets the
    /// same number of frames, the largest power of two from 64 to 8192 that fits.
    pub memory: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ports: Vec::new(),
            mode: Mode::Auto,
            queues: None,
            frame_size: FRAME_SIZES[0],
            memory: MOST_MEMORY,
        }
    }
}

impl Options {
    /// Looks whether they make sense by themselves.
    pub(super) fn check(&self) -> Result<(), XdpError> {
        if !(1..=MOST_PORTS).contains(&self.ports.len()) {
            return Err(XdpError::Ports(self.ports.len()));
        }
        if !FRAME_SIZES.contains(&self.frame_size) {
            return Err(XdpError::FrameSize(self.frame_size));
        }
        Ok(())
    }

    /// Returns the queues to serve, of the `present` ones, each once.
    pub(super) fn queues(&self, interface: &str, present: u32) -> Result<Vec<u32>, XdpError> {
        let mut queues = self.queues.clone().unwrap_or_else(|| (0..present.min(MOST_QUEUES + 1)).collect());
        queues.sort_unstable();
        queues.dedup();
        match queues.iter().find(|queue| **queue >= present.min(MOST_QUEUES)) {
            Some(queue) => Err(XdpError::Queue { interface: interface.to_owned(), queue: *queue, present }),
            None => Ok(queues),
        }
    }

    /// Returns how many frames each of so many queues gets.
    pub(super) fn frames(&self, queues: usize) -> u32 {
        let share = self.memory.min(MOST_MEMORY) / self.frame_size.max(1) as usize / queues.max(1);
        let frames = share.clamp(*FRAMES.start(), *FRAMES.end());
        // The largest power of two that is not more.
        1 << frames.ilog2()
    }

    /// Returns how long a frame may be, Ethernet header included, to fit into one of the sockets'.
    pub(super) fn largest(&self) -> u32 {
        self.frame_size - HEADROOM
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_never_more_than_the_bound() {
        for frame_size in FRAME_SIZES {
            for queues in 1..=MOST_QUEUES as usize {
                for memory in [0, 1 << 20, MOST_MEMORY, usize::MAX] {
                    let options = Options { frame_size, memory, ..Options::default() };
                    let frames = options.frames(queues);
                    assert!(frames.is_power_of_two() && frames >= 64);
                    assert!(frames as usize * frame_size as usize * queues <= MOST_MEMORY);
                }
            }
        }
        assert_eq!(Options::default().frames(1), 8192);
        assert_eq!(Options { frame_size: 4096, ..Options::default() }.frames(3), 1024);
    }

    #[test]
    fn frames_fit_the_mtu() {
        let sizes =
            [1500, 1778, 1779, LARGEST_MTU as u16, LARGEST_MTU as u16 + 1, u16::MAX].map(frame_size_for);
        assert_eq!(sizes, [Some(2048), Some(2048), Some(4096), Some(4096), None, None]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let with = |ports| Options { ports, ..Options::default() };
        assert!(matches!(with(vec![]).check(), Err(XdpError::Ports(0))));
        assert!(matches!(with(vec![1; 65]).check(), Err(XdpError::Ports(65))));
        assert!(with(vec![4789; 64]).check().is_ok());
        let odd = Options { frame_size: 3000, ..with(vec![4789]) };
        assert_eq!(
            odd.check().unwrap_err().to_string(),
            "frames of 3000 bytes, and they may have 2048 or 4096"
        );
    }

    #[test]
    fn queues_are_those_asked_for_that_are_there() {
        let with = |queues| Options { queues, ..Options::default() };
        assert_eq!(with(None).queues("eth0", 3).unwrap(), [0, 1, 2]);
        assert_eq!(with(Some(vec![2, 0, 2])).queues("eth0", 3).unwrap(), [0, 2]);
        let error = with(Some(vec![3])).queues("eth0", 3).unwrap_err().to_string();
        assert!(error.starts_with("queue 3 of interface 'eth0' can't be served: it has 3"), "{error}");
        assert!(matches!(with(None).queues("eth0", 65), Err(XdpError::Queue { queue: 64, .. })));
    }
}
