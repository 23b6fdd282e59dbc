//! Places on the way into this host, for the far side's doctor and for answers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rtt0_netio::interface;
use rtt0_netio::links::Links;
use rtt0_netio::ruleset_dump::Point;
use rtt0_netio::sighting::{Direction, Hooks, Packets, Place, Tap};

use super::counts::Counts;
use super::{Protocol, Sighting, sighting};
use crate::check::firewall::grown;
use crate::finding::Layer;
use crate::look::firewall::Firewall;
use crate::look::programs::Programs;

/// How long the listener sleeps at most before it looks whether it is still wanted.
const NAP: Duration = Duration::from_millis(20);
/// How long after the last packet it may take until all places have seen it.
const SETTLE: Duration = Duration::from_millis(100);

/// Counters of the kernel's that say why packets get no further than routing, or than their transport protocol.
const ROUTING: [&str; 6] = [
    "TcpExt.IPReversePathFilter",
    "IpExt.InNoRoutes",
    "Ip.InAddrErrors",
    "Ip6InNoRoutes",
    "Ip6InAddrErrors",
    "Ip.ForwDatagrams",
];
const HEADERS: [&str; 4] = ["Ip.InHdrErrors", "IpExt.InCsumErrors", "Ip.InDiscards", "Ip6InHdrErrors"];
const UDP: [&str; 6] = [
    "Udp.NoPorts",
    "Udp.InCsumErrors",
    "Udp.RcvbufErrors",
    "Udp6NoPorts",
    "Udp6InCsumErrors",
    "Udp6RcvbufErrors",
];
const TCP: [&str; 3] = ["Tcp.InCsumErrors", "TcpExt.ListenOverflows", "TcpExt.ListenDrops"];

/// Watches what arrives.
#[derive(Debug)]
pub struct Watch {
    protocol: Protocol,
    interface: String,
    hooks: Result<Hooks, String>,
    /// Frames for this host, and frames for others.
    taps: [Result<Tap, String>; 2],
    listener: Option<Listener>,
    counts: Counts,
    firewall: Firewall,
}

impl Watch {
    /// Counts, at every place on the way in, what comes from `source` to `port` of this host. Where nobody listens there,
    /// this does, and sends datagrams back.
    ///
    /// # Errors
    /// In words, if it can count nowhere.
    pub fn start(protocol: Protocol, port: u16, source: IpAddr) -> Result<Self, String> {
        let source = source.to_canonical();
        let packets =
            Packets::of(source.is_ipv4(), protocol.number()).to_ports(&(port..=port)).from_address(source);
        let packets = match protocol {
            Protocol::Udp => packets,
            // Of a connection only its SYN.
            Protocol::Tcp => packets.with_flags(0x17, 0x02..=0x02),
        };
        let watch = Self::over(protocol, &packets, source, Listener::start(protocol, port, source).ok());
        match (&watch.hooks, &watch.taps[0]) {
            (Err(hooks), Err(tap)) if watch.listener.is_none() => Err(format!(
                "cannot count what arrives: {hooks} (netfilter, needs CAP_NET_ADMIN), {tap} (tap, needs CAP_NET_RAW), \
                 and port {port} is taken"
            )),
            _ => Ok(watch),
        }
    }

    /// Counts these packets, which come from `source`.
    pub(super) fn over(
        protocol: Protocol,
        packets: &Packets,
        source: IpAddr,
        listener: Option<Listener>,
    ) -> Self {
        let way = Links::here().ok().and_then(|links| links.way(source).ok());
        let index = way.as_ref().map_or(0, |way| way.device);
        let interface =
            interface::list().into_iter().find(|on| on.index == index).map(|on| on.name).unwrap_or_default();
        let tap = |direction| Tap::start(index, direction, packets).map_err(|error| error.to_string());
        Self {
            protocol,
            hooks: Hooks::start(packets, places(&interface)).map_err(|error| error.to_string()),
            taps: [Direction::Arriving, Direction::ForOthers].map(tap),
            interface,
            listener,
            counts: Counts::read(),
            firewall: Firewall::read(),
        }
    }

    /// Returns what was seen since, in the order of a packet's way.
    pub fn finish(mut self) -> Vec<Sighting> {
        thread::sleep(SETTLE);
        let listener = self.listener.take().map(Listener::stop);
        let now = Counts::read();
        let firewall = Firewall::read();
        let programs = Programs::read(std::slice::from_ref(&self.interface));
        let taps = self.taps.each_mut().map(|tap| tap.as_mut().ok().and_then(|tap| tap.count().ok()));
        let mut counts = match &mut self.hooks {
            Ok(hooks) => hooks.counts().unwrap_or_default(),
            Err(_) => Vec::new(),
        }
        .into_iter();
        let mut next = || counts.next().and_then(Result::ok);

        let interface = if self.interface.is_empty() { "any interface" } else { &self.interface };
        let bpf = |layer| -> Vec<String> {
            let on = programs.on(&self.interface);
            on.map(|on| on.suspects(layer).into_iter().map(|(words, _)| words).collect()).unwrap_or_default()
        };
        let rules = |layer| self.rules(&firewall, layer);
        let counters = |names: &[&str]| -> Vec<String> {
            let grown =
                names.iter().map(|name| (name, now.growth(&self.counts, name))).filter(|(_, more)| *more > 0);
            grown.map(|(name, more)| format!("{name} rose by {more}")).collect()
        };
        let xdp = bpf(Layer::Xdp);
        // Behind XDP; where nothing is attached there, what is missing has not come.
        let before_tap = if xdp.is_empty() { Layer::Path } else { Layer::Xdp };
        let all = taps[0].map(|own| own + taps[1].unwrap_or(0));
        let (socket, lost_at_socket) = match self.protocol {
            Protocol::Udp => ("received by the program", &UDP[..]),
            Protocol::Tcp => ("accepted by the program", &TCP[..]),
        };
        let places = vec![
            sighting(format!("tap of {interface}, arriving"), before_tap, all).suspecting(xdp),
            sighting(format!("tap of {interface}, addressed to this host"), Layer::Device, taps[0]),
            sighting(format!("netfilter ingress of {interface}, first"), Layer::TcIngress, next())
                .suspecting(bpf(Layer::TcIngress)),
            sighting(format!("netfilter ingress of {interface}, last"), Layer::NetdevIngress, next())
                .suspecting(rules(Layer::NetdevIngress)),
            sighting("netfilter prerouting, first", Layer::Ip, next()).suspecting(counters(&HEADERS)),
            sighting("netfilter prerouting, last", Layer::Prerouting, next())
                .suspecting(rules(Layer::Prerouting)),
            sighting("netfilter input, first", Layer::Routing, next()).suspecting(counters(&ROUTING)),
            sighting("netfilter input, last", Layer::Input, next()).suspecting(rules(Layer::Input)),
            sighting(socket, Layer::Transport, listener).suspecting(counters(lost_at_socket)),
        ];
        // Without an interface there are no hooks of one, and the others have moved up.
        if self.interface.is_empty() { without_device(places) } else { places }
    }

