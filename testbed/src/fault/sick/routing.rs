//! Forwarding, routes, reverse-path filters, neighbours, hop limits.

use rtt0_doctor::Layer;
use rtt0_netio::sysctl;

use super::super::case::{BASE, Case, Patient, Place, WITH_NICS, expect};
use super::super::shell::run;
use super::super::site::Site;
use super::super::traffic::{Kind, Traffic};
use super::UDP_PROBE;
use crate::compare::choice::IpVersion::{V4, V6};

const SERVER: Patient = Patient::Host(Place::Server);

fn set(site: &Site, place: Place, parameters: &[(&str, &str)]) -> anyhow::Result<()> {
    Ok(sysctl::set(site.host(place).namespace(), parameters)?)
}

pub(super) const ALL: &[Case] = &[
    Case {
        name: "ip-forward-off",
        about: "net.ipv4.ip_forward is 0 on ClientNIC",
        expected: expect(&["forwarding-off"], Layer::Ip),
        raised: WITH_NICS,
        patient: Patient::Nic(Place::ClientNic),
        traffic: &[Kind::Udp(V4)],
        inject: |site| set(site, Place::ClientNic, &[("net.ipv4.ip_forward", "0")]),
        ..BASE
    },
    Case {
        name: "ipv6-forwarding-off",
        about: "net.ipv6.conf.all.forwarding is 0 on ServerNIC",
        expected: expect(&["forwarding-off"], Layer::Ip),
        raised: WITH_NICS,
        patient: Patient::Nic(Place::ServerNic),
        traffic: &[Kind::Udp(V6)],
        inject: |site| set(site, Place::ServerNic, &[("net.ipv6.conf.all.forwarding", "0")]),
        ..BASE
    },
    Case {
        name: "interface-forwarding-off",
        about: "net.ipv4.conf.lan0.forwarding is 0 on ClientNIC, ip_forward is 1; nothing goes through meanwhile",
        expected: expect(&["forwarding-off"], Layer::Ip),
        raised: WITH_NICS,
        patient: Patient::Nic(Place::ClientNic),
        inject: |site| set(site, Place::ClientNic, &[("net.ipv4.conf.lan0.forwarding", "0")]),
        ..BASE
    },
    Case {
        name: "router-forwarding-off",
        about: "a host without daemons gets packets for others and does not forward",
        expected: expect(&["forwarding-off"], Layer::Ip),
        patient: Patient::Host(Place::ClientNic),
        traffic: &[Kind::Udp(V4)],
        inject: |site| set(site, Place::ClientNic, &[("net.ipv4.ip_forward", "0")]),
        ..BASE
    },
    Case {
        name: "rp-filter",
        about: "a strict reverse-path filter on a router whose way back to the client leaves elsewhere",
        expected: expect(&["reverse-path-filter"], Layer::Routing),
        patient: Patient::Host(Place::ServerNic),
        traffic: &[Kind::Udp(V4)],
        inject: |site| {
            set(site, Place::ServerNic, &[("net.ipv4.conf.all.rp_filter", "1")])?;
            run(site.host(Place::ServerNic), "ip route replace 10.1.0.0/24 via 10.1.2.10 dev lan0")
        },
        ..BASE
    },
    Case {
        name: "no-route",
        about: "ClientNIC has no route to the services",
        expected: expect(&["no-route"], Layer::Routing),
        raised: WITH_NICS,
        patient: Patient::Nic(Place::ClientNic),
        traffic: &[Kind::Udp(V4)],
        inject: |site| run(site.host(Place::ClientNic), "ip route del 10.1.2.0/24"),
        ..BASE
    },
    Case {
        name: "router-no-route",
        about: "a router without daemons has no route for what it receives",
        expected: expect(&["no-route", "no-route-for-received"], Layer::Routing),
        patient: Patient::Host(Place::ClientNic),
        traffic: &[Kind::Udp(V4)],
        inject: |site| run(site.host(Place::ClientNic), "ip route del 10.1.2.0/24"),
        ..BASE
    },
    Case {
        name: "no-route-back",
        about: "the server has lost its default route and can't answer",
        expected: expect(&["no-route", "no-route-for-received"], Layer::Routing),
        patient: SERVER,
        traffic: &[Kind::Udp(V4)],
        inject: |site| run(site.host(Place::Server), "ip route del default"),
        ..BASE
    },
    Case {
        name: "probe-no-route",
        about: "the client has no route: ENETUNREACH",
        expected: expect(&["no-route"], Layer::Routing),
        arguments: UDP_PROBE,
        inject: |site| run(site.host(Place::Client), "ip route del default"),
        ..BASE
    },
    Case {
        name: "blackhole-route",
        about: "a blackhole route on the client",
        expected: expect(&["route-refuses"], Layer::Routing),
        arguments: UDP_PROBE,
        inject: |site| run(site.host(Place::Client), "ip route add blackhole 10.1.2.0/24"),
        ..BASE
    },
    Case {
        name: "prohibit-rule",
        about: "a policy rule on ClientNIC prohibits what comes from the client",
        expected: expect(&["route-refuses"], Layer::Routing),
        patient: Patient::Host(Place::ClientNic),
        traffic: &[Kind::Udp(V4)],
        inject: |site| run(site.host(Place::ClientNic), "ip rule add from 10.1.0.0/24 prohibit"),
        ..BASE
    },
    Case {
        name: "route-elsewhere",
        about: "ClientNIC's route to the services leaves by an interface that its daemon does not watch",
        expected: expect(&["route-elsewhere"], Layer::Routing),
        raised: WITH_NICS,
        patient: Patient::Nic(Place::ClientNic),
        inject: |site| {
            let nic = site.host(Place::ClientNic);
            run(nic, "ip link add other0 type veth peer name other1")?;
            run(nic, "ip link set other0 up")?;
            run(nic, "ip link set other1 up")?;
            run(nic, "ip addr add 10.1.9.1/24 dev other0")?;
            run(nic, "ip route replace 10.1.2.0/24 via 10.1.9.2 dev other0")
        },
        ..BASE
    },
    Case {
        name: "arp-failure",
        about: "nobody answers ARP for the destination on the client's own network",
        expected: expect(&["neighbour-failed"], Layer::Neighbour),
        arguments: &["--probe", "udp", "10.1.0.99:9000"],
        ..BASE
    },
    Case {
        name: "arp-failure-router",
        about: "ServerNIC gets packets for a server that does not answer ARP",
        expected: expect(&["neighbour-failed"], Layer::Neighbour),
        raised: WITH_NICS,
        patient: Patient::Nic(Place::ServerNic),
        traffic: &[Kind::Udp(V4)],
        inject: |site| {
            run(site.host(Place::Server), "ip link set eth0 arp off")?;
            run(site.host(Place::ServerNic), "ip neigh flush dev lan0")
        },
        ..BASE
    },
    Case {
        name: "wrong-mac",
        about: "the client has a wrong static neighbour entry: frames reach the router with another's address",
        expected: expect(&["wrong-mac"], Layer::Device),
        patient: Patient::Host(Place::ClientNic),
        traffic: &[Kind::Udp(V4)],
        inject: |site| {
            let entry = "ip neigh replace 10.1.0.1 lladdr 02:00:00:00:00:99 dev eth0 nud permanent";
            run(site.host(Place::Client), entry)
        },
        ..BASE
    },
    Case {
        name: "layer-2-resend",
        about: "the field case: a program on the router re-sends frames at layer 2 with the MACs that they came with",
        expected: expect(&["wrong-mac"], Layer::Device),
        patient: Patient::Host(Place::ServerNic),
        traffic: &[Kind::Udp(V4)],
        inject: |site| {
            set(site, Place::ClientNic, &[("net.ipv4.ip_forward", "0")])?;
            let resent = site.host(Place::ClientNic).enter(|| Traffic::resent("lan0", "wan0"))??;
            site.keep(resent);
            Ok(())
        },
        ..BASE
    },
    Case {
        name: "hop-limit",
        about: "packets arrive at the router with a hop limit of 1",
        expected: expect(&["hop-limit"], Layer::Ip),
        patient: Patient::Host(Place::ClientNic),
        traffic: &[Kind::UdpTo(9000, 1)],
        ..BASE
    },
    Case {
        name: "routing-loop",
        about: "both routers believe that the other has the server",
        expected: expect(&["hop-limit"], Layer::Ip),
        patient: Patient::Host(Place::ServerNic),
        traffic: &[Kind::Udp(V4)],
        inject: |site| {
            let nic = site.host(Place::ServerNic);
            run(nic, "ip addr del 10.1.2.1/24 dev lan0")?;
            run(nic, "ip route replace 10.1.2.0/24 via 10.1.1.1 dev wan0")
        },
        ..BASE
    },
    Case {
        name: "not-for-this-host",
        about: "packets reach the server whose destination is not its own, and it is no router",
        expected: expect(&["forwarding-off", "address-errors"], Layer::Ip),
        patient: SERVER,
        traffic: &[Kind::Udp(V4)],
        inject: |site| {
            let server = site.host(Place::Server);
            // The second address goes with the first, whose network it shares.
            run(server, "ip addr del 10.1.2.10/24 dev eth0")?;
            run(server, "ip addr add 10.1.2.11/24 dev eth0")?;
            run(server, "ip route replace default via 10.1.2.1 dev eth0")?;
            // The router still knows where the address was.
            let mac = rtt0_netio::links::Links::open(server.namespace())?.mac("eth0")?;
            let [a, b, c, d, e, f] = mac;
            let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
            let entry = format!("ip neigh replace 10.1.2.10 lladdr {mac} dev lan0 nud permanent");
            run(site.host(Place::ServerNic), &entry)
        },
        ..BASE
    },
];
