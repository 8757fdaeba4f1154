//! `licet topology`: prepares or checks the broker.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use licet_common::{
    config::{
        CommandSettings,
        groups::{BROKER, LOG},
    },
    program::{Failure, block_on, configure},
    transport::Transport,
};
use licet_schema::topology::Policy;
use licet_workers::registry;
use serde_json::json;

use super::LOG_OF_TOOLS;
use crate::report;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Declare exchanges, queues and bindings; existing ones are kept
    Apply(Arguments),
    /// List missing exchanges and queues; exit code 1 if there are any
    Check(Arguments),
    /// Print the default queue limits as rabbitmqctl commands
    Policies {
        /// Print a definitions file instead
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    settings: CommandSettings<{ BROKER | LOG }>,
}

pub(crate) fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Apply(arguments) => apply(arguments),
        Command::Check(arguments) => check(arguments),
        Command::Policies { json } => {
            report::print(policies(json));
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn apply(arguments: Arguments) -> Result<ExitCode, Failure> {
    let config = configure(arguments.settings, LOG_OF_TOOLS)?;
    let transport = Transport::rabbit(config.amqp_url()?)?;
    block_on(async {
        transport.apply(&registry::topology()).await?;
        report::print("The exchanges, queues and bindings are declared.");
        Ok(ExitCode::SUCCESS)
    })
}

fn check(arguments: Arguments) -> Result<ExitCode, Failure> {
    let config = configure(arguments.settings, LOG_OF_TOOLS)?;
    let transport = Transport::rabbit(config.amqp_url()?)?;
    block_on(async {
        let missing = transport.missing(&registry::topology()).await?;
        if missing.is_empty() {
            report::print("All exchanges and queues exist.");
            return Ok(ExitCode::SUCCESS);
        }
        for name in &missing {
            report::print(format!("missing: {name}"));
        }
        Ok(ExitCode::FAILURE)
    })
}

fn policies(as_json: bool) -> String {
    let definition =
        |policy: &Policy| json!({"max-length": policy.max_length, "max-length-bytes": policy.max_length_bytes});
    let policies = registry::policies();
    if as_json {
        let entry = |policy: &Policy| {
            json!({"vhost": "/", "name": policy.name, "pattern": policy.pattern, "apply-to": "queues",
                   "priority": 0, "definition": definition(policy)})
        };
        return json!({"policies": policies.iter().map(entry).collect::<Vec<_>>()}).to_string();
    }
    let command = |policy: &Policy| {
        let Policy { name, pattern, .. } = policy;
        format!("rabbitmqctl set_policy --apply-to queues {name} '{pattern}' '{}'", definition(policy))
    };
    policies.iter().map(command).collect::<Vec<_>>().join("\n")
}
