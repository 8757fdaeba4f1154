//! `licet check`: checks a running installation.

use std::process::ExitCode;

use clap::Args;
use licet_common::{
    config::{
        CommandSettings,
        groups::{BROKER, DATABASE, KEYS, LOG, MANAGEMENT},
    },
    program::{Failure, block_on, configure},
};
use licet_operator::installation::{Findings, Installation};
use licet_workers::registry;
use serde_json::json;

use super::LOG_OF_TOOLS;
use crate::report;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: CommandSettings<{ BROKER | MANAGEMENT | DATABASE | KEYS | LOG }>,
}

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let config = configure(arguments.settings, LOG_OF_TOOLS)?;
    let (amqp_url, management_url, database_url) =
        (config.amqp_url()?, config.management_url()?, config.shared_database_url()?);
    let (workers, topology) = (registry::queues(), registry::topology());
    let installation = Installation {
        amqp_url: &amqp_url,
        management_url: management_url.as_ref(),
        database_url: &database_url,
        keys: &config.keys,
        workers: &workers,
        topology: &topology,
    };
    let Findings { problems, unchecked } = block_on(async { Ok(installation.check().await) })?;
    if arguments.json {
        report::print(json!({ "problems": problems, "unchecked": unchecked }));
    } else if problems.is_empty() {
        report::print("The broker, the database, the clock, the keys and the workers are as they should be.");
    } else {
        problems.iter().for_each(report::print);
    }
    if !arguments.json {
        unchecked.iter().for_each(report::print);
    }
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
