//! `licet config`: shows the configuration.

use std::process::ExitCode;

use clap::Subcommand;
use licet_common::{
    config::{CommandSettings, groups::ALL},
    program::{Failure, configure},
};

use super::LOG_OF_TOOLS;
use crate::report;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Print every setting with its source, without passwords; fail if a setting is invalid
    Check {
        #[command(flatten)]
        settings: CommandSettings<ALL>,
    },
}

pub(crate) fn run(command: Command) -> Result<ExitCode, Failure> {
    let Command::Check { settings } = command;
    let config = configure(settings, LOG_OF_TOOLS)?;
    let width = config.resolved.iter().map(|setting| setting.key.len()).max().unwrap_or_default();
    for setting in &config.resolved {
        report::print(format!("{:width$}  {}  [{}]", setting.key, setting.value, setting.origin));
    }
    if config.has_amqp_url() {
        config.amqp_url()?;
    }
    if config.has_database_url() {
        config.database_url()?;
    }
    config.management_url()?;
    Ok(ExitCode::SUCCESS)
}
