//! Losses provoked in network namespaces: each is found in the kernel's counters, and nothing else is.
//!
//! Three hosts in a row, `left`, `middle` and `right`, each link with its own networks; the middle one forwards. Needs
//! CAP_SYS_ADMIN and CAP_NET_ADMIN (`unshare -Ur` does), and skips without.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rtt0_doctor::check;
use rtt0_doctor::look::counters::Counters;
use rtt0_doctor::look::interval::Interval;
use rtt0_doctor::{Finding, Patient, Rank, Report};
use rtt0_netio::links::{Links, VethEnd};
use rtt0_netio::netns::Namespace;
use rtt0_netio::offload::{self, Offloads};
use rtt0_netio::sysctl;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Three hosts: 10.9.0.1 – 10.9.0.2 10.9.1.2 – 10.9.1.1, and fd09::1 – fd09::2 fd09:1::2 – fd09:1::1.
struct Row {
    left: Namespace,
    middle: Namespace,
    right: Namespace,
}

impl Row {
    /// None, with a word, without the privilege.
    fn create() -> Option<Self> {
        let created =
            || Ok::<_, io::Error>((Namespace::create()?, Namespace::create()?, Namespace::create()?));
        let (left, middle, right) = match created() {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                println!("SKIPPED: needs CAP_SYS_ADMIN and CAP_NET_ADMIN");
                return None;
            }
            outcome => outcome.unwrap(),
        };
        // Neighbours of IPv6 are asked from a link-local address, which would wait for its duplicate detection.
        let parameters = ["default", "all"].map(|of| format!("net.ipv6.conf.{of}.accept_dad"));
        for namespace in [&left, &middle, &right] {
            sysctl::set(namespace, &parameters.each_ref().map(|name| (name.as_str(), "0"))).unwrap();
        }
        for (end, name, net) in [(&left, "left0", 0), (&right, "right0", 1)] {
            let far = VethEnd { namespace: &middle, name };
            Links::add_veth(VethEnd { namespace: end, name: "eth0" }, far, 1500).unwrap();
            for (namespace, link, host) in [(end, "eth0", 1), (&middle, name, 2)] {
                let links = Links::open(namespace).unwrap();
                links.bring_up(link).unwrap();
                links.add_address(link, [10, 9, net, host].into(), 24).unwrap();
                let six = if net == 0 { format!("fd09::{host}") } else { format!("fd09:1::{host}") };
                links.add_address(link, six.parse().unwrap(), 64).unwrap();
            }
            let links = Links::open(end).unwrap();
            links.add_route([0, 0, 0, 0].into(), 0, [10, 9, net, 2].into()).unwrap();
            let gateway: IpAddr = if net == 0 { "fd09::2" } else { "fd09:1::2" }.parse().unwrap();
            links.add_route("::".parse().unwrap(), 0, gateway).unwrap();
        }
        sysctl::set(&middle, &[("net.ipv4.ip_forward", "1"), ("net.ipv6.conf.all.forwarding", "1")]).unwrap();
        let row = Self { left, middle, right };
        row.warm_up("10.9.1.1:9");
        row.warm_up("[fd09:1::1]:9");
        Some(row)
    }

    /// Sends until something arrives: neighbours are to be known before anything is counted.
    fn warm_up(&self, to: &str) {
        let receiver = self.right.enter(|| UdpSocket::bind(to).unwrap()).unwrap();
        receiver.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let arrives = || {
            self.left.enter(|| Self::send(1, to, 8)).unwrap();
            receiver.recv(&mut [0; 8]).is_ok()
        };
        assert!((0..250).any(|_| arrives()), "{to} can't be reached");
        while receiver.recv(&mut [0; 8]).is_ok() {}
    }

    /// Sends datagrams of so many bytes from here; refusals are part of the game.
    fn send(count: usize, to: &str, bytes: usize) {
        let to: SocketAddr = to.parse().unwrap();
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).unwrap();
        for _ in 0..count {
            let _ = socket.send_to(&vec![0; bytes], to);
        }
    }
}

/// Examines a host while something happens; the kernel's own reasons are left out.
fn examined<T: Send>(host: &Namespace, happen: impl FnOnce() -> T + Send) -> (Report, T) {
    let read = || {
        host.enter(|| {
            let patient = Patient::host(Vec::new());
            (Counters::read(&patient), patient)
        })
        .unwrap()
    };
    let (before, _) = read();
    let start = Instant::now();
    let outcome = happen();
    thread::sleep(Duration::from_millis(100).saturating_sub(start.elapsed()));
    let elapsed = start.elapsed();
    let (after, patient) = read();
    let interval = Interval { before, after, elapsed, drops: Err("left out".to_owned()) };
    let mut report = Report::default();
    check::interval(&patient, &interval, &mut report);
    report.conclude();
    (report, outcome)
}

