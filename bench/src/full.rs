//! Licet on RabbitMQ and PostgreSQL, between two runs of the ceiling.

use std::collections::BTreeMap;

use licet_common::{config::Config, program::Failure, store::Store};
use sea_orm::{ConnectionTrait, Statement};

use super::{
    Common,
    database::ScratchDatabase,
    embedded::check,
    environment::Environment,
    figures::{Ratio, Report, Run, Target, median},
    load::{Measured, Pace, Plan, drive},
    note,
    workers::{Kind, Layout, RunningWorkers},
};

/// The load of one lifecycle at a time is measured for the duration of another load, divided by
/// this number.
const ALONE_DIVISOR: u32 = 2;

/// The results of a round.
struct Round {
    /// The speed of the ceiling just before the round, in lifecycles per second.
    before: f64,
    runs: Vec<Run>,
    full: Loads,
    ceiling: Loads,
}

/// The runs of the same workers under the three loads.
struct Loads {
    peak: Run,
    schedule: Run,
    alone: Run,
}

/// Measures rounds of Licet, each between two runs of the ceiling.
///
/// # Errors
/// A run does not complete, or the audit of its database does not pass.
pub(super) async fn full(config: &Config, common: &Common) -> Result<Report, Failure> {
    let environment = Environment::prepare(config).await?;
    let database = environment.database(None).await?;
    let report = measure(&environment, &database, common).await;
    database.remove().await?;
    report
}

async fn measure(environment: &Environment, database: &ScratchDatabase, common: &Common) -> Result<Report, Failure> {
    let measurement = Measurement { environment, database, common };
    let mut ceiling = measurement.peak_only(1, Kind::Ceiling).await?;
    let mut runs = vec![ceiling.clone()];
    let mut rounds = Vec::new();
    for round in 1..=common.rounds {
        let measured = measurement.round(round, ceiling.lifecycles_per_s).await?;
        ceiling = measured.ceiling.peak.clone();
        runs.extend(measured.runs.iter().cloned());
        rounds.push(measured);
    }
    let store = Store::open(&database.url, 1).await?;
    // The joins of the audit need statistics. Autovacuum may not have collected them for new tables
    // yet.
    store.pool().execute_unprepared("ANALYZE").await.map_err(Failure::work)?;
    check(&store).await?;
    let machine = machine(&store).await?;
    Ok(Report { mode: "full", options: common.clone(), machine, runs, ratios: ratios(&rounds) })
}

/// Measures the ceiling alone.
///
/// # Errors
/// A run does not complete.
pub(super) async fn ceiling(config: &Config, common: &Common) -> Result<Report, Failure> {
    let environment = Environment::prepare(config).await?;
    let database = environment.database(None).await?;
    let report = measure_ceiling(&environment, &database, common).await;
    database.remove().await?;
    report
}

async fn measure_ceiling(
    environment: &Environment,
    database: &ScratchDatabase,
    common: &Common,
) -> Result<Report, Failure> {
    let measurement = Measurement { environment, database, common };
    let mut runs = Vec::new();
    for round in 1..=common.rounds {
        runs.push(measurement.peak_only(round, Kind::Ceiling).await?);
    }
    let machine = machine(&Store::open(&database.url, 1).await?).await?;
    Ok(Report { mode: "ceiling", options: common.clone(), machine, runs, ratios: Vec::new() })
}

struct Measurement<'a> {
    environment: &'a Environment,
    database: &'a ScratchDatabase,
    common: &'a Common,
}

