//! The upstreams: they publish the messages of a history, some of them twice, and listen.

use std::{collections::BTreeSet, time::Duration};

use licet_common::transport::{Consumer, Delivery, Outgoing, Properties, Transport};
use licet_schema::{Format, Output, Request, topology};
use uuid::Uuid;

use super::super::{player::Player, script::Step};

/// How many deliveries are taken at once.
const MANY: usize = 1000;

/// A message that the broker took.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) id: Uuid,
    pub(super) request: Request,
}

/// Everybody outside.
pub(super) struct Upstream {
    transport: Transport,
    pub(super) player: Player,
    pub(super) sent: Vec<Sent>,
    replies: (String, Consumer),
    events: (String, Consumer),
    /// The replies that were learnt from: the same again says nothing new.
    learnt: BTreeSet<Option<String>>,
}

impl Upstream {
    pub(super) async fn new(transport: Transport) -> Result<Self, String> {
        let listen = async |bindings: &[(&str, &str)]| {
            transport.subscribe(bindings).await.map_err(|lost| format!("nobody can listen: {lost}"))
        };
        let (replies, events) = (listen(&[]).await?, listen(&[(topology::EVENTS, "#")]).await?);
        Ok(Self { transport, player: Player::new(), sent: Vec::new(), replies, events, learnt: BTreeSet::new() })
    }

    /// Does what a step of the history says. Says what was sent.
    pub(super) async fn step(&mut self, step: &Step) -> Result<Option<String>, String> {
        let request = match step {
            Step::Wait(wait) => {
                let now_ms = self.player.world.stage.now_ms;
                // A clock that is set back is the histories' affair: the auditor compares times.
                self.player.world.stage.now_ms = self.player.time(*wait, true).max(now_ms);
                return Ok(None);
            }
            Step::Again { of, same_id } => match of.of(&self.sent).cloned() {
                None => return Ok(None),
                Some(sent) if *same_id => return self.publish(&sent).await.map(Some),
                Some(sent) => sent.request,
            },
            other => self.player.request(other),
        };
        // What cannot be read becomes a dead letter, and nothing else: that is the histories' affair.
        if request.check().is_err() {
            return Ok(None);
        }
        self.send(request).await.map(Some)
    }

    /// Publishes a message under a new id.
    pub(super) async fn send(&mut self, request: Request) -> Result<String, String> {
        let id = Uuid::from_u128(self.sent.len() as u128 + 1);
        self.sent.push(Sent { id, request });
        let sent = self.sent[self.sent.len() - 1].clone();
        self.publish(&sent).await
    }

    pub(super) async fn publish(&self, sent: &Sent) -> Result<String, String> {
        let body = sent.request.encode(Format::Json).map_err(|error| error.to_string())?;
        let message = Outgoing {
            exchange: topology::IN.to_owned(),
            routing_key: sent.request.kind().to_owned(),
            mandatory: true,
            properties: Properties {
                message_id: Some(sent.id.to_string()),
                reply_to: Some(self.replies.0.clone()),
                content_type: Some(Format::Json.content_type().to_owned()),
                ..Properties::default()
            },
            body: body.into(),
        };
        let publisher = self.transport.publisher().await.map_err(|lost| lost.to_string())?;
        publisher.publish(&[message], Duration::ZERO).await.map_err(|lost| lost.to_string())?;
        Ok(format!("{} {}", sent.id.as_u128(), sent.request.kind()))
    }

    /// What has come since: replies, then events. Replies are learnt from.
    pub(super) async fn hear(&mut self) -> Result<Vec<(bool, Delivery)>, String> {
        let mut heard = Vec::new();
        for (reply, (name, consumer)) in [(true, &mut self.replies), (false, &mut self.events)] {
            while self.transport.depth(name).await.map_err(|lost| lost.to_string())? > 0 {
                let taken = consumer.receive(MANY, usize::MAX).await.map_err(|lost| lost.to_string())?;
                heard.extend(taken.into_iter().map(|delivery| (reply, delivery)));
            }
        }
        for (_, delivery) in heard.iter().filter(|(reply, _)| *reply) {
            let kind = delivery.properties.kind.as_deref().unwrap_or_default();
            let reply = Output::decode(kind, Format::Json, &delivery.body).map_err(|error| error.to_string())?;
            if self.learnt.insert(delivery.properties.message_id.clone()) {
                self.player.learn(&reply);
            }
        }
        Ok(heard)
    }
}
