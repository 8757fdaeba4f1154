//! From what was decided to what is on the broker: replies, events, dead letters, delayed copies.

use std::time::Duration;

use bytes::Bytes;
use licet_schema::{Format, Output, message::RequestRefused, topology};
use tracing::{debug, warn};
use uuid::Uuid;

use super::{
    batch::Settled,
    intake::{Reading, Unreadable, Work},
    stored::{self, StoredOutput},
};
use crate::{
    clock::Clock,
    transport::{Delivery, Lost, Outcome, Outgoing, Properties, Publisher},
};

/// The longest pause before what the broker refused is published again.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A message to publish, and what happens if the broker does not take it.
pub(super) enum Duty {
    /// A reply: counted and dropped, since it can be asked for again.
    Reply(Outgoing),
    /// Anything else: published again until it is confirmed.
    Must(Outgoing),
}

impl Duty {
    fn message(&self) -> &Outgoing {
        match self {
            Self::Reply(message) | Self::Must(message) => message,
        }
    }
}

/// What can be decided, and what is to be said of the rest.
pub(super) fn separate<I>(worker: &str, readings: Vec<Reading<I>>) -> (Vec<Work<I>>, Vec<Duty>) {
    let mut work = Vec::with_capacity(readings.len());
    let mut duties = Vec::new();
    for reading in readings {
        match reading {
            Reading::Work(one) => work.push(one),
            Reading::Unreadable(unreadable) => duties.extend(refuse(worker, unreadable)),
        }
    }
    (work, duties)
}

/// What cannot be read is answered, if anybody can be, and set aside with its reason.
fn refuse(worker: &str, unreadable: Unreadable) -> Vec<Duty> {
    let Unreadable { refusal, id, kind, answerable, delivery } = unreadable;
    let mut duties = Vec::new();
    if answerable && delivery.properties.reply_to.is_some() {
        let refused = Output::RequestRefused(RequestRefused {
            code: refusal.code,
            detail: refusal.detail.clone(),
            message_type: kind,
        });
        let format = Format::of(delivery.properties.content_type.as_deref()).unwrap_or(Format::Json);
        // Without a usable id of its own, the body tells one message from another.
        let namespace = id.unwrap_or_else(|| Uuid::new_v5(&Uuid::nil(), &delivery.body));
        let reply = stored::refusal(namespace, "reply:request.refused", format, Clock::System.now(), &refused);
        duties.extend(self::reply(&delivery, id, &reply).map(Duty::Reply));
    }
    duties.push(dead_letter(worker, &delivery, &refusal.to_string()));
    duties
}

/// Adds what a settled batch has to say.
pub(super) fn extend<I>(worker: &str, settled: Vec<Settled<I>>, duties: &mut Vec<Duty>) {
    for settled in settled {
        match settled {
            Settled::Decided(work, outputs) => {
                for output in outputs.iter() {
                    if output.reply {
                        duties.extend(reply(&work.delivery, Some(work.id), output).map(Duty::Reply));
                    } else {
                        duties.push(Duty::Must(event(work.id, output)));
                    }
                }
            }
            Settled::Failed(work, reason) => {
                let wait = topology::WAITS.get(work.attempt);
                warn!(worker, id = %work.id, attempt = work.attempt, "a {} failed: {reason}", work.kind);
                duties.push(match wait {
                    Some(wait) => delayed(worker, &work, wait),
                    None => dead_letter(worker, &work.delivery, &reason),
                });
            }
        }
    }
}

fn reply(delivery: &Delivery, input: Option<Uuid>, output: &StoredOutput) -> Option<Outgoing> {
    let reply_to = delivery.properties.reply_to.clone()?;
    let correlation_id = delivery.properties.correlation_id.clone().or_else(|| delivery.properties.message_id.clone());
    let mut message = event(input.unwrap_or_default(), output);
    message.exchange = topology::DEFAULT.to_owned();
    message.routing_key = reply_to;
    message.mandatory = true;
    message.properties.correlation_id = correlation_id;
    Some(message)
}

