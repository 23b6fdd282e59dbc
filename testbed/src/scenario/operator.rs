//! What an operator asks of running daemons, and what they then do.

use super::figure;
use super::{Case, Lab, Report, Scenario, Setting};
use crate::host::Host;
use crate::nic::{NicMode, Nics};
use anyhow::{Context, bail, ensure};
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::blocks::opt_common::CommonOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "operator",
    about: "show, drain, forget, flush, reload and top by the control socket, metrics over HTTP: what they say, and do",
    run,
};

/// Connections before anything is asked.
const CONNECTIONS: u64 = 10;
/// By when ServerNIC's daemon has heard of what its kernel has made, and ClientNIC's from it.
const HEARD: Duration = Duration::from_secs(2);
/// Where metrics are asked for, on each NIC's own loopback.
const METRICS: &str = "127.0.0.1:9641";

fn run(report: &mut Report) -> anyhow::Result<()> {
    Case::EACH.into_iter().try_for_each(|case| operated(case, report).with_context(|| case.to_string()))
}

fn operated(case: Case, report: &mut Report) -> anyhow::Result<()> {
    let arguments = &["--metrics-address", METRICS];
    let mut lab = Lab::raise(Setting { arguments, ..Setting::new(case, Some(NicMode::Paired)) })?;
    for _ in 0..CONNECTIONS {
        lab.fetch(&lab.request())?;
    }
    let mut nics = lab.take_nics().context("no daemons")?;
    nics.ids().into_iter().try_for_each(|(daemon, id)| is_confined(id).context(daemon))?;
    shows(&lab, &nics)?;
    let saved = metrics(&lab, &nics, report)?;
    drains(&lab, &nics)?;
    forgets(&lab, &nics)?;
    reloads(&lab, &mut nics)?;
    let folder = tempfile::tempdir()?;
    let packets = folder.path().join("clientnic.pcapng");
    prewarms(&lab, &mut nics, &packets)?;
    let top = nics.ask("clientnic", &["top", "--interval", "0.2"])?;
    ensure!(top.contains("connections/s") && top.contains("RTT saved"), "top says:\n{top}");
    tells(&mut lab, &nics)?;
    let socket = nics.control_socket("clientnic");
    nics.stop()?;
    ensure!(!socket.exists(), "the control socket is left behind");
    let told = traced(&packets)?;
    report.note(format!(
        "{case}: every order was carried out; RTT saved {saved:.1} ms a connection; {told} packets with reasons"
    ));
    Ok(())
}

/// Bits of CAP_NET_ADMIN and CAP_BPF (linux/capability.h).
const KEPT: u64 = 1 << 12 | 1 << 39;

/// No thread of a daemon that serves has a capability that it does not need, or can get one.
fn is_confined(id: u32) -> anyhow::Result<()> {
    for task in std::fs::read_dir(format!("/proc/{id}/task"))? {
        let status = std::fs::read_to_string(task?.path().join("status"))?;
        let of = |field: &str| -> anyhow::Result<u64> {
            let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
            Ok(u64::from_str_radix(value.with_context(|| format!("no {field}"))?.trim(), 16)?)
        };
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            ensure!(of(set)? & !KEPT == 0, "it keeps {set} {:x}: {status}", of(set)?);
        }
        ensure!(of("NoNewPrivs")? == 1, "it could get new ones: {status}");
    }
    Ok(())
}

fn json(nics: &Nics, daemon: &str, words: &[&str]) -> anyhow::Result<Value> {
    let text = nics.ask(daemon, &[words, &["--json"]].concat())?;
    serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
}

fn count(stats: &Value, kind: &str, label: &str) -> Option<u64> {
    stats[kind].as_array()?.iter().find(|count| count["label"] == label)?["count"].as_u64()
}

