//! Measures the costs and benefits of several copies of a worker on one queue, of partitioned
//! queues, and of a broker cluster, each compared with a single copy, queue or node. The ratios
//! have no targets. If all cores are already in use, the meaningful figure is the processor time
//! per lifecycle.

use clap::Args;
use licet_common::{config::Config, program::Failure, store::Store};
use secrecy::SecretString;

use super::{
    Common,
    database::ScratchDatabase,
    environment::Environment,
    figures::{Ratio, Report, Run},
    full::machine,
    load::{Plan, drive},
    note,
    partitions::{LIFECYCLE_WORKERS, PARTITIONS_MAX, Partitions},
    workers::{Kind, Layout},
};

/// The options.
#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) common: Common,
    /// Numbers of copies of a worker that share its queue; a single copy is always measured
    #[arg(long, value_delimiter = ',', default_value = "1,2,4", value_name = "N,...", value_parser = clap::value_parser!(u16).range(1..=64))]
    copies: Vec<u16>,
    /// The workers of which copies run [default: all workers of a lifecycle]
    #[arg(long, value_delimiter = ',', value_name = "NAME,...", value_parser = LIFECYCLE_WORKERS)]
    worker: Vec<String>,
    /// Numbers of partitioned queues for each worker that only answers; 0 skips this measurement
    #[arg(long, value_delimiter = ',', default_value = "1,2,4", value_name = "N,...", value_parser = clap::value_parser!(u16).range(..=i64::from(PARTITIONS_MAX)))]
    partitions: Vec<u16>,
    /// A node of a cluster to measure; repeat the option for each node on this machine
    #[arg(long, value_name = "URL", value_parser = secret)]
    node: Vec<SecretString>,
}

fn secret(url: &str) -> Result<SecretString, String> {
    Ok(url.into())
}

/// A configuration to measure.
struct Case<'a> {
    name: String,
    /// The index of the case with which this case is compared.
    baseline: usize,
    environment: &'a Environment,
    kind: Kind,
    layout: Layout,
}

/// Measures every case in every round.
///
/// # Errors
/// A run does not complete.
pub(super) async fn scale(config: &Config, arguments: &Arguments) -> Result<Report, Failure> {
    let single = Environment::prepare(config).await?;
    let cluster = match arguments.node.split_first() {
        Some((first, others)) => Some(Environment::prepare_at(config, first.clone(), others.to_vec()).await?),
        None => None,
    };
    if let Some(cluster) = &cluster {
        cluster.use_keys_of(&single)?;
    }
    let database = single.database(None).await?;
    let measured = measure(&single, cluster.as_ref(), &database, arguments).await;
    let (dropped, cleared) = (database.remove().await, single.remove_partitions().await);
    dropped.and(cleared)?;
    measured
}

async fn measure(
    single: &Environment,
    cluster: Option<&Environment>,
    database: &ScratchDatabase,
    arguments: &Arguments,
) -> Result<Report, Failure> {
    let (cases, mut runs) = (cases(single, cluster, arguments), Vec::new());
    if let Some(some) = arguments.partitions.iter().find(|partitions| **partitions > 0) {
        // Check early that the broker has the plugin.
        single.declare(Partitions(*some)).await?;
    }
    for round in 1..=arguments.common.rounds {
        // Every other round runs in reverse order, because later cases run on larger tables and the
        // machine's speed drifts.
        let forward = round % 2 == 1;
        let order: Vec<_> = if forward { cases.iter().collect() } else { cases.iter().rev().collect() };
        let mut measured = Vec::with_capacity(cases.len());
        for case in order {
            note(&arguments.common, format_args!("round {round}: {}", case.name));
            measured.push(run(case, database, &arguments.common, round).await?);
        }
        if !forward {
            measured.reverse();
        }
        runs.extend(measured);
    }
    let mut machine = machine(&Store::open(&database.url, 1).await?).await?;
    machine.insert("workers with copies".into(), multiplied(arguments).join(", "));
    Ok(Report { mode: "scale", options: arguments.common.clone(), machine, ratios: ratios(&cases, &runs), runs })
}

fn multiplied(arguments: &Arguments) -> Vec<String> {
    if arguments.worker.is_empty() { LIFECYCLE_WORKERS.map(str::to_owned).to_vec() } else { arguments.worker.clone() }
}

fn cases<'a>(single: &'a Environment, cluster: Option<&'a Environment>, arguments: &Arguments) -> Vec<Case<'a>> {
    let plural = |count: u16, one: &str, more: &str| format!("{count} {}", if count == 1 { one } else { more });
    let case = |name, baseline, kind| Case { name, baseline, environment: single, kind, layout: Layout::default() };
    let mut cases: Vec<Case> = Vec::new();
    for &copies in [1].iter().chain(arguments.copies.iter().filter(|copies| **copies > 1)) {
        let layout = Layout { copies: copies.into(), multiplied: multiplied(arguments), partitions: None };
        cases.push(Case { layout, ..case(plural(copies, "copy", "copies"), 0, Kind::Full) });
    }
    let ceiling = cases.len();
    cases.push(case("ceiling".into(), ceiling, Kind::Ceiling));
    for &queues in arguments.partitions.iter().filter(|queues| **queues > 0) {
        let layout = Layout { partitions: Some(Partitions(queues)), ..Layout::default() };
        let name = format!("ceiling, {}", plural(queues, "partition", "partitions"));
        cases.push(Case { layout, ..case(name, ceiling, Kind::Ceiling) });
    }
    if let Some(environment) = cluster {
        let nodes = format!("{} nodes", arguments.node.len());
        cases.push(Case { environment, ..case(format!("ceiling, {nodes}"), ceiling, Kind::Ceiling) });
        cases.push(Case { environment, ..case(format!("full, {nodes}"), 0, Kind::Full) });
    }
    cases
}

async fn run(case: &Case<'_>, database: &ScratchDatabase, common: &Common, round: u16) -> Result<Run, Failure> {
    let workers = case.environment.start(case.kind, database, &case.layout).await?;
    let plan = Plan { partitioned: case.layout.partitions.is_some(), ..common.peak() };
    let measured = drive(&case.environment.transport, plan, &case.environment.meter(&workers)).await?;
    let mut run = Run::of(round, &case.name, "peak", &measured);
    run.resident_mb = workers.resident_mb();
    workers.stop().await?;
    Ok(run)
}

/// The speed and processor time of each case in relation to its baseline.
fn ratios(cases: &[Case<'_>], runs: &[Run]) -> Vec<Ratio> {
    let of = |case: usize| runs.iter().skip(case).step_by(cases.len());
    let mut ratios = Vec::new();
    for (index, case) in cases.iter().enumerate().filter(|(index, case)| *index != case.baseline) {
        let pairs: Vec<_> = of(index).zip(of(case.baseline)).collect();
        let against =
            |figure: fn(&Run) -> f64| pairs.iter().map(|(this, other)| figure(this) / figure(other)).collect();
        let name = format!("{} / {}", case.name, cases[case.baseline].name);
        ratios.push(Ratio::new(format!("{name}, lifecycles/s"), against(|run| run.lifecycles_per_s), None));
        // If the time of a server is missing in one of the runs, the ratio would be wrong.
        if pairs.iter().all(|(this, other)| this.cpu_ms.keys().eq(other.cpu_ms.keys())) {
            ratios.push(Ratio::new(format!("{name}, CPU per lifecycle"), against(Run::cpu_ms_of_all), None));
        }
    }
    ratios
}
