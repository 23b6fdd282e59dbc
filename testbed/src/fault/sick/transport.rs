//! TCP, UDP and sockets.

use std::net::{SocketAddr, TcpListener, UdpSocket};

use rtt0_core::packet::Packet;
use rtt0_core::service::Direction::ToServer;
use rtt0_doctor::Layer;
use rtt0_netio::sysctl;
use socket2::{Domain, SockRef, Socket, Type};

use super::super::case::{BASE, Case, PLAIN, Patient, Place, Raised, expect};
use super::super::site::Site;
use super::super::traffic::Kind;
use crate::address;
use crate::attack::flood::{self, Flood};
use crate::compare::choice::IpVersion::V4;
use crate::wan::Fate;

const SERVER: Patient = Patient::Host(Place::Server);
/// A port at which a case has its own server.
const PORT: u16 = 7000;

fn own_address() -> SocketAddr {
    SocketAddr::new(address::SERVER.v4.into(), PORT)
}

/// Has a listener on the server that nobody accepts from.
fn listen(site: &mut Site, backlog: i32) -> anyhow::Result<()> {
    let listener = site.host(Place::Server).enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&own_address().into())?;
        socket.listen(backlog)?;
        std::io::Result::Ok(TcpListener::from(socket))
    })??;
    site.keep(listener);
    Ok(())
}

/// Changes a byte of the payload of packets of an IP protocol towards the server, and nothing else.
fn corrupt(site: &Site, protocol: u8) {
    let saboteur = move |packet: &mut Packet<'_>| {
        if packet.bytes.get(9) == Some(&protocol)
            && packet.bytes.len() > 60
            && let Some(last) = packet.bytes.last_mut()
        {
            *last ^= 0x55;
        }
        Fate::Keep
    };
    site.topology.wan().sabotage(ToServer, Some(Box::new(saboteur)));
}

const SINGLE: Raised = Raised { offloads: false, ..PLAIN };

pub(super) const ALL: &[Case] = &[
    Case {
        name: "udp-no-port",
        about: "datagrams for a port at which nobody listens",
        expected: expect(&["udp-no-port"], Layer::Transport),
        patient: SERVER,
        traffic: &[Kind::UdpTo(PORT, 64)],
        ..BASE
    },
    Case {
        name: "tcp-no-port",
        about: "connections to a port at which nobody listens",
        expected: expect(&["tcp-no-port"], Layer::Transport),
        patient: SERVER,
        traffic: &[Kind::TcpTo(PORT)],
        ..BASE
    },
    Case {
        name: "udp-receive-buffer",
        about: "a program does not read its datagrams",
        expected: expect(&["udp-receive-buffer"], Layer::Socket),
        patient: SERVER,
        traffic: &[Kind::UdpTo(PORT, 64)],
        inject: |site| {
            let socket = site.host(Place::Server).enter(|| UdpSocket::bind(own_address()))??;
            SockRef::from(&socket).set_recv_buffer_size(2304)?;
            site.keep(socket);
            Ok(())
        },
        ..BASE
    },
    Case {
        name: "listen-overflow",
        about: "a program does not accept its connections",
        expected: expect(&["listen-overflow"], Layer::Socket),
        patient: SERVER,
        traffic: &[Kind::TcpTo(PORT), Kind::TcpTo(PORT), Kind::TcpTo(PORT), Kind::TcpTo(PORT)],
        inject: |site| listen(site, 1),
        ..BASE
    },
    Case {
        name: "syn-flood",
        about: "more half-open connections than the queue takes, without SYN cookies",
        expected: expect(&["syn-flood"], Layer::Socket),
        patient: SERVER,
        inject: |site| {
            let parameters = [("net.ipv4.tcp_syncookies", "0"), ("net.ipv4.tcp_max_syn_backlog", "8")];
            sysctl::set(site.host(Place::Server).namespace(), &parameters)?;
            listen(site, 8)?;
            flood::route_sources(&site.topology)?;
            let flood = Flood::start(site.host(Place::Client), own_address(), 2000)?;
            site.keep(flood);
            Ok(())
        },
        ..BASE
    },
    Case {
        name: "syn-cookies",
        about: "likewise with SYN cookies, which the kernel then sends",
        expected: expect(&["syn-flood"], Layer::Socket),
        patient: SERVER,
        inject: |site| {
            sysctl::set(site.host(Place::Server).namespace(), &[("net.ipv4.tcp_max_syn_backlog", "8")])?;
            listen(site, 8)?;
            flood::route_sources(&site.topology)?;
            let flood = Flood::start(site.host(Place::Client), own_address(), 2000)?;
            site.keep(flood);
            Ok(())
        },
        ..BASE
    },
    Case {
        name: "udp-checksum",
        about: "the path changes a byte of every datagram",
        expected: expect(&["checksum-errors"], Layer::Transport),
        raised: SINGLE,
        patient: SERVER,
        traffic: &[Kind::Udp(V4)],
        inject: |site| {
            corrupt(site, 17);
            Ok(())
        },
        ..BASE
    },
    Case {
        name: "tcp-checksum",
        about: "the path changes a byte of every TCP segment with data",
        expected: expect(&["checksum-errors"], Layer::Transport),
        raised: SINGLE,
        patient: SERVER,
        traffic: &[Kind::Tcp(V4), Kind::Tcp(V4)],
        inject: |site| {
            corrupt(site, 6);
            Ok(())
        },
        ..BASE
    },
    Case {
        name: "reassembly",
        about: "of fragmented datagrams the last fragment never comes",
        expected: expect(&["reassembly-failed"], Layer::Ip),
        patient: SERVER,
        arguments: &["--interval", "3"],
        traffic: &[Kind::FirstFragments],
        inject: |site| {
            sysctl::set(site.host(Place::Server).namespace(), &[("net.ipv4.ipfrag_time", "1")])?;
            Ok(())
        },
        ..BASE
    },
];
