//! SYNs with options or bits that a middlebox has no business with: each byte arrives as it was sent.

use super::figure::Answer;
use super::lab::{PORT, Setting};
use super::sighting::Sighting;
use super::{Case, Lab, Report, Scenario};
use crate::address::ETH0;
use crate::nic::NicMode;
use crate::program::client::Request;
use crate::program::server::{Server, ServerConfig};
use crate::record::{Record, Recorder};
use anyhow::{Context, ensure};
use rtt0_core::wire::build::Control;
use rtt0_core::wire::tcp::Flags;
use rtt0_netio::sysctl;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "untouched-syn",
    about: "Fast Open, MPTCP, MD5, TCP-AO, AccECN, unknown options and bits: the same bytes as with kernel forwarding",
    run,
};

/// Longer than a round trip.
const SETTLE: Duration = Duration::from_millis(200);
const FIRST_PORT: u16 = 30_000;
/// Where a server takes data with the SYN.
const FAST_OPEN_PORT: u16 = 8081;
/// Of every SYN, in front of what makes it one.
const MSS: [u8; 4] = [2, 4, 5, 180];

/// SYNs of which nothing is to be understood: name, control bits beside SYN, options behind the MSS.
fn syns() -> Vec<(&'static str, Flags, Vec<u8>)> {
    let none = Flags::default();
    vec![
        ("Fast Open, asking for a cookie", none, vec![34, 2, 1, 1]),
        ("Fast Open, with a cookie", none, vec![34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1]),
        ("MPTCP, MP_CAPABLE", none, vec![30, 4, 0x01, 0x01]),
        ("MPTCP, MP_JOIN", none, vec![30, 12, 0x10, 1, 1, 2, 3, 4, 5, 6, 7, 8]),
        ("MD5 signature", none, [&[19, 18][..], &[7; 16], &[1, 1]].concat()),
        ("TCP-AO", none, [&[29, 16][..], &[9; 14]].concat()),
        ("an experiment of somebody else's", none, vec![253, 8, 0x12, 0x34, 1, 2, 3, 4]),
        ("the other experimental kind", none, vec![254, 8, 0xf9, 0x89, 1, 2, 3, 4]),
        ("a kind nobody has assigned", none, vec![200, 4, 1, 2]),
        ("an option of an impossible length", none, vec![200, 0, 1, 1]),
        ("an option that ends beyond the header", none, vec![1, 1, 200, 9]),
        ("Accurate ECN", Flags::AE | Flags::CWR | Flags::ECE, vec![]),
        ("an urgent pointer", Flags::URG, vec![]),
        ("a push", Flags::PSH, vec![]),
    ]
}

fn run(report: &mut Report) -> anyhow::Result<()> {
    report.at_once(&Case::IPS, |&case, report| {
        let kernel = observe(case, None).context("under kernel forwarding")?;
        let nics = observe(case, Some(NicMode::Paired)).context("with the NICs")?;
        for (((what, ..), kernel), nics) in syns().iter().zip(&kernel).zip(&nics) {
            ensure!(kernel.arrived.len() == 1, "{case}, {what}: {} SYNs arrived", kernel.arrived.len());
            ensure!(
                kernel == nics,
                "{case}, {what}: as with kernel forwarding: {kernel:02x?}; seen: {nics:02x?}"
            );
            report.same();
        }
        let [kernel_open, nics_open] = [fast_open(case, None)?, fast_open(case, Some(NicMode::Paired))?];
        ensure!(kernel_open[1].1, "{case}: the kernel did not use its Fast Open cookie");
        for (kernel, nics) in kernel_open.iter().zip(&nics_open) {
            report.equal(format!("{case}: Fast Open, data in the SYN"), kernel, nics)?;
        }
        let answered = kernel.iter().filter(|shown| !shown.answers.is_empty()).count();
        report.note(format!("{case}: {} kinds of SYN, {answered} answered by the server", kernel.len()));
        Ok(())
    })
}

