//! Bring-up, the loop beside the packets, and the end.

mod backend;
mod explain;
mod output;
mod reload;
mod replies;

use std::io::ErrorKind;
use std::iter;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use arc_swap::ArcSwap;
use rtt0_daemon::http::HttpSocket;
use rtt0_daemon::manager;
use rtt0_netio::attached::program_name;
use rtt0_netio::awake::Awake;
use rtt0_netio::capture::Capture;
use rtt0_netio::counters::IoCounters;
use rtt0_netio::emit::{Emitter, MIRROR_MARK};
use rtt0_netio::guard::{Exit, MirrorGuard};
use rtt0_netio::interface;
use rtt0_netio::links::Links;
use rtt0_netio::privilege;
use rtt0_netio::worker::{Worker, WorkerHandle, WorkerOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

use crate::allowlist::Allowlist;
use crate::cli::{CaptureArgs, CheckArgs, ObserveArgs, RunArgs};
use crate::config::Config;
use crate::counts::Counts;
use crate::examples::Examples;
use crate::forward::{Forward, Shared};
use crate::instance::Instance;
use crate::judgement::Judgement;
use crate::metrics::{self, Latest};
use crate::nat::SharedReplies;
use crate::observe::{self, Observer};
use crate::observing::{Conclusion, Observing};
use crate::pipeline::{Pipeline, Way};
use crate::snapshot::Snapshot;
use crate::tunnel::Tunnels;
use crate::watchdog::{Trouble, Watchdog};
use output::Output;
use reload::Fixed;
use replies::{Opened, Serving, Wanted};

/// How often it is told what happens.
const PERIOD: Duration = Duration::from_secs(1);
/// Longer than anybody waits.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);

/// `mirror run`: forwards until it is stopped.
///
/// # Errors
/// What is missing, or why it ended early.
pub fn run(args: &RunArgs) -> anyhow::Result<()> {
    let config = Config::load(&args.capture.config)?;
    let egress = config.forwarding()?.egress.to_owned();
    let judgement: Shared = Arc::new(ArcSwap::from_pointee(judgement(&config, None)?));
    let flows = SharedReplies::default();
    let way = || Forward::new(Arc::clone(&judgement), flows.clone());
    let emitter = || Ok(Emitter::open_bound(&egress, MIRROR_MARK)?);
    let forwarding = Some(Forwarding { egress: &egress, flows: flows.clone() });
    let running = Running::start(&args.capture, &config, &judgement, forwarding, way, emitter)?;
    running.serve(&args.capture, &judgement, None)
}

/// `mirror observe`: looks until it is stopped, or for as long as was said, and tells what it has seen.
///
/// # Errors
/// What is missing, or why it ended early.
pub fn observe(args: &ObserveArgs) -> anyhow::Result<()> {
    // One worker sees both directions of a connection; nothing is sent.
    let mut config = Config::load(&args.capture.config)?;
    (config.workers, config.egress) = (1, None);
    let judgement: Shared = Arc::new(ArcSwap::from_pointee(judgement(&config, None)?));
    let conclusion = Conclusion::default();
    let way = || {
        let options =
            observe::Options { services: config.observe.services.clone(), ..observe::Options::default() };
        Observing::new(Arc::clone(&judgement), Observer::new(options), Arc::clone(&conclusion))
    };
    // It is never asked to send.
    let emitter = || Ok(Emitter::open_with(&[])?);
    let running = Running::start(&args.capture, &config, &judgement, None, way, emitter)?;
    running.serve(&args.capture, &judgement, args.seconds.map(Duration::from_secs))?;
    let report = conclusion.lock().unwrap_or_else(PoisonError::into_inner).take();
    let report = report.context("the observer has left no report")?;
    output::conclude(&report, args.capture.json)?;
    if let Some(file) = &args.html {
        let page = report.html()?;
        std::fs::write(file, page).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// Makes what packets are held against.
///
/// # Errors
/// The allowlist can't be used.
pub fn judgement(config: &Config, before: Option<&Judgement>) -> anyhow::Result<Judgement> {
    let allowlist = config.allowlist.as_deref().map(Allowlist::load).transpose()?;
    let tunnels = Tunnels::new(&config.tunnels)?;
    Ok(Judgement::new(tunnels, allowlist, config.rules.clone(), before))
}

/// What forwarding has, and observing has not.
struct Forwarding<'a> {
    egress: &'a str,
    /// Whose replies may come.
    flows: SharedReplies,
}

/// What runs.
struct Running {
    // In the order in which they have to go.
    workers: Vec<WorkerHandle>,
    /// Of each worker that takes packets out of tunnels, also when it has ended.
    io: Vec<Arc<IoCounters>>,
    guard: MirrorGuard,
    _instance: Instance,
    _awake: Option<Awake>,
    counts: Vec<Arc<Counts>>,
    replies: Option<Serving>,
    examples: Arc<Examples>,
    fixed: Fixed,
    backend: String,
    metrics: Option<HttpSocket>,
    begun: Instant,
}

impl Running {
    fn start<W: Way + Send + 'static>(
        args: &CaptureArgs,
        config: &Config,
        judgement: &Shared,
        forwarding: Option<Forwarding<'_>>,
        way: impl Fn() -> W,
        emitter: impl Fn() -> anyhow::Result<Emitter>,
    ) -> anyhow::Result<Self> {
        privilege::check()?;
        let leave_by = forwarding.as_ref().map(|to| [Some(to.egress), config.replies_egress.as_deref()]);
        for name in iter::once(config.interface.as_str()).chain(leave_by.into_iter().flatten().flatten()) {
            interface::by_name(name)?;
        }
        let instance = Instance::claim(&config.interface)?;
        let awake = config.awake.then(Awake::keep).transpose()?;
        let metrics = config.metrics.map(HttpSocket::bind).transpose()?;
        tell_programs(&config.interface);
        let ports: Vec<u16> = judgement.load().tunnels.ports().collect();
        ports.iter().try_for_each(|port| unused(*port))?;
        let choice = args.backend.unwrap_or(config.backend);
        let (captures, backend) = backend::open(choice, &config.interface, &ports, config.workers)?;
        let wanted = forwarding.as_ref().and_then(|_| Wanted::of(config));
        let replies = wanted.as_ref().map(Wanted::open).transpose()?;
        let egress = forwarding.as_ref().map(|to| Exit { interface: to.egress, mark: MIRROR_MARK });
        let exits: Vec<_> = egress.into_iter().chain(replies.as_ref().map(|opened| opened.exit())).collect();
        let claimed = replies.as_ref().map(|opened| opened.claimed());
        let guard = MirrorGuard::install(&config.interface, &ports, &exits, claimed)?;
        let counts: Vec<Arc<Counts>> = captures.iter().map(|_| Arc::default()).collect();
        let examples = Arc::<Examples>::default();
        let processor = |index| config.cpus.iter().cycle().nth(index).copied();
        let spawn =
            |(index, (captures, counts)): (usize, (Vec<Capture>, &Arc<Counts>))| -> anyhow::Result<_> {
                let options = WorkerOptions {
                    name: format!("packets-{index}"),
                    processor: processor(index),
                    realtime_priority: config.realtime_priority,
                    ..WorkerOptions::default()
                };
                Ok(Worker::spawn(
                    Pipeline::new(way(), Arc::clone(counts), Arc::clone(&examples)),
                    captures,
                    emitter()?,
                    None,
                    None,
                    &options,
                )?)
            };
        let mut workers: Vec<WorkerHandle> =
            captures.into_iter().zip(&counts).enumerate().map(spawn).collect::<Result<_, _>>()?;
        if config.realtime_priority.is_some() && !workers.iter().all(WorkerHandle::is_realtime) {
            tracing::warn!(
                "packet threads stay ordinary ones: a real-time priority takes CAP_SYS_NICE, or RLIMIT_RTPRIO (in a service's \
                 unit LimitRTPRIO, and no RestrictRealtime)"
            );
        }
        let io = workers.iter().map(|worker| Arc::clone(worker.stats())).collect();
        let serving = replies.zip(forwarding.as_ref());
        let serve = |(opened, to): (Opened<'_>, &Forwarding<'_>)| {
            opened.serve(to.flows.clone(), processor(counts.len()))
        };
        let (replies, worker) = serving.map(serve).transpose()?.unzip();
        workers.extend(worker);
        let fixed = Fixed::of(config, ports, wanted);
        Ok(Self {
            workers,
            io,
            guard,
            _instance: instance,
            _awake: awake,
            counts,
            replies,
            examples,
            fixed,
            backend,
            metrics,
            begun: Instant::now(),
        })
    }

    /// Serves until it is told to end, or for as long as `limit` says.
    fn serve(self, args: &CaptureArgs, judgement: &Shared, limit: Option<Duration>) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.look_after(args, judgement, limit))
    }

    async fn look_after(
        mut self,
        args: &CaptureArgs,
        judgement: &Shared,
        limit: Option<Duration>,
    ) -> anyhow::Result<()> {
        let mut hangup = signal(SignalKind::hangup()).context("cannot watch signals")?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot watch signals")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch signals")?;
        let mut ended = rtt0_daemon::ended(&self.workers).context("cannot watch the workers")?;
        let over = tokio::time::sleep(limit.unwrap_or(FOR_EVER));
        tokio::pin!(over);
        let mut second = tokio::time::interval(PERIOD);
        second.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut output = Output::new(args.json);
        let mut watchdog = Watchdog::default();
        let mut signs_of_life = rtt0_daemon::Watchdog::from_environment();
        let latest = Latest::default();
        if let Some(socket) = self.metrics.take() {
            tokio::spawn(metrics::serve(socket, Arc::clone(&latest)));
        }
        tracing::info!(
            interface = self.fixed.interface,
            ports = ?self.fixed.ports,
            backend = self.backend,
            guard = self.guard.table(),
            workers = self.counts.len(),
            replies = self.fixed.replies.as_ref().map(ToString::to_string),
            "ready"
        );
        manager::ready();
        loop {
            tokio::select! {
                _ = second.tick() => {
                    signs_of_life.look(|| rtt0_daemon::are_alive(&self.workers));
                    let snapshot = self.snapshot(judgement);
                    output.tell(&snapshot);
                    let trouble = watchdog.look(&snapshot);
                    *latest.lock().unwrap_or_else(PoisonError::into_inner) = snapshot;
                    if let Some(trouble) = trouble {
                        self.tell_trouble(trouble, judgement);
                    }
                }
                _ = hangup.recv() => self.fixed.reload(&args.config, judgement),
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = ended.recv() => break,
                () = &mut over => break,
            }
        }
        manager::stopping();
        self.finish(judgement, &mut output)
    }

    /// Looks at everything that is counted.
    fn snapshot(&mut self, judgement: &Shared) -> Snapshot {
        let strayed = self.guard.strayed().unwrap_or_else(|error| {
            tracing::warn!(%error, "the guard's counters can't be read");
            0
        });
        let mut snapshot = Snapshot {
            seconds: self.begun.elapsed().as_secs_f64(),
            backend: self.backend.clone(),
            strayed,
            rules: judgement.load().counts(),
            replies: self.replies.as_ref().map(Serving::look),
            ..Snapshot::default()
        };
        self.counts.iter().zip(&self.io).for_each(|(counts, io)| snapshot.add(counts, io));
        snapshot
    }

    /// Says what is wrong, with an example of what comes. That is looked for beside the loop.
    fn tell_trouble(&self, trouble: Trouble, judgement: &Shared) {
        let (interface, ports) = (self.fixed.interface.clone(), self.fixed.ports.clone());
        let (judgement, examples) = (judgement.load_full(), Arc::clone(&self.examples));
        tokio::task::spawn_blocking(move || {
            explain::tell(&trouble, &interface, &ports, &judgement, &examples)
        });
    }

    /// Has the workers serve what they have captured, and tells the last numbers.
    fn finish(mut self, judgement: &Shared, output: &mut Output) -> anyhow::Result<()> {
        self.workers.iter().for_each(WorkerHandle::stop);
        let outcomes: Vec<_> = self.workers.drain(..).map(WorkerHandle::join).collect();
        let mut last = self.snapshot(judgement);
        last.is_final = true;
        output.tell(&last);
        let (captured, sent, dropped) = (last.captured, last.sent, last.drops());
        tracing::info!(captured, sent, dropped, overflow = last.overflow, strayed = last.strayed, "stopped");
        outcomes.into_iter().collect::<Result<Vec<()>, _>>()?;
        Ok(())
    }
}

