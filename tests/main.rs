//! `licet-tests`: simulations for as long as one likes, and the figures of test runs as a page.

use std::{
    process::ExitCode,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use clap::{Parser, Subcommand};
use licet_tests::{figures, page};
use licet_workers::simulation::{Failure, Tally, play};

#[derive(Parser)]
#[command(name = "licet-tests", about = "What Licet's tests do beyond passing")]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Simulate whole workers while everything that can fail does; on failure, print the seed and the shortest history
    Simulate {
        /// The first seed
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many seeds
        #[arg(long, default_value_t = u64::MAX / 2)]
        seeds: u64,
        /// Stop after so many minutes [default: when the seeds are played]
        #[arg(long)]
        minutes: Option<u64>,
    },
    /// Write the figures of the last run into docs/RELIABILITY.md
    Report,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Task::Simulate { seed, seeds, minutes } => simulate(seed, seeds, minutes),
        Task::Report => page::write().map_err(|error| format!("docs/RELIABILITY.md cannot be written: {error}")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("licet-tests: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Plays seeds on every processor, one after the other.
fn simulate(seed: u64, seeds: u64, minutes: Option<u64>) -> Result<(), String> {
    let began = Instant::now();
    let deadline = minutes.map(|minutes| began + Duration::from_secs(minutes * 60));
    let (next, failed) = (AtomicU64::new(seed), AtomicBool::new(false));
    let last = seed.saturating_add(seeds);
    let player = || -> Result<Tally, Failure> {
        let mut all = Tally::default();
        while !failed.load(Ordering::Relaxed) && deadline.is_none_or(|deadline| Instant::now() < deadline) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= last {
                break;
            }
            all.add(&play(seed..seed + 1, None).inspect_err(|_| failed.store(true, Ordering::Relaxed))?);
        }
        Ok(all)
    };
    let players = std::thread::available_parallelism().map_or(1, usize::from);
    let mut all = Tally::default();
    std::thread::scope(|scope| {
        let playing: Vec<_> = (0..players).map(|_| scope.spawn(player)).collect();
        for one in playing {
            let played = one.join().map_err(|_| "the simulator itself panicked".to_owned())?;
            all.add(&played.map_err(|failure| failure.shortest().to_string())?);
        }
        Ok::<_, String>(())
    })?;
    let told = figures::of_simulation(&all, seed, began.elapsed());
    println!("{told:#}");
    figures::record("simulation", &told).map_err(|error| error.to_string())
}
