//! `licet audit`: checks the invariants of the database.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use licet_common::{
    clock::Clock,
    config::{
        CommandSettings,
        groups::{DATABASE, LOG},
    },
    program::{Failure, block_on, configure},
    store::Store,
};
use licet_operator::audit::{audit, warnings};
use licet_schema::Timestamp;
use serde_json::json;

use super::{LOG_OF_TOOLS, dead::duration};
use crate::report;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Warn of buy-backs, unmatched money and refunds that have waited at least this long: 90s,
    /// 15m, 2h, 7d
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "7d")]
    warn_older_than: Duration,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: CommandSettings<{ DATABASE | LOG }>,
}

/// Returns exit code 1 if an invariant does not hold. Warnings do not change the exit code.
pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let config = configure(arguments.settings, LOG_OF_TOOLS)?;
    let url = config.database_url()?;
    block_on(async {
        let store = Store::open(&url, 1).await?;
        store.check(false).await?;
        let mut audited = audit(&store).await.map_err(Failure::work)?;
        let age_ms = i64::try_from(arguments.warn_older_than.as_millis()).unwrap_or(i64::MAX);
        let before = Timestamp::from_millis(Clock::System.now().as_millis().saturating_sub(age_ms));
        audited.warnings = warnings(&store, before).await.map_err(Failure::work)?;
        if arguments.json {
            report::print(json!(audited));
        } else {
            report::print(report::verdict(&audited));
        }
        Ok(if audited.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}
