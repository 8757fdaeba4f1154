//! All workers, one line each. The topology, the queue policies, the fixtures of tests and the
//! arguments of `licet serve` derive from this list.

use futures_util::future::BoxFuture;
use licet_common::runtime::{Resources, Worker, run};
use licet_schema::topology::{self, Policy, Topology, WorkerQueue};
use tokio_util::sync::CancellationToken;

use crate::{
    catalog::Catalog, license::License, purchase::Purchase, query::Query, reception::Reception, reissue::Reissue,
    returns::Returns, settlement::Settlement, sweep::Sweep,
};

/// All workers. This is a static rather than a constant, because each program that names a constant
/// compiles all workers again.
pub static WORKERS: &[Entry] = &[
    Entry::of::<Catalog>(),
    Entry::of::<Purchase>(),
    Entry::of::<Reception>(),
    Entry::of::<Settlement>(),
    Entry::of::<License>(),
    Entry::of::<Returns>(),
    Entry::of::<Reissue>(),
    Entry::of::<Sweep>(),
    Entry::of::<Query>(),
];

/// A worker that can be started by its name.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The worker's name.
    pub name: &'static str,
    /// The message types that it handles.
    pub handles: &'static [&'static str],
    start: fn(Resources, CancellationToken) -> BoxFuture<'static, ()>,
}

/// A name that no worker has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no worker {name:?}: the workers are {known}")]
pub struct UnknownWorker {
    /// The name.
    pub name: String,
    /// The names of all workers, separated by commas.
    pub known: String,
}

impl Entry {
    const fn of<W: Worker + Default>() -> Self {
        Self { name: W::NAME, handles: W::HANDLES, start: start::<W> }
    }

    /// Runs the worker until `stop`.
    pub fn run(&self, resources: Resources, stop: CancellationToken) -> BoxFuture<'static, ()> {
        (self.start)(resources, stop)
    }
}

fn start<W: Worker + Default>(resources: Resources, stop: CancellationToken) -> BoxFuture<'static, ()> {
    run(W::default(), resources, stop)
}

/// The worker of this name.
///
/// # Errors
/// No worker has this name.
pub fn find(name: &str) -> Result<&'static Entry, UnknownWorker> {
    let unknown = || UnknownWorker { name: name.to_owned(), known: names().collect::<Vec<_>>().join(", ") };
    WORKERS.iter().find(|worker| worker.name == name).ok_or_else(unknown)
}

/// The names of all workers.
pub fn names() -> impl Iterator<Item = &'static str> {
    WORKERS.iter().map(|worker| worker.name)
}

/// The queue of each worker, for building the topology.
pub fn queues() -> Vec<WorkerQueue> {
    WORKERS.iter().map(|worker| WorkerQueue { name: worker.name, handles: worker.handles }).collect()
}

/// The topology of this release.
pub fn topology() -> Topology {
    topology::topology(&queues())
}

/// The default queue policies of this release.
pub fn policies() -> Vec<Policy> {
    topology::policies(&queues())
}

/// Runs these workers until `stop`, and returns when the last one has ended.
pub async fn run_workers(workers: impl IntoIterator<Item = &Entry>, resources: &Resources, stop: &CancellationToken) {
    let mut running = tokio::task::JoinSet::new();
    for worker in workers {
        running.spawn(worker.run(resources.clone(), stop.clone()));
    }
    running.join_all().await;
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use licet_schema::message::Request;

    use super::*;

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
    }

    fn read(file: &str) -> String {
        fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file} cannot be read: {error}"))
    }

    #[test]
    fn every_request_type_is_handled_by_exactly_one_worker() {
        for kind in Request::KINDS {
            let handlers: Vec<_> =
                WORKERS.iter().filter(|worker| worker.handles.contains(kind)).map(|worker| worker.name).collect();
            assert_eq!(handlers.len(), 1, "{kind} is handled by {handlers:?}");
        }
        for worker in WORKERS {
            for kind in worker.handles {
                assert!(Request::KINDS.contains(kind), "{} handles {kind}, which does not exist", worker.name);
            }
        }
    }

    #[test]
    fn every_worker_module_is_in_the_registry() {
        let registered: BTreeSet<_> =
            names().map(|name| if name == "return" { "returns" } else { name }.to_owned()).collect();
        let entries = fs::read_dir(root().join("workers/src")).expect("the folder of the modules");
        let modules: BTreeSet<_> = entries
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
            .filter(|name| !name.contains('.') && !["bin", "domain"].contains(&name.as_str()))
            .collect();
        assert_eq!(modules, registered, "a worker module without a registry line, or the reverse");
    }

    #[test]
    fn every_worker_has_a_program_and_a_compose_service() {
        let compose = read("docker-compose.yml");
        for worker in names() {
            let file = format!("workers/src/bin/licet-{worker}.rs");
            assert!(root().join(&file).exists(), "{file} is missing: it is the program of the {worker} worker");
            assert!(
                compose.contains(&format!("\n  licet-{worker}:")),
                "docker-compose.yml has no service licet-{worker}"
            );
        }
        let programs = fs::read_dir(root().join("workers/src/bin")).expect("the programs").count();
        assert_eq!(programs, WORKERS.len(), "a program without a registry line");
    }

    #[test]
    fn the_documents_name_every_worker_and_the_messages_that_it_handles() {
        let (operations, protocol) = (read("docs/operations.md"), read("docs/protocol.md"));
        for worker in WORKERS {
            let handles: Vec<_> = worker.handles.iter().map(|kind| format!("`{kind}`")).collect();
            let handles = handles.join(", ");
            let program = format!("| `licet-{}` | {handles}", worker.name);
            assert!(operations.contains(&program), "docs/operations.md lacks the row {program:?}");
            let queue = format!("| `licet.{}` | `licet.in` | {handles} |", worker.name);
            assert!(protocol.contains(&queue), "docs/protocol.md lacks the row {queue:?}");
        }
        let start_all = format!("for worker in {}; do", names().collect::<Vec<_>>().join(" "));
        assert!(operations.contains(&start_all), "docs/operations.md lacks the line {start_all:?}");
    }

    #[test]
    fn an_unknown_worker_is_an_error_that_names_the_known_ones() {
        let error = find("purchases").expect_err("there is none").to_string();
        assert!(error.contains("\"purchases\"") && error.contains("purchase, reception"), "{error}");
    }
}
