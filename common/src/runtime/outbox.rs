//! From what was decided to what is on the broker: replies, events, and copies of what failed.

use std::{borrow::Borrow, time::Duration};

use bytes::Bytes;
use licet_schema::{Format, Output, Timestamp, message::RequestRefused, topology};
use tracing::{debug, warn};
use uuid::Uuid;

use super::{
    Machine,
    batch::{Setback, Settled},
    copies::{self, Failure},
    intake::{Reading, TurnedAway, Work, is_oversized},
    stored::{self, StoredOutput},
    tally::Tally,
};
use crate::clock::Clock;
use crate::transport::{Delivery, Lost, Outcome, Outgoing, Properties, Publisher, Transport};

/// The first and the longest pause before what the broker refused is published again.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A message to publish, and what happens if the broker does not take it.
pub(super) enum Duty {
    /// A reply: counted and dropped, since it can be asked for again.
    Reply(Outgoing),
    /// Anything else: published again until it is confirmed.
    Must(Outgoing),
}

impl Borrow<Outgoing> for Duty {
    fn borrow(&self) -> &Outgoing {
        match self {
            Self::Reply(message) | Self::Must(message) => message,
        }
    }
}

/// What can be decided, and what is to be said of the rest.
pub(super) fn separate<I>(
    worker: &str,
    readings: Vec<Reading<I>>,
    now: Timestamp,
    tally: &Tally,
) -> (Vec<Work<I>>, Vec<Duty>) {
    let mut work = Vec::with_capacity(readings.len());
    let mut duties = Vec::new();
    for reading in readings {
        match reading {
            Reading::Work(one) => work.push(one),
            Reading::TurnedAway(turned_away) => {
                tally.dead_letters.add(1);
                tally.panics.add(u64::from(turned_away.panicked));
                duties.extend(refuse(worker, turned_away, now));
            }
        }
    }
    (work, duties)
}

/// What is turned away is answered, if anybody can be, and set aside with its reason.
fn refuse(worker: &str, turned_away: TurnedAway, now: Timestamp) -> Vec<Duty> {
    let TurnedAway { refusal, id, past, answerable, delivery, .. } = turned_away;
    let mut duties = Vec::new();
    if answerable && delivery.properties.reply_to.is_some() {
        let refused = Output::RequestRefused(RequestRefused {
            code: refusal.code,
            detail: refusal.detail.clone(),
            message_type: past.kind.clone(),
        });
        let format = Format::of(delivery.properties.content_type.as_deref()).unwrap_or(Format::Json);
        // Without a usable id of its own, the body tells one message from another.
        let first = &delivery.body[..delivery.body.len().min(topology::MESSAGE_BYTES_MAX)];
        let namespace = id.unwrap_or_else(|| Uuid::new_v5(&Uuid::nil(), first));
        let reply = stored::refusal(namespace, "reply:request.refused", format, now, &refused);
        duties.extend(self::reply(&delivery, id, &reply).map(Duty::Reply));
    }
    // What is too large to be copied is rejected instead: the broker itself moves it.
    if !is_oversized(&delivery) {
        let failure = Failure { reason: refusal.to_string(), at: now };
        duties.push(Duty::Must(copies::dead_letter(worker, &delivery, &past, &failure)));
    }
    duties
}

/// Adds what a settled batch has to say.
pub(super) fn extend<I>(worker: &str, settled: Vec<Settled<I>>, now: Timestamp, tally: &Tally, duties: &mut Vec<Duty>) {
    for settled in settled {
        match settled {
            Settled::Decided(work, outputs) => {
                for output in outputs.iter() {
                    if output.reply {
                        duties.extend(reply(&work.delivery, Some(work.id), output).map(Duty::Reply));
                    } else {
                        duties.push(Duty::Must(event(&work.delivery, Some(work.id), output)));
                    }
                }
            }
            Settled::Failed(work, setback) => {
                tally.panics.add(u64::from(matches!(setback, Setback::Panicked(_))));
                duties.push(Duty::Must(set_aside(worker, &work, &setback, now, tally)));
            }
        }
    }
}

