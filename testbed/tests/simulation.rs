//! A short simulation: no world fails, and the outcome does not depend on the number of threads.

use testbed::sim::{Outcome, SimOptions, run};

fn simulate(jobs: usize) -> Outcome {
    run(&SimOptions { packets: 150_000, seed: 7, jobs })
}

#[test]
fn nothing_fails_and_threads_do_not_matter() {
    let outcome = simulate(2);
    assert!(outcome.failures.is_empty(), "seed 7: {:?}", outcome.failures);
    assert!(outcome.packets >= 150_000 && outcome.completed > 0 && outcome.at_once > 0);
    let alone = simulate(1);
    let figures =
        |o: &Outcome| (o.worlds, o.packets, o.delivered, o.connections, o.completed, o.leaked, o.at_once);
    assert_eq!(figures(&outcome), figures(&alone));
    assert_eq!(outcome.matrix, alone.matrix);
    for cell in outcome.matrix.cells().iter().filter(|cell| cell.count > 0) {
        assert_eq!(cell.unreachable, None, "{} met {}", cell.flow, cell.event);
    }
}
