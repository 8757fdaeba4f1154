//! `licet migrate`: creates or updates the tables of the database.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use licet_common::{
    config::{
        CommandSettings,
        groups::{DATABASE, LOG},
    },
    program::{Failure, block_on, configure},
    store::Store,
};

use super::LOG_OF_TOOLS;
use crate::report;

/// The longest time for which a statement may wait for other transactions, and change a large
/// table.
const TIMEOUT: Duration = Duration::from_secs(86_400);

#[derive(Args)]
pub(crate) struct Arguments {
    /// Print the SQL statements that would be executed, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    settings: CommandSettings<{ DATABASE | LOG }>,
}

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let config = configure(arguments.settings, LOG_OF_TOOLS)?;
    let url = config.database_url()?;
    block_on(async {
        let store = Store::create(&url, 1, TIMEOUT).await?;
        if arguments.dry_run {
            match store.pending_statements().await?.as_slice() {
                [] => report::print("-- The tables of the database are up to date: there is nothing to execute."),
                pending => report::print(pending.join("\n")),
            }
            return Ok(ExitCode::SUCCESS);
        }
        store.migrate().await?;
        report::print("The tables of the database are up to date.");
        Ok(ExitCode::SUCCESS)
    })
}
