//! Connections of served destinations that are to be made without the middlebox.
//!
//! A health check that takes connect() for proof of life must not be answered by anybody but the server.

use crate::flow::FlowKey;
use crate::service::{Prefix, Service};

/// Which new connections pass untouched although their destination is served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exclusions {
    /// Destinations.
    pub destinations: Vec<Service>,
    /// Clients.
    pub sources: Vec<Prefix>,
}

impl Exclusions {
    /// Tells whether there is none.
    pub fn is_empty(&self) -> bool {
        self.destinations.is_empty() && self.sources.is_empty()
    }

    /// Tells whether the connection `key` is excluded. Linear in the number of rules.
    pub fn include(&self, key: &FlowKey) -> bool {
        let (client, server) = (key.client(), key.server());
        self.sources.iter().any(|prefix| prefix.contains(client.0))
            || self.destinations.iter().any(|rule| rule.contains(server.0, server.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Direction;

    #[test]
    fn either_end_excludes() {
        let exclusions = Exclusions {
            destinations: vec!["10.1.2.9:443".parse().unwrap()],
            sources: vec!["10.1.0.99".parse().unwrap(), "fd00::/64".parse().unwrap()],
        };
        let included = |client: &str, server: &str, port| {
            let (client, server) = ((client.parse().unwrap(), 40_000), (server.parse().unwrap(), port));
            exclusions.include(&FlowKey::new(client, server, Direction::ToServer))
        };
        assert!(included("10.1.0.1", "10.1.2.9", 443));
        assert!(!included("10.1.0.1", "10.1.2.9", 444) && !included("10.1.0.1", "10.1.2.8", 443));
        assert!(included("10.1.0.99", "10.1.2.8", 80));
        assert!(included("fd00::7", "fd01::1", 80) && !included("fd01::7", "fd01::1", 80));
    }
}
