//! How this host is set up to forward: interfaces, addresses, routes, neighbours.

use std::net::IpAddr;

use super::links::{self, Address, Link};
use super::neighbours::{self, Neighbour};
use super::routes::{self, RefusingRule, Route};

/// All of it, at one time.
#[derive(Debug, Clone, Default)]
pub struct Network {
    /// Interfaces, loopback included.
    pub links: Vec<Link>,
    /// Their addresses.
    pub addresses: Vec<Address>,
    /// Routes of all tables.
    pub routes: Vec<Route>,
    /// Policy rules that refuse packets.
    pub rules: Vec<RefusingRule>,
    /// Neighbours of both IP versions.
    pub neighbours: Vec<Neighbour>,
}

impl Network {
    /// Reads it, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// Why the kernel does not tell.
    pub fn read() -> Result<Self, String> {
        let told = |what: &str, error: String| format!("the kernel does not tell its {what}: {error}");
        Ok(Self {
            links: links::links().map_err(|error| told("interfaces", error))?,
            addresses: links::addresses().map_err(|error| told("addresses", error))?,
            routes: routes::routes().map_err(|error| told("routes", error))?,
            rules: routes::refusing_rules().map_err(|error| told("policy rules", error))?,
            neighbours: neighbours::read().map_err(|error| told("neighbours", error))?,
        })
    }

    /// Finds an interface by its name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// Finds an interface by its index.
    pub fn link_at(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// Returns an interface's name, or its number if it has gone.
    pub fn name(&self, index: u32) -> String {
        self.link_at(index).map_or_else(|| format!("interface {index}"), |link| link.name.clone())
    }

    /// Returns the addresses of an interface.
    pub fn addresses_of(&self, index: u32) -> impl Iterator<Item = &Address> {
        self.addresses.iter().filter(move |address| address.interface == index)
    }

    /// Tells whether an address is this host's.
    pub fn is_own(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| own.address == address)
    }

    /// Tells whether what leaves or arrives by the interface `index` also passes one of `names`: it is one of them, a port of
    /// a bridge or bond, or lies upon it.
    pub fn passes(&self, index: u32, names: &[String]) -> bool {
        let Some(link) = self.link_at(index) else { return false };
        names.contains(&link.name)
            || self.links.iter().any(|other| {
                names.contains(&other.name)
                    && (other.master == index || (link.kind != "veth" && link.lower == other.index))
            })
    }
}
