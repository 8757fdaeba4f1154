//! One dead letter: its details, and its body in a form that a person can read.

use std::collections::BTreeMap;

use licet_common::{
    runtime::{Claim, Failure, Origin, Trust, Untrusted},
    transport::Delivery,
};
use licet_schema::{Request, Timestamp, encoding, topology};
use serde::Serialize;

/// The maximum number of bytes shown of a body that is text but not a request.
const TEXT_BYTES_MAX: usize = 4096;
/// The maximum number of bytes shown of a body that is not text.
const HEX_BYTES_MAX: usize = 512;
/// The last second that RFC 3339 can express.
const YEAR_9999_END_S: i64 = 253_402_300_799;

/// A dead letter.
#[derive(Debug)]
pub struct Letter {
    /// The worker that handles the message.
    pub worker: &'static str,
    /// The details of the letter.
    pub details: Details,
    pub(super) origin: Result<Origin, Untrusted>,
    pub(super) delivery: Delivery,
}

/// The details of a dead letter, without its body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Details {
    /// The queue of dead letters that contains it.
    pub queue: String,
    /// The message's id, if it has one.
    pub message_id: Option<String>,
    /// The message's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The broker user who sent the message, if known.
    pub sender: Option<String>,
    /// The reason why it is a dead letter.
    pub reason: String,
    /// The number of attempts to decide the message.
    pub attempts: usize,
    /// The error of the first attempt.
    pub first_failure: Option<String>,
    /// When the first attempt failed.
    pub first_failed_at: Option<Timestamp>,
    /// When the last attempt failed.
    pub failed_at: Option<Timestamp>,
    /// The claim of an untrusted publisher about the sender.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// The queue to which the reply is sent.
    pub reply_to: Option<String>,
    /// The AMQP property of this name.
    pub correlation_id: Option<String>,
    /// The AMQP property of this name.
    pub content_type: Option<String>,
    /// The length of the body, in bytes.
    pub body_bytes: usize,
}

/// A body in a form that a person can read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// A request that can be decoded.
    Request(serde_json::Value),
    /// Text that is not a valid request. Long texts are shortened.
    Text(String),
    /// Bytes that are not text, as hexadecimal digits. Long bodies are shortened.
    Hex(String),
}

impl Letter {
    pub(super) fn read(worker: &'static str, delivery: Delivery, trust: &Trust) -> Self {
        let origin = Origin::of_letter(&delivery, trust);
        let properties = &delivery.properties;
        let header = |name| properties.headers.get(name).cloned();
        let (reason, failed_at) = match &delivery.death {
            None => {
                (header(topology::HEADER_REASON), header(topology::HEADER_FAILED_AT).and_then(|at| at.parse().ok()))
            }
            Some(death) => {
                let reason = format!("dead-lettered by the broker itself: {}", death.reason);
                (Some(reason), death.at_s.and_then(expressible))
            }
        };
        let known = origin.as_ref().ok();
        let first = known.and_then(|origin| origin.first_failure.as_ref());
        let details = Details {
            queue: topology::dead_queue(worker),
            message_id: properties.message_id.clone(),
            kind: known.map(|origin| origin.kind.clone()).or_else(|| properties.kind.clone()).unwrap_or_default(),
            sender: known.and_then(|origin| origin.sender.clone()),
            reason: reason.unwrap_or_else(|| "unknown: the letter was not written by a worker of Licet".into()),
            attempts: known.map_or(0, |origin| origin.attempts),
            first_failure: first.map(|Failure { reason, .. }| reason.clone()),
            first_failed_at: first.map(|Failure { at, .. }| *at),
            failed_at,
            claim: known.and_then(|origin| origin.claim.as_ref()).map(sentence),
            reply_to: properties.reply_to.clone(),
            correlation_id: properties.correlation_id.clone(),
            content_type: properties.content_type.clone(),
            body_bytes: delivery.body.len(),
        };
        Self { worker, details, origin, delivery }
    }

    /// The headers with text values, including those of the sender.
    pub fn headers(&self) -> &BTreeMap<String, String> {
        &self.delivery.properties.headers
    }

    /// The body in a form that a person can read.
    pub fn body(&self) -> Body {
        let bytes = &self.delivery.body;
        if let Some(request) = self.request() {
            return Body::Request(request);
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => {
                let end = text.floor_char_boundary(TEXT_BYTES_MAX);
                Body::Text(shortened(end, text.len(), text[..end].to_owned()))
            }
            Err(_) => {
                let end = HEX_BYTES_MAX.min(bytes.len());
                let digits = bytes[..end].iter().map(|byte| format!("{byte:02x}")).collect();
                Body::Hex(shortened(end, bytes.len(), digits))
            }
        }
    }

    /// The body, if it is a request that can be decoded.
    fn request(&self) -> Option<serde_json::Value> {
        encoding::check_content_type(self.details.content_type.as_deref()).ok()?;
        let request = Request::decode(&self.details.kind, &self.delivery.body).ok()?;
        // Encode the decoded request, so that only the fields of the request are shown.
        serde_json::from_slice(&request.encode().ok()?).ok()
    }
}

/// The time, if RFC 3339 can express it. The broker's header can contain any number.
fn expressible(at_s: u64) -> Option<Timestamp> {
    let at_s = i64::try_from(at_s).ok().filter(|at_s| *at_s <= YEAR_9999_END_S)?;
    Some(Timestamp::from_millis(at_s * 1000))
}

/// The beginning of a body, followed by the number of bytes that were left out.
fn shortened(end: usize, whole: usize, shown: String) -> String {
    if end < whole { format!("{shown}… and {} more bytes", whole - end) } else { shown }
}

fn sentence(Claim { by, sender }: &Claim) -> String {
    let name = |user: &Option<String>| user.as_ref().map_or("an unknown user".to_owned(), |user| format!("{user:?}"));
    format!("{} claims that {} sent it", name(by), name(sender))
}
