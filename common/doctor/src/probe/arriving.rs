//! Stand-in, to be replaced.

use std::net::IpAddr;

use super::{Protocol, Sighting};

/// Watches what arrives.
#[derive(Debug)]
pub struct Watch {}

impl Watch {
    /// Begins to watch.
    ///
    /// # Errors
    /// Never.
    pub fn start(_protocol: Protocol, _port: u16, _source: IpAddr) -> Result<Self, String> {
        Ok(Self {})
    }

    /// Returns what was seen.
    pub fn finish(self) -> Vec<Sighting> {
        Vec::new()
    }
}
