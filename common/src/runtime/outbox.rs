//! Publishes the results of decisions: replies, events, and copies of messages that failed.
//!
//! An output that a certain queue must store ([`topology::queue_of`]) is published to that queue
//! first. No other output is published before the queue has confirmed it, so a reply never mentions
//! an output that is not stored.

use std::{borrow::Borrow, time::Duration};

use bytes::Bytes;
use licet_schema::{Code, Output, Refusal, Timestamp, encoding, message::RequestRefused, topology};
use tracing::{debug, error, warn};
use uuid::Uuid;

use super::{
    Resources,
    backoff::Backoff,
    batch::{MessageError, Settled},
    ignored_log::IgnoredLog,
    intake::{Reading, Rejected, Work, is_oversized},
    journal::{self, StoredOutput},
    metrics::Metrics,
    retry_headers::{self, Failure},
};
use crate::clock::Clock;
use crate::transport::{Delivery, Lost, Outcome, Outgoing, Properties, Publisher, Transport};

/// A message to publish. The variant determines what happens if the broker does not accept it.
pub(super) enum Publication {
    /// A reply. If the broker does not accept it, it is counted and dropped, because the sender can
    /// repeat the request.
    Reply(Outgoing),
    /// The copy of an output for the queue that must store it. It is published again until it is
    /// confirmed, and before all other messages.
    Stored(Outgoing),
    /// Any other message. It is published again until it is confirmed.
    Guaranteed(Outgoing),
}

impl Borrow<Outgoing> for Publication {
    fn borrow(&self) -> &Outgoing {
        match self {
            Self::Reply(message) | Self::Stored(message) | Self::Guaranteed(message) => message,
        }
    }
}

/// Returns the messages that can be decided, and the publications for the other messages.
pub(super) fn separate(
    worker: &str,
    readings: Vec<Reading>,
    now: Timestamp,
    metrics: &Metrics,
    ignored: &IgnoredLog,
) -> (Vec<Work>, Vec<Publication>) {
    let mut work = Vec::with_capacity(readings.len());
    let mut publications = Vec::new();
    for reading in readings {
        match reading {
            Reading::Work(one) => {
                if let Err(refusal) = &one.input
                    && refusal.code == Code::Forbidden
                    && one.delivery.properties.reply_to.is_none()
                {
                    unanswered(worker, refusal, now, metrics, ignored);
                }
                work.push(one);
            }
            Reading::Rejected(rejected) => {
                metrics.dead_letters.add(1);
                metrics.panics.add(u64::from(rejected.panicked));
                publications.extend(refuse(worker, rejected, now));
            }
            Reading::Forbidden(rejected) => match refusal_reply(worker, &rejected, now) {
                Some(reply) => publications.push(reply),
                None => unanswered(worker, &rejected.refusal, now, metrics, ignored),
            },
        }
    }
    (work, publications)
}

/// Counts and logs a message that its sender may not send and that cannot be answered.
fn unanswered(worker: &str, refusal: &Refusal, now: Timestamp, metrics: &Metrics, ignored: &IgnoredLog) {
    metrics.ignored.add(1);
    if let Some(count) = ignored.count(now) {
        warn!(
            worker,
            count, "forbidden messages without a usable reply_to: the last was refused because {}", refusal.detail
        );
    }
}

/// Refuses a message that cannot be read. It becomes a dead letter, and its sender gets a reply if
/// possible.
fn refuse(worker: &str, rejected: Rejected, now: Timestamp) -> Vec<Publication> {
    let mut publications: Vec<_> = refusal_reply(worker, &rejected, now).into_iter().collect();
    let Rejected { refusal, origin, delivery, .. } = rejected;
    // A message that is too large to be copied is rejected instead, so that the broker itself moves
    // it.
    if !is_oversized(&delivery) {
        let failure = Failure { reason: refusal.to_string(), at: now };
        publications.push(Publication::Guaranteed(retry_headers::dead_letter(worker, &delivery, &origin, &failure)));
    }
    publications
}

/// The reply to a message that cannot be read, if one may be sent.
fn refusal_reply(worker: &str, rejected: &Rejected, now: Timestamp) -> Option<Publication> {
    let Rejected { refusal, id, origin, answerable, delivery, .. } = rejected;
    if !answerable || delivery.properties.reply_to.is_none() {
        return None;
    }
    let refused = Output::RequestRefused(RequestRefused {
        code: refusal.code,
        detail: refusal.detail.clone(),
        message_type: origin.kind.clone(),
    });
    // A message without a usable id is identified by its body.
    let first = &delivery.body[..delivery.body.len().min(topology::MESSAGE_BYTES_MAX)];
    let namespace = id.unwrap_or_else(|| Uuid::new_v5(&Uuid::nil(), first));
    match journal::reply_output(namespace, "reply:request.refused", now, &refused) {
        Ok(output) => reply(delivery, *id, &output).map(Publication::Reply),
        Err(defect) => {
            error!(worker, "a refusal was not sent: {defect}");
            None
        }
    }
}

