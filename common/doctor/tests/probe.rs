//! Probes through every layer that may lose them: the layer and the cause must be named.

mod rig;

use std::net::{SocketAddr, TcpListener, UdpSocket};

use rig::{Attach, FAR, FAR6, PORT, Rig, assert_first, attach, index};
use rtt0_doctor::Layer;
use rtt0_doctor::probe::Protocol::{Tcp, Udp};
use rtt0_doctor::probe::arriving::Watch;
use rtt0_netio::links::Links;

#[test]
fn a_healthy_way_gives_no_finding() {
    let Some(rig) = Rig::new() else { return };
    // Nobody listens, which the far side says; over IPv6, too; and loopback is a way as well.
    let far6: SocketAddr = format!("[{FAR6}]:{PORT}").parse().unwrap();
    for protocol in [Udp, Tcp] {
        for address in [(FAR, PORT).into(), far6, ([127, 0, 0, 1], PORT).into(), (rig::NEAR, PORT).into()] {
            let report = rig.probe(protocol, address, 20);
            assert!(report.findings().is_empty(), "{address} {}", report.text(false));
        }
    }
    let _listener = rig.far.enter(|| TcpListener::bind((FAR, PORT))).unwrap().unwrap();
    let report = rig.probe(Tcp, (FAR, PORT).into(), 20);
    assert!(report.findings().is_empty(), "{}", report.text(false));
    let text = report.text(false);
    assert!(text.contains("20 sent, 20 answered"), "{text}");
}

#[test]
fn silence_behind_the_device_is_told_as_such() {
    let Some(rig) = Rig::new() else { return };
    let _silent = rig.far.enter(|| UdpSocket::bind((FAR, PORT))).unwrap().unwrap();
    rig.assert_found(Udp, "no-answer", Layer::Path, "10.77.0.2:7777");
}

#[test]
fn rules_at_every_hook_on_the_way_out_are_named() {
    for (family, hook, layer) in [
        ("inet", "type filter hook output priority 0;", Layer::Output),
        ("ip", "type filter hook postrouting priority 50;", Layer::Postrouting),
        ("netdev", "type filter hook egress device \"eth0\" priority 0;", Layer::NetdevEgress),
    ] {
        for (protocol, name) in [(Udp, "udp"), (Tcp, "tcp")] {
            for counter in ["counter", ""] {
                let Some(rig) = Rig::new() else { return };
                let rule = format!("{name} dport 7777 {counter} drop");
                if Rig::rule(&rig.near, family, hook, &rule).is_none() {
                    return;
                }
                rig.assert_found(protocol, "firewall-drop", layer, "t c handle");
            }
        }
    }
}

#[test]
fn rules_that_are_reached_by_jumps_and_maps_are_named() {
    let Some(rig) = Rig::new() else { return };
    let script = "add table inet t; add chain inet t deep; add chain inet t c { type filter hook output priority 0; }; \
        add rule inet t deep udp dport 7777 drop; add rule inet t c meta l4proto vmap { tcp : accept, udp : jump deep }";
    if Rig::nft(&rig.near, script).is_some() {
        rig.assert_found(Udp, "firewall-drop", Layer::Output, "inet t deep handle");
    }
}

#[test]
fn answers_that_are_dropped_here_are_followed() {
    for (family, hook, layer) in [
        ("netdev", "type filter hook ingress device \"eth0\" priority 0;", Layer::NetdevIngress),
        ("inet", "type filter hook prerouting priority 0;", Layer::Prerouting),
        ("inet", "type filter hook input priority 0;", Layer::Input),
    ] {
        let Some(rig) = Rig::new() else { return };
        if Rig::rule(&rig.near, family, hook, "tcp sport 7777 drop").is_none() {
            return;
        }
        rig.assert_found(Tcp, "firewall-drop", layer, "t c handle");
    }
}

#[test]
fn programs_and_filters_where_packets_leave_are_named() {
    let Some(rig) = Rig::new() else { return };
    let device = index(&rig.near, "eth0");
    let shot = rig.near.enter(|| attach(Attach::TcxEgress, device, 2)).unwrap();
    match shot {
        Err(error) => println!("skipped: {error}"),
        Ok(_link) => {
            rig.assert_found(Udp, "tc-drop", Layer::TcEgress, "eth0");
            let report = rig.probe(Tcp, (FAR, PORT).into(), 5);
            assert_first(&report, "tc-drop", Layer::TcEgress, "eth0");
            assert!(report.text(false).contains("program injected"), "{}", report.text(false));
        }
    }
    match rig::add_filter(&rig.near, "eth0") {
        Err(error) => println!("skipped: {error}"),
        Ok(()) => {
            rig.assert_found(Udp, "tc-drop", Layer::TcEgress, "eth0");
            let report = rig.probe(Udp, (FAR, PORT).into(), 20);
            assert!(
                report.text(false).contains("tc filter bpf of eth0 egress, pref 5"),
                "{}",
                report.text(false)
            );
        }
    }
}

#[test]
fn datagrams_that_vanish_between_udp_and_the_tap_while_tcp_works() {
    // The field's case: sending succeeds, OutDatagrams rises, nothing is seen at the device.
    let Some(rig) = Rig::new() else { return };
    let hook = "type filter hook egress device \"eth0\" priority 0;";
    if Rig::rule(&rig.near, "netdev", hook, "meta l4proto udp drop").is_none() {
        return;
    }
    rig.assert_found(Udp, "firewall-drop", Layer::NetdevEgress, "netdev t c handle");
    let report = rig.probe(Tcp, (FAR, PORT).into(), 20);
    assert!(report.findings().is_empty(), "{}", report.text(false));
}