/// Returns what was found: cause, layer, rank and subject.
fn findings<'a>(report: &'a Report) -> Vec<(&'a str, &'a str, Rank, &'a str)> {
    let told = |finding: &'a Finding| {
        (finding.cause.id, finding.layer.name(), finding.rank, finding.subject.as_str())
    };
    report.findings().iter().map(told).collect()
}

/// Runs a program that a test needs; false, with a word, if it is not there.
fn run(host: &Namespace, command: &str) -> bool {
    run_words(host, &command.split(' ').collect::<Vec<_>>())
}

fn run_words(host: &Namespace, words: &[&str]) -> bool {
    let run = || Command::new(words[0]).args(&words[1..]).stderr(Stdio::inherit()).status();
    match host.enter(run).unwrap() {
        Ok(status) => status.success() || panic!("{words:?}: {status}"),
        Err(error) => {
            println!("SKIPPED: {words:?}: {error}");
            false
        }
    }
}

/// Sends a TCP flow for a while and returns how much arrived.
fn flow(row: &Row, to: &str, time: Duration) -> u64 {
    let listener = row.right.enter(|| TcpListener::bind(to).unwrap()).unwrap();
    let reader = thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let (mut buffer, mut total) = (vec![0; 1 << 16], 0);
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            total += count as u64;
        }
        total
    });
    let mut stream = row.left.enter(|| TcpStream::connect(to).unwrap()).unwrap();
    let start = Instant::now();
    while start.elapsed() < time {
        stream.write_all(&[7; 1 << 16]).unwrap();
    }
    drop(stream);
    reader.join().unwrap()
}

#[test]
fn busy_hosts_are_healthy_with_offloads_and_without() {
    let Some(row) = Row::create() else { return };
    for is_offloaded in [true, false] {
        if !is_offloaded {
            for (host, device) in
                [(&row.left, "eth0"), (&row.middle, "left0"), (&row.middle, "right0"), (&row.right, "eth0")]
            {
                host.enter(|| {
                    let wanted = Offloads {
                        rx_checksum: offload::read(device).unwrap().rx_checksum,
                        ..Offloads::NONE
                    };
                    offload::write(device, wanted).unwrap();
                })
                .unwrap();
            }
        }
        for host in [&row.left, &row.middle, &row.right] {
            for to in ["10.9.1.1:80", "[fd09:1::1]:80"] {
                let (report, bytes) = examined(host, || flow(&row, to, Duration::from_millis(700)));
                assert!(bytes > 100_000, "{bytes}");
                assert_eq!(findings(&report), [], "{}", report.text(false));
                assert_eq!(report.status(), 0, "{}", report.text(false));
            }
        }
    }
}

/// Makes so many short connections, each with a request and an answer, eight at a time.
fn short_connections(row: &Row, count: usize) {
    const AT_A_TIME: usize = 8;
    let listener = row.right.enter(|| TcpListener::bind("10.9.1.1:80").unwrap()).unwrap();
    let serve = || {
        for _ in 0..count {
            let mut stream = listener.accept().unwrap().0;
            thread::spawn(move || {
                let mut request = [0; 4];
                stream.read_exact(&mut request).unwrap();
                stream.write_all(&request).unwrap();
            });
        }
    };
    let ask = || {
        for _ in 0..count / AT_A_TIME {
            let mut stream = TcpStream::connect("10.9.1.1:80").unwrap();
            stream.write_all(b"ping").unwrap();
            stream.read_exact(&mut [0; 4]).unwrap();
        }
    };
    thread::scope(|scope| {
        scope.spawn(serve);
        (0..AT_A_TIME).for_each(|_| drop(scope.spawn(|| row.left.enter(ask).unwrap())));
    });
}

#[test]
fn many_short_connections_are_healthy() {
    let Some(row) = Row::create() else { return };
    for host in [&row.left, &row.middle, &row.right] {
        let (report, ()) = examined(host, || short_connections(&row, 400));
        assert_eq!(findings(&report), [], "{}", report.text(false));
    }
}