/// A message that alone fails is tried again after a while, and a longer one, and longer still;
/// then it is a dead letter.
fn set_aside<I>(worker: &str, work: &Work<I>, setback: &Setback, now: Timestamp, tally: &Tally) -> Outgoing {
    let past = &work.past;
    warn!(worker, id = %work.id, attempt = past.attempts + 1, "a {} failed: {setback}", past.kind);
    let failure = Failure { reason: setback.to_string(), at: now };
    if let Some(wait) = topology::WAITS.get(past.attempts) {
        tally.delayed.add(1);
        copies::delayed(worker, &work.delivery, past, &failure, wait)
    } else {
        tally.dead_letters.add(1);
        copies::dead_letter(worker, &work.delivery, past, &failure)
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
        // Work for a worker must find its queue; an event need not interest anybody.
        mandatory: exchange == topology::IN,
        properties: Properties {
            message_id: Some(output.message_id.to_string()),
            correlation_id: asked.correlation_id.clone().or_else(|| asked.message_id.clone()),
            kind: Some(output.kind.clone()),
            content_type: Some(output.format().content_type().to_owned()),
            timestamp: u64::try_from(output.timestamp_s).ok(),
            app_id: Some(topology::APP_ID.to_owned()),
            headers: cause.into_iter().collect(),
            ..Properties::default()
        },
        body: Bytes::copy_from_slice(&output.body),
    }
}

/// What publishes for a worker. It keeps its connection by itself: what was decided is at hand, so
/// that a lost connection costs another attempt and never the deliveries behind it.
pub(super) struct Outbox {
    transport: Transport,
    clock: Clock,
    publisher: Publisher,
    worker: &'static str,
    patience: Duration,
}

impl Outbox {
    /// Connects.
    ///
    /// # Errors
    /// The broker is away.
    pub(super) async fn open(machine: &Machine, worker: &'static str, patience: Duration) -> Result<Self, Lost> {
        let (transport, clock) = (machine.transport.clone(), machine.clock.clone());
        let publisher = transport.publisher().await?;
        Ok(Self { transport, clock, publisher, worker, patience })
    }

    pub(super) async fn close(self) {
        self.publisher.close().await;
    }

    /// Publishes all, and again what must arrive, until it is confirmed. Says how many replies
    /// nobody took.
    pub(super) async fn deliver(&mut self, duties: Vec<Duty>) -> u64 {
        if duties.is_empty() {
            return 0;
        }
        match self.publisher.publish(&duties, self.patience).await {
            Ok(outcomes) => {
                let (musts, dropped) = left(duties, &outcomes);
                self.insist(musts, true).await;
                dropped
            }
            Err(lost) => {
                // One of them may be what the broker closes connections for. Replies are named by
                // strangers: they come last, and one by one.
                warn!(worker = self.worker, "{lost}; publishing again");
                self.reopen().await;
                let (replies, musts) = duties.into_iter().partition(|duty| matches!(duty, Duty::Reply(_)));
                self.insist(musts, false).await;
                self.try_each(replies).await
            }
        }
    }

    /// Publishes until all are confirmed.
    async fn insist(&mut self, mut musts: Vec<Duty>, mut refused: bool) {
        let mut pause = PAUSE_MIN;
        while let Some(first) = musts.first() {
            if refused {
                warn!(
                    worker = self.worker,
                    to = Borrow::<Outgoing>::borrow(first).routing_key,
                    "the broker does not take a message: trying again"
                );
                self.clock.sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
            match self.publisher.publish(&musts, self.patience).await {
                Ok(outcomes) => musts = left(musts, &outcomes).0,
                Err(_) => self.reopen().await,
            }
            refused = true;
        }
    }

    /// Publishes replies one by one while patience lasts; says how many were dropped.
    async fn try_each(&mut self, replies: Vec<Duty>) -> u64 {
        let deadline = tokio::time::Instant::now() + self.patience;
        let mut dropped = 0;
        for reply in replies {
            let patience = deadline.saturating_duration_since(tokio::time::Instant::now());
            if patience.is_zero() {
                dropped += 1;
                continue;
            }
            let outcome = self.publisher.publish(&[reply], patience).await;
            if outcome.is_err() {
                self.reopen().await;
            }
            dropped += u64::from(outcome.ok().as_deref() != Some(&[Outcome::Confirmed]));
        }
        dropped
    }

    async fn reopen(&mut self) {
        let mut pause = PAUSE_MIN;
        loop {
            match self.transport.publisher().await {
                Ok(publisher) => {
                    self.publisher = publisher;
                    return;
                }
                Err(_) => self.clock.sleep(pause).await,
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

/// What must still arrive, and how many replies were dropped.
fn left(duties: Vec<Duty>, outcomes: &[Outcome]) -> (Vec<Duty>, u64) {
    let (mut musts, mut dropped) = (Vec::new(), 0);
    for (duty, outcome) in duties.into_iter().zip(outcomes) {
        match (duty, outcome) {
            (_, Outcome::Confirmed) => {}
            (Duty::Reply(message), outcome) => {
                dropped += 1;
                debug!(to = message.routing_key, ?outcome, "a reply was not taken");
            }
            (must @ Duty::Must(_), Outcome::Refused | Outcome::Returned | Outcome::Unconfirmed) => musts.push(must),
        }
    }
    (musts, dropped)
}
