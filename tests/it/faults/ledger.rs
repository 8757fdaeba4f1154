//! What an upstream system remembers of every message: the bytes it sent, whether the broker took
//! them, and all that came back. At the end the book is compared, byte for byte.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tokio::sync::Notify;
use uuid::Uuid;

/// How long a change may go unnoticed.
const GLANCE: Duration = Duration::from_millis(50);

/// A message as it came: everything that must be the same when it comes again.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Arrived {
    pub(crate) message_id: String,
    pub(crate) kind: String,
    pub(crate) content_type: String,
    pub(crate) timestamp: Option<u64>,
    pub(crate) cause: Option<Uuid>,
    pub(crate) body: Vec<u8>,
}

impl std::fmt::Debug for Arrived {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { message_id, kind, content_type, timestamp, cause, body } = self;
        let body = String::from_utf8_lossy(body);
        write!(f, "{kind} {message_id} ({content_type}, {timestamp:?}, because of {cause:?}): {body}")
    }
}

/// One message to Licet.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) kind: &'static str,
    pub(crate) body: Vec<u8>,
    pub(crate) sent: u64,
    /// It is sent once, and again only if the broker does not confirm it.
    pub(crate) once: bool,
    /// The broker confirmed it.
    pub(crate) accepted: bool,
    pub(crate) replies: Vec<Arrived>,
}

/// The book of a run.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pages: Mutex<Pages>,
    changed: Notify,
}

/// See [`Ledger`].
#[derive(Debug, Default)]
pub(crate) struct Pages {
    pub(crate) order: Vec<Uuid>,
    pub(crate) entries: HashMap<Uuid, Entry>,
    /// By message_id: the event, and how often it came.
    pub(crate) events: HashMap<String, (Arrived, u64)>,
    pub(crate) resent: u64,
    pub(crate) nacks: u64,
    pub(crate) returned: u64,
    pub(crate) blocked: u64,
    pub(crate) connections: u64,
    /// What must not be.
    pub(crate) wrong: Vec<String>,
}

/// What a comparison counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Compared {
    pub(crate) accepted: usize,
    pub(crate) replies: usize,
    /// Replies held against the first to the same message.
    pub(crate) compared: usize,
    pub(crate) events: usize,
    pub(crate) events_again: u64,
}

impl Ledger {
    pub(crate) fn open(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self, id: Uuid, kind: &'static str, body: &Value, once: bool) {
        let body = serde_json::to_vec(body).expect("JSON");
        let entry = Entry { kind, body, sent: 0, once, accepted: false, replies: Vec::new() };
        let mut pages = self.open();
        pages.order.push(id);
        pages.entries.insert(id, entry);
    }

    /// A reply, or an event.
    pub(crate) fn arrived(&self, arrived: Arrived, correlation: Option<Uuid>) {
        let mut pages = self.open();
        match correlation {
            Some(id) => match pages.entries.get_mut(&id) {
                Some(entry) => entry.replies.push(arrived),
                None => pages.wrong.push(format!("a reply to nothing that was asked: {arrived:?}")),
            },
            None => match pages.events.get_mut(&arrived.message_id) {
                None => {
                    pages.events.insert(arrived.message_id.clone(), (arrived, 1));
                }
                Some((first, times)) => {
                    *times += 1;
                    if *first != arrived {
                        let difference = format!("an event came as {first:?} and as {arrived:?}");
                        pages.wrong.push(difference);
                    }
                }
            },
        }
        drop(pages);
        self.changed.notify_waiters();
    }

    /// Waits until this holds; false, if it does not in time.
    pub(crate) async fn until(&self, patience: Duration, holds: impl Fn(&Pages) -> bool) -> bool {
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                if holds(&self.open()) {
                    return;
                }
                // Not all that is written down is told.
                let _ = tokio::time::timeout(GLANCE, changed).await;
            }
        };
        tokio::time::timeout(patience, waiting).await.is_ok()
    }

    /// The reply to a message, if one has come.
    pub(crate) fn reply(&self, id: Uuid) -> Option<Arrived> {
        self.open().entries.get(&id).and_then(|entry| entry.replies.first().cloned())
    }
}

