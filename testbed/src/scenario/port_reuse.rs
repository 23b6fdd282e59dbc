//! The same 4-tuple again, as soon as the client's kernel allows it.

use super::conversation::Step::{Abort, Read, ReadToEnd, Send};
use super::conversation::{Dialogue, Event, Seen, Stage, Step};
use super::{Case, Lab, Report, Scenario, Setting};
use crate::nic::NicMode;
use crate::program::client::Request;
use crate::program::socket;
use anyhow::{Context, bail, ensure};
use rtt0_netio::sysctl;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "port-reuse",
    about: "the same client port connects again at once after FIN from either side and after resets",
    run,
};

/// Connections from the same port for each way to end them.
const CONNECTIONS: usize = 10;
/// Round-trip time of the path.
const RTT: Duration = Duration::from_millis(50);
/// Ports of the server, one for each way; the client's ports begin at [`CLIENT_PORT`].
const SERVER_PORT: u16 = 9000;
const CLIENT_PORT: u16 = 20_000;

/// Handshakes that a client aborts one upon another before it means one.
const ABORTED: usize = 20;
/// Longer than the server's leg, so that the server has heard of a connection before it is aborted
/// and made again; much shorter than the path.
const SHORTLY: Step = Step::Pause(Duration::from_millis(5));

const ENDS: &[Dialogue] = &[
    // TIME-WAIT at the client.
    Dialogue {
        name: "client closed first",
        client: &[Send(1000), Read(1000)],
        server: &[Read(1000), Send(1000), ReadToEnd],
    },
    // TIME-WAIT at the server.
    Dialogue {
        name: "server closed first",
        client: &[Send(1000), ReadToEnd],
        server: &[Read(1000), Send(1000)],
    },
    Dialogue {
        name: "client reset",
        client: &[Send(1000), Read(1000), Abort],
        server: &[Read(1000), Send(1000), ReadToEnd],
    },
    // The rest of the old connection's data meets the new one.
    Dialogue {
        name: "client reset with the server's data in flight",
        client: &[Send(1000), Read(1000), Abort],
        server: &[Read(1000), Send(200_000), ReadToEnd],
    },
    Dialogue {
        name: "client reset before the server had heard of it",
        client: &[Send(1000), SHORTLY, Abort],
        server: &[ReadToEnd],
    },
    Dialogue { name: "client reset without a byte", client: &[SHORTLY, Abort], server: &[ReadToEnd] },
    Dialogue {
        name: "server reset",
        client: &[Send(1000), ReadToEnd],
        server: &[Read(1000), Send(1000), SHORTLY, Abort],
    },
];

fn run(report: &mut Report) -> anyhow::Result<()> {
    report.at_once(&Case::IPS, |&case, report| {
        let plain = Lab::raise(Setting { rtt: RTT, ..Setting::new(case, None) })?;
        let mut lab = Lab::raise(Setting { rtt: RTT, ..Setting::new(case, Some(NicMode::Paired)) })?;
        allow_reuse(&plain)?;
        allow_reuse(&lab)?;
        let mut figures = Vec::new();
        for ((server_port, client_port), end) in (SERVER_PORT..).zip(CLIENT_PORT..).zip(ENDS) {
            let began = Instant::now();
            let what = || format!("{case}: after {}", end.name);
            let nics = reuse(&lab, server_port, client_port, end).with_context(what)?;
            let took = began.elapsed();
            let kernel = reuse(&plain, server_port, client_port, end).context("under kernel forwarding");
            report.equal(what(), &kernel.with_context(what)?, &nics)?;
            let each = took.as_secs_f64() * 1e3 / CONNECTIONS as f64;
            figures.push(format!("{} {each:.0} ms", end.name));
        }
        hurry(&lab).with_context(|| format!("{case}: after {ABORTED} aborted handshakes"))?;
        let nics = lab.take_nics().context("no daemons")?;
        let (client, server) = nics.stop()?;
        let expected = (CONNECTIONS * ENDS.len() + ABORTED + 1) as u64;
        let spoofed = client.of("event.spoofed_paired");
        ensure!(spoofed == expected, "{case}: {spoofed} of {expected} connections were 0-RTT");
        let refused = client.of("event.refused") + server.of("event.refused");
        ensure!(refused == 0, "{case}: {refused} were refused");
        report.note(format!("{case}: {expected} of {expected} 0-RTT; each {}", figures.join(", ")));
        Ok(())
    })
}

/// Has the client leave TIME-WAIT for a newer connection after a millisecond instead of a second
/// (tcp(7), `tcp_tw_reuse`); kernels before 6.14 know only the second, and the client waits for it.
fn allow_reuse(lab: &Lab) -> anyhow::Result<()> {
    let client = lab.topology().client.namespace();
    sysctl::set(client, &[("net.ipv4.tcp_tw_reuse", "1")])?;
    let _ = sysctl::set(client, &[("net.ipv4.tcp_tw_reuse_delay", "1")]);
    Ok(())
}

/// Makes every connection from the same port; what is seen must always be the same, and is returned.
fn reuse(lab: &Lab, server_port: u16, client_port: u16, end: &Dialogue) -> anyhow::Result<Seen> {
    let stage = Stage::raise(lab, server_port)?;
    let local = Some(SocketAddr::new(lab.client_address(), client_port));
    let seen = stage.play_in_turn(end, local, CONNECTIONS)?;
    let Some(first) = seen.first() else { bail!("no connection was made") };
    let never = |event: &Event| matches!(event, Event::Failed(libc::EAGAIN));
    ensure!(!first.has(never), "something never happened on the first connection: {first}");
    for (index, later) in seen.iter().enumerate() {
        ensure!(later == first, "connection {}: {later}; the first one: {first}", index + 1);
    }
    Ok(first.clone())
}

/// Connects and aborts as fast as the client can, and then makes one connection that must succeed.
/// The server may never hear of some of the aborted ones: they overtake its answers.
fn hurry(lab: &Lab) -> anyhow::Result<()> {
    let local = SocketAddr::new(lab.client_address(), CLIENT_PORT - 1);
    let abort = || -> io::Result<()> {
        for _ in 0..ABORTED {
            let socket = socket::tcp(lab.target(), None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&local.into())?;
            socket.connect(&lab.target().into())?;
            socket.set_linger(Some(Duration::ZERO))?;
        }
        Ok(())
    };
    lab.topology().client.enter(abort)??;
    let exchange = lab.fetch(&Request { local: Some(local), ..lab.request() })?;
    ensure!(exchange.connect < RTT / 2, "connect() took {:?}", exchange.connect);
    Ok(())
}
