//! The clients of a crowd: very many connections, one thread, no blocking call but epoll.
//!
//! In a closed loop so many connections are under way at any time, each that ends is followed by
//! another. In an open loop connections begin at a given rate, whatever became of those before. A
//! connection is over when the server has closed after its answer, or, if it is held, when the answer
//! is there.

use super::crowd_server::raise_descriptors;
use super::reply::{ANSWER, Then};
use crate::bench::cpu;
use crate::program::socket;
use anyhow::{Context, ensure};
use rustix::event::{Timespec, epoll};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// Descriptors that are not connections.
const SPARE: u64 = 200;
/// Events taken at a time.
const EVENTS: usize = 1024;
/// Connections begun in an open loop before answers are looked after.
const BURST: u32 = 64;

/// How connections follow one another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// So many at a time.
    Closed(u32),
    /// So many a second.
    Open(f64),
}

/// A crowd to let loose.
#[derive(Debug, Clone)]
pub struct Crowd {
    /// Where to.
    pub target: SocketAddr,
    /// Addresses to connect from, in turn.
    pub sources: Vec<IpAddr>,
    /// How connections follow one another.
    pub pace: Pace,
    /// Connections at most.
    pub total: u32,
    /// None begins later than this.
    pub duration: Duration,
    /// A connection that takes longer has failed.
    pub timeout: Duration,
    /// What the server does with it.
    pub then: Then,
}

/// What became of a crowd.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Connections begun.
    pub begun: u32,
    /// Connections that got their answer.
    pub completed: u32,
    /// Those that did not, by cause.
    pub failed: BTreeMap<String, u32>,
    /// Times to first byte of those that did, µs.
    pub first_bytes: Vec<f64>,
    /// From the first connection to the end of the last that was completed.
    pub elapsed: Duration,
    /// How far the open loop fell behind its schedule at worst.
    pub lag: Duration,
    /// Share of the time that the generator's thread used its processor. The kernel charges it with
    /// the forwarding of what it sends, where the kernel forwards.
    pub busy: f64,
    /// The connections, if they are held.
    pub held: Vec<TcpStream>,
}

impl Outcome {
    /// Returns how many failed.
    pub fn failures(&self) -> u32 {
        self.failed.values().sum()
    }

    /// Returns completed connections a second.
    pub fn rate(&self) -> f64 {
        f64::from(self.completed) / self.elapsed.as_secs_f64().max(1e-6)
    }
}

impl Crowd {
    /// Runs in the calling thread's network namespace, to its end.
    ///
    /// # Errors
    /// If this process may not have enough descriptors, or epoll fails.
    pub fn run(&self) -> anyhow::Result<Outcome> {
        let needed = match self.pace {
            Pace::Closed(_) if self.then == Then::Hold => self.total,
            Pace::Closed(concurrency) => concurrency,
            Pace::Open(_) => 0,
        };
        let descriptors = raise_descriptors();
        ensure!(
            descriptors >= u64::from(needed) + SPARE,
            "{needed} connections at once, but a process may have {descriptors} descriptors (ulimit -Hn)"
        );
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut run = Run {
            crowd: self,
            poll,
            request: self.then.request(),
            start: Instant::now(),
            members: Vec::new(),
            order: VecDeque::new(),
            under_way: 0,
            outcome: Outcome::default(),
        };
        let used = cpu::of_this_thread();
        run.go()?;
        let used = cpu::of_this_thread().saturating_sub(used);
        run.outcome.busy = used.as_secs_f64() / run.start.elapsed().as_secs_f64().max(1e-6);
        Ok(run.outcome)
    }
}

/// A connection under way.
struct Member {
    stream: TcpStream,
    began: Instant,
    /// Number of the connection: a descriptor is used for many.
    number: u32,
    sent: bool,
    read: usize,
}

