//! Copies of a message in queues of our own: delayed ones, dead letters, replays.
//!
//! A copy cannot carry the `user_id` of whoever sent the original: the broker would refuse it from
//! us. So it says in headers who that was, as what it came, how often it was tried, and what it
//! first failed with. Anybody can write headers; these are believed only of a copy whose own
//! `user_id`, which the broker has checked, is somebody's whom we believe ([`Trust`]). What nobody
//! believes is not lost: its dead letter keeps what was claimed and who claimed it, and is judged
//! again by whoever reads it.
//!
//! Architecture invariant: what these headers mean is written here and nowhere else.

use std::{collections::BTreeMap, sync::Arc};

use licet_schema::{Timestamp, refusal::shortened, topology};

use crate::{
    config::Senders,
    transport::{Delivery, Outgoing, Properties},
};

/// The most bytes of a sender's own headers that a copy keeps: they must fit in one frame with the
/// rest.
const KEPT_HEADER_BYTES_MAX: usize = 8 << 10;
/// What each of them costs besides: the lengths of name and value, and the value's type.
const HEADER_BYTES: usize = 6;

/// Whom we believe what a copy tells: whoever has our own broker user, and those whom the table
/// `[senders]` lets speak for others. A broker user that we do not know ourselves (a client
/// certificate) is not on our copies either: then the broker's permissions alone say who may write
/// to `licet.retry`.
#[derive(Clone, Debug)]
pub struct Trust {
    own: Option<String>,
    pub(super) senders: Arc<Senders>,
}

impl Trust {
    /// Of a program that publishes as `own`.
    pub fn new(own: Option<&str>, senders: Arc<Senders>) -> Self {
        Self { own: own.map(str::to_owned), senders }
    }

    fn believes(&self, author: Option<&str>) -> bool {
        author == self.own.as_deref() || author.is_some_and(|author| self.senders.may_speak_for_others(author))
    }
}

/// What is known of a message besides what it says itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// Its type: the routing key under which it came.
    pub kind: String,
    /// Who sent it, where that is known.
    pub sender: Option<String>,
    /// What is said of its sender by somebody who is not believed.
    pub claim: Option<Claim>,
    /// How many attempts were made to decide it.
    pub attempts: usize,
    /// What the first of them failed with.
    pub first_failure: Option<Failure>,
}

/// A sender's name on the word of somebody who is not believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Who says so, if anybody.
    pub by: Option<String>,
    /// Whom they name.
    pub sender: Option<String>,
}

/// What an attempt failed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// A sentence.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

/// A dead letter whose author is not believed, so that nobody knows who sent the original.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distrusted(pub Option<String>);

impl Past {
    /// Of a message in a work queue.
    pub(super) fn of_work(delivery: &Delivery, trust: &Trust) -> Self {
        Self::of_arrival(&delivery.exchange, &delivery.routing_key, &delivery.properties, trust)
    }

    /// Of a dead letter: what its worker wrote; or, where the broker itself has set the message
    /// aside, what its worker would have read.
    ///
    /// # Errors
    /// A worker wrote it under a broker user that is not believed here.
    pub fn of_letter(letter: &Delivery, trust: &Trust) -> Result<Self, Distrusted> {
        let properties = &letter.properties;
        if let Some(death) = &letter.death {
            return Ok(Self::of_arrival(&death.exchange, &death.routing_key, properties, trust));
        }
        let author = properties.user_id.as_deref();
        if !trust.believes(author) {
            return Err(Distrusted(author.map(str::to_owned)));
        }
        let told = Self::of_copy(properties, author, trust);
        Ok(match properties.headers.get(topology::HEADER_CLAIMED_BY) {
            None => told,
            Some(by) => {
                let judged = Self::of_copy(properties, Some(by.as_str()).filter(|by| !by.is_empty()), trust);
                Self { attempts: told.attempts, first_failure: told.first_failure, ..judged }
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

    /// What a copy tells, if `author` is believed.
    fn of_copy(properties: &Properties, author: Option<&str>, trust: &Trust) -> Self {
        let header = |name| properties.headers.get(name).cloned();
        let kind = header(topology::HEADER_ROUTING_KEY).or_else(|| properties.kind.clone()).unwrap_or_default();
        let sender = header(topology::HEADER_SENDER);
        if !trust.believes(author) {
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

    /// The headers of a copy made because of one more failure.
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

/// A copy that comes back to its worker after a while.
pub(super) fn delayed(
    worker: &str,
    delivery: &Delivery,
    past: &Past,
    failure: &Failure,
    wait: &topology::Wait,
) -> Outgoing {
    copy(delivery, past, &wait.queue(), &topology::work_queue(worker), past.headers(failure))
}

/// A copy for the worker's dead letters.
pub(super) fn dead_letter(worker: &str, delivery: &Delivery, past: &Past, failure: &Failure) -> Outgoing {
    let mut headers = past.headers(failure);
    headers.insert(topology::HEADER_REASON, failure.reason.clone());
    headers.insert(topology::HEADER_FAILED_AT, failure.at.to_string());
    copy(delivery, past, topology::DEFAULT, &topology::dead_queue(worker), headers)
}

/// A dead letter for another series of attempts: the message as it was, in the name of whoever
/// sent it. So it is the same message for the journal, too.
pub fn replayed(worker: &str, letter: &Delivery, past: &Past) -> Outgoing {
    let mut headers = BTreeMap::from([(topology::HEADER_ROUTING_KEY, past.kind.clone())]);
    headers.extend(past.sender.clone().map(|sender| (topology::HEADER_SENDER, sender)));
    copy(letter, past, topology::RETRY, &topology::work_queue(worker), headers)
}

/// Never with the original's `user_id`, `x-death` or `CC`; the transport puts our own user on it.
fn copy(
    delivery: &Delivery,
    past: &Past,
    exchange: &str,
    key: &str,
    headers: BTreeMap<&'static str, String>,
) -> Outgoing {
    let mut kept = delivery.properties.headers.clone();
    let mut room = KEPT_HEADER_BYTES_MAX;
    kept.retain(|name, value| {
        // `licet-` headers are our own word: nobody else's is passed on as it.
        let foreign = !name.starts_with("x-") && !name.starts_with("licet-") && !matches!(name.as_str(), "CC" | "BCC");
        let bytes = name.len() + value.len() + HEADER_BYTES;
        let keeps = foreign && bytes <= room;
        room -= if keeps { bytes } else { 0 };
        keeps
    });
    kept.extend(headers.into_iter().map(|(name, value)| (name.to_owned(), shortened(value))));
    let kind = delivery.properties.kind.clone().unwrap_or_else(|| past.kind.clone());
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