/// What `show` says is what has happened.
fn shows(lab: &Lab, nics: &Nics) -> anyhow::Result<()> {
    let stats = json(nics, "clientnic", &["show", "stats"])?;
    let spoofed = count(&stats, "events", "spoofed_paired");
    ensure!(
        spoofed == Some(CONNECTIONS),
        "{spoofed:?} of {CONNECTIONS} connections are in the stats: {stats}"
    );
    let established = count(&json(nics, "servernic", &["show", "stats"])?, "events", "established");
    ensure!(established == Some(CONNECTIONS), "ServerNIC's: {established:?}");
    let target = lab.target().to_string();
    let of_target = ["show", "flows", "--server", &target];
    // The last connection may still be about to end.
    for (daemon, states) in [("clientnic", ["watching"; 2]), ("servernic", ["ended", "translated"])] {
        let matching = |flow: &&Value| {
            states.iter().any(|state| flow["state"] == *state) && flow["server"] == target.as_str()
        };
        let until = Instant::now() + HEARD;
        loop {
            let flows = json(nics, daemon, &of_target)?;
            let rows = flows["flows"].as_array();
            let seen = rows.map_or(0, |rows| rows.iter().filter(matching).count() as u64);
            if seen >= CONNECTIONS {
                break;
            }
            ensure!(Instant::now() < until, "{daemon} shows {seen} flows that are {}: {flows}", states[0]);
            thread::sleep(Duration::from_millis(10));
        }
        let none = json(nics, daemon, &[&of_target[..], &["--state", "nonsense"]].concat())?;
        ensure!(none["total"] == 0, "{none}");
        let one = json(nics, daemon, &["show", "flows", "--limit", "1"])?;
        ensure!(one["flows"].as_array().map(Vec::len) == Some(1), "{one}");
    }
    let profiles = json(nics, "clientnic", &["show", "profiles"])?;
    ensure!(profiles["profiles"][0]["destination"] == target.as_str(), "{profiles}");
    ensure!(
        profiles["profiles"][0]["standing"] == "known" && profiles["profiles"][0]["paired"] == true,
        "{profiles}"
    );
    let refused = nics.ask("servernic", &["show", "profiles"]);
    ensure!(
        refused.is_err_and(|error| error.to_string().contains("keeps no profiles")),
        "ServerNIC has profiles"
    );
    let drops = nics.ask("clientnic", &["show", "drops"])?;
    ensure!(drops.contains("confirm"), "drops are:\n{drops}");
    Ok(())
}

/// Metrics are those of the stats, and well formed. Returns the mean RTT saved in ms.
fn metrics(lab: &Lab, nics: &Nics, report: &mut Report) -> anyhow::Result<f64> {
    let host = &lab.topology().client_nic;
    for path in ["/healthz", "/readyz"] {
        let (status, body) = get(host, path)?;
        ensure!((status, body.as_str()) == (200, "ok\n"), "{path}: {status} {body}");
    }
    ensure!(get(host, "/nonsense")?.0 == 404, "there is something at /nonsense");
    let (status, text) = get(host, "/metrics")?;
    ensure!(status == 200, "/metrics: {status}");
    let value = |name: &str| -> Option<f64> {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    };
    let spoofed = value("rtt0_events_total{event=\"spoofed_paired\"}");
    ensure!(spoofed == Some(CONNECTIONS as f64), "{spoofed:?} in:\n{text}");
    let stats = json(nics, "clientnic", &["show", "stats"])?;
    let flows = value("rtt0_table_entries{table=\"flows\"}");
    ensure!(flows.is_some() && flows == stats["levels"][0]["now"].as_f64(), "{flows:?} flows, and {stats}");
    let samples = value("rtt0_rtt_saved_seconds_count");
    ensure!(samples == Some(CONNECTIONS as f64), "RTT saved was measured for {samples:?} connections");
    let saved = value("rtt0_rtt_saved_seconds_sum").context("no sum")? / CONNECTIONS as f64;
    let rtt = lab.setting().rtt.as_secs_f64();
    // The client's own leg is in the path's RTT and not in what is saved, and has no delay here.
    ensure!(
        (0.9 * rtt..1.5 * rtt).contains(&saved),
        "{saved} s were saved a connection, of an RTT of {rtt} s"
    );
    lint(&text, report)?;
    Ok(saved * 1e3)
}