struct Run<'a> {
    crowd: &'a Crowd,
    poll: OwnedFd,
    request: [u8; super::reply::REQUEST],
    start: Instant,
    /// By descriptor.
    members: Vec<Option<Member>>,
    /// Beginnings in order, for time-outs: number and descriptor.
    order: VecDeque<(Instant, u32, usize)>,
    under_way: u32,
    outcome: Outcome,
}

impl Run<'_> {
    fn go(&mut self) -> anyhow::Result<()> {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            self.begin_due();
            let is_over = self.is_over();
            if is_over && self.under_way == 0 {
                return Ok(());
            }
            let wait = Timespec::try_from(self.next_wait(is_over)).context("a wait too long")?;
            match epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut events), Some(&wait)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("epoll_wait"),
            }
            for event in events.drain(..) {
                self.go_on(event.data.u64() as usize);
            }
            self.expire();
        }
    }

    /// Tells whether no further connection begins.
    fn is_over(&self) -> bool {
        self.outcome.begun >= self.crowd.total || self.start.elapsed() >= self.crowd.duration
    }

    fn begin_due(&mut self) {
        let mut begun = 0;
        while !self.is_over() {
            match self.crowd.pace {
                Pace::Closed(concurrency) if self.under_way >= concurrency => return,
                // All at once, or answers would come faster than connections begin.
                Pace::Closed(_) => {}
                Pace::Open(_) if begun >= BURST => return,
                Pace::Open(rate) => {
                    let due = Duration::from_secs_f64(f64::from(self.outcome.begun) / rate);
                    let Some(late) = self.start.elapsed().checked_sub(due) else { return };
                    self.outcome.lag = self.outcome.lag.max(late);
                }
            }
            begun += 1;
            let number = self.outcome.begun;
            self.outcome.begun += 1;
            if let Err(error) = self.begin(number) {
                self.fail(format!("connecting: {error}"));
            }
        }
    }

    /// Returns how long there is nothing to do but to wait for answers.
    fn next_wait(&self, is_over: bool) -> Duration {
        let idle = Duration::from_millis(50);
        match self.crowd.pace {
            Pace::Closed(concurrency) if !is_over && self.under_way < concurrency => Duration::ZERO,
            Pace::Open(rate) if !is_over => {
                let due = Duration::from_secs_f64(f64::from(self.outcome.begun) / rate);
                due.saturating_sub(self.start.elapsed()).min(idle)
            }
            _ => idle,
        }
    }

    fn begin(&mut self, number: u32) -> io::Result<()> {
        let began = Instant::now();
        let target = self.crowd.target;
        let socket =
            Socket::new(Domain::for_address(target), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        if let Some(source) = self.crowd.sources.get(number as usize % self.crowd.sources.len().max(1)) {
            socket::choose_port_late(&socket)?;
            socket.bind(&SocketAddr::new(*source, 0).into())?;
        }
        match socket.connect(&target.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        let stream = TcpStream::from(socket);
        let index = usize::try_from(stream.as_raw_fd()).map_err(io::Error::other)?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&self.poll, &stream, epoll::EventData::new_u64(index as u64), flags)?;
        if self.members.len() <= index {
            self.members.resize_with(index + 1, || None);
        }
        self.members[index] = Some(Member { stream, began, number, sent: false, read: 0 });
        self.order.push_back((began, number, index));
        self.under_way += 1;
        Ok(())
    }

    fn go_on(&mut self, index: usize) {
        let Some(Some(member)) = self.members.get_mut(index) else { return };
        let progress = member.go_on(&self.request, self.crowd.then);
        if let Some(first_byte) = progress.first_byte {
            self.outcome.first_bytes.push(first_byte.as_secs_f64() * 1e6);
        }
        let Some(end) = progress.end else { return };
        let stream = self.members[index].take().map(|member| member.stream);
        self.under_way -= 1;
        match end {
            Ok(()) => {
                self.outcome.completed += 1;
                self.outcome.elapsed = self.start.elapsed();
                if self.crowd.then == Then::Hold {
                    self.outcome.held.extend(stream);
                }
            }
            Err(error) => self.fail(error.to_string()),
        }
    }

    fn expire(&mut self) {
        while let Some((began, number, index)) = self.order.front().copied() {
            let is_it = |member: &Option<Member>| member.as_ref().is_some_and(|m| m.number == number);
            let lives = self.members.get(index).is_some_and(is_it);
            if lives && began.elapsed() < self.crowd.timeout {
                return;
            }
            self.order.pop_front();
            if lives {
                self.members[index] = None;
                self.under_way -= 1;
                self.fail("timed out".to_owned());
            }
        }
    }

    fn fail(&mut self, cause: String) {
        *self.outcome.failed.entry(cause).or_default() += 1;
    }
}

