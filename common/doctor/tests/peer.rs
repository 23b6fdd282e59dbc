//! Two hosts and a router between them that does to packets what middleboxes do: real kernels.
//!
//! ```text
//!  near 10.9.1.1, fd09:1::1 ── router ── 10.9.2.1, fd09:2::1 far
//! ```
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rtt0_core::service::{Service, Services};
use rtt0_doctor::{Patient, Rank, Report, Role, agent, peer};
use rtt0_netio::links::{Links, VethEnd};
use rtt0_netio::netns::Namespace;
use rtt0_netio::sysctl;

/// A path, and the hosts at its ends.
struct Path {
    near: Namespace,
    router: Namespace,
    far: Namespace,
}

const V4: &str = "10.9.2.1";
const V6: &str = "fd09:2::1";
/// How long agents live.
const LIFE: Duration = Duration::from_secs(25);

impl Path {
    /// Makes one; `None`, with a word on why, without the privileges.
    fn new() -> Option<Self> {
        Self::with(&[])
    }

    /// Makes one for a test that runs these programs; `None`, with a word on why, without one of them or the privileges.
    fn with(programs: &[&str]) -> Option<Self> {
        let is_missing = |program: &&&str| {
            // Each of them knows that, or complains; what counts is that it starts.
            Command::new(program).arg("--version").output().is_err()
        };
        if let Some(program) = programs.iter().find(is_missing) {
            println!("skipped: {program} is not installed");
            return None;
        }
        let create = || {
            let namespace = Namespace::create()?;
            let parameters = [
                ("net.ipv6.conf.default.accept_dad", "0"),
                ("net.ipv6.conf.all.accept_dad", "0"),
                ("net.ipv4.ip_forward", "1"),
                ("net.ipv6.conf.all.forwarding", "1"),
            ];
            sysctl::set(&namespace, &parameters).map_err(io::Error::other)?;
            Ok::<_, io::Error>(namespace)
        };
        match create() {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                println!("skipped: needs CAP_SYS_ADMIN and CAP_NET_ADMIN");
                None
            }
            near => {
                let path = Self { near: near.unwrap(), router: create().unwrap(), far: create().unwrap() };
                path.wire(&path.near, 1);
                path.wire(&path.far, 2);
                Some(path)
            }
        }
    }

    /// Joins a host to the router, as network `number`.
    fn wire(&self, host: &Namespace, number: u8) {
        let at_router = format!("net{number}");
        Links::add_veth(
            VethEnd { namespace: host, name: "eth0" },
            VethEnd { namespace: &self.router, name: &at_router },
            1500,
        )
        .unwrap();
        for (namespace, link, last) in [(host, "eth0", 1), (&self.router, at_router.as_str(), 2)] {
            let links = Links::open(namespace).unwrap();
            links.bring_up(link).unwrap();
            links.add_address(link, [10, 9, number, last].into(), 24).unwrap();
            links.add_address(link, format!("fd09:{number}::{last}").parse().unwrap(), 64).unwrap();
        }
        let links = Links::open(host).unwrap();
        links.add_route([0, 0, 0, 0].into(), 0, [10, 9, number, 2].into()).unwrap();
        links.add_route("::".parse().unwrap(), 0, format!("fd09:{number}::2").parse().unwrap()).unwrap();
    }

    /// Has the router do something, as `nft` says.
    fn router(&self, rules: &str) {
        // Its grammar wants lines.
        let rules = rules.replace("{ ", "{\n").replace(" }", "\n}");
        self.run(&self.router, "nft", &[&rules]);
    }

    fn run(&self, namespace: &Namespace, program: &str, args: &[&str]) {
        let status = namespace.enter(|| Command::new(program).args(args).status().unwrap()).unwrap();
        assert!(status.success(), "{program} {args:?}");
    }

    /// Begins to listen at the far end.
    fn agent(&self, address: &str) -> SocketAddr {
        let address: IpAddr = address.parse().unwrap();
        let begin = || {
            let listener = TcpListener::bind((address, 0)).unwrap();
            let bound = listener.local_addr().unwrap();
            thread::spawn(move || agent::serve(&listener, Instant::now() + LIFE).unwrap());
            bound
        };
        self.far.enter(begin).unwrap()
    }

    /// Compares what leaves the near end with what arrives at the far end.
    fn examine(&self, role: Role, address: &str) -> Report {
        self.examine_as(role, address, Vec::new())
    }

    /// Likewise, at a host that serves something.
    fn examine_as(&self, role: Role, address: &str, services: Vec<Service>) -> Report {
        let peer = self.agent(address);
        let look = || {
            let mut patient = Patient::host(Vec::new());
            patient.role = role;
            patient.services = Services::new(services, Vec::new());
            let mut report = Report::default();
            peer::compare(&patient, peer, &mut report);
            report.conclude();
            report
        };
        let start = Instant::now();
        let report = self.near.enter(look).unwrap();
        println!("{role:?} {address}, {:?}:\n{}", start.elapsed(), report.text(false));
        assert!(start.elapsed() < Duration::from_secs(20));
        report
    }

    /// Both IP versions, and connections that begin at either end.
    fn examine_all(&self) -> Vec<Report> {
        [(Role::Host, V4), (Role::ServerNic, V4), (Role::ClientNic, V6)]
            .map(|(role, address)| self.examine(role, address))
            .into()
    }
}

