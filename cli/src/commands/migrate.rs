//! `licet migrate`: creates or updates the tables of the database.

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

use super::LOG_OF_TOOLS;
use crate::report;

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    settings: CommandSettings<{ DATABASE | LOG }>,
}

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let config = configure(arguments.settings, LOG_OF_TOOLS)?;
    let url = config.database_url()?;
    block_on(async {
        Store::open(url, 1).await?.migrate().await?;
        report::print("The tables of the database are up to date.");
        Ok(ExitCode::SUCCESS)
    })
}
