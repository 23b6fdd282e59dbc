//! The run loop that joins captures, one engine and an emitter on an operating-system thread.
//!
//! ```text
//!  wait ──► receive a batch ──► engine, packet by packet ──► emit the batch ──► time-outs ──┐
//!   ▲         (per capture, in turn, until none has more)                                   │
//!   └───────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! It keeps the contract of [`rtt0_core::engine`], with one liberty: the outbox is emitted and
//! cleared once per batch and not once per packet, so that a batch costs one system call each
//! way. Order is as the contract has it: a forwarded packet, then what the engine appended while
//! it handled that packet, then the next. Buffers are reused only after the emitter is done. What
//! the engine has noted of flows is written down before: if the process is killed in between, a
//! packet is lost and sent again, and never is one sent whose flow nobody remembers.

use std::any::Any;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rtt0_core::engine::{Engine, Verdict};
use rtt0_core::gauges::{Gauges, SharedGauges};
use rtt0_core::notice::Notice;
use rtt0_core::offer::Keys;
use rtt0_core::packet::{Offload, Outbox};
use rtt0_core::survey::Page;
use rtt0_core::time::Instant;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::capture::{Capture, CaptureError};
use crate::clock;
use crate::counters::IoCounters;
use crate::emit::Emitter;
use crate::fast_path::{MARGIN, Served};
use crate::pace::Pace;
use crate::privilege::{self, Duty};
use crate::store::Store;
use crate::trace::{Trace, Tracer};

/// Batches taken from each capture in turn before time-outs and orders are looked at.
const ROUNDS: usize = 8;

/// Calls of [`Engine::handle_timeout`] before packets are looked at again.
const TIMEOUT_ROUNDS: usize = 16;

/// How long after a packet the captures are checked for drops and deleted interfaces.
const CHECK_PERIOD: Duration = Duration::from_secs(1);

/// How long queued packets are still served after the stop signal.
const DRAIN_TIME: Duration = Duration::from_millis(50);

/// Choices for a worker.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// Name of the thread; the kernel shows the first 15 bytes.
    pub name: String,
    /// SCHED_FIFO priority, 1 to 99 (sched(7)), or `None` for ordinary scheduling. Without
    /// CAP_SYS_NICE the thread stays ordinary; [`WorkerHandle::is_realtime`] tells.
    pub realtime_priority: Option<u8>,
    /// The processor it runs on, or `None` for any. One that does not exist is as none.
    pub processor: Option<usize>,
    /// Whom to tell what happens to single connections ([`Engine::notices`]), if anybody. What finds no room is
    /// counted.
    pub notices: Option<SyncSender<Notice>>,
    /// Where to tell what becomes of each packet, if anywhere. It costs some microseconds a packet.
    pub trace: Option<Trace>,
    /// For how long it looks for packets without sleeping before it waits for them. Zero spares the
    /// processor; a millisecond spares a packet the microseconds of waking up.
    pub busy_poll: Duration,
    /// For how long it lets packets gather when it has found none left, while 40 or more come in a millisecond, meanwhile too. Zero is
    /// never: then it waits for the next one. Who busy-polls wants each packet at once, so then it is never, too.
    pub gather: Duration,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        Self {
            name: "packets".to_owned(),
            realtime_priority: None,
            processor: None,
            notices: None,
            trace: None,
            busy_poll: Duration::ZERO,
            gather: Duration::ZERO,
        }
    }
}

/// A worker that could not start or has ended before it was stopped.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A capture has ended.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// A system call failed.
    #[error("{call} failed in a packet worker")]
    System {
        /// The call.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The engine or the loop panicked, which is a bug.
    #[error("a packet worker panicked: {0}; please report this")]
    Panicked(String),
}

/// The state of the loop. [`Worker::spawn`] moves it to a thread of its own.
#[derive(Debug)]
pub struct Worker<E> {
    engine: E,
    captures: Vec<Capture>,
    ready: Vec<bool>,
    emitter: Emitter,
    outbox: Outbox,
    /// What the engine answers to packets that were too big.
    notices: Outbox,
    plan: Vec<Step>,
    counters: Arc<IoCounters>,
    store: Option<Store>,
    served: Option<Served>,
    /// Flows were handed to the kernel, which leaves them to this worker until that has found its captures empty at
    /// this time or later.
    awaited: Option<Instant>,
    check_due: Option<Instant>,
    busy_poll: Duration,
    pace: Pace,
    notices_to: Option<SyncSender<Notice>>,
    tracer: Option<Tracer>,
    orders: mpsc::Receiver<Order>,
    wake: Arc<OwnedFd>,
    gauges: Arc<SharedGauges>,
    answered: Arc<AtomicUsize>,
}

