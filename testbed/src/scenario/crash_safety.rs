//! A daemon is killed, replaced or told to reload while it translates: no connection notices.

use super::figure::ms;
use super::{Case, Lab, Report, Scenario, Setting};
use crate::compare::choice::IpVersion;
use crate::nic::{Counts, NicMode, Nics};
use crate::process::Process;
use crate::program::client::{self, Ask, Exchange, FetchError, Request};
use crate::program::established::await_established;
use crate::program::server::{Server, ServerConfig};
use crate::program::stream;
use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::net::SocketAddr;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "crash-safety",
    about: "1,000 live transfers while the daemon is killed, upgraded, reloaded: every SHA-256 right, no reset",
    run,
};

/// Transfers under way at a time: as many down as up.
const TRANSFERS: usize = 1000;
/// Bytes of each.
const BYTES: u64 = 50_000;
/// Bytes a second at which each is sent: so each lasts for seconds.
const PACE: u32 = 8_000;
/// Over what time they begin.
const BEGINNINGS: Duration = Duration::from_millis(600);
/// How long after the last is established the daemon dies.
const HEAD_START: Duration = Duration::from_millis(600);
/// Likewise where every flow has to be the kernel's by then.
const TIME_TO_HAND: Duration = Duration::from_secs(5);
/// Bytes of each transfer then.
const BYTES_IN_KERNEL: u64 = 100_000;
/// What a daemon logs whose kernel takes flows.
const OFFLOADED: &str = "forwarded by the kernel";
/// How long it is dead.
const OUTAGE: Duration = Duration::from_secs(1);
/// Within this a daemon must have obeyed a signal.
const BOUND: Duration = Duration::from_secs(5);
/// Connections of which some are in the midst of their handshake at the kill.
const HANDSHAKES: usize = 400;
/// Port of the server that sends slowly.
const SLOW_PORT: u16 = 8081;
/// Untranslated segments of the outage reach the client. One that lies in its receive window by
/// chance would be taken for data (docs/CRASH.md, "While no daemon runs"): with windows this small
/// one run in 500 sees it.
const RECEIVE_BUFFER: usize = 8192;

const V4: Case = Case { ip: IpVersion::V4, offloads: true };
const V6: Case = Case { ip: IpVersion::V6, offloads: true };

fn run(report: &mut Report) -> anyhow::Result<()> {
    for (case, mode, what, blow) in [
        (V4, NicMode::Paired, "ServerNIC killed", Blow::Kill(Daemon::ServerNic)),
        (V6, NicMode::Paired, "ServerNIC stopped, started again", Blow::Upgrade(Daemon::ServerNic)),
        (V6, NicMode::Solo, "ClientNIC killed, solo", Blow::Kill(Daemon::ClientNic)),
        (V4, NicMode::Paired, "keys rotated (SIGHUP)", Blow::Reload),
        (V4, NicMode::Paired, "ServerNIC killed for good, flows in the kernel", Blow::End(Daemon::ServerNic)),
        (V6, NicMode::Solo, "ClientNIC killed for good, flows in the kernel", Blow::End(Daemon::ClientNic)),
    ] {
        match transfers(case, mode, blow).with_context(|| format!("{case}: {what}"))? {
            Some(seen) => report.note(format!("{case}: {what}: {seen}")),
            None => report.lacks("BPF in the kernel"),
        }
    }
    let seen = handshakes(V4).context("ServerNIC killed during handshakes")?;
    report.note(format!("{V4}: ServerNIC killed during handshakes: {seen}"));
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Daemon {
    ClientNic,
    ServerNic,
}

/// What happens to the daemons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    /// One is killed and started again after a while.
    Kill(Daemon),
    /// One is stopped and started again at once, as for an upgrade.
    Upgrade(Daemon),
    /// One is killed and stays away. The kernel has the established flows.
    End(Daemon),
    /// Both are given a new key, then a bad key file.
    Reload,
}

