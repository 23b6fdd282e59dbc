//! Every target over its committed corpus, seeded mutations of that, and arbitrary bytes.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rtt0_fuzzing::TARGETS;
use std::path::Path;

/// Mutations of the corpus of each target.
const MUTATIONS: u32 = 20_000;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut paths: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

#[test]
fn the_corpus_passes() {
    for (name, run) in TARGETS {
        let inputs = corpus(name);
        assert!(inputs.len() >= 10, "{name} has {} inputs", inputs.len());
        inputs.iter().for_each(|input| run(input));
    }
}

#[derive(Debug, Clone)]
enum Mutation {
    Set(prop::sample::Index, u8),
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Repeat(prop::sample::Index, prop::sample::Index),
    Splice(prop::sample::Index, prop::sample::Index, prop::sample::Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        4 => (at(), any::<u8>()).prop_map(|(at, value)| Mutation::Set(at, value)),
        4 => (at(), 0u8..8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        1 => at().prop_map(Mutation::Cut),
        1 => (at(), at()).prop_map(|(from, to)| Mutation::Repeat(from, to)),
        1 => (at(), at(), at()).prop_map(|(other, from, at)| Mutation::Splice(other, from, at)),
    ]
}

fn mutate(mut input: Vec<u8>, mutations: &[Mutation], corpus: &[Vec<u8>]) -> Vec<u8> {
    for mutation in mutations {
        let length = input.len().max(1);
        match mutation {
            Mutation::Set(at, value) => {
                if let Some(byte) = input.get_mut(at.index(length)) {
                    *byte = *value;
                }
            }
            Mutation::Flip(at, bit) => {
                if let Some(byte) = input.get_mut(at.index(length)) {
                    *byte ^= 1 << bit;
                }
            }
            Mutation::Cut(at) => input.truncate(at.index(length)),
            Mutation::Repeat(from, to) => {
                let (from, to) = (from.index(length), to.index(length));
                let piece = input.get(from.min(to)..from.max(to)).unwrap_or_default().to_vec();
                input.extend(piece);
            }
            Mutation::Splice(other, from, at) => {
                let other = other.get(corpus);
                input.truncate(at.index(length));
                input.extend(&other[from.index(other.len().max(1))..]);
            }
        }
    }
    input
}

#[test]
fn mutations_of_the_corpus_pass() {
    for (name, run) in TARGETS {
        let inputs = corpus(name);
        let inputs = inputs.as_slice();
        let config = Config { cases: MUTATIONS, failure_persistence: None, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
        let strategy = (0..inputs.len(), prop::collection::vec(mutation(), 1..6));
        let outcome = runner.run(&strategy, |(index, mutations)| {
            run(&mutate(inputs[index].clone(), &mutations, inputs));
            Ok(())
        });
        outcome.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

proptest! {
    #![proptest_config(Config { cases: 1000, failure_persistence: None, ..Config::default() })]

    #[test]
    fn any_script_passes(data in prop::collection::vec(any::<u8>(), 0..1200)) {
        rtt0_fuzzing::engine::run(&data);
    }

    #[test]
    fn any_bytes_pass(data in prop::collection::vec(any::<u8>(), 0..100)) {
        TARGETS.iter().for_each(|(_, run)| run(&data));
    }
}