/// What the owner wants.
enum Order {
    Stop,
    Rekey(Keys),
    StandBack(bool),
    Answer(usize),
    Survey { from: u32, reply: Reply },
}

/// Takes some of an engine's flows, and the time by the worker's clock.
type Reply = Box<dyn FnOnce(Page, Instant) + Send>;

/// One packet to emit at the end of a batch.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Packet `index` of the batch, with the offload state the engine left it in.
    Captured { index: usize, offload: Offload },
    /// Packet `0` of the outbox.
    Queued(usize),
}

impl<E: Engine + Send + 'static> Worker<E> {
    /// Starts the loop on a thread of its own, which keeps none of the caller's capabilities but what
    /// [`Duty::Packets`] needs, and returns once it runs. What the engine notes of
    /// flows is written to `store`, if there is one. How far it has come is told to `served`, if there is a single
    /// capture.
    ///
    /// # Errors
    /// [`WorkerError::System`] if the thread or its descriptors can't be made.
    pub fn spawn(
        engine: E,
        captures: Vec<Capture>,
        emitter: Emitter,
        store: Option<Store>,
        served: Option<Served>,
        options: &WorkerOptions,
    ) -> Result<WorkerHandle, WorkerError> {
        let system = |call| move |source| WorkerError::System { call, source };
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| system("eventfd")(e.into()))?;
        let wake = Arc::new(wake);
        let (order, orders) = mpsc::channel();
        let (ended, alive) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| system("pipe2")(e.into()))?;
        let counters = Arc::new(IoCounters::default());
        let (gauges, answered) = (Arc::new(SharedGauges::default()), Arc::new(AtomicUsize::new(0)));
        let gather = if options.busy_poll.is_zero() { options.gather } else { Duration::ZERO };
        let worker = Self {
            engine,
            ready: vec![false; captures.len()],
            check_due: captures.iter().any(Capture::is_suspect).then(|| clock::now() + CHECK_PERIOD),
            captures,
            emitter,
            outbox: Outbox::new(),
            notices: Outbox::new(),
            plan: Vec::new(),
            counters: Arc::clone(&counters),
            store,
            served,
            awaited: None,
            busy_poll: options.busy_poll,
            pace: Pace::new(clock::now(), gather),
            notices_to: options.notices.clone(),
            tracer: options.trace.clone().map(Tracer::new),
            orders,
            wake: Arc::clone(&wake),
            gauges: Arc::clone(&gauges),
            answered: Arc::clone(&answered),
        };
        let (started, start) = mpsc::sync_channel(1);
        let (priority, processor) = (options.realtime_priority, options.processor);
        let thread = thread::Builder::new()
            .name(options.name.clone())
            .spawn(move || {
                // Dropped when the thread ends in whatever way, which hangs up the other end.
                let _alive = alive;
                let is_realtime = prepare_thread(priority, processor);
                privilege::confine(Duty::Packets);
                // The owner waits for this; if it is gone there is nobody to tell.
                let _ = started.send(is_realtime);
                worker.run()
            })
            .map_err(system("clone"))?;
        let realtime = start.recv().unwrap_or(false);
        let asked = AtomicUsize::new(0);
        let thread = Some(thread);
        Ok(WorkerHandle { thread, order, wake, gauges, asked, answered, ended, counters, realtime })
    }
}

impl<E: Engine> Worker<E> {
    fn run(mut self) -> Result<(), WorkerError> {
        loop {
            let called = self.wait().map_err(|source| WorkerError::System { call: "ppoll", source })?;
            if called && self.obey() {
                self.finish();
                return Ok(());
            }
            for _ in 0..ROUNDS {
                let has_more = self.serve_each();
                self.pace.looked(clock::now());
                if !has_more {
                    break;
                }
            }
            self.handle_timeouts();
            self.engine.settle();
            self.note_awaited();
            self.gauges.set(self.engine.gauges());
            self.tell_notices();
            self.check()?;
        }
    }

