//! Copies of messages in Licet's own queues: delayed messages, dead letters and replays.
//!
//! A copy cannot have the `user_id` of the original sender, because the broker rejects a `user_id`
//! other than the publisher's own. The headers of the copy therefore record the sender and the type
//! of the original, the number of attempts, and the first failure. Anyone who can publish can write
//! headers. They are trusted only if the `user_id` of the copy, which the broker has checked,
//! belongs to a trusted publisher ([`Trust`]). A copy from an untrusted publisher is not lost. It
//! becomes a dead letter that records the publisher and the sender that it named. Trust is checked
//! again when the dead letter is read.
//!
//! Architecture invariant: the meaning of these headers is defined here and nowhere else.

use std::{collections::BTreeMap, sync::Arc};

use licet_schema::{Timestamp, refusal::shortened, topology};

use crate::{
    config::Senders,
    transport::{Delivery, Outgoing, Properties},
};

/// The maximum size of the sender's own headers in a copy, in bytes. It ensures that all headers
/// fit in one frame.
const KEPT_HEADER_BYTES_MAX: usize = 8 << 10;
/// The overhead of each header, in bytes: the lengths of the name and the value, and the type of
/// the value.
const HEADER_BYTES: usize = 6;

/// The publishers that may set retry headers: the program's own broker user, and the users that the
/// table `[senders]` allows to name other senders. A program that authenticates with a client
/// certificate does not know its own broker user and publishes copies without `user_id`. In this
/// case, only the broker's permissions control who may publish to `licet.retry`.
#[derive(Clone, Debug)]
pub struct Trust {
    own: Option<String>,
    pub(super) senders: Arc<Senders>,
}

impl Trust {
    /// Creates the trust of a program that publishes as the broker user `own`.
    pub fn new(own: Option<&str>, senders: Arc<Senders>) -> Self {
        Self { own: own.map(str::to_owned), senders }
    }

    fn trusts(&self, author: Option<&str>) -> bool {
        author == self.own.as_deref() || author.is_some_and(|author| self.senders.may_send_for_others(author))
    }
}

/// The origin of a message, and its earlier attempts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The message type, which is the routing key that the message was published with.
    pub kind: String,
    /// The broker user who sent the message, if known.
    pub sender: Option<String>,
    /// The claim of an untrusted publisher about the sender.
    pub claim: Option<Claim>,
    /// The number of attempts to decide the message.
    pub attempts: usize,
    /// How the first attempt failed.
    pub first_failure: Option<Failure>,
}

/// The claim of an untrusted publisher about the sender of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The publisher, if known.
    pub by: Option<String>,
    /// The sender that the publisher names.
    pub sender: Option<String>,
}

/// The failure of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The reason, as a sentence.
    pub reason: String,
    /// When the attempt failed.
    pub at: Timestamp,
}

/// The error for a dead letter from an untrusted publisher, whose original sender is unknown. It
/// contains the publisher, if known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untrusted(pub Option<String>);

impl Origin {
    /// The origin of a message in a work queue.
    pub(super) fn of_work(delivery: &Delivery, trust: &Trust) -> Self {
        Self::of_arrival(&delivery.exchange, &delivery.routing_key, &delivery.properties, trust)
    }

    /// The origin of a dead letter, as its worker recorded it. If the broker itself dead-lettered
    /// the message, this is the origin that the worker would have read.
    ///
    /// # Errors
    /// The dead letter was published by a broker user that is not trusted here.
    pub fn of_letter(letter: &Delivery, trust: &Trust) -> Result<Self, Untrusted> {
        let properties = &letter.properties;
        if let Some(death) = &letter.death {
            return Ok(Self::of_arrival(&death.exchange, &death.routing_key, properties, trust));
        }
        let author = properties.user_id.as_deref();
        if !trust.trusts(author) {
            return Err(Untrusted(author.map(str::to_owned)));
        }
        let recorded = Self::of_copy(properties, author, trust);
        Ok(match properties.headers.get(topology::HEADER_CLAIMED_BY) {
            None => recorded,
            Some(by) => {
                let judged = Self::of_copy(properties, Some(by.as_str()).filter(|by| !by.is_empty()), trust);
                Self { attempts: recorded.attempts, first_failure: recorded.first_failure, ..judged }
            }
        })
    }

    fn of_arrival(exchange: &str, routing_key: &str, properties: &Properties, trust: &Trust) -> Self {
        if exchange == topology::RETRY {
            return Self::of_copy(properties, properties.user_id.as_deref(), trust);
        }
        let (kind, sender) = (routing_key.to_owned(), properties.user_id.clone());
        Self { kind, sender, claim: None, attempts: 0, first_failure: None }
    }

