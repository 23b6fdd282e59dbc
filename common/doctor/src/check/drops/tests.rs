use rtt0_core::service::Services;

use super::*;
use crate::finding::Rank;
use crate::patient::{Daemon, Role};

/// As Linux 6.18 tells them.
fn dropped(reason: &str, way: &[&str], protocol: u8, ports: (u16, u16)) -> Dropped {
    let mut way = way.iter().map(|name| (*name).to_owned());
    Dropped {
        reason: reason.to_owned(),
        location: way.next(),
        callers: way.collect(),
        interface: 2,
        device: Some("eth0".to_owned()),
        ethertype: 0x0800,
        protocol,
        ports,
        packets: 12,
        ..Dropped::default()
    }
}

fn udp(reason: &str, way: &[&str]) -> Dropped {
    dropped(reason, way, UDP, (40000, 9))
}

fn host() -> Patient {
    Patient {
        role: Role::Host,
        interfaces: vec!["eth0".to_owned()],
        services: Services::new(vec!["10.1.2.2:80".parse().unwrap()], Vec::new()),
        daemon: None,
    }
}

fn nic() -> Patient {
    let daemon = Daemon {
        name: "clientnic",
        control_socket: None,
        bpf_dir: "/nowhere".into(),
        is_offloading: true,
        stats: Box::new(|| Err("nobody".to_owned())),
    };
    Patient { role: Role::ClientNic, daemon: Some(daemon), ..host() }
}

fn found(patient: &Patient, drops: &[Dropped]) -> Vec<(&'static str, Layer, Rank)> {
    let mut report = Report::default();
    judge_all(patient, drops, &mut report);
    report.findings().iter().map(|finding| (finding.cause.id, finding.layer, finding.rank)).collect()
}

#[test]
fn netfilter_is_told_by_its_hook() {
    for (way, layer) in [
        (
            &["nft_do_chain", "nft_do_chain_netdev", "nf_hook_slow", "__netif_receive_skb_core"][..],
            Layer::NetdevIngress,
        ),
        (
            &["nft_do_chain", "nft_do_chain_inet", "nf_hook_slow", "ip_rcv", "__netif_receive_skb_one_core"],
            Layer::Prerouting,
        ),
        (&["nf_hook_slow", "ipv6_rcv"], Layer::Prerouting),
        (&["nft_do_chain", "nft_do_chain_inet", "nf_hook_slow", "ip_local_deliver"], Layer::Input),
        (&["nft_do_chain", "nft_do_chain_ipv4", "nf_hook_slow", "ip_forward"], Layer::Forward),
        (
            &["nft_do_chain", "nft_do_chain_inet", "nf_hook_slow", "__ip_local_out", "ip_send_skb"],
            Layer::Output,
        ),
        (&["nft_do_chain", "nft_do_chain_inet", "nf_hook_slow", "ip_output"], Layer::Postrouting),
        (
            &["nft_do_chain", "nft_do_chain_netdev", "nf_hook_slow", "__dev_queue_xmit", "ip_finish_output2"],
            Layer::NetdevEgress,
        ),
    ] {
        let drops = [udp("NETFILTER_DROP", way)];
        assert_eq!(found(&host(), &drops), [("netfilter-drop", layer, Rank::Loss)], "{way:?}");
    }
}