#[track_caller]
fn assert_found(report: &Report, expected: &[(&str, Rank)]) {
    let found: Vec<_> = report.findings().iter().map(|finding| (finding.cause.id, finding.rank)).collect();
    assert_eq!(found, expected, "{}", report.text(false));
    for finding in report.findings() {
        assert_eq!(finding.layer.name(), "path");
        assert!(!finding.evidence.is_empty() && !finding.command.is_empty() && !finding.fix.is_empty());
    }
    assert_eq!(report.unseen(), []);
}

/// Tells what the report says of modes.
fn modes(report: &Report) -> String {
    let text = report.text(false);
    text.lines().find(|line| line.contains("modes that this path permits")).unwrap_or_default().to_owned()
}

/// A chain of the router's forward hook in front of `rules`, both IP versions.
fn forward(rules: &str) -> String {
    format!("table inet box {{ chain forward {{ type filter hook forward priority 0; {rules} }} }}")
}

#[test]
fn a_healthy_path_gives_no_finding_and_permits_everything() {
    let Some(path) = Path::new() else { return };
    for report in path.examine_all() {
        assert_found(&report, &[]);
        assert!(modes(&report).contains("all of them"));
        assert!(report.text(false).contains("hops 1, MTU 1500, lost 0 of 60"));
    }
}

#[test]
fn one_lost_packet_in_a_hundred_is_no_finding() {
    let Some(path) = Path::with(&["nft"]) else { return };
    path.router(&forward("numgen random mod 100 0 drop;"));
    for report in path.examine_all() {
        assert_found(&report, &[]);
    }
}

#[test]
fn a_smaller_link_whose_router_says_so_is_no_finding() {
    let Some(path) = Path::with(&["ip"]) else { return };
    path.run(&path.router, "ip", &["link", "set", "net1", "mtu", "1400"]);
    path.run(&path.near, "ip", &["link", "set", "eth0", "mtu", "1400"]);
    for report in path.examine_all() {
        assert_found(&report, &[]);
        assert!(report.text(false).contains("MTU 1400 (a router told of 1400)"), "{}", report.text(false));
    }
}

#[test]
fn offloads_and_slow_links_are_healthy() {
    let Some(path) = Path::with(&["tc", "ethtool"]) else { return };
    for state in ["on", "off"] {
        for host in [&path.near, &path.far] {
            path.run(host, "ethtool", &["-K", "eth0", "gro", state, "tso", state, "tx", state]);
        }
        assert_found(&path.examine(Role::Host, V4), &[]);
    }
    // 1.5 Mbit/s, with a queue of 400 ms.
    let slow =
        ["qdisc", "add", "dev", "net2", "root", "tbf", "rate", "1500kbit", "burst", "3000", "limit", "75000"];
    path.run(&path.router, "tc", &slow);
    assert_found(&path.examine(Role::Host, V4), &[]);
}

