//! Whatever comes, in whatever order: no panic, and sums that agree.

use super::*;
use proptest::prelude::*;

/// A segment of one of few connections, plausible or not: which, from the client or not, control bits, numbers
/// beside the usual ones, payload, TSval, and ms since the one before.
type Step = (u16, bool, u16, (u32, u32), usize, Option<u32>, f64);

fn step() -> impl Strategy<Value = Step> {
    let flags =
        prop_oneof![Just(0x02u16), Just(0x12), Just(0x10), Just(0x11), Just(0x14), Just(0x04), 0u16..0x200];
    let number = || prop_oneof![4 => 0u32..4, 2 => 0u32..300_000, 1 => any::<u32>()];
    let clock = proptest::option::of(0u32..3);
    let gap = prop_oneof![8 => 0.0..50.0, 2 => 0.0..2_000.0, 1 => 0.0..400_000.0];
    let length = prop_oneof![Just(0usize), 0usize..70_000];
    (0u16..6, any::<bool>(), flags, (number(), number()), length, clock, gap)
}

fn give(bench: &mut Bench, (which, forth, bits, (seq, ack), length, clock, gap): Step) {
    bench.at += gap;
    bench.client.1 = 40_000 + which / 2;
    bench.server.1 = 443 + which % 2;
    bench.clock = clock;
    let flags = Flags::from_bits(bits);
    if forth {
        bench.client(0.0, flags, seq, ack, length);
    } else {
        bench.server(0.0, flags, seq, ack, length);
    }
}

fn sums_agree(report: &Report) -> Result<(), TestCaseError> {
    for of in report.services.iter().chain([&report.all]) {
        let [begun, answered, refused, unanswered, pending] = outcomes(of);
        prop_assert_eq!(begun, answered + refused + unanswered + pending);
        let passed: u64 = of.passed.iter().map(|reason| reason.count).sum();
        prop_assert_eq!(begun, of.zero_rtt + passed + of.not_judged);
        prop_assert!(of.falsely_connected <= of.zero_rtt.min(refused + unanswered));
        let first = &of.first_byte;
        prop_assert!(first.client_first + first.server_first <= answered);
        prop_assert!(first.sped_up <= of.zero_rtt && first.saved_ms <= first.saved_at_best_ms);
    }
    for pick in [
        (|of| of.connections.begun) as fn(&ServiceReport) -> u64,
        |of| of.connections.answered,
        |of| of.connections.unanswered,
        |of| of.zero_rtt,
        |of| of.first_byte.sped_up,
        |of| of.uploads.large,
    ] {
        prop_assert_eq!(report.services.iter().map(pick).sum::<u64>(), pick(&report.all));
    }
    Ok(())
}

proptest! {
    #[test]
    fn anything_goes_and_sums_agree(
        steps in proptest::collection::vec(step(), 0..200),
        max_flows in prop_oneof![Just(65_536usize), 0usize..4],
        max_services in prop_oneof![Just(4_096usize), 0usize..2],
    ) {
        let mut bench = Bench::with(Options { max_flows, max_services, ..Options::default() });
        for step in steps {
            give(&mut bench, step);
        }
        sums_agree(&bench.report(0.0))?;
        let later = bench.report(20_000.0);
        sums_agree(&later)?;
        prop_assert_eq!(later.all.connections.pending, 0, "nobody waits for longer");
    }

    /// Ordinary connections of which the mirror loses, doubles and delays segments. What is told of them can't exceed
    /// what happened, and what was seen whole is told as it was.
    #[test]
    fn losses_and_copies_make_nothing_up(
        fates in proptest::collection::vec(proptest::collection::vec(0u8..8, 7), 1..20),
    ) {
        let mut bench = Bench::new();
        let mut whole = 0;
        for fate in &fates {
            bench.next(20_000.0);
            bench.clock = Some(bench.at as u32);
            whole += u64::from(fate.iter().all(|fate| *fate != 0));
            for (place, fate) in fate.iter().enumerate() {
                // Lost, or shown once, or twice.
                let times: &[f64] = match fate { 0 => &[], 1 => &[0.0, 0.4], _ => &[0.0] };
                for late in times {
                    match place {
                        0 => bench.client(*late, SYN, 0, 0, 0),
                        1 => bench.server(10.0 + late, SYN | ACK, 0, 1, 0),
                        2 => bench.client(50.0 + late, ACK, 1, 1, 0),
                        3 => bench.client(51.0 + late, ACK, 1, 1, 100),
                        4 => bench.server(62.0 + late, ACK, 1, 101, 100),
                        5 => bench.client(103.0 + late, ACK | FIN, 101, 101, 0),
                        _ => bench.server(113.0 + late, ACK | FIN, 101, 102, 0),
                    };
                }
            }
        }
        let all = bench.report(60_000.0).all;
        sums_agree(&bench.report(0.0))?;
        prop_assert!(all.connections.begun <= fates.len() as u64);
        prop_assert_eq!((all.connections.refused, all.connections.syn_repeats), (0, 0));
        prop_assert!(all.connections.answered >= whole);
        prop_assert_eq!(all.first_byte.server_first, 0);
        for (of, ms) in [(all.round_trips.path, 50.0), (all.first_byte.at_mirror, 62.0), (all.first_byte.now, 102.0)] {
            prop_assert!(of.map_or(0, |of| of.count) >= whole);
            prop_assert!(of.is_none_or(|of| of.p50 == ms && of.p99 == ms), "{:?}", of);
        }
    }
}
