//! The ceiling: workers that only answer. They take batches from the same queues as the real
//! workers. They publish the same number of outputs with the same sizes and properties, wait for
//! the confirms, and acknowledge many messages at once. They verify, store and sign nothing.
//!
//! Their answers are the outputs that Licet produced for one lifecycle in this process, so the
//! number and the sizes of the messages cannot differ.

use std::{collections::HashMap, path::Path, process::ExitCode, sync::Arc, time::Duration};

use bytes::Bytes;
use licet_client::{
    Lost, Transport,
    schema::{encoding::CONTENT_TYPE, entity::journal, topology},
};
use licet_common::{
    config::Config,
    program::{Failure, block_on, stop_signal},
    runtime::{StoredOutput, outputs_of},
    transport::{Delivery, Outcome, Outgoing, Properties},
};
use sea_orm::EntityTrait;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    cpu::Meter,
    embedded::Embedded,
    load::{self, Pace, Plan},
};

/// The timeout for the confirms of a batch.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);

/// The outputs of a lifecycle, by the type of the message that they answer.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Answers(HashMap<String, Answer>);

#[derive(Serialize, Deserialize)]
struct Answer {
    outputs: Vec<StoredOutput>,
    /// The size of the outputs in the journal row.
    journal_bytes: usize,
}

impl Answers {
    /// Runs one lifecycle with a return in this process, and records its outputs.
    ///
    /// # Errors
    /// The lifecycle does not complete.
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
        load::drive(&embedded.resources.transport, plan, &Meter::of_driver()).await?;
        let rows = journal::Entity::find().all(&embedded.resources.store.pool()).await.map_err(Failure::work)?;
        let answers = rows.iter().map(|row| {
            let outputs = outputs_of(row).map_err(Failure::work)?;
            Ok::<_, Failure>((row.kind.clone(), Answer { outputs, journal_bytes: row.outputs.len() }))
        });
        let answers = answers.collect::<Result<_, Failure>>()?;
        embedded.stop().await;
        Ok(Self(answers))
    }

    pub(super) fn write(&self, file: &Path) -> Result<(), Failure> {
        let text = serde_json::to_vec(self).map_err(Failure::work)?;
        Ok(std::fs::write(file, text)?)
    }

    fn read(file: &Path) -> Result<Self, Failure> {
        let text = std::fs::read(file)?;
        serde_json::from_slice(&text).map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))
    }

    /// The size of the outputs in the journal row of a message of this type.
    ///
    /// # Errors
    /// A lifecycle has no message of this type.
    pub(super) fn journal_bytes(&self, kind: &str) -> Result<usize, Failure> {
        let answer = self.0.get(kind).map(|answer| answer.journal_bytes);
        answer.ok_or_else(|| Failure::Work(format!("the lifecycle has no journal row of {kind}")))
    }
}

/// Runs a worker that only answers the messages of this queue, until it is asked to stop.
///
/// # Errors
/// The broker is unavailable.
pub(super) fn answer(config: &Config, queue: &str, answers: &Path) -> Result<ExitCode, Failure> {
    let templates = Templates::new(&Answers::read(answers)?);
    let transport = Transport::rabbit(&config.amqp_url()?)?;
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
        let outcomes = publisher.publish(&outgoing, CONFIRM_TIMEOUT).await?;
        if outcomes.contains(&Outcome::Refused) || outcomes.contains(&Outcome::Unconfirmed) {
            return Err(Lost::Unavailable("the broker did not confirm an output".into()));
        }
        consumer.ack_through(last).await?;
    }
}

/// The outputs to publish for each message type, and whether each of them is a reply.
struct Templates(HashMap<String, Vec<(bool, Arc<Outgoing>)>>);

impl Templates {
    fn new(answers: &Answers) -> Self {
        let of_type = |answer: &Answer| answer.outputs.iter().flat_map(templates).collect();
        Self(answers.0.iter().map(|(kind, answer)| (kind.clone(), of_type(answer))).collect())
    }

    fn outgoing(&self, delivery: &Delivery) -> impl Iterator<Item = Outgoing> {
        let request = delivery.properties.clone();
        let templates = self.0.get(&delivery.routing_key).map(Vec::as_slice).unwrap_or_default();
        templates.iter().filter_map(move |(reply, template)| {
            let mut message = Outgoing::clone(template);
            if *reply {
                message.routing_key = request.reply_to.clone()?;
            }
            message.properties.message_id = Some(Uuid::now_v7().to_string());
            message.properties.correlation_id = request.message_id.clone();
            message.properties.headers =
                request.message_id.iter().map(|id| (topology::HEADER_CAUSE.to_owned(), id.clone())).collect();
            Some(message)
        })
    }
}

fn templates(output: &StoredOutput) -> impl Iterator<Item = (bool, Arc<Outgoing>)> {
    let exchange = if output.reply { topology::DEFAULT } else { topology::exchange_of(&output.kind) };
    let message = Outgoing {
        exchange: exchange.to_owned(),
        routing_key: output.kind.clone(),
        mandatory: output.reply || exchange == topology::IN,
        properties: Properties {
            kind: Some(output.kind.clone()),
            content_type: Some(CONTENT_TYPE.to_owned()),
            timestamp: u64::try_from(output.timestamp_s).ok(),
            app_id: Some(topology::APP_ID.to_owned()),
            ..Properties::default()
        },
        body: Bytes::from(output.body.clone()),
    };
    let queue = topology::queue_of(&output.kind).filter(|_| !output.reply);
    let to_queue = queue.map(|queue| Outgoing {
        exchange: topology::DEFAULT.to_owned(),
        routing_key: queue.to_owned(),
        mandatory: true,
        ..message.clone()
    });
    let reply = output.reply;
    to_queue.into_iter().chain([message]).map(move |message| (reply, Arc::new(message)))
}
