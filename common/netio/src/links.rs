//! Links, addresses, routes and neighbours of a namespace, over rtnetlink.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::{AddressHeaderFlags, AddressScope};
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder, new_connection,
};
use tokio::runtime::{Builder, Runtime};

use crate::netns::Namespace;

mod way;

pub use way::{Neighbour, Way};

/// What went wrong with a request to the kernel's routing tables.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The netlink socket (`socket(2)`, `AF_NETLINK`) or its event loop could not be made.
    #[error("cannot open an rtnetlink socket in the namespace")]
    Open(#[source] io::Error),
    /// No device of this name exists in the namespace.
    #[error("no network interface named {0:?} in the namespace")]
    NoSuchLink(String),
    /// The arguments cannot be put into a request.
    #[error("cannot {action}: {reason}")]
    Invalid {
        /// What was asked for.
        action: String,
        /// Why it makes no sense.
        reason: String,
    },
    /// The kernel refused; changes need `CAP_NET_ADMIN` in the namespace.
    #[error("cannot {action}")]
    Refused {
        /// What was asked for.
        action: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl LinkError {
    /// Tells whether a missing capability is the cause.
    pub fn is_permission_denied(&self) -> bool {
        match self {
            Self::Open(source) | Self::Refused { source, .. } => {
                source.kind() == io::ErrorKind::PermissionDenied
            }
            Self::NoSuchLink(_) | Self::Invalid { .. } => false,
        }
    }
}

/// Where one end of a veth pair goes.
#[derive(Debug, Clone, Copy)]
pub struct VethEnd<'a> {
    /// The namespace it is made in.
    pub namespace: &'a Namespace,
    /// Its name there, at most 15 bytes.
    pub name: &'a str,
}

/// An rtnetlink socket inside one namespace. It may be used from any thread.
#[derive(Debug)]
pub struct Links {
    runtime: Runtime,
    handle: Handle,
}

impl Links {
    /// Opens an rtnetlink socket in `namespace`. Needs no capability; most requests do.
    ///
    /// # Errors
    /// [`LinkError::Open`].
    pub fn open(namespace: &Namespace) -> Result<Self, LinkError> {
        // Made outside: the first runtime of a process opens a socket pair that tokio never closes,
        // and a socket keeps the namespace it was made in alive.
        let runtime = Builder::new_current_thread().enable_io().build().map_err(LinkError::Open)?;
        let handle =
            namespace.enter(|| Self::connect(&runtime)).map_err(LinkError::Open)?.map_err(LinkError::Open)?;
        Ok(Self { runtime, handle })
    }

    /// Opens an rtnetlink socket in the namespace of the calling thread. Needs no capability;
    /// most requests do.
    ///
    /// # Errors
    /// [`LinkError::Open`].
    pub fn here() -> Result<Self, LinkError> {
        let runtime = Builder::new_current_thread().enable_io().build().map_err(LinkError::Open)?;
        let handle = Self::connect(&runtime).map_err(LinkError::Open)?;
        Ok(Self { runtime, handle })
    }

    fn connect(runtime: &Runtime) -> io::Result<Handle> {
        let entered = runtime.enter();
        let (connection, handle, _) = new_connection()?;
        drop(entered);
        runtime.spawn(connection);
        Ok(handle)
    }

    /// Makes a veth pair, both ends down, with the same `mtu` in bytes (68–65,535).
    ///
    /// # Errors
    /// [`LinkError`]; needs `CAP_NET_ADMIN` in both namespaces.
    pub fn add_veth(near: VethEnd<'_>, far: VethEnd<'_>, mtu: u32) -> Result<(), LinkError> {
        Self::add_veth_with(near, far, mtu, &[])
    }

    /// As [`Links::add_veth`], each end with `queues` queues to send and as many to receive (1–4,096). A packet arrives by the
    /// queue of the number by which it was sent, which the kernel chooses by its flow.
    ///
    /// # Errors
    /// As [`Links::add_veth`].
    pub fn add_veth_of_queues(
        near: VethEnd<'_>,
        far: VethEnd<'_>,
        mtu: u32,
        queues: u32,
    ) -> Result<(), LinkError> {
        let both = [LinkAttribute::NumTxQueues(queues), LinkAttribute::NumRxQueues(queues)];
        Self::add_veth_with(near, far, mtu, &both)
    }

    /// Makes a veth pair with the same attributes at both ends.
    fn add_veth_with(
        near: VethEnd<'_>,
        far: VethEnd<'_>,
        mtu: u32,
        both: &[LinkAttribute],
    ) -> Result<(), LinkError> {
        let peer =
            LinkUnspec::new_with_name(far.name).mtu(mtu).setns_by_fd(far.namespace.as_fd().as_raw_fd());
        let peer = both.iter().cloned().fold(peer, LinkMessageBuilder::append_extra_attribute).build();
        let own =
            LinkVeth::new(near.name, far.name).mtu(mtu).set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
        let message = both.iter().cloned().fold(own, LinkMessageBuilder::append_extra_attribute).build();
        let links = Self::open(near.namespace)?;
        let request = links.handle.link().add(message).execute();
        links
            .runtime
            .block_on(request)
            .map_err(|error| refused(format!("add the veth pair {} – {}", near.name, far.name), error))
    }

    /// Makes a bridge, a switch of no delay without spanning tree, up.
    ///
    /// # Errors
    /// [`LinkError`], `EOPNOTSUPP` if the kernel has none; needs `CAP_NET_ADMIN`.
    pub fn add_bridge(&self, name: &str) -> Result<(), LinkError> {
        self.runtime
            .block_on(self.handle.link().add(LinkBridge::new(name).build()).execute())
            .map_err(|error| refused(format!("add the bridge {name}"), error))
    }

    /// Makes the device a port of a bridge.
    ///
    /// # Errors
    /// [`LinkError`]; needs `CAP_NET_ADMIN`.
    pub fn attach(&self, link: &str, bridge: &str) -> Result<(), LinkError> {
        let index = self.index(bridge)?;
        self.change(link, "attach to a bridge", |message| message.controller(index))
    }

    /// Brings the device up (`IFF_UP`).
    ///
    /// # Errors
    /// [`LinkError`]; needs `CAP_NET_ADMIN`.
    pub fn bring_up(&self, link: &str) -> Result<(), LinkError> {
        self.change(link, "bring up", LinkMessageBuilder::up)
    }

    /// Takes the device down.
    ///
    /// # Errors
    /// [`LinkError`]; needs `CAP_NET_ADMIN`.
    pub fn take_down(&self, link: &str) -> Result<(), LinkError> {
        self.change(link, "take down", LinkMessageBuilder::down)
    }

    /// Sets the device's MTU in bytes and the length of its transmit queue in packets.
    ///
    /// # Errors
    /// [`LinkError`]; needs `CAP_NET_ADMIN`.
    pub fn set_mtu_and_queue(&self, link: &str, mtu: u32, packets: u32) -> Result<(), LinkError> {
        self.change(link, "set MTU and queue of", |message| message.mtu(mtu).txqueuelen(packets))
    }

    /// Removes the device; the other end of a veth pair goes with it.
    ///
    /// # Errors
    /// [`LinkError`]; needs `CAP_NET_ADMIN`.
    pub fn remove(&self, link: &str) -> Result<(), LinkError> {
        let index = self.index(link)?;
        self.runtime
            .block_on(self.handle.link().del(index).execute())
            .map_err(|error| refused(format!("remove {link}"), error))
    }

    fn change(
        &self,
        link: &str,
        verb: &str,
        change: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
    ) -> Result<(), LinkError> {
        let message = change(LinkUnspec::new_with_index(self.index(link)?)).build();
        self.runtime
            .block_on(self.handle.link().set(message).execute())
            .map_err(|error| refused(format!("{verb} {link}"), error))
    }

    /// Gives the device an address with its on-link prefix of `prefix` bits. It can be used at
    /// once: a tentative IPv6 address would wait up to a second for its duplicate detection, and
    /// whoever connects meanwhile would do so from the link-local one (RFC 6724).
    ///
    /// # Errors
    /// [`LinkError`], `EEXIST` if it is there already; needs `CAP_NET_ADMIN`.
    pub fn add_address(&self, link: &str, address: IpAddr, prefix: u8) -> Result<(), LinkError> {
        let mut request = self.handle.address().add(self.index(link)?, address, prefix);
        if address.is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        self.runtime
            .block_on(request.execute())
            .map_err(|error| refused(format!("add address {address}/{prefix} to {link}"), error))
    }

    /// Gives the device an address that nobody else can reach and that is never chosen as the source of
    /// anything (scope host).
    ///
    /// # Errors
    /// [`LinkError`], `EEXIST` if it is there already; needs `CAP_NET_ADMIN`.
    pub fn add_host_address(&self, link: &str, address: Ipv4Addr) -> Result<(), LinkError> {
        let mut request = self.handle.address().add(self.index(link)?, address.into(), 32);
        request.message_mut().header.scope = AddressScope::Host;
        self.runtime
            .block_on(request.execute())
            .map_err(|error| refused(format!("add address {address} to {link}"), error))
    }

    /// Adds a route to `destination`/`prefix` through the router `gateway`.
    ///
    /// # Errors
    /// [`LinkError`], `ENETUNREACH` if no device reaches `gateway`; needs `CAP_NET_ADMIN`.
    pub fn add_route(&self, destination: IpAddr, prefix: u8, gateway: IpAddr) -> Result<(), LinkError> {
        let action = || format!("add the route to {destination}/{prefix} via {gateway}");
        let message = route(destination, prefix, gateway, action)?;
        self.runtime
            .block_on(self.handle.route().add(message).execute())
            .map_err(|error| refused(action(), error))
    }

    /// Removes a route that [`Links::add_route`] has added.
    ///
    /// # Errors
    /// [`LinkError`], `ESRCH` if there is none; needs `CAP_NET_ADMIN`.
    pub fn remove_route(&self, destination: IpAddr, prefix: u8, gateway: IpAddr) -> Result<(), LinkError> {
        let action = || format!("remove the route to {destination}/{prefix} via {gateway}");
        let message = route(destination, prefix, gateway, action)?;
        self.runtime
            .block_on(self.handle.route().del(message).execute())
            .map_err(|error| refused(action(), error))
    }

    /// Adds a neighbour that never expires, so that no ARP or neighbour solicitation is needed.
    ///
    /// # Errors
    /// [`LinkError`]; needs `CAP_NET_ADMIN`.
    pub fn add_neighbour(&self, link: &str, address: IpAddr, mac: [u8; 6]) -> Result<(), LinkError> {
        let request = self.handle.neighbours().add(self.index(link)?, address).link_layer_address(&mac);
        self.runtime
            .block_on(request.execute())
            .map_err(|error| refused(format!("add neighbour {address} on {link}"), error))
    }

    /// Returns the device's index.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn index(&self, link: &str) -> Result<u32, LinkError> {
        Ok(self.message(link)?.header.index)
    }

    /// Returns the device's Ethernet address.
    ///
    /// # Errors
    /// [`LinkError`]; [`LinkError::Invalid`] if the device has none.
    pub fn mac(&self, link: &str) -> Result<[u8; 6], LinkError> {
        let message = self.message(link)?;
        message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::Address(mac) => <[u8; 6]>::try_from(mac.as_slice()).ok(),
                _ => None,
            })
            .ok_or_else(|| LinkError::Invalid {
                action: format!("read the Ethernet address of {link}"),
                reason: "it has none".to_owned(),
            })
    }

    fn message(&self, link: &str) -> Result<LinkMessage, LinkError> {
        let missing = || LinkError::NoSuchLink(link.to_owned());
        let answer = async {
            let mut answers = std::pin::pin!(self.handle.link().get().match_name(link).execute());
            answers.try_next().await
        };
        match self.runtime.block_on(answer) {
            Ok(message) => message.ok_or_else(missing),
            Err(error) => match refused(format!("look up {link}"), error) {
                LinkError::Refused { source, .. } if source.raw_os_error() == Some(libc::ENODEV) => {
                    Err(missing())
                }
                other => Err(other),
            },
        }
    }
}

