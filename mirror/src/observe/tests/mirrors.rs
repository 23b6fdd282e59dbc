//! What mirrors do: doubling, one direction, gaps, the wrong order, too much.

use super::*;

/// Shows every segment twice, the copies `later` ms after.
fn doubled(clock: Option<u32>, later: f64) -> ServiceReport {
    let mut bench = Bench::new();
    bench.clock = clock;
    for n in 0..2 {
        bench.next(1_000.0 * f64::from(n));
        for copy in [0.0, later] {
            bench.client(copy, SYN, 0, 0, 0);
        }
        for copy in [0.0, later] {
            bench.server(10.0 + copy, SYN | ACK, 0, 1, 0);
        }
        for copy in [0.0, later] {
            bench.client(50.0 + copy, ACK, 1, 1, 0);
        }
        for copy in [0.0, later] {
            bench.client(51.0 + copy, ACK, 1, 1, 100);
        }
        for copy in [0.0, later] {
            bench.server(62.0 + copy, ACK, 1, 101, 100);
        }
        for copy in [0.0, later] {
            bench.client(70.0 + copy, ACK | FIN, 101, 101, 0);
        }
        for copy in [0.0, later] {
            bench.server(80.0 + copy, ACK | FIN, 101, 102, 0);
        }
    }
    bench.all()
}

#[test]
fn copies_count_once() {
    for clock in [Some(7), None] {
        let all = doubled(clock, 0.3);
        assert_eq!((outcomes(&all), all.connections.syn_repeats), ([2, 2, 0, 0, 0], 0));
        assert_eq!(all.round_trips.path.map(|of| (of.count, of.p50)), Some((2, 50.0)));
        assert_eq!((all.first_byte.client_first, all.zero_rtt), (2, 1));
        assert_eq!(all.uploads.total.map(|of| (of.count, of.p50)), Some((2, 100.0)));
    }
}

#[test]
fn a_late_copy_is_known_by_its_timestamp_only() {
    let mut bench = Bench::new();
    bench.client(0.0, SYN, 0, 0, 0).client(400.0, SYN, 0, 0, 0);
    assert_eq!(bench.all().connections.syn_repeats, 0);
    let mut bench = Bench::new();
    bench.clock = None;
    bench.client(0.0, SYN, 0, 0, 0).client(149.0, SYN, 0, 0, 0).client(400.0, SYN, 0, 0, 0);
    assert_eq!((bench.all().connections.syn_repeats, bench.all().connections.begun), (1, 1));
}

#[test]
fn of_one_direction_to_the_server_the_path_is_known_and_nothing_else_is_made_up() {
    let mut bench = Bench::new();
    bench.client(0.0, SYN, 0, 0, 0).client(50.0, ACK, 1, 1, 0).client(50.5, ACK, 1, 1, 100);
    bench.client(140.0, ACK | FIN, 101, 900, 0);
    bench.next(100.0).client(0.0, SYN, 0, 0, 0);
    let report = bench.report(20_000.0);
    let row = &report.services[0];
    assert_eq!((row.sight, outcomes(row)), (Sight::OnlyToServer, [2, 1, 0, 1, 0]));
    assert_eq!(row.round_trips.path.map(|of| of.p50), Some(50.0));
    assert_eq!((row.round_trips.to_server, row.first_byte.at_mirror, row.first_byte.now), (None, None, None));
    assert_eq!(row.uploads.total.map(|of| of.p50), Some(100.0));
    assert!(report.to_text().contains("only one direction is mirrored: to the server"));
}

#[test]
fn of_one_direction_to_the_client_connections_are_counted_and_not_judged() {
    let mut bench = Bench::new();
    bench.server(0.0, SYN | ACK, 0, 1, 0).server(60.0, ACK, 1, 101, 500).server(61.0, ACK | FIN, 501, 101, 0);
    let report = bench.report(1_000.0);
    let row = &report.services[0];
    assert_eq!((row.sight, outcomes(row), row.not_judged), (Sight::OnlyToClient, [1, 1, 0, 0, 0], 1));
    assert_eq!((row.round_trips.path, row.first_byte.at_mirror, row.zero_rtt), (None, None, 0));
    assert!(report.html().unwrap().contains("only one direction is mirrored: to the client"));
}

#[test]
fn syns_alone_may_mean_either() {
    let mut bench = Bench::new();
    bench.client(0.0, SYN, 0, 0, 0);
    assert_eq!(bench.all().sight, Sight::OnlySyns);
}

