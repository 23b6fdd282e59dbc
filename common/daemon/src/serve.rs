//! Bring-up, service and shutdown of a daemon.
//!
//! ```text
//!  restore flows ─► offload ─► open captures ─► install guard ─► start workers ─► "ready"
//!                                                    stop workers ◄─ remove guard ◄─ wait
//! ```
//!
//! Flows are restored while the kernel still forwards, so that however many they are nobody waits.
//! The captures queue packets before the guard keeps the kernel from forwarding them, and the
//! guard goes before the worker does: at no time is a packet dropped by the one and not seen by
//! the other. A few may be forwarded twice instead, which TCP tolerates.

use std::io;
use std::sync::Arc;

use rtt0_core::gateway::RouterAddresses;
use rtt0_core::limits::Limits;
use rtt0_core::offer::Keys;
use rtt0_core::reason::Counters;
use rtt0_core::service::Services;
use rtt0_netio::emit::{EMIT_MARK, Emitter};
use rtt0_netio::guard::Guard;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::MissedTickBehavior;

use crate::bypass::{self, Filter, SynBypass};
use crate::failure::Failure;
use crate::forwarding;
use crate::key_file::KeyFileError;
use crate::offload::Offload;
use crate::program::Nic;
use crate::reload::Reload;
use crate::setup::Setup;
use crate::state;
use crate::watchdog::Watchdog;
use crate::workers::{self, Workers};

/// What an engine is made from.
#[derive(Debug)]
pub struct Context {
    /// Which packets are ours.
    pub services: Services,
    /// The secrets shared with the other NIC.
    pub keys: Keys,
    /// The bounds: this worker's share.
    pub limits: Limits,
    /// The smallest MTU of the named interfaces, in bytes.
    pub mtu: u16,
    /// Sources for ICMP errors of our own.
    pub router: RouterAddresses,
    /// Where the engine counts; reported when the daemon stops.
    pub counters: Arc<Counters>,
}

/// Serves until SIGTERM, SIGINT or the worker's death. Needs CAP_NET_RAW and CAP_NET_ADMIN.
pub(crate) fn serve<N: Nic>(
    program: &str,
    setup: Setup,
    mut nic: N,
    mut reload: Reload,
) -> Result<(), Failure> {
    let failed = |action| move |source| Failure::Control { action, source };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed("start the control plane"))?;
    let entered = runtime.enter();
    // Before anything is changed, so that no signal is missed that should undo it.
    let signals = Signals::watch().map_err(failed("watch signals"))?;
    let (mut service, workers) = Service::start(program, setup, &mut nic)?;
    drop(entered);
    let again = |workers: &Workers| reload.again(&mut nic, workers);
    let end =
        runtime.block_on(wait(signals, &mut service, &workers, again)).map_err(failed("wait for signals"));
    service.stop(workers, end)
}

/// What is in place besides the worker while the daemon serves.
struct Service {
    guard: Guard,
    bypass: SynBypass,
    offload: Offload,
    /// One for each worker.
    counters: Vec<Arc<Counters>>,
}

/// Why the wait has ended.
enum End {
    Signal(&'static str),
    WorkerEnded,
    Device(Failure),
}

impl Service {
    fn start<N: Nic>(program: &str, setup: Setup, nic: &mut N) -> Result<(Self, Workers), Failure> {
        for interface in setup.interfaces.iter().filter(|interface| !interface.up) {
            tracing::warn!(
                interface = interface.name,
                "the interface is down; nothing arrives until it is up"
            );
        }
        forwarding::warn_if_off(&setup.services);

        let interfaces = setup.interface_names();
        // One for each worker: two that add to the same would wait for one another.
        let counters: Vec<Arc<Counters>> = (0..setup.workers).map(|_| Arc::default()).collect();
        let keys = setup.keys.clone().ok_or(KeyFileError::NotGiven)?;
        let mtu = setup.smallest_mtu()?;
        let context = |counters: &Arc<Counters>| Context {
            services: setup.services.clone(),
            keys: keys.clone(),
            limits: setup.limits.shared_by(setup.workers),
            mtu,
            router: setup.router_addresses(),
            counters: Arc::clone(counters),
        };
        let mut engines: Vec<N::Engine> =
            counters.iter().map(context).map(|context| nic.engine(context)).collect();
        let stores = match &setup.state_dir {
            Some(folder) => state::restore(folder, program, setup.limits.flows, &mut engines)?,
            None => Vec::new(),
        };
        let offload = Offload::start(program, &setup, &mut engines);
        let captures = workers::open_captures(&setup, offload.outlet())?;
        let switches = match offload.switch() {
            Some(switch) => Ok(Filter::Kernel(switch)),
            None => {
                let filters = captures.iter().flatten().map(|capture| capture.filters(&setup.services));
                filters.collect::<Result<_, _>>().map(Filter::Captures)
            }
        };
        let emitters = engines.iter().map(|_| Emitter::open()).collect::<Result<Vec<_>, _>>()?;
        let guard = Guard::install(&interfaces, &setup.services, EMIT_MARK, offload.is_on())?;
        let rules: Vec<String> = setup.services.rules().iter().map(ToString::to_string).collect();
        let served = offload.served(setup.workers)?;
        let workers = Workers::spawn(engines, captures, emitters, stores, served, &setup)?;
        if setup.realtime_priority != 0 {
            // This thread has little to do, and in a flood it must get to do it. No harm without.
            rtt0_netio::worker::run_at(setup.realtime_priority.saturating_add(1).min(99));
        }
        tracing::info!(
            interfaces = interfaces.join(","),
            services = rules.join(","),
            guard = guard.table(),
            untracked = guard.untracked(),
            workers = setup.workers,
            realtime = workers.are_realtime(),
            "ready"
        );
        notify(&[NotifyState::Ready]);
        let bypass = SynBypass::new(switches, counters.clone());
        Ok((Self { guard, bypass, offload, counters }, workers))
    }

