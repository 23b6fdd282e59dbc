//! Malformed and odd packets from both hosts, through running daemons, while transfers run.

use super::{Case, Lab, Report, Scenario, Setting};
use crate::attack::malformed::packets;
use crate::host::Host;
use crate::nic::{Counts, NicMode};
use crate::program::client::{Ask, Request};
use crate::program::stream;
use anyhow::{Context, ensure};
use rtt0_core::packet::Offload;
use rtt0_netio::counters::IoCounters;
use rtt0_netio::emit::Emitter;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "malformed",
    about: "malformed packets from both hosts: daemons live, transfers stay whole, nothing is lost uncounted",
    run,
};

/// Malformed packets from each host.
const COUNT: usize = 4000;
/// Sent at a time, and the time between.
const BURST: usize = 8;
const PAUSE: Duration = Duration::from_millis(4);
/// What each transfer carries.
const SIZE: u64 = 1_000_000;

fn run(report: &mut Report) -> anyhow::Result<()> {
    let worlds =
        [(Case::IPS[0], NicMode::Paired), (Case::IPS[1], NicMode::Paired), (Case::IPS[0], NicMode::Solo)];
    report.at_once(&worlds, |(case, mode), report| sweep(*case, *mode, report))
}

fn sweep(case: Case, mode: NicMode, report: &mut Report) -> anyhow::Result<()> {
    let what = format!("{case}, {mode:?}");
    let mut lab = Lab::raise(Setting::new(case, Some(mode)))?;
    let client = SocketAddr::new(lab.client_address(), 30_000);
    let server = SocketAddr::new(lab.server_address(), super::lab::PORT);
    let done = AtomicBool::new(false);
    let (transfers, sent) = thread::scope(|scope| -> anyhow::Result<_> {
        let lab = &lab;
        let transfers = scope.spawn(|| transfer_until(lab, &done));
        let up = scope.spawn(|| send(&lab.topology().client, packets(client, server, COUNT, 1)));
        let down = scope.spawn(|| send(&lab.topology().server, packets(server, client, COUNT, 2)));
        let join = |sender: thread::ScopedJoinHandle<'_, anyhow::Result<u64>>| {
            sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        let sent = join(up).and_then(|up| Ok(up + join(down)?));
        done.store(true, Ordering::Relaxed);
        let transfers = transfers.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok((transfers, sent?))
    })
    .with_context(|| what.clone())?;
    ensure!(sent > COUNT as u64, "{what}: the hosts' kernels took only {sent} packets");
    let nics = lab.take_nics().context("no daemons")?;
    let (client, server) = nics.stop().with_context(|| format!("{what}: after the sweep"))?;
    accounted(&client).with_context(|| format!("{what}: clientnic"))?;
    if mode != NicMode::Solo {
        accounted(&server).with_context(|| format!("{what}: servernic"))?;
    }
    let odd = |label: &str| client.of(label) + server.of(label);
    report.note(format!(
        "{what}: {sent} malformed packets, {transfers} transfers whole; malformed TCP {}, fragments {}, IP {}, ICMP {}",
        odd("pass.malformed_tcp"),
        odd("pass.fragment"),
        odd("drop.malformed_ip"),
        odd("pass.icmp_malformed") + odd("pass.icmp_no_flow"),
    ));
    Ok(())
}

/// Nothing was lost between the kernel and the engine, which counts why it drops or passes, nor
/// was anything emitted that the kernel would not take.
fn accounted(counts: &Counts) -> anyhow::Result<()> {
    let received = counts.of("received");
    ensure!(received > 0, "nothing was received");
    for label in
        ["received_overflow", "received_truncated", "receive_errors", "send_malformed", "send_failed"]
    {
        ensure!(counts.of(label) == 0, "{label}: {}", counts.of(label));
    }
    Ok(())
}

fn send(host: &Host, packets: Vec<Vec<u8>>) -> anyhow::Result<u64> {
    let (counters, mut emitter) = (IoCounters::default(), host.enter(Emitter::open)??);
    for burst in packets.chunks(BURST) {
        emitter.send(burst.iter().map(|packet| (&packet[..], Offload::default())), &counters, |_, _| {});
        thread::sleep(PAUSE);
    }
    Ok(counters.sent.value())
}

/// Makes one transfer after the other, down and up; returns how many.
fn transfer_until(lab: &Lab, done: &AtomicBool) -> anyhow::Result<usize> {
    let (digest, mut count) = (stream::digest(stream::SEED, SIZE), 0);
    while !done.load(Ordering::Relaxed) {
        let request = Request { timeout: Duration::from_secs(30), ..lab.request() };
        let down = lab.fetch(&request.clone().ask(Ask::Download(SIZE))).context("a download")?;
        ensure!(down.sha256 == digest, "other bytes came down than the server sent");
        let up = lab.fetch(&request.ask(Ask::Upload(SIZE / 10))).context("an upload")?;
        let sent = stream::hex(&stream::digest(stream::SEED, SIZE / 10));
        ensure!(up.small_body == sent.as_bytes(), "other bytes went up than the client sent");
        count += 2;
    }
    Ok(count)
}
