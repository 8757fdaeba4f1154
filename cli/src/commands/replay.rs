//! `licet replay`: runs the upstream system of the demo with workers that run elsewhere.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;
use licet_client::{Charges, Client, Patience, Transport, provide};
use licet_common::{
    config::{
        CommandSettings,
        groups::{BROKER, KEYS, LOG},
    },
    program::{Failure, block_on, configure},
};
use tokio_util::sync::CancellationToken;

use super::LOG_OF_TOOLS;
use crate::{
    cdnow,
    driver::{self, Driver},
    jwks, report,
};

#[derive(Args)]
pub(crate) struct Arguments {
    /// A CDNOW log, as text or compressed with gzip
    file: PathBuf,
    /// The maximum number of purchases [default: all]
    #[arg(long, value_name = "N")]
    purchases: Option<usize>,
    /// The number of purchases in progress at a time
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    in_flight: u16,
    /// Do not run a payment provider, because one runs elsewhere
    #[arg(long)]
    no_provider: bool,
    /// The file of the published keys [default: the keys in the keys folder]
    #[arg(long, value_name = "FILE")]
    jwks: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: CommandSettings<{ BROKER | KEYS | LOG }>,
}

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let config = configure(arguments.settings, LOG_OF_TOOLS)?;
    let purchases = cdnow::file(&arguments.file, arguments.purchases)?;
    let transport = Transport::rabbit(&config.amqp_url()?)?;
    let keyring = jwks::read_or_load(arguments.jwks.as_deref(), &config.keys)?;
    block_on(async {
        let patience = Patience { each: Duration::from_secs(5), attempts: 24 };
        let client = Client::connect(&transport, patience).await?;
        let stop = CancellationToken::new();
        let provider = (!arguments.no_provider).then(|| {
            let (transport, client, stop) = (transport.clone(), client.clone(), stop.clone());
            tokio::spawn(async move { provide(&transport, &client, Charges::Succeed, &stop).await })
        });
        let progress = driver::progress(&purchases, arguments.json);
        let driver = Driver::new(client, keyring, progress.clone());
        let driven = driver.drive(&transport, &purchases, usize::from(arguments.in_flight)).await;
        progress.finish_and_clear();
        stop.cancel();
        if let Some(provider) = provider {
            let _ = provider.await;
        }
        let measured = driven.map_err(Failure::work)?;
        if arguments.json {
            report::print(report::json(&measured, report::peak_memory_bytes(), None));
        } else {
            report::print(report::summary(&measured));
        }
        Ok(ExitCode::SUCCESS)
    })
}
