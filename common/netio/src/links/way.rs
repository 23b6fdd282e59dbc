//! Where the kernel sends packets: the route that it would take, and who is next on it. No capability is needed.

use std::io;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::link::{LinkAttribute, LinkXdp};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourState};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteType};

use super::{LinkError, Links, refused};

/// How the kernel would send a packet now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// The index of the device; that of loopback if `is_local`.
    pub device: u32,
    /// The router, unless the destination is on the device's own network.
    pub gateway: Option<IpAddr>,
    /// The source address that it would choose.
    pub source: Option<IpAddr>,
    /// The destination is this host.
    pub is_local: bool,
}

/// What the kernel knows of a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Neighbour {
    /// Its Ethernet address, or that it needs none.
    Known,
    /// It has been asked and has not answered yet.
    Asked,
    /// It has not answered.
    Failed,
}

impl Links {
    /// Returns how a packet to `destination` would be sent, as `ip route get` does.
    ///
    /// # Errors
    /// [`LinkError::Refused`] with what routing says: `ENETUNREACH` without a route, `EHOSTUNREACH` and `EACCES` for
    /// routes that refuse, `EINVAL` for those of type blackhole.
    pub fn way(&self, destination: IpAddr) -> Result<Way, LinkError> {
        let action = || format!("look up the route to {destination}");
        let length = if destination.is_ipv4() { 32 } else { 128 };
        let message = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(destination, length)
            .map_err(|error| LinkError::Invalid { action: action(), reason: error.to_string() })?
            .build();
        let answer = async {
            let mut answers = std::pin::pin!(self.handle.route().get(message).execute());
            answers.try_next().await
        };
        let answer = self.runtime.block_on(answer).map_err(|error| refused(action(), error))?;
        let none = || LinkError::Refused { action: action(), source: io::Error::other("no answer") };
        let route = answer.ok_or_else(none)?;
        let mut way =
            Way { device: 0, gateway: None, source: None, is_local: route.header.kind == RouteType::Local };
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Oif(index) => way.device = *index,
                RouteAttribute::Gateway(gateway) => way.gateway = address(gateway),
                RouteAttribute::PrefSource(source) => way.source = address(source),
                _ => {}
            }
        }
        Ok(way)
    }

    /// Returns what is known of a neighbour on the device `index`; `None` if the kernel has no entry.
    ///
    /// # Errors
    /// [`LinkError::Refused`].
    pub fn neighbour(&self, index: u32, neighbour: IpAddr) -> Result<Option<Neighbour>, LinkError> {
        let listing = async {
            let mut answers = std::pin::pin!(self.handle.neighbours().get().execute());
            let mut found = None;
            while let Some(message) = answers.try_next().await? {
                let is_it = |attribute: &NeighbourAttribute| match attribute {
                    NeighbourAttribute::Destination(NeighbourAddress::Inet(of)) => {
                        IpAddr::from(*of) == neighbour
                    }
                    NeighbourAttribute::Destination(NeighbourAddress::Inet6(of)) => {
                        IpAddr::from(*of) == neighbour
                    }
                    _ => false,
                };
                if message.header.ifindex == index && message.attributes.iter().any(is_it) {
                    found = Some(message.header.state);
                }
            }
            Ok(found)
        };
        let state = self.runtime.block_on(listing);
        let state = state.map_err(|error| refused(format!("look up the neighbour {neighbour}"), error))?;
        Ok(state.map(|state| match state {
            NeighbourState::Incomplete => Neighbour::Asked,
            NeighbourState::Failed => Neighbour::Failed,
            _ => Neighbour::Known,
        }))
    }

    /// Returns the ids of the XDP programs on a device.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn xdp_programs(&self, link: &str) -> Result<Vec<u32>, LinkError> {
        let mut ids = Vec::new();
        for attribute in self.message(link)?.attributes {
            let LinkAttribute::Xdp(details) = attribute else { continue };
            for detail in details {
                use LinkXdp::{DrvProgId, HwProgId, ProgId, SkbProgId};
                if let ProgId(id) | DrvProgId(id) | SkbProgId(id) | HwProgId(id) = detail
                    && !ids.contains(&id)
                    && id != 0
                {
                    ids.push(id);
                }
            }
        }
        Ok(ids)
    }
}

fn address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}