    /// Does what the owner has ordered; returns whether that is to stop.
    fn obey(&mut self) -> bool {
        // Emptied before the orders are looked at, so that none is missed.
        let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Stop => return true,
                Order::Rekey(keys) => self.engine.rekey(keys),
                Order::StandBack(back) => self.engine.stand_back(back),
                Order::Answer(question) => self.answered.store(question, Ordering::Relaxed),
                Order::Survey { from, reply } => reply(self.engine.survey(from), clock::now()),
            }
        }
        false
    }

    /// Waits for a packet, a time-out or an order, ppoll(2). Returns whether there is an order.
    fn wait(&mut self) -> io::Result<bool> {
        let due = [self.engine.next_timeout(), self.check_due].into_iter().flatten().min();
        let mut polled: Vec<_> = self.captures.iter().map(|c| PollFd::new(c, PollFlags::IN)).collect();
        polled.push(PollFd::new(&*self.wake, PollFlags::IN));
        let mut asked = clock::now();
        let mut is_ready = false;
        if !self.ready.contains(&true)
            && let Some(pause) = self.pace.pause(asked)
        {
            thread::sleep(pause);
            asked = clock::now();
        }
        if self.awaited.is_some_and(|awaited| awaited < asked) || self.busy_poll > Duration::ZERO {
            is_ready = look(&mut polled, self.busy_poll, due)?;
            // Before it sleeps: the kernel waits to hear it.
            self.tell(&polled, asked);
            self.awaited = self.awaited.filter(|awaited| is_ready || *awaited >= asked);
        }
        if !is_ready {
            asked = clock::now();
            let due = [due, self.awaited].into_iter().flatten().min();
            // Durations too long for the kernel, like no due time, mean to wait for an event.
            let timeout = due.and_then(|due| Timespec::try_from(due - asked).ok());
            match poll(&mut polled, timeout.as_ref()) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        self.tell(&polled, asked);
        // Errors make a capture ready too: receiving tells what is wrong.
        for (ready, polled) in self.ready.iter_mut().zip(&polled) {
            *ready = !polled.revents().is_empty();
        }
        Ok(polled.last().is_some_and(|wake| !wake.revents().is_empty()))
    }

    /// Tells the kernel that the captures had nothing when they were polled, after `asked`; the last of `polled` is none.
    fn tell(&self, polled: &[PollFd<'_>], asked: Instant) {
        let (Some(served), Some((_, captures))) = (&self.served, polled.split_last()) else { return };
        let are_empty = captures.iter().all(|capture| capture.revents().is_empty());
        if are_empty && !self.captures.iter().any(Capture::has_gap) {
            served.tell(asked);
        }
    }

    /// Serves one batch of every capture that is ready; returns whether any may have more.
    fn serve_each(&mut self) -> bool {
        for index in 0..self.captures.len() {
            if self.ready[index] {
                self.ready[index] = self.serve(index);
            }
        }
        self.ready.contains(&true)
    }

    /// Receives, handles and emits one batch; returns whether the capture may have more.
    fn serve(&mut self, index: usize) -> bool {
        let capture = &mut self.captures[index];
        let asked = clock::now();
        let more = capture.receive(&self.counters);
        // Looked at now, for a gap may be closed a moment later.
        let is_all = self.served.is_some() && !more && !capture.has_gap();
        let now = clock::now();
        self.check_due.get_or_insert(now + CHECK_PERIOD);
        (0..self.engine.hear(now, &mut self.outbox)).for_each(|_| self.pace.count());
        self.plan.extend((0..self.outbox.len()).map(Step::Queued));
        self.engine.look_ahead(&mut (0..).map_while(|index| Some(capture.packet(index)?.0)));
        for (index, mut packet) in capture.packets_mut().enumerate() {
            self.pace.count();
            let queued = self.outbox.len();
            if let Some(tracer) = &mut self.tracer {
                tracer.before(packet.bytes, self.engine.counters());
            }
            let verdict = self.engine.handle(now, &mut packet, &mut self.outbox);
            if let Some(tracer) = &self.tracer {
                let made = (queued..).map_while(|index| Some(self.outbox.get(index)?.0));
                tracer.after(verdict, packet.bytes, made, self.engine.counters());
            }
            if verdict == Verdict::Forward {
                self.plan.push(Step::Captured { index, offload: packet.offload });
            }
            self.plan.extend((queued..self.outbox.len()).map(Step::Queued));
        }
        // From now on, and not from when all has left: the next look may be that after this batch.
        self.note_awaited();
        self.emit(now, Some(index));
        let has_come = self.captures[index].release();
        if let Some(served) = &self.served
            && is_all
        {
            served.tell(asked);
        }
        more || has_come
    }

    /// Notes if the kernel waits for this worker because of a flow that it has just got.
    fn note_awaited(&mut self) {
        if self.engine.is_waited_for() {
            self.awaited = Some(clock::now() + MARGIN);
        }
    }

    /// Emits what is planned, then what the engine answers to packets that were too big.
    fn emit(&mut self, now: Instant, capture: Option<usize>) {
        self.keep();
        let Self { engine, captures, emitter, outbox, notices, plan, counters, .. } = self;
        let capture = capture.and_then(|index| captures.get(index));
        let packets = plan.iter().filter_map(|step| match *step {
            Step::Captured { index, offload } => Some((capture?.packet(index)?.0, offload)),
            Step::Queued(index) => outbox.get(index),
        });
        emitter.send(packets, counters, |packet, mtu| engine.too_big(now, packet, mtu, notices));
        plan.clear();
        outbox.clear();
        if !notices.is_empty() {
            // No answer to an answer.
            emitter.send(notices.iter(), counters, |_, _| {});
            notices.clear();
        }
    }

    /// Passes on what has happened to single connections, or counts what nobody takes.
    fn tell_notices(&mut self) {
        let (Some(tell), Some(notices)) = (&self.notices_to, self.engine.notices()) else { return };
        let mut lost = 0;
        let missed = notices.take(|notice| lost += u64::from(tell.try_send(notice).is_err()));
        if lost + missed > 0 {
            self.counters.notices_lost.add(lost + missed);
        }
    }

    /// Writes down what the engine has noted.
    fn keep(&mut self) {
        let (Some(store), Some(journal)) = (&mut self.store, self.engine.journal()) else { return };
        for change in journal.drain() {
            let counter = match store.write(&change) {
                true => &self.counters.state_written,
                false => &self.counters.state_failed,
            };
            counter.add(1);
        }
    }

    fn handle_timeouts(&mut self) {
        let now = clock::now();
        for _ in 0..TIMEOUT_ROUNDS {
            if self.engine.next_timeout().is_none_or(|due| due > now) {
                break;
            }
            if let Some(tracer) = &mut self.tracer {
                tracer.begin(self.engine.counters());
            }
            self.engine.handle_timeout(now, &mut self.outbox);
            if let Some(tracer) = &self.tracer {
                tracer.due(self.outbox.iter().map(|(packet, _)| packet), self.engine.counters());
            }
            self.plan.extend((0..self.outbox.len()).map(Step::Queued));
            self.emit(now, None);
        }
    }

    /// Checks the captures if that is due.
    fn check(&mut self) -> Result<(), CaptureError> {
        let now = clock::now();
        if self.check_due.is_none_or(|due| due > now) {
            return Ok(());
        }
        for capture in &mut self.captures {
            capture.check(&self.counters)?;
        }
        let suspect = self.captures.iter().any(Capture::is_suspect);
        self.check_due = suspect.then_some(now + CHECK_PERIOD);
        Ok(())
    }

    /// Serves what is queued already, for [`DRAIN_TIME`] at most.
    fn finish(mut self) {
        let deadline = clock::now() + DRAIN_TIME;
        self.ready.fill(true);
        while self.serve_each() && clock::now() < deadline {}
        for capture in &mut self.captures {
            // A deleted interface no longer matters.
            let _ = capture.check(&self.counters);
        }
    }
}

/// A running worker. Dropping it stops the worker and waits for its end.
///
/// Its descriptor ([`AsFd`]) is a pipe that hangs up (POLLHUP) as soon as the worker has ended in
/// whatever way, so that the owner notices one that dies.
#[derive(Debug)]
pub struct WorkerHandle {
    thread: Option<JoinHandle<Result<(), WorkerError>>>,
    order: mpsc::Sender<Order>,
    wake: Arc<OwnedFd>,
    gauges: Arc<SharedGauges>,
    /// The last question, and the last that was answered.
    asked: AtomicUsize,
    answered: Arc<AtomicUsize>,
    ended: OwnedFd,
    counters: Arc<IoCounters>,
    realtime: bool,
}

impl WorkerHandle {
    /// Asks the worker to serve what is queued already and to end. Does not wait.
    pub fn stop(&self) {
        self.tell(Order::Stop);
    }

    /// Gives the engine new secrets. Does not wait.
    pub fn rekey(&self, keys: Keys) {
        self.tell(Order::Rekey(keys));
    }

    /// Has the engine begin no handshake from now on, or begin them again. Does not wait.
    pub fn stand_back(&self, back: bool) {
        self.tell(Order::StandBack(back));
    }

    /// Returns how full the engine's tables are ([`Engine::gauges`]), as of a moment ago.
    pub fn gauges(&self) -> Gauges {
        self.gauges.get()
    }

    /// Has the engine look at some of its flows ([`Engine::survey`]). `reply` gets them, and the time by the
    /// clock of their deadlines; it is called on the packet thread and must not wait. Does not wait. A worker that has
    /// ended drops `reply`.
    pub fn survey(&self, from: u32, reply: impl FnOnce(Page, Instant) + Send + 'static) {
        self.tell(Order::Survey { from, reply: Box::new(reply) });
    }

    /// Tells whether the worker has answered the question of the last call, and asks it another if so. Does not
    /// wait: a worker that goes round its loop has answered a moment later.
    pub fn is_alive(&self) -> bool {
        let asked = self.asked.load(Ordering::Relaxed);
        let is_alive = self.answered.load(Ordering::Relaxed) == asked;
        if is_alive {
            self.asked.store(asked.wrapping_add(1), Ordering::Relaxed);
            self.tell(Order::Answer(asked.wrapping_add(1)));
        }
        is_alive
    }

    fn tell(&self, order: Order) {
        // A worker that has ended has no use for it.
        let _ = self.order.send(order);
        // Fails only if the counter is full, that is, after 2^64 - 2 calls: it is signalled then.
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
    }

    /// Waits for the worker to end. It ends when it is stopped or fails.
    ///
    /// # Errors
    /// Why it ended without being stopped.
    pub fn join(mut self) -> Result<(), WorkerError> {
        self.wait_for_end()
    }

    /// Returns the worker's counters.
    pub fn stats(&self) -> &Arc<IoCounters> {
        &self.counters
    }

    /// Tells whether the thread runs under SCHED_FIFO.
    pub fn is_realtime(&self) -> bool {
        self.realtime
    }

    fn wait_for_end(&mut self) -> Result<(), WorkerError> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(panic)) => Err(WorkerError::Panicked(panic_message(&*panic))),
            None => Ok(()),
        }
    }
}

