//! Rules of nftables in every hook, and connection tracking.

use std::net::{Ipv4Addr, UdpSocket};

use rtt0_doctor::Layer;
use rtt0_netio::sysctl;

use super::super::case::{BASE, Case, Patient, Place, Raised, WITH_NICS, expect};
use super::super::shell::{Untriable, nft};
use super::super::site::Site;
use super::super::traffic::Kind;
use super::{TCP_PROBE, UDP_PROBE};
use crate::compare::choice::IpVersion::{V4, V6};
use crate::host::Host;
use crate::topology::Wiring;

/// Adds a chain with one rule at a hook of `inet`.
fn chain(site: &Site, place: Place, hook: &str, rule: &str) -> anyhow::Result<()> {
    nft(
        site.host(place),
        &format!("table inet site {{ chain c {{ type filter hook {hook} priority 0; {rule}\n}}\n}}\n"),
    )
}

/// Adds one at a device.
fn at_device(site: &Site, place: Place, hook: &str, device: &str, rule: &str) -> anyhow::Result<()> {
    let table = format!(
        "table netdev site {{ chain c {{ type filter hook {hook} device {device} priority 0; {rule}\n}}\n}}\n"
    );
    nft(site.host(place), &table)
}

const FIREWALL: &[&str] = &["firewall-drop"];
const SERVER: Patient = Patient::Host(Place::Server);
const ROUTER: Patient = Patient::Host(Place::ClientNic);

/// Has a host track a connection for each of so many addresses of its loopback that there is room for no more. The limit is that of all
/// network namespaces, the count is each one's own.
fn fill_conntrack(host: &Host) -> anyhow::Result<()> {
    /// More would take too long.
    const MOST: u32 = 1 << 20;
    let limit: u32 = sysctl::read(host.namespace(), "net.netfilter.nf_conntrack_max")?.parse()?;
    if limit > MOST {
        return Err(
            Untriable(format!("the kernel tracks {limit} connections, which are too many to make")).into()
        );
    }
    // Some rule has to ask for the state, so that there is any; what comes back by loopback has done its part.
    let rules = "table inet site {\n chain asks { type filter hook output priority 0; ct state invalid counter\n }\n \
        chain ends { type filter hook prerouting priority -300; iif lo udp dport 9 drop\n }\n }\n";
    nft(host, rules)?;
    let fill = || {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        for number in 0..limit + limit / 50 {
            socket.send_to(b"x", (Ipv4Addr::from(0x7f01_0000 + number), 9))?;
        }
        std::io::Result::Ok(())
    };
    Ok(host.enter(fill)??)
}

