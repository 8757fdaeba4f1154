//! Copies of a message in Licet's own queues: delayed ones, dead letters, replays.
//!
//! A copy cannot carry the `user_id` of the sender of the original: the broker refuses a `user_id`
//! that is not the publisher's. So headers of the copy say who sent the original, with which type, how
//! often it was tried, and how it first failed. Anyone who can publish can write headers. They are
//! trusted only on a copy whose own `user_id`, which the broker has checked, belongs to a trusted
//! publisher ([`Trust`]). A copy from an untrusted publisher is not lost: it becomes a dead letter that
//! records what was claimed and by whom, and that is checked again when it is read.
//!
//! Architecture invariant: the meaning of these headers is defined here and nowhere else.

use std::{collections::BTreeMap, sync::Arc};

use licet_schema::{Timestamp, refusal::shortened, topology};

use crate::{
    config::Senders,
    transport::{Delivery, Outgoing, Properties},
};

/// The most bytes of a sender's own headers that a copy keeps, so that all headers fit in one frame.
const KEPT_HEADER_BYTES_MAX: usize = 8 << 10;
/// The overhead of each header in bytes: the lengths of name and value, and the value's type.
const HEADER_BYTES: usize = 6;

/// Which publishers may set retry headers: those with the program's own broker user, and those that the
/// table `[senders]` lets send for others. A program that does not know its own broker user (it
/// authenticates with a client certificate) publishes copies without `user_id` too: then the broker's
/// permissions alone decide who may publish to `licet.retry`.
#[derive(Clone, Debug)]
pub struct Trust {
    own: Option<String>,
    pub(super) senders: Arc<Senders>,
}

impl Trust {
    /// The trust of a program that publishes as the broker user `own`.
    pub fn new(own: Option<&str>, senders: Arc<Senders>) -> Self {
        Self { own: own.map(str::to_owned), senders }
    }

    fn trusts(&self, author: Option<&str>) -> bool {
        author == self.own.as_deref() || author.is_some_and(|author| self.senders.may_send_for_others(author))
    }
}

/// Where a message comes from, and what happened to it before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Its type: the routing key that it was published with.
    pub kind: String,
    /// The broker user who sent it, if known.
    pub sender: Option<String>,
    /// What an untrusted publisher claims about its sender.
    pub claim: Option<Claim>,
    /// How many attempts to decide it were made.
    pub attempts: usize,
    /// How the first attempt failed.
    pub first_failure: Option<Failure>,
}

/// A sender's name that an untrusted publisher claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The publisher, if known.
    pub by: Option<String>,
    /// The sender that it names.
    pub sender: Option<String>,
}

/// How an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The reason, as a sentence.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

/// A dead letter from an untrusted publisher, so that the sender of the original is unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untrusted(pub Option<String>);

impl Origin {
    /// The origin of a message in a work queue.
    pub(super) fn of_work(delivery: &Delivery, trust: &Trust) -> Self {
        Self::of_arrival(&delivery.exchange, &delivery.routing_key, &delivery.properties, trust)
    }

    /// The origin of a dead letter: what its worker recorded; or, if the broker itself dead-lettered
    /// the message, what its worker would have read.
    ///
    /// # Errors
    /// It was published by a broker user that is not trusted here.
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

    /// What the headers of a copy say, if its `author` is trusted.
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

    /// The headers of a copy that is made because of one more failure.
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

/// A dead letter for another series of attempts: the original message, under its sender's name, so that
/// the journal recognizes it as the same message.
pub fn replayed(worker: &str, letter: &Delivery, origin: &Origin) -> Outgoing {
    let mut headers = BTreeMap::from([(topology::HEADER_ROUTING_KEY, origin.kind.clone())]);
    headers.extend(origin.sender.clone().map(|sender| (topology::HEADER_SENDER, sender)));
    copy(letter, origin, topology::RETRY, &topology::work_queue(worker), headers)
}

/// A copy of a message for a queue of Licet. The transport sets the program's own `user_id`.
///
/// Never copies `user_id`, `x-*`, `licet-*`, `CC` or `BCC`: a sender's own `licet-sender` must not come back
/// as Licet's word. Other text headers are limited to 8 KiB.
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
