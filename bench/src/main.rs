//! `licet bench`: how fast Licet is, as ratios that hold on any machine.
//!
//! The limit is the same pattern of messages with workers that do nothing ([`answering`]). A round
//! measures that ceiling just before and just after Licet itself, because a machine's speed drifts;
//! what counts is the median of the rounds' ratios, and processor time per lifecycle.
//!
//! | file | what is in it |
//! |---|---|
//! | `load` | the upstream: lifecycles in a closed loop or by a schedule |
//! | `stand` | broker, database, worker processes |
//! | `goods` | what is sold |
//! | `answering` | workers that only answer |
//! | `cpu` | processor time and memory by process |
//! | `partitions` | queues that share a worker's messages |
//! | `full`, `embedded`, `crypto`, `growth`, `scale` | the modes |
//! | `figures`, `chart` | what was measured, for programs and for people |

mod answering;
mod chart;
mod cpu;
mod crypto;
mod embedded;
mod figures;
mod full;
mod goods;
mod growth;
mod load;
mod partitions;
mod scale;
mod stand;

use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Subcommand};
use licet_common::config::Config;
use licet_workers::program::{Failure, block_on, stop_signal};
use serde::Serialize;

use crate::report;
use figures::Report;
use load::{Pace, Plan};

/// What is measured.
#[derive(Subcommand)]
pub(crate) enum Bench {
    /// Licet on RabbitMQ and PostgreSQL, between two runs of the ceiling
    Full(Common),
    /// Workers that only answer, alone
    Ceiling(Common),
    /// Licet in one process on SQLite, against its signatures and verifications alone
    Embedded(Common),
    /// The signatures and verifications of a lifecycle alone, on one core
    Crypto(Common),
    /// Licet on a large database, in turn with an empty one
    Growth(growth::Arguments),
    /// Copies of workers, queues that share messages, nodes of a broker: each against one
    Scale(scale::Arguments),
    /// Be a worker that only answers
    #[command(hide = true)]
    Answer {
        /// Its queue
        queue: String,
        /// What it answers
        answers: PathBuf,
    },
}

/// What every mode takes.
#[derive(Args, Clone, Serialize)]
pub(crate) struct Common {
    /// How many rounds; their median counts
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// How long each figure is measured, in seconds
    #[arg(long, default_value_t = 10, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// How long each load runs before it is measured, in seconds
    #[arg(long, default_value_t = 3, value_name = "S")]
    warm_up: u64,
    /// How many lifecycles are on their way at a time
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    in_flight: u16,
    /// End each lifecycle with the return of its license
    #[arg(long)]
    returns: bool,
    /// Give messages random ids (UUIDv4) instead of ordered ones (UUIDv7)
    #[arg(long)]
    random_ids: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Keep the JSON in this file
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    out: Option<PathBuf>,
    /// Draw a chart into this file
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    svg: Option<PathBuf>,
}

impl Common {
    fn plan(&self, pace: Pace) -> Plan {
        Plan {
            pace,
            warm_up: Duration::from_secs(self.warm_up),
            measured: Duration::from_secs(self.seconds),
            returns: self.returns,
            random_ids: self.random_ids,
            partitioned: false,
        }
    }

    fn peak(&self) -> Plan {
        self.plan(Pace::Closed(self.in_flight.into()))
    }
}

/// Measures and reports; exit code 1 if what was measured did not go right.
pub(crate) fn bench(config: &Config, bench: &Bench) -> Result<ExitCode, Failure> {
    let (common, report) = match bench {
        Bench::Answer { queue, answers } => return answering::answer(config, queue, answers),
        Bench::Full(common) => (common, until_told(full::full(config, common))?),
        Bench::Ceiling(common) => (common, until_told(full::ceiling(config, common))?),
        Bench::Embedded(common) => (common, until_told(embedded::measure(config, common))?),
        Bench::Growth(arguments) => (&arguments.common, until_told(growth::growth(config, arguments))?),
        Bench::Scale(arguments) => (&arguments.common, until_told(scale::scale(config, arguments))?),
        Bench::Crypto(common) => (common, crypto::alone(common)?),
    };
    let json = serde_json::to_value(&report).map_err(|error| Failure::Work(error.to_string()))?;
    if let Some(file) = &common.out {
        fs::write(file, format!("{json:#}\n"))?;
    }
    if let Some(file) = &common.svg {
        fs::write(file, chart::svg(&report))?;
    }
    if common.json {
        report::tell(json);
    } else {
        report::tell(report.table());
    }
    Ok(ExitCode::SUCCESS)
}

/// Measures, unless it is told to stop: then the workers that it started are ended too.
fn until_told(measuring: impl Future<Output = Result<Report, Failure>>) -> Result<Report, Failure> {
    block_on(async {
        let stop = stop_signal()?;
        let stopped = || {
            Failure::Work(
                "told to stop; a database licet_bench_… may be left to drop, and licet.bench.… at the broker".into(),
            )
        };
        stop.run_until_cancelled(measuring).await.unwrap_or_else(|| Err(stopped()))
    })
}

/// Says on standard error what is going on, unless a program reads.
fn note(common: &Common, text: impl std::fmt::Display) {
    if !common.json {
        eprintln!("{text}");
    }
}
