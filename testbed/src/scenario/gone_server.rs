//! The server's host, or what stands before it, falls silent or says that nobody is there.
//!
//! In every state: while the NIC makes the handshake, established, closing. That a server's program
//! is killed shows nothing new: its kernel closes or resets its connections and closes its port.

use super::conversation::Dialogue;
use super::conversation::Step::{Deafen, Finish, Meet, Pause, Read, ReadToEnd, Send, Vanish};
use super::oracle::{Change, Early, Ports, Trial};
use super::{Case, Lab, Report, Scenario};
use crate::program::nft;
use rtt0_netio::sysctl;
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "gone-server",
    about: "packets dropped silently or refused with ICMP, in every state: nobody waits longer than documented",
    run,
};

/// Two round trips: nothing is under way any more.
const SETTLE: Duration = Duration::from_millis(100);
/// More than a sender waits for an acknowledgement before it repeats itself, several times.
const LATE: Duration = Duration::from_secs(1);
/// Longer than it takes a sender to give up: an RTO of 250 ms, doubled three times.
const SILENCE: Duration = Duration::from_secs(6);
/// More than a client that was answered early waits for a silent server, and little more.
const PATIENCE: Duration = Duration::from_millis(16_500);

/// Has connect() give up after 7 s instead of 131.
const IMPATIENT_SYNS: Change = |lab| {
    let client = lab.topology().client.namespace();
    sysctl::set(client, &[("net.ipv4.tcp_syn_retries", "2")])?;
    // Kernels before 6.5 do not know it and have no such time-outs.
    let _ = sysctl::set(client, &[("net.ipv4.tcp_syn_linear_timeouts", "0")]);
    Ok(())
};

/// Has senders give up data after 4 s instead of 15 minutes, and the end of a connection that is
/// closed already after 2 s instead of 100.
const IMPATIENT: Change = |lab| {
    let retries = [("tcp_retries2", "3"), ("tcp_orphan_retries", "2"), ("tcp_fin_timeout", "2")];
    for host in [&lab.topology().client, &lab.topology().server] {
        for (name, value) in retries {
            sysctl::set(host.namespace(), &[(format!("net.ipv4.{name}").as_str(), value)])?;
        }
    }
    Ok(())
};

/// What a client does with a server that does not answer.
const UNMET: &[Dialogue] = &[
    Dialogue { name: "waits for the server", client: &[ReadToEnd], server: &[] },
    Dialogue { name: "sends and waits", client: &[Send(1000), ReadToEnd, Send(1)], server: &[] },
    Dialogue { name: "sends, ends and waits", client: &[Send(1000), Finish, ReadToEnd], server: &[] },
];

/// Established, or closing, when packets begin to be dropped.
const FILTERED: &[Dialogue] = &[
    Dialogue {
        name: "client sends on to a server that hears nothing",
        client: &[Send(1000), Read(1000), Meet, Send(1000), ReadToEnd, Send(1)],
        server: &[Read(1000), Send(1000), Pause(SETTLE), Deafen, Meet, Pause(SILENCE), Vanish],
    },
    Dialogue {
        name: "server sends on to a client that hears nothing",
        client: &[Send(1000), Read(1000), Pause(SETTLE), Deafen, Meet, Pause(SILENCE), Vanish],
        server: &[Read(1000), Send(1000), Meet, Send(1000), ReadToEnd, Send(1)],
    },
    Dialogue {
        name: "client closes, the server hears nothing",
        client: &[Send(1000), Read(1000), Meet],
        server: &[Read(1000), Send(1000), Pause(SETTLE), Deafen, Meet, Pause(SILENCE), Vanish],
    },
    Dialogue {
        name: "server closes, the client hears nothing",
        client: &[Send(1000), Read(1000), Pause(SETTLE), Deafen, Meet, Pause(SILENCE), Vanish],
        server: &[Read(1000), Send(1000), Meet],
    },
    Dialogue {
        name: "client closes, the server hears it and vanishes",
        client: &[Send(1000), Read(1000)],
        // Not at once: a client whose machine is busy may hear so late that it was heard that it says it again.
        server: &[Read(1000), Send(1000), ReadToEnd, Pause(LATE), Vanish],
    },
];

