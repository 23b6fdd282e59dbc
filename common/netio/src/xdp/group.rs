//! What the receivers of one interface share: the program, which stands until the last of them ends, and what has been told
//! of it. Each receiver has its own queues, sockets and memory; no ring has two users.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::{Missing, XdpError};
use super::ethtool;
use super::occupied;
use super::options::{Mode, Options};
use super::probe;
use super::program::Program;
use super::socket::{QueueSocket, Target};
use super::watch::Left;
use crate::interface::{self, Interface};

/// A program on an interface, for several receivers.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) program: Program,
    /// One line on how packets are received, and why not better.
    pub(super) description: String,
    /// How many receivers there were at first.
    receivers: usize,
    unserved: Told,
    too_long: Told,
}

impl Group {
    /// Attaches the program and opens the sockets of each of `receivers`.
    ///
    /// # Errors
    /// As [`Receiver::open_group`](super::Receiver::open_group).
    pub(super) fn open(
        interface: &str,
        options: &Options,
        receivers: usize,
    ) -> Result<(Arc<Self>, Vec<Vec<QueueSocket>>), XdpError> {
        options.check()?;
        let device = interface::by_name(interface)
            .map_err(|_| XdpError::UnknownInterface { interface: interface.to_owned() })?;
        if !interface::has_ethernet(interface) {
            return Err(XdpError::NoEthernet { interface: interface.to_owned() });
        }
        let missing = probe::missing();
        if !missing.is_empty() {
            return Err(XdpError::Missing(missing));
        }
        occupied::check(interface)?;
        let queues = options.queues(interface, ethtool::receive_queues(interface, device.index))?;
        let shares = shares(&queues, receivers).ok_or_else(|| XdpError::TooFewQueues {
            interface: interface.to_owned(),
            queues: queues.len(),
            receivers,
            remedy: more_queues(interface),
        })?;
        let mut program = Program::load(&options.ports, options.largest())?;
        let (is_generic, not_native) = attach(&mut program, &device, options.mode)?;
        let (frames, frame_size) = (options.frames(queues.len()), options.frame_size);
        let target = Target { interface, index: device.index, is_generic, frames, frame_size };
        let mut open = |queue: u32| {
            let socket = QueueSocket::open(&target, queue)?;
            program.serve(queue, socket.as_fd())?;
            Ok(socket)
        };
        let sockets = shares
            .into_iter()
            .map(|share| share.into_iter().map(&mut open).collect())
            .collect::<Result<Vec<Vec<_>>, XdpError>>()?;
        let description = describe(&target, &sockets, not_native.as_ref());
        let (unserved, too_long) = (Told::default(), Told::default());
        let group = Self { program, description, receivers, unserved, too_long };
        Ok((Arc::new(group), sockets))
    }

    /// Returns what has been left to the kernel since any receiver was told so.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn newly_left(self: &Arc<Self>) -> io::Result<Left> {
        let unserved = self.unserved.newly(self.program.unserved()?);
        let too_long = self.too_long.newly(self.program.too_long()?);
        // A receiver that has ended leaves its queues to the kernel, and that is as it should be.
        let is_whole = Arc::strong_count(self) == self.receivers;
        Ok(Left { unserved: if is_whole { unserved } else { 0 }, too_long })
    }
}

/// How much of a counter has been told, whoever told it.
#[derive(Debug, Default)]
struct Told(AtomicU64);

impl Told {
    /// Returns what has to be told, if the counter now says `total`. The sum of all that is returned is the counter.
    fn newly(&self, total: u64) -> u64 {
        total.saturating_sub(self.0.fetch_max(total, Ordering::Relaxed))
    }
}

/// Deals the queues out in turns; `None` if somebody would get none.
fn shares(queues: &[u32], receivers: usize) -> Option<Vec<Vec<u32>>> {
    let share = |first| queues.iter().copied().skip(first).step_by(receivers).collect();
    (1..=queues.len()).contains(&receivers).then(|| (0..receivers).map(share).collect())
}

