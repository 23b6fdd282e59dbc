//! A forwarder as one would write it first: `pnet_datalink` captures on both devices, a raw socket
//! sends what was captured on its way, packet by packet. It changes nothing but the hop limit.
//!
//! The kernel must not forward the same packets, so its forwarding is switched off meanwhile. Frames
//! come without their offload state, so super-packets and partial checksums can't be carried: it
//! works where offloads are off.

use crate::address::{LAN0, WAN0};
use crate::bench::cpu;
use crate::host::Host;
use anyhow::{Context, bail};
use pnet_datalink::{Channel, Config, DataLinkReceiver, NetworkInterface};
use rtt0_core::wire::checksum;
use rtt0_netio::sysctl;
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const FORWARDING: &str = "net.ipv4.ip_forward";
/// Room for the largest frame.
const BUFFER: usize = 65_536;
/// How often a silent capture looks whether it is to stop.
const PATIENCE: Duration = Duration::from_millis(20);
/// Length of an Ethernet header.
const ETHERNET: usize = 14;
/// Kernel's name of IPv4 in an Ethernet header.
const IPV4: [u8; 2] = [0x08, 0x00];

/// The forwarder on one host. Dropping it lets the kernel forward again.
#[derive(Debug)]
pub struct Naive<'a> {
    host: &'a Host,
    stop: Arc<AtomicBool>,
    threads: Vec<(u32, JoinHandle<()>)>,
}

impl<'a> Naive<'a> {
    /// Starts a thread for each device.
    ///
    /// # Errors
    /// If a capture or socket can't be opened, or the kernel's forwarding can't be switched off.
    pub(super) fn start(host: &'a Host) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut naive = Self { host, stop: stop.clone(), threads: Vec::new() };
        for device in [LAN0, WAN0] {
            let stop = stop.clone();
            let started = host.enter(|| -> anyhow::Result<_> {
                let way = Way::open(device)?;
                let (told, thread_id) = std::sync::mpsc::sync_channel(1);
                let thread =
                    std::thread::Builder::new().name(format!("naive-{device}")).spawn(move || {
                        // The starter waits for it.
                        let _ = told.send(rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned());
                        way.run(&stop);
                    })?;
                Ok((thread_id.recv().context("a forwarding thread died")?, thread))
            })?;
            naive.threads.push(started.with_context(|| format!("can't forward from {device}"))?);
        }
        sysctl::set(host.namespace(), &[(FORWARDING, "0")])?;
        Ok(naive)
    }

    /// Returns the processor time of both threads.
    pub(super) fn processor_time(&self) -> Duration {
        self.threads.iter().filter_map(|(id, _)| cpu::of_thread(*id)).sum()
    }
}

impl Drop for Naive<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for (_, thread) in self.threads.drain(..) {
            // What a panic had to say was printed when it happened.
            let _ = thread.join();
        }
        if let Err(error) = sysctl::set(self.host.namespace(), &[(FORWARDING, "1")]) {
            eprintln!("{}: the kernel does not forward again: {error}", self.host.name());
        }
    }
}

/// One device's capture and the socket for what comes in there.
struct Way {
    receiver: Box<dyn DataLinkReceiver>,
    socket: Socket,
    mac: [u8; 6],
    own: Vec<Ipv4Addr>,
}

impl Way {
    /// Opens both in the calling thread's network namespace.
    fn open(device: &str) -> anyhow::Result<Self> {
        let links = pnet_datalink::interfaces();
        let link = links.iter().find(|link| link.name == device).context("no such device")?;
        let config = Config {
            read_buffer_size: BUFFER,
            read_timeout: Some(PATIENCE),
            promiscuous: false,
            ..Config::default()
        };
        let Channel::Ethernet(_, receiver) = pnet_datalink::channel(link, config)? else {
            bail!("pnet offers no Ethernet channel")
        };
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
        let mac = link.mac.context("the device has no MAC address")?.octets();
        Ok(Self { receiver, socket, mac, own: links.iter().flat_map(addresses).collect() })
    }

    fn run(mut self, stop: &AtomicBool) {
        let mut packet = Vec::with_capacity(BUFFER);
        while !stop.load(Ordering::Relaxed) {
            // An error is mostly the end of the patience.
            let Ok(frame) = self.receiver.next() else { continue };
            packet.clear();
            packet.extend_from_slice(frame);
            if let Some((packet, destination)) = passing(&mut packet, self.mac, &self.own) {
                // What the kernel does not take is lost, as on any router.
                let _ = self.socket.send_to(packet, &SocketAddr::new(destination.into(), 0).into());
            }
        }
    }
}

fn addresses(link: &NetworkInterface) -> impl Iterator<Item = Ipv4Addr> + '_ {
    link.ips.iter().filter_map(|network| match network.ip() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    })
}

/// Returns the IPv4 packet of a frame that is to be forwarded, with its hop limit lowered, and where
/// it goes. Frames that the host sent itself are captured as well; those and its own are left out.
fn passing<'a>(frame: &'a mut [u8], mac: [u8; 6], own: &[Ipv4Addr]) -> Option<(&'a [u8], Ipv4Addr)> {
    let (link, packet) = frame.split_at_mut_checked(ETHERNET)?;
    if link[6..12] == mac || link[..6] != mac || link[12..14] != IPV4 || packet.len() < 20 {
        return None;
    }
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    let destination = Ipv4Addr::new(packet[16], packet[17], packet[18], packet[19]);
    let header = usize::from(packet[0] & 0xf) * 4;
    if own.contains(&destination) || packet[8] <= 1 || !(20..=total).contains(&header) {
        return None;
    }
    let packet = packet.get_mut(..total)?;
    packet[8] -= 1;
    packet[10..12].fill(0);
    let sum = !checksum::sum(&packet[..header]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    Some((packet, destination))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn frame(to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 6, 0, 0, 10, 1, 0, 10, 10, 1, 2, 10];
        let sum = !checksum::sum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend([7; 8]);
        // Padding of a short Ethernet frame.
        packet.extend([0; 18]);
        [&to[..], &from[..], &IPV4[..], &packet[..]].concat()
    }

    #[test]
    fn what_passes_loses_a_hop_and_its_padding_and_keeps_a_right_checksum() {
        let mut frame = frame(MAC, [2, 0, 0, 0, 0, 9]);
        let (packet, destination) = passing(&mut frame, MAC, &[]).unwrap();
        assert_eq!((packet.len(), packet[8], destination), (28, 63, Ipv4Addr::new(10, 1, 2, 10)));
        assert_eq!(checksum::sum(&packet[..20]), 0xffff);
    }

    #[test]
    fn own_frames_and_frames_for_the_host_are_left_to_the_kernel() {
        let other = [2, 0, 0, 0, 0, 9];
        assert!(passing(&mut frame(other, MAC), MAC, &[]).is_none());
        assert!(passing(&mut frame(MAC, other), MAC, &[Ipv4Addr::new(10, 1, 2, 10)]).is_none());
        let mut old = frame(MAC, other);
        old[ETHERNET + 8] = 1;
        assert!(passing(&mut old, MAC, &[]).is_none());
        assert!(passing(&mut [0; 5], MAC, &[]).is_none());
    }
}