/// Has Prometheus's own tool look at the metrics, if it is installed.
fn lint(text: &str, report: &mut Report) -> anyhow::Result<()> {
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = promtool.spawn() else {
        report.lacks("promtool");
        return Ok(());
    };
    child.stdin.take().context("no pipe")?.write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && said.is_empty(), "promtool says: {said}");
    let folder = tempfile::tempdir()?;
    let rules = folder.path().join("alerts.yml");
    std::fs::write(&rules, include_str!("../../../deploy/alerts.yml"))?;
    let output = Command::new("promtool").args(["check", "rules"]).arg(&rules).output()?;
    ensure!(output.status.success(), "promtool says: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Whoever drains begins no connection, says so, and goes on when told to.
fn drains(lab: &Lab, nics: &Nics) -> anyhow::Result<()> {
    let host = &lab.topology().client_nic;
    nics.ask("clientnic", &["drain"])?;
    takes(lab, 2.0).context("drained")?;
    let (status, body) = get(host, "/readyz")?;
    ensure!((status, body.as_str()) == (503, "draining\n"), "/readyz: {status} {body}");
    ensure!(get(host, "/healthz")?.0 == 200, "it is well, though");
    nics.ask("clientnic", &["drain", "--undo"])?;
    takes(lab, 1.0).context("no longer drained")?;
    ensure!(get(host, "/readyz")?.0 == 200, "it is ready again");
    // ServerNIC, too: then ClientNIC falls back.
    nics.ask("servernic", &["drain"])?;
    lab.fetch(&lab.request()).context("ServerNIC drained")?;
    nics.ask("servernic", &["drain", "--undo"])?;
    Ok(())
}

/// What is forgotten is learned anew.
fn forgets(lab: &Lab, nics: &Nics) -> anyhow::Result<()> {
    let target = lab.target().to_string();
    let other = if lab.target().is_ipv4() { "10.9.9.9:1" } else { "[fd09::9]:1" };
    for (words, forgotten) in [(&["forget", other][..], 0), (&["forget", &target], 1), (&["flush"], 1)] {
        let answer = json(nics, "clientnic", words)?;
        ensure!(answer["forgotten"] == forgotten, "{words:?}: {answer}");
        if forgotten > 0 {
            takes(lab, 2.0).with_context(|| format!("after {words:?}"))?;
        }
        takes(lab, 1.0).with_context(|| format!("later after {words:?}"))?;
    }
    Ok(())
}

/// A reload says what it did, and a bad file changes nothing.
fn reloads(lab: &Lab, nics: &mut Nics) -> anyhow::Result<()> {
    nics.write_configuration("clientnic", "mode = \"off\"\nworkers = 2\n")?;
    let answer = json(nics, "clientnic", &["reload"])?;
    ensure!(answer["changed"][0] == "mode" && answer["waiting"][0] == "workers", "{answer}");
    takes(lab, 2.0).context("mode off")?;
    nics.write_configuration("clientnic", "mode = \"of\"\n")?;
    let refused = nics.ask("clientnic", &["reload"]);
    ensure!(refused.is_err_and(|error| error.to_string().contains("clientnic.toml:1")), "it took a bad file");
    let success = "rtt0_config_last_reload_successful";
    let (_, text) = get(&lab.topology().client_nic, "/metrics")?;
    ensure!(text.contains(&format!("{success} 0")), "{success} is not 0");
    nics.write_configuration("clientnic", "mode = \"paired\"\n")?;
    nics.ask("clientnic", &["reload"])?;
    takes(lab, 1.0).context("mode paired")
}

/// A destination that is learned of beforehand is answered early from the first connection on, and again once it was
/// forgotten.
fn prewarms(lab: &Lab, nics: &mut Nics, packets: &Path) -> anyhow::Result<()> {
    let target = lab.target().to_string();
    nics.client().take().context("ClientNIC does not run")?.terminate()?;
    let settings = format!("mode = \"paired\"\nprewarm = [\"{target}\"]\npcap = \"{}\"\n", packets.display());
    nics.write_configuration("clientnic", &settings)?;
    nics.start_client(&lab.topology().client_nic)?;
    for spoofed in 1..=2 {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let known = json(nics, "clientnic", &["show", "profiles"])?;
            let first = &known["profiles"][0];
            if first["destination"] == target.as_str() && first["paired"] == true {
                break;
            }
            let log = nics.log("clientnic");
            ensure!(Instant::now() < deadline, "nothing is learned beforehand: {known}; {log}");
            std::thread::sleep(Duration::from_millis(50));
        }
        lab.fetch(&lab.request())?;
        let stats = json(nics, "clientnic", &["show", "stats"])?;
        let counts = [count(&stats, "events", "spoofed_paired"), count(&stats, "passes", "learning")];
        ensure!(counts == [Some(spoofed), Some(0)], "answered early and learned from: {counts:?}");
        if spoofed == 1 {
            nics.ask("clientnic", &["flush"])?;
        }
    }
    Ok(())
}