#[test]
fn hosts_at_the_ends_of_a_path_that_loses_one_in_a_hundred_are_healthy() {
    let Some(row) = Row::create() else { return };
    let rules = "add table ip wan; add chain ip wan forward { type filter hook forward priority 0; }; \
                 add rule ip wan forward numgen random mod 100 == 7 drop";
    if !run_words(&row.middle, &["nft", rules]) {
        return;
    }
    for control in ["cubic", "reno", "bbr"] {
        for host in [&row.left, &row.right] {
            if sysctl::set(host, &[("net.ipv4.tcp_congestion_control", control)]).is_err() {
                println!("SKIPPED: this kernel has no {control}");
                continue;
            }
            let (report, bytes) = examined(host, || flow(&row, "10.9.1.1:80", Duration::from_millis(1500)));
            assert_eq!(findings(&report), [], "{control}: {bytes} bytes\n{}", report.text(false));
        }
    }
    for host in [&row.left, &row.right] {
        let (report, ()) = examined(host, || short_connections(&row, 400));
        assert_eq!(findings(&report), [], "{}", report.text(false));
    }
}

#[test]
fn a_host_that_shapes_a_flow_is_healthy_and_so_is_its_sender() {
    let Some(row) = Row::create() else { return };
    let shapers = ["tbf rate 50mbit burst 32000 limit 200000", "tbf rate 20mbit burst 16000 limit 250000"];
    for (control, qdisc) in
        ["reno", "bbr"].into_iter().flat_map(|control| shapers.map(|qdisc| (control, qdisc)))
    {
        if sysctl::set(&row.left, &[("net.ipv4.tcp_congestion_control", control)]).is_err() {
            println!("SKIPPED: this kernel has no {control}");
            continue;
        }
        if !run(&row.middle, &format!("tc qdisc replace dev right0 root {qdisc}")) {
            return;
        }
        for host in [&row.left, &row.middle] {
            let (report, bytes) = examined(host, || flow(&row, "10.9.1.1:80", Duration::from_secs(1)));
            let told = report.text(false);
            assert_eq!(findings(&report), [], "{control}, {qdisc}: {bytes} bytes\n{told}");
        }
        run(&row.middle, "tc qdisc del dev right0 root");
    }
}

#[test]
fn a_full_listen_queue_names_its_socket() {
    let Some(row) = Row::create() else { return };
    let _listener = listening(&row.right, 1);
    let (report, clients) = examined(&row.right, || {
        let clients = row.left.enter(|| connecting(8, "10.9.1.1:80")).unwrap();
        thread::sleep(Duration::from_millis(300));
        clients
    });
    let expected = ("listen-overflow", "socket", Rank::Loss, "10.9.1.1:80");
    assert_eq!(findings(&report), [expected], "{}", report.text(false));
    let evidence = report.findings()[0].evidence.join("\n");
    assert!(evidence.contains(&format!("process {}", std::process::id())), "{evidence}");
    // It stays full, though nobody comes any more.
    drop(clients);
    let (report, ()) = examined(&row.right, || ());
    let expected = ("listen-overflow", "socket", Rank::Fault, "10.9.1.1:80");
    assert_eq!(findings(&report), [expected], "{}", report.text(false));
}

/// Listens at 10.9.1.1:80, and accepts nothing.
fn listening(host: &Namespace, backlog: i32) -> Socket {
    let listen = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&"10.9.1.1:80".parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.listen(backlog).unwrap();
        socket
    };
    host.enter(listen).unwrap()
}

/// Begins so many connections.
fn connecting(count: usize, to: &str) -> Vec<Socket> {
    let to: SocketAddr = to.parse().unwrap();
    let begin = |_| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        let _ = socket.connect(&to.into());
        socket
    };
    (0..count).map(begin).collect()
}

#[test]
fn a_slow_reader_of_datagrams_is_named() {
    let Some(row) = Row::create() else { return };
    let _socket = row.right.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.bind(&"10.9.1.1:5000".parse::<SocketAddr>().unwrap().into()).unwrap();
        socket
    });
    let send = || row.left.enter(|| Row::send(100, "10.9.1.1:5000", 500)).unwrap();
    let (report, ()) = examined(&row.right, send);
    let expected = ("udp-receive-buffer", "socket", Rank::Loss, "10.9.1.1:5000");
    assert_eq!(findings(&report), [expected], "{}", report.text(false));
}