#[test]
fn reasons_have_causes() {
    let filtered = Dropped { has_socket_filter: true, ..udp("SOCKET_FILTER", &["udp_queue_rcv_one_skb"]) };
    let syn = Dropped { is_syn: true, ..dropped("NO_SOCKET", &["tcp_v4_rcv"], TCP, (40000, 99)) };
    for (drops, id, layer) in [
        (udp("TC_INGRESS", &["__netif_receive_skb_core"]), "tc-drop", Layer::TcIngress),
        (udp("TC_EGRESS", &["__dev_queue_xmit"]), "tc-drop", Layer::TcEgress),
        (udp("XDP", &[]), "xdp-drop", Layer::Xdp),
        (udp("NOT_SPECIFIED", &["do_xdp_generic"]), "xdp-drop", Layer::Xdp),
        (udp("NOT_SPECIFIED", &["veth_xdp_rcv_skb"]), "xdp-drop", Layer::Xdp),
        (udp("BPF_CGROUP_EGRESS", &["ip_finish_output"]), "cgroup-drop", Layer::Cgroup),
        (udp("SOCKET_FILTER", &["udp_queue_rcv_one_skb"]), "cgroup-drop", Layer::Cgroup),
        (filtered, "socket-filter", Layer::Socket),
        (Dropped { packets: 5000, ..udp("QDISC_DROP", &["__dev_queue_xmit"]) }, "qdisc-drop", Layer::Qdisc),
        (udp("NEIGH_FAILED", &["neigh_invalidate"]), "neighbour-failed", Layer::Neighbour),
        (udp("OTHERHOST", &["ip_rcv_core"]), "wrong-mac", Layer::Device),
        (udp("IP_RPFILTER", &["ip_rcv_finish_core"]), "reverse-path-filter", Layer::Routing),
        (udp("IP_INNOROUTES", &["ip_error"]), "no-route-for-received", Layer::Routing),
        (udp("NOT_SPECIFIED", &["ip_error"]), "route-refuses", Layer::Routing),
        (udp("NOT_SPECIFIED", &["dst_discard_out"]), "route-refuses", Layer::Routing),
        (udp("IP_INADDRERRORS", &["ip_error"]), "address-errors", Layer::Ip),
        (udp("IP_INHDR", &["ip_forward"]), "hop-limit", Layer::Ip),
        (udp("IP_INHDR", &["ip_rcv_core"]), "header-errors", Layer::Ip),
        (udp("UDP_CSUM", &["__udp4_lib_rcv"]), "checksum-errors", Layer::Transport),
        (udp("IP_CSUM", &["ip_rcv_core"]), "checksum-errors", Layer::Ip),
        (udp("NO_SOCKET", &["__udp4_lib_rcv"]), "udp-no-port", Layer::Transport),
        (udp("SOCKET_RCVBUFF", &["udp_queue_rcv_one_skb"]), "udp-receive-buffer", Layer::Socket),
        (udp("CPU_BACKLOG", &["enqueue_to_backlog"]), "backlog-full", Layer::Backlog),
        (udp("A_REASON_OF_TOMORROW", &["new_function"]), "kernel-drop", Layer::Ip),
        (syn, "tcp-no-port", Layer::Transport),
    ] {
        let found = found(&host(), std::slice::from_ref(&drops));
        assert_eq!(found.iter().map(|one| (one.0, one.1)).collect::<Vec<_>>(), [(id, layer)], "{drops:?}");
    }
}

#[test]
fn what_healthy_hosts_drop_is_no_finding() {
    let tcp = |reason, way: &[&str]| Dropped { packets: 5000, ..dropped(reason, way, TCP, (5000, 40000)) };
    let multicast = |reason, location: &str, kind| Dropped {
        ethertype: 0x86dd,
        is_to_many: true,
        ..dropped(reason, &[location], ICMP6, (kind, 0))
    };
    let drops = [
        tcp("NOT_SPECIFIED", &["tcp_v4_rcv"]),
        tcp("NO_SOCKET", &["tcp_v4_rcv"]),
        tcp("QUEUE_PURGE", &["sk_stream_kill_queues"]),
        tcp("TCP_CLOSE", &["tcp_rcv_state_process"]),
        tcp("TCP_OLD_DATA", &["tcp_data_queue"]),
        tcp("TCP_OLD_SEQUENCE", &["tcp_validate_incoming"]),
        tcp("PACKET_SOCK_ERROR", &["tpacket_rcv"]),
        tcp("SOCKET_FILTER", &["raw_rcv"]),
        // A path check's, at the end that listens.
        Dropped { has_socket_filter: true, ..dropped("SOCKET_FILTER", &["tcp_v4_rcv"], TCP, (40000, 9650)) },
        tcp("SUBSYSTEM_1_REASON_9", &[]),
        multicast("NOT_SPECIFIED", "ip6_mc_input", 143),
        multicast("IP_INNOROUTES", "ip6_pkt_discard", 135),
        Dropped { ethertype: 0x88cc, protocol: 0, ..udp("UNHANDLED_PROTO", &["__netif_receive_skb_core"]) },
        // A few that stray, such as a traceroute's.
        Dropped { packets: 2, ..udp("NETFILTER_DROP", &["nf_hook_slow", "ip_forward"]) },
        Dropped { packets: 3, ..udp("IP_INHDR", &["ip_forward"]) },
        // How queues and path MTU discovery work.
        tcp("QDISC_CONGESTED", &["__dev_queue_xmit"]),
        Dropped { packets: 100, ..udp("QDISC_DROP", &["__dev_queue_xmit"]) },
        udp("PKT_TOO_BIG", &["ip_forward"]),
    ];
    assert_eq!(found(&host(), &drops), []);
}

