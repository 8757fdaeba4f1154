//! `licet audit`: checks the invariants of the database.

use std::process::ExitCode;

use clap::Args;
use licet_common::{
    config::{
        CommandSettings,
        groups::{DATABASE, LOG},
    },
    program::{Failure, block_on, configure},
    store::Store,
};
use licet_operator::audit::audit;
use serde_json::json;

use super::LOG_OF_TOOLS;
use crate::report;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: CommandSettings<{ DATABASE | LOG }>,
}

/// Returns exit code 1 if an invariant does not hold.
pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let config = configure(arguments.settings, LOG_OF_TOOLS)?;
    let url = config.database_url()?;
    block_on(async {
        let store = Store::open(url, 1).await?;
        store.check().await?;
        let audited = audit(&store).await.map_err(Failure::work)?;
        if arguments.json {
            report::print(json!(audited));
        } else {
            report::print(report::verdict(&audited));
        }
        Ok(if audited.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}
