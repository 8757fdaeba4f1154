//! `licet topology`: prepares or checks the broker.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use licet_common::{
    address::BrokerAddress,
    config::{
        CommandSettings,
        groups::{BROKER, LOG, MANAGEMENT},
    },
    program::{Failure, block_on, configure},
    transport::Transport,
};
use licet_operator::installation::{Findings, check_broker};
use licet_schema::topology::Policy;
use licet_workers::registry;
use serde_json::json;

use super::LOG_OF_TOOLS;
use crate::report;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Declare exchanges, queues and bindings, and remove obsolete bindings; others are kept
    Apply(Arguments),
    /// List the problems of the broker, using its management API; exit code 1 if there are any
    Check(Check),
    /// Print the default queue limits as rabbitmqctl commands
    Policies {
        /// Print a definitions file instead
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        settings: CommandSettings<{ BROKER | LOG }>,
    },
}

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    settings: CommandSettings<{ BROKER | LOG }>,
}

#[derive(Args)]
pub(crate) struct Check {
    #[command(flatten)]
    settings: CommandSettings<{ BROKER | MANAGEMENT | LOG }>,
}

pub(crate) fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Apply(arguments) => apply(arguments),
        Command::Check(arguments) => check(arguments),
        Command::Policies { json, settings } => {
            let config = configure(settings, LOG_OF_TOOLS)?;
            let virtual_host = match config.has_amqp_url() {
                true => BrokerAddress::parse(&config.amqp_url()?).map_err(Failure::work)?.virtual_host().to_owned(),
                false => "/".to_owned(),
            };
            report::print(policies(json, &virtual_host));
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn apply(arguments: Arguments) -> Result<ExitCode, Failure> {
    let config = configure(arguments.settings, LOG_OF_TOOLS)?;
    let transport = Transport::rabbit(&config.amqp_url()?)?;
    block_on(async {
        transport.apply(&registry::topology()).await?;
        report::print("The exchanges, queues and bindings are declared. Obsolete bindings are removed.");
        Ok(ExitCode::SUCCESS)
    })
}

fn check(arguments: Check) -> Result<ExitCode, Failure> {
    let config = configure(arguments.settings, LOG_OF_TOOLS)?;
    let (amqp_url, management_url) = (config.amqp_url()?, config.management_url()?);
    block_on(async {
        let found = check_broker(&amqp_url, management_url.as_ref(), &registry::topology()).await;
        let Findings { problems, unchecked } = found.map_err(Failure::work)?;
        problems.iter().chain(&unchecked).for_each(report::print);
        if !problems.is_empty() {
            return Ok(ExitCode::FAILURE);
        }
        report::print(
            "All exchanges, queues and bindings are as they should be, and there are no superfluous bindings.",
        );
        Ok(ExitCode::SUCCESS)
    })
}

fn policies(as_json: bool, virtual_host: &str) -> String {
    let definition =
        |policy: &Policy| json!({"max-length": policy.max_length, "max-length-bytes": policy.max_length_bytes});
    let policies = registry::policies();
    if as_json {
        let entry = |policy: &Policy| {
            json!({"vhost": virtual_host, "name": policy.name, "pattern": policy.pattern, "apply-to": "queues",
                   "priority": 0, "definition": definition(policy)})
        };
        return json!({"policies": policies.iter().map(entry).collect::<Vec<_>>()}).to_string();
    }
    let command = |policy: &Policy| {
        let Policy { name, pattern, .. } = policy;
        let vhost = match virtual_host {
            "/" => String::new(),
            name => format!("-p '{}' ", name.replace('\'', r"'\''")),
        };
        format!("rabbitmqctl set_policy {vhost}--apply-to queues {name} '{pattern}' '{}'", definition(policy))
    };
    policies.iter().map(command).collect::<Vec<_>>().join("\n")
}
