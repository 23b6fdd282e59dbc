//! The four hosts and where they are.

use serde::Serialize;
use std::fmt;
use std::net::Ipv4Addr;

/// Prefix length of the hosts' subnets in bits.
const PREFIX: u8 = 24;

/// What a host is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Makes the connections.
    Client,
    /// Runs ClientNIC.
    ClientNic,
    /// Runs ServerNIC.
    ServerNic,
    /// Takes the connections.
    Server,
}

impl Role {
    /// All of them, from client to server.
    pub const ALL: [Self; 4] = [Self::Client, Self::ClientNic, Self::ServerNic, Self::Server];

    /// Returns `client`, `clientnic`, `servernic` or `server`: the value of the tag `rtt0:role`, too.
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::ClientNic => "clientnic",
            Self::ServerNic => "servernic",
            Self::Server => "server",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The two addresses of a NIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Arms {
    /// Towards its endpoint.
    pub lan: Ipv4Addr,
    /// Towards the other NIC.
    pub wan: Ipv4Addr,
}

/// The hosts' addresses, as found last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Site {
    /// The client's.
    pub client: Ipv4Addr,
    /// ClientNIC's.
    pub client_nic: Arms,
    /// ServerNIC's.
    pub server_nic: Arms,
    /// The server's.
    pub server: Ipv4Addr,
}

/// A route that a NIC has to have, so that what it forwards leaves by its other interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The network of the far endpoint.
    pub network: Ipv4Addr,
    /// Its prefix length in bits.
    pub prefix: u8,
    /// The other NIC.
    pub gateway: Ipv4Addr,
}

impl Site {
    /// Lists a host's interfaces: the name that captures of each have, and its address.
    pub fn interfaces(&self, role: Role) -> Vec<(&'static str, Ipv4Addr)> {
        let arms = |arms: &Arms| vec![("lan", arms.lan), ("wan", arms.wan)];
        match role {
            Role::Client => vec![("lan", self.client)],
            Role::ClientNic => arms(&self.client_nic),
            Role::ServerNic => arms(&self.server_nic),
            Role::Server => vec![("lan", self.server)],
        }
    }

    /// Returns the route that a NIC needs, none for an endpoint.
    pub fn route(&self, role: Role) -> Option<Route> {
        let (beyond, gateway) = match role {
            Role::ClientNic => (self.server, self.server_nic.wan),
            Role::ServerNic => (self.client, self.client_nic.wan),
            Role::Client | Role::Server => return None,
        };
        let mask = u32::MAX << (32 - PREFIX);
        Some(Route { network: Ipv4Addr::from(u32::from(beyond) & mask), prefix: PREFIX, gateway })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nics_route_to_the_far_network_through_each_other() {
        let at = |leg, host| Ipv4Addr::new(10, 1, leg, host);
        let site = Site {
            client: at(0, 10),
            client_nic: Arms { lan: at(0, 11), wan: at(1, 11) },
            server_nic: Arms { lan: at(2, 12), wan: at(1, 12) },
            server: at(2, 10),
        };
        let route = site.route(Role::ClientNic).unwrap();
        assert_eq!((route.network, route.prefix, route.gateway), (at(2, 0), 24, at(1, 12)));
        assert_eq!(site.route(Role::ServerNic).unwrap().network, at(0, 0));
        assert_eq!(site.route(Role::Client), None);
        assert_eq!(site.interfaces(Role::ServerNic), [("lan", at(2, 12)), ("wan", at(1, 12))]);
    }
}