#[test]
fn queues_that_drop_are_named() {
    for qdisc in ["blackhole", "tbf rate 8kbit burst 100 limit 100", "bfifo limit 10"] {
        let Some(rig) = Rig::new() else { return };
        if Rig::run(&rig.near, &format!("tc qdisc replace dev eth0 root {qdisc}")).is_none() {
            return;
        }
        // With the neighbour's address known: its resolution would be dropped as well.
        let mac = Links::open(&rig.far).unwrap().mac("far0").unwrap();
        let _ = Links::open(&rig.near).unwrap().add_neighbour("eth0", FAR.into(), mac);
        for protocol in [Udp, Tcp] {
            rig.assert_found(protocol, "qdisc-drop", Layer::Qdisc, "eth0");
        }
    }
}

#[test]
fn a_neighbour_that_does_not_answer_is_named() {
    let Some(rig) = Rig::new() else { return };
    for protocol in [Udp, Tcp] {
        let report = rig.probe(protocol, ([10, 77, 0, 99], PORT).into(), 5);
        assert_first(&report, "neighbour-failed", Layer::Neighbour, "10.77.0.99 dev eth0");
    }
}

#[test]
fn routes_that_are_missing_or_refuse_are_named() {
    let Some(rig) = Rig::new() else { return };
    for protocol in [Udp, Tcp] {
        let report = rig.probe(protocol, ([10, 99, 0, 1], PORT).into(), 5);
        assert_first(&report, "no-route", Layer::Routing, "10.99.0.1");
    }
    for kind in ["blackhole", "unreachable", "prohibit"] {
        if Rig::run(&rig.near, &format!("ip route replace {kind} 10.98.0.0/16")).is_none() {
            return;
        }
        for protocol in [Udp, Tcp] {
            let report = rig.probe(protocol, ([10, 98, 0, 1], PORT).into(), 5);
            assert_first(&report, "route-refuses", Layer::Routing, "10.98.0.1");
        }
    }
}

#[test]
fn what_this_host_sends_itself_is_followed_to_the_program() {
    let Some(rig) = Rig::new() else { return };
    let _silent = rig.near.enter(|| UdpSocket::bind(("127.0.0.1", PORT))).unwrap().unwrap();
    let hook = "type filter hook input priority 0;";
    if Rig::rule(&rig.near, "inet", hook, "udp dport 7777 counter drop").is_none() {
        return;
    }
    let report = rig.probe(Udp, ([127, 0, 0, 1], PORT).into(), 20);
    assert_first(&report, "firewall-drop", Layer::Input, "t c handle");
}

#[test]
fn a_watch_sees_where_arriving_packets_vanish() {
    for (family, hook, layer) in [
        ("netdev", "type filter hook ingress device \"far0\" priority 0;", "netdev-ingress"),
        ("inet", "type filter hook prerouting priority 0;", "prerouting"),
        ("inet", "type filter hook input priority 0;", "input"),
    ] {
        for protocol in [Udp, Tcp] {
            let Some(rig) = Rig::new() else { return };
            let name = if protocol == Udp { "udp" } else { "tcp" };
            if Rig::rule(&rig.far, family, hook, &format!("{name} dport 7777 drop")).is_none() {
                return;
            }
            let watch = rig.far.enter(|| Watch::start(protocol, PORT, rig::NEAR.into()).unwrap()).unwrap();
            rig.probe(protocol, (FAR, PORT).into(), 20);
            let seen = rig.far.enter(|| watch.finish()).unwrap();
            let first = seen.iter().find(|sighting| sighting.packets == Some(0)).unwrap();
            assert_eq!(first.layer, layer, "{seen:#?}");
            assert!(first.suspects[0].contains("dport 7777 drop"), "{seen:#?}");
            assert_eq!(seen[0].packets, Some(20), "{seen:#?}");
        }
    }
}

#[test]
fn a_watch_sees_programs_that_take_what_arrives_and_frames_for_others() {
    for (kind, verdict, layer) in
        [(Attach::Xdp, 1, "xdp"), (Attach::TcxIngress, 2, "tc-ingress"), (Attach::TcxIngress, 0, "")]
    {
        let Some(rig) = Rig::new() else { return };
        let device = index(&rig.far, "far0");
        // The neighbour's address has been learnt; ARP would be dropped as well.
        let link = rig.far.enter(|| attach(kind, device, verdict)).unwrap();
        let Ok(_link) = link else {
            println!("skipped: {link:?}");
            continue;
        };
        let watch = rig.far.enter(|| Watch::start(Udp, PORT, rig::NEAR.into()).unwrap()).unwrap();
        rig.probe(Udp, (FAR, PORT).into(), 20);
        let seen = rig.far.enter(|| watch.finish()).unwrap();
        let first = seen.iter().find(|sighting| sighting.packets == Some(0));
        assert_eq!(first.map_or("", |first| &first.layer), layer, "{seen:#?}");
        if let Some(first) = first {
            assert!(first.suspects[0].contains("program injected"), "{seen:#?}");
        } else {
            assert_eq!(seen.last().unwrap().packets, Some(20), "{seen:#?}");
        }
    }
    let Some(rig) = Rig::new() else { return };
    if Rig::run(&rig.near, "ip neigh replace 10.77.0.2 lladdr 02:00:00:00:00:99 dev eth0").is_none() {
        return;
    }
    let watch = rig.far.enter(|| Watch::start(Udp, PORT, rig::NEAR.into()).unwrap()).unwrap();
    rig.probe(Udp, (FAR, PORT).into(), 20);
    let seen = rig.far.enter(|| watch.finish()).unwrap();
    assert_eq!((seen[0].packets, seen[1].packets, seen[1].layer.as_str()), (Some(20), Some(0), "device"));
}
