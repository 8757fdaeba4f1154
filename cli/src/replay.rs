//! `licet replay FILE`: the same upstream as the demonstration's, against workers that run elsewhere.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;
use licet_client::{Charges, Client, Keyring, Patience, Transport, provide, schema::Format};
use licet_common::{config::Config, signing::folder};
use licet_workers::program::{Failure, block_on};
use tokio_util::sync::CancellationToken;

use crate::{cdnow, demo, driver::Driver, inspect, report};

/// What can be chosen.
#[derive(Args)]
pub(crate) struct Arguments {
    /// A CDNOW log, plain or gzip
    file: PathBuf,
    /// At most so many purchases
    #[arg(long, value_name = "N")]
    purchases: Option<usize>,
    /// How many of them at a time
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    in_flight: u16,
    /// Leave payments to a provider that runs elsewhere
    #[arg(long)]
    no_provider: bool,
    /// Send and ask for postcard bodies instead of JSON
    #[arg(long)]
    postcard: bool,
    /// The published keys [default: those of the keys folder]
    #[arg(long, value_name = "FILE")]
    jwks: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Drives the file's purchases and reports.
pub(crate) fn replay(config: &Config, arguments: &Arguments) -> Result<ExitCode, Failure> {
    let purchases = cdnow::file(&arguments.file, arguments.purchases)?;
    let transport = Transport::rabbit(config.amqp_url()?)?;
    let keyring = match &arguments.jwks {
        Some(file) => inspect::read_jwks(file)?,
        None => Keyring::from_jwks(&folder::load(&config.keys)?.jwks()).map_err(Failure::Work)?,
    };
    block_on(async {
        let format = if arguments.postcard { Format::Postcard } else { Format::Json };
        let patience = Patience { each: Duration::from_secs(5), attempts: 24 };
        let client = Client::connect(&transport, format, patience).await?;
        let stop = CancellationToken::new();
        let provider = (!arguments.no_provider).then(|| {
            let (transport, client, stop) = (transport.clone(), client.clone(), stop.clone());
            tokio::spawn(async move { provide(&transport, &client, Charges::Succeed, &stop).await })
        });
        let progress = demo::progress(&purchases, arguments.json);
        let driver = Driver::new(client, keyring, progress.clone());
        let driven = driver.drive(&transport, &purchases, usize::from(arguments.in_flight)).await;
        progress.finish_and_clear();
        stop.cancel();
        if let Some(provider) = provider {
            let _ = provider.await;
        }
        let measured = driven.map_err(|error| Failure::Work(error.to_string()))?;
        if arguments.json {
            report::tell(report::json(&measured, report::peak_memory_bytes(), None));
        } else {
            report::tell(report::summary(&measured));
        }
        Ok(ExitCode::SUCCESS)
    })
}
