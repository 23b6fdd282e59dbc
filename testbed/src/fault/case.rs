//! A case: what is injected, who is examined, and what has to be found.

use rtt0_doctor::Layer;

use super::site::Site;
use super::traffic::Kind;
use crate::nic::NicMode;
use crate::topology::Wiring;

/// One case.
#[derive(Debug)]
pub struct Case {
    /// Its name on the command line and in the table.
    pub name: &'static str,
    /// What is wrong, or what is special about a healthy site.
    pub about: &'static str,
    /// What has to be found first; nothing at all on a healthy site.
    pub expected: Option<Expected>,
    /// How the site is made.
    pub(super) raised: Raised,
    /// Who is examined.
    pub(super) patient: Patient,
    /// What the doctor is told besides.
    pub(super) arguments: &'static [&'static str],
    /// Where a doctor listens for the one that examines, if anywhere.
    pub(super) agent: Option<Place>,
    /// What goes to and fro meanwhile.
    pub(super) traffic: &'static [Kind],
    /// Does the damage.
    pub(super) inject: fn(&mut Site) -> anyhow::Result<()>,
}

/// What has to be found first.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    /// Any of these.
    pub causes: &'static [&'static str],
    /// At this layer.
    pub layer: Layer,
}

/// How a site is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Raised {
    pub(super) nics: Option<NicMode>,
    /// What both daemons are told besides.
    pub(super) nic_arguments: &'static [&'static str],
    pub(super) wiring: Wiring,
    pub(super) offloads: bool,
    /// Of the long leg, 0–1.
    pub(super) loss: f64,
    /// Of the long leg, 0–1.
    pub(super) reorder: f64,
}

/// Without daemons, on a clean path.
pub(super) const PLAIN: Raised = Raised {
    nics: None,
    nic_arguments: &[],
    wiring: Wiring::Direct,
    offloads: true,
    loss: 0.0,
    reorder: 0.0,
};

/// With both daemons.
pub(super) const WITH_NICS: Raised = Raised { nics: Some(NicMode::Auto), ..PLAIN };

/// A host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Client,
    ClientNic,
    ServerNic,
    Server,
}

/// Who is examined, and by which doctor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patient {
    /// By `testbed doctor`.
    Host(Place),
    /// By the daemon's own.
    Nic(Place),
}

/// Nothing wrong, nothing special, nobody there: what cases are made from.
pub(super) const BASE: Case = Case {
    name: "",
    about: "",
    expected: None,
    raised: PLAIN,
    patient: Patient::Host(Place::Client),
    arguments: &[],
    agent: None,
    traffic: &[],
    inject: |_| Ok(()),
};

/// What has to be found.
pub(super) const fn expect(causes: &'static [&'static str], layer: Layer) -> Option<Expected> {
    Some(Expected { causes, layer })
}
