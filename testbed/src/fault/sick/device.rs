//! Devices and their queues.

use rtt0_doctor::Layer;
use rtt0_netio::links::Links;

use super::super::case::{BASE, Case, Patient, Place, WITH_NICS, expect};
use super::super::shell::{Untriable, run};
use super::super::traffic::Kind;
use super::UDP_PROBE;
use crate::compare::choice::IpVersion::V4;
use crate::wan::{Burden, Tap};

pub(super) const ALL: &[Case] = &[
    Case {
        name: "qdisc-limit",
        about: "a token bucket before the client's device is too slow, and its queue too short",
        expected: expect(&["qdisc-drop"], Layer::Qdisc),
        arguments: UDP_PROBE,
        traffic: &[Kind::Udp(V4)],
        inject: |site| {
            run(
                site.host(Place::Client),
                "tc qdisc add dev eth0 root tbf rate 40kbit burst 300 limit 300 mtu 2000",
            )
        },
        ..BASE
    },
    Case {
        name: "qdisc-router",
        about: "the queue of a router towards the long leg overflows under downloads and datagrams",
        expected: expect(&["qdisc-drop"], Layer::Qdisc),
        patient: Patient::Host(Place::ClientNic),
        traffic: &[Kind::Udp(V4), Kind::Udp(V4), Kind::Tcp(V4)],
        inject: |site| {
            run(
                site.host(Place::ClientNic),
                "tc qdisc replace dev wan0 root tbf rate 100kbit burst 2000 limit 2000 mtu 2000",
            )
        },
        ..BASE
    },
    Case {
        name: "qdisc-blackhole",
        about: "the client's device has the queueing discipline that drops everything",
        expected: expect(&["qdisc-blackhole"], Layer::Qdisc),
        arguments: UDP_PROBE,
        inject: |site| run(site.host(Place::Client), "tc qdisc add dev eth0 root blackhole"),
        ..BASE
    },
    Case {
        name: "interface-down",
        about: "ClientNIC's interface to the long leg is down",
        expected: expect(&["interface-down"], Layer::Device),
        raised: WITH_NICS,
        patient: Patient::Nic(Place::ClientNic),
        inject: |site| Ok(Links::open(site.host(Place::ClientNic).namespace())?.take_down("wan0")?),
        ..BASE
    },
    Case {
        name: "interface-missing",
        about: "the daemon's configuration names an interface that there is not",
        expected: expect(&["interface-missing"], Layer::Device),
        raised: WITH_NICS,
        patient: Patient::Nic(Place::ClientNic),
        arguments: &["--interface", "lan7"],
        ..BASE
    },
    Case {
        name: "no-carrier",
        about: "the far end of the server's cable is down",
        expected: expect(&["no-carrier"], Layer::Device),
        patient: Patient::Host(Place::Server),
        inject: |site| Ok(Links::open(site.host(Place::ServerNic).namespace())?.take_down("lan0")?),
        ..BASE
    },
    Case {
        name: "device-ring",
        about: "nobody takes the packets from a device's transmit ring, and it overruns",
        expected: expect(&["device-tx-drop"], Layer::Device),
        arguments: &["--probe", "udp", "10.1.7.2:9000"],
        inject: |site| {
            let ring = Tap::create(site.host(Place::Client).namespace(), "ring0", Burden::Plain);
            let ring = ring.map_err(|error| Untriable::unless_permitted("TAP devices", error))?;
            site.keep(ring);
            let client = site.host(Place::Client);
            run(client, "ip addr add 10.1.7.1/24 dev ring0")?;
            run(client, "ip link set ring0 up txqueuelen 5")?;
            run(client, "ip neigh add 10.1.7.2 lladdr 02:00:00:00:00:07 dev ring0 nud permanent")
        },
        ..BASE
    },
];
