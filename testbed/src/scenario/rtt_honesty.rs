//! What the server believes of the path's RTT where it is long, and that it repeats nothing for it.

use super::figure::ms;
use super::lab::CONGESTIONS;
use super::{Case, Lab, Report, Scenario, Setting};
use crate::compare::counters::{HostCounters, Snapshot};
use crate::nic::NicMode;
use crate::program::client::{Ask, Request};
use crate::program::server::Served;
use crate::program::stream;
use crate::program::tcp_info::TcpInfo;
use anyhow::{Context, ensure};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "rtt-honesty",
    about: "RTT 300 and 600 ms: the server's min_rtt is the path's within 5 %, and it has no false time-out",
    run,
};

/// Beyond the shortest time-out Linux uses, 200 ms.
const RTTS: [Duration; 2] = [Duration::from_millis(300), Duration::from_millis(600)];
/// Bytes of a transfer.
const SIZE: u64 = 100_000;
const ASKS: [Ask; 3] = [Ask::Greeting, Ask::Download(SIZE), Ask::Upload(SIZE)];
/// Ports of the servers, one for each congestion control.
const FIRST_PORT: u16 = 9000;
/// How far from the path's RTT the server's least may be, as a share.
const TOLERANCE: f64 = 0.05;

/// What a world showed.
struct Outcome {
    /// The server's view of each transfer, for each congestion control.
    served: Vec<TcpInfo>,
    /// How long all transfers took together.
    time: Duration,
    client: HostCounters,
    server: HostCounters,
}

fn run(report: &mut Report) -> anyhow::Result<()> {
    let cases: Vec<_> = RTTS.into_iter().flat_map(|rtt| Case::EACH.map(|case| (rtt, case))).collect();
    report.at_once(&cases, |(rtt, case), report| {
        let (kernel, nics) = thread::scope(|scope| {
            let kernel = scope.spawn(|| play(*case, *rtt, None));
            let nics = play(*case, *rtt, Some(NicMode::Paired));
            (kernel.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), nics)
        });
        let context = |world| move || format!("{case}, RTT {rtt:?}, {world}");
        let kernel = kernel.with_context(context("under kernel forwarding"))?;
        let nics = nics.with_context(context("with the NICs"))?;
        honest(&kernel, *rtt).with_context(context("under kernel forwarding"))?;
        honest(&nics, *rtt).with_context(context("with the NICs"))?;
        report.same();
        note(*case, *rtt, &kernel, &nics, report);
        Ok(())
    })
}

fn play(case: Case, rtt: Duration, nics: Option<NicMode>) -> anyhow::Result<Outcome> {
    let mut lab = Lab::raise(Setting { rtt, ..Setting::new(case, nics) })?;
    let (send, seen) = mpsc::channel::<Served>();
    let send = Arc::new(Mutex::new(send));
    let mut servers = Vec::new();
    for (port, congestion) in (FIRST_PORT..).zip(CONGESTIONS) {
        let send = Arc::clone(&send);
        let tell = move |served| {
            if let Ok(send) = send.lock() {
                let _ = send.send(served);
            }
        };
        let server = lab.serve_under(congestion, port, Some(Arc::new(tell)))?;
        lab.fetch(&Request { server: server.address(), ..lab.request() })?;
        seen.recv_timeout(Duration::from_secs(5)).context("the server finished no connection")?;
        servers.push(server);
    }
    let before = Snapshot::take(lab.topology())?;
    let (mut served, mut time) = (Vec::new(), Duration::ZERO);
    for server in &servers {
        for ask in ASKS {
            time += transfer(&lab, server.address(), ask)?;
            served.push(seen.recv_timeout(Duration::from_secs(5)).context("the server finished none")?.tcp);
        }
    }
    let after = Snapshot::take(lab.topology())?;
    if let Some(nics) = lab.take_nics() {
        let (early, wanted) = (nics.stop()?.0.of("event.spoofed_paired"), served.len() as u64);
        ensure!(early == wanted, "{early} of {wanted} transfers were 0-RTT");
    }
    let [client, server] = [0, 1].map(|end| after.ends()[end] - before.ends()[end]);
    Ok(Outcome { served, time, client, server })
}

fn transfer(lab: &Lab, server: SocketAddr, ask: Ask) -> anyhow::Result<Duration> {
    let exchange = lab.fetch(&Request { server, ask, ..lab.request() })?;
    let sent = stream::digest(stream::SEED, SIZE);
    let whole = match ask {
        Ask::Greeting => exchange.status == 200,
        Ask::Download(_) => exchange.sha256 == sent,
        Ask::Upload(_) => exchange.small_body == stream::hex(&sent).as_bytes(),
    };
    ensure!(whole, "{ask:?}: other bytes arrived than were sent");
    Ok(exchange.total)
}

/// Verifies what the server believes, and that nothing was repeated on its part.
fn honest(outcome: &Outcome, rtt: Duration) -> anyhow::Result<()> {
    for tcp in &outcome.served {
        let off = tcp.min_rtt.abs_diff(rtt);
        ensure!(off <= rtt.mul_f64(TOLERANCE), "the server believes in a path of {:?}: {tcp}", tcp.min_rtt);
        ensure!(tcp.bytes_retrans == 0, "the server sent {} bytes twice: {tcp}", tcp.bytes_retrans);
    }
    let HostCounters { timeouts, loss_probes, .. } = outcome.server;
    ensure!(timeouts == 0, "{timeouts} time-outs at the server");
    ensure!(loss_probes == 0, "{loss_probes} loss probes at the server");
    Ok(())
}

fn note(case: Case, rtt: Duration, kernel: &Outcome, nics: &Outcome, report: &mut Report) {
    let least = |outcome: &Outcome| outcome.served.iter().map(|tcp| tcp.min_rtt).min().unwrap_or_default();
    let spurious = |outcome: &Outcome| {
        let HostCounters { timeouts, loss_probes, duplicates, .. } = outcome.client;
        format!("{timeouts} time-outs, {loss_probes} loss probes, {duplicates} repeats to no purpose")
    };
    report.note(format!(
        "{}, {rtt:?}: server's min_rtt {:.1} ms (kernel {:.1}); {} transfers in {:.2} of kernel's time; \
         client: {} (kernel: {})",
        case.ip,
        ms(least(nics)),
        ms(least(kernel)),
        nics.served.len(),
        nics.time.as_secs_f64() / kernel.time.as_secs_f64(),
        spurious(nics),
        spurious(kernel)
    ));
}
