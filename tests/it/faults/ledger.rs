//! The records of the client about every message: the bytes that it sent, whether the broker
//! confirmed them, and everything that it received. At the end, the records are compared byte for
//! byte.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tokio::sync::Notify;
use uuid::Uuid;

/// The longest time for which a change of the records can go unnoticed.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A received message, with everything that must be identical when it is received again.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) message_id: String,
    pub(crate) kind: String,
    pub(crate) content_type: String,
    pub(crate) timestamp: Option<u64>,
    pub(crate) cause: Option<Uuid>,
    pub(crate) body: Vec<u8>,
}

impl std::fmt::Debug for Received {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { message_id, kind, content_type, timestamp, cause, body } = self;
        let body = String::from_utf8_lossy(body);
        write!(f, "{kind} {message_id} ({content_type}, {timestamp:?}, caused by {cause:?}): {body}")
    }
}

/// A message that the client sent to Licet.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) kind: &'static str,
    pub(crate) body: Vec<u8>,
    /// How often the message was sent.
    pub(crate) sent: u64,
    /// Whether the message is sent again only if the broker does not confirm it.
    pub(crate) once: bool,
    /// Whether the broker confirmed the message.
    pub(crate) accepted: bool,
    pub(crate) replies: Vec<Received>,
}

/// The records of a run.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    records: Mutex<Records>,
    changed: Notify,
}

/// See [`Ledger`].
#[derive(Debug, Default)]
pub(crate) struct Records {
    /// The ids of all messages, in the order in which they were added.
    pub(crate) order: Vec<Uuid>,
    pub(crate) entries: HashMap<Uuid, Entry>,
    /// Each event by its message id, with the number of times that it was received.
    pub(crate) events: HashMap<String, (Received, u64)>,
    pub(crate) resent: u64,
    pub(crate) nacks: u64,
    pub(crate) returned: u64,
    pub(crate) blocked: u64,
    pub(crate) connections: u64,
    /// The violated guarantees, in one sentence each.
    pub(crate) violations: Vec<String>,
}

/// The counts of a comparison.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Comparison {
    pub(crate) accepted: usize,
    pub(crate) replies: usize,
    /// Replies that were compared with the first reply to the same message.
    pub(crate) compared: usize,
    pub(crate) events: usize,
    pub(crate) events_again: u64,
}

impl Ledger {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a message before it is sent.
    pub(crate) fn add(&self, id: Uuid, kind: &'static str, body: &Value, once: bool) {
        let body = serde_json::to_vec(body).expect("JSON");
        let entry = Entry { kind, body, sent: 0, once, accepted: false, replies: Vec::new() };
        let mut records = self.lock();
        records.order.push(id);
        records.entries.insert(id, entry);
    }

    /// Records a reply to the message `correlation`, or an event.
    pub(crate) fn record(&self, received: Received, correlation: Option<Uuid>) {
        let mut records = self.lock();
        match correlation {
            Some(id) => match records.entries.get_mut(&id) {
                Some(entry) => entry.replies.push(received),
                None => records.violations.push(format!("a reply belongs to no request: {received:?}")),
            },
            None => match records.events.get_mut(&received.message_id) {
                None => {
                    records.events.insert(received.message_id.clone(), (received, 1));
                }
                Some((first, times)) => {
                    *times += 1;
                    if *first != received {
                        let violation = format!("an event was received as {first:?} and as {received:?}");
                        records.violations.push(violation);
                    }
                }
            },
        }
        drop(records);
        self.changed.notify_waiters();
    }

    /// Waits until `condition` holds. Returns false after the timeout.
    pub(crate) async fn wait_until(&self, timeout: Duration, condition: impl Fn(&Records) -> bool) -> bool {
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                if condition(&self.lock()) {
                    return;
                }
                // Not every change of the records is notified.
                let _ = tokio::time::timeout(POLL_INTERVAL, changed).await;
            }
        };
        tokio::time::timeout(timeout, waiting).await.is_ok()
    }

    /// The first reply to a message, if it was received.
    pub(crate) fn reply(&self, id: Uuid) -> Option<Received> {
        self.lock().entries.get(&id).and_then(|entry| entry.replies.first().cloned())
    }
}

