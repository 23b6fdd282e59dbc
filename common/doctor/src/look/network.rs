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

#[cfg(test)]
mod tests {
    use super::super::neighbours::State;
    use super::super::processes;
    use super::super::routes::{Way, way};
    use super::*;
    use rtt0_netio::links::{Links, VethEnd};
    use rtt0_netio::netns::Namespace;

    #[test]
    fn a_fresh_namespace_is_read_as_it_was_made() {
        let namespace = match Namespace::create() {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                println!("skipped: needs CAP_SYS_ADMIN and CAP_NET_ADMIN");
                return;
            }
            outcome => outcome.unwrap(),
        };
        let end = |name| VethEnd { namespace: &namespace, name };
        Links::add_veth(end("lan0"), end("far0"), 1400).unwrap();
        let links = Links::open(&namespace).unwrap();
        let (own, router): (IpAddr, IpAddr) = ([10, 9, 0, 1].into(), [10, 9, 0, 2].into());
        links.add_address("lan0", own, 24).unwrap();
        links.bring_up("lan0").unwrap();
        links.add_route([10, 8, 0, 0].into(), 16, router).unwrap();
        links.add_neighbour("lan0", router, [2, 0, 0, 0, 0, 9]).unwrap();
        namespace
            .enter(|| {
                let network = Network::read().unwrap();
                let lan0 = network.link("lan0").unwrap();
                assert_eq!(
                    (lan0.kind.as_str(), lan0.mtu, lan0.is_up, lan0.has_carrier),
                    ("veth", 1400, true, false)
                );
                assert!(!network.link("far0").unwrap().is_up && lan0.mac.is_some());
                assert!(network.is_own(own) && !network.is_own(router));
                let route =
                    network.routes.iter().find(|route| route.to.to_string() == "10.8.0.0/16").unwrap();
                assert_eq!((route.via, route.interface, route.refusal), (Some(router), lan0.index, None));
                let neighbour =
                    network.neighbours.iter().find(|neighbour| neighbour.address == router).unwrap();
                assert_eq!((neighbour.state, neighbour.mac), (State::Permanent, Some([2, 0, 0, 0, 0, 9])));
                assert_eq!(way([10, 8, 1, 1].into(), 7), Way::Out(lan0.index, Some(router)));
                assert_eq!(way([10, 9, 0, 7].into(), 0), Way::Out(lan0.index, None));
                assert_eq!(way(own, 0), Way::Here);
                assert_eq!(way([10, 7, 0, 1].into(), 0), Way::Nowhere);
                assert_eq!(way("fd07::1".parse().unwrap(), 0), Way::Nowhere);
                assert!(processes::daemons("clientnic").unwrap().is_empty());
            })
            .unwrap();
    }
}
