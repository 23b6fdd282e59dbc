//! Times to the first byte, and what of them 0-RTT would save.

use super::*;

/// A bench whose destination is known, from an exchange whose times are none of the test's.
fn taught() -> Bench {
    let mut bench = Bench::new();
    bench.handshake(10.0, 40.0).next(1_000.0);
    bench
}

fn medians(of: &ServiceReport) -> [Option<f64>; 3] {
    [of.first_byte.now, of.first_byte.expected, of.first_byte.best].map(|of| of.map(|of| of.p50))
}

#[test]
fn the_first_connection_saves_nothing_and_the_second_its_long_leg() {
    let mut bench = Bench::new();
    bench.exchange(10.0, 40.0);
    assert_eq!(medians(&bench.all()), [Some(101.0); 3]);
    let mut bench = taught();
    bench.exchange(10.0, 40.0);
    let all = bench.all();
    assert_eq!(medians(&all), [Some(101.0), Some(61.0), Some(51.0)]);
    let first = all.first_byte;
    assert_eq!((first.client_first, first.server_first, first.sped_up), (1, 0, 1));
    assert_eq!((first.saved_ms, first.saved_at_best_ms), (40.0, 50.0));
}

#[test]
fn the_mirror_may_stand_on_either_side_of_the_long_leg() {
    let mut bench = taught();
    bench.exchange(40.0, 10.0);
    assert_eq!(medians(&bench.all()), [Some(101.0), Some(61.0), Some(51.0)]);
}

#[test]
fn a_request_that_waited_saves_only_what_exceeds_its_wait() {
    for (wait, saved, best) in [(15.0, 25.0, 35.0), (45.0, 0.0, 5.0), (400.0, 0.0, 0.0)] {
        let mut bench = taught();
        bench.handshake(10.0, 40.0);
        bench.client(50.0 + wait, ACK, 1, 1, 100).server(61.0 + wait, ACK, 1, 101, 9);
        let first = bench.all().first_byte;
        assert_eq!((first.saved_ms, first.saved_at_best_ms), (saved, best), "{wait} ms");
    }
}

#[test]
fn where_the_server_speaks_first_as_much_is_saved_and_told_apart() {
    let mut bench = taught();
    bench.handshake(10.0, 40.0).server(61.0, ACK, 1, 1, 50);
    bench.client(101.0, ACK, 1, 51, 20);
    let all = bench.all();
    assert_eq!((all.first_byte.client_first, all.first_byte.server_first), (0, 1));
    assert_eq!(medians(&all), [Some(101.0), Some(61.0), Some(51.0)]);
    assert_eq!(all.uploads.until_first_byte.map(|of| of.p50), Some(0.0));
}

#[test]
fn the_first_byte_is_that_behind_the_syn_ack_and_no_later_one() {
    let mut bench = taught();
    bench.handshake(10.0, 40.0).client(50.0, ACK, 1, 1, 100);
    bench.server(62.0, ACK, 11, 101, 10);
    assert_eq!(bench.all().first_byte.at_mirror, None);
    bench.server(64.0, ACK, 1, 101, 10).server(65.0, ACK, 1, 101, 10);
    assert_eq!(bench.all().first_byte.at_mirror.map(|of| (of.count, of.p50)), Some((1, 64.0)));
}

#[test]
fn a_request_that_the_mirror_lost_is_told_by_its_acknowledgement() {
    let mut bench = taught();
    bench.handshake(10.0, 40.0).server(61.0, ACK, 1, 101, 50);
    let all = bench.all();
    assert_eq!((all.first_byte.client_first, all.first_byte.server_first), (1, 0));
    assert_eq!(all.uploads.until_first_byte.map(|of| of.p50), Some(100.0));
    assert_eq!((all.first_byte.now, all.first_byte.sped_up), (None, 0), "nobody knows when it was sent");
}

#[test]
fn a_bare_acknowledgement_that_the_mirror_lost_costs_the_round_trip() {
    let mut bench = taught();
    bench.client(0.0, SYN, 0, 0, 0).server(10.0, SYN | ACK, 0, 1, 0);
    bench.client(450.0, ACK, 1, 1, 100).client(451.0, ACK, 1, 1, 0).server(461.0, ACK, 1, 101, 9);
    let all = bench.all();
    assert_eq!(all.round_trips.path.map(|of| of.count), Some(1), "that of the connection before");
    assert_eq!(all.first_byte.at_mirror.map(|of| of.p50), Some(461.0));
    assert_eq!(all.first_byte.now, None);
}

#[test]
fn uploads_count_from_the_isn_across_the_wrap_and_to_the_end() {
    let mut bench = taught();
    bench.handshake(10.0, 40.0);
    for piece in 0..300u32 {
        bench.client(60.0, ACK, 1 + piece * 1000, 1, 1000);
    }
    bench.client(60.0, ACK, 1, 1, 1000);
    bench.server(90.0, ACK, 1, 300_001, 10).client(100.0, ACK, 300_001, 11, 500);
    bench.client(101.0, ACK | FIN, 300_501, 11, 0).client(102.0, ACK | FIN, 300_501, 11, 0);
    let uploads = bench.all().uploads;
    let read = |of: Option<Quantiles>| of.map(|of| (of.count, of.p50));
    assert_eq!(
        (read(uploads.until_first_byte), read(uploads.total)),
        (Some((1, 300_000.0)), Some((1, 300_500.0)))
    );
    assert_eq!(uploads.large, 1);
}
