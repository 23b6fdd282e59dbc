//! Stands in for the near side of the conversation with an agent.

use std::net::SocketAddr;

use crate::probe::{Protocol, Sighting};

/// A doctor that listens at the far end.
#[derive(Debug)]
pub struct Agent {}

impl Agent {
    /// Connects to one.
    ///
    /// # Errors
    /// In words.
    pub fn connect(_address: SocketAddr) -> Result<Self, String> {
        Err("not built yet".to_owned())
    }

    /// Has it count, layer by layer, what arrives from here at a port. Returns when it does.
    ///
    /// # Errors
    /// In words.
    pub fn watch(&mut self, _protocol: Protocol, _port: u16) -> Result<(), String> {
        Err("not built yet".to_owned())
    }

    /// Returns what it has counted since [`Agent::watch`], in the order of the layers.
    ///
    /// # Errors
    /// In words.
    pub fn report(&mut self) -> Result<Vec<Sighting>, String> {
        Err("not built yet".to_owned())
    }
}
