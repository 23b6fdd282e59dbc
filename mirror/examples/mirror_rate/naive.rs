//! What one writes first: one thread, one packet a system call, a set of addresses, checksums added up anew.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use pnet_datalink::{Channel, Config, DataLinkReceiver};
use socket2::{Domain, Protocol, Socket, Type};

use crate::load;
use crate::rig::crafted::FIELD_PORT;
use crate::rig::site::{ANALYSER, Site};

/// The name of its thread.
pub(crate) const THREAD: &str = "naive";
/// Ethernet, IPv4, UDP, VXLAN, Ethernet.
const TO_INNER: usize = 14 + 20 + 8 + 8 + 14;

/// The running loop.
pub(crate) struct Naive {
    done: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    // Else the kernel would answer each packet with an ICMP error.
    _unread: UdpSocket,
}

impl Naive {
    pub(crate) fn start(site: &Site, allowed: &[IpAddr]) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let allowed: HashSet<IpAddr> = allowed.iter().copied().collect();
        let end = Arc::clone(&done);
        let start = || {
            let unread = UdpSocket::bind("10.50.0.1:4789").unwrap();
            let link = pnet_datalink::interfaces().into_iter().find(|link| link.name == "in0").unwrap();
            let config = Config { read_timeout: Some(Duration::from_millis(50)), ..Config::default() };
            let Channel::Ethernet(_, receiver) = pnet_datalink::channel(&link, config).unwrap() else {
                unreachable!("an AF_PACKET channel is an Ethernet channel")
            };
            let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).unwrap();
            raw.set_header_included_v4(true).unwrap();
            raw.bind_device(Some(b"out0")).unwrap();
            let work = move || run(receiver, &raw, &allowed, &end);
            (std::thread::Builder::new().name(THREAD.to_owned()).spawn(work).unwrap(), unread)
        };
        let (thread, unread) = site.middle.enter(start).unwrap();
        Self { done, thread, _unread: unread }
    }

    pub(crate) fn end(self) {
        self.done.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

fn run(mut receiver: Box<dyn DataLinkReceiver>, raw: &Socket, allowed: &HashSet<IpAddr>, done: &AtomicBool) {
    load::stay_on(load::MEASURED);
    let to = SocketAddr::from((ANALYSER, 0)).into();
    while !done.load(Ordering::Relaxed) {
        // A time-out.
        let Ok(frame) = receiver.next() else { continue };
        let Some(mut packet) = inner(frame, allowed) else { continue };
        translate(&mut packet);
        let _ = raw.send_to(&packet, &to);
    }
}

/// Copies the inner packet out of the tunnel if it is an allowed one's to the field's port.
fn inner(frame: &[u8], allowed: &HashSet<IpAddr>) -> Option<Vec<u8>> {
    let is_tunnel = frame.get(12..14)? == [0x08, 0x00]
        && *frame.get(23)? == 17
        && frame.get(36..38)? == 4789u16.to_be_bytes()
        && frame.get(46..49)? == [0, 0, 1];
    let packet = frame.get(TO_INNER..)?;
    let source = Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(12..16)?).ok()?);
    let is_wanted = *packet.first()? == 0x45
        && *packet.get(9)? == 17
        && packet.get(22..24)? == FIELD_PORT.to_be_bytes()
        && allowed.contains(&source.into());
    (is_tunnel && is_wanted).then(|| packet.to_vec())
}

fn translate(packet: &mut [u8]) {
    packet[8] -= 1;
    packet[16..20].copy_from_slice(&ANALYSER.octets());
    packet[22..24].copy_from_slice(&8081u16.to_be_bytes());
    packet[10..12].fill(0);
    let header = !sum(&packet[..20], 0);
    packet[10..12].copy_from_slice(&header.to_be_bytes());
    packet[26..28].fill(0);
    let pseudo = sum(&packet[12..20], 17 + (packet.len() - 20) as u32);
    let upper = !sum(&packet[20..], pseudo.into());
    packet[26..28].copy_from_slice(&upper.to_be_bytes());
}

fn sum(bytes: &[u8], start: u32) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b)));
    let mut sum = start + words.sum::<u32>();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}
