//! `licet show`: the history of a purchase, certificate, license, return or user.

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
use licet_operator::history::histories;
use serde_json::json;

use super::LOG_OF_TOOLS;
use crate::{report, timeline};

#[derive(Args)]
pub(crate) struct Arguments {
    /// The name of a user, or the id of a purchase, certificate, container, license or return; at
    /// least the last 8 characters of an id are enough if they are unique
    id: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: CommandSettings<{ DATABASE | LOG }>,
}

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let config = configure(arguments.settings, LOG_OF_TOOLS)?;
    let url = config.database_url()?;
    block_on(async {
        let store = Store::open(&url, 1).await?;
        store.check(false).await?;
        let histories = histories(&store, &arguments.id).await.map_err(Failure::work)?;
        if arguments.json {
            report::print(json!({"histories": histories}));
        } else {
            histories.iter().for_each(|history| report::print(timeline::text(history)));
        }
        if histories.is_empty() {
            return Err(Failure::Work(format!(
                "no purchase matches {:?}: give the name of a user, or at least the last 8 characters of an id",
                arguments.id
            )));
        }
        Ok(ExitCode::SUCCESS)
    })
}