fn event(input: Uuid, output: &StoredOutput) -> Outgoing {
    Outgoing {
        exchange: topology::EVENTS.to_owned(),
        routing_key: output.kind.clone(),
        mandatory: false,
        properties: Properties {
            message_id: Some(output.message_id.to_string()),
            correlation_id: Some(input.to_string()),
            kind: Some(output.kind.clone()),
            content_type: Some(output.format().content_type().to_owned()),
            timestamp: u64::try_from(output.timestamp_s).ok(),
            app_id: Some(topology::APP_ID.to_owned()),
            headers: [(topology::HEADER_CAUSE.to_owned(), input.to_string())].into(),
            ..Properties::default()
        },
        body: Bytes::copy_from_slice(&output.body),
    }
}

/// A copy of an input for a queue of our own: never with `user_id` (the broker would refuse it
/// from us), `x-death` or `CC`.
fn copy(delivery: &Delivery, exchange: &str, key: &str, kind: String, headers: Vec<(&str, String)>) -> Outgoing {
    let mut kept = delivery.properties.headers.clone();
    kept.retain(|name, _| !name.starts_with("x-") && !matches!(name.as_str(), "CC" | "BCC"));
    kept.extend(headers.into_iter().map(|(name, value)| (name.to_owned(), value)));
    Outgoing {
        exchange: exchange.to_owned(),
        routing_key: key.to_owned(),
        mandatory: true,
        properties: Properties { user_id: None, kind: Some(kind), headers: kept, ..delivery.properties.clone() },
        body: delivery.body.clone(),
    }
}

fn delayed<I>(worker: &str, work: &Work<I>, wait: &topology::Wait) -> Duty {
    let mut headers = vec![(topology::HEADER_ATTEMPT, (work.attempt + 1).to_string())];
    headers.extend(work.sender.clone().map(|sender| (topology::HEADER_SENDER, sender)));
    let queue = topology::work_queue(worker);
    Duty::Must(copy(&work.delivery, &wait.queue(), &queue, work.kind.clone(), headers))
}

fn dead_letter(worker: &str, delivery: &Delivery, reason: &str) -> Duty {
    let kind = delivery.properties.kind.clone().unwrap_or_else(|| delivery.routing_key.clone());
    let headers = vec![(topology::HEADER_REASON, reason.to_owned())];
    Duty::Must(copy(delivery, topology::DEFAULT, &topology::dead_queue(worker), kind, headers))
}

/// Publishes all, and again what must arrive, until it is confirmed. Says how many replies nobody
/// took.
///
/// # Errors
/// The connection is gone, or says nothing.
pub(super) async fn deliver(publisher: &Publisher, duties: Vec<Duty>, patience: Duration) -> Result<u64, Lost> {
    let mut dropped = 0;
    let mut left: Vec<Duty> = duties;
    let mut pause = Duration::from_millis(50);
    while !left.is_empty() {
        let messages: Vec<_> = left.iter().map(|duty| duty.message().clone()).collect();
        let outcomes = publisher.publish(&messages, patience).await?;
        let mut again = Vec::new();
        for (duty, outcome) in left.into_iter().zip(outcomes) {
            match (duty, outcome) {
                (_, Outcome::Confirmed) => {}
                (Duty::Reply(message), outcome) => {
                    dropped += 1;
                    debug!(to = message.routing_key, ?outcome, "a reply was not taken");
                }
                (Duty::Must(_), Outcome::Unconfirmed) => return Err(Lost("it confirms nothing".into())),
                (duty @ Duty::Must(_), Outcome::Refused | Outcome::Returned) => again.push(duty),
            }
        }
        left = again;
        if let Some(duty) = left.first() {
            warn!(to = duty.message().routing_key, "the broker does not take {} messages: trying again", left.len());
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
    Ok(dropped)
}