/// Adds the publications for a settled batch.
pub(super) fn extend(
    worker: &str,
    settled: Vec<Settled>,
    now: Timestamp,
    metrics: &Metrics,
    publications: &mut Vec<Publication>,
) {
    for settled in settled {
        match settled {
            Settled::Decided(work, outputs) => {
                for output in outputs.iter() {
                    if output.reply {
                        publications.extend(reply(&work.delivery, Some(work.id), output).map(Publication::Reply));
                    } else {
                        let event = event(&work.delivery, Some(work.id), output);
                        publications.extend(to_queue(&event, output).map(Publication::Stored));
                        publications.push(Publication::Guaranteed(event));
                    }
                }
            }
            Settled::Failed(work, error) => {
                metrics.panics.add(u64::from(error.is_defect()));
                publications.push(Publication::Guaranteed(retry_or_give_up(worker, &work, &error, now, metrics)));
            }
        }
    }
}

/// Returns the copy of a message that fails even in a batch of its own. The message is tried again
/// several times with increasing delays, and then becomes a dead letter.
///
/// A panic is retried like any other failure. If a faulty release is rolled back within eleven
/// minutes, it leaves no dead letters.
fn retry_or_give_up(worker: &str, work: &Work, error: &MessageError, now: Timestamp, metrics: &Metrics) -> Outgoing {
    let origin = &work.origin;
    warn!(worker, id = %work.id, attempt = origin.attempts + 1, "a {} failed: {error}", origin.kind);
    let failure = Failure { reason: error.to_string(), at: now };
    if let Some(wait) = topology::WAITS.get(origin.attempts) {
        metrics.delayed.add(1);
        retry_headers::delayed(worker, &work.delivery, origin, &failure, wait)
    } else {
        metrics.dead_letters.add(1);
        retry_headers::dead_letter(worker, &work.delivery, origin, &failure)
    }
}

fn reply(delivery: &Delivery, input: Option<Uuid>, output: &StoredOutput) -> Option<Outgoing> {
    let reply_to = delivery.properties.reply_to.clone()?;
    let message = event(delivery, input, output);
    Some(Outgoing { exchange: topology::DEFAULT.to_owned(), routing_key: reply_to, mandatory: true, ..message })
}

fn event(delivery: &Delivery, input: Option<Uuid>, output: &StoredOutput) -> Outgoing {
    let asked = &delivery.properties;
    output_message(input, asked.correlation_id.clone().or_else(|| asked.message_id.clone()), output)
}

/// The messages with which an output other than a reply is published again, without the request
/// that caused it. They equal those of the first publication, except that their `correlation_id` is
/// the `message_id` of that request, because the journal stores no other. An output without a
/// `cause` was not caused by a request.
pub fn published_again(cause: Option<Uuid>, output: &StoredOutput) -> Vec<Outgoing> {
    let event = output_message(cause, cause.map(|id| id.to_string()), output);
    to_queue(&event, output).into_iter().chain([event]).collect()
}

/// The copy of an output for the queue that must store it, if there is one. It is published through
/// the default exchange.
fn to_queue(event: &Outgoing, output: &StoredOutput) -> Option<Outgoing> {
    let queue = topology::queue_of(&output.kind)?;
    let (exchange, routing_key) = (topology::DEFAULT.to_owned(), queue.to_owned());
    Some(Outgoing { exchange, routing_key, mandatory: true, ..event.clone() })
}

fn output_message(input: Option<Uuid>, correlation_id: Option<String>, output: &StoredOutput) -> Outgoing {
    let cause = input.map(|id| (topology::HEADER_CAUSE.to_owned(), id.to_string()));
    let exchange = topology::exchange_of(&output.kind);
    Outgoing {
        exchange: exchange.to_owned(),
        routing_key: output.kind.clone(),
        // An output that is a request must reach the queue of its worker. An event may have no
        // listener.
        mandatory: exchange == topology::IN,
        properties: Properties {
            message_id: Some(output.message_id.to_string()),
            correlation_id,
            kind: Some(output.kind.clone()),
            content_type: Some(encoding::CONTENT_TYPE.to_owned()),
            timestamp: u64::try_from(output.timestamp_s).ok(),
            app_id: Some(topology::APP_ID.to_owned()),
            headers: cause.into_iter().collect(),
            ..Properties::default()
        },
        body: Bytes::copy_from_slice(&output.body),
    }
}

/// Publishes the outputs of a worker. The outbox itself replaces a lost connection. The decided
/// outputs are still in memory, so they are published again and the session does not have to end.
pub(super) struct Outbox {
    transport: Transport,
    clock: Clock,
    publisher: Publisher,
    worker: &'static str,
    timeout: Duration,
}

impl Outbox {
    /// Connects to the broker.
    ///
    /// # Errors
    /// The broker is unavailable.
    pub(super) async fn open(resources: &Resources, worker: &'static str, timeout: Duration) -> Result<Self, Lost> {
        let (transport, clock) = (resources.transport.clone(), resources.clock.clone());
        let publisher = transport.publisher().await?;
        Ok(Self { transport, clock, publisher, worker, timeout })
    }

