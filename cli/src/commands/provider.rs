//! `licet provider`: runs a payment provider for trials until it is stopped.

use std::process::ExitCode;

use clap::Args;
use licet_client::{Charges, Client, Patience, Transport, provide};
use licet_common::{
    config::{
        CommandSettings,
        groups::{BROKER, LOG},
    },
    program::{Failure, block_on, configure, stop_signal},
};

use super::LOG_OF_SERVICES;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Decline every charge
    #[arg(long)]
    decline: bool,
    #[command(flatten)]
    settings: CommandSettings<{ BROKER | LOG }>,
}

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let config = configure(arguments.settings, LOG_OF_SERVICES)?;
    let transport = Transport::rabbit(&config.amqp_url()?)?;
    let charges = if arguments.decline { Charges::Fail } else { Charges::Succeed };
    block_on(async {
        let stop = stop_signal()?;
        let client = Client::connect(&transport, Patience::default()).await?;
        match charges {
            Charges::Succeed => tracing::info!("every charge and every payout succeeds"),
            Charges::Fail => tracing::info!("every charge is declined, and every payout succeeds"),
        }
        provide(&transport, &client, charges, &stop).await;
        Ok(ExitCode::SUCCESS)
    })
}
