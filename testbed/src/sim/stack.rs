//! A host with smoltcp for its TCP.

use super::connection::{Connections, Host, Reuse, Stance};
use super::script::Fate;
use super::wire::{Addresses, Wire, patch, ports, tcp};
use rtt0_core::packet::Offload;
use rtt0_core::service::Direction;
use rtt0_core::time::Instant;
use rtt0_core::wire::options::kind;
use rtt0_core::wire::segment::Segment;
use rtt0_core::wire::tcp::Flags;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};
use std::cell::Cell;
use std::collections::VecDeque;
use std::net::IpAddr;

thread_local! {
    /// smoltcp asks a plain function for the TSval, so the clock has to stand somewhere.
    static TSVAL: Cell<u32> = const { Cell::new(0) };
}

fn tsval() -> u32 {
    TSVAL.get()
}

/// Packets the link takes at a time, as a network card's queue does: smoltcp can go on for ever.
const ROOM: usize = 256;

/// The link between smoltcp and the simulator.
#[derive(Debug)]
struct Link {
    received: VecDeque<Vec<u8>>,
    sent: Vec<Vec<u8>>,
    mtu: usize,
}

struct Received(Vec<u8>);
struct Room<'a>(&'a mut Vec<Vec<u8>>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut bytes = vec![0; length];
        let result = f(&mut bytes);
        self.0.push(bytes);
        result
    }
}

