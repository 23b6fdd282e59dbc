//! The guard of a traffic mirror: what bears the mark leaves by the egress only, and tunnels end at the ingress.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rig;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use rig::{End, eventually, join, namespaces};
use rtt0_netio::guard::{self, Exit, MirrorGuard};
use rtt0_netio::netns::Namespace;
use socket2::SockRef;

const MARK: u32 = 0x5254_544d;
const OTHER_MARK: u32 = 0x5254_5452;
const WRONG: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);
const RIGHT: Ipv4Addr = Ipv4Addr::new(10, 3, 0, 2);

fn socket(namespace: &Namespace, mark: u32) -> UdpSocket {
    let open = || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        SockRef::from(&socket).set_mark(mark).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        socket
    };
    namespace.enter(open).unwrap()
}

fn listener(namespace: &Namespace, address: Ipv4Addr) -> UdpSocket {
    let open = || UdpSocket::bind(SocketAddrV4::new(address, 8081)).unwrap();
    let socket = namespace.enter(open).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    socket
}

fn arrives(at: &UdpSocket) -> bool {
    at.recv(&mut [0; 16]).is_ok()
}

#[test]
fn what_is_marked_leaves_by_the_egress_only_and_tunnels_end_at_the_ingress() {
    let Some([source, middle, other]) = namespaces() else { return };
    let end = |namespace, link, v4, v6| End { namespace, link, v4, v6 };
    join(end(&source, "src0", [10, 1, 0, 2], "fd01::2"), end(&middle, "in0", [10, 1, 0, 1], "fd01::1"), 1500);
    join(end(&middle, "else0", [10, 2, 0, 1], "fd02::1"), end(&other, "a0", [10, 2, 0, 2], "fd02::2"), 1500);
    join(end(&middle, "out0", [10, 3, 0, 1], "fd03::1"), end(&other, "b0", [10, 3, 0, 2], "fd03::2"), 1500);
    let (wrong, right) = (listener(&other, WRONG), listener(&other, RIGHT));
    let (marked, plain) = (socket(&middle, MARK), socket(&middle, 0));

    // Without it both ways are open, or nothing below would be shown.
    for to in [WRONG, RIGHT] {
        marked.send_to(b"before", (to, 8081)).unwrap();
    }
    assert!(arrives(&wrong) && arrives(&right));
    let refused = |port: u16| {
        let sender = socket(&source, 0);
        sender.connect(("10.1.0.1", port)).unwrap();
        sender.send(b"tunnelled").unwrap();
        let answer = sender.recv(&mut [0; 16]).unwrap_err().kind();
        assert!(matches!(answer, ErrorKind::ConnectionRefused | ErrorKind::WouldBlock), "{answer:?}");
        answer == ErrorKind::ConnectionRefused
    };
    assert!(refused(4789));

    let exits = [Exit { interface: "out0", mark: MARK }, Exit { interface: "else0", mark: OTHER_MARK }];
    let install = || MirrorGuard::install("in0", &[4789], &exits, None).unwrap();
    let mut guard = middle.enter(install).unwrap();
    // The kernel refuses to send, or drops; it never gets there.
    let _ = marked.send_to(b"astray", (WRONG, 8081));
    assert!(!arrives(&wrong));
    assert_eq!(guard.strayed().unwrap(), 1);
    marked.send_to(b"right", (RIGHT, 8081)).unwrap();
    plain.send_to(b"not ours", (WRONG, 8081)).unwrap();
    assert!(arrives(&right) && arrives(&wrong));
    assert_eq!(guard.strayed().unwrap(), 1);
    // Each mark has its own way out.
    let other = socket(&middle, OTHER_MARK);
    let _ = other.send_to(b"astray", (RIGHT, 8081));
    assert!(!arrives(&right));
    assert_eq!(guard.strayed().unwrap(), 2);
    other.send_to(b"right", (WRONG, 8081)).unwrap();
    assert!(arrives(&wrong));
    // Nobody is told that there is no socket; at another port one is.
    assert!(!refused(4789) && refused(4788));

    assert_eq!(middle.enter(guard::tables).unwrap().unwrap().len(), 2);
    drop(guard);
    eventually("nothing is left", || middle.enter(guard::tables).unwrap().unwrap().is_empty().then_some(()));
    marked.send_to(b"after", (WRONG, 8081)).unwrap();
    assert!(arrives(&wrong));
}