    /// Says which rules may have dropped there: those that have counted, or all.
    fn rules(&self, now: &Firewall, layer: Layer) -> Vec<String> {
        let at = |chain: &crate::look::firewall::BaseChain| chain.layer == layer;
        let counted: Vec<String> = grown(&self.firewall, now)
            .into_iter()
            .filter(|(chain, ..)| at(chain))
            .map(|(chain, suspect, more)| {
                format!("{}: {} ({more} packets)", chain.rule_title(suspect), suspect.text)
            })
            .collect();
        if !counted.is_empty() {
            return counted;
        }
        now.suspects(layer, &self.interface).flat_map(|chain| chain.suspects_in_words()).take(16).collect()
    }
}

/// Returns the hooks on the way in, in its order.
fn places(interface: &str) -> Vec<Place> {
    let device = |is_last| Place::at_device(Point::Ingress, is_last, interface);
    let mut places = if interface.is_empty() { Vec::new() } else { vec![device(false), device(true)] };
    for point in [Point::Prerouting, Point::Input] {
        places.extend([Place::at(point, false), Place::at(point, true)]);
    }
    places
}

/// Moves the counts of netfilter's hooks two places down, where they belong if none is at a device.
fn without_device(mut places: Vec<Sighting>) -> Vec<Sighting> {
    let counts: Vec<_> = places[2..6].iter().map(|place| place.packets).collect();
    for (place, count) in places[4..8].iter_mut().zip(counts) {
        place.packets = count;
    }
    places.drain(2..4);
    places
}

/// A program that listens at the port as long as it is watched.
#[derive(Debug)]
pub(super) struct Listener {
    is_wanted: Arc<AtomicBool>,
    taken: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    fn start(protocol: Protocol, port: u16, source: IpAddr) -> io::Result<Self> {
        let any: IpAddr =
            if source.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let address = SocketAddr::new(any, port);
        let (is_wanted, taken) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
        let state = (Arc::clone(&is_wanted), Arc::clone(&taken));
        let run: Box<dyn FnOnce() + Send> = match protocol {
            Protocol::Udp => {
                let socket = UdpSocket::bind(address)?;
                socket.set_read_timeout(Some(NAP))?;
                Box::new(move || answer_datagrams(&socket, source, &state.0, &state.1))
            }
            Protocol::Tcp => {
                let socket = TcpListener::bind(address)?;
                socket.set_nonblocking(true)?;
                Box::new(move || accept(&socket, source, &state.0, &state.1))
            }
        };
        let thread = thread::Builder::new().name("watch".to_owned()).spawn(run)?;
        Ok(Self { is_wanted, taken, thread: Some(thread) })
    }

    /// Ends it, and returns what it has received.
    fn stop(mut self) -> u64 {
        self.end();
        self.taken.load(Ordering::Relaxed)
    }

    fn end(&mut self) {
        self.is_wanted.store(false, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to say, not even by a panic.
            let _ = thread.join();
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.end();
    }
}

fn answer_datagrams(socket: &UdpSocket, source: IpAddr, is_wanted: &AtomicBool, taken: &AtomicU64) {
    let mut buffer = [0; 64];
    while is_wanted.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        if from.ip().to_canonical() == source {
            taken.fetch_add(1, Ordering::Relaxed);
            // Never more than has come, and whether it arrives is the other's to see.
            let _ = socket.send_to(&buffer[..length], from);
        }
    }
}

fn accept(socket: &TcpListener, source: IpAddr, is_wanted: &AtomicBool, taken: &AtomicU64) {
    while is_wanted.load(Ordering::Relaxed) {
        match socket.accept() {
            Ok((_, from)) if from.ip().to_canonical() == source => {
                taken.fetch_add(1, Ordering::Relaxed);
            }
            Ok(_) => {}
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_interface_the_hooks_of_devices_are_left_out() {
        let places = (0..9).map(|n| sighting(n.to_string(), Layer::Ip, Some(n * 10))).collect();
        let places = without_device(places);
        let seen: Vec<_> =
            places.iter().map(|place| (place.place.as_str(), place.packets.unwrap())).collect();
        let expected = [("0", 0), ("1", 10), ("4", 20), ("5", 30), ("6", 40), ("7", 50), ("8", 80)];
        assert_eq!(seen, expected);
    }
}
