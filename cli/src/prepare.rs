//! `licet migrate`, `licet topology`, `licet keys`: what stands before workers run.

use std::process::ExitCode;

use clap::Subcommand;
use licet_common::{config::Config, signing::folder, store::Store, transport::Transport};
use licet_schema::topology::{POLICIES, Policy, topology as declared};
use licet_workers::program::{Failure, block_on};
use serde_json::json;

use crate::report;

/// `licet topology …`
#[derive(Subcommand)]
pub(crate) enum Topology {
    /// Declare exchanges, queues and bindings; what is there already stays
    Apply,
    /// Say what is missing; exit code 1 if anything is
    Check,
    /// Print the limits that operators tune, as rabbitmqctl lines
    Policies {
        /// As a definitions file instead
        #[arg(long)]
        json: bool,
    },
}

/// `licet keys …`
#[derive(Subcommand)]
pub(crate) enum Keys {
    /// Create the folder and its first signing key
    New,
    /// Print the public keys as a JWKS
    Export,
}

pub(crate) fn migrate(config: &Config) -> Result<(), Failure> {
    let url = config.database_url()?;
    block_on(async {
        Store::open(url, 1).await?.migrate().await?;
        report::tell("The database is prepared.");
        Ok(())
    })
}

pub(crate) fn topology(config: &Config, command: &Topology) -> Result<ExitCode, Failure> {
    if let Topology::Policies { json } = command {
        report::tell(policies(*json));
        return Ok(ExitCode::SUCCESS);
    }
    let transport = Transport::rabbit(config.amqp_url()?)?;
    block_on(async {
        if matches!(command, Topology::Apply) {
            transport.apply(&declared()).await?;
            report::tell("The broker is prepared.");
            return Ok(ExitCode::SUCCESS);
        }
        let missing = transport.missing(&declared()).await?;
        for name in &missing {
            report::tell(format!("missing: {name}"));
        }
        if missing.is_empty() {
            report::tell("Every exchange and queue is there.");
            return Ok(ExitCode::SUCCESS);
        }
        Ok(ExitCode::FAILURE)
    })
}

fn policies(as_json: bool) -> String {
    let definition =
        |policy: &Policy| json!({"max-length": policy.max_length, "max-length-bytes": policy.max_length_bytes});
    if as_json {
        let policies: Vec<_> = POLICIES
            .iter()
            .map(|policy| {
                json!({"vhost": "/", "name": policy.name, "pattern": policy.pattern, "apply-to": "queues",
                       "priority": 0, "definition": definition(policy)})
            })
            .collect();
        return json!({"policies": policies}).to_string();
    }
    let lines = POLICIES.iter().map(|policy| {
        format!(
            "rabbitmqctl set_policy --apply-to queues {} '{}' '{}'",
            policy.name,
            policy.pattern,
            definition(policy)
        )
    });
    lines.collect::<Vec<_>>().join("\n")
}

pub(crate) fn keys(config: &Config, command: &Keys) -> Result<(), Failure> {
    let keyring = match command {
        Keys::New => folder::create(&config.keys)?,
        Keys::Export => folder::load(&config.keys)?,
    };
    match command {
        Keys::New => {
            report::tell(format!("{} signs from now on.", keyring.signing_kid().unwrap_or_default()));
        }
        Keys::Export => report::tell(serde_json::to_string_pretty(&keyring.jwks()).unwrap_or_default()),
    }
    Ok(())
}