#[test]
fn datagrams_for_nobody_are_told() {
    let Some(row) = Row::create() else { return };
    for to in ["10.9.1.1:9", "[fd09:1::1]:9"] {
        let send = || row.left.enter(|| Row::send(20, to, 100)).unwrap();
        let (report, ()) = examined(&row.right, send);
        assert_eq!(
            findings(&report),
            [("udp-no-port", "transport", Rank::Loss, "")],
            "{}",
            report.text(false)
        );
        assert_eq!(report.findings()[0].lost, 20);
    }
}

#[test]
fn a_missing_route_and_forwarding_that_is_off_are_told() {
    let Some(row) = Row::create() else { return };
    for to in ["192.0.2.1:9", "[2001:db8::1]:9"] {
        let send = || row.left.enter(|| Row::send(20, to, 100)).unwrap();
        let (report, ()) = examined(&row.middle, send);
        let expected = ("no-route-for-received", "routing", Rank::Loss, "");
        assert_eq!(findings(&report), [expected], "{}", report.text(false));
    }
    sysctl::set(&row.middle, &[("net.ipv4.ip_forward", "0")]).unwrap();
    let send = || row.left.enter(|| Row::send(20, "10.9.1.1:9", 100)).unwrap();
    let (report, ()) = examined(&row.middle, send);
    assert_eq!(findings(&report), [("address-errors", "ip", Rank::Loss, "")], "{}", report.text(false));
}

#[test]
fn the_reverse_path_filter_is_told() {
    let Some(row) = Row::create() else { return };
    let parameters = [("net.ipv4.conf.all.rp_filter", "1"), ("net.ipv4.conf.left0.rp_filter", "1")];
    sysctl::set(&row.middle, &parameters).unwrap();
    let links = Links::open(&row.left).unwrap();
    links.add_address("lo", [192, 0, 2, 9].into(), 32).unwrap();
    let send = || {
        row.left
            .enter(|| {
                let socket = UdpSocket::bind("192.0.2.9:0").unwrap();
                for _ in 0..20 {
                    socket.send_to(b"from nowhere", "10.9.1.1:9").unwrap();
                }
            })
            .unwrap();
    };
    let (report, ()) = examined(&row.middle, send);
    let expected = ("reverse-path-filter", "routing", Rank::Loss, "");
    assert_eq!(findings(&report), [expected], "{}", report.text(false));
}

#[test]
fn queues_that_drop_are_named() {
    let Some(row) = Row::create() else { return };
    for qdisc in ["tbf rate 8kbit burst 1600 limit 3000", "pfifo limit 2", "blackhole"] {
        // A FIFO is full only if something keeps it waiting.
        let commands = match qdisc {
            "pfifo limit 2" => vec![
                "tc qdisc replace dev eth0 root handle 1: htb default 1".to_owned(),
                "tc class add dev eth0 parent 1: classid 1:1 htb rate 8kbit".to_owned(),
                format!("tc qdisc add dev eth0 parent 1:1 handle 2: {qdisc}"),
            ],
            _ => vec![format!("tc qdisc replace dev eth0 root {qdisc}")],
        };
        if !commands.iter().all(|command| run(&row.left, command)) {
            return;
        }
        let send = || row.left.enter(|| Row::send(40, "10.9.1.1:9", 500)).unwrap();
        let (report, ()) = examined(&row.left, send);
        assert_eq!(
            findings(&report),
            [(
                if qdisc == "blackhole" { "qdisc-blackhole" } else { "qdisc-drop" },
                "qdisc",
                Rank::Loss,
                "eth0"
            )],
            "{}",
            report.text(false)
        );
        let kind = qdisc.split(' ').next().unwrap();
        assert!(report.findings()[0].evidence[0].contains(kind), "{:?}", report.findings()[0]);
        run(&row.left, "tc qdisc del dev eth0 root");
    }
}

/// An IPv4 packet to 10.9.1.1. The kernel fills in its length and checksum, and sends the rest as it is.
fn packet(host: u8, protocol: u8, (identification, flags, ttl): (u16, u16, u8), payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0];
    packet.extend(identification.to_be_bytes());
    packet.extend(flags.to_be_bytes());
    packet.extend([ttl, protocol, 0, 0, 10, 9, 0, host, 10, 9, 1, 1]);
    packet.extend(payload);
    packet
}

fn send_packets(packets: impl Iterator<Item = Vec<u8>>) {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).unwrap();
    let to = SockAddr::from("10.9.1.1:0".parse::<SocketAddr>().unwrap());
    for packet in packets {
        socket.send_to(&packet, &to).unwrap();
    }
}

