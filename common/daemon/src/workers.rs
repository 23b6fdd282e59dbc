//! All packet workers of a daemon, which share its flows.

use std::io;
use std::os::fd::AsFd;

use rtt0_core::engine::Engine;
use rtt0_core::offer::Keys;
use rtt0_netio::capture::{Capture, CaptureError, CaptureOptions};
use rtt0_netio::emit::Emitter;
use rtt0_netio::fast_path::Served;
use rtt0_netio::store::Store;
use rtt0_netio::worker::{Worker, WorkerError, WorkerHandle, WorkerOptions};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::mpsc;

use crate::setup::Setup;

/// Opens the captures of each worker: of what arrives at every interface, or of what leaves by the outlet, if
/// there is one.
pub(crate) fn open_captures(setup: &Setup, outlet: Option<&str>) -> Result<Vec<Vec<Capture>>, CaptureError> {
    let mut captures: Vec<Vec<Capture>> = (0..setup.workers).map(|_| Vec::new()).collect();
    let options = CaptureOptions { sent: outlet.is_some(), ..CaptureOptions::default() };
    let interfaces = outlet.map_or_else(|| setup.interface_names(), |outlet| vec![outlet.to_owned()]);
    for interface in interfaces {
        let group = Capture::open_group(&interface, &setup.services, &options, setup.workers)?;
        captures.iter_mut().zip(group).for_each(|(own, capture)| own.push(capture));
    }
    Ok(captures)
}

/// The running workers; at least one.
pub(crate) struct Workers(Vec<WorkerHandle>);

impl Workers {
    /// Starts a worker for each engine. `stores` and `served` are as long as `engines`, or empty.
    pub(crate) fn spawn<E: Engine + Send + 'static>(
        engines: Vec<E>,
        captures: Vec<Vec<Capture>>,
        emitters: Vec<Emitter>,
        stores: Vec<Store>,
        served: Vec<Served>,
        setup: &Setup,
    ) -> Result<Self, WorkerError> {
        let (mut stores, mut served) = (stores.into_iter(), served.into_iter());
        let parts = engines.into_iter().zip(captures).zip(emitters).enumerate();
        let spawn = |(index, ((engine, captures), emitter)): (usize, ((E, Vec<Capture>), Emitter))| {
            let options = WorkerOptions {
                name: format!("packets-{index}"),
                realtime_priority: Some(setup.realtime_priority).filter(|priority| *priority != 0),
                processor: setup.cpus.iter().cycle().nth(index).copied(),
                busy_poll: setup.busy_poll,
            };
            Worker::spawn(engine, captures, emitter, stores.next(), served.next(), &options)
        };
        parts.map(spawn).collect::<Result<_, _>>().map(Self)
    }

    pub(crate) fn rekey(&self, keys: &Keys) {
        self.0.iter().for_each(|worker| worker.rekey(keys.clone()));
    }

    pub(crate) fn stand_back(&self, back: bool) {
        self.0.iter().for_each(|worker| worker.stand_back(back));
    }

    /// Returns how many handshakes of all workers wait for their servers.
    pub(crate) fn awaited(&self) -> usize {
        self.0.iter().map(WorkerHandle::awaited).sum()
    }

    /// Tells whether all have gone round their loops since the last call that said so.
    pub(crate) fn are_alive(&self) -> bool {
        // Each is asked, whatever the others have answered.
        self.0.iter().filter(|worker| !worker.is_alive()).count() == 0
    }

    /// Tells whether all run under SCHED_FIFO.
    pub(crate) fn are_realtime(&self) -> bool {
        self.0.iter().all(WorkerHandle::is_realtime)
    }

    /// Returns what says when the first of them has ended. Must be called inside the runtime.
    pub(crate) fn ended(&self) -> io::Result<mpsc::Receiver<()>> {
        let (tell, ended) = mpsc::channel(self.0.len().max(1));
        for worker in &self.0 {
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

    /// Has all of them serve what they have captured already, and waits for their ends. Returns
    /// the sums of their counters, and the first error.
    pub(crate) fn stop(self) -> (Vec<(&'static str, u64)>, Result<(), WorkerError>) {
        self.0.iter().for_each(WorkerHandle::stop);
        let mut sums: Vec<(&'static str, u64)> = Vec::new();
        let mut outcome = Ok(());
        for worker in self.0 {
            let counters = worker.stats().clone();
            outcome = outcome.and(worker.join());
            for (index, (label, count)) in counters.iter().enumerate() {
                match sums.get_mut(index) {
                    Some((_, sum)) => *sum += count,
                    None => sums.push((label, count)),
                }
            }
        }
        (sums, outcome)
    }
}
