//! Sites on which nothing is wrong, however unusual they are: the doctor has to leave them alone.

use super::case::{BASE, Case, PLAIN, Patient, Place, Raised, WITH_NICS};
use super::shell::{nft, run};
use super::traffic::Kind;
use crate::compare::choice::IpVersion::{V4, V6};
use crate::nic::NicMode;
use crate::topology::Wiring;

const CLIENT_NIC: Patient = Patient::Nic(Place::ClientNic);
const SERVER_NIC: Patient = Patient::Nic(Place::ServerNic);
const BUSY: &[Kind] = &[Kind::Tcp(V4), Kind::Tcp(V6), Kind::Udp(V4), Kind::Udp(V6)];
const LOSSY: Raised = Raised { loss: 0.01, reorder: 0.005, ..PLAIN };

pub(super) const ALL: &[Case] = &[
    Case { name: "healthy-idle-client", about: "a client that does nothing", ..BASE },
    Case {
        name: "healthy-busy-client",
        about: "a client with connections and datagrams",
        traffic: BUSY,
        ..BASE
    },
    Case {
        name: "healthy-busy-server",
        about: "the server, likewise",
        patient: Patient::Host(Place::Server),
        traffic: BUSY,
        ..BASE
    },
    Case {
        name: "healthy-router",
        about: "a router without daemons, likewise",
        patient: Patient::Host(Place::ClientNic),
        traffic: BUSY,
        ..BASE
    },
    Case {
        name: "healthy-bulk",
        about: "the server under large downloads",
        patient: Patient::Host(Place::Server),
        traffic: &[Kind::Bulk(V4), Kind::Bulk(V6)],
        ..BASE
    },
    Case {
        name: "healthy-lossy",
        about: "the server; the long leg loses 1 % and reorders, for which this host can't be blamed",
        raised: LOSSY,
        patient: Patient::Host(Place::Server),
        traffic: BUSY,
        ..BASE
    },
    Case {
        name: "healthy-firewall",
        about: "the server has a firewall whose rules drop nothing that comes",
        patient: Patient::Host(Place::Server),
        traffic: BUSY,
        inject: |site| {
            let rules = "table inet site { chain c { type filter hook input priority 0; policy drop; \
                ct state established,related accept; ct state invalid drop; iif lo accept; tcp dport 8080 accept; \
                udp dport 9000 accept; meta l4proto { icmp, ipv6-icmp } accept; }\n }\n";
            nft(site.host(Place::Server), rules)
        },
        ..BASE
    },
    Case {
        name: "healthy-shaped",
        about: "the client's device has a token bucket that is wide enough",
        traffic: BUSY,
        inject: |site| {
            run(site.host(Place::Client), "tc qdisc add dev eth0 root tbf rate 1gbit burst 1mb limit 10mb")
        },
        ..BASE
    },
    Case {
        name: "healthy-no-offloads",
        about: "a router whose devices have no offloads",
        raised: Raised { offloads: false, ..PLAIN },
        patient: Patient::Host(Place::ServerNic),
        traffic: BUSY,
        ..BASE
    },
    Case {
        name: "healthy-clientnic",
        about: "ClientNIC with a daemon that is busy",
        raised: WITH_NICS,
        patient: CLIENT_NIC,
        traffic: BUSY,
        ..BASE
    },
    Case {
        name: "healthy-servernic",
        about: "ServerNIC, likewise",
        raised: WITH_NICS,
        patient: SERVER_NIC,
        traffic: BUSY,
        ..BASE
    },
    Case {
        name: "healthy-clientnic-idle",
        about: "ClientNIC with a daemon that has seen nothing yet",
        raised: WITH_NICS,
        patient: CLIENT_NIC,
        ..BASE
    },
    Case {
        name: "healthy-solo",
        about: "ClientNIC alone, in solo mode",
        raised: Raised { nics: Some(NicMode::Solo), ..PLAIN },
        patient: CLIENT_NIC,
        traffic: BUSY,
        ..BASE
    },
    Case {
        name: "healthy-user-space",
        about: "ServerNIC that leaves nothing to the kernel",
        raised: Raised { nic_arguments: &["--offload", "off"], ..WITH_NICS },
        patient: SERVER_NIC,
        traffic: BUSY,
        ..BASE
    },
    Case {
        name: "healthy-workers",
        about: "ServerNIC with two packet threads and devices without offloads",
        raised: Raised { nic_arguments: &["--workers", "2"], offloads: false, ..WITH_NICS },
        patient: SERVER_NIC,
        traffic: BUSY,
        ..BASE
    },
    Case {
        name: "healthy-one-armed",
        about: "ClientNIC with one arm behind a gateway",
        raised: Raised { wiring: Wiring::OneArmed, ..WITH_NICS },
        patient: CLIENT_NIC,
        traffic: BUSY,
        ..BASE
    },
    Case {
        name: "healthy-one-armed-server",
        about: "ServerNIC, likewise",
        raised: Raised { wiring: Wiring::OneArmed, ..WITH_NICS },
        patient: SERVER_NIC,
        traffic: BUSY,
        ..BASE
    },
    Case {
        name: "healthy-nic-lossy",
        about: "ClientNIC on a path that loses 1 % and reorders",
        raised: Raised { nics: Some(NicMode::Auto), ..LOSSY },
        patient: CLIENT_NIC,
        traffic: BUSY,
        ..BASE
    },
    Case {
        name: "healthy-probe-udp",
        about: "probes over UDP that are answered, with a doctor at the far end",
        arguments: &["--probe", "udp", "10.1.2.10:9000", "--agent", "10.1.2.10"],
        agent: Some(Place::Server),
        traffic: &[Kind::Tcp(V4)],
        ..BASE
    },
    Case {
        name: "healthy-probe-tcp",
        about: "probes over TCP through both daemons",
        raised: WITH_NICS,
        arguments: &["--probe", "tcp", "10.1.2.10:8080"],
        traffic: &[Kind::Tcp(V4)],
        ..BASE
    },
    Case {
        name: "healthy-probe-v6",
        about: "probes over IPv6",
        arguments: &["--probe", "udp", "[fd00:1:2::10]:9000"],
        ..BASE
    },
    Case {
        name: "healthy-peer",
        about: "the path between the NICs, with daemons and traffic",
        raised: WITH_NICS,
        patient: CLIENT_NIC,
        arguments: &["--peer", "10.1.1.2"],
        agent: Some(Place::ServerNic),
        traffic: &[Kind::Tcp(V4)],
        ..BASE
    },
    Case {
        name: "healthy-peer-v6",
        about: "the path over IPv6, which loses 1 %",
        raised: Raised { loss: 0.01, ..PLAIN },
        patient: Patient::Host(Place::ClientNic),
        arguments: &["--peer", "fd00:1:1::2"],
        agent: Some(Place::ServerNic),
        ..BASE
    },
];
