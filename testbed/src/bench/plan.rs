//! Decides what is measured and in which order.

use super::bulk::{Bulk, Way};
use super::connections::Connections;
use super::latency::Latency;
use super::matrix::Matrix;
use super::memory::Memory;
use super::packets::Packets;
use super::site::{Place, Site};
use super::variant::Variant;
use super::{bulk, connections, figure, latency, matrix, memory, packets};
use clap::ValueEnum;
use fastrand::Rng;
use serde::Serialize;
use std::fmt::Debug;
use std::time::Duration;

/// What can be asked for by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measurement {
    /// connect(), time to first byte, one-way latency
    Latency,
    /// Goodput of large transfers without delay
    Bulk,
    /// Packets a second, loss, processor time a packet
    Packets,
    /// Connections a second
    Connections,
    /// Memory of the daemons a flow
    Memory,
    /// Transfers over RTT, loss and congestion control
    Matrix,
}

impl Measurement {
    /// All of them, in the order in which they are made.
    pub const ALL: [Self; 6] =
        [Self::Latency, Self::Bulk, Self::Packets, Self::Connections, Self::Memory, Self::Matrix];

    /// Returns the name used on the command line, in tables and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Latency => latency::NAME,
            Self::Bulk => bulk::NAME,
            Self::Packets => packets::NAME,
            Self::Connections => connections::NAME,
            Self::Memory => memory::NAME,
            Self::Matrix => matrix::NAME,
        }
    }
}

/// Something that is measured for one variant after the other.
pub trait Measure: Debug {
    /// Returns the name of the measurement it belongs to.
    fn measurement(&self) -> &'static str;

    /// Returns what tells it from the others of its measurement.
    fn name(&self) -> String;

    /// Returns where it takes place.
    fn place(&self) -> Place;

    /// Returns how long one variant takes, roughly, without what is started before.
    fn time(&self) -> Duration;

    /// Returns what follows from the number of connections that the daemons made in 0-RTT, warm-up
    /// included.
    fn spoofed(&self, count: u64) -> Option<figure::Sample> {
        let _ = count;
        None
    }

    /// Returns why a variant can't be measured in this way, or `None` if it can.
    fn absence(&self, variant: Variant) -> Option<&'static str>;

    /// Measures the variant that runs at `site`.
    ///
    /// # Errors
    /// If it did not work: the variant has no figures then, and the reason is reported.
    fn run(&self, site: &Site<'_>) -> anyhow::Result<Vec<figure::Sample>>;
}

/// How much is measured.
#[derive(Debug, Clone)]
pub struct Extent {
    /// The measurements; empty means all.
    pub measurements: Vec<Measurement>,
    /// A short form for CI.
    pub quick: bool,
    /// Connections of the one at a given rate.
    pub connections: u32,
    /// Connections of the one at a higher rate.
    pub fast_connections: u32,
    /// Idle flows held for the memory they take.
    pub flows: u32,
    /// Sizes of the matrix's transfers, MB.
    pub megabytes: Vec<u64>,
    /// Longest a transfer of the matrix may take.
    pub patience: Duration,
}

/// Lists what is measured in each round, in order.
pub fn measures(extent: &Extent) -> Vec<Box<dyn Measure>> {
    let wanted = |measurement| extent.measurements.is_empty() || extent.measurements.contains(&measurement);
    let mut measures: Vec<Box<dyn Measure>> = Vec::new();
    for measurement in Measurement::ALL.into_iter().filter(|m| wanted(*m)) {
        match measurement {
            Measurement::Latency => measures.push(Box::new(latency(extent))),
            Measurement::Bulk => measures.extend(bulk(extent).map(boxed)),
            Measurement::Packets => measures.extend(Packets::all(extent.quick).map(boxed)),
            Measurement::Connections => measures.extend(Connections::all(extent).into_iter().map(boxed)),
            Measurement::Memory => measures.push(Box::new(Memory { flows: extent.flows })),
            Measurement::Matrix => measures.extend(Matrix::all(extent).into_iter().map(boxed)),
        }
    }
    measures
}

fn boxed<M: Measure + 'static>(measure: M) -> Box<dyn Measure> {
    Box::new(measure)
}

fn latency(extent: &Extent) -> Latency {
    if extent.quick {
        Latency { connections: 60, echoes: 200 }
    } else {
        Latency { connections: 500, echoes: 2000 }
    }
}

fn bulk(extent: &Extent) -> impl Iterator<Item = Bulk> + use<> {
    let quick = extent.quick;
    let duration = if quick { Duration::from_millis(300) } else { Duration::from_secs(2) };
    let all = [1, 8].into_iter().flat_map(move |streams| {
        [Way::Down, Way::Up]
            .into_iter()
            .flat_map(move |way| [true, false].map(|offloads| Bulk { streams, way, offloads, duration }))
    });
    all.filter(move |bulk| !quick || (bulk.streams == 1 && bulk.way == Way::Down))
}

/// Returns the variants in an order that is drawn anew for each measurement and round.
pub fn order(variants: &[Variant], rng: &mut Rng) -> Vec<Variant> {
    let mut order = variants.to_vec();
    rng.shuffle(&mut order);
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn extent(quick: bool) -> Extent {
        Extent {
            measurements: Vec::new(),
            quick,
            connections: 500,
            fast_connections: 500,
            flows: 500,
            megabytes: if quick { vec![4] } else { vec![4, 100] },
            patience: Duration::from_secs(5),
        }
    }

    #[test]
    fn every_measurement_has_something_to_measure_and_no_two_are_alike() {
        for quick in [false, true] {
            let measures = measures(&extent(quick));
            let names: BTreeSet<_> = measures.iter().map(|m| (m.measurement(), m.name())).collect();
            assert_eq!(names.len(), measures.len());
            let of: BTreeSet<_> = measures.iter().map(|m| m.measurement()).collect();
            assert_eq!(of.len(), Measurement::ALL.len());
        }
    }

    #[test]
    fn quick_is_quick() {
        let time: Duration = measures(&extent(true)).iter().map(|m| m.time()).sum();
        assert!(time < Duration::from_secs(40), "{time:?} for each variant");
    }

    #[test]
    fn what_is_asked_for_is_what_is_measured() {
        let some = Extent { measurements: vec![Measurement::Latency], ..extent(false) };
        assert!(measures(&some).iter().all(|m| m.measurement() == latency::NAME));
    }

    #[test]
    fn orders_differ_and_leave_nothing_out() {
        let mut rng = Rng::with_seed(1);
        let orders: BTreeSet<_> = (0..20).map(|_| order(&Variant::ALL, &mut rng)).collect();
        assert!(orders.len() > 10);
        for order in orders {
            let set: BTreeSet<_> = order.iter().copied().collect();
            assert_eq!(set.len(), Variant::ALL.len());
        }
    }

    #[test]
    fn names_are_those_of_the_command_line_and_of_json() {
        for measurement in Measurement::ALL {
            assert_eq!(measurement.to_possible_value().unwrap().get_name(), measurement.name());
            assert_eq!(serde_json::to_value(measurement).unwrap(), measurement.name());
        }
    }
}
