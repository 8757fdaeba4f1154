//! `licet serve`: runs workers in one process until it is stopped.

use std::process::ExitCode;

use clap::Args;
use licet_common::{
    config::{CommandSettings, groups::WORKER},
    program::{Failure, block_on, configure, connect, stop_signal},
};
use licet_workers::registry::{self, Entry, UnknownWorker, WORKERS};

use super::LOG_OF_SERVICES;

#[derive(Args)]
pub(crate) struct Arguments {
    /// The workers to run [default: all]
    #[arg(value_name = "WORKER")]
    workers: Vec<String>,
    #[command(flatten)]
    settings: CommandSettings<WORKER>,
}

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let selected = select(&arguments.workers).map_err(|unknown| Failure::Usage(unknown.to_string()))?;
    let config = configure(arguments.settings, LOG_OF_SERVICES)?;
    block_on(async {
        let resources = connect(&config, &registry::queues(), true, true).await?;
        let stop = stop_signal()?;
        tokio::join!(
            registry::run_workers(selected, &resources, &stop),
            resources.store.watch_clock(&resources.clock, &stop)
        );
        Ok(ExitCode::SUCCESS)
    })
}

/// The workers with these names, each once. If there are no names, all workers.
fn select(names: &[String]) -> Result<Vec<&'static Entry>, UnknownWorker> {
    for name in names {
        registry::find(name)?;
    }
    let is_selected = |entry: &&Entry| names.is_empty() || names.iter().any(|name| name == entry.name);
    Ok(WORKERS.iter().filter(is_selected).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Result<Vec<&'static str>, UnknownWorker> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        Ok(select(&names)?.iter().map(|entry| entry.name).collect())
    }

    #[test]
    fn workers_are_selected_by_name_each_once_and_all_without_names() {
        assert_eq!(names(&["purchase", "catalog", "purchase"]).expect("workers"), ["catalog", "purchase"]);
        assert_eq!(names(&[]).expect("workers"), registry::names().collect::<Vec<_>>());
    }

    #[test]
    fn an_unknown_worker_is_an_error_that_names_the_known_ones() {
        let error = names(&["catalog", "kitchen"]).expect_err("there is no such worker").to_string();
        assert!(error.contains("\"kitchen\""), "{error}");
        assert!(registry::names().all(|name| error.contains(name)), "{error}");
    }
}
