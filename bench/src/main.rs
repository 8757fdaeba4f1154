//! The program `licet-bench`. It measures the speed of Licet as ratios that are valid on any
//! machine.
//!
//! The upper limit, called the ceiling, is the same message pattern with workers that only answer
//! ([`answering`]). A round measures the ceiling just before and just after Licet, because the
//! speed of a machine drifts. The results are the processor time per lifecycle and the median of
//! each ratio over all rounds. Definitions and results are in docs/performance.md.
//!
//! | module | content |
//! |---|---|
//! | `load` | the upstream system: lifecycles in a closed loop or at a fixed rate |
//! | `environment` | the broker and the database server of a measurement |
//! | `database` | the databases that a measurement creates and drops |
//! | `workers` | the worker processes |
//! | `content` | the content that the load buys |
//! | `answering` | workers that only answer |
//! | `cpu` | processor time and memory of processes |
//! | `partitions` | partitioned queues |
//! | `full`, `embedded`, `crypto`, `growth`, `scale` | the modes |
//! | `figures`, `chart` | the report as JSON, as text and as a chart |

mod answering;
mod chart;
mod content;
mod cpu;
mod crypto;
mod database;
mod embedded;
mod environment;
mod figures;
mod full;
mod growth;
mod load;
mod partitions;
mod scale;
mod workers;

use std::{fmt::Display, fs, io::Write as _, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand};
use licet_common::{
    config::{
        CommandSettings, Config,
        groups::{BROKER, DATABASE, ENGINE, LOG, SWEEP, TERMS},
    },
    program::{Failure, block_on, configure, stop_signal},
};
use serde::Serialize;

use figures::Report;
use load::{Pace, Plan};

#[derive(Parser)]
#[command(name = "licet-bench", version, about = "Measures Licet against workers that only answer.")]
struct Arguments {
    #[command(flatten)]
    settings: CommandSettings<{ BROKER | DATABASE | TERMS | ENGINE | SWEEP | LOG }>,
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// Measure Licet on RabbitMQ and PostgreSQL, between two runs of the ceiling
    Full(Common),
    /// Measure only the ceiling: workers that only answer
    Ceiling(Common),
    /// Measure Licet in one process on SQLite, between two runs of its signatures and verifications
    Embedded(Common),
    /// Measure the signatures and verifications of a lifecycle on one core
    Crypto(Common),
    /// Measure Licet on a large database, between two runs on an empty database
    Growth(growth::Arguments),
    /// Compare several copies of workers, partitioned queues and clusters with a single copy, queue
    /// and node
    Scale(scale::Arguments),
    /// Run a worker that only answers
    #[command(hide = true)]
    Answer {
        /// Its queue
        queue: String,
        /// The file of its answers
        answers: PathBuf,
    },
}

/// The options of every mode.
#[derive(Args, Clone, Serialize)]
struct Common {
    /// The number of rounds; the results are their medians
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// The duration of each measurement, in seconds
    #[arg(long, default_value_t = 10, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// The duration of the load before each measurement, in seconds
    #[arg(long, default_value_t = 3, value_name = "S")]
    warm_up: u64,
    /// The number of concurrent lifecycles
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
    /// Write the JSON object to this file
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    out: Option<PathBuf>,
    /// Write a chart (SVG) to this file
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

fn main() -> ExitCode {
    let Arguments { settings, mode } = Arguments::parse();
    let run = || bench(&configure(settings, "warn")?, &mode);
    run().unwrap_or_else(|failure| failure.exit())
}

/// Runs the measurement and writes the report. A ratio that misses its target does not change the
/// exit code.
fn bench(config: &Config, mode: &Mode) -> Result<ExitCode, Failure> {
    let (common, report) = match mode {
        Mode::Answer { queue, answers } => return answering::answer(config, queue, answers),
        Mode::Full(common) => (common, until_stopped(full::full(config, common))?),
        Mode::Ceiling(common) => (common, until_stopped(full::ceiling(config, common))?),
        Mode::Embedded(common) => (common, until_stopped(embedded::measure(config, common))?),
        Mode::Growth(arguments) => (&arguments.common, until_stopped(growth::growth(config, arguments))?),
        Mode::Scale(arguments) => (&arguments.common, until_stopped(scale::scale(config, arguments))?),
        Mode::Crypto(common) => (common, crypto::alone(common)?),
    };
    let json = serde_json::to_value(&report).map_err(Failure::work)?;
    if let Some(file) = &common.out {
        fs::write(file, format!("{json:#}\n"))?;
    }
    if let Some(file) = &common.svg {
        fs::write(file, chart::svg(&report))?;
    }
    if common.json {
        print(json)?
    } else {
        print(report.table())?
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs the measurement unless the program is asked to stop. In that case, the started workers are
/// stopped too.
fn until_stopped(measurement: impl Future<Output = Result<Report, Failure>>) -> Result<Report, Failure> {
    block_on(async {
        let stop = stop_signal()?;
        let stopped = || {
            Failure::Work(
                "stopped before the end: drop the database licet_bench_… if it exists, and delete the exchanges and \
                 queues licet.bench.… from the broker"
                    .into(),
            )
        };
        stop.run_until_cancelled(measurement).await.unwrap_or_else(|| Err(stopped()))
    })
}

/// Prints a text to standard output. A closed pipe (`licet-bench … | head`) is not an error.
fn print(text: impl Display) -> Result<(), Failure> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Prints a progress message to standard error, unless the output is JSON.
fn note(common: &Common, text: impl Display) {
    if !common.json {
        eprintln!("{text}");
    }
}