/// Strikes a blow while the transfers are under way; returns what was seen, or `None` if the kernel does
/// not take flows.
fn transfers(case: Case, mode: NicMode, blow: Blow) -> anyhow::Result<Option<String>> {
    let mut lab = Lab::raise(Setting::new(case, Some(mode)))?;
    let slow = SocketAddr::new(lab.server_address(), SLOW_PORT);
    let config =
        ServerConfig { pace: Some(PACE), congestion: Some("cubic".into()), ..ServerConfig::new(slow) };
    let _server = lab.topology().server.enter(|| Server::start(config))??;
    // Teaches the daemons of this port.
    lab.fetch(&Request::new(slow))?;
    let mut nics = lab.take_nics().context("this lab has no daemons")?;
    let (head_start, bytes) = match blow {
        Blow::End(_) if !nics.log("clientnic").contains(OFFLOADED) => return Ok(None),
        Blow::End(_) => (TIME_TO_HAND, BYTES_IN_KERNEL),
        _ => (HEAD_START, BYTES),
    };
    let requests: Vec<Request> = (0..TRANSFERS).map(|index| transfer(slow, index, bytes)).collect();
    let began = Instant::now();
    let (outage, outcomes) = thread::scope(|scope| {
        let transfers = scope.spawn(|| make(&lab, &requests, BEGINNINGS));
        let outage = await_established(&lab.topology().server, SLOW_PORT, TRANSFERS, BOUND).and_then(|()| {
            thread::sleep(head_start);
            strike(&lab, &mut nics, blow)
        });
        let outcomes = transfers.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok::<_, anyhow::Error>((outage?, outcomes?))
    })?;
    let took = began.elapsed();
    let fresh = if blow == Blow::Reload { under_new_key(&lab, slow) } else { Ok(()) };
    let counts = nics.stop()?;
    let over = outage.over.duration_since(began);
    let after = judge(&requests, &outcomes, (over, bytes)).with_context(|| format!("{counts:?}"))?;
    fresh?;
    let restored = translated_on(mode, blow, &counts)?;
    let how = match blow {
        Blow::Reload => "flows kept".to_owned(),
        Blow::End(_) => "no daemon until the last had ended".to_owned(),
        _ => format!("{restored} flows restored, ready {:.0} ms after the end", ms(outage.length)),
    };
    Ok(Some(format!(
        "{TRANSFERS} transfers of {bytes} bytes in {:.1} s, {after} of them ended after it: every SHA-256 \
         right, no reset; {how}",
        took.as_secs_f64()
    )))
}

/// Downloads and uploads in turn.
fn transfer(server: SocketAddr, index: usize, bytes: u64) -> Request {
    let ask = if index.is_multiple_of(2) { Ask::Download(bytes) } else { Ask::Upload(bytes) };
    Request {
        congestion: Some("cubic".to_owned()),
        pace: Some(PACE),
        receive_buffer: Some(RECEIVE_BUFFER),
        timeout: Duration::from_secs(60),
        ..Request::new(server).ask(ask)
    }
}

type Outcome = Result<Exchange, FetchError>;

/// Makes all exchanges, each on a thread of its own, their beginnings spread over `time`.
fn make(lab: &Lab, requests: &[Request], time: Duration) -> anyhow::Result<Vec<Outcome>> {
    let step = time / u32::try_from(requests.len())?;
    let fetch = |(index, request): (u32, &Request)| {
        thread::sleep(step * index);
        client::fetch(request)
    };
    lab.topology().client.enter(|| {
        thread::scope(|scope| {
            let clients: Vec<ScopedJoinHandle<'_, Outcome>> =
                (0..).zip(requests).map(|order| scope.spawn(move || fetch(order))).collect();
            let join = |client: ScopedJoinHandle<'_, Outcome>| {
                client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            clients.into_iter().map(join).collect()
        })
    })
}

/// How long no daemon served, and since when one does again.
struct Outage {
    length: Duration,
    over: Instant,
}

fn strike(lab: &Lab, nics: &mut Nics, blow: Blow) -> anyhow::Result<Outage> {
    let begin = Instant::now();
    match blow {
        Blow::Kill(daemon) => {
            take(nics, daemon)?.kill()?;
            thread::sleep(OUTAGE);
            start(lab, nics, daemon)?;
        }
        Blow::Upgrade(daemon) => {
            let status = take(nics, daemon)?.terminate()?;
            ensure!(status.success(), "it ended with {status}");
            start(lab, nics, daemon)?;
        }
        Blow::End(daemon) => {
            take(nics, daemon)?.kill()?;
        }
        Blow::Reload => reload(nics)?,
    }
    let over = Instant::now();
    Ok(Outage { length: over.duration_since(begin), over })
}

fn take(nics: &mut Nics, daemon: Daemon) -> anyhow::Result<Process> {
    let process = match daemon {
        Daemon::ClientNic => nics.client().take(),
        Daemon::ServerNic => nics.server().take(),
    };
    process.context("the daemon does not run")
}

fn start(lab: &Lab, nics: &mut Nics, daemon: Daemon) -> anyhow::Result<()> {
    match daemon {
        Daemon::ClientNic => nics.start_client(&lab.topology().client_nic),
        Daemon::ServerNic => nics.start_server(&lab.topology().server_nic),
    }
}

/// Puts a new key in front of the old one, and afterwards a file that is none.
fn reload(nics: &mut Nics) -> anyhow::Result<()> {
    let file = nics.key_file();
    let old = std::fs::read_to_string(&file)?;
    let new = format!("1 {}\n{old}", "5a".repeat(16));
    for (text, said) in [(new.as_str(), "was read again"), ("nonsense", "keys stay in use")] {
        std::fs::write(&file, text)?;
        // Whoever accepts the new key must know it before the other signs with it.
        for name in ["servernic", "clientnic"] {
            let process = if name == "servernic" { nics.server() } else { nics.client() };
            let id = process.as_ref().context("the daemon does not run")?.id();
            kill_process(Pid::from_raw(id.cast_signed()).context("bad process id")?, Signal::HUP)?;
            let deadline = Instant::now() + BOUND;
            while !nics.log(name).contains(said) {
                ensure!(Instant::now() < deadline, "{name} never said '{said}': {}", nics.log(name));
                thread::sleep(Duration::from_millis(2));
            }
        }
    }
    Ok(())
}