#[test]
fn a_stateful_firewall_that_knows_nothing_of_early_data_is_found() {
    let Some(path) = Path::with(&["nft"]) else { return };
    path.router(&forward("ct state invalid drop;"));
    for report in path.examine_all() {
        assert_found(&report, &[("early-data-dropped", Rank::Loss)]);
        assert!(modes(&report).contains("early data does not get through"));
    }
}

#[test]
fn an_option_that_is_taken_out_is_found() {
    let Some(path) = Path::with(&["nft"]) else { return };
    path.router(&forward("reset tcp option 253;"));
    for report in path.examine_all() {
        assert_found(&report, &[("option-stripped", Rank::Fault)]);
        assert!(modes(&report).contains("solo; not paired: offers do not get through"), "{}", modes(&report));
    }
}

#[test]
fn other_options_that_are_taken_out_only_raise_suspicion() {
    let Some(path) = Path::with(&["nft"]) else { return };
    path.router(&forward("reset tcp option sack-perm;"));
    let report = path.examine(Role::Host, V4);
    assert_found(&report, &[("option-stripped", Rank::Suspicion)]);
    assert!(modes(&report).contains("all of them"));
}

#[test]
fn segments_with_the_option_that_vanish_are_found() {
    let Some(path) = Path::with(&["nft"]) else { return };
    path.router(&forward("tcp option 253 exists drop;"));
    for report in path.examine_all() {
        assert_found(&report, &[("option-dropped", Rank::Loss)]);
        assert!(modes(&report).contains("offers do not get through"));
    }
}

#[test]
fn changed_sequence_numbers_are_found() {
    let Some(path) = Path::with(&["nft"]) else { return };
    path.router(&forward("tcp flags & (syn|ack) == syn tcp dport 9643-9742 tcp sequence set 7;"));
    for report in path.examine_all() {
        assert_found(&report, &[("sequence-rewritten", Rank::Fault)]);
        assert!(modes(&report).contains("sequence numbers change"));
    }
}

#[test]
fn a_clamped_mss_is_told() {
    let Some(path) = Path::with(&["nft"]) else { return };
    path.router(&forward("tcp flags syn tcp option maxseg size set 1300;"));
    for report in path.examine_all() {
        assert_found(&report, &[("mss-rewritten", Rank::Suspicion)]);
        assert!(modes(&report).contains("all of them"));
    }
}

#[test]
fn cleared_ecn_is_told() {
    let Some(path) = Path::with(&["nft"]) else { return };
    path.router(&forward("ip ecn set not-ect; ip6 ecn set not-ect;"));
    for report in path.examine_all() {
        assert_found(&report, &[("ecn-cleared", Rank::Suspicion)]);
    }
}

#[test]
fn large_packets_that_vanish_without_a_word_are_found() {
    let Some(path) = Path::with(&["nft"]) else { return };
    path.router(&forward("meta length > 1380 drop;"));
    for report in path.examine_all() {
        assert_found(&report, &[("mtu-black-hole", Rank::Loss)]);
        assert!(report.text(false).contains("1380 bytes arrive, from 1381 on"), "{}", report.text(false));
    }
}

#[test]
fn a_small_link_whose_router_is_silenced_is_found() {
    let Some(path) = Path::with(&["nft", "ip"]) else { return };
    path.run(&path.router, "ip", &["link", "set", "net2", "mtu", "1400"]);
    path.router(
        "table inet box { chain output { type filter hook output priority 0; \
         icmp type destination-unreachable drop; icmpv6 type packet-too-big drop; } }",
    );
    for address in [V4, V6] {
        let report = path.examine(Role::Host, address);
        assert_found(&report, &[("mtu-black-hole", Rank::Loss)]);
        assert!(report.text(false).contains("1400 bytes arrive, from 1401 on"), "{}", report.text(false));
    }
}

