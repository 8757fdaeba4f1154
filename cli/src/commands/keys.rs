//! `licet keys`: creates or exports signing keys.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use licet_common::{
    config::{
        CommandSettings,
        groups::{KEYS, LOG},
    },
    program::{Failure, configure},
    signing::folder,
};

use super::LOG_OF_TOOLS;
use crate::report;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Create the keys folder and its signing key
    New(Arguments),
    /// Print the public keys as a JWKS
    Export(Arguments),
}

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    settings: CommandSettings<{ KEYS | LOG }>,
}

pub(crate) fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::New(arguments) => {
            let config = configure(arguments.settings, LOG_OF_TOOLS)?;
            let keyring = folder::create(&config.keys)?;
            let kid = keyring.signing_kid().unwrap_or("unknown");
            report::print(format!("Created the signing key {kid} in {}.", config.keys.display()));
        }
        Command::Export(arguments) => {
            let config = configure(arguments.settings, LOG_OF_TOOLS)?;
            let jwks = folder::load(&config.keys)?.jwks();
            report::print(serde_json::to_string_pretty(&jwks).map_err(Failure::work)?);
        }
    }
    Ok(ExitCode::SUCCESS)
}