/// Makes two exchanges with Fast Open (RFC 7413), of which the first gets the cookie; returns what was
/// answered, and whether the server took the data that came with the SYN.
fn fast_open(case: Case, nics: Option<NicMode>) -> anyhow::Result<[(Answer, bool); 2]> {
    let lab = Lab::raise(Setting::new(case, nics))?;
    for host in [&lab.topology().client, &lab.topology().server] {
        sysctl::set(host.namespace(), &[("net.ipv4.tcp_fastopen", "3")])?;
    }
    let address = SocketAddr::new(lab.server_address(), FAST_OPEN_PORT);
    let config = ServerConfig { fastopen_queue: Some(16), ..ServerConfig::new(address) };
    let _server = lab.topology().server.enter(|| Server::start(config))??;
    // So that a daemon would have every reason to answer early.
    lab.fetch(&Request { server: address, ..lab.request() })?;
    let fetch = || -> anyhow::Result<(Answer, bool)> {
        let exchange = lab.fetch(&Request { server: address, fastopen: true, ..lab.request() })?;
        Ok((Answer::from(&exchange), exchange.tcp.syn_data()))
    };
    Ok([fetch()?, fetch()?])
}

/// What came of a SYN.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    /// The packets as they arrived at the server.
    arrived: Vec<Vec<u8>>,
    /// Control bits and kinds of option of what the client got back, without repeats.
    answers: Vec<(Flags, Vec<u8>)>,
}

/// Sends each SYN from a port of its own.
fn observe(case: Case, nics: Option<NicMode>) -> anyhow::Result<Vec<Shown>> {
    let lab = Lab::raise(Setting::new(case, nics))?;
    let topology = lab.topology();
    let record = |host| Recorder::start(host, ETH0, 1 << 16, None);
    let (client, server) = (record(&topology.client)?, record(&topology.server)?);
    for (port, (_, flags, options)) in (FIRST_PORT..).zip(syns()) {
        send(&lab, port, flags, &[&MSS[..], &options].concat())?;
    }
    thread::sleep(SETTLE);
    let (client, server) = (client.stop()?, server.stop()?);
    let show = |port: u16| {
        let local = SocketAddr::new(lab.client_address(), port);
        let incoming = |record: &&Record| !record.outgoing;
        let read = |record: &Record| Sighting::read(record, lab.target()).filter(|seen| seen.client == local);
        let of = |records: &[Record]| -> Vec<(Vec<u8>, Sighting)> {
            let records = records.iter().filter(incoming);
            records.filter_map(|record| Some((record.bytes.clone(), read(record)?))).collect()
        };
        let syn = |(_, seen): &(Vec<u8>, Sighting)| seen.flags.contains(Flags::SYN);
        let arrived = of(&server).into_iter().filter(syn).map(|(bytes, _)| bytes).collect();
        let mut answers: Vec<_> =
            of(&client).iter().map(|(_, seen)| (seen.flags, kinds(&seen.options))).collect();
        answers.dedup();
        Shown { arrived, answers }
    };
    Ok((FIRST_PORT..).take(syns().len()).map(show).collect())
}

/// Lists the kinds among options that a kernel has written.
fn kinds(mut options: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let Some(&kind) = options.first() {
        kinds.push(kind);
        let length =
            if kind <= 1 { 1 } else { options.get(1).map_or(1, |length| usize::from(*length).max(1)) };
        options = options.get(length..).unwrap_or_default();
    }
    kinds
}

/// Sends a SYN past the client's own TCP.
fn send(lab: &Lab, port: u16, flags: Flags, options: &[u8]) -> anyhow::Result<()> {
    let control = Control {
        source: (lab.client_address(), port),
        destination: (lab.server_address(), PORT),
        sequence: u32::from(port) << 8,
        acknowledgement: 0,
        flags: Flags::SYN | flags,
        window: 64_000,
    };
    let mut packet = Vec::new();
    control.write(options, &mut packet);
    let send = || {
        // IPPROTO_RAW: the packet has its header already; raw(7).
        let socket = Socket::new(Domain::for_address(lab.target()), Type::RAW, Some(Protocol::from(255)))?;
        socket.send_to(&packet, &SockAddr::from(SocketAddr::new(lab.server_address(), 0)))
    };
    lab.topology().client.enter(send)?.context("can't send a packet of our own")?;
    Ok(())
}