/// A firewall of the server's host that refuses every connection.
fn refuse(lab: &Lab, with: &str) -> anyhow::Result<()> {
    // One error a second would be too few for all the SYNs here; see icmp(7).
    let unlimited = [("net.ipv4.icmp_ratelimit", "0"), ("net.ipv6.icmp.ratelimit", "0")];
    sysctl::set(lab.topology().server.namespace(), &unlimited)?;
    filter(lab, &format!("tcp flags & (syn | ack) == syn reject with icmpx {with}"))
}

fn filter(lab: &Lab, rule: &str) -> anyhow::Result<()> {
    let chain = "type filter hook input priority filter; policy accept;";
    nft::apply(
        &lab.topology().server,
        &format!("table inet gone {{\n chain input {{\n {chain}\n {rule}\n }}\n}}\n"),
    )
}

/// Longer than ServerNIC holds what was under way when the connection was refused, until it lets it go
/// on to the server, which answers it with a reset.
const BEHIND: Duration = Duration::from_secs(3);

/// How a firewall refuses a connection, and what a client without the NICs makes of it.
const REFUSALS: &[(&str, Change)] = &[
    ("administratively prohibited", |lab| refuse(lab, "admin-prohibited")),
    ("host unreachable", |lab| refuse(lab, "host-unreachable")),
    ("port unreachable", |lab| refuse(lab, "port-unreachable")),
];

/// More than the firewall of [`LARGE`] lets through.
const TOO_MUCH: u64 = 1350;
/// An ICMP error about an established connection is no reason to end it, but the one that is given
/// when it has ended (RFC 1122 §4.2.3.9).
const LARGE: Change =
    |lab| filter(lab, "tcp flags & syn == 0 meta length > 1300 reject with icmpx host-unreachable");

const SOFT_ERROR: &[Dialogue] = &[Dialogue {
    name: "client sends what is refused",
    client: &[Send(1000), Read(1000), Send(TOO_MUCH), ReadToEnd, Send(1)],
    server: &[Read(1000), Send(1000), Pause(SILENCE), Vanish],
}];

fn run(report: &mut Report) -> anyhow::Result<()> {
    if !nft::is_installed() {
        report.lacks(nft::NAME);
    }
    report.at_once(&Case::IPS, |case, report| {
        // All at once: most of it is waiting.
        report.at_once(&[silence, filtered, refusals, soft_error], |part, report| part(*case, report))
    })
}

fn silence(case: Case, report: &mut Report) -> anyhow::Result<()> {
    let trial = Trial::new(case, UNMET).prepare(IMPATIENT_SYNS).patience(PATIENCE).ports(Ports::Silent);
    trial.expect("silent-after-connect").verify(report)?;
    report.note(format!("{case}: no client waited {PATIENCE:?} for a silent server"));
    Ok(())
}

fn filtered(case: Case, report: &mut Report) -> anyhow::Result<()> {
    Trial::new(case, FILTERED).prepare(IMPATIENT).patience(SILENCE * 2).verify(report).map(drop)
}

fn refusals(case: Case, report: &mut Report) -> anyhow::Result<()> {
    if !nft::is_installed() {
        return Ok(());
    }
    for (what, refuse) in REFUSALS {
        // The second round meets no profile any more.
        let trial = Trial::new(case, UNMET).upset(*refuse).patience(BEHIND).rounds(2);
        let verified = trial.early(Early::Any).expect("unreachable-after-connect").verify(report);
        let refused = verified.map_err(|error| error.context(*what))?.client.of("event.refused");
        report.note(format!("{case}, {what}: {refused} refused"));
    }
    Ok(())
}

fn soft_error(case: Case, report: &mut Report) -> anyhow::Result<()> {
    if !nft::is_installed() {
        return Ok(());
    }
    let trial = Trial::new(case, SOFT_ERROR).prepare(IMPATIENT).upset(LARGE).patience(SILENCE * 2);
    trial.verify(report).map(drop)
}