/// The reply that each request earns here.
pub(crate) fn expected(kind: &str) -> &'static str {
    match kind {
        "content.put" => "content.registered",
        "purchase.request" => "certificate.issued",
        "certificate.receipt" => "certificate.accepted",
        "settlement.completion" => "settlement.registered",
        "license.request" => "license.issued",
        "license.receipt" => "license.granted",
        "license.return" => "license.returned",
        other => panic!("nobody sends {other} here"),
    }
}

impl Pages {
    /// Holds everything against everything.
    ///
    /// # Errors
    /// What does not hold, one sentence each.
    pub(crate) fn compare(&self) -> Result<Compared, Vec<String>> {
        let mut wrong = self.wrong.clone();
        let mut compared = Compared { events: self.events.len(), ..Compared::default() };
        compared.events_again = self.events.values().map(|(_, times)| times - 1).sum();
        let mut caused: HashMap<Uuid, Vec<&Arrived>> = HashMap::new();
        for (event, _) in self.events.values() {
            caused.entry(event.cause.unwrap_or_default()).or_default().push(event);
        }
        for (id, entry) in &self.entries {
            compared.accepted += usize::from(entry.accepted);
            compared.replies += entry.replies.len();
            let Some((first, others)) = entry.replies.split_first() else {
                wrong.push(format!("{} {id} (accepted: {}) was never answered", entry.kind, entry.accepted));
                continue;
            };
            compared.compared += others.len();
            if let Some(other) = others.iter().find(|other| *other != first) {
                wrong.push(format!("{} {id} was answered {first:?} and {other:?}", entry.kind));
            }
            let text = String::from_utf8_lossy(&first.body);
            // Of a storm on one certificate all but a few are refused.
            if first.kind == "request.refused" && entry.kind == "license.request" && text.contains("\"exhausted\"") {
                continue;
            }
            if first.kind != expected(entry.kind) || first.cause != Some(*id) {
                wrong.push(format!("{} {id} was answered with {}: {text}", entry.kind, first.kind));
            }
            wrong.extend(missing_event(*id, first, caused.get(id).map(Vec::as_slice).unwrap_or_default()));
        }
        if wrong.is_empty() { Ok(compared) } else { Err(wrong) }
    }

    /// What was sent once and confirmed, and had no effect that anybody was told of: lost.
    pub(crate) fn lost(&self) -> usize {
        let causes: std::collections::HashSet<_> = self.events.values().filter_map(|(event, _)| event.cause).collect();
        let once = self.entries.iter().filter(|(_, entry)| entry.once && entry.accepted);
        once.filter(|(id, _)| !causes.contains(id)).count()
    }

    /// Whether the event of every answered message has come.
    pub(crate) fn all_told(&self) -> bool {
        let causes: std::collections::HashSet<_> =
            self.events.values().map(|(event, _)| (event.cause, event.kind.as_str())).collect();
        let mut answered = self.entries.iter().filter_map(|(id, entry)| Some((*id, entry.replies.first()?)));
        answered.all(|(id, reply)| !is_effect(reply) || causes.contains(&(Some(id), reply.kind.as_str())))
    }
}

/// An effect is announced: an event of the reply's type that says the same, but for the tokens.
fn missing_event(id: Uuid, reply: &Arrived, events: &[&Arrived]) -> Option<String> {
    if !is_effect(reply) {
        return None;
    }
    let Some(event) = events.iter().find(|event| event.kind == reply.kind) else {
        return Some(format!("{id} was answered with {} and nobody was told", reply.kind));
    };
    let (public, told) = (without_tokens(json(&reply.body)), json(&event.body));
    (public != told).then(|| format!("{id} was answered {public} and others were told {told}"))
}

fn is_effect(reply: &Arrived) -> bool {
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