/// Says how an interface gets more receive queues.
fn more_queues(interface: &str) -> String {
    if ethtool::driver(interface).as_deref() == Some("veth") {
        return format!(
            "`ethtool -L {interface} rx N`, and tx N on the veth's peer, or, if that is refused, a veth made with more (`ip link \
             add ... numrxqueues N`)"
        );
    }
    format!("`ethtool -L {interface} combined N` sets how many there are (`ethtool -l` shows the most)")
}

fn describe(target: &Target<'_>, sockets: &[Vec<QueueSocket>], not_native: Option<&Missing>) -> String {
    let mode = if target.is_generic { "generic (kernel stack)" } else { "native (driver)" };
    let all = sockets.iter().flatten();
    let (count, without_copy) = (all.clone().count(), all.filter(|socket| socket.is_zero_copy()).count());
    let copies = match without_copy {
        0 if target.is_generic => "copied",
        0 => "copied, since the driver has no zero copy here",
        without_copy if without_copy == count => "zero copy",
        _ => "zero copy on some queues",
    };
    let share = |share: &Vec<QueueSocket>| {
        share.iter().map(|socket| socket.queue.to_string()).collect::<Vec<_>>().join(",")
    };
    let queues = sockets.iter().map(share).collect::<Vec<_>>().join(" | ");
    let workers = if sockets.len() > 1 { format!(" of {} workers", sockets.len()) } else { String::new() };
    let (interface, frames, frame_size) = (target.interface, target.frames, target.frame_size);
    let kib = (count * frames as usize * frame_size as usize) >> 10;
    let mut line = format!(
        "AF_XDP on {interface}: {mode}, {copies}; queues {queues}{workers}, each with {frames} frames of {frame_size} bytes, \
         {kib} KiB in all"
    );
    if let Some(reason) = not_native {
        line += &format!("; not native: {reason}");
    }
    line
}

/// Attaches the program as `mode` says. Returns whether it is generic, and why not native if that was tried.
fn attach(
    program: &mut Program,
    device: &Interface,
    mode: Mode,
) -> Result<(bool, Option<Missing>), XdpError> {
    let failed = |source: io::Error| {
        let interface = device.name.clone();
        // Somebody has come in between.
        match source.raw_os_error() {
            Some(libc::EBUSY | libc::EEXIST) => occupied::check(&interface).err(),
            _ => None,
        }
        .unwrap_or(XdpError::System { call: "bpf(BPF_LINK_CREATE)", interface, source })
    };
    let mut not_native = None;
    if mode != Mode::Generic {
        let Err(error) = program.attach(device.index, false) else { return Ok((false, None)) };
        if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST | libc::EPERM | libc::ENODEV)) {
            return Err(failed(error));
        }
        let missing = probe::native(&device.name, device.mtu().unwrap_or(0), &error);
        if mode == Mode::Native {
            return Err(missing.into());
        }
        not_native = Some(missing);
    }
    program.attach(device.index, true).map_err(failed)?;
    Ok((true, not_native))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_dealt_out_in_turns_and_nobody_goes_without() {
        assert_eq!(shares(&[0, 1, 2, 3, 4], 2).unwrap(), [vec![0, 2, 4], vec![1, 3]]);
        assert_eq!(shares(&[1, 3, 5], 3).unwrap(), [[1], [3], [5]]);
        assert_eq!(shares(&[4], 1).unwrap(), [[4]]);
        assert_eq!((shares(&[0], 2), shares(&[], 1), shares(&[0], 0)), (None, None, None));
    }

    #[test]
    fn what_is_told_adds_up() {
        let told = Told::default();
        // Whoever has looked earlier may come later.
        assert_eq!([3, 7, 5, 7, 8].map(|total| told.newly(total)), [3, 4, 0, 0, 1]);
    }
}
