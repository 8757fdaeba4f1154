//! The program `licet-tests`: runs simulations of any length, and writes the figures of test runs
//! into `docs/reliability.md`.

use std::{
    process::ExitCode,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use clap::{Parser, Subcommand};
use licet_model::simulation::{Failure, Metrics, play};
use licet_tests::{figures, page};

#[derive(Parser)]
#[command(name = "licet-tests", about = "Runs simulations, and writes the figures of test runs")]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Simulate whole workers with fault injection; on failure, print the seed and the shortest
    /// history
    Simulate {
        /// The first seed
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// The number of seeds
        #[arg(long, default_value_t = u64::MAX / 2)]
        seeds: u64,
        /// Stop after this number of minutes [default: after the last seed]
        #[arg(long)]
        minutes: Option<u64>,
    },
    /// Write the figures of the last run into docs/reliability.md
    Report,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Task::Simulate { seed, seeds, minutes } => simulate(seed, seeds, minutes),
        Task::Report => page::write().map_err(|error| format!("docs/reliability.md cannot be written: {error}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("licet-tests: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Simulates seeds on all processors, one seed after another on each.
fn simulate(seed: u64, seeds: u64, minutes: Option<u64>) -> Result<(), String> {
    let began = Instant::now();
    let deadline = minutes.map(|minutes| began + Duration::from_secs(minutes * 60));
    let (next, failed) = (AtomicU64::new(seed), AtomicBool::new(false));
    let last = seed.saturating_add(seeds);
    let simulator = || -> Result<Metrics, Failure> {
        let mut all = Metrics::default();
        while !failed.load(Ordering::Relaxed) && deadline.is_none_or(|deadline| Instant::now() < deadline) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= last {
                break;
            }
            all.add(&play(seed..seed + 1, None).inspect_err(|_| failed.store(true, Ordering::Relaxed))?);
        }
        Ok(all)
    };
    let simulators = std::thread::available_parallelism().map_or(1, usize::from);
    let mut all = Metrics::default();
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..simulators).map(|_| scope.spawn(simulator)).collect();
        for one in running {
            let metrics = one.join().map_err(|_| "the simulator itself panicked".to_owned())?;
            all.add(&metrics.map_err(|failure| failure.shrink().to_string())?);
        }
        Ok::<_, String>(())
    })?;
    let figures = figures::of_simulation(&all, seed, began.elapsed());
    println!("{figures:#}");
    figures::record("simulation", &figures).map_err(|error| error.to_string())
}
