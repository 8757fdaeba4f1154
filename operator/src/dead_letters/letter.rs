//! One dead letter: what is known about it, and its body as a person can read it.

use std::collections::BTreeMap;

use licet_common::{
    runtime::{Claim, Failure, Origin, Trust, Untrusted},
    transport::Delivery,
};
use licet_schema::{Request, Timestamp, encoding, topology};
use serde::Serialize;

/// The maximum number of bytes shown of a body that is text and not a request.
const TEXT_BYTES_MAX: usize = 4096;
/// The maximum number of bytes shown of a body in hexadecimal digits.
const HEX_BYTES_MAX: usize = 512;
/// The last second that RFC 3339 can express.
const YEAR_9999_END_S: i64 = 253_402_300_799;

/// A dead letter.
#[derive(Debug)]
pub struct Letter {
    /// The worker whose message it is.
    pub worker: &'static str,
    /// What is known about it.
    pub details: Details,
    pub(super) origin: Result<Origin, Untrusted>,
    pub(super) delivery: Delivery,
}

/// What is known about a dead letter, without its body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Details {
    /// Its queue.
    pub queue: String,
    /// The message's id, if it has one.
    pub message_id: Option<String>,
    /// The message's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The broker user who sent the message, if known.
    pub sender: Option<String>,
    /// Why it is a dead letter.
    pub reason: String,
    /// The number of attempts to decide it.
    pub attempts: usize,
    /// How the first attempt failed.
    pub first_failure: Option<String>,
    /// When the first attempt failed.
    pub first_failed_at: Option<Timestamp>,
    /// When the last attempt failed.
    pub failed_at: Option<Timestamp>,
    /// What an untrusted publisher claims about its sender.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// The queue for the reply.
    pub reply_to: Option<String>,
    /// The property of this name.
    pub correlation_id: Option<String>,
    /// The property of this name.
    pub content_type: Option<String>,
    /// The length of its body, in bytes.
    pub body_bytes: usize,
}

/// A body as a person can read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// A request that can be decoded.
    Request(serde_json::Value),
    /// Text that is not such a request, shortened if it is long.
    Text(String),
    /// Bytes that are not text, in hexadecimal digits, shortened if there are many.
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
                let reason = format!("the broker itself dead-lettered it: {}", death.reason);
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
            reason: reason.unwrap_or_else(|| "unknown: no worker of Licet put it here".into()),
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

    /// Its headers with text values, including those of the sender.
    pub fn headers(&self) -> &BTreeMap<String, String> {
        &self.delivery.properties.headers
    }

    /// Its body.
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
        // Written again, so that only the fields of the request are shown.
        serde_json::from_slice(&request.encode().ok()?).ok()
    }
}

/// A time that RFC 3339 can express. The broker's header can contain any number.
fn expressible(at_s: u64) -> Option<Timestamp> {
    let at_s = i64::try_from(at_s).ok().filter(|at_s| *at_s <= YEAR_9999_END_S)?;
    Some(Timestamp::from_millis(at_s * 1000))
}

/// The beginning of a body, with the number of bytes that were left out.
fn shortened(end: usize, whole: usize, shown: String) -> String {
    if end < whole { format!("{shown}… and {} bytes more", whole - end) } else { shown }
}

fn sentence(Claim { by, sender }: &Claim) -> String {
    let name = |user: &Option<String>| user.as_ref().map_or("an unknown user".to_owned(), |user| format!("{user:?}"));
    format!("{} claims that {} sent it", name(by), name(sender))
}
