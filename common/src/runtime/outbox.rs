//! Publishes the results of decisions: replies, events, and copies of messages that failed.

use std::{borrow::Borrow, time::Duration};

use bytes::Bytes;
use licet_schema::{Output, Timestamp, encoding, message::RequestRefused, topology};
use tracing::{debug, error, warn};
use uuid::Uuid;

use super::{
    Resources,
    backoff::Backoff,
    batch::{MessageError, Settled},
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
    /// Any other message. It is published again until it is confirmed.
    Guaranteed(Outgoing),
}

impl Borrow<Outgoing> for Publication {
    fn borrow(&self) -> &Outgoing {
        match self {
            Self::Reply(message) | Self::Guaranteed(message) => message,
        }
    }
}

/// Returns the messages that can be decided, and the publications for the other messages.
pub(super) fn separate(
    worker: &str,
    readings: Vec<Reading>,
    now: Timestamp,
    metrics: &Metrics,
) -> (Vec<Work>, Vec<Publication>) {
    let mut work = Vec::with_capacity(readings.len());
    let mut publications = Vec::new();
    for reading in readings {
        match reading {
            Reading::Work(one) => work.push(one),
            Reading::Rejected(rejected) => {
                metrics.dead_letters.add(1);
                metrics.panics.add(u64::from(rejected.panicked));
                publications.extend(refuse(worker, rejected, now));
            }
        }
    }
    (work, publications)
}

/// Refuses a message that cannot be read. It becomes a dead letter, and its sender gets a reply if
/// possible.
fn refuse(worker: &str, rejected: Rejected, now: Timestamp) -> Vec<Publication> {
    let Rejected { refusal, id, origin, answerable, delivery, .. } = rejected;
    let mut publications = Vec::new();
    if answerable && delivery.properties.reply_to.is_some() {
        let refused = Output::RequestRefused(RequestRefused {
            code: refusal.code,
            detail: refusal.detail.clone(),
            message_type: origin.kind.clone(),
        });
        // A message without a usable id is identified by its body.
        let first = &delivery.body[..delivery.body.len().min(topology::MESSAGE_BYTES_MAX)];
        let namespace = id.unwrap_or_else(|| Uuid::new_v5(&Uuid::nil(), first));
        match journal::reply_output(namespace, "reply:request.refused", now, &refused) {
            Ok(output) => publications.extend(reply(&delivery, id, &output).map(Publication::Reply)),
            Err(defect) => error!(worker, "a refusal was not sent: {defect}"),
        }
    }
    // A message that is too large to be copied is rejected instead, so that the broker itself moves
    // it.
    if !is_oversized(&delivery) {
        let failure = Failure { reason: refusal.to_string(), at: now };
        publications.push(Publication::Guaranteed(retry_headers::dead_letter(worker, &delivery, &origin, &failure)));
    }
    publications
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
                        publications.push(Publication::Guaranteed(event(&work.delivery, Some(work.id), output)));
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
    let cause = input.map(|id| (topology::HEADER_CAUSE.to_owned(), id.to_string()));
    let asked = &delivery.properties;
    let exchange = topology::exchange_of(&output.kind);
    Outgoing {
        exchange: exchange.to_owned(),
        routing_key: output.kind.clone(),
        // An output that is a request must reach the queue of its worker. An event may have no
        // listener.
        mandatory: exchange == topology::IN,
        properties: Properties {
            message_id: Some(output.message_id.to_string()),
            correlation_id: asked.correlation_id.clone().or_else(|| asked.message_id.clone()),
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
        if publications.is_empty() {
            return 0;
        }
        match self.publisher.publish(&publications, self.timeout).await {
            Ok(outcomes) => {
                let (guaranteed, dropped) = unconfirmed(publications, &outcomes);
                self.publish_until_confirmed(guaranteed, true).await;
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
                self.publish_until_confirmed(guaranteed, false).await;
                self.try_each(replies).await
            }
        }
    }

    /// Publishes messages until all are confirmed. `refused` states that the broker has just not
    /// accepted them.
    async fn publish_until_confirmed(&mut self, mut messages: Vec<Publication>, mut refused: bool) {
        let mut backoff = Backoff::new();
        while let Some(first) = messages.first() {
            if refused {
                warn!(
                    worker = self.worker,
                    to = Borrow::<Outgoing>::borrow(first).routing_key,
                    "the broker did not accept a message: publishing it again"
                );
                self.clock.sleep(backoff.next()).await;
            }
            match self.publisher.publish(&messages, self.timeout).await {
                Ok(outcomes) => messages = unconfirmed(messages, &outcomes).0,
                Err(_) => self.reconnect().await,
            }
            refused = true;
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

/// The guaranteed messages that are not confirmed, and the number of dropped replies.
fn unconfirmed(publications: Vec<Publication>, outcomes: &[Outcome]) -> (Vec<Publication>, u64) {
    let (mut guaranteed, mut dropped) = (Vec::new(), 0);
    for (publication, outcome) in publications.into_iter().zip(outcomes) {
        match (publication, outcome) {
            (_, Outcome::Confirmed) => {}
            (Publication::Reply(message), outcome) => {
                dropped += 1;
                debug!(to = message.routing_key, ?outcome, "a reply was not accepted");
            }
            (one @ Publication::Guaranteed(_), Outcome::Refused | Outcome::Returned | Outcome::Unconfirmed) => {
                guaranteed.push(one);
            }
        }
    }
    (guaranteed, dropped)
}
