//! How a receiver begins and ends: what refuses it, and what is left of it.

use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use caps::{CapSet, Capability};
use rtt0_netio::counters::IoCounters;
use rtt0_netio::links::Links;
use rtt0_netio::xdp::{Fault, Mode, Receiver};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::rig::{eventually, namespaces};
use super::{LEFT, RIGHT, VXLAN, open, options, pair, pair_of_queues, payload, receive, udp};

/// Set for the child that [`holder`] is the body of.
const HOLDER: &str = "RTT0_XDP_HOLDER";

#[test]
fn a_second_instance_is_refused() {
    let Some([left, right]) = namespaces() else { return };
    pair(&left, &right, 1500);
    let first = open(&right, &options(Mode::Auto)).unwrap();
    for mode in [Mode::Auto, Mode::Native, Mode::Generic] {
        let error = open(&right, &options(mode)).unwrap_err();
        let id = Links::open(&right).unwrap().xdp_programs("right0").unwrap()[0];
        assert_eq!(
            error.to_string(),
            format!(
                "XDP program {id} 'rtt0_mirror' stands on interface 'right0' already: another process receives the same \
                 mirror there; end it, and the program goes with it"
            )
        );
    }
    // Another interface is another matter.
    drop(left.enter(|| Receiver::open("left0", &options(Mode::Auto))).unwrap().unwrap());
    drop(first);
    assert_eq!(Links::open(&right).unwrap().xdp_programs("right0").unwrap(), []);
    open(&right, &options(Mode::Auto)).unwrap();
}

/// The body of the child that [`nothing_stays_of_a_killed_process`] starts; no test by itself.
#[test]
fn holder() {
    if std::env::var_os(HOLDER).is_none() {
        return;
    }
    let receivers = Receiver::open_group("right0", &options(Mode::Auto), 2).unwrap();
    println!("{HOLDER} {}", receivers[0].describe());
    for mut receiver in receivers {
        std::thread::spawn(move || {
            let counters = IoCounters::default();
            loop {
                receiver.receive(&counters);
                let _ = receiver.check(&counters);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
    }
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn nothing_stays_of_a_killed_process() {
    let Some([left, right]) = namespaces() else { return };
    pair_of_queues(&left, &right, 2);
    let start = || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "life::holder", "--nocapture"])
            .env(HOLDER, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let mut child = right.enter(start).unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains(&format!("{HOLDER} AF_XDP on right0: native"))));
    let links = Links::open(&right).unwrap();
    assert_eq!(links.xdp_programs("right0").unwrap().len(), 1);
    // SIGKILL.
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the program must go", || links.xdp_programs("right0").unwrap().is_empty().then_some(()));
    let mut receiver = open(&right, &options(Mode::Native)).unwrap();
    udp(&left, LEFT).send_to(&payload(3), (IpAddr::from(RIGHT), VXLAN)).unwrap();
    receive(&mut receiver, 1, &IoCounters::default());
}

#[test]
fn what_is_missing_is_named() {
    let Some([left, right]) = namespaces() else { return };
    pair(&left, &right, 1500);
    let without = |capability| {
        // Capabilities belong to a thread, and this one ends.
        let attempt = || {
            caps::drop(None, CapSet::Effective, capability).unwrap();
            if capability == Capability::CAP_BPF {
                caps::drop(None, CapSet::Effective, Capability::CAP_SYS_ADMIN).unwrap();
            }
            Receiver::open("right0", &options(Mode::Auto)).unwrap_err().to_string()
        };
        right.enter(attempt).unwrap()
    };
    for capability in [Capability::CAP_NET_RAW, Capability::CAP_NET_ADMIN, Capability::CAP_BPF] {
        let message = without(capability);
        assert!(
            message.contains(&format!("AF_XDP can't be used: {capability} is missing, needed to ")),
            "{message}"
        );
    }
    assert_eq!(Links::open(&right).unwrap().xdp_programs("right0").unwrap(), []);
    // As on a system with a small limit; it counts only for those without CAP_IPC_LOCK, and no other test gives that up.
    let limit = getrlimit(Resource::Memlock);
    setrlimit(Resource::Memlock, Rlimit { current: Some(1 << 16), ..limit }).unwrap();
    let message = without(Capability::CAP_IPC_LOCK);
    setrlimit(Resource::Memlock, limit).unwrap();
    assert!(
        message.contains("16777216 bytes of packet memory are needed and RLIMIT_MEMLOCK is 65536"),
        "{message}"
    );
    assert_eq!(Links::open(&right).unwrap().xdp_programs("right0").unwrap(), []);
    let unknown = Receiver::open("nosuch0", &options(Mode::Auto)).unwrap_err().to_string();
    assert!(unknown.starts_with("interface 'nosuch0' not found"), "{unknown}");
}

#[test]
fn without_native_xdp_the_reason_is_told() {
    let Some([left, right]) = namespaces() else { return };
    // More than a veth's program is given in one page.
    pair(&left, &right, 9000);
    let error = open(&right, &options(Mode::Native)).unwrap_err().to_string();
    assert!(error.contains("driver veth runs no XDP program with an MTU as large as 9000"), "{error}");
    let mut receiver = open(&right, &options(Mode::Auto)).unwrap();
    let line = receiver.describe();
    assert!(
        line.contains("generic (kernel stack), copied") && line.contains("; not native: driver veth"),
        "{line}"
    );
    udp(&left, LEFT).send_to(&payload(3), (IpAddr::from(RIGHT), VXLAN)).unwrap();
    let packets = receive(&mut receiver, 1, &IoCounters::default());
    assert_eq!(receiver.packet(0).map(|(bytes, _)| bytes.to_vec()), packets.first().cloned());
    // Loopback's driver has none at all.
    let loopback =
        right.enter(|| Receiver::open("lo", &options(Mode::Native))).unwrap().unwrap_err().to_string();
    assert!(loopback.contains("AF_XDP can't be used: driver"), "{loopback}");
}

#[test]
fn an_interface_that_vanishes_is_told() {
    let Some([left, right]) = namespaces() else { return };
    pair(&left, &right, 1500);
    let mut receiver = open(&right, &options(Mode::Auto)).unwrap();
    let counters = IoCounters::default();
    assert_eq!(receiver.check(&counters), Ok(()));
    // The pair goes with either end.
    Links::open(&left).unwrap().remove("left0").unwrap();
    eventually("the deletion must be noticed", || {
        (receiver.check(&counters) == Err(Fault::Gone)).then_some(())
    });
    assert!(!receiver.receive(&counters));
    assert_eq!(receiver.check(&counters), Err(Fault::Gone));
}