#[test]
fn a_nat_is_found() {
    let Some(path) = Path::with(&["nft"]) else { return };
    path.router(
        "table inet box { chain post { type nat hook postrouting priority 100; oif net2 masquerade random; } }",
    );
    for report in path.examine_all() {
        assert_found(&report, &[("address-rewritten", Rank::Loss)]);
        assert!(modes(&report).contains("addresses or ports change"), "{}", modes(&report));
    }
}

#[test]
fn a_middlebox_at_the_services_port_alone_is_found() {
    let Some(path) = Path::with(&["nft"]) else { return };
    path.router(&forward("tcp dport 443 reset tcp option 253;"));
    for (role, address, service) in
        [(Role::ClientNic, V4, "10.9.9.0/24:443"), (Role::ServerNic, V6, "[fd09:9::/64]:443")]
    {
        assert_found(&path.examine(role, address), &[]);
        let rule = service.parse().unwrap();
        let report = path.examine_as(role, address, vec![rule]);
        assert_found(&report, &[("option-stripped", Rank::Fault)]);
        assert!(report.text(false).contains("to a service's port"), "{}", report.text(false));
        assert!(modes(&report).contains("offers do not get through"));
    }
}

#[test]
fn what_is_lost_on_the_path_is_found() {
    let Some(path) = Path::with(&["nft"]) else { return };
    path.router(&forward("tcp dport 9643-9742 drop;"));
    for report in path.examine_all() {
        assert_found(&report, &[("lost-on-path", Rank::Loss)]);
        assert!(modes(&report).contains("none"));
    }
    path.router("flush ruleset");
    path.router(&forward("tcp dport 9643-9742 numgen random mod 100 < 30 drop;"));
    let report = path.examine(Role::Host, V4);
    assert_eq!(report.findings()[0].cause.id, "lost-on-path");
}

#[test]
fn a_hop_limit_and_a_class_that_change_are_notes() {
    let Some(path) = Path::with(&["nft"]) else { return };
    path.router(&forward("ip ttl set 200; ip dscp set cs1;"));
    let report = path.examine(Role::Host, V4);
    assert_found(&report, &[]);
    let text = report.text(false);
    assert!(text.contains("TTL 64 rewritten to 200") && text.contains("DSCP 0 arrived as 8"), "{text}");
}

#[test]
fn what_the_host_itself_does_not_let_out_is_found_there() {
    let Some(path) = Path::with(&["nft"]) else { return };
    let rules = "table inet own {\nchain output {\ntype filter hook output priority 0; tcp option 253 exists drop;\n}\n}";
    path.run(&path.near, "nft", &[rules]);
    let report = path.examine(Role::Host, V4);
    let found = &report.findings()[0];
    assert_eq!((found.cause.id, found.layer.name(), report.findings().len()), ("firewall-drop", "output", 1));
    path.run(&path.near, "nft", &["flush ruleset"]);
    path.run(&path.far, "nft", &[rules]);
    assert_found(&path.examine(Role::Host, V4), &[("lost-on-path", Rank::Loss)]);
}

#[test]
fn a_path_that_changes_windows_is_not_thought_to_lose_everything() {
    let Some(path) = Path::with(&["nft"]) else { return };
    path.router(&forward("tcp dport 9643-9742 tcp window set 4096;"));
    let report = path.examine(Role::Host, V4);
    assert_eq!(report.findings().len(), 0, "{}", report.text(false));
    assert_eq!(report.unseen().len(), 2);
    assert!(report.text(false).contains("the window was changed"));
}

#[test]
fn nobody_at_the_other_end_is_told() {
    let Some(path) = Path::new() else { return };
    let look = || {
        let mut report = Report::default();
        peer::compare(&Patient::host(Vec::new()), "10.9.2.1:9642".parse().unwrap(), &mut report);
        report
    };
    let report = path.near.enter(look).unwrap();
    assert_found(&report, &[("peer-silent", Rank::Symptom)]);
}