pub(super) const ALL: &[Case] = &[
    Case {
        name: "nft-output",
        about: "the client's firewall drops its datagrams in the output hook",
        expected: expect(FIREWALL, Layer::Output),
        arguments: UDP_PROBE,
        inject: |site| chain(site, Place::Client, "output", "udp dport 9000 drop"),
        ..BASE
    },
    Case {
        name: "nft-output-tcp",
        about: "the client's firewall drops its SYNs in the output hook",
        expected: expect(FIREWALL, Layer::Output),
        arguments: TCP_PROBE,
        inject: |site| chain(site, Place::Client, "output", "tcp dport 8080 counter drop"),
        ..BASE
    },
    Case {
        name: "nft-postrouting",
        about: "the client's firewall drops its datagrams in the postrouting hook",
        expected: expect(FIREWALL, Layer::Postrouting),
        arguments: UDP_PROBE,
        inject: |site| chain(site, Place::Client, "postrouting", "udp dport 9000 drop"),
        ..BASE
    },
    Case {
        name: "nft-egress",
        about: "a netdev chain drops datagrams at the egress of the client's device, behind all of IP",
        expected: expect(FIREWALL, Layer::NetdevEgress),
        arguments: UDP_PROBE,
        inject: |site| at_device(site, Place::Client, "egress", "eth0", "udp dport 9000 drop"),
        ..BASE
    },
    Case {
        name: "nft-prerouting",
        about: "the server's firewall drops datagrams in the prerouting hook",
        expected: expect(FIREWALL, Layer::Prerouting),
        patient: SERVER,
        traffic: &[Kind::Udp(V4)],
        inject: |site| chain(site, Place::Server, "prerouting", "udp dport 9000 drop"),
        ..BASE
    },
    Case {
        name: "nft-input",
        about: "the server's firewall drops datagrams in the input hook, uncounted",
        expected: expect(FIREWALL, Layer::Input),
        patient: SERVER,
        traffic: &[Kind::Udp(V4)],
        inject: |site| chain(site, Place::Server, "input", "udp dport 9000 drop"),
        ..BASE
    },
    Case {
        name: "nft-input-v6",
        about: "likewise over IPv6, TCP, counted",
        expected: expect(FIREWALL, Layer::Input),
        patient: SERVER,
        traffic: &[Kind::Tcp(V6)],
        inject: |site| chain(site, Place::Server, "input", "meta nfproto ipv6 tcp dport 8080 counter drop"),
        ..BASE
    },
    Case {
        name: "nft-input-reject",
        about: "the server's firewall refuses SYNs with an ICMP error",
        expected: expect(FIREWALL, Layer::Input),
        patient: SERVER,
        traffic: &[Kind::Tcp(V4)],
        inject: |site| chain(site, Place::Server, "input", "tcp dport 8080 reject"),
        ..BASE
    },
    Case {
        name: "nft-ingress",
        about: "a netdev chain drops datagrams at the ingress of the server's device, before all of IP",
        expected: expect(FIREWALL, Layer::NetdevIngress),
        patient: SERVER,
        traffic: &[Kind::Udp(V4)],
        inject: |site| at_device(site, Place::Server, "ingress", "eth0", "udp dport 9000 drop"),
        ..BASE
    },
    Case {
        name: "nft-forward",
        about: "a router's firewall drops SYNs in the forward hook",
        expected: expect(FIREWALL, Layer::Forward),
        patient: ROUTER,
        traffic: &[Kind::Tcp(V4)],
        inject: |site| chain(site, Place::ClientNic, "forward", "tcp dport 8080 drop"),
        ..BASE
    },
    Case {
        name: "nft-forward-policy",
        about: "a router's forward chain lets through what is established, and nothing is: its policy is drop",
        expected: expect(FIREWALL, Layer::Forward),
        patient: ROUTER,
        traffic: &[Kind::Tcp(V4)],
        inject: |site| chain(site, Place::ClientNic, "forward", "policy drop; ct state established accept"),
        ..BASE
    },
    Case {
        name: "nft-nested",
        about: "a router's forward chain jumps to another that drops; one in the input hook drops nothing",
        expected: expect(FIREWALL, Layer::Forward),
        patient: ROUTER,
        traffic: &[Kind::Udp(V4)],
        inject: |site| {
            let rules = "table inet site { chain deep { udp dport 9000 drop; }\n \
                chain f { type filter hook forward priority 0; jump deep; }\n \
                chain i { type filter hook input priority 0; tcp dport 1 drop; }\n }\n";
            nft(site.host(Place::ClientNic), rules)
        },
        ..BASE
    },
    Case {
        name: "nft-far-input",
        about: "the server's firewall drops datagrams; the client's doctor asks the server's",
        expected: expect(FIREWALL, Layer::Input),
        arguments: &["--probe", "udp", "10.1.2.10:9000", "--agent", "10.1.2.10"],
        agent: Some(Place::Server),
        inject: |site| chain(site, Place::Server, "input", "udp dport 9000 drop"),
        ..BASE
    },
    Case {
        name: "nft-nic-output",
        about: "on a NIC whose daemon runs, a firewall drops what the daemon emits, which shows as EPERM",
        expected: expect(FIREWALL, Layer::Output),
        raised: Raised { nic_arguments: &["--offload", "off"], ..WITH_NICS },
        patient: Patient::Nic(Place::ServerNic),
        traffic: &[Kind::Tcp(V4)],
        inject: |site| chain(site, Place::ServerNic, "output", "tcp dport 8080 drop"),
        ..BASE
    },
    Case {
        name: "conntrack-invalid",
        about: "a router forgets connections under way and drops what it calls invalid",
        expected: expect(&["conntrack-invalid"], Layer::Conntrack),
        patient: ROUTER,
        traffic: &[Kind::Lasting(20)],
        inject: |site| {
            sysctl::set(
                site.host(Place::ClientNic).namespace(),
                &[("net.netfilter.nf_conntrack_tcp_loose", "0")],
            )?;
            chain(site, Place::ClientNic, "forward", "ct state invalid drop")
        },
        ..BASE
    },
    Case {
        name: "conntrack-full",
        about: "a router tracks as many connections as it may, and has no room for new ones",
        expected: expect(&["conntrack-full"], Layer::Conntrack),
        patient: ROUTER,
        traffic: &[Kind::Udp(V4)],
        inject: |site| fill_conntrack(site.host(Place::ClientNic)),
        ..BASE
    },
    Case {
        name: "nft-gateway",
        about: "where the NIC has one arm, the firewall of the gateway before it drops SYNs",
        expected: expect(&["lost-on-path", "no-answer"], Layer::Path),
        raised: Raised { wiring: Wiring::OneArmed, ..super::super::case::PLAIN },
        arguments: &["--probe", "udp", "10.1.2.10:9000", "--agent", "10.1.2.10"],
        agent: Some(Place::Server),
        inject: |site| {
            use anyhow::Context;
            let [gate, _] = site.topology.gates.as_ref().context("there is no gateway")?;
            let rules = "table inet site { chain c { type filter hook forward priority 0; udp dport 9000 drop; }\n }\n";
            nft(gate, rules)
        },
        ..BASE
    },
];