/// Makes sure that nobody else on this host takes what comes to a port: a VXLAN device, for example. It would get nothing
/// any more.
fn unused(port: u16) -> anyhow::Result<()> {
    match UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => bail!(
            "UDP port {port} is in use on this host, by a program or by a tunnel device (ss -lun; ip -d link show type vxlan), \
             and the mirror would take its packets away; remove that, or choose another port"
        ),
        // Any other failure is no sign of anybody.
        _ => Ok(()),
    }
}

/// Says which programs stand before the capture, for they may take packets away unseen.
fn tell_programs(interface: &str) {
    let programs = Links::here().and_then(|links| links.xdp_programs(interface));
    match programs {
        Ok(programs) => programs.iter().for_each(|id| {
            let name = program_name(*id).unwrap_or_default();
            tracing::warn!(
                interface,
                id,
                name,
                "an XDP program stands at the interface. What it drops or redirects is not seen here; remove \
                 a stale one with: ip link set dev {interface} xdp off"
            );
        }),
        Err(error) => tracing::warn!(interface, %error, "cannot see which programs stand at the interface"),
    }
}

/// `mirror check`: says what a configuration means.
///
/// # Errors
/// What is wrong with it.
pub fn check(args: &CheckArgs) -> anyhow::Result<()> {
    let config = Config::load(&args.config)?;
    if args.forwarding {
        config.forwarding()?;
    }
    let judgement = judgement(&config, None)?;
    let wanted = Wanted::of(&config);
    if let Some(wanted) = &wanted {
        // Whether they are too many. What addresses there are where it will run, nobody knows here.
        wanted.claimed(&[])?;
    }
    output::explain(&config, &judgement, wanted.as_ref());
    Ok(())
}