/// What became of packets is in the file, with the reasons. Returns how many there are.
fn traced(packets: &Path) -> anyhow::Result<usize> {
    let mut reader = PcapNgReader::new(std::fs::File::open(packets).context("there is no file of packets")?)?;
    let mut comments = Vec::new();
    while let Some(block) = reader.next_block() {
        if let (Block::EnhancedPacket(packet), _) = block? {
            comments.extend(packet.options.iter().filter_map(|option| match option {
                EnhancedPacketOption::Common(CommonOption::Comment(comment)) => Some(comment.to_string()),
                _ => None,
            }));
        }
    }
    for wanted in [
        "taken: answered, or held for later: event spoofed_paired",
        "made of the packet before: event spoofed_paired",
        "dropped: drop confirm, event confirmed, event learned",
        "sent on as it came: pass no_flow",
    ] {
        // Where the kernel takes flows it says that, too.
        let is_told = comments.iter().any(|comment| comment.starts_with(wanted));
        ensure!(is_told, "{wanted} is not among {comments:#?}");
    }
    Ok(comments.len())
}

/// A connection that fares badly is in both logs, by the same name; one that does well never is.
fn tells(lab: &mut Lab, nics: &Nics) -> anyhow::Result<()> {
    let refused = "reason=\"refused\"";
    ensure!(!nics.log("clientnic").contains(refused), "something was refused before");
    lab.stop_server();
    let fetched = lab.try_fetch(&lab.request())?;
    ensure!(fetched.is_err(), "there is no server, and yet: {fetched:?}");
    let deadline = Instant::now() + Duration::from_secs(5);
    let flow_of = |daemon| {
        let log = nics.log(daemon);
        let line = log.lines().find(|line| line.contains(refused))?;
        Some(line.split_once("flow_id=")?.1.split_whitespace().next()?.to_owned())
    };
    loop {
        if let (Some(client), Some(server)) = (flow_of("clientnic"), flow_of("servernic")) {
            ensure!(client == server, "one connection is {client} to ClientNIC and {server} to ServerNIC");
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the log does not say what happened: {}", nics.log("servernic"));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Makes a connection and looks how many round trips its first byte takes.
fn takes(lab: &Lab, trips: f64) -> anyhow::Result<()> {
    let mut outcome = Ok(());
    for _ in 0..3 {
        outcome = figure::takes(lab.fetch(&lab.request())?.first_byte, lab.setting().rtt, trips);
        // The first of a kind is not the second.
        if trips > 1.0 || outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// Asks a daemon on `host` by HTTP; returns status and body.
fn get(host: &Host, path: &str) -> anyhow::Result<(u16, String)> {
    let asked = host.enter(|| -> std::io::Result<String> {
        let mut stream = TcpStream::connect(METRICS)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {METRICS}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })?;
    let answer = asked.with_context(|| format!("{path} can't be had"))?;
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { bail!("no HTTP: {answer}") };
    let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok());
    Ok((status.with_context(|| format!("no status: {head}"))?, body.to_owned()))
}
