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
    partitions::Partitions,
    stand::{Kind, Layout, MET, Scratch, Site},
};

/// What can be chosen.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(super) common: Common,
    /// How many copies of a worker share its queue, one figure after the other
    #[arg(long, value_delimiter = ',', default_value = "1,2,4", value_name = "N,...", value_parser = clap::value_parser!(u16).range(1..=64))]
    copies: Vec<u16>,
    /// Only these workers are copied [default: all that a lifecycle meets]
    #[arg(long, value_delimiter = ',', value_name = "NAME,...", value_parser = MET)]
    worker: Vec<String>,
    /// How many queues share a worker's messages (of workers that only answer), one figure after the other
    #[arg(long, value_delimiter = ',', default_value = "1,2,4", value_name = "N,...", value_parser = clap::value_parser!(u16).range(1..=64))]
    partitions: Vec<u16>,
    /// A node of a cluster to measure, too: as often as it has nodes on this machine
    #[arg(long, value_name = "URL", value_parser = secret)]
    node: Vec<SecretString>,
}

fn secret(url: &str) -> Result<SecretString, String> {
    Ok(url.into())
}

/// One thing to measure.
struct Case {
    name: String,
    /// The case that it is compared with.
    beside: usize,
    place: Place,
    kind: Kind,
    layout: Layout,
}

/// Which broker.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    One,
    Cluster,
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
    database.remove().await?;
    measured
}

async fn measure(
    one: &Site,
    cluster: Option<&Site>,
    database: &Scratch,
    arguments: &Arguments,
) -> Result<Report, Failure> {
    let (cases, mut runs) = (cases(arguments), Vec::new());
    for round in 1..=arguments.common.rounds {
        for case in &cases {
            let site = match case.place {
                Place::Cluster => cluster.unwrap_or(one),
                Place::One => one,
            };
            note(&arguments.common, format_args!("round {round}: {}", case.name));
            runs.push(run(site, database, &arguments.common, round, case).await?);
        }
    }
    let machine = machine(&Store::open(&database.url, 1).await?).await?;
    Ok(Report { mode: "scale", options: arguments.common.clone(), machine, ratios: ratios(&cases, &runs), runs })
}

fn cases(arguments: &Arguments) -> Vec<Case> {
    let plural = |count: u16, one: &str, more: &str| format!("{count} {}", if count == 1 { one } else { more });
    let case = |name, beside, kind| Case { name, beside, place: Place::One, kind, layout: Layout::default() };
    let multiplied =
        if arguments.worker.is_empty() { MET.map(str::to_owned).to_vec() } else { arguments.worker.clone() };
    let mut cases: Vec<Case> = Vec::new();
    for &copies in &arguments.copies {
        let layout = Layout { copies: copies.into(), multiplied: multiplied.clone(), partitions: None };
        cases.push(Case { layout, ..case(plural(copies, "copy", "copies"), 0, Kind::Full) });
    }
    let ceiling = cases.len();
    cases.push(case("ceiling".into(), ceiling, Kind::Ceiling));
    for &queues in &arguments.partitions {
        let layout = Layout { partitions: Some(Partitions(queues.into())), ..Layout::default() };
        let name = format!("ceiling, {}", plural(queues, "part", "parts"));
        cases.push(Case { layout, ..case(name, ceiling, Kind::Ceiling) });
    }
    if let Ok(nodes @ 1..) = u16::try_from(arguments.node.len()) {
        let nodes = plural(nodes, "node", "nodes");
        let ceiling = Case { place: Place::Cluster, ..case(format!("ceiling, {nodes}"), ceiling, Kind::Ceiling) };
        cases.push(ceiling);
        cases.push(Case { place: Place::Cluster, ..case(format!("full, {nodes}"), 0, Kind::Full) });
    }
    cases
}

async fn run(site: &Site, database: &Scratch, common: &Common, round: u16, case: &Case) -> Result<Run, Failure> {
    let stand = site.start(case.kind, database, &case.layout).await?;
    let plan = Plan { partitioned: case.layout.partitions.is_some(), ..common.peak() };
    let measured = drive(&site.transport, plan, &site.meter(&stand)).await?;
    let mut run = Run::of(round, &case.name, "peak", &measured);
    run.resident_mb = stand.resident_mb();
    stand.stop().await?;
    Ok(run)
}

/// Speed and processor time of each case against the one that it stands beside.
fn ratios(cases: &[Case], runs: &[Run]) -> Vec<Ratio> {
    let of = |case: usize, figure: fn(&Run) -> f64| runs.iter().skip(case).step_by(cases.len()).map(figure);
    let against = |case: usize, beside: usize, figure: fn(&Run) -> f64| {
        of(case, figure).zip(of(beside, figure)).map(|(this, other)| this / other).collect::<Vec<_>>()
    };
    let compared = cases.iter().enumerate().filter(|(index, case)| *index != case.beside);
    compared
        .flat_map(|(index, case)| {
            let name = format!("{} / {}", case.name, cases[case.beside].name);
            let speed = against(index, case.beside, |run| run.lifecycles_per_s);
            let cpu = against(index, case.beside, Run::cpu_ms_of_all);
            [
                Ratio::new(format!("{name}, lifecycles/s"), speed, None),
                Ratio::new(format!("{name}, CPU per lifecycle"), cpu, None),
            ]
        })
        .collect()
}
