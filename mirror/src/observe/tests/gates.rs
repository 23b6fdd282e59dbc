//! What ClientNIC would do with a SYN.

use super::*;

/// Shows a SYN with these options and its SYN-ACK, then resets the connection.
fn syn_with(bench: &mut Bench, flags: Flags, options: &[u8], length: usize) {
    bench.next(1_000.0).client_with(0.0, flags, (0, 0), options, length);
    bench.server(10.0, SYN | ACK, 0, 1, 0).client(50.0, RST, 1, 0, 0);
}

fn with(more: &[u8]) -> Vec<u8> {
    let mut options = linux(Some(1));
    options.extend_from_slice(more);
    options
}

#[test]
fn the_daemons_reasons_are_given() {
    let mut bench = Bench::new();
    syn_with(&mut bench, SYN, &linux(Some(1)), 0);
    syn_with(&mut bench, SYN, &linux(Some(1)), 0);
    syn_with(&mut bench, SYN, &with(&[34, 2, 1, 1]), 0);
    syn_with(&mut bench, SYN, &with(&[34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1]), 50);
    syn_with(&mut bench, SYN, &with(&[30, 4, 0, 0]), 0);
    syn_with(&mut bench, SYN | Flags::ECN, &linux(Some(1)), 0);
    syn_with(&mut bench, SYN | Flags::URG, &linux(Some(1)), 0);
    syn_with(&mut bench, SYN, &with(&[3, 9, 0, 0]), 0);
    let all = bench.all();
    assert_eq!((all.connections.begun, all.zero_rtt), (8, 1));
    for (label, count) in [
        ("learning", 1),
        ("unknown_option", 2),
        ("syn_payload", 1),
        ("accurate_ecn", 1),
        ("odd_syn", 1),
        ("malformed_tcp", 1),
    ] {
        assert_eq!(passed(&all, label), count, "{label}");
    }
    let syns = bench.report(0.0).syns;
    let of = |name: &str| {
        syns.options.iter().filter(|option| option.name == name).map(|option| option.count).sum()
    };
    let counts: [u64; 4] = ["MSS", "Fast Open", "MPTCP", "timestamps"].map(of);
    assert_eq!((syns.seen, counts), (8, [8, 2, 1, 8]));
    assert_eq!((syns.mss, syns.window_scale), (vec![(1460, 8)], vec![(7, 8)]));
    assert_eq!((syns.payload, syns.malformed, syns.ecn), (1, 1, 1));
}

#[test]
fn a_destination_is_known_until_what_it_answered_is_too_old() {
    let mut bench = Bench::new();
    syn_with(&mut bench, SYN, &linux(Some(1)), 0);
    bench.at += 598_000.0;
    syn_with(&mut bench, SYN, &linux(Some(1)), 0);
    bench.at += 601_000.0;
    syn_with(&mut bench, SYN, &linux(Some(1)), 0);
    let all = bench.all();
    assert_eq!((all.zero_rtt, passed(&all, "learning")), (1, 2));
}

#[test]
fn a_syn_that_offers_what_was_never_asked_is_learned_from() {
    let mut bench = Bench::new();
    syn_with(&mut bench, SYN, &linux(None), 0);
    syn_with(&mut bench, SYN, &linux(Some(1)), 0);
    syn_with(&mut bench, SYN, &linux(Some(1)), 0);
    let all = bench.all();
    assert_eq!((all.zero_rtt, passed(&all, "learning")), (1, 2));
}

#[test]
fn without_room_for_the_probe_nothing_is_learned() {
    let mut bench = Bench::new();
    // As Darwin sends them: 24 bytes.
    for _ in 0..3 {
        syn_with(&mut bench, SYN, &with(&[0, 0, 0, 0]), 0);
    }
    assert_eq!((bench.all().zero_rtt, passed(&bench.all(), "no_option_space")), (0, 3));
    syn_with(&mut bench, SYN, &linux(Some(1)), 0);
    syn_with(&mut bench, SYN, &with(&[0, 0, 0, 0]), 0);
    assert_eq!((bench.all().zero_rtt, passed(&bench.all(), "learning")), (1, 1));
}

#[test]
fn a_refusal_closes_the_gate_for_a_second_and_was_a_false_connect() {
    let mut bench = Bench::new();
    syn_with(&mut bench, SYN, &linux(Some(1)), 0);
    bench.next(1_000.0).client(0.0, SYN, 0, 0, 0).server(10.0, RST | ACK, 0, 1, 0);
    bench.next(500.0).client(0.0, SYN, 0, 0, 0).server(10.0, RST | ACK, 0, 1, 0);
    bench.next(1_500.0).client(0.0, SYN, 0, 0, 0).server(10.0, RST | ACK, 0, 1, 0);
    let all = bench.all();
    assert_eq!((all.zero_rtt, all.falsely_connected), (1, 1));
    assert_eq!((passed(&all, "refused_lately"), passed(&all, "learning")), (1, 2));
}

#[test]
fn a_server_that_falls_silent_is_a_false_connect_too() {
    let mut bench = Bench::new();
    syn_with(&mut bench, SYN, &linux(Some(1)), 0);
    bench.next(1_000.0).client(0.0, SYN, 0, 0, 0);
    assert_eq!((bench.all().falsely_connected, bench.report(15_001.0).all.falsely_connected), (0, 1));
    bench.next(15_010.0).client(0.0, SYN, 0, 0, 0);
    let all = bench.all();
    assert_eq!((all.falsely_connected, passed(&all, "refused_lately")), (1, 1));
}

#[test]
fn large_uploads_close_the_gate() {
    let mut bench = Bench::new();
    for _ in 0..3 {
        bench.next(1_000.0).handshake(10.0, 40.0);
        bench.client(60.0, ACK, 1, 1, 60_000).client(60.0, ACK, 250_001, 1, 20_000);
        bench.client(61.0, ACK | FIN, 270_001, 1, 0);
    }
    let all = bench.all();
    assert_eq!((all.zero_rtt, all.uploads.large), (0, 3));
    assert_eq!((passed(&all, "learning"), passed(&all, "large_uploads")), (1, 2));
    assert_eq!(all.uploads.total.map(|of| of.p50), Some(270_000.0));
}

#[test]
fn one_destinations_gates_are_not_anothers() {
    let mut bench = Bench::new();
    syn_with(&mut bench, SYN, &linux(Some(1)), 0);
    bench.server.1 = 80;
    syn_with(&mut bench, SYN, &linux(Some(1)), 0);
    assert_eq!((bench.all().zero_rtt, passed(&bench.all(), "learning")), (0, 2));
}
