//! The program in the kernel: what it counts, whose, and how long it lives.

use std::net::UdpSocket;

use super::*;
use crate::netns::Namespace;

/// A namespace and a counter in it, or nothing, with the reason printed, where the kernel or the user can't.
fn counted(f: impl FnOnce() + Send) -> Option<Counted> {
    let namespace = match Namespace::create() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            println!("SKIPPED: needs CAP_SYS_ADMIN and CAP_NET_ADMIN");
            return None;
        }
        outcome => outcome.unwrap(),
    };
    let outcome = namespace.enter(|| {
        let counter = DropCounter::start()?;
        f();
        counter.stop()
    });
    match outcome.unwrap() {
        Err(error @ (DropReasonsError::NoBtf(_) | DropReasonsError::NoReasons)) => {
            println!("SKIPPED: {error}");
            None
        }
        outcome => Some(outcome.unwrap()),
    }
}

/// Sends datagrams to a port of loopback at which nobody listens.
fn send_to_nobody(address: &str, count: usize) {
    let socket = UdpSocket::bind((address, 0)).unwrap();
    for _ in 0..count {
        // The answer of the one before is reported here.
        let _ = socket.send_to(b"nobody", (address, 9));
    }
}

#[test]
fn a_datagram_for_nobody_is_told_with_its_port_and_function() {
    for address in ["127.0.0.1", "::1"] {
        let Some(counted) = counted(|| send_to_nobody(address, 7)) else { return };
        let of_port: Vec<_> = counted.drops.iter().filter(|drops| drops.ports.1 == 9).collect();
        assert_eq!(of_port.iter().map(|drops| drops.packets).sum::<u64>(), 7, "{counted:?}");
        let drops = of_port[0];
        assert_eq!((drops.reason.as_str(), drops.protocol, drops.interface), ("NO_SOCKET", 17, 1));
        let is_v4 = address.contains('.');
        assert_eq!(drops.ethertype, if is_v4 { 0x0800 } else { 0x86dd });
        if let Some(location) = &drops.location {
            assert!(location.contains(if is_v4 { "udp" } else { "udp6" }), "{drops:?}");
            assert!(!drops.callers.is_empty(), "{drops:?}");
        }
        assert_eq!(counted.uncounted, 0);
    }
}

#[test]
fn what_other_namespaces_drop_is_not_counted() {
    let Some(counted) = counted(|| {
        let other = Namespace::create().unwrap();
        other.enter(|| send_to_nobody("127.0.0.1", 5)).unwrap();
    }) else {
        return;
    };
    assert_eq!(counted.drops, []);
}

#[test]
fn ports_are_left_out_where_they_are_too_many() {
    let Some(counted) = counted(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        for port in 1..=6000u16 {
            let _ = socket.send_to(b"nobody", ("127.0.0.1", port));
        }
    }) else {
        return;
    };
    let datagrams = |with_port: bool| -> u64 {
        let of =
            counted.drops.iter().filter(|drops| drops.protocol == 17 && (drops.ports.1 != 0) == with_port);
        of.map(|drops| drops.packets).sum()
    };
    assert!(datagrams(true) <= 4096 && datagrams(false) > 0);
    assert!(
        datagrams(true) + datagrams(false) + counted.uncounted >= 5900,
        "{} uncounted",
        counted.uncounted
    );
}

#[test]
fn a_module_s_reasons_are_told_by_number() {
    let names = HashMap::from([(3, "SKB_DROP_REASON_NO_SOCKET".to_owned()), (1, "SKB_CONSUMED".to_owned())]);
    let told = [3, 1, 900, 2 << 16 | 7].map(|number| reason(&names, number));
    assert_eq!(told, ["NO_SOCKET", "SKB_CONSUMED", "REASON_900", "SUBSYSTEM_2_REASON_7"]);
}
