//! Licet on RabbitMQ and PostgreSQL, between two runs of the ceiling.

use std::collections::BTreeMap;

use licet_common::{config::Config, store::Store};
use licet_workers::{audit::audit, program::Failure};
use sea_orm::{ConnectionTrait, Statement};

use super::{
    Common,
    figures::{Mark, Ratio, Report, Run, median},
    load::{Measured, Pace, Plan, drive},
    note,
    stand::{Kind, Layout, Scratch, Site, Stand},
};

/// One message alone is measured for this share of the time that a load is.
const ALONE_SHARE: u32 = 2;

/// What one round gives: the ceiling, Licet, the ceiling again.
struct Round {
    before: f64,
    runs: Vec<Run>,
    full: Three,
    ceiling: Three,
}

/// The three loads of whoever answers.
struct Three {
    peak: Run,
    schedule: Run,
    alone: Run,
}

/// Measures rounds of ceiling, Licet and ceiling.
///
/// # Errors
/// A run does not come to its end, or the auditor is not content with what it left.
pub(super) async fn full(config: &Config, common: &Common) -> Result<Report, Failure> {
    let site = Site::prepare(config).await?;
    let database = site.database(None).await?;
    let report = measure(&site, &database, common).await;
    database.remove().await?;
    report
}

async fn measure(site: &Site, database: &Scratch, common: &Common) -> Result<Report, Failure> {
    let bench = Rounds { site, database, common };
    let mut ceiling = bench.peak_alone(1, Kind::Ceiling).await?;
    let mut runs = vec![ceiling.clone()];
    let mut rounds = Vec::new();
    for round in 1..=common.rounds {
        let measured = bench.round(round, ceiling.lifecycles_per_s).await?;
        ceiling = measured.ceiling.peak.clone();
        runs.extend(measured.runs.iter().cloned());
        rounds.push(measured);
    }
    let store = Store::open(&database.url, 1).await?;
    // The auditor's joins are planned by statistics, which autovacuum may not have made of these new tables yet.
    store.reader().execute_unprepared("ANALYZE").await.map_err(|error| Failure::Work(error.to_string()))?;
    let audited = audit(&store).await?;
    if !audited.violations.is_empty() {
        return Err(Failure::Work(format!("the auditor found broken invariants: {:?}", audited.violations)));
    }
    let machine = machine(&store).await?;
    Ok(Report { mode: "full", options: common.clone(), machine, runs, ratios: ratios(&rounds) })
}

/// Measures the ceiling alone.
///
/// # Errors
/// A run does not come to its end.
pub(super) async fn ceiling(config: &Config, common: &Common) -> Result<Report, Failure> {
    let site = Site::prepare(config).await?;
    let database = site.database(None).await?;
    let report = measure_ceiling(&site, &database, common).await;
    database.remove().await?;
    report
}

async fn measure_ceiling(site: &Site, database: &Scratch, common: &Common) -> Result<Report, Failure> {
    let bench = Rounds { site, database, common };
    let mut runs = Vec::new();
    for round in 1..=common.rounds {
        runs.push(bench.peak_alone(round, Kind::Ceiling).await?);
    }
    let machine = machine(&Store::open(&database.url, 1).await?).await?;
    Ok(Report { mode: "ceiling", options: common.clone(), machine, runs, ratios: Vec::new() })
}

struct Rounds<'a> {
    site: &'a Site,
    database: &'a Scratch,
    common: &'a Common,
}

impl Rounds<'_> {
    async fn round(&self, round: u16, before: f64) -> Result<Round, Failure> {
        let full = self.three(round, Kind::Full, None).await?;
        let rate = full.peak.lifecycles_per_s / 2.0;
        let ceiling = self.three(round, Kind::Ceiling, Some(rate)).await?;
        let runs = [&full, &ceiling].map(|three| [&three.peak, &three.schedule, &three.alone].map(Run::clone));
        let runs = runs.into_iter().flatten().collect();
        Ok(Round { before, runs, full, ceiling })
    }

    /// Peak, schedule (at half of the peak, if no rate is given) and one message alone.
    async fn three(&self, round: u16, kind: Kind, rate: Option<f64>) -> Result<Three, Failure> {
        let stand = self.site.start(kind, self.database, &Layout::default()).await?;
        let mut peak = self.run(round, kind, &stand, "peak", self.common.peak()).await?;
        peak.resident_mb = stand.resident_mb();
        let rate = rate.unwrap_or(peak.lifecycles_per_s / 2.0);
        let schedule = self.run(round, kind, &stand, "schedule", self.common.plan(Pace::Open(rate))).await?;
        let alone = self.common.plan(Pace::Closed(1));
        let alone = Plan { warm_up: alone.warm_up / ALONE_SHARE, measured: alone.measured / ALONE_SHARE, ..alone };
        let alone = self.run(round, kind, &stand, "alone", alone).await?;
        stand.stop().await?;
        Ok(Three { peak, schedule, alone })
    }

    async fn peak_alone(&self, round: u16, kind: Kind) -> Result<Run, Failure> {
        let stand = self.site.start(kind, self.database, &Layout::default()).await?;
        let mut run = self.run(round, kind, &stand, "peak", self.common.peak()).await?;
        run.resident_mb = stand.resident_mb();
        stand.stop().await?;
        Ok(run)
    }

    async fn run(&self, round: u16, kind: Kind, stand: &Stand, load: &'static str, plan: Plan) -> Result<Run, Failure> {
        note(self.common, format_args!("round {round}: {} under {load}", kind.name()));
        let measured: Measured = drive(&self.site.transport, plan, &self.site.meter(stand)).await?;
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
            Some(Mark::AtLeast(0.8)),
        ),
        Ratio::new("full / ceiling, CPU per lifecycle", of(&cpu), Some(Mark::AtMost(1.25))),
        Ratio::new(
            "full / ceiling, p99 by schedule",
            of(&|round| us(&round.full.schedule) / us(&round.ceiling.schedule)),
            Some(Mark::AtMost(3.0)),
        ),
        Ratio::new(
            "full / ceiling, p50 of one message alone",
            of(&|round| alone(&round.full.alone) / alone(&round.ceiling.alone)),
            Some(Mark::AtMost(2.0)),
        ),
        Ratio::new(
            "most memory of a worker at peak, MB",
            of(&|round| round.full.peak.resident_mb.values().copied().fold(0.0, f64::max)),
            Some(Mark::AtMost(64.0)),
        ),
    ]
}

/// What it ran on.
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
        let row = store.reader().query_one(statement).await;
        let value = row.ok().flatten().and_then(|row| row.try_get_by_index::<String>(0).ok());
        machine.insert(format!("PostgreSQL {setting}"), value.unwrap_or_default());
    }
    Ok(machine)
}
