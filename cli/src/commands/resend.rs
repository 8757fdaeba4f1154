//! `licet resend`: publishes instructions and other events from the journal again.

use std::process::ExitCode;

use clap::{Args, builder::PossibleValuesParser};
use licet_common::{
    config::{
        CommandSettings,
        groups::{BROKER, DATABASE, LOG},
    },
    program::{Failure, block_on, configure},
    store::Store,
    transport::Transport,
};
use licet_operator::resend::{Selection, Stored, outputs, resend};
use licet_schema::{Output, topology};
use serde_json::{Value, json};
use uuid::Uuid;

use super::LOG_OF_TOOLS;
use crate::report;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Publish the events that this message caused
    #[arg(long, value_name = "ID", required_unless_present_any = ["certificate", "license_return"])]
    message: Option<Uuid>,
    /// Publish the events about the purchase of this certificate or container
    #[arg(long, value_name = "ID", conflicts_with = "message")]
    certificate: Option<Uuid>,
    /// Publish the events that name this return
    #[arg(long = "return", value_name = "ID", conflicts_with_all = ["message", "certificate"])]
    license_return: Option<Uuid>,
    /// Publish only events of this type, such as settlement.instructed
    #[arg(long = "type", value_name = "TYPE", hide_possible_values = true,
          value_parser = PossibleValuesParser::new(Output::KINDS))]
    kind: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: CommandSettings<{ BROKER | DATABASE | LOG }>,
}

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let selection = match (arguments.message, arguments.certificate, arguments.license_return) {
        (Some(id), _, _) => Selection::Message(id),
        (None, Some(id), _) => Selection::Certificate(id),
        (None, None, Some(id)) => Selection::Return(id),
        (None, None, None) => {
            return Err(Failure::Usage("select events with --message, --certificate or --return".into()));
        }
    };
    let config = configure(arguments.settings, LOG_OF_TOOLS)?;
    let transport = Transport::rabbit(&config.amqp_url()?)?;
    block_on(async {
        let store = Store::open(&config.database_url()?, 1).await?;
        store.check(false).await?;
        let selected = outputs(&store, selection, arguments.kind.as_deref()).await.map_err(Failure::work)?;
        if selected.is_empty() {
            return Err(Failure::Work(nothing(arguments.kind.as_deref())));
        }
        resend(&transport, &selected).await.map_err(Failure::work)?;
        if arguments.json {
            report::print(json!({"resent": selected.iter().map(as_json).collect::<Vec<_>>()}));
        } else {
            selected.iter().for_each(|one| report::print(line(one)));
            report::print(match selected.len() {
                1 => "1 event was published again.".to_owned(),
                count => format!("{count} events were published again."),
            });
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn nothing(kind: Option<&str>) -> String {
    let kind = kind.map_or("events".to_owned(), |kind| format!("events of the type {kind}"));
    format!("the journal has no such {kind}: to get a reply again, send its request again under the same message_id")
}

fn as_json(one: &Stored) -> Value {
    let Stored { cause, output } = one;
    json!({"message_id": output.message_id, "type": output.kind, "cause": cause,
           "queue": topology::queue_of(&output.kind)})
}

fn line(one: &Stored) -> String {
    let Stored { cause, output } = one;
    format!("{}  {}  caused by {cause}", output.message_id, output.kind)
}