    pub(super) async fn close(self) {
        self.publisher.close().await;
    }

    /// Publishes all messages. Guaranteed messages are published again until they are confirmed.
    /// Returns the number of dropped replies.
    pub(super) async fn deliver(&mut self, publications: Vec<Publication>) -> u64 {
        let (stored, publications): (Vec<_>, Vec<_>) =
            publications.into_iter().partition(|one| matches!(one, Publication::Stored(_)));
        self.publish_until_confirmed(stored, None).await;
        if publications.is_empty() {
            return 0;
        }
        match self.publisher.publish(&publications, self.timeout).await {
            Ok(outcomes) => {
                let Unconfirmed { guaranteed, first, dropped } = unconfirmed(publications, &outcomes);
                self.publish_until_confirmed(guaranteed, first).await;
                dropped
            }
            Err(lost) => {
                // One of the messages may be the reason that the broker closed the connection.
                // Replies are published last and one by one, because their destinations are chosen
                // by senders.
                warn!(worker = self.worker, "{lost}; publishing again");
                self.reconnect().await;
                let (replies, guaranteed) =
                    publications.into_iter().partition(|one| matches!(one, Publication::Reply(_)));
                self.publish_until_confirmed(guaranteed, None).await;
                self.try_each(replies).await
            }
        }
    }

    /// Publishes messages until all are confirmed. `outcome` is that of the first message, if the
    /// broker has just not accepted them.
    async fn publish_until_confirmed(&mut self, mut messages: Vec<Publication>, mut outcome: Option<Outcome>) {
        let mut backoff = Backoff::new();
        while let Some(first) = messages.first() {
            if let Some(outcome) = outcome {
                let first: &Outgoing = first.borrow();
                warn!(worker = self.worker, to = first.routing_key, "{}", not_accepted(first, outcome));
                self.clock.sleep(backoff.next()).await;
            }
            match self.publisher.publish(&messages, self.timeout).await {
                Ok(outcomes) => {
                    let left = unconfirmed(messages, &outcomes);
                    (messages, outcome) = (left.guaranteed, left.first);
                }
                Err(_) => {
                    self.reconnect().await;
                    outcome = Some(Outcome::Unconfirmed);
                }
            }
        }
    }

    /// Publishes replies one by one until the timeout. Returns the number of dropped replies.
    async fn try_each(&mut self, replies: Vec<Publication>) -> u64 {
        let deadline = tokio::time::Instant::now() + self.timeout;
        let mut dropped = 0;
        for reply in replies {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            if left.is_zero() {
                dropped += 1;
                continue;
            }
            let outcome = self.publisher.publish(&[reply], left).await;
            if outcome.is_err() {
                self.reconnect().await;
            }
            dropped += u64::from(outcome.ok().as_deref() != Some(&[Outcome::Confirmed]));
        }
        dropped
    }

    async fn reconnect(&mut self) {
        let mut backoff = Backoff::new();
        loop {
            match self.transport.publisher().await {
                Ok(publisher) => {
                    self.publisher = publisher;
                    return;
                }
                Err(_) => self.clock.sleep(backoff.next()).await,
            }
        }
    }
}

/// Why the broker did not accept a message that is published again, and what an operator can do.
fn not_accepted(message: &Outgoing, outcome: Outcome) -> String {
    match outcome {
        Outcome::Returned if message.exchange == topology::DEFAULT => format!(
            "the broker did not accept a message, because the queue {} does not exist: this worker waits and publishes \
             it again; run `licet topology apply`",
            message.routing_key
        ),
        Outcome::Returned => format!(
            "the broker did not accept a message, because no queue is bound to {} for it: this worker waits and \
             publishes it again; run `licet topology apply`",
            message.exchange
        ),
        Outcome::Confirmed | Outcome::Refused | Outcome::Unconfirmed => {
            "the broker did not accept a message: publishing it again".to_owned()
        }
    }
}

/// What remains of publications to which the broker has responded.
struct Unconfirmed {
    /// The guaranteed messages that are not confirmed.
    guaranteed: Vec<Publication>,
    /// The outcome of the first of them.
    first: Option<Outcome>,
    /// The number of dropped replies.
    dropped: u64,
}

fn unconfirmed(publications: Vec<Publication>, outcomes: &[Outcome]) -> Unconfirmed {
    let (mut guaranteed, mut first, mut dropped) = (Vec::new(), None, 0);
    for (publication, outcome) in publications.into_iter().zip(outcomes) {
        match (publication, outcome) {
            (_, Outcome::Confirmed) => {}
            (Publication::Reply(message), outcome) => {
                dropped += 1;
                debug!(to = message.routing_key, ?outcome, "a reply was not accepted");
            }
            (
                one @ (Publication::Stored(_) | Publication::Guaranteed(_)),
                Outcome::Refused | Outcome::Returned | Outcome::Unconfirmed,
            ) => {
                guaranteed.push(one);
                first.get_or_insert(*outcome);
            }
        }
    }
    Unconfirmed { guaranteed, first, dropped }
}
