//! Connections made at the very moment when a NIC has been killed, or has come back knowing nothing new.

use super::oracle::{Change, Early, Trial};
use super::stale_profile::DIALOGUES;
use super::{Case, Lab, Report, Scenario};
use crate::nic::NicMode;
use anyhow::Context;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "absent-nic",
    about: "either NIC killed, restarted or both gone: connections begun right then are as with kernel forwarding",
    run,
};

/// Kills a daemon; the lab of the other world has none.
fn kill(lab: &mut Lab, daemon: &str) -> anyhow::Result<()> {
    let Ok(nics) = lab.nics() else { return Ok(()) };
    let process = if daemon == "servernic" { nics.server() } else { nics.client() };
    process.take().context("the daemon does not run")?.kill()?;
    Ok(())
}

fn restart(lab: &mut Lab, daemon: &str) -> anyhow::Result<()> {
    kill(lab, daemon)?;
    let Ok((nics, topology)) = lab.nics_and_topology() else { return Ok(()) };
    match daemon {
        "servernic" => nics.start_server(&topology.server_nic),
        _ => nics.start_client(&topology.client_nic),
    }
}

const CHANGES: &[(&str, Change)] = &[
    ("ServerNIC killed", |lab| kill(lab, "servernic")),
    ("ClientNIC killed", |lab| kill(lab, "clientnic")),
    ("both killed", |lab| {
        kill(lab, "servernic")?;
        kill(lab, "clientnic")
    }),
    ("ServerNIC restarted", |lab| restart(lab, "servernic")),
    ("ClientNIC restarted", |lab| restart(lab, "clientnic")),
];

fn run(report: &mut Report) -> anyhow::Result<()> {
    report.at_once(&Case::EACH, |&case, report| {
        for mode in [NicMode::Auto, NicMode::Paired] {
            for (what, change) in CHANGES {
                // The second round knows of it.
                let trial = Trial::new(case, DIALOGUES).mode(mode).upset(*change).rounds(2);
                let verified = trial.early(Early::Any).verify(report);
                verified.map_err(|error| error.context(format!("{what}, {mode:?}")))?;
            }
        }
        Ok(())
    })
}
