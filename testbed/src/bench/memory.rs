//! Memory of the processes between the endpoints: resident bytes before, and with so many idle
//! flows.

use super::connections::{PROXIES_AT_MOST, warm_up};
use super::cpu;
use super::figure::{Better, Metric, Sample};
use super::load::crowd::{Crowd, Pace};
use super::load::crowd_server::CrowdServer;
use super::load::reply::Then;
use super::plan::Measure;
use super::site::{Place, Site, client_addresses};
use super::variant::Variant;
use anyhow::{Context, ensure};
use std::time::Duration;

/// Name of the measurement.
pub const NAME: &str = "memory";
/// Connections under way at a time while they are made.
const AT_A_TIME: u32 = 200;
/// Until the last packets have been handled.
const SETTLE: Duration = Duration::from_millis(300);

/// So many idle flows.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Flows held.
    pub flows: u32,
}

/// Resident memory with few flows, and what a flow adds, of the process on each NIC.
const METRICS: [(&str, Metric, Metric); 2] = [
    (
        "clientnic",
        Metric::alone("ClientNIC, empty", "MB", Better::Less),
        Metric::alone("ClientNIC, each flow", "bytes", Better::Less),
    ),
    (
        "servernic",
        Metric::alone("ServerNIC, empty", "MB", Better::Less),
        Metric::alone("ServerNIC, each flow", "bytes", Better::Less),
    ),
];

impl Measure for Memory {
    fn measurement(&self) -> &'static str {
        NAME
    }

    fn name(&self) -> String {
        format!("{} idle flows", self.flows)
    }

    fn place(&self) -> Place {
        Place::Cable { offloads: false }
    }

    fn time(&self) -> Duration {
        SETTLE * 2 + Duration::from_micros(150) * self.flows
    }

    fn absence(&self, variant: Variant) -> Option<&'static str> {
        match variant {
            Variant::Kernel => Some("no process: the kernel holds no state of a flow"),
            Variant::Synproxy => Some("no process: connection tracking holds its flows in the kernel"),
            Variant::Pnet => Some("no process of its own, and no state of a flow"),
            _ => None,
        }
    }

    fn run(&self, site: &Site<'_>) -> anyhow::Result<Vec<Sample>> {
        let flows = if site.variant.is_proxy() { self.flows.min(PROXIES_AT_MOST) } else { self.flows };
        let server = CrowdServer::start(&site.topology.server, site.server())?;
        let crowd = Crowd {
            target: site.target(),
            sources: client_addresses().collect(),
            pace: Pace::Closed(AT_A_TIME),
            total: flows,
            duration: Duration::from_secs(60),
            timeout: Duration::from_secs(10),
            then: Then::Hold,
        };
        warm_up(site, &crowd)?;
        std::thread::sleep(SETTLE);
        let empty = resident(site)?;
        let outcome = site.topology.client.enter(|| crowd.run())??;
        ensure!(outcome.completed == flows, "{} of {flows} flows: {:?}", outcome.completed, outcome.failed);
        std::thread::sleep(SETTLE);
        let full = resident(site)?;
        drop(server);
        let mut samples = Vec::new();
        for (name, base, each) in METRICS {
            let of =
                |list: &[(&str, u64)]| list.iter().find(|(n, _)| *n == name).map(|(_, bytes)| *bytes as f64);
            let (Some(empty), Some(full)) = (of(&empty), of(&full)) else { continue };
            samples.push(base.sample(empty / 1e6));
            samples.push(each.sample(((full - empty) / f64::from(flows)).max(0.0)));
        }
        Ok(samples)
    }
}

fn resident(site: &Site<'_>) -> anyhow::Result<Vec<(&'static str, u64)>> {
    let processes = site.middle.processes().into_iter();
    processes.map(|(name, id)| Ok((name, cpu::resident(id).context(name)?))).collect()
}
