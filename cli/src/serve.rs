//! `licet serve` and `licet provider`: what runs until it is told to stop.

use licet_client::{Charges, Client, Patience, Transport, provide, schema::Format};
use licet_common::config::Config;
use licet_schema::topology::WORKERS;
use licet_workers::{
    program::{self, Failure, block_on},
    registry,
};

/// Runs workers, all if none is named, in this process.
pub(crate) fn serve(config: &Config, workers: &[String]) -> Result<(), Failure> {
    let known: Vec<_> = WORKERS.iter().map(|worker| worker.name).collect();
    if let Some(unknown) = workers.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(Failure::Usage(format!("there is no worker {unknown:?}: name some of {}", known.join(", "))));
    }
    let wanted = known.iter().copied().filter(|name| workers.is_empty() || workers.iter().any(|wanted| wanted == name));
    block_on(async {
        let machine = program::machine(config, true).await?;
        let stop = program::stop_signal()?;
        registry::start_some(wanted, &machine, &stop).await;
        Ok(())
    })
}

/// Plays a payment provider.
pub(crate) fn provider(config: &Config, charges: Charges) -> Result<(), Failure> {
    let transport = Transport::rabbit(config.amqp_url()?)?;
    block_on(async {
        let stop = program::stop_signal()?;
        let client = Client::connect(&transport, Format::Json, Patience::default()).await?;
        match charges {
            Charges::Succeed => tracing::info!("charging and paying out whatever is instructed"),
            Charges::Fail => tracing::info!("declining every charge, and paying out whatever is instructed"),
        }
        provide(&transport, &client, charges, &stop).await;
        Ok(())
    })
}
