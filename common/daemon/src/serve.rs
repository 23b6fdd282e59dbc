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

use rtt0_core::claim::Bypass;
use rtt0_core::gateway::RouterAddresses;
use rtt0_core::gauges::Gauges;
use rtt0_core::limits::Limits;
use rtt0_core::offer::Keys;
use rtt0_core::profile::Profiles;
use rtt0_core::reason::Counters;
use rtt0_core::service::Services;
use rtt0_netio::awake::Awake;
use rtt0_netio::emit::{EMIT_MARK, Emitter};
use rtt0_netio::guard::Guard;
use rtt0_netio::privilege::{self, Duty};
use rtt0_netio::trace::TraceFile;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::MissedTickBehavior;

use crate::bypass::{self, Filter, SynBypass};
use crate::control::{ControlPlane, ControlSocket, Health, Known, Question, Receiver};
use crate::failure::Failure;
use crate::forwarding;
use crate::http::HttpSocket;
use crate::incidents::Incidents;
use crate::key_file::KeyFileError;
use crate::manager;
use crate::offload::Offload;
use crate::program::Nic;
use crate::reload::{Reload, Reloaded};
use crate::setup::Setup;
use crate::state;
use crate::stats::{Level, Stats, unix_seconds};
use crate::watchdog::Watchdog;
use crate::workers::{self, Reason, Tell, Workers};

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
    program: &'static str,
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
    let end = runtime
        .block_on(wait(signals, &mut service, &workers, &mut nic, &mut reload))
        .map_err(failed("wait for signals"));
    service.stop(workers, end, &reload)
}

/// What is in place besides the worker while the daemon serves.
struct Service {
    program: &'static str,
    started: f64,
    guard: Guard,
    bypass: SynBypass,
    offload: Offload,
    _awake: Option<Awake>,
    watchdog: Watchdog,
    incidents: Incidents,
    /// Written to its end when this is dropped, after the workers.
    trace: Option<TraceFile>,
    /// One for each worker.
    counters: Vec<Arc<Counters>>,
    limits: Limits,
    profiles: Option<Arc<Profiles>>,
    control: Option<ControlPlane>,
    questions: Receiver,
}

/// Why the wait has ended.
enum End {
    Signal(&'static str),
    WorkerEnded,
    Device(Failure),
}

impl Service {
    fn start<N: Nic>(program: &'static str, setup: Setup, nic: &mut N) -> Result<(Self, Workers), Failure> {
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
        // The state folder is there by now.
        let control = setup.control_socket.as_deref().map(ControlSocket::bind).transpose()?;
        let metrics = setup.metrics_address.map(HttpSocket::bind).transpose()?;
        let awake = setup.awake.then(Awake::keep).transpose()?;
        let profiles = nic.profiles();
        let offload = Offload::start(program, &setup, &mut engines, N::ROLE, profiles.as_deref());
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
        let (incidents, notices) = Incidents::new(setup.is_redacted);
        let trace =
            setup.trace.as_ref().map(|(file, packets)| TraceFile::create(file, *packets)).transpose()?;
        let tell = Tell { notices, trace: trace.as_ref().and_then(TraceFile::trace) };
        let workers = Workers::spawn(engines, captures, emitters, stores, served, &tell, &setup)?;
        let (socket, address) = (
            control.as_ref().map_or("-".to_owned(), |socket| socket.path().display().to_string()),
            metrics.as_ref().map_or("-".to_owned(), |socket| socket.address().to_string()),
        );
        let known = Known { workers: setup.workers, profiles: profiles.clone() };
        // Before this thread is a real-time one: what it starts stays ordinary.
        let (control, questions) = ControlPlane::start(control, metrics, known)
            .map_err(|source| Failure::Control { action: "start the thread for operators", source })?;
        nic.begin(&keys, mtu)
            .map_err(|source| Failure::Control { action: "start what works beside the packets", source })?;
        if setup.realtime_priority != 0 {
            // This thread has little to do, and in a flood it must get to do it. No harm without.
            rtt0_netio::worker::run_at(setup.realtime_priority.saturating_add(1).min(99));
        }
        privilege::confine(Duty::Control);
        tracing::info!(
            interfaces = interfaces.join(","),
            services = rules.join(","),
            guard = guard.table(),
            untracked = guard.untracked(),
            workers = setup.workers,
            realtime = workers.are_realtime(),
            control = socket,
            metrics = address,
            "ready"
        );
        manager::ready();
        let service = Self {
            program,
            started: unix_seconds(),
            guard,
            bypass: SynBypass::new(switches, counters.clone()),
            offload,
            _awake: awake,
            watchdog: Watchdog::from_environment(),
            incidents,
            trace,
            counters,
            limits: setup.limits,
            profiles,
            control,
            questions,
        };
        Ok((service, workers))
    }

    /// Does what is to be done every [`bypass::PERIOD`].
    fn look(&mut self, workers: &Workers) -> Result<(), Failure> {
        self.bypass.look(&mut self.guard, workers);
        self.watchdog.look(|| workers.are_alive());
        self.incidents.look();
        self.offload.look()
    }

    /// Looks at everything.
    fn stats(&mut self, workers: &Workers, reload: &Reload) -> Stats {
        let mut stats = Stats {
            workers: workers.count(),
            is_alive: self.watchdog.is_alive(),
            is_draining: workers.are_draining(),
            levels: self.levels(&workers.gauges()),
            ..self.totals(reload)
        };
        stats.count_io(workers.io());
        stats
    }

