//! The services that are told apart, and the statistics of each.

use super::statistics::{Distributions, Statistics};
use rtt0_core::service::{Direction, Service, Services};
use rtt0_core::wire::segment::Endpoint;
use std::collections::HashMap;

/// Services whose times are kept, 9 KB each; of more only numbers are counted.
pub(super) const DISTRIBUTIONS: usize = 512;

/// The most services that a table may be made for.
const MOST: usize = 1 << 16;

/// All services.
#[derive(Debug)]
pub(super) struct Table {
    rules: Services,
    found: HashMap<Endpoint, u32>,
    /// Of all connections.
    pub(super) all: Statistics,
    rows: Vec<(Name, Statistics)>,
    most: usize,
    kept: usize,
}

/// What a row is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Name {
    /// A service asked for.
    Rule(Service),
    /// A destination found.
    Found(Endpoint),
    /// Destinations found when there was no room for another row.
    Others,
}

impl Table {
    /// Makes the rows of `rules`, or none if there are no rules: then each destination gets one, up to `most`.
    pub(super) fn new(rules: Vec<Service>, most: usize) -> Self {
        let most = most.min(MOST);
        let row = |rule: &Service| (Name::Rule(rule.clone()), Statistics::default());
        // All at once, and one for others: growth would take twice the room and make packets wait.
        let mut rows = Vec::with_capacity(if rules.is_empty() { most + 1 } else { rules.len().min(most) });
        rows.extend(rules.iter().take(most).map(row));
        let mut all = Statistics::default();
        all.distributions = Some(Box::default());
        let rules = Services::new(rules.into_iter().take(most).collect(), Vec::new());
        Self { rules, found: HashMap::new(), all, rows, most, kept: 0 }
    }

    /// Returns the number of the service that a connection from `client` to `server` belongs to; `None` if it is
    /// none that was asked for.
    pub(super) fn find(&mut self, client: Endpoint, server: Endpoint) -> Option<u32> {
        let rules = self.rules.rules();
        if !rules.is_empty() {
            // As the daemon has it: between two services nobody can tell who the client is.
            let claimed = self.rules.direction(client, server) == Some(Direction::ToServer);
            let place = rules.iter().position(|rule| rule.contains(server.0, server.1));
            return place.filter(|_| claimed).map(|place| place as u32);
        }
        if let Some(number) = self.found.get(&server) {
            return Some(*number);
        }
        let number = self.rows.len();
        if number < self.most {
            self.rows.push((Name::Found(server), Statistics::default()));
            self.found.insert(server, number as u32);
            return Some(number as u32);
        }
        if number == self.most {
            self.rows.push((Name::Others, Statistics::default()));
        }
        Some(self.most as u32)
    }

    /// Changes the statistics of a service and of all.
    pub(super) fn change(&mut self, service: u32, mut change: impl FnMut(&mut Statistics)) {
        change(&mut self.all);
        if let Some((_, statistics)) = self.rows.get_mut(service as usize) {
            change(statistics);
        }
    }

    /// Makes room for the times of a service, if there is some.
    pub(super) fn keep_times(&mut self, service: u32) {
        let Some((_, statistics)) = self.rows.get_mut(service as usize) else { return };
        if statistics.distributions.is_none() && self.kept < DISTRIBUTIONS {
            self.kept += 1;
            statistics.distributions = Some(Box::<Distributions>::default());
        }
    }

    /// Iterates over the rows, those asked for in their order first.
    pub(super) fn rows(&self) -> impl Iterator<Item = &(Name, Statistics)> {
        self.rows.iter()
    }
}
