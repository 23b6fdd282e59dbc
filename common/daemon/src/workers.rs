//! All packet workers of a daemon, which share its flows.

use std::cell::Cell;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use rtt0_core::engine::Engine;
use rtt0_core::gauges::Gauges;
use rtt0_core::notice::Notice;
use rtt0_core::offer::Keys;
use rtt0_core::survey::Page;
use rtt0_core::time::Instant;
use rtt0_netio::capture::{Capture, CaptureError, CaptureOptions};
use rtt0_netio::counters::IoCounters;
use rtt0_netio::emit::Emitter;
use rtt0_netio::fast_path::Served;
use rtt0_netio::store::Store;
use rtt0_netio::trace::Trace;
use rtt0_netio::worker::{Worker, WorkerError, WorkerHandle, WorkerOptions};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::mpsc;

use crate::setup::Setup;

/// Opens the captures of each worker: of what arrives at every interface, or of what leaves by the outlet, if
/// there is one.
pub(crate) fn open_captures(setup: &Setup, outlet: Option<&str>) -> Result<Vec<Vec<Capture>>, CaptureError> {
    let mut captures: Vec<Vec<Capture>> = (0..setup.workers).map(|_| Vec::new()).collect();
    let mut options = CaptureOptions { sent: outlet.is_some(), ..CaptureOptions::default() };
    let mut interfaces = setup.interface_names();
    if let Some(outlet) = outlet {
        // What leaves there is what came by them.
        options.packet = setup.interfaces.iter().filter_map(|interface| interface.mtu().ok()).max();
        interfaces = vec![outlet.to_owned()];
    }
    for interface in interfaces {
        let group = Capture::open_group(&interface, &setup.services, &options, setup.workers)?;
        captures.iter_mut().zip(group).for_each(|(own, capture)| own.push(capture));
    }
    Ok(captures)
}

/// Why no handshake may be begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// There is a flood of SYNs.
    Flood,
    /// An operator wants it so.
    Drain,
}

/// Whom workers tell what they see.
pub(crate) struct Tell {
    /// What happens to single connections.
    pub(crate) notices: SyncSender<Notice>,
    /// What becomes of each packet, if that is wanted.
    pub(crate) trace: Option<Trace>,
}

/// The running workers; at least one.
pub(crate) struct Workers {
    handles: Vec<WorkerHandle>,
    /// Why they stand back, if they do.
    reasons: Cell<Reasons>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Reasons {
    flood: bool,
    drain: bool,
}

impl Workers {
    /// Starts a worker for each engine. `stores` and `served` are as long as `engines`, or empty.
    pub(crate) fn spawn<E: Engine + Send + 'static>(
        engines: Vec<E>,
        captures: Vec<Vec<Capture>>,
        emitters: Vec<Emitter>,
        stores: Vec<Store>,
        served: Vec<Served>,
        tell: &Tell,
        setup: &Setup,
    ) -> Result<Self, WorkerError> {
        let (mut stores, mut served) = (stores.into_iter(), served.into_iter());
        let parts = engines.into_iter().zip(captures).zip(emitters).enumerate();
        let spawn = |(index, ((engine, captures), emitter)): (usize, ((E, Vec<Capture>), Emitter))| {
            let options = WorkerOptions {
                name: format!("packets-{index}"),
                realtime_priority: Some(setup.realtime_priority).filter(|priority| *priority != 0),
                processor: setup.cpus.iter().cycle().nth(index).copied(),
                notices: Some(tell.notices.clone()),
                trace: tell.trace.clone(),
                busy_poll: setup.busy_poll,
                gather: setup.gather,
            };
            Worker::spawn(engine, captures, emitter, stores.next(), served.next(), &options)
        };
        let handles = parts.map(spawn).collect::<Result<_, _>>()?;
        Ok(Self { handles, reasons: Cell::default() })
    }

    pub(crate) fn rekey(&self, keys: &Keys) {
        self.handles.iter().for_each(|worker| worker.rekey(keys.clone()));
    }

    /// Has them begin no handshake for as long as there is a reason.
    pub(crate) fn stand_back(&self, reason: Reason, back: bool) {
        let mut reasons = self.reasons.get();
        match reason {
            Reason::Flood => reasons.flood = back,
            Reason::Drain => reasons.drain = back,
        }
        self.reasons.set(reasons);
        self.handles.iter().for_each(|worker| worker.stand_back(reasons.flood || reasons.drain));
    }

    /// Tells whether an operator wants no handshake to be begun.
    pub(crate) fn are_draining(&self) -> bool {
        self.reasons.get().drain
    }

    /// Returns how full the tables of all are.
    pub(crate) fn gauges(&self) -> Gauges {
        self.handles.iter().fold(Gauges::default(), |mut sum, worker| {
            sum += worker.gauges();
            sum
        })
    }

    /// Returns how many there are.
    pub(crate) fn count(&self) -> usize {
        self.handles.len()
    }

    /// Returns the counters of each.
    pub(crate) fn io(&self) -> impl Iterator<Item = &IoCounters> {
        self.handles.iter().map(|worker| &**worker.stats())
    }

    /// Has one look at some of its flows, see [`WorkerHandle::survey`]. If there is none of that number, `reply` is
    /// dropped.
    pub(crate) fn survey(
        &self,
        worker: usize,
        from: u32,
        reply: impl FnOnce(Page, Instant) + Send + 'static,
    ) {
        if let Some(worker) = self.handles.get(worker) {
            worker.survey(from, reply);
        }
    }

    /// As [`are_alive`].
    pub(crate) fn are_alive(&self) -> bool {
        are_alive(&self.handles)
    }

    /// Tells whether all run under SCHED_FIFO.
    pub(crate) fn are_realtime(&self) -> bool {
        self.handles.iter().all(WorkerHandle::is_realtime)
    }

    /// As [`ended`].
    pub(crate) fn ended(&self) -> io::Result<mpsc::Receiver<()>> {
        ended(&self.handles)
    }

    /// Has all of them serve what they have captured already, and waits for their ends. Returns
    /// their counters, and the first error.
    pub(crate) fn stop(self) -> (Vec<Arc<IoCounters>>, Result<(), WorkerError>) {
        self.handles.iter().for_each(WorkerHandle::stop);
        let counters = self.handles.iter().map(|worker| worker.stats().clone()).collect();
        // Each is waited for, whatever has become of the others.
        let outcomes: Vec<_> = self.handles.into_iter().map(WorkerHandle::join).collect();
        (counters, outcomes.into_iter().collect())
    }
}

/// Tells whether all workers have gone round their loops since the last call that said so.
pub fn are_alive(workers: &[WorkerHandle]) -> bool {
    // Each is asked, whatever the others have answered.
    workers.iter().filter(|worker| !worker.is_alive()).count() == 0
}

/// Returns what says when the first of some workers has ended. Must be called inside the runtime.
///
/// # Errors
/// A descriptor can't be duplicated, or watched.
pub fn ended(workers: &[WorkerHandle]) -> io::Result<mpsc::Receiver<()>> {
    let (tell, ended) = mpsc::channel(workers.len().max(1));
    for worker in workers {
        // A pipe that hangs up when the worker has ended.
        let pipe = Receiver::from_owned_fd(worker.as_fd().try_clone_to_owned()?)?;
        let tell = tell.clone();
        tokio::spawn(async move {
            // Whatever becomes of the pipe, its worker is no longer watched.
            let _ = pipe.readable().await;
            // Nobody listens any more once the daemon stops.
            let _ = tell.send(()).await;
        });
    }
    Ok(ended)
}
