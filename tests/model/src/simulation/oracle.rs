//! The test oracle: compares decisions with the reference model, and published outputs with
//! committed decisions.

use std::collections::{BTreeMap, BTreeSet};

use licet_common::transport::Delivery;
use licet_schema::{Code, Output, Timestamp, topology};
use uuid::Uuid;

use super::{
    recorded::Decided,
    upstream::{Sent, Source},
};
use crate::{model::Model, response::Response};

/// An output of a committed decision, as it must be published.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Expected {
    reply: bool,
    kind: String,
    message_id: String,
    timestamp_s: Option<u64>,
    body: Vec<u8>,
}

#[derive(Debug, Default)]
pub(super) struct Oracle {
    /// The outputs of each message that was decided.
    expected: BTreeMap<Uuid, Vec<Expected>>,
    /// The messages that have a row in the journal.
    journaled: BTreeSet<Uuid>,
    /// The message ids of the outputs that were published since the last
    /// [`Oracle::forget_published`].
    published: BTreeSet<String>,
    /// The message ids of the outputs that reached the queue that must store them, since then.
    stored: BTreeSet<String>,
    pub(super) decided: u64,
    pub(super) compared: u64,
}

impl Oracle {
    pub(super) fn is_journaled(&self, id: &Uuid) -> bool {
        self.journaled.contains(id)
    }

    /// Checks a decision whose transaction was committed.
    pub(super) fn check_decision(&mut self, model: &mut Model, decided: Decided) -> Result<(), String> {
        let Decided { id, now_ms, request, decision } = decided;
        let number = id.as_u128();
        let public = decision.reply.as_ref().filter(|_| decision.announced).and_then(Output::public);
        let events: Vec<_> = public.into_iter().chain(decision.events).collect();
        let response = Response { reply: decision.reply, events };
        let mut expected = Vec::new();
        let replies = response.reply.iter().map(|output| (true, output));
        for (reply, output) in replies.chain(response.events.iter().map(|output| (false, output))) {
            expected.push(Expected::of(id, now_ms, reply, output)?);
        }
        if response.is_journaled(&request) && !self.journaled.insert(id) {
            return Err(format!("message {number}, {}, took effect twice", request.kind()));
        }
        self.expected.entry(id).or_default().extend(expected);
        self.decided += 1;
        let predicted = model.predict(now_ms, id, &request, response.reply.as_ref()).normalized();
        let response = response.normalized();
        if predicted != response {
            return Err(format!(
                "message {number} is\n  {request:#?}\nthe model predicts\n  {predicted:#?}\nthe decision is\n  {response:#?}"
            ));
        }
        Ok(())
    }

    /// Checks that a published output belongs to a committed decision, and that no reply and no
    /// event was published before the instructions of the same message were in their queue.
    pub(super) fn check_delivery(&mut self, source: Source, delivery: &Delivery) -> Result<(), String> {
        let reply = source == Source::Replies;
        let properties = &delivery.properties;
        let kind = properties.kind.clone().unwrap_or_default();
        let cause = properties.headers.get(topology::HEADER_CAUSE).and_then(|text| Uuid::parse_str(text).ok());
        let cause = cause.ok_or_else(|| format!("a {kind} has no header {}", topology::HEADER_CAUSE))?;
        let published = Expected {
            reply,
            kind: kind.clone(),
            message_id: properties.message_id.clone().unwrap_or_default(),
            timestamp_s: properties.timestamp,
            body: delivery.body.to_vec(),
        };
        self.compared += 1;
        if !self.expected.get(&cause).is_some_and(|expected| expected.contains(&published)) {
            let body = String::from_utf8_lossy(&published.body).into_owned();
            return Err(format!("{kind} was published for message {}, but never decided: {body}", cause.as_u128()));
        }
        if source == Source::Instructions {
            if !published.must_be_stored() {
                return Err(format!("{kind} is in the queue of instructions"));
            }
            self.stored.insert(published.message_id);
            return Ok(());
        }
        if let Some(late) = self.expected.get(&cause).into_iter().flatten().find(|one| self.is_not_stored(one)) {
            return Err(format!("{kind} of message {} was published before {}", cause.as_u128(), late.kind));
        }
        self.published.insert(published.message_id);
        Ok(())
    }

    /// Whether an output must be in a queue, but is not.
    fn is_not_stored(&self, one: &Expected) -> bool {
        one.must_be_stored() && !self.stored.contains(&one.message_id)
    }

    /// Checks, when nothing is left to do, that every message was decided and every event was
    /// published.
    pub(super) fn check_complete(&self, sent: &[Sent]) -> Result<(), String> {
        let undecided = sent.iter().find(|sent| !self.expected.contains_key(&sent.id));
        if let Some(sent) = undecided {
            return Err(format!("message {}, {}, is lost", sent.id.as_u128(), sent.request.kind()));
        }
        for (id, expected) in &self.expected {
            let is_missing =
                |one: &&Expected| !one.reply && (!self.published.contains(&one.message_id) || self.is_not_stored(one));
            let missing = expected.iter().find(is_missing);
            if let Some(missing) = missing {
                return Err(format!("{} of message {} was not published", missing.kind, id.as_u128()));
            }
        }
        Ok(())
    }

    /// Forgets which outputs were published, because every message is now sent again.
    pub(super) fn forget_published(&mut self) {
        self.published.clear();
        self.stored.clear();
    }

    /// Checks that every message with a reply was answered.
    pub(super) fn check_answered(&self) -> Result<(), String> {
        for (id, expected) in &self.expected {
            let mut replies = expected.iter().filter(|one| one.reply).peekable();
            if replies.peek().is_some() && !replies.any(|one| self.published.contains(&one.message_id)) {
                return Err(format!("message {} was not answered", id.as_u128()));
            }
        }
        Ok(())
    }
}

impl Expected {
    /// Whether a certain queue must store this output.
    fn must_be_stored(&self) -> bool {
        !self.reply && topology::queue_of(&self.kind).is_some()
    }

    fn of(id: Uuid, now_ms: i64, reply: bool, output: &Output) -> Result<Self, String> {
        let kind = output.kind();
        let name = if reply {
            match output {
                Output::RequestRefused(body) if body.code == Code::UntrustedKey => {
                    format!("reply:{kind}:{}", body.code)
                }
                _ => format!("reply:{kind}"),
            }
        } else {
            let subject = output.subject().ok_or_else(|| format!("a {kind} event has no subject"))?;
            format!("event:{kind}:{subject}")
        };
        Ok(Self {
            reply,
            kind: kind.to_owned(),
            message_id: Uuid::new_v5(&id, name.as_bytes()).to_string(),
            timestamp_s: u64::try_from(Timestamp::from_millis(now_ms).as_seconds()).ok(),
            body: output.encode().map_err(|error| error.to_string())?,
        })
    }
}