    /// Looks at everything but the workers.
    fn totals(&mut self, reload: &Reload) -> Stats {
        let bypass = match self.bypass.now() {
            Bypass::Nothing => "nothing",
            Bypass::Syns => "syns",
            Bypass::Handshakes => "handshakes",
        };
        let guarded = self.guard.dropped().map(|rules| rules.iter().map(|rule| rule.packets).sum());
        let mut stats = Stats {
            program: self.program.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            started: self.started,
            taken: rtt0_netio::clock::now().as_micros() as f64 / 1e6,
            bypass: bypass.into(),
            bypassed: self.bypass.packets(&mut self.guard),
            guarded: guarded
                .inspect_err(|error| tracing::warn!(%error, "the guard's counters can't be read"))
                .ok(),
            offload: self.offload.counts(),
            reload: reload.outcome(),
            ..Stats::default()
        };
        stats.count_engines(self.counters.iter().map(|counters| &**counters));
        stats
    }

    fn levels(&self, gauges: &Gauges) -> Vec<Level> {
        let limits = &self.limits;
        let level = |label: &'static str, now: usize, most: usize, meaning: &'static str| Level {
            label: label.into(),
            now: now as u64,
            most: most as u64,
            meaning: meaning.into(),
        };
        let mut levels = vec![
            level("flows", gauges.flows, limits.flows, "Connections known."),
            level("pending", gauges.pending, limits.pending, "Handshakes under way."),
            level(
                "half_open",
                gauges.half_open,
                limits.half_open,
                "Clients that were answered and have acknowledged nothing yet.",
            ),
            level("held_bytes", gauges.held, limits.held_total, "Bytes of early data held."),
        ];
        if let Some(profiles) = &self.profiles {
            levels.push(level("destinations", profiles.len(), profiles.bound(), "Destinations known."));
        }
        levels
    }

    fn answer<N: Nic>(&mut self, question: Question, workers: &Workers, nic: &mut N, reload: &mut Reload) {
        // Whoever has gone meanwhile wants no answer.
        match question {
            Question::Health(reply) => {
                let (is_alive, is_draining) = (self.watchdog.is_alive(), workers.are_draining());
                let _ = reply.send(Health { is_alive, is_draining });
            }
            Question::Stats(reply) => drop(reply.send(self.stats(workers, reload))),
            Question::Survey { worker, from, reply } => {
                workers.survey(worker, from, move |page, now| drop(reply.send((page, now))));
            }
            Question::Drain { drain, reply } => {
                workers.stand_back(Reason::Drain, drain);
                let _ = reply.send(());
            }
            Question::Reload(reply) => {
                let _ = reply.send(read_again(workers, nic, reload, &mut self.offload));
            }
        }
    }

    /// Ends the service. The guard goes first, so that plain forwarding resumes at once; the
    /// worker then serves what it has captured already.
    fn stop(mut self, workers: Workers, end: Result<End, Failure>, reload: &Reload) -> Result<(), Failure> {
        manager::stopping();
        if let Ok(End::Signal(name)) = end {
            tracing::info!(signal = name, "stopping");
        }
        if let Some(control) = self.control.take() {
            control.stop();
        }
        let before = self.totals(reload);
        drop(self.guard);
        let (io, worked) = workers.stop();
        self.incidents.look();
        let mut stats = Stats { offload: self.offload.counts(), ..before };
        stats.count_engines(self.counters.iter().map(|counters| &**counters));
        stats.count_io(io.iter().map(|counters| &**counters));
        drop(self.trace);
        let in_kernel = self.offload.stop();
        if stats.bypassed > 0 {
            tracing::info!(packets = stats.bypassed, "SYNs left to the kernel");
        }
        if let Some(packets) = stats.guarded {
            tracing::info!(packets, "kept from the kernel's forwarding");
        }
        tracing::info!(counters = stats.line(), in_kernel, "stopped");
        worked?;
        match end? {
            End::Signal(_) => Ok(()),
            End::WorkerEnded => Err(Failure::WorkerEnded),
            End::Device(failure) => Err(failure),
        }
    }
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

/// Waits for a signal to end or for the worker's end, whichever comes first, and meanwhile does what operators want.
async fn wait<N: Nic>(
    mut signals: Signals,
    service: &mut Service,
    workers: &Workers,
    nic: &mut N,
    reload: &mut Reload,
) -> io::Result<End> {
    let mut ended = workers.ended()?;
    let mut look = tokio::time::interval(bypass::PERIOD);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return Ok(End::Signal("SIGTERM")),
            _ = signals.interrupt.recv() => return Ok(End::Signal("SIGINT")),
            // What is wrong is in the log.
            _ = signals.hangup.recv() => drop(read_again(workers, nic, reload, &mut service.offload)),
            Some(question) = service.questions.recv() => service.answer(question, workers, nic, reload),
            _ = look.tick() => {
                if let Err(failure) = service.look(workers) {
                    return Ok(End::Device(failure));
                }
            }
            _ = ended.recv() => return Ok(End::WorkerEnded),
        }
    }
}

/// Reads the configuration again, and tells the service manager so.
fn read_again<N: Nic>(
    workers: &Workers,
    nic: &mut N,
    reload: &mut Reload,
    offload: &mut Offload,
) -> Result<Reloaded, String> {
    manager::reloading();
    let outcome = reload.again(nic, workers, offload);
    manager::ready();
    outcome
}
