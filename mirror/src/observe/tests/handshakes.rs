//! How connections begin, and round trips.

use super::*;

#[test]
fn a_request_and_its_response_give_their_times() {
    let mut bench = Bench::new();
    bench.exchange(10.0, 40.0);
    let report = bench.report(100.0);
    let [row] = &report.services[..] else { panic!("one service") };
    assert_eq!(row.service, "10.1.2.10:443");
    assert_eq!((outcomes(row), row.sight), ([1, 1, 0, 0, 0], Sight::Both));
    let trips = [row.round_trips.to_server, row.round_trips.to_client, row.round_trips.path];
    assert_eq!(
        trips.map(|trip| trip.map(|trip| (trip.count, trip.p50))),
        [10.0, 40.0, 50.0].map(|ms| Some((1, ms)))
    );
    assert_eq!(row.first_byte.at_mirror.map(|of| of.p50), Some(61.0));
    assert_eq!(row.first_byte.now.map(|of| of.p50), Some(101.0), "two round trips and the work");
    assert_eq!(row.uploads.until_first_byte.map(|of| of.p50), Some(100.0));
    assert_eq!(row.uploads.total.map(|of| of.p50), Some(100.0));
    assert_eq!(row.connections.busiest_second, 1);
    assert_eq!(report.observed_s, 0.1);
}

#[test]
fn a_refusal_and_silence_are_told_apart_and_from_what_is_pending() {
    let mut bench = Bench::new();
    bench.client(0.0, SYN, 0, 0, 0).server(20.0, RST | ACK, 0, 1, 0);
    bench.next(100.0).client(0.0, SYN, 0, 0, 0);
    bench.next(10_000.0).client(0.0, SYN, 0, 0, 0);
    assert_eq!(outcomes(&bench.all()), [3, 0, 1, 0, 2]);
    assert_eq!(outcomes(&bench.report(4_999.0).all), [3, 0, 1, 0, 2]);
    // Once by the report's own clock, though nothing came since, and once by the next segment's.
    assert_eq!(outcomes(&bench.report(5_100.0).all), [3, 0, 1, 1, 1]);
    bench.next(30_000.0).client(0.0, SYN, 0, 0, 0);
    assert_eq!(outcomes(&bench.all()), [4, 0, 1, 2, 1]);
    assert_eq!(bench.all().uploads.total, None, "who was refused has uploaded nothing");
}

#[test]
fn a_reset_that_is_not_for_the_syn_refuses_nothing() {
    let mut bench = Bench::new();
    bench.client(0.0, SYN, 0, 0, 0).server(20.0, RST | ACK, 0, 2, 0).server(21.0, RST, 0, 0, 0);
    assert_eq!(outcomes(&bench.all()), [1, 0, 0, 0, 1]);
    bench.server(22.0, RST | ACK, 0, 1, 0).server(23.0, RST | ACK, 0, 1, 0);
    assert_eq!(outcomes(&bench.all()), [1, 0, 1, 0, 0]);
}

#[test]
fn a_lost_syn_is_waited_for_and_gives_no_round_trip() {
    let mut bench = Bench::new();
    bench.client(0.0, SYN, 0, 0, 0);
    bench.clock = Some(1_100);
    bench.client(1_000.0, SYN, 0, 0, 0);
    assert_eq!(outcomes(&bench.report(15_500.0).all), [1, 0, 0, 0, 1], "from the last SYN on");
    bench.server(1_050.0, SYN | ACK, 0, 1, 0).client(1_060.0, ACK, 1, 1, 0).client(1_060.0, ACK, 1, 1, 10);
    bench.server(1_200.0, ACK, 1, 11, 10);
    let all = bench.all();
    assert_eq!((outcomes(&all), all.connections.syn_repeats), ([1, 1, 0, 0, 0], 1));
    assert_eq!(all.round_trips.path, None);
    assert_eq!(all.first_byte.at_mirror.map(|of| of.p50), Some(1_200.0), "what the client went through");
    assert_eq!(all.first_byte.now, None, "no leg is known");
}

#[test]
fn a_repeated_syn_ack_gives_no_round_trip() {
    let mut bench = Bench::new();
    bench.client(0.0, SYN, 0, 0, 0).server(10.0, SYN | ACK, 0, 1, 0);
    bench.clock = Some(1_200);
    bench.server(1_010.0, SYN | ACK, 0, 1, 0).client(1_050.0, ACK, 1, 1, 0);
    assert_eq!((outcomes(&bench.all()), bench.all().round_trips.path), ([1, 1, 0, 0, 0], None));
}

#[test]
fn the_same_ends_with_another_isn_are_another_connection() {
    let mut bench = Bench::new();
    bench.exchange(10.0, 40.0);
    let later = Control {
        source: bench.client,
        destination: bench.server,
        sequence: 77,
        acknowledgement: 0,
        flags: SYN,
        window: 1,
    };
    bench.show(500.0, later, &linux(Some(5)), 0);
    assert_eq!(outcomes(&bench.all()), [2, 1, 0, 0, 1]);
    bench.show(900.0, Control { sequence: 99, ..later }, &linux(Some(6)), 0);
    assert_eq!(outcomes(&bench.all()), [3, 1, 0, 1, 1], "the one before it had no answer");
}

#[test]
fn rates_are_over_the_time_observed_and_the_busiest_second_stands_out() {
    let mut bench = Bench::new();
    for _ in 0..20 {
        bench.client(0.0, SYN, 0, 0, 0).next(10.0);
    }
    for _ in 0..5 {
        bench.next(1_000.0).client(0.0, SYN, 0, 0, 0);
    }
    let report = bench.report(4_800.0);
    assert_eq!((report.observed_s, report.all.connections.busiest_second), (10.0, 20));
    assert_eq!(report.all.connections.per_second, 2.5);
}

#[test]
fn ipv6_is_no_different() {
    let mut bench = Bench::new();
    bench.client.0 = "fd00::1".parse().unwrap();
    bench.server.0 = "fd00::2".parse().unwrap();
    bench.exchange(10.0, 40.0);
    let row = &bench.report(0.0).services[0];
    assert_eq!((row.service.as_str(), outcomes(row)), ("[fd00::2]:443", [1, 1, 0, 0, 0]));
}