/// What an event meant for a connection.
#[derive(Default)]
struct Progress {
    first_byte: Option<Duration>,
    end: Option<io::Result<()>>,
}

impl Member {
    fn go_on(&mut self, request: &[u8], then: Then) -> Progress {
        let mut progress = Progress::default();
        let outcome = self.exchange(request, then, &mut progress.first_byte);
        progress.end = match outcome {
            Ok(()) => Some(Ok(())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => Some(Err(error)),
        };
        progress
    }

    /// Goes as far as it can: `WouldBlock` if not yet to the end.
    fn exchange(&mut self, request: &[u8], then: Then, first_byte: &mut Option<Duration>) -> io::Result<()> {
        if !self.sent {
            if let Some(error) = self.stream.take_error()? {
                return Err(error);
            }
            match self.stream.write(request) {
                Ok(count) if count == request.len() => self.sent = true,
                Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
                // Not connected yet.
                Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Err(error) => return Err(error),
            }
        }
        let mut buffer = [0; 2 * ANSWER];
        loop {
            let count = self.stream.read(&mut buffer)?;
            if self.read == 0 && count > 0 {
                *first_byte = Some(self.began.elapsed());
            }
            self.read += count;
            match (count, self.read) {
                (0, ANSWER) => return Ok(()),
                (0, read) => {
                    let said = format!("closed after {read} of {ANSWER} bytes");
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, said));
                }
                (_, ANSWER) if then == Then::Hold => return Ok(()),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::reply::REQUEST;
    use super::*;
    use std::net::TcpListener;

    /// Answers `count` connections on a thread, of which every third is closed without an answer.
    fn serve(count: u32) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for number in 1..=count {
                let (mut stream, _) = listener.accept().unwrap();
                stream.read_exact(&mut [0; REQUEST]).unwrap();
                if number % 3 > 0 {
                    stream.write_all(&[b'a'; ANSWER]).unwrap();
                }
            }
        });
        address
    }

    fn crowd(target: SocketAddr, pace: Pace, total: u32) -> Crowd {
        Crowd {
            target,
            sources: vec![[127, 0, 0, 1].into(), [127, 0, 0, 2].into()],
            pace,
            total,
            duration: Duration::from_secs(20),
            timeout: Duration::from_secs(10),
            then: Then::Close,
        }
    }

    #[test]
    fn every_connection_is_completed_or_failed_with_its_cause() {
        for pace in [Pace::Closed(1), Pace::Closed(5), Pace::Open(1_000.0)] {
            let outcome = crowd(serve(9), pace, 9).run().unwrap();
            assert_eq!((outcome.begun, outcome.completed, outcome.failures()), (9, 6, 3), "{pace:?}");
            assert_eq!(outcome.first_bytes.len(), 6);
            assert!(outcome.failed.keys().all(|cause| cause.contains("0 of 128")), "{:?}", outcome.failed);
        }
    }

    #[test]
    fn refused_and_silent_servers_are_failures_not_errors() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(crowd(closed, Pace::Closed(2), 4).run().unwrap().failures(), 4);
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let timeout = Duration::from_millis(60);
        let crowd = Crowd { timeout, ..crowd(silent.local_addr().unwrap(), Pace::Closed(3), 3) };
        let outcome = crowd.run().unwrap();
        assert_eq!(outcome.failed.get("timed out"), Some(&3));
    }
}