/// The expected type of the reply to a request.
pub(crate) fn expected(kind: &str) -> &'static str {
    match kind {
        "content.put" => "content.registered",
        "purchase.request" => "certificate.issued",
        "certificate.receipt" => "certificate.accepted",
        "settlement.completion" => "settlement.registered",
        "license.request" => "license.issued",
        "license.receipt" => "license.granted",
        "license.return" => "license.returned",
        other => panic!("the load does not send {other}"),
    }
}

impl Records {
    /// Compares repeated replies with each other, and replies with events.
    ///
    /// # Errors
    /// The violated guarantees, in one sentence each.
    pub(crate) fn compare(&self) -> Result<Comparison, Vec<String>> {
        let mut violations = self.violations.clone();
        let mut comparison = Comparison { events: self.events.len(), ..Comparison::default() };
        comparison.events_again = self.events.values().map(|(_, times)| times - 1).sum();
        let mut caused: HashMap<Uuid, Vec<&Received>> = HashMap::new();
        for (event, _) in self.events.values() {
            caused.entry(event.cause.unwrap_or_default()).or_default().push(event);
        }
        for (id, entry) in &self.entries {
            comparison.accepted += usize::from(entry.accepted);
            comparison.replies += entry.replies.len();
            let Some((first, others)) = entry.replies.split_first() else {
                violations.push(format!("{} {id} (accepted: {}) has no reply", entry.kind, entry.accepted));
                continue;
            };
            comparison.compared += others.len();
            if let Some(other) = others.iter().find(|other| *other != first) {
                violations.push(format!("{} {id} has the replies {first:?} and {other:?}", entry.kind));
            }
            let text = String::from_utf8_lossy(&first.body);
            // When many terminals use one certificate, most license requests are refused.
            if first.kind == "request.refused" && entry.kind == "license.request" && text.contains("\"exhausted\"") {
                continue;
            }
            if first.kind != expected(entry.kind) || first.cause != Some(*id) {
                violations.push(format!("{} {id} has the reply {}: {text}", entry.kind, first.kind));
            }
            violations.extend(missing_event(*id, first, caused.get(id).map(Vec::as_slice).unwrap_or_default()));
        }
        if violations.is_empty() { Ok(comparison) } else { Err(violations) }
    }

    /// The number of lost messages. A message is lost if it was sent once and confirmed, but caused
    /// no event.
    pub(crate) fn lost(&self) -> usize {
        let causes: HashSet<_> = self.events.values().filter_map(|(event, _)| event.cause).collect();
        let once = self.entries.iter().filter(|(_, entry)| entry.once && entry.accepted);
        once.filter(|(id, _)| !causes.contains(id)).count()
    }

    /// Whether an event was received for every reply that reports an effect.
    pub(crate) fn has_all_events(&self) -> bool {
        let causes: HashSet<_> = self.events.values().map(|(event, _)| (event.cause, event.kind.as_str())).collect();
        let mut replies = self.entries.iter().filter_map(|(id, entry)| Some((*id, entry.replies.first()?)));
        replies.all(|(id, reply)| !is_effect(reply) || causes.contains(&(Some(id), reply.kind.as_str())))
    }
}

/// Checks that an effect has an event with the type and the body of its reply, without the tokens.
fn missing_event(id: Uuid, reply: &Received, events: &[&Received]) -> Option<String> {
    if !is_effect(reply) {
        return None;
    }
    let Some(event) = events.iter().find(|event| event.kind == reply.kind) else {
        return Some(format!("{id} has the reply {} and no event", reply.kind));
    };
    let (expected, found) = (without_tokens(json(&reply.body)), json(&event.body));
    (expected != found).then(|| format!("{id} has the reply {expected} and the event {found}"))
}

fn is_effect(reply: &Received) -> bool {
    reply.kind != "request.refused" && json(&reply.body)["repeated"] != true
}

pub(crate) fn json(body: &[u8]) -> Value {
    serde_json::from_slice(body).expect("Licet sends JSON")
}

fn without_tokens(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let public = fields.into_iter().filter(|(name, _)| !name.ends_with("_token"));
            Value::Object(public.map(|(name, value)| (name, without_tokens(value))).collect())
        }
        Value::Array(values) => Value::Array(values.into_iter().map(without_tokens).collect()),
        other => other,
    }
}
