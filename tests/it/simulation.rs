//! Everything that can fail does, in a simulation that a seed repeats: see `licet_workers::simulation`.
//!
//! `LICET_TEST_SEED` is the first seed, `LICET_TEST_SEEDS` how many there are; `licet-tests simulate`
//! plays any number for as long as it is asked to.

use std::{collections::BTreeSet, ops::Range};

use licet_tests::figures;
use licet_workers::simulation::{Lie, Tally, faults, play, play_honestly, trace};

const SEEDS: u64 = 200;

fn seeds() -> Range<u64> {
    let from_env =
        |name: &str, otherwise| std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"));
    let first = from_env("LICET_TEST_SEED", 1);
    first..first + from_env("LICET_TEST_SEEDS", SEEDS)
}

#[test]
fn whatever_fails_nothing_is_lost_nothing_happens_twice_and_all_is_told_alike() {
    let seeds = seeds();
    println!("LICET_TEST_SEED={} LICET_TEST_SEEDS={}", seeds.start, seeds.end - seeds.start);
    let began = std::time::Instant::now();
    let tally = play(seeds.clone(), None).unwrap_or_else(|failure| panic!("{}", failure.shortest()));
    let told = figures::of_simulation(&tally, seeds.start, began.elapsed());
    println!("{told:#}");
    figures::record("simulation", &told).expect("the figures are kept");
    if seeds.end - seeds.start >= SEEDS {
        let seen: BTreeSet<_> = tally.faults.keys().cloned().collect();
        let never: Vec<_> = faults().into_iter().filter(|fault| !seen.contains(fault)).collect();
        assert!(never.is_empty(), "never came up: {never:#?}");
    }
}

#[test]
fn a_seed_repeats_its_run_exactly() {
    let seed = seeds().start;
    println!("LICET_TEST_SEED={seed}");
    let play = || trace(seed).unwrap_or_else(|failure| panic!("{failure}"));
    let first = play();
    assert!(first.len() > 100, "a run has some length");
    assert_eq!(first, play());
}

#[test]
fn each_step_of_the_loop_is_missed_when_it_is_only_pretended() {
    let mut caught = serde_json::Map::new();
    for lie in Lie::ALL {
        match play(1..500, Some(lie)) {
            Err(failure) => {
                // With the same faults and without the lie, nothing is wrong.
                let honestly = play_honestly(1..failure.seed() + 1, lie);
                honestly.unwrap_or_else(|other| panic!("{lie:?} is not to blame: {other}"));
                println!("{lie:?} is caught by seed {}: {}", failure.seed(), failure.why());
                let why = failure.why().lines().next().unwrap_or_default();
                caught.insert(format!("{lie:?}"), format!("seed {}: {why}", failure.seed()).into());
            }
            Ok(Tally { runs, .. }) => panic!("{lie:?} went unnoticed in {runs} runs"),
        }
    }
    figures::record("lies", &caught.into()).expect("the figures are kept");
}