fn route(
    destination: IpAddr,
    prefix: u8,
    gateway: IpAddr,
    action: impl Fn() -> String,
) -> Result<RouteMessage, LinkError> {
    let message = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(destination, prefix)
        .and_then(|route| route.gateway(gateway))
        .map_err(|error| LinkError::Invalid { action: action(), reason: error.to_string() })?;
    Ok(message.build())
}

fn refused(action: String, error: rtnetlink::Error) -> LinkError {
    let source = match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    };
    LinkError::Refused { action, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::Duration;

    fn pair() -> Option<(Namespace, Namespace)> {
        match Namespace::create() {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                println!("skipped: needs CAP_SYS_ADMIN and CAP_NET_ADMIN");
                None
            }
            first => Some((first.unwrap(), Namespace::create().unwrap())),
        }
    }

    fn wired(left: &Namespace, right: &Namespace) -> (Links, Links) {
        let near = VethEnd { namespace: left, name: "left0" };
        let far = VethEnd { namespace: right, name: "right0" };
        Links::add_veth(near, far, 1400).unwrap();
        let (l, r) = (Links::open(left).unwrap(), Links::open(right).unwrap());
        l.bring_up("left0").unwrap();
        r.bring_up("right0").unwrap();
        l.add_address("left0", [10, 9, 0, 1].into(), 24).unwrap();
        r.add_address("right0", [10, 9, 0, 2].into(), 24).unwrap();
        (l, r)
    }

    #[test]
    fn a_datagram_crosses_a_pair_and_a_route() {
        let Some((left, right)) = pair() else { return };
        let (l, r) = wired(&left, &right);
        r.add_address("lo", [10, 8, 0, 1].into(), 32).unwrap();
        l.add_route([10, 8, 0, 0].into(), 24, [10, 9, 0, 2].into()).unwrap();
        l.add_neighbour("left0", [10, 9, 0, 2].into(), r.mac("right0").unwrap()).unwrap();
        let receiver = right.enter(|| UdpSocket::bind("10.8.0.1:7")).unwrap().unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        left.enter(|| UdpSocket::bind("10.9.0.1:0").unwrap().send_to(b"hello", "10.8.0.1:7").unwrap())
            .unwrap();
        let mut buffer = [0; 16];
        assert_eq!(receiver.recv(&mut buffer).unwrap(), 5);
        assert_eq!(&buffer[..5], b"hello");
    }

    #[test]
    fn datagrams_cross_a_bridge_and_routes_can_be_removed() {
        let Some((left, right)) = pair() else { return };
        let Some((between, _)) = pair() else { return };
        let switch = Links::open(&between).unwrap();
        switch.add_bridge("br0").unwrap();
        for (namespace, port, host) in [(&left, "port0", 1), (&right, "port1", 2)] {
            let near = VethEnd { namespace: &between, name: port };
            Links::add_veth(near, VethEnd { namespace, name: "eth0" }, 1500).unwrap();
            switch.bring_up(port).unwrap();
            switch.attach(port, "br0").unwrap();
            let links = Links::open(namespace).unwrap();
            links.bring_up("eth0").unwrap();
            links.add_address("eth0", [10, 9, 0, host].into(), 24).unwrap();
        }
        let links = Links::open(&left).unwrap();
        let send =
            || left.enter(|| UdpSocket::bind("10.9.0.1:0").unwrap().send_to(b"hi", "10.8.0.1:7")).unwrap();
        Links::open(&right).unwrap().add_address("eth0", [10, 8, 0, 1].into(), 32).unwrap();
        links.add_route([10, 8, 0, 0].into(), 24, [10, 9, 0, 2].into()).unwrap();
        let receiver = right.enter(|| UdpSocket::bind("10.8.0.1:7")).unwrap().unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        send().unwrap();
        assert_eq!(receiver.recv(&mut [0; 16]).unwrap(), 2);
        links.remove_route([10, 8, 0, 0].into(), 24, [10, 9, 0, 2].into()).unwrap();
        assert_eq!(send().unwrap_err().kind(), io::ErrorKind::NetworkUnreachable);
        assert!(links.remove_route([10, 8, 0, 0].into(), 24, [10, 9, 0, 2].into()).is_err());
    }

    #[test]
    fn an_address_can_be_used_before_the_device_has_a_carrier() {
        let Some((left, right)) = pair() else { return };
        let near = VethEnd { namespace: &left, name: "left0" };
        Links::add_veth(near, VethEnd { namespace: &right, name: "right0" }, 1400).unwrap();
        let links = Links::open(&left).unwrap();
        links.bring_up("left0").unwrap();
        links.add_address("left0", "fd09::1".parse().unwrap(), 64).unwrap();
        left.enter(|| UdpSocket::bind("[fd09::1]:0")).unwrap().unwrap();
    }

    #[test]
    fn refusals_name_what_was_asked() {
        let Some((left, right)) = pair() else { return };
        let (l, _r) = wired(&left, &right);
        let error = l.bring_up("absent0").unwrap_err();
        assert!(matches!(&error, LinkError::NoSuchLink(name) if name == "absent0"), "{error:?}");
        let error = l.add_route([10, 8, 0, 0].into(), 24, [10, 7, 0, 2].into()).unwrap_err();
        assert!(error.to_string().contains("10.8.0.0/24 via 10.7.0.2"), "{error}");
        let error = l.add_route([10, 8, 0, 0].into(), 33, [10, 9, 0, 2].into()).unwrap_err();
        assert!(matches!(error, LinkError::Invalid { .. }), "{error:?}");
    }
}
