//! The upstream systems: they publish the messages of a history, some of them twice, and receive
//! replies, events and instructions.

use std::{collections::BTreeSet, time::Duration};

use licet_common::transport::{Consumer, Delivery, Outgoing, Properties, Transport};
use licet_schema::{Output, Request, encoding::CONTENT_TYPE, topology};
use uuid::Uuid;

use crate::histories::{player::Player, script::Step};

/// The maximum number of deliveries that are received at once.
const DELIVERIES_MAX: usize = 1000;

/// A message that the broker accepted.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) id: Uuid,
    pub(super) request: Request,
}

/// Where a delivery was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// From the queue of instructions.
    Instructions,
    /// From the queue of replies.
    Replies,
    /// From the exchange of events.
    Events,
}

/// All upstream systems.
pub(super) struct Upstream {
    transport: Transport,
    pub(super) player: Player,
    pub(super) sent: Vec<Sent>,
    replies: (String, Consumer),
    events: (String, Consumer),
    instructions: (String, Consumer),
    /// The message ids of the replies that were recorded. A repeated reply contains nothing new.
    recorded: BTreeSet<Option<String>>,
}

impl Upstream {
    pub(super) async fn new(transport: Transport) -> Result<Self, String> {
        let subscribe = async |bindings: &[(&str, &str)]| {
            transport.subscribe(bindings).await.map_err(|lost| format!("the upstream systems cannot subscribe: {lost}"))
        };
        let (replies, events) = (subscribe(&[]).await?, subscribe(&[(topology::EVENTS, "#")]).await?);
        let consumer = transport.consume(topology::INSTRUCTED, u16::MAX).await.map_err(|lost| lost.to_string())?;
        let instructions = (topology::INSTRUCTED.to_owned(), consumer);
        let (player, sent, recorded) = (Player::new(), Vec::new(), BTreeSet::new());
        Ok(Self { transport, player, sent, replies, events, instructions, recorded })
    }

    /// Plays a step of the history. Returns a description of the message that was sent.
    pub(super) async fn step(&mut self, step: &Step) -> Result<Option<String>, String> {
        let request = match step {
            Step::Wait(wait) => {
                self.player.system.fixture.now_ms = self.player.time(*wait, true);
                return Ok(None);
            }
            // The workers and the model have this setting from the start.
            Step::RequireUniqueReferences => return Ok(None),
            Step::SendAgain { of, same_id } => match of.of(&self.sent).cloned() {
                None => return Ok(None),
                Some(sent) if *same_id => return self.publish(&sent).await.map(Some),
                Some(sent) => sent.request,
            },
            other => self.player.request(other),
        };
        // An inconsistent message becomes a dead letter. Only random histories contain such
        // messages.
        if request.check().is_err() {
            return Ok(None);
        }
        self.send(request).await.map(Some)
    }

    /// Publishes a message under a new id.
    pub(super) async fn send(&mut self, request: Request) -> Result<String, String> {
        let id = Uuid::from_u128(self.sent.len() as u128 + 1);
        let sent = Sent { id, request };
        self.sent.push(sent.clone());
        self.publish(&sent).await
    }

    pub(super) async fn publish(&self, sent: &Sent) -> Result<String, String> {
        let body = sent.request.encode().map_err(|error| error.to_string())?;
        let message = Outgoing {
            exchange: topology::IN.to_owned(),
            routing_key: sent.request.kind().to_owned(),
            mandatory: true,
            properties: Properties {
                message_id: Some(sent.id.to_string()),
                reply_to: Some(self.replies.0.clone()),
                content_type: Some(CONTENT_TYPE.to_owned()),
                ..Properties::default()
            },
            body: body.into(),
        };
        let publisher = self.transport.publisher().await.map_err(|lost| lost.to_string())?;
        publisher.publish(&[message], Duration::ZERO).await.map_err(|lost| lost.to_string())?;
        Ok(format!("{} {}", sent.id.as_u128(), sent.request.kind()))
    }

    /// Receives new deliveries: instructions, then replies, then events. Records the replies.
    pub(super) async fn receive(&mut self) -> Result<Vec<(Source, Delivery)>, String> {
        let mut received = Vec::new();
        for (source, (name, consumer)) in [
            (Source::Instructions, &mut self.instructions),
            (Source::Replies, &mut self.replies),
            (Source::Events, &mut self.events),
        ] {
            while self.transport.depth(name).await.map_err(|lost| lost.to_string())? > 0 {
                let batch = consumer.receive(DELIVERIES_MAX, usize::MAX).await.map_err(|lost| lost.to_string())?;
                if let Some(last) = batch.last().filter(|_| source == Source::Instructions) {
                    consumer.ack_through(last.tag).await.map_err(|lost| lost.to_string())?;
                }
                received.extend(batch.into_iter().map(|delivery| (source, delivery)));
            }
        }
        for (_, delivery) in received.iter().filter(|(source, _)| *source == Source::Replies) {
            let kind = delivery.properties.kind.as_deref().unwrap_or_default();
            let reply = Output::decode(kind, &delivery.body).map_err(|error| error.to_string())?;
            if self.recorded.insert(delivery.properties.message_id.clone()) {
                self.player.record(&reply);
            }
        }
        Ok(received)
    }
}
