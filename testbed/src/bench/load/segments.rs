//! Segments of established connections, sent at a given rate without any TCP behind them.

use crate::address::ETH0;
use crate::bench::site::Site;
use crate::host::Host;
use crate::program::{realtime, socket};
use crate::wan::{Ear, PacketSocket, VNET_HEADER};
use anyhow::{Context, bail, ensure};
use rtt0_core::packet::Offload;
use rtt0_netio::counters::IoCounters;
use rtt0_netio::emit::Emitter;
use rtt0_netio::links::Links;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Length of an Ethernet header.
const ETHERNET: usize = 14;
/// Most packets handed to the kernel at a time.
const BURST: usize = 32;
/// Time between two bursts at low rates.
const TICK: Duration = Duration::from_micros(250);
/// Until packets under way have arrived or are lost.
const SETTLE: Duration = Duration::from_millis(40);
/// Longest a recorded segment may be waited for.
const PATIENCE: Duration = Duration::from_millis(150);
/// Bound of the exchange that establishes a connection.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Segments to make copies of, with the deaf sockets that take them.
#[derive(Debug)]
pub struct Mould {
    packets: Vec<Vec<u8>>,
    _deaf: Vec<TcpStream>,
}

impl Mould {
    /// Establishes connections and records of each a segment with `payload` bytes.
    ///
    /// # Errors
    /// If a connection fails, its segment isn't seen, or a socket can't be made deaf or forgotten
    /// (which needs CAP_NET_ADMIN).
    pub fn cast(site: &Site<'_>, flows: u16, payload: usize) -> anyhow::Result<Self> {
        let topology = site.topology;
        let (client, server) = (&topology.client, &topology.server);
        let listener = server.enter(|| TcpListener::bind(site.server()))?.context("can't listen")?;
        let index = Links::open(client.namespace())?.index(ETH0)?;
        let ear = PacketSocket::open(client.namespace(), index, Ear::Both).context("can't listen at eth0")?;
        let mut mould = Self { packets: Vec::new(), _deaf: Vec::new() };
        let target = site.target();
        // The first connections teach the NICs the destination; they are not copied.
        for number in 0..flows + 3 {
            let (near, far) = client.enter(|| establish(target, &listener))?.context("can't connect")?;
            if number < 3 {
                continue;
            }
            let local = near.local_addr()?;
            // Acknowledgements of the exchange are on their way still.
            std::thread::sleep(Duration::from_millis(3));
            while ear.receive(&mut [0; 128]).is_ok() {}
            socket::deafen(&far)?;
            (&near).write_all(&vec![0x5a; payload])?;
            let packet = hear(&ear, local, payload);
            socket::repair(&near).context("can't forget a connection")?;
            drop(near);
            mould.packets.push(packet?);
            mould._deaf.push(far);
        }
        Ok(mould)
    }
}

impl Drop for Mould {
    fn drop(&mut self) {
        for far in &self._deaf {
            // Nobody is there any more to answer a FIN.
            let _ = socket::repair(far);
        }
    }
}

/// Connects, and exchanges a byte each way so that all handshakes are over.
fn establish(target: SocketAddr, listener: &TcpListener) -> anyhow::Result<(TcpStream, TcpStream)> {
    let mut near = TcpStream::connect_timeout(&target, TIMEOUT)?;
    near.set_nodelay(true)?;
    near.set_read_timeout(Some(TIMEOUT))?;
    near.write_all(b"x")?;
    let (mut far, _) = listener.accept()?;
    far.set_read_timeout(Some(TIMEOUT))?;
    far.read_exact(&mut [0])?;
    far.write_all(b"y")?;
    near.read_exact(&mut [0])?;
    Ok((near, far))
}

/// Waits for the segment that `local` sends with `payload` bytes, and returns its IP packet.
fn hear(ear: &PacketSocket, local: SocketAddr, payload: usize) -> anyhow::Result<Vec<u8>> {
    let deadline = Instant::now() + PATIENCE;
    let mut buffer = vec![0; 2048];
    while Instant::now() < deadline {
        let Ok(received) = ear.receive(&mut buffer) else {
            std::thread::sleep(Duration::from_micros(50));
            continue;
        };
        let frame = buffer.get(VNET_HEADER + ETHERNET..received.length).unwrap_or_default();
        if let Some(packet) = data_of(frame, local.port(), payload) {
            return Ok(packet.to_vec());
        }
    }
    bail!("the segment of {payload} bytes was never seen")
}

