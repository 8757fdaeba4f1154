//! The simulation: whole workers with fault injection, repeatable from a seed. See
//! `licet_model::simulation`.
//!
//! `LICET_TEST_SEED` sets the first seed, and `LICET_TEST_SEEDS` the number of seeds. The command
//! `licet-tests simulate` runs any number of seeds.

use std::{collections::BTreeSet, ops::Range, time::Instant};

use licet_model::simulation::{Metrics, Mutant, faults, play, play_without_mutant, trace};
use licet_tests::figures;

const SEEDS: u64 = 200;

fn seeds() -> Range<u64> {
    let from_env = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let first = from_env("LICET_TEST_SEED", 1);
    first..first + from_env("LICET_TEST_SEEDS", SEEDS)
}

#[test]
fn under_injected_faults_no_message_is_lost_or_takes_effect_twice_and_repeated_outputs_are_identical() {
    let seeds = seeds();
    println!("LICET_TEST_SEED={} LICET_TEST_SEEDS={}", seeds.start, seeds.end - seeds.start);
    let began = Instant::now();
    let metrics = play(seeds.clone(), None).unwrap_or_else(|failure| panic!("{}", failure.shrink()));
    let recorded = figures::of_simulation(&metrics, seeds.start, began.elapsed());
    println!("{recorded:#}");
    figures::record("simulation", &recorded).expect("the figures are recorded");
    if seeds.end - seeds.start >= SEEDS {
        let injected: BTreeSet<_> = metrics.faults.keys().cloned().collect();
        let missing: Vec<_> = faults().into_iter().filter(|fault| !injected.contains(fault)).collect();
        assert!(missing.is_empty(), "these faults were never injected: {missing:#?}");
    }
}

#[test]
fn a_seed_repeats_its_run_exactly() {
    let seed = seeds().start;
    println!("LICET_TEST_SEED={seed}");
    let play = || trace(seed).unwrap_or_else(|failure| panic!("{failure}"));
    let first = play();
    assert!(first.len() > 100, "a run has many steps");
    assert_eq!(first, play());
}

#[test]
fn every_mutant_of_the_loop_is_detected() {
    let mut detected = serde_json::Map::new();
    for mutant in Mutant::ALL {
        match play(1..500, Some(mutant)) {
            Err(failure) => {
                // Without the mutant, the same faults violate no guarantee, so the mutant is the
                // cause.
                let without = play_without_mutant(1..failure.seed() + 1, mutant);
                without.unwrap_or_else(|other| panic!("{mutant:?} is not the cause: {other}"));
                println!("{mutant:?} is detected by seed {}: {}", failure.seed(), failure.reason());
                let reason = failure.reason().lines().next().unwrap_or_default();
                detected.insert(format!("{mutant:?}"), format!("seed {}: {reason}", failure.seed()).into());
            }
            Ok(Metrics { runs, .. }) => panic!("{mutant:?} was not detected in {runs} runs"),
        }
    }
    figures::record("mutants", &detected.into()).expect("the figures are recorded");
}
