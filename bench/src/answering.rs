//! The ceiling: workers that only answer. They take batches from the same queues, publish the same
//! number of outputs of the same sizes with the same properties, wait for the confirms and
//! acknowledge many at once; they verify nothing, keep nothing and sign nothing.
//!
//! What they answer is what Licet answered when one lifecycle was played in this process.

use std::{collections::HashMap, path::Path, process::ExitCode, sync::Arc, time::Duration};

use bytes::Bytes;
use licet_client::{
    Lost, Transport,
    schema::{entity::journal, topology},
};
use licet_common::{
    config::Config,
    runtime::{StoredOutput, outputs_of},
    transport::{Delivery, Outcome, Outgoing, Properties},
};
use licet_workers::program::{Failure, block_on, stop_signal};
use sea_orm::EntityTrait;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    cpu::Meter,
    embedded::Embedded,
    load::{self, Pace, Plan},
};

const PATIENCE: Duration = Duration::from_secs(10);

/// The outputs of a lifecycle, by the type of the message that they answer.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Answers(HashMap<String, Answer>);

#[derive(Serialize, Deserialize)]
struct Answer {
    outputs: Vec<StoredOutput>,
    /// How long they are in a journal row.
    journal_bytes: usize,
}

impl Answers {
    /// Plays one lifecycle, with its return, in this process.
    ///
    /// # Errors
    /// It does not come to its end.
    pub(super) async fn of_a_lifecycle(config: &Config) -> Result<Self, Failure> {
        let embedded = Embedded::start(config).await?;
        let plan = Plan {
            pace: Pace::Closed(1),
            warm_up: Duration::ZERO,
            measured: Duration::ZERO,
            returns: true,
            random_ids: false,
            partitioned: false,
        };
        load::drive(&embedded.machine.transport, plan, &Meter::of_driver()).await?;
        let rows = journal::Entity::find().all(&embedded.machine.store.reader()).await;
        let rows = rows.map_err(|error| Failure::Work(error.to_string()))?;
        let answers = rows.iter().map(|row| {
            let outputs = outputs_of(row).map_err(Failure::Work)?;
            Ok::<_, Failure>((row.kind.clone(), Answer { outputs, journal_bytes: row.outputs.len() }))
        });
        let answers = answers.collect::<Result<_, Failure>>()?;
        embedded.stop().await;
        Ok(Self(answers))
    }

    pub(super) fn write(&self, file: &Path) -> Result<(), Failure> {
        let text = serde_json::to_vec(self).map_err(|error| Failure::Work(error.to_string()))?;
        Ok(std::fs::write(file, text)?)
    }

    fn read(file: &Path) -> Result<Self, Failure> {
        let text = std::fs::read(file)?;
        serde_json::from_slice(&text).map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))
    }

    /// How long the outputs of a message of this type are in a journal row.
    pub(super) fn journal_bytes(&self, kind: &str) -> usize {
        self.0.get(kind).map_or(0, |answer| answer.journal_bytes)
    }
}

/// The program of such a worker: takes from this queue until it is told to stop.
///
/// # Errors
/// The broker is away.
pub(super) fn answer(config: &Config, queue: &str, answers: &Path) -> Result<ExitCode, Failure> {
    let templates = Templates::new(&Answers::read(answers)?);
    let transport = Transport::rabbit(config.amqp_url()?)?;
    block_on(async {
        let stop = stop_signal()?;
        let serving = serve(&transport, queue, &templates);
        match stop.run_until_cancelled(serving).await {
            Some(Err(lost)) => Err(lost.into()),
            _ => Ok(ExitCode::SUCCESS),
        }
    })
}

async fn serve(transport: &Transport, queue: &str, templates: &Templates) -> Result<(), Lost> {
    let publisher = transport.publisher().await?;
    let mut consumer = transport.consume(queue, 512).await?;
    loop {
        let deliveries = consumer.receive(256, 4 << 20).await?;
        let Some(last) = deliveries.last().map(|delivery| delivery.tag) else { continue };
        let outgoing: Vec<_> = deliveries.iter().flat_map(|delivery| templates.outgoing(delivery)).collect();
        let outcomes = publisher.publish(&outgoing, PATIENCE).await?;
        if outcomes.contains(&Outcome::Refused) || outcomes.contains(&Outcome::Unconfirmed) {
            return Err(Lost("it did not confirm".into()));
        }
        consumer.ack_through(last).await?;
    }
}

/// What is published for each type of message.
struct Templates(HashMap<String, Vec<(bool, Arc<Outgoing>)>>);

impl Templates {
    fn new(answers: &Answers) -> Self {
        let of_type = |answer: &Answer| answer.outputs.iter().map(template).collect();
        Self(answers.0.iter().map(|(kind, answer)| (kind.clone(), of_type(answer))).collect())
    }

    fn outgoing(&self, delivery: &Delivery) -> impl Iterator<Item = Outgoing> {
        let asked = delivery.properties.clone();
        let templates = self.0.get(&delivery.routing_key).map(Vec::as_slice).unwrap_or_default();
        templates.iter().filter_map(move |(reply, template)| {
            let mut message = Outgoing::clone(template);
            if *reply {
                message.routing_key = asked.reply_to.clone()?;
            }
            message.properties.message_id = Some(Uuid::now_v7().to_string());
            message.properties.correlation_id = asked.message_id.clone();
            message.properties.headers =
                asked.message_id.iter().map(|id| (topology::HEADER_CAUSE.to_owned(), id.clone())).collect();
            Some(message)
        })
    }
}

fn template(output: &StoredOutput) -> (bool, Arc<Outgoing>) {
    let exchange = if output.reply { topology::DEFAULT } else { topology::exchange_of(&output.kind) };
    let message = Outgoing {
        exchange: exchange.to_owned(),
        routing_key: output.kind.clone(),
        mandatory: output.reply || exchange == topology::IN,
        properties: Properties {
            kind: Some(output.kind.clone()),
            content_type: Some(output.format().content_type().to_owned()),
            timestamp: u64::try_from(output.timestamp_s).ok(),
            app_id: Some(topology::APP_ID.to_owned()),
            ..Properties::default()
        },
        body: Bytes::from(output.body.clone()),
    };
    (output.reply, Arc::new(message))
}