#[test]
fn a_syn_behind_its_syn_ack_is_one_connection_that_is_judged_but_not_timed() {
    let mut bench = Bench::new();
    bench.server(0.0, SYN | ACK, 0, 1, 0).client(0.1, SYN, 0, 0, 0).client(50.0, ACK, 1, 1, 0);
    bench.client(50.0, ACK, 1, 1, 10).server(61.0, ACK, 1, 11, 10);
    let all = bench.all();
    assert_eq!((outcomes(&all), all.not_judged, passed(&all, "learning")), ([1, 1, 0, 0, 0], 0, 1));
    assert_eq!((all.round_trips.path, all.first_byte.at_mirror), (None, None));
}

#[test]
fn an_acknowledgement_ahead_of_its_syn_ack_gives_the_path_and_no_legs() {
    let mut bench = Bench::new();
    bench.client(0.0, SYN, 0, 0, 0).client(50.0, ACK, 1, 1, 0).server(50.1, SYN | ACK, 0, 1, 0);
    bench.client(50.2, ACK, 1, 1, 10).server(61.0, ACK, 1, 11, 10);
    let all = bench.all();
    assert_eq!((outcomes(&all), all.round_trips.to_server), ([1, 1, 0, 0, 0], None));
    assert_eq!(all.round_trips.path.map(|of| of.p50), Some(50.0));
    assert_eq!(all.first_byte.now, None);
}

#[test]
fn the_middle_of_a_connection_is_not_one_that_began() {
    let mut bench = Bench::new();
    bench.client(0.0, ACK, 500, 500, 10).server(1.0, ACK, 500, 510, 10).server(2.0, RST, 510, 0, 0);
    let report = bench.report(0.0);
    assert_eq!((outcomes(&report.all), report.unused.no_flow), ([0; 5], 3));
    assert!(report.services.is_empty());
}

#[test]
fn only_services_asked_for_are_observed() {
    let services = ["10.1.2.0/24:443", "10.1.3.0/24:1-65535"].map(|rule| rule.parse().unwrap()).to_vec();
    let mut bench = Bench::with(Options { services, ..Options::default() });
    bench.exchange(10.0, 40.0);
    bench.next(10.0).server.1 = 80;
    bench.exchange(10.0, 40.0);
    let report = bench.report(0.0);
    assert_eq!((report.services.len(), report.unused.other_services), (1, 2), "a SYN and a SYN-ACK");
    assert_eq!(report.services[0].service, "10.1.2.0/24:443");
}

#[test]
fn beyond_the_bound_services_are_counted_together() {
    let mut bench = Bench::with(Options { max_services: 2, ..Options::default() });
    for port in [1, 2, 3, 4, 3] {
        bench.next(1_000.0).server.1 = port;
        bench.exchange(10.0, 40.0);
    }
    let report = bench.report(0.0);
    let rows = report.services.iter().map(|row| (row.service.as_str(), row.connections.begun));
    assert_eq!(rows.collect::<Vec<_>>(), [("others", 3), ("10.1.2.10:1", 1), ("10.1.2.10:2", 1)]);
    assert_eq!(report.all.zero_rtt, 1, "gates are each destination's own all the same");
}

#[test]
fn a_full_table_lets_go_who_has_told_all_and_counts_whom_it_has_no_room_for() {
    let mut bench = Bench::with(Options { max_flows: 2, ..Options::default() });
    bench.client(0.0, SYN, 0, 0, 0).next(1.0);
    bench.handshake(1.0, 1.0).client(2.0, ACK, 1, 1, 5).server(3.0, ACK, 1, 6, 5).next(5.0);
    bench.client(0.0, SYN, 0, 0, 0).next(1.0).client(0.0, SYN, 0, 0, 0);
    let report = bench.report(0.0);
    assert_eq!(outcomes(&report.all), [3, 1, 0, 0, 2]);
    assert_eq!((report.unused.flows_let_go, report.unused.flows_not_tracked), (1, 1));
}

#[test]
fn what_is_no_segment_is_counted_and_the_clock_never_goes_back() {
    let mut bench = Bench::new();
    let control = Control {
        source: bench.client,
        destination: bench.server,
        sequence: 1,
        acknowledgement: 0,
        flags: SYN,
        window: 1,
    };
    let (bytes, inner) = packet(control, &linux(None), 0);
    let now = Instant::from_micros(9_000_000);
    for cut in 0..bytes.len() {
        bench.observer.segment(now, &bytes[..cut], &inner);
    }
    bench.observer.segment(now, &bytes, &Inner { length: 30, ..inner });
    bench.observer.segment(now, &bytes, &Inner { upper: usize::MAX, ..inner });
    bench.observer.segment(now, &bytes, &Inner { transport: Transport::Udp, ..inner });
    let report = bench.observer.report(Instant::ZERO);
    assert_eq!((report.unused.malformed, report.unused.not_tcp), (bytes.len() as u64 + 2, 1));
    assert_eq!((report.all.connections.begun, report.observed_s), (0, 0.0));
}