impl AsFd for WorkerHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }
}

impl Drop for WorkerHandle {
    fn drop(&mut self) {
        self.stop();
        // Whoever wants the result calls `join`.
        let _ = self.wait_for_end();
    }
}

/// Looks for events without sleeping, until there is one, `due` has come or `time` is over; returns
/// whether there is one.
fn look(polled: &mut [PollFd<'_>], time: Duration, due: Option<Instant>) -> io::Result<bool> {
    let end = clock::now() + time;
    let end = due.map_or(end, |due| due.min(end));
    loop {
        match poll(polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Ok(0) if clock::now() < end => std::hint::spin_loop(),
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Makes the calling thread wake up precisely, prctl(PR_SET_TIMERSLACK), and, if a priority is
/// given, run before ordinary threads, on one processor if that is given. Returns whether it runs
/// before them.
fn prepare_thread(priority: Option<u8>, processor: Option<usize>) -> bool {
    if let Some(processor) = processor.filter(|processor| *processor < CpuSet::MAX_CPU) {
        let mut set = CpuSet::new();
        set.set(processor);
        if let Err(error) = sched_setaffinity(None, &set) {
            tracing::warn!(processor, %error, "a packet worker can't be kept to its processor");
        }
    }
    // Refused by no kernel; without it time-outs come up to 50 µs late, no worse.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    priority.is_some_and(run_at)
}

/// Lets the calling thread run at a real-time `priority` (1–99), before all ordinary threads and
/// those of lower priority: sched_setscheduler(SCHED_FIFO), which needs CAP_SYS_NICE. Returns
/// whether that was allowed. Threads it starts are ordinary again.
pub fn run_at(priority: u8) -> bool {
    let parameters = libc::sched_param { sched_priority: priority.into() };
    // SAFETY: the pointer is to a sched_param that lives through the call; 0 is this thread.
    unsafe {
        libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const parameters) == 0
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").to_owned()
}
