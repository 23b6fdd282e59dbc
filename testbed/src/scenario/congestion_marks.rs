//! Explicit congestion notification (RFC 3168): negotiated early, and every mark travels.

use super::conversation::Dialogue;
use super::conversation::Step::{Finish, Read, ReadToEnd, Send};
use super::oracle::{Change, Check, Trial};
use super::{Case, Lab, Report, Scenario};
use crate::compare::counters::netstat;
use crate::program::nft;
use anyhow::ensure;
use rtt0_netio::sysctl;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "congestion-marks",
    about: "ECN: CE marks reach the receiver and its echo the sender, both ways, as with kernel forwarding",
    run,
};

const DIALOGUES: &[Dialogue] = &[
    Dialogue {
        name: "download",
        client: &[Send(1000), ReadToEnd],
        server: &[Read(1000), Send(200_000), Finish, ReadToEnd],
    },
    Dialogue {
        name: "upload",
        client: &[Send(200_000), Finish, ReadToEnd],
        server: &[ReadToEnd, Send(1000)],
    },
];

/// Both hosts offer ECN, and mark what they send as if there was congestion.
const MARKED: Change = |lab| {
    for host in [&lab.topology().client, &lab.topology().server] {
        sysctl::set(host.namespace(), &[("net.ipv4.tcp_ecn", "1")])?;
        let rules = "table inet marks {\n chain out {\n type filter hook postrouting priority 0\n \
                     ip ecn ect0 ip ecn set ce\n ip6 ecn ect0 ip6 ecn set ce\n }\n}\n";
        nft::apply(host, rules)?;
    }
    Ok(())
};

/// Each host got marks, and each learned from the other's echo that its own arrived.
const SEEN: Check = |lab: &Lab| {
    for host in [&lab.topology().client, &lab.topology().server] {
        let counted = |table, name| netstat(host, table, name);
        let (marks, echoed) = (counted("IpExt", "InCEPkts")?, counted("TcpExt", "TCPDeliveredCE")?);
        // A counter of IPv4 and IPv6 alike; see proc(5).
        ensure!(echoed > 0, "{} heard of none of its marks ({marks} came)", host.name());
    }
    Ok(())
};

fn run(report: &mut Report) -> anyhow::Result<()> {
    if !nft::is_installed() {
        report.lacks(nft::NAME);
        return Ok(());
    }
    report.at_once(&Case::EACH, |&case, report| {
        Trial::new(case, DIALOGUES).prepare(MARKED).check(SEEN).verify(report).map(drop)
    })
}