/// Sends so many with the same payload of UDP.
fn send_raw(count: u16, (flags, ttl): (u16, u8), payload: &[u8]) {
    send_packets((1..=count).map(|id| packet(1, 17, (id, flags, ttl), payload)));
}

/// A TCP segment from 10.9.0.`host` to port 80 of 10.9.1.1, with its checksum.
fn segment(host: u8, port: u16, (sequence, flags): (u32, u8), payload: &[u8]) -> Vec<u8> {
    let mut segment = [port.to_be_bytes(), 80u16.to_be_bytes()].concat();
    segment.extend(sequence.to_be_bytes());
    segment.extend([0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(payload);
    let pseudo = [&[10, 9, 0, host, 10, 9, 1, 1, 0, 6][..], &(segment.len() as u16).to_be_bytes()].concat();
    let words =
        |bytes: &[u8]| bytes.chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(two[1])).sum::<u32>();
    let sum = words(&pseudo) + words(&segment);
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    segment[16..18].copy_from_slice(&(!folded as u16).to_be_bytes());
    packet(host, 6, (1, 0, 64), &segment)
}

#[test]
fn a_full_queue_of_half_open_connections_is_told() {
    const SYN: u8 = 2;
    let Some(row) = Row::create() else { return };
    let _listener = listening(&row.right, 4);
    for (cookies, rank) in [("0", Rank::Loss), ("1", Rank::Suspicion)] {
        sysctl::set(&row.right, &[("net.ipv4.tcp_syncookies", cookies)]).unwrap();
        // From addresses that nobody has, so that nobody resets them.
        let syns = || (0..60).map(|index| segment(50 + index, 5000, (7, SYN), &[]));
        let (report, ()) = examined(&row.right, || row.left.enter(|| send_packets(syns())).unwrap());
        assert_eq!(findings(&report)[0], ("syn-flood", "socket", rank, ""), "{}", report.text(false));
    }
}

#[test]
fn segments_outside_their_window_are_told() {
    const ACK: u8 = 0x10;
    let Some(row) = Row::create() else { return };
    let listener = row.right.enter(|| TcpListener::bind("10.9.1.1:80").unwrap()).unwrap();
    let client = row.left.enter(|| TcpStream::connect("10.9.1.1:80").unwrap()).unwrap();
    let _server = listener.accept().unwrap().0;
    let port = client.local_addr().unwrap().port();
    // Wherever the window is, half of them are before it and half behind.
    let sequence = |index: u32| 1_000_000 + (index % 2) * 0x8000_0000;
    let segments = || (0..100).map(|index| segment(1, port, (sequence(index), ACK), b"from elsewhere"));
    let (report, ()) = examined(&row.right, || row.left.enter(|| send_packets(segments())).unwrap());
    let expected = ("out-of-window", "transport", Rank::Symptom, "");
    assert!(findings(&report).contains(&expected), "{}", report.text(false));
}

#[test]
fn a_carrier_that_goes_is_told() {
    let Some(row) = Row::create() else { return };
    let (report, ()) = examined(&row.left, || {
        let links = Links::open(&row.middle).unwrap();
        links.take_down("left0").unwrap();
        thread::sleep(Duration::from_millis(100));
        links.bring_up("left0").unwrap();
        thread::sleep(Duration::from_millis(100));
    });
    let expected = ("no-carrier", "device", Rank::Symptom, "eth0");
    assert_eq!(findings(&report), [expected], "{}", report.text(false));
}

/// A datagram of 24 bytes from port 9 to port 9 whose checksum is wrong.
fn datagram() -> Vec<u8> {
    [&[0, 9, 0, 9, 0, 24, 0xba, 0xad][..], &[1; 16]].concat()
}

#[test]
fn wrong_checksums_are_told() {
    let Some(row) = Row::create() else { return };
    let _socket = row.right.enter(|| UdpSocket::bind("10.9.1.1:9").unwrap()).unwrap();
    let (report, ()) =
        examined(&row.right, || row.left.enter(|| send_raw(20, (0, 64), &datagram())).unwrap());
    let expected = ("checksum-errors", "transport", Rank::Loss, "");
    assert_eq!(findings(&report), [expected], "{}", report.text(false));
    assert_eq!(report.findings()[0].lost, 20);
}

#[test]
fn fragments_without_their_rest_are_told() {
    const MORE_FRAGMENTS: u16 = 0x2000;
    let Some(row) = Row::create() else { return };
    let (report, ()) =
        examined(&row.right, || row.left.enter(|| send_raw(20, (MORE_FRAGMENTS, 64), &datagram())).unwrap());
    let expected = ("reassembly-failed", "ip", Rank::Symptom, "");
    assert_eq!(findings(&report), [expected], "{}", report.text(false));
}

#[test]
fn used_up_hop_limits_are_told() {
    let Some(row) = Row::create() else { return };
    let (report, ()) =
        examined(&row.middle, || row.left.enter(|| send_raw(20, (0, 1), &datagram())).unwrap());
    assert_eq!(findings(&report), [("hop-limit", "ip", Rank::Loss, "")], "{}", report.text(false));
}

#[test]
fn packets_for_a_smaller_link_are_told_if_they_do_not_end() {
    const DO_NOT_FRAGMENT: u16 = 0x4000;
    let Some(row) = Row::create() else { return };
    for (host, device) in [(&row.middle, "right0"), (&row.right, "eth0")] {
        Links::open(host).unwrap().set_mtu_and_queue(device, 1280, 1000).unwrap();
    }
    let send = |count| {
        let payload = [datagram(), vec![0; 1376]].concat();
        row.left.enter(move || send_raw(count, (DO_NOT_FRAGMENT, 64), &payload)).unwrap()
    };
    let (report, ()) = examined(&row.middle, || send(40));
    assert_eq!(findings(&report), [("packet-too-big", "ip", Rank::Symptom, "")], "{}", report.text(false));
    let (report, ()) = examined(&row.middle, || send(10));
    assert_eq!(findings(&report), [], "{}", report.text(false));
}

#[test]
fn a_peer_with_a_smaller_mtu_makes_the_device_drop() {
    let Some(row) = Row::create() else { return };
    Links::open(&row.middle).unwrap().set_mtu_and_queue("left0", 1280, 1000).unwrap();
    let send = || row.left.enter(|| Row::send(20, "10.9.1.1:9", 1400)).unwrap();
    let (report, ()) = examined(&row.left, send);
    let expected = ("device-tx-drop", "device", Rank::Loss, "eth0");
    assert_eq!(findings(&report), [expected], "{}", report.text(false));
}

#[test]
fn frames_for_others_are_told() {
    let Some(row) = Row::create() else { return };
    let wrong = [2, 0, 0, 0, 0, 99];
    Links::open(&row.left).unwrap().add_neighbour("eth0", [10, 9, 0, 77].into(), wrong).unwrap();
    let send = || row.left.enter(|| Row::send(20, "10.9.0.77:9", 100)).unwrap();
    let (report, ()) = examined(&row.middle, send);
    assert_eq!(findings(&report), [("wrong-mac", "device", Rank::Loss, "left0")], "{}", report.text(false));
}

#[test]
fn connections_that_are_not_answered_and_that_are_refused_are_told_apart() {
    let Some(row) = Row::create() else { return };
    let wrong = [2, 0, 0, 0, 0, 99];
    Links::open(&row.left).unwrap().add_neighbour("eth0", [10, 9, 0, 77].into(), wrong).unwrap();
    let (report, _clients) = examined(&row.left, || {
        let clients = row.left.enter(|| connecting(8, "10.9.0.77:80")).unwrap();
        thread::sleep(Duration::from_millis(1500));
        clients
    });
    let expected = ("tcp-timeouts", "transport", Rank::Symptom, "");
    assert_eq!(findings(&report), [expected], "{}", report.text(false));
    let (report, _clients) = examined(&row.left, || row.left.enter(|| connecting(8, "10.9.1.1:81")).unwrap());
    let expected = ("tcp-no-port", "transport", Rank::Symptom, "");
    assert_eq!(findings(&report), [expected], "{}", report.text(false));
}

#[test]
fn a_full_receive_buffer_is_told() {
    let Some(row) = Row::create() else { return };
    let listener = row.right.enter(|| TcpListener::bind("10.9.1.1:80").unwrap()).unwrap();
    let client = row.left.enter(|| TcpStream::connect("10.9.1.1:80").unwrap()).unwrap();
    let server = listener.accept().unwrap().0;
    client.set_nonblocking(true).unwrap();
    let (report, ()) = examined(&row.right, || {
        // The window that the client knows is for a larger buffer.
        socket2::SockRef::from(&server).set_recv_buffer_size(2304).unwrap();
        for _ in 0..100 {
            let _ = (&client).write(&[1; 1000]);
            thread::sleep(Duration::from_millis(10));
        }
    });
    let expected = ("receive-buffer", "socket", Rank::Loss, "");
    assert_eq!(findings(&report), [expected], "{}", report.text(false));
}
