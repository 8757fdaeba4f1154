//! `licet topology`: prepares or checks the broker.

use std::{
    collections::BTreeSet,
    io::{read_to_string, stdin},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Subcommand};
use licet_common::{
    address::BrokerAddress,
    config::{
        CommandSettings,
        groups::{BROKER, LOG},
    },
    program::{Failure, block_on, configure},
    runtime::unrouted,
    transport::Transport,
};
use licet_schema::topology::{self, Binding, Policy, Topology};
use licet_workers::registry;
use serde_json::{Value, json};

use super::LOG_OF_TOOLS;
use crate::report;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Declare exchanges, queues and bindings, and remove obsolete bindings; others are kept
    Apply(Arguments),
    /// List missing exchanges, queues and bindings; exit code 1 if there are any
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
    /// Compare this list of all bindings, which also finds superfluous ones: the output of
    /// `rabbitmqctl -q list_bindings --formatter json`, or - for standard input [default: publish an
    /// empty message by each binding, which workers drop]
    #[arg(long, value_name = "FILE")]
    bindings: Option<PathBuf>,
    #[command(flatten)]
    settings: CommandSettings<{ BROKER | LOG }>,
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
    let transport = Transport::rabbit(&config.amqp_url()?)?;
    let listed = arguments.bindings.as_deref().map(read_bindings).transpose()?;
    block_on(async {
        let topology = registry::topology();
        let missing = transport.missing(&topology).await?;
        let mut problems: Vec<_> = missing.iter().map(|name| format!("missing: {name}")).collect();
        let tested = listed.is_some() || missing.is_empty();
        match &listed {
            Some(listed) => problems.extend(differences(&topology, listed)),
            None if tested => {
                let unrouted = unrouted(&transport, &topology).await?;
                problems.extend(unrouted.iter().map(|binding| format!("missing: {binding}")));
            }
            None => {}
        }
        problems.iter().for_each(report::print);
        if !tested {
            report::print("The bindings were not tested: run `licet topology apply`, and then this command again.");
        }
        if !problems.is_empty() {
            return Ok(ExitCode::FAILURE);
        }
        report::print(match listed {
            Some(_) => "All exchanges, queues and bindings exist, and there are no superfluous bindings.",
            None => "All exchanges and queues exist, and every binding routes to a queue.",
        });
        Ok(ExitCode::SUCCESS)
    })
}

/// The bindings between exchanges and queues in a list that `rabbitmqctl` or the management API of
/// RabbitMQ wrote.
fn read_bindings(path: &Path) -> Result<BTreeSet<Binding>, Failure> {
    let text = if path == Path::new("-") { read_to_string(stdin()) } else { std::fs::read_to_string(path) };
    let unusable = |reason: String| {
        Failure::Usage(format!(
            "the list of bindings {} cannot be read: {reason}. Write it with `rabbitmqctl -q list_bindings --formatter \
             json`",
            path.display()
        ))
    };
    let text = text.map_err(|error| unusable(error.to_string()))?;
    let rows: Vec<Value> = serde_json::from_str(&text).map_err(|error| unusable(error.to_string()))?;
    let to_queue = rows.iter().filter(|row| column(row, ["destination_kind", "destination_type"]) != Some("exchange"));
    to_queue.map(|row| binding(row).ok_or_else(|| unusable(format!("{row} is not a binding")))).collect()
}

/// A row of a list of bindings.
fn binding(row: &Value) -> Option<Binding> {
    Some(Binding {
        exchange: column(row, ["source_name", "source"])?.to_owned(),
        queue: column(row, ["destination_name", "destination"])?.to_owned(),
        key: row["routing_key"].as_str()?.to_owned(),
    })
}

/// A column by the name that `rabbitmqctl` gives it, or by that of the management API.
fn column<'a>(row: &'a Value, names: [&str; 2]) -> Option<&'a str> {
    names.iter().find_map(|name| row[*name].as_str())
}

/// The missing bindings, and the superfluous bindings of Licet's queues.
fn differences(topology: &Topology, listed: &BTreeSet<Binding>) -> Vec<String> {
    let expected: BTreeSet<_> = topology.bindings.iter().cloned().collect();
    // RabbitMQ itself binds every queue to the default exchange.
    let is_superfluous = |binding: &&Binding| {
        binding.exchange != topology::DEFAULT && topology.queues.iter().any(|queue| queue.name == binding.queue)
    };
    let missing = expected.difference(listed).map(|binding| format!("missing: {binding}"));
    let superfluous = listed.difference(&expected).filter(is_superfluous);
    missing.chain(superfluous.map(|binding| format!("superfluous: {binding}"))).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The list of both programs for a binding.
    fn rows(binding: &Binding) -> [Value; 2] {
        let Binding { exchange, queue, key } = binding;
        [
            json!({"source_name": exchange, "source_kind": "exchange", "destination_name": queue,
                   "destination_kind": "queue", "routing_key": key, "arguments": []}),
            json!({"source": exchange, "vhost": "/", "destination": queue, "destination_type": "queue",
                   "routing_key": key, "arguments": {}, "properties_key": key}),
        ]
    }

    #[test]
    fn a_list_of_bindings_shows_missing_and_superfluous_ones() {
        let topology = registry::topology();
        let mut bindings: BTreeSet<_> = topology.bindings.iter().cloned().collect();
        for known in &bindings {
            assert_eq!(rows(known).map(|row| binding(&row)), [Some(known.clone()), Some(known.clone())]);
        }
        let by_default = Binding { exchange: "".into(), queue: "licet.query".into(), key: "licet.query".into() };
        let foreign = Binding { exchange: topology::EVENTS.into(), queue: "loyalty".into(), key: "#".into() };
        bindings.extend([by_default, foreign]);
        assert_eq!(differences(&topology, &bindings), [""; 0]);

        bindings.remove(&topology.bindings[0]);
        bindings.insert(topology.obsolete[0].clone());
        let expected = [
            format!("missing: {}", topology.bindings[0]),
            "superfluous: binding of licet.instructed to licet.events by settlement.instructed".to_owned(),
        ];
        assert_eq!(differences(&topology, &bindings), expected);
    }
}