    /// Ends the service. The guard goes first, so that plain forwarding resumes at once; the
    /// worker then serves what it has captured already.
    fn stop(mut self, workers: Workers, end: Result<End, Failure>) -> Result<(), Failure> {
        notify(&[NotifyState::Stopping]);
        if let Ok(End::Signal(name)) = end {
            tracing::info!(signal = name, "stopping");
        }
        self.bypass.report(&mut self.guard);
        let guarded = self.guard.dropped();
        drop(self.guard);
        let (io, worked) = workers.stop();
        match guarded {
            Ok(rules) => {
                let packets: u64 = rules.iter().map(|rule| rule.packets).sum();
                tracing::info!(packets, "kept from the kernel's forwarding");
            }
            Err(error) => tracing::warn!(%error, "the guard's counters can't be read"),
        }
        let kernel = self.offload.stop();
        let io: Vec<_> = io.into_iter().chain(kernel).collect();
        report(&io, &self.counters);
        worked?;
        match end? {
            End::Signal(_) => Ok(()),
            End::WorkerEnded => Err(Failure::WorkerEnded),
            End::Device(failure) => Err(failure),
        }
    }
}

/// Logs the counters that are not zero.
fn report(io: &[(&'static str, u64)], engines: &[Arc<Counters>]) {
    let io = io.iter().map(|(label, count)| ((*label).to_owned(), *count));
    let mut sums: Vec<(String, u64)> = Vec::new();
    for engine in engines {
        for (index, (kind, label, count)) in engine.iter().enumerate() {
            match sums.get_mut(index) {
                Some((_, sum)) => *sum += count,
                None => sums.push((format!("{kind}.{label}"), count)),
            }
        }
    }
    let line: Vec<String> = io
        .chain(sums)
        .filter(|(_, count)| *count != 0)
        .map(|(label, count)| format!("{label}={count}"))
        .collect();
    tracing::info!(counters = line.join(" "), "stopped");
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Must be called inside the runtime.
    fn watch() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

/// Waits for a signal to end or for the worker's end, whichever comes first.
async fn wait(
    mut signals: Signals,
    service: &mut Service,
    workers: &Workers,
    mut reload: impl FnMut(&Workers),
) -> io::Result<End> {
    let (mut ended, mut watchdog) = (workers.ended()?, Watchdog::from_environment());
    let mut look = tokio::time::interval(bypass::PERIOD);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return Ok(End::Signal("SIGTERM")),
            _ = signals.interrupt.recv() => return Ok(End::Signal("SIGINT")),
            _ = signals.hangup.recv() => {
                notify(&[NotifyState::Reloading, NotifyState::monotonic_usec_now()?]);
                reload(workers);
                notify(&[NotifyState::Ready]);
            }
            _ = look.tick() => {
                service.bypass.look(&mut service.guard, workers);
                watchdog.look(workers);
                if let Err(failure) = service.offload.look() {
                    return Ok(End::Device(failure));
                }
            }
            _ = ended.recv() => return Ok(End::WorkerEnded),
        }
    }
}

/// Tells systemd, if it wants to know (sd_notify(3)).
pub(crate) fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager can't be told");
    }
}