/// Makes a connection that the new key signs: it takes one round trip.
fn under_new_key(lab: &Lab, server: SocketAddr) -> anyhow::Result<()> {
    let first_byte = lab.fetch(&Request::new(server))?.first_byte;
    let rtt = lab.setting().rtt;
    ensure!(first_byte < rtt * 3 / 2, "under the new key the first byte came after {first_byte:?}");
    Ok(())
}

/// Every transfer has ended well and with the right digest; returns how many ended after `over`.
fn judge(
    requests: &[Request],
    outcomes: &[Outcome],
    (over, bytes): (Duration, u64),
) -> anyhow::Result<usize> {
    let expected = stream::digest(stream::SEED, bytes);
    let mut bad = Vec::new();
    let mut after = 0;
    for (index, (request, outcome)) in requests.iter().zip(outcomes).enumerate() {
        match (request.ask, outcome) {
            (Ask::Download(_), Ok(exchange)) if exchange.sha256 == expected => {}
            (Ask::Upload(_), Ok(exchange)) if exchange.small_body == stream::hex(&expected).as_bytes() => {}
            (ask, Ok(_)) => bad.push(format!("{index}: {ask:?}: a wrong SHA-256")),
            (ask, Err(error)) => bad.push(format!("{index}: {ask:?}: {error}: {}", error.source)),
        }
        let began = BEGINNINGS / TRANSFERS as u32 * index as u32;
        after += usize::from(outcome.as_ref().is_ok_and(|exchange| began + exchange.total > over));
    }
    if let Some(first) = bad.first() {
        bail!("{} of {} transfers failed; number {first}", bad.len(), requests.len());
    }
    ensure!(after == requests.len(), "only {after} transfers were under way: the others prove nothing");
    Ok(after)
}

/// Every transfer was translated, before and after; returns how many flows were restored.
fn translated_on(mode: NicMode, blow: Blow, counts: &(Counts, Counts)) -> anyhow::Result<u64> {
    let (client, server) = counts;
    let translator = if mode == NicMode::Solo { client } else { server };
    let spoofed = client.of("event.spoofed_paired");
    if mode != NicMode::Solo {
        // The connection that teaches is not one of them; one under a new key is.
        ensure!(spoofed >= TRANSFERS as u64, "only {spoofed} transfers were spoofed: {client:?}");
    }
    if matches!(blow, Blow::End(_)) {
        // It can't say any more.
        return Ok(0);
    }
    let restored = translator.of("event.restored");
    if blow != Blow::Reload {
        ensure!(restored >= TRANSFERS as u64, "only {restored} flows were restored");
    }
    let let_go = translator.of("event.translated_elsewhere");
    ensure!(let_go == 0, "{let_go} flows were taken for translated elsewhere");
    let translated = translator.of("event.translated") + translator.of("offload.packets");
    ensure!(translated > TRANSFERS as u64, "nothing was translated");
    ensure!(translator.of("state_failed") == 0, "the state could not be written");
    Ok(restored)
}

/// Kills ServerNIC amid handshakes, some at each of their stages: every connection succeeds.
fn handshakes(case: Case) -> anyhow::Result<String> {
    let mut lab = Lab::raise(Setting::new(case, Some(NicMode::Auto)))?;
    let mut nics = lab.take_nics().context("this lab has no daemons")?;
    let requests = vec![lab.request(); HANDSHAKES];
    let time = Duration::from_millis(800);
    let outcomes = thread::scope(|scope| {
        let exchanges = scope.spawn(|| make(&lab, &requests, time));
        thread::sleep(time / 2);
        let blow = take(&mut nics, Daemon::ServerNic).and_then(|mut process| process.kill());
        // Well within the lives of those that have begun.
        thread::sleep(Duration::from_millis(20));
        let started = start(&lab, &mut nics, Daemon::ServerNic);
        let outcomes = exchanges.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        blow?;
        started?;
        Ok::<_, anyhow::Error>(outcomes)
    })?;
    let mut slowest = Duration::ZERO;
    for (index, outcome) in outcomes.into_iter().enumerate() {
        slowest = slowest.max(outcome.with_context(|| format!("connection {index} of {HANDSHAKES}"))?.total);
    }
    let (client, server) = nics.stop()?;
    Ok(format!(
        "{HANDSHAKES} connections, none failed; {} fell back to solo, {} flows restored, {} of them let go; \
         the slowest took {:.0} ms",
        client.of("event.fell_back_to_solo"),
        server.of("event.restored"),
        server.of("event.translated_elsewhere"),
        ms(slowest)
    ))
}
