//! The path carries less than the profile promised: senders are told and adapt.

use super::figure::ms;
use super::{Case, Lab, Report, Scenario, Setting};
use crate::address::{ETH0, LAN0, WAN0};
use crate::host::Host;
use crate::nic::{Counts, NicMode};
use crate::program::client::{Ask, Request};
use crate::program::stream;
use crate::topology::Topology;
use anyhow::{Context, ensure};
use rtt0_netio::links::Links;
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "too-big",
    about: "an MTU drops on any leg after the profile was learned: 1 MB each way arrives, as with kernel forwarding",
    run,
};

const SIZE: u64 = 1_000_000;
const RTT: Duration = Duration::from_millis(20);
/// The MTU after the drop in bytes; IPv6 needs 1,280.
const MTU: u32 = 1300;
/// Packets a device queues, as Linux has it.
const QUEUE: u32 = 1000;
/// Retransmissions of what an ICMP error did not arrive for would take longer.
const BOUND: Duration = Duration::from_secs(5);

/// Where the MTU drops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// At both ends of the client's leg: the client's own kernel knows.
    ClientLeg,
    /// At ClientNIC only: the client does not know, so ClientNIC tells the server, in numbers
    /// that ServerNIC has to translate back.
    ClientNic,
    /// At both ends of the server's leg: the server announces a smaller MSS than was promised.
    ServerLeg,
    /// At ServerNIC only: the server does not know, so ServerNIC tells the client.
    ServerNic,
    /// On the long leg: ClientNIC tells the client, ServerNIC the server.
    LongLeg,
}

/// Transfers that meet the drop, and who has to notice. What an endpoint does not know about its
/// own link nobody can tell it.
const TRANSFERS: [Transfer; 8] = [
    Transfer::new(Place::ClientLeg, Ask::Upload(SIZE)),
    Transfer::new(Place::ClientLeg, Ask::Download(SIZE)),
    Transfer { told_by: [true, false], retold: true, ..Transfer::new(Place::ClientNic, Ask::Download(SIZE)) },
    Transfer { repaired: 1, ..Transfer::new(Place::ServerLeg, Ask::Upload(SIZE)) },
    Transfer { repaired: 1, ..Transfer::new(Place::ServerLeg, Ask::Download(SIZE)) },
    Transfer { told_by: [false, true], ..Transfer::new(Place::ServerNic, Ask::Upload(SIZE)) },
    Transfer { told_by: [true, false], ..Transfer::new(Place::LongLeg, Ask::Upload(SIZE)) },
    Transfer { told_by: [false, true], ..Transfer::new(Place::LongLeg, Ask::Download(SIZE)) },
];

#[derive(Debug, Clone, Copy)]
struct Transfer {
    place: Place,
    ask: Ask,
    /// Flows that ServerNIC cuts into smaller segments than the client was promised.
    repaired: u64,
    /// Whether ClientNIC and ServerNIC send ICMP errors.
    told_by: [bool; 2],
    /// Whether ServerNIC translates the number that an ICMP error quotes.
    retold: bool,
}

impl Transfer {
    const fn new(place: Place, ask: Ask) -> Self {
        Self { place, ask, repaired: 0, told_by: [false, false], retold: false }
    }
}

fn run(report: &mut Report) -> anyhow::Result<()> {
    for case in Case::ALL {
        report.at_once(&TRANSFERS, |transfer, report| {
            let Transfer { place, ask, .. } = *transfer;
            let context = || format!("{case}: MTU {MTU} at {place:?}, {ask:?}");
            let kernel = arrive(case, transfer, None).with_context(context)?;
            let nics = arrive(case, transfer, Some(NicMode::Paired)).with_context(context)?;
            report.same();
            let way = if matches!(ask, Ask::Upload(_)) { "up" } else { "down" };
            let (kernel, nics) = (ms(kernel), ms(nics));
            report.note(format!("{case}: {place:?} {way} {nics:.0} ms, kernel {kernel:.0}"));
            Ok(())
        })?;
    }
    Ok(())
}

/// Makes the transfer with a profile from before the drop; returns how long it took.
fn arrive(case: Case, transfer: &Transfer, nics: Option<NicMode>) -> anyhow::Result<Duration> {
    let mut lab = Lab::raise(Setting { rtt: RTT, ..Setting::new(case, nics) })?;
    shrink(lab.topology(), transfer.place)?;
    let digest = stream::digest(stream::SEED, SIZE);
    let request = Request { timeout: BOUND, ..lab.request() };
    let exchange = lab.fetch(&request.ask(transfer.ask))?;
    if let Ask::Upload(_) = transfer.ask {
        let seen = String::from_utf8_lossy(&exchange.small_body);
        ensure!(seen == stream::hex(&digest), "other bytes came up than were sent");
    } else {
        ensure!(exchange.sha256 == digest, "other bytes came down than were sent");
    }
    if let Some(nics) = lab.take_nics() {
        let (client, server) = nics.stop()?;
        transfer.noticed(&client, &server)?;
    }
    Ok(exchange.total)
}

impl Transfer {
    /// Verifies by the daemons' counters who noticed the drop.
    fn noticed(&self, client: &Counts, server: &Counts) -> anyhow::Result<()> {
        let spoofed = client.of("event.spoofed_paired");
        ensure!(spoofed == 1, "{spoofed} connections were spoofed, not 1");
        let told_by = [client, server].map(|counts| counts.of("event.icmp_sent") > 0);
        let expected = self.told_by;
        ensure!(
            told_by == expected,
            "ICMP errors by ClientNIC, ServerNIC: {told_by:?}, expected {expected:?}"
        );
        let retold = server.of("event.icmp_translated") > 0;
        ensure!(
            retold == self.retold,
            "ServerNIC translated ICMP errors: {retold}, expected {}",
            self.retold
        );
        let repaired = server.of("event.repaired_mss");
        ensure!(repaired == self.repaired, "ServerNIC re-segmented {repaired} flows");
        Ok(())
    }
}

fn shrink(topology: &Topology, place: Place) -> anyhow::Result<()> {
    let Topology { client, client_nic, server_nic, server, .. } = topology;
    let devices: &[(&Host, &str)] = match place {
        Place::ClientLeg => &[(client, ETH0), (client_nic, LAN0)],
        Place::ClientNic => &[(client_nic, LAN0)],
        Place::ServerLeg => &[(server_nic, LAN0), (server, ETH0)],
        Place::ServerNic => &[(server_nic, LAN0)],
        Place::LongLeg => &[(client_nic, WAN0), (server_nic, WAN0)],
    };
    for (host, device) in devices {
        Links::open(host.namespace())?.set_mtu_and_queue(device, MTU, QUEUE)?;
    }
    Ok(())
}