impl Measurement<'_> {
    async fn round(&self, round: u16, before: f64) -> Result<Round, Failure> {
        let full = self.loads(round, Kind::Full, None).await?;
        let rate = full.peak.lifecycles_per_s / 2.0;
        let ceiling = self.loads(round, Kind::Ceiling, Some(rate)).await?;
        let runs = [&full, &ceiling].map(|loads| [&loads.peak, &loads.schedule, &loads.alone].map(Run::clone));
        let runs = runs.into_iter().flatten().collect();
        Ok(Round { before, runs, full, ceiling })
    }

    /// Runs peak load, a fixed rate (half of the peak, if none is given), and one lifecycle at a
    /// time.
    async fn loads(&self, round: u16, kind: Kind, rate: Option<f64>) -> Result<Loads, Failure> {
        let workers = self.environment.start(kind, self.database, &Layout::default()).await?;
        let mut peak = self.run(round, kind, &workers, "peak", self.common.peak()).await?;
        peak.resident_mb = workers.resident_mb();
        let rate = rate.unwrap_or(peak.lifecycles_per_s / 2.0);
        let schedule = self.run(round, kind, &workers, "schedule", self.common.plan(Pace::Open(rate))).await?;
        let alone = self.common.plan(Pace::Closed(1));
        let alone = Plan { warm_up: alone.warm_up / ALONE_DIVISOR, measured: alone.measured / ALONE_DIVISOR, ..alone };
        let alone = self.run(round, kind, &workers, "alone", alone).await?;
        workers.stop().await?;
        Ok(Loads { peak, schedule, alone })
    }

    async fn peak_only(&self, round: u16, kind: Kind) -> Result<Run, Failure> {
        let workers = self.environment.start(kind, self.database, &Layout::default()).await?;
        let mut run = self.run(round, kind, &workers, "peak", self.common.peak()).await?;
        run.resident_mb = workers.resident_mb();
        workers.stop().await?;
        Ok(run)
    }

    async fn run(
        &self,
        round: u16,
        kind: Kind,
        workers: &RunningWorkers,
        load: &'static str,
        plan: Plan,
    ) -> Result<Run, Failure> {
        note(self.common, format_args!("round {round}: {}, {load}", kind.name()));
        let measured: Measured = drive(&self.environment.transport, plan, &self.environment.meter(workers)).await?;
        Ok(Run::of(round, kind.name(), load, &measured))
    }
}

fn ratios(rounds: &[Round]) -> Vec<Ratio> {
    let of = |figure: &dyn Fn(&Round) -> f64| rounds.iter().map(figure).collect::<Vec<_>>();
    let us = |run: &Run| run.lifecycle.p99_us as f64;
    let alone = |run: &Run| run.requests["any"].p50_us as f64;
    let ceiling = |round: &Round| median(&[round.before, round.ceiling.peak.lifecycles_per_s]);
    let cpu = |round: &Round| round.full.peak.cpu_ms_of_all() / round.ceiling.peak.cpu_ms_of_all();
    vec![
        Ratio::new(
            "full / ceiling, lifecycles/s",
            of(&|round| round.full.peak.lifecycles_per_s / ceiling(round)),
            Some(Target::AtLeast(0.8)),
        ),
        Ratio::new("full / ceiling, CPU per lifecycle", of(&cpu), Some(Target::AtMost(1.25))),
        Ratio::new(
            "full / ceiling, p99 at a fixed rate",
            of(&|round| us(&round.full.schedule) / us(&round.ceiling.schedule)),
            Some(Target::AtMost(3.0)),
        ),
        Ratio::new(
            "full / ceiling, p50 of one message at a time",
            of(&|round| alone(&round.full.alone) / alone(&round.ceiling.alone)),
            Some(Target::AtMost(2.0)),
        ),
        Ratio::new(
            "peak memory of a worker at peak load, MB",
            of(&|round| round.full.peak.resident_mb.values().copied().fold(0.0, f64::max)),
            Some(Target::AtMost(64.0)),
        ),
    ]
}

/// The machine, and the version and settings of the database server.
pub(super) async fn machine(store: &Store) -> Result<BTreeMap<String, String>, Failure> {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let mut machine = BTreeMap::from([("cores".to_owned(), cores.to_string())]);
    for setting in [
        "server_version",
        "fsync",
        "synchronous_commit",
        "full_page_writes",
        "shared_buffers",
        "max_wal_size",
        "checkpoint_timeout",
        "wal_compression",
        "autovacuum",
    ] {
        let statement = Statement::from_string(store.backend(), format!("SELECT current_setting('{setting}')"));
        let row = store.pool().query_one(statement).await;
        let value = row.ok().flatten().and_then(|row| row.try_get_by_index::<String>(0).ok());
        machine.insert(format!("PostgreSQL {setting}"), value.unwrap_or_default());
    }
    Ok(machine)
}
