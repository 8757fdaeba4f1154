//! `licet keys`: creates, exports or retires signing keys.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use licet_common::{
    clock::Clock,
    config::{
        CommandSettings,
        groups::{DATABASE, KEYS, LOG},
    },
    program::{Failure, block_on, configure},
    signing::folder,
    signing_keys,
    store::Store,
};

use super::LOG_OF_TOOLS;
use crate::report;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Create the keys folder and its signing key
    New(Arguments),
    /// Print the public keys as a JWKS
    Export(Arguments),
    /// Let workers start without a key that is lost or must no longer be trusted
    Retire(Retirement),
}

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    settings: CommandSettings<{ KEYS | LOG }>,
}

#[derive(Args)]
pub(crate) struct Retirement {
    /// The thumbprint of the key
    // One of 64 thumbprints begins with a hyphen.
    #[arg(allow_hyphen_values = true)]
    kid: String,
    #[command(flatten)]
    settings: CommandSettings<{ DATABASE | LOG }>,
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
        Command::Retire(Retirement { kid, settings }) => {
            let config = configure(settings, LOG_OF_TOOLS)?;
            let url = config.database_url()?;
            block_on(async {
                let store = Store::open(&url, 1).await?;
                store.check(true).await?;
                Ok(signing_keys::retire(&store, &kid, Clock::System.now()).await?)
            })?;
            report::print(format!("Retired the signing key {kid}. Workers no longer need it."));
        }
    }
    Ok(ExitCode::SUCCESS)
}
