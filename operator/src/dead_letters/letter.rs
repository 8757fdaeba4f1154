//! One dead letter: what it tells of itself, and its body as a person can read it.

use std::collections::BTreeMap;

use licet_common::{
    runtime::{Claim, Distrusted, Failure, Past, Trust},
    transport::Delivery,
};
use licet_schema::{Format, Request, Timestamp, topology};
use serde::Serialize;

/// The most bytes of a body that is shown as text, because it is no request.
const TEXT_BYTES_MAX: usize = 4096;
/// The most bytes of a body that is shown in hexadecimal digits.
const HEX_BYTES_MAX: usize = 512;
/// The last second that RFC 3339 can write.
const YEAR_9999_END_S: i64 = 253_402_300_799;

/// A dead letter.
#[derive(Debug)]
pub struct Letter {
    /// The worker whose letter it is.
    pub worker: &'static str,
    /// What it tells.
    pub told: Told,
    pub(super) past: Result<Past, Distrusted>,
    pub(super) delivery: Delivery,
}

/// What a dead letter tells of itself, without its body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Told {
    /// Its queue.
    pub queue: String,
    /// The message's id, if it has one.
    pub message_id: Option<String>,
    /// The message's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Who sent the message, where that is known.
    pub sender: Option<String>,
    /// Why it is here.
    pub reason: String,
    /// How many attempts were made to decide it.
    pub attempts: usize,
    /// What the first of them failed with.
    pub first_failure: Option<String>,
    /// When it first failed.
    pub first_failed_at: Option<Timestamp>,
    /// When it last failed.
    pub failed_at: Option<Timestamp>,
    /// What somebody who is not believed said of its sender.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// The queue of whoever waits for an answer.
    pub reply_to: Option<String>,
    /// The property of this name.
    pub correlation_id: Option<String>,
    /// The encoding of the body.
    pub content_type: Option<String>,
    /// Bytes of its body.
    pub body_bytes: usize,
}

/// A body as a person can read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// A sound request, in JSON whatever its encoding was.
    Request(serde_json::Value),
    /// Text that is no request, cut if it is long.
    Text(String),
    /// Bytes that are no text, in hexadecimal digits, cut if they are many.
    Hex(String),
}

impl Letter {
    pub(super) fn read(worker: &'static str, delivery: Delivery, trust: &Trust) -> Self {
        let past = Past::of_letter(&delivery, trust);
        let properties = &delivery.properties;
        let header = |name| properties.headers.get(name).cloned();
        let (reason, failed_at) = match &delivery.death {
            None => {
                (header(topology::HEADER_REASON), header(topology::HEADER_FAILED_AT).and_then(|at| at.parse().ok()))
            }
            Some(death) => {
                (Some(format!("the broker itself set it aside: {}", death.reason)), death.at_s.and_then(told_at))
            }
        };
        let known = past.as_ref().ok();
        let first = known.and_then(|past| past.first_failure.as_ref());
        let told = Told {
            queue: topology::dead_queue(worker),
            message_id: properties.message_id.clone(),
            kind: known.map(|past| past.kind.clone()).or_else(|| properties.kind.clone()).unwrap_or_default(),
            sender: known.and_then(|past| past.sender.clone()),
            reason: reason.unwrap_or_else(|| "it does not say why: nobody of Licet's put it here".into()),
            attempts: known.map_or(0, |past| past.attempts),
            first_failure: first.map(|Failure { reason, .. }| reason.clone()),
            first_failed_at: first.map(|Failure { at, .. }| *at),
            failed_at,
            claim: known.and_then(|past| past.claim.as_ref()).map(sentence),
            reply_to: properties.reply_to.clone(),
            correlation_id: properties.correlation_id.clone(),
            content_type: properties.content_type.clone(),
            body_bytes: delivery.body.len(),
        };
        Self { worker, told, past, delivery }
    }

    /// Its headers, as far as they are text: the sender's own among them.
    pub fn headers(&self) -> &BTreeMap<String, String> {
        &self.delivery.properties.headers
    }

    /// Its body.
    pub fn body(&self) -> Body {
        let bytes = &self.delivery.body;
        let format = Format::of(self.told.content_type.as_deref()).ok();
        let request = format.and_then(|format| Request::decode(&self.told.kind, format, bytes).ok());
        let json = request.and_then(|request| request.encode(Format::Json).ok());
        if let Some(value) = json.and_then(|json| serde_json::from_slice(&json).ok()) {
            return Body::Request(value);
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => {
                Body::Text(cut(text.floor_char_boundary(TEXT_BYTES_MAX), text.len(), |end| text[..end].to_owned()))
            }
            Err(_) => Body::Hex(cut(HEX_BYTES_MAX.min(bytes.len()), bytes.len(), |end| {
                bytes[..end].iter().map(|byte| format!("{byte:02x}")).collect()
            })),
        }
    }
}

/// A time that somebody told, if it is one that can be written.
fn told_at(at_s: u64) -> Option<Timestamp> {
    let at_s = i64::try_from(at_s).ok().filter(|at_s| *at_s <= YEAR_9999_END_S)?;
    Some(Timestamp::from_millis(at_s * 1000))
}

fn cut(end: usize, whole: usize, upto: impl Fn(usize) -> String) -> String {
    let rest = if end < whole { format!("… and {} bytes more", whole - end) } else { String::new() };
    upto(end) + &rest
}

fn sentence(Claim { by, sender }: &Claim) -> String {
    let who = |name: &Option<String>| name.clone().unwrap_or_else(|| "nobody".into());
    format!("{} says that {} sent it", who(by), who(sender))
}