#[test]
fn what_the_guard_drops_is_the_daemon_s_and_nothing_else_is() {
    let way = ["nft_do_chain", "nft_do_chain_netdev", "nf_hook_slow", "__netif_receive_skb_core"];
    let at_ingress = |protocol, ports| dropped("NETFILTER_DROP", &way, protocol, ports);
    let guards = [
        at_ingress(TCP, (40000, 80)),
        at_ingress(TCP, (80, 40000)),
        at_ingress(ICMP, (3, 4)),
        at_ingress(ICMP6, (2, 0)),
        dropped("NETFILTER_DROP", &[], TCP, (40000, 80)),
        Dropped {
            device: Some("rtt0-0".to_owned()),
            ..udp("A_REASON_OF_TOMORROW", &["tun_net_xmit", "dev_hard_start_xmit"])
        },
    ];
    assert_eq!(found(&nic(), &guards), []);
    let others = [
        at_ingress(UDP, (40000, 80)),
        at_ingress(TCP, (40000, 81)),
        at_ingress(ICMP, (8, 0)),
        Dropped { device: Some("eth1".to_owned()), ..at_ingress(TCP, (40000, 80)) },
        dropped("NETFILTER_DROP", &["nf_hook_slow", "ip_forward"], TCP, (40000, 80)),
        Dropped {
            device: Some("rtt0-0".to_owned()),
            ..dropped("NETFILTER_DROP", &["nf_hook_slow", "ip_forward"], TCP, (40000, 80))
        },
    ];
    for other in others {
        assert_eq!(found(&nic(), std::slice::from_ref(&other)).len(), 1, "{other:?}");
    }
    assert_eq!(found(&host(), &guards[..1]).len(), 1, "without a daemon nobody forwards it");
}

#[test]
fn evidence_says_what_was_dropped_and_where() {
    let mut report = Report::default();
    let way = ["nft_do_chain", "nft_do_chain_inet", "nf_hook_slow", "ip_forward"];
    let another = Dropped { ports: (40001, 9), packets: 3, ..udp("NETFILTER_DROP", &way) };
    judge_all(&host(), &[udp("NETFILTER_DROP", &way), another], &mut report);
    let finding = &report.findings()[0];
    assert_eq!(finding.lost, 15);
    assert_eq!(
        finding.evidence,
        ["15 packets: NETFILTER_DROP in nft_do_chain (called by ip_forward), UDP to port 9, on eth0"]
    );
}

#[test]
fn what_another_check_has_found_is_confirmed() {
    let mut report = Report::default();
    report.find(
        Finding::new(&crate::causes::QDISC_DROP, Layer::Qdisc, Rank::Loss).of("eth0").because("its counter"),
    );
    judge_all(&host(), &[udp("QDISC_DROP", &["__dev_queue_xmit"])], &mut report);
    assert_eq!((report.findings().len(), report.findings()[0].evidence.len()), (1, 2));
}

#[test]
fn a_flow_is_found_in_both_directions() {
    let answer = Dropped { ports: (9, 40000), ..udp("NO_SOCKET", &[]) };
    let drops = [udp("NO_SOCKET", &[]), answer, dropped("NO_SOCKET", &[], TCP, (40000, 9))];
    assert_eq!(of_flow(&drops, UDP, (40000, 9)).count(), 2);
    assert_eq!(of_flow(&drops, UDP, (0, 9)).count(), 2);
    assert_eq!(of_flow(&drops, UDP, (40001, 9)).count(), 0);
}

#[test]
fn what_could_not_be_counted_is_said() {
    let mut report = Report::default();
    judge_all(
        &host(),
        &[Dropped { reason: UNCOUNTED.to_owned(), packets: 7, ..Dropped::default() }],
        &mut report,
    );
    assert_eq!((report.unseen().len(), report.status()), (1, 0));
}