impl Device for Link {
    type RxToken<'a> = Received;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Received, Room<'_>)> {
        if self.sent.len() >= ROOM {
            return None;
        }
        Some((Received(self.received.pop_front()?), Room(&mut self.sent)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Room<'_>> {
        (self.sent.len() < ROOM).then_some(Room(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

/// A socket and the connection it serves.
#[derive(Debug)]
struct Live {
    handle: SocketHandle,
    connection: Option<usize>,
    /// The listener's stance, or its connection's.
    stance: Stance,
    ports: (u16, u16),
}

/// smoltcp draws its ISN; here it is moved to where the plan wants it, as a network card could.
#[derive(Debug, Clone, Copy)]
struct Shift {
    ports: (u16, u16),
    drawn: u32,
    shift: u32,
}

/// The host.
pub(super) struct Stack {
    /// Which way it sends.
    to: Direction,
    addresses: Addresses,
    interface: Interface,
    link: Link,
    sockets: SocketSet<'static>,
    live: Vec<Live>,
    shifts: Vec<Shift>,
    listening: bool,
    /// How the next connection is accepted.
    expected: Option<Stance>,
    next: Option<Instant>,
    /// Its TSval at the origin of time.
    clock: u32,
}

impl Stack {
    /// Makes the client's host (`to` is [`Direction::ToServer`]) or the server's. `mtu` in bytes,
    /// `clock` its TSval at the origin of time.
    pub(super) fn new(to: Direction, addresses: Addresses, mtu: usize, clock: u32, seed: u64) -> Self {
        let mut link = Link { received: VecDeque::new(), sent: Vec::new(), mtu };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut link, smoltcp::time::Instant::ZERO);
        let own = match to {
            Direction::ToServer => addresses.client,
            Direction::ToClient => addresses.server,
        };
        interface.update_ip_addrs(|list| {
            // The list has room for two.
            let _ = list.push(IpCidr::new(IpAddress::from(own), 0));
        });
        Self {
            to,
            addresses,
            interface,
            link,
            sockets: SocketSet::new(Vec::new()),
            live: Vec::new(),
            shifts: Vec::new(),
            listening: true,
            expected: None,
            next: None,
            clock,
        }
    }

    fn set_clock(&self, now: Instant) {
        TSVAL.set(self.clock.wrapping_add((now.as_micros() / 1000) as u32));
    }

    fn socket(&mut self, stance: &Stance) -> Socket<'static> {
        let receive = SocketBuffer::new(vec![0; stance.buffer as usize]);
        let mut socket = Socket::new(receive, SocketBuffer::new(vec![0; 16 * 1024]));
        socket.set_tsval_generator(stance.timestamps.then_some(tsval));
        socket.set_ack_delay(stance.sack.then_some(smoltcp::time::Duration::from_millis(10)));
        socket
    }

    /// Keeps one socket in LISTEN on port 80 as long as connections are accepted.
    fn listen(&mut self) {
        let Some(stance) = self.expected.filter(|_| self.listening) else { return };
        if self.live.iter().any(|live| live.connection.is_none()) {
            return;
        }
        let mut socket = self.socket(&stance);
        if socket.listen(80).is_ok() {
            let handle = self.sockets.add(socket);
            self.live.push(Live { handle, connection: None, stance, ports: (0, 80) });
        }
    }

    /// Two things that smoltcp does not do for a SYN with the ports of a connection it has.
    fn make_way(&mut self, (client_port, server_port, isn): (u16, u16, u32), all: &Connections) {
        let newer = all.of_syn(client_port, server_port, isn);
        let sockets = &mut self.sockets;
        // It never answers the SYN that follows an older connection (RFC 9293 §3.10.7.4, RFC 6191);
        // the scripted peer does it by the book.
        self.live.retain(|live| {
            let older = live.ports == (client_port, server_port)
                && live.connection.is_some_and(|old| newer.is_some_and(|newer| old < newer));
            if older {
                sockets.remove(live.handle);
            }
            !older
        });
        let mut same = self.live.iter().filter(|live| live.ports == (client_port, server_port));
        if same.any(|live| live.connection.is_some() && sockets.get::<Socket<'_>>(live.handle).is_open()) {
            // It asks its sockets in order of their slots: a listener in front would take the
            // repeated SYN of a connection that another has accepted.
            self.close_listener();
        }
    }

    fn close_listener(&mut self) {
        self.live.retain(|live| {
            if live.connection.is_none() {
                self.sockets.remove(live.handle);
            }
            live.connection.is_some()
        });
    }

    /// A listening socket that has met a SYN serves that SYN's connection.
    fn accept(&mut self, syn: (u16, u16, u32), all: &mut Connections) {
        let sockets = &self.sockets;
        let met = |live: &&mut Live| {
            live.connection.is_none() && sockets.get::<Socket<'_>>(live.handle).state() == State::SynReceived
        };
        let Some(live) = self.live.iter_mut().find(met) else { return };
        let (client_port, server_port, isn) = syn;
        if let Some(connection) = all.of_syn(client_port, server_port, isn) {
            all.accepts(connection);
            live.stance.isn = all.list[connection].isn_of_attempt();
            live.connection = Some(connection);
            live.ports = (client_port, server_port);
        }
    }

    fn shift_of(&self, ports: (u16, u16)) -> u32 {
        self.shifts.iter().rev().find(|shift| shift.ports == ports).map_or(0, |shift| shift.shift)
    }

    /// Moves the host's own sequence numbers to where they are wanted; a SYN decides how far.
    fn move_out(&mut self, bytes: &mut [u8]) {
        let Some(view) = tcp(bytes) else { return };
        let key = ports(&view, self.to);
        let (drawn, is_syn) = (view.sequence(), view.flags().contains(Flags::SYN));
        if is_syn && !self.shifts.iter().any(|shift| (shift.ports, shift.drawn) == (key, drawn)) {
            let wanted = self.live.iter().rev().find(|live| live.ports == key && live.connection.is_some());
            let shift = wanted.map_or(0, |live| live.stance.isn.wrapping_sub(drawn));
            self.shifts.push(Shift { ports: key, drawn, shift });
        }
        let shift = self.shift_of(key);
        patch(bytes, Offload::default(), |segment| {
            segment.set_sequence(segment.tcp().sequence().wrapping_add(shift));
        });
    }

    fn move_in(&self, bytes: &mut [u8]) {
        let Some(view) = tcp(bytes) else { return };
        let incoming = match self.to {
            Direction::ToServer => Direction::ToClient,
            Direction::ToClient => Direction::ToServer,
        };
        let shift = self.shift_of(ports(&view, incoming));
        if shift != 0 && view.flags().contains(Flags::ACK) {
            patch(bytes, Offload::default(), |segment| {
                segment.set_acknowledgement(segment.tcp().acknowledgement().wrapping_sub(shift));
                move_sack(segment, shift);
            });
        }
    }

    fn poll(&mut self, now: Instant) {
        self.interface.poll(time(now), &mut self.link, &mut self.sockets);
    }

    /// Lets the applications read, write and close. Returns whether TCP may have to say something.
    fn serve(&mut self, now: Instant, all: &mut Connections) -> bool {
        let mut changed = false;
        for live in &mut self.live {
            let Some(connection) = live.connection else { continue };
            let socket = self.sockets.get_mut::<Socket<'_>>(live.handle);
            if socket.state() == State::Listen {
                // A reset in SYN-RECEIVED.
                live.connection = None;
                continue;
            }
            let incoming =
                if self.to == Direction::ToServer { Direction::ToClient } else { Direction::ToServer };
            let app = all.list[connection].app(incoming);
            match use_socket(now, socket, app) {
                Ok(used) => changed |= used,
                Err(wrong) => all.wrong_bytes(connection, incoming, wrong),
            }
        }
        self.live.retain(|live| {
            let socket = self.sockets.get::<Socket<'_>>(live.handle);
            // A closed socket that still knows its peer has a reset to send.
            // What it received is still to be read.
            let over =
                socket.state() == State::Closed && socket.remote_endpoint().is_none() && !socket.can_recv();
            if over && live.connection.is_some() {
                self.sockets.remove(live.handle);
            }
            !over || live.connection.is_none()
        });
        changed
    }
}

/// Does what the application wants of its socket; returns whether anything was done.
fn use_socket(
    now: Instant,
    socket: &mut Socket<'_>,
    app: &mut super::script::App,
) -> Result<bool, super::script::WrongBytes> {
    let mut used = false;
    let state = socket.state();
    if app.fate == Fate::Waiting && socket.may_send() {
        app.fate = Fate::Open;
        if let Some(interval) = app.script.keepalive {
            socket.set_keep_alive(Some(interval.into()));
        }
    }
    // smoltcp throws away what has not been read when TIME-WAIT ends.
    while (app.reads(now) || state == State::TimeWait) && socket.can_recv() {
        let taken = socket.recv(|data| (data.len(), app.take(data)));
        used = true;
        if let Ok(result) = taken {
            result?;
        }
    }
    if matches!(state, State::CloseWait | State::LastAck | State::Closing | State::TimeWait)
        && !socket.can_recv()
    {
        app.finished = true;
    }
    while socket.can_send() {
        let run = app.next_run(now, socket.send_capacity() - socket.send_queue());
        let Ok(written) = socket.send_slice(run) else { break };
        if written == 0 {
            break;
        }
        app.written += written as u32;
        used = true;
    }
    if app.wants_abort() {
        socket.abort();
        app.fate = Fate::Gone;
        return Ok(true);
    }
    if app.wants_close() && matches!(state, State::Established | State::CloseWait) {
        socket.close();
        used = true;
    }
    if socket.state() == State::Closed && matches!(app.fate, Fate::Waiting | Fate::Open) {
        let closed = (app.finished || socket.can_recv()) && app.wants_close();
        app.fate = if closed { Fate::Closed } else { Fate::Reset };
    }
    if socket.state() == State::TimeWait && app.fate == Fate::Open {
        app.fate = Fate::Closed;
    }
    Ok(used)
}

impl Host for Stack {
    fn connect(&mut self, now: Instant, connection: usize, all: &mut Connections) {
        let plan = &all.list[connection].plan;
        let stance = plan.client_stance;
        let mut socket = self.socket(&stance);
        let remote: IpAddr = self.addresses.server;
        self.set_clock(now);
        if socket.connect(self.interface.context(), (remote, plan.server_port), plan.client_port).is_ok() {
            let handle = self.sockets.add(socket);
            let ports = (plan.client_port, plan.server_port);
            self.live.push(Live { handle, connection: Some(connection), stance, ports });
            self.next = Some(now);
        }
    }

    fn expect(&mut self, connection: usize, all: &Connections) {
        self.expected = Some(all.list[connection].plan.server_stance);
        self.close_listener();
        self.listen();
    }

    fn clear(&mut self, ports: (u16, u16), reuse: Reuse) {
        let sockets = &mut self.sockets;
        self.live.retain(|live| {
            let old = live.ports == ports && live.connection.is_some();
            if old && reuse == Reuse::Abort {
                sockets.get_mut::<Socket<'_>>(live.handle).abort();
            } else if old {
                sockets.remove(live.handle);
            }
            !old || reuse == Reuse::Abort
        });
        // Its reset goes out before the new SYN.
        self.next = Some(Instant::ZERO);
    }

    fn set_listening(&mut self, listening: bool) {
        self.listening = listening;
        self.close_listener();
        self.listen();
    }

    fn deliver(&mut self, now: Instant, bytes: &mut [u8], all: &mut Connections) {
        let syn = tcp(bytes).filter(|view| view.flags().is_syn()).map(|view| {
            let (client, server) = ports(&view, Direction::ToServer);
            (client, server, view.sequence())
        });
        self.move_in(bytes);
        self.link.received.push_back(bytes.to_vec());
        self.set_clock(now);
        if let Some(syn) = syn {
            self.make_way(syn, all);
        }
        self.poll(now);
        if let Some(syn) = syn.filter(|_| self.to == Direction::ToClient) {
            self.accept(syn, all);
            self.listen();
        }
        self.next = Some(now);
    }

    fn work(&mut self, now: Instant, all: &mut Connections, out: &mut Vec<Wire>) {
        self.set_clock(now);
        // Reading opens the window, which lets TCP send, which makes room to write.
        for _ in 0..4 {
            if !self.serve(now, all) {
                break;
            }
            self.poll(now);
        }
        self.poll(now);
        self.listen();
        for mut bytes in std::mem::take(&mut self.link.sent) {
            self.move_out(&mut bytes);
            out.push(Wire { bytes, offload: Offload::default(), spoiled: false });
        }
        let timer = self.interface.poll_at(time(now), &self.sockets);
        let timer = timer.map(|at| Instant::from_micros(at.total_micros().max(0) as u64));
        let incoming = if self.to == Direction::ToServer { Direction::ToClient } else { Direction::ToServer };
        let wakes = self.live.iter().filter_map(|live| all.list[live.connection?].app(incoming).wake(now));
        // It has just been asked: what it says it would do at once it can't.
        let soonest = now + std::time::Duration::from_millis(100);
        let timer = timer.map(|at| if at <= now { soonest } else { at });
        self.next = wakes.chain(timer).min().map(|at| at.max(now + std::time::Duration::from_millis(1)));
    }

    fn next(&self) -> Option<Instant> {
        self.next
    }
}

fn time(now: Instant) -> smoltcp::time::Instant {
    smoltcp::time::Instant::from_micros(now.as_micros() as i64)
}

/// SACK blocks acknowledge too.
fn move_sack(segment: &mut Segment<'_>, shift: u32) {
    let mut edges = Vec::new();
    for option in segment.tcp().options().map_while(Result::ok).filter(|option| option.kind == kind::SACK) {
        for (index, edge) in option.value.chunks_exact(4).enumerate() {
            let number = u32::from_be_bytes([edge[0], edge[1], edge[2], edge[3]]);
            edges.push((option.offset + 2 + index * 4, number.wrapping_sub(shift)));
        }
    }
    for (at, number) in edges {
        segment.patch_options(at, &number.to_be_bytes());
    }
}