    /// The origin that the headers of a copy record, if its `author` is trusted.
    fn of_copy(properties: &Properties, author: Option<&str>, trust: &Trust) -> Self {
        let header = |name| properties.headers.get(name).cloned();
        let kind = header(topology::HEADER_ROUTING_KEY).or_else(|| properties.kind.clone()).unwrap_or_default();
        let sender = header(topology::HEADER_SENDER);
        if !trust.trusts(author) {
            let author = author.map(str::to_owned);
            let claim = Some(Claim { by: author.clone(), sender });
            return Self { kind, sender: author, claim, attempts: 0, first_failure: None };
        }
        let attempts = header(topology::HEADER_ATTEMPT).and_then(|count| count.parse().ok()).unwrap_or(0);
        let first_failure = header(topology::HEADER_FIRST_FAILURE)
            .zip(header(topology::HEADER_FIRST_FAILED_AT).and_then(|at| at.parse().ok()))
            .map(|(reason, at)| Failure { reason, at });
        Self { kind, sender, claim: None, attempts, first_failure }
    }

    /// The headers of a copy that is made after a further failure.
    fn headers(&self, failure: &Failure) -> BTreeMap<&'static str, String> {
        let first = self.first_failure.as_ref().unwrap_or(failure);
        let mut headers = BTreeMap::from([
            (topology::HEADER_ROUTING_KEY, self.kind.clone()),
            (topology::HEADER_ATTEMPT, (self.attempts + 1).to_string()),
            (topology::HEADER_FIRST_FAILURE, first.reason.clone()),
            (topology::HEADER_FIRST_FAILED_AT, first.at.to_string()),
        ]);
        let sender = self.claim.as_ref().map_or(&self.sender, |claim| &claim.sender);
        headers.extend(sender.clone().map(|sender| (topology::HEADER_SENDER, sender)));
        if let Some(claim) = &self.claim {
            headers.insert(topology::HEADER_CLAIMED_BY, claim.by.clone().unwrap_or_default());
        }
        headers
    }
}

/// A copy that returns to its worker after a delay.
pub(super) fn delayed(
    worker: &str,
    delivery: &Delivery,
    origin: &Origin,
    failure: &Failure,
    wait: &topology::Wait,
) -> Outgoing {
    copy(delivery, origin, &wait.queue(), &topology::work_queue(worker), origin.headers(failure))
}

/// A copy for the worker's dead-letter queue.
pub(super) fn dead_letter(worker: &str, delivery: &Delivery, origin: &Origin, failure: &Failure) -> Outgoing {
    let mut headers = origin.headers(failure);
    headers.insert(topology::HEADER_REASON, failure.reason.clone());
    headers.insert(topology::HEADER_FAILED_AT, failure.at.to_string());
    copy(delivery, origin, topology::DEFAULT, &topology::dead_queue(worker), headers)
}

/// A copy of a dead letter for another series of attempts. It names the original sender, so that
/// the journal recognizes it as the original message.
pub fn replayed(worker: &str, letter: &Delivery, origin: &Origin) -> Outgoing {
    let mut headers = BTreeMap::from([(topology::HEADER_ROUTING_KEY, origin.kind.clone())]);
    headers.extend(origin.sender.clone().map(|sender| (topology::HEADER_SENDER, sender)));
    copy(letter, origin, topology::RETRY, &topology::work_queue(worker), headers)
}

/// A copy of a message for one of Licet's queues. The transport sets the program's own `user_id`.
///
/// `user_id` and the headers `x-*`, `licet-*`, `CC` and `BCC` are never copied. For example, a
/// header `licet-sender` that a sender has set must not be mistaken for one that Licet has set. All
/// other text headers together are limited to 8 KiB.
fn copy(
    delivery: &Delivery,
    origin: &Origin,
    exchange: &str,
    key: &str,
    headers: BTreeMap<&'static str, String>,
) -> Outgoing {
    let mut kept = delivery.properties.headers.clone();
    let mut bytes_left = KEPT_HEADER_BYTES_MAX;
    kept.retain(|name, value| {
        let foreign = !name.starts_with("x-") && !name.starts_with("licet-") && !matches!(name.as_str(), "CC" | "BCC");
        let bytes = name.len() + value.len() + HEADER_BYTES;
        let keeps = foreign && bytes <= bytes_left;
        bytes_left -= if keeps { bytes } else { 0 };
        keeps
    });
    kept.extend(headers.into_iter().map(|(name, value)| (name.to_owned(), shortened(value))));
    let kind = delivery.properties.kind.clone().unwrap_or_else(|| origin.kind.clone());
    Outgoing {
        exchange: exchange.to_owned(),
        routing_key: key.to_owned(),
        mandatory: true,
        properties: Properties { user_id: None, kind: Some(kind), headers: kept, ..delivery.properties.clone() },
        body: delivery.body.clone(),
    }
}

#[cfg(test)]
mod tests;
