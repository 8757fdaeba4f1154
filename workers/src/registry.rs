//! Every worker, by name. A new worker is a line here, a line in the topology, a module and a
//! binary of a few lines.

use futures_util::future::BoxFuture;
use licet_common::runtime::{Machine, run};
use licet_schema::topology;
use tokio_util::sync::CancellationToken;

use crate::{catalog, license, purchase, query, reception, reissue, returns, settlement, sweep};

/// Starts the worker of this name until `stop`; none if there is no such worker.
pub fn start(name: &str, machine: Machine, stop: CancellationToken) -> Option<BoxFuture<'static, ()>> {
    Some(match name {
        "catalog" => Box::pin(run(catalog::Catalog, machine, stop)),
        "purchase" => Box::pin(run(purchase::Purchase, machine, stop)),
        "reception" => Box::pin(run(reception::Reception, machine, stop)),
        "settlement" => Box::pin(run(settlement::Settlement, machine, stop)),
        "license" => Box::pin(run(license::License, machine, stop)),
        "return" => Box::pin(run(returns::Returns, machine, stop)),
        "reissue" => Box::pin(run(reissue::Reissue, machine, stop)),
        "sweep" => Box::pin(sweep::start(machine, stop)),
        "query" => Box::pin(run(query::Query, machine, stop)),
        _ => return None,
    })
}

/// Starts all workers until `stop`, and returns when the last of them has.
pub async fn start_all(machine: &Machine, stop: &CancellationToken) {
    let names = topology::WORKERS.iter().map(|worker| worker.name);
    start_some(names, machine, stop).await;
}

/// Starts the workers of these names until `stop`, each on tasks of its own.
pub async fn start_some<'a>(names: impl Iterator<Item = &'a str>, machine: &Machine, stop: &CancellationToken) {
    let mut running = tokio::task::JoinSet::new();
    for name in names {
        if let Some(worker) = start(name, machine.clone(), stop.clone()) {
            running.spawn(worker);
        }
    }
    running.join_all().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_of_the_topology_can_be_started() {
        let source = include_str!("registry.rs");
        for worker in topology::WORKERS {
            assert!(source.contains(&format!("\"{}\" =>", worker.name)), "{} is not in the registry", worker.name);
        }
    }
}
