//! What more of something costs or gains: copies of the workers on one queue, queues that share a
//! worker's messages, nodes of a broker. Nothing of it is judged: on a few cores, all of which are in
//! use already, it is processor time per lifecycle that tells.

use clap::Args;
use licet_common::{config::Config, store::Store};
use licet_workers::program::Failure;
use secrecy::SecretString;

use super::{
    Common,
    figures::{Ratio, Report, Run},
    full::machine,
    load::{Plan, drive},
    note,
    partitions::{PARTITIONS_MAX, Partitions},
    stand::{Kind, Layout, MET, Scratch, Site},
};

/// What can be chosen.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(super) common: Common,
    /// How many copies of a worker share its queue, one figure after the other; one is always measured
    #[arg(long, value_delimiter = ',', default_value = "1,2,4", value_name = "N,...", value_parser = clap::value_parser!(u16).range(1..=64))]
    copies: Vec<u16>,
    /// Only these workers are copied [default: all that a lifecycle meets]
    #[arg(long, value_delimiter = ',', value_name = "NAME,...", value_parser = MET)]
    worker: Vec<String>,
    /// How many queues share a worker's messages (of workers that only answer), one figure after the other; 0: none
    #[arg(long, value_delimiter = ',', default_value = "1,2,4", value_name = "N,...", value_parser = clap::value_parser!(u16).range(..=i64::from(PARTITIONS_MAX)))]
    partitions: Vec<u16>,
    /// A node of a cluster to measure, too: as often as it has nodes on this machine
    #[arg(long, value_name = "URL", value_parser = secret)]
    node: Vec<SecretString>,
}

fn secret(url: &str) -> Result<SecretString, String> {
    Ok(url.into())
}

/// One thing to measure.
struct Case<'a> {
    name: String,
    /// The case that it is compared with.
    beside: usize,
    site: &'a Site,
    kind: Kind,
    layout: Layout,
}

/// Measures every case in every round.
///
/// # Errors
/// A run does not come to its end.
pub(super) async fn scale(config: &Config, arguments: &Arguments) -> Result<Report, Failure> {
    let one = Site::prepare(config).await?;
    let cluster = match arguments.node.split_first() {
        Some((first, others)) => Some(Site::prepare_at(config, first.clone(), others.to_vec()).await?),
        None => None,
    };
    let database = one.database(None).await?;
    let measured = measure(&one, cluster.as_ref(), &database, arguments).await;
    let (dropped, cleared) = (database.remove().await, one.remove_partitions().await);
    dropped.and(cleared)?;
    measured
}

async fn measure(
    one: &Site,
    cluster: Option<&Site>,
    database: &Scratch,
    arguments: &Arguments,
) -> Result<Report, Failure> {
    let (cases, mut runs) = (cases(one, cluster, arguments), Vec::new());
    if let Some(some) = arguments.partitions.iter().find(|partitions| **partitions > 0) {
        one.declare(Partitions(*some)).await?; // or it is refused only after a while
    }
    for round in 1..=arguments.common.rounds {
        // Every other round from behind: what comes later meets larger tables, and the machine's speed drifts.
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
    if arguments.worker.is_empty() { MET.map(str::to_owned).to_vec() } else { arguments.worker.clone() }
}

fn cases<'a>(one: &'a Site, cluster: Option<&'a Site>, arguments: &Arguments) -> Vec<Case<'a>> {
    let plural = |count: u16, one: &str, more: &str| format!("{count} {}", if count == 1 { one } else { more });
    let case = |name, beside, kind| Case { name, beside, site: one, kind, layout: Layout::default() };
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
    if let Some(site) = cluster {
        let nodes = format!("{} nodes", arguments.node.len());
        cases.push(Case { site, ..case(format!("ceiling, {nodes}"), ceiling, Kind::Ceiling) });
        cases.push(Case { site, ..case(format!("full, {nodes}"), 0, Kind::Full) });
    }
    cases
}

async fn run(case: &Case<'_>, database: &Scratch, common: &Common, round: u16) -> Result<Run, Failure> {
    let stand = case.site.start(case.kind, database, &case.layout).await?;
    let plan = Plan { partitioned: case.layout.partitions.is_some(), ..common.peak() };
    let measured = drive(&case.site.transport, plan, &case.site.meter(&stand)).await?;
    let mut run = Run::of(round, &case.name, "peak", &measured);
    run.resident_mb = stand.resident_mb();
    stand.stop().await?;
    Ok(run)
}

/// Speed and processor time of each case against the one that it stands beside.
fn ratios(cases: &[Case<'_>], runs: &[Run]) -> Vec<Ratio> {
    let of = |case: usize| runs.iter().skip(case).step_by(cases.len());
    let mut ratios = Vec::new();
    for (index, case) in cases.iter().enumerate().filter(|(index, case)| *index != case.beside) {
        let pairs: Vec<_> = of(index).zip(of(case.beside)).collect();
        let against =
            |figure: fn(&Run) -> f64| pairs.iter().map(|(this, other)| figure(this) / figure(other)).collect();
        let name = format!("{} / {}", case.name, cases[case.beside].name);
        ratios.push(Ratio::new(format!("{name}, lifecycles/s"), against(|run| run.lifecycles_per_s), None));
        // A server whose time cannot be read would make the other look dear.
        if pairs.iter().all(|(this, other)| this.cpu_ms.keys().eq(other.cpu_ms.keys())) {
            ratios.push(Ratio::new(format!("{name}, CPU per lifecycle"), against(Run::cpu_ms_of_all), None));
        }
    }
    ratios
}
