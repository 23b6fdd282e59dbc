//! An engine's way to the flows in the kernel.

use std::os::fd::AsFd;

use aya::Pod;
use aya::maps::{HashMap, Map, MapData, MapError};
use aya::programs::{ProgramError, SchedClassifier, TestRunOptions};
use rtt0_core::accept::Opened;
use rtt0_core::flow::FlowKey;
use rtt0_core::offer;
use rtt0_core::offload::{
    Begun, FastPath, KERNEL_KEY, KernelKey, Offloaded, Progress, Queued, flow_key, wait,
};
use rtt0_core::seq::{Client, Seq};
use rtt0_core::time::Instant;

use super::opened::Accepted;
use super::queue::Queue;
use super::times::Time;
use super::{Flows, MARGIN};
use crate::clock;

/// Bytes of the longest SYN that the kernel answers: an IPv6 header and a TCP header with 20 bytes of options.
const LONGEST_SYN: usize = 80;
/// How often a flow is offered to the kernel.
const ATTEMPTS: usize = 3;

/// What `closing` has in a place.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Closed {
    key: [u8; KERNEL_KEY],
    client_is_lower: u32,
    client_end: u32,
    zero: u32,
}

/// What `begun` has in a place.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Answered {
    syn: [u8; LONGEST_SYN],
    offer: [u8; offer::LENGTH],
    /// Of the SYN, in bytes.
    length: u32,
    /// Of the monotonic clock, ns.
    at: u64,
}

// SAFETY: both consist of integers without padding, so that any bytes are valid and none is uninitialised.
unsafe impl Pod for Closed {}
// SAFETY: as above.
unsafe impl Pod for Answered {}

/// What an engine hears of handshakes that the kernel has begun.
#[derive(Debug)]
pub(super) enum News {
    None,
    Begun(Queue<Answered>),
    Opened(Box<Accepted>),
}

/// The flows in the kernel, as one engine reaches them. Every call is a system call or two (bpf(2)).
#[derive(Debug)]
pub struct KernelPath {
    flows: Flows,
    closed: Queue<Closed>,
    /// Until when the kernel may begin handshakes, if it can.
    allowed: Option<Time>,
    news: News,
    worker: Option<u8>,
}

impl KernelPath {
    pub(super) fn new(
        flows: Flows,
        closed: Queue<Closed>,
        allowed: Option<Time>,
        news: News,
        worker: Option<u8>,
    ) -> Self {
        Self { flows, closed, allowed, news, worker }
    }

    fn read(&self, key: &FlowKey) -> Option<Progress> {
        let key = KernelKey::from(key).bytes;
        let value = self.flows.get(&key, 0).ok()?;
        Offloaded::from_kernel(&key, &value).map(|flow| flow.progress)
    }
}

impl FastPath for KernelPath {
    fn hand(&mut self, flow: &Offloaded, queued: Queued) -> bool {
        let (key, mut value) = flow.to_kernel();
        if let Some(worker) = self.worker {
            let now = clock::now().as_micros() * 1000;
            wait(&mut value, queued, worker, now, MARGIN.as_nanos() as u64);
        }
        // The kernel keeps some memory ready and fetches more behind our back, so that in a burst of
        // new flows it is short of it for a moment.
        (0..ATTEMPTS).any(|_| self.flows.insert(key.bytes, value, 0).is_ok())
    }

    fn look(&mut self, key: &FlowKey) -> Option<Progress> {
        self.read(key)
    }

    fn recall(&mut self, key: &FlowKey) -> Option<Progress> {
        let bytes = KernelKey::from(key).bytes;
        let progress = self.read(key);
        if progress.is_some() {
            // The program removes flows too, but not while this process lives.
            let _ = self.flows.remove(&bytes);
        }
        progress
    }

    fn closed(&mut self) -> Option<(FlowKey, Seq<Client>)> {
        let closed = self.closed.pop()?;
        Some((flow_key(&closed.key, closed.client_is_lower != 0), Seq::new(closed.client_end)))
    }

    fn allow(&mut self, until: Option<Instant>) -> bool {
        let Some(allowed) = &self.allowed else { return false };
        allowed.tell(until.unwrap_or(Instant::ZERO));
        true
    }

    fn begun(&mut self) -> Option<Begun> {
        let News::Begun(begun) = &mut self.news else { return None };
        let Answered { syn, offer, length, at } = begun.pop()?;
        let syn = syn.get(..length as usize).unwrap_or(&[]).to_vec();
        Some(Begun { syn, offer, at: Instant::from_micros(at / 1000) })
    }

    fn opened(&mut self) -> Option<Opened> {
        let News::Opened(accepted) = &mut self.news else { return None };
        accepted.pop()
    }
}

impl Drop for KernelPath {
    fn drop(&mut self) {
        // Nobody will hear of more.
        self.allow(None);
    }
}

/// Opens a map once more.
pub(super) fn another<K: Pod, V: Pod>(map: &Map) -> Result<HashMap<MapData, K, V>, MapError> {
    let (Map::HashMap(data) | Map::LruHashMap(data)) = map else {
        return Err(MapError::InvalidMapType { map_type: 0 });
    };
    let fd = data.fd().as_fd().try_clone_to_owned()?;
    HashMap::try_from(Map::HashMap(MapData::from_fd(fd)?))
}

/// Length of `struct __sk_buff`, and where its `mark` and `gso_size` are (linux/bpf.h).
const CONTEXT: usize = 192;
const MARK_AT: usize = 8;
const GSO_SIZE_AT: usize = 176;

/// Runs a program on a frame; returns the frame and whether it is marked.
pub(super) fn trial(
    program: &SchedClassifier,
    frame: &[u8],
    gso_size: u16,
) -> Result<(Vec<u8>, bool), ProgramError> {
    use aya::programs::TestRun;
    let mut context = [0; CONTEXT];
    context[GSO_SIZE_AT..GSO_SIZE_AT + 4].copy_from_slice(&u32::from(gso_size).to_ne_bytes());
    let (mut frame_out, mut context_out) = (vec![0; frame.len()], [0; CONTEXT]);
    program.test_run(TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut frame_out),
        ctx_in: Some(&context),
        ctx_out: Some(&mut context_out),
        ..TestRunOptions::new()
    })?;
    let is_marked = context_out[MARK_AT..MARK_AT + 4] != [0; 4];
    Ok((frame_out, is_marked))
}