/// Returns the IPv4 packet if it is of this port and carries so many bytes.
fn data_of(packet: &[u8], port: u16, payload: usize) -> Option<&[u8]> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    let packet = packet.get(..total)?;
    let tcp = packet.get(header..)?;
    let data = usize::from(*tcp.get(12)? >> 4) * 4;
    let source = u16::from_be_bytes([tcp[0], tcp[1]]);
    (packet[0] >> 4 == 4 && source == port && tcp.len() == data + payload).then_some(packet)
}

/// What was sent, and what arrived.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// Packets that the client's kernel took.
    pub sent: u64,
    /// Packets that arrived at the server's device meanwhile.
    pub arrived: u64,
    /// How long the sending took.
    pub elapsed: Duration,
}

/// Sends copies from the client's host.
#[derive(Debug)]
pub struct Generator<'a> {
    client: &'a Host,
    server: &'a Host,
    packets: &'a [Vec<u8>],
    next: usize,
}

impl<'a> Generator<'a> {
    /// Makes a generator of copies of `mould`.
    ///
    /// # Errors
    /// If the mould is empty.
    pub fn new(site: &Site<'a>, mould: &'a Mould) -> anyhow::Result<Self> {
        ensure!(!mould.packets.is_empty(), "no segment to copy");
        let topology = site.topology;
        Ok(Self { client: &topology.client, server: &topology.server, packets: &mould.packets, next: 0 })
    }

    /// Sends so many packets a second for `time`, or as many as it can.
    ///
    /// # Errors
    /// If the raw socket can't be opened or the device's counter can't be read.
    pub fn send(&mut self, rate: f64, time: Duration) -> anyhow::Result<Sent> {
        let before = arrived(self.server)?;
        let (sent, elapsed) = self.client.enter(|| self.emit(rate, time))??;
        std::thread::sleep(SETTLE);
        Ok(Sent { sent, arrived: arrived(self.server)?.saturating_sub(before), elapsed })
    }

    fn emit(&mut self, rate: f64, time: Duration) -> anyhow::Result<(u64, Duration)> {
        let (mut emitter, counters) = (Emitter::open()?, IoCounters::default());
        // Of this thread only, which ends with the trial.
        realtime::run_first();
        let start = Instant::now();
        let mut handed = 0_u64;
        loop {
            let elapsed = start.elapsed().min(time);
            let due = (elapsed.as_secs_f64() * rate) as u64;
            let burst = usize::try_from(due.saturating_sub(handed)).unwrap_or(BURST).min(BURST);
            if burst > 0 {
                let first = self.next;
                let packets = &self.packets;
                let copies = (first..first + burst)
                    .map(|number| (packets[number % packets.len()].as_slice(), Offload::default()));
                emitter.send(copies, &counters, |_, _| ());
                self.next = (first + burst) % packets.len();
                handed += burst as u64;
            }
            // At the end of the time all that were due have been sent, or the generator is too slow.
            if elapsed >= time {
                break;
            }
            if burst < BURST {
                std::thread::sleep(TICK);
            }
        }
        Ok((counters.sent.value(), start.elapsed()))
    }
}

/// Reads how many packets the server's device has received.
fn arrived(server: &Host) -> anyhow::Result<u64> {
    // Not /proc/net, which shows the namespace of the process's main thread.
    let text = server.enter(|| std::fs::read_to_string("/proc/thread-self/net/dev"))??;
    received_packets(&text, ETH0).with_context(|| format!("{ETH0} of {} has no counters", server.name()))
}

fn received_packets(table: &str, device: &str) -> Option<u64> {
    let line = table.lines().find_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':'))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_told_by_port_and_payload() {
        let mut packet = vec![0; 20 + 32 + 64];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&116_u16.to_be_bytes());
        packet[20..22].copy_from_slice(&4000_u16.to_be_bytes());
        packet[32] = 8 << 4;
        let whole = packet.clone();
        packet.extend([0; 6]);
        assert_eq!(data_of(&packet, 4000, 64), Some(&whole[..]));
        assert_eq!(data_of(&packet, 4001, 64), None);
        assert_eq!(data_of(&packet, 4000, 63), None);
        assert_eq!(data_of(&packet[..10], 4000, 64), None);
    }

    #[test]
    fn received_packets_stand_in_the_second_column() {
        let table = "Inter-|   Receive\n face |bytes packets errs\n    lo:  10  1 0\n  eth0: 900 17 0 0\n";
        assert_eq!(received_packets(table, "eth0"), Some(17));
        assert_eq!(received_packets(table, "eth1"), None);
    }
}
