//! The gateway of a side whose NIC has one arm: a switch for endpoint and NIC, and a router between
//! it and the long leg.

use super::{EVERY_HOST, ROUTERS, TopologyConfig, assign, join, route_all};
use crate::address::{Dual, ETH0, LAN0};
use crate::host::Host;
use rtt0_netio::links::Links;
use rtt0_netio::sysctl;

/// The switch, and the gateway's own place on it.
const SWITCH: &str = "br0";
/// The switch's ports: the endpoint's and the NIC's.
const PORTS: [&str; 2] = ["port0", "port1"];

/// Makes a gateway with a switch.
///
/// # Errors
/// A namespace or bridge cannot be made.
pub(super) fn create(name: &'static str) -> anyhow::Result<Host> {
    let gate = Host::create(name)?;
    sysctl::set(gate.namespace(), EVERY_HOST)?;
    sysctl::set(gate.namespace(), ROUTERS)?;
    Links::open(gate.namespace())?.add_bridge(SWITCH)?;
    Ok(gate)
}

/// Joins endpoint and NIC to the switch.
///
/// # Errors
/// A device cannot be made.
pub(super) fn join_to(
    gate: &Host,
    endpoint: &Host,
    nic: &Host,
    config: &TopologyConfig,
) -> anyhow::Result<()> {
    let links = Links::open(gate.namespace())?;
    for (port, far) in PORTS.into_iter().zip([(endpoint, ETH0), (nic, LAN0)]) {
        join((gate, port), far, config)?;
        links.bring_up(port)?;
        links.attach(port, SWITCH)?;
    }
    Ok(())
}

/// Leads packets through the NIC: those for the endpoint from the gateway to the NIC, and all others
/// from the NIC to the gateway.
///
/// # Errors
/// An address or route cannot be made.
pub(super) fn route(
    gate: &Host,
    nic: &Host,
    own: Dual,
    (endpoint, nic_address): (Dual, Dual),
) -> anyhow::Result<()> {
    assign(gate, SWITCH, own)?;
    let links = Links::open(gate.namespace())?;
    links.add_route(endpoint.v4.into(), 32, nic_address.v4.into())?;
    links.add_route(endpoint.v6.into(), 128, nic_address.v6.into())?;
    route_all(nic, own)
}
