//! From a delivery to what a worker decides about: the envelope is checked, the body decoded, the
//! tokens read. What cannot be read is told apart here, before anything is looked up.

use std::{panic::AssertUnwindSafe, sync::Arc};

use licet_schema::{Code, Format, Refusal, Request, topology};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{Machine, Worker, batch::panic_text};
use crate::{
    config::Senders,
    signing::Keyring,
    transport::{Delivery, Lost},
};

/// A message that can be decided.
pub(super) struct Work<I> {
    /// Its message_id.
    pub(super) id: Uuid,
    /// Its type.
    pub(super) kind: String,
    /// Its encoding, which its reply will have.
    pub(super) format: Format,
    /// Who sent it, where RabbitMQ says.
    pub(super) sender: Option<String>,
    /// SHA-256 over type, content_type, sender and body. The sender is in it, so that copying a
    /// message does not earn its answer.
    pub(super) digest: [u8; 32],
    /// How often it failed before.
    pub(super) attempt: usize,
    /// What the rules are given, or the refusal that its reading earned.
    pub(super) input: Result<I, Refusal>,
    /// The delivery, for its reply and for a copy of it.
    pub(super) delivery: Arc<Delivery>,
}

/// A message that cannot be decided, or whose sender may not send it.
pub(super) struct TurnedAway {
    /// Why.
    pub(super) refusal: Refusal,
    /// Its message_id, if it has a usable one.
    pub(super) id: Option<Uuid>,
    /// Its type, as far as it names one.
    pub(super) kind: String,
    /// Whether its sender may be answered.
    pub(super) answerable: bool,
    /// Whether it is kept as a dead letter.
    pub(super) kept: bool,
    /// The delivery.
    pub(super) delivery: Arc<Delivery>,
}

/// What reading a delivery gave.
pub(super) enum Reading<I> {
    /// It can be decided.
    Work(Work<I>),
    /// It cannot.
    TurnedAway(TurnedAway),
}

/// Reads deliveries off the async threads.
///
/// # Errors
/// The program is ending, and there are no threads any more: nothing of this may be acknowledged.
pub(super) async fn read_all<W: Worker>(
    worker: &Arc<W>,
    machine: &Machine,
    deliveries: Vec<Delivery>,
) -> Result<Vec<Reading<W::Input>>, Lost> {
    let (worker, keyring, senders) = (worker.clone(), machine.keyring.clone(), machine.senders.clone());
    let reading =
        move || deliveries.into_iter().map(|delivery| read_safely(&*worker, &keyring, &senders, delivery)).collect();
    tokio::task::spawn_blocking(reading).await.map_err(|_| Lost("the program is ending".into()))
}

/// A message that brings its decoder down is unreadable, and nothing more.
fn read_safely<W: Worker>(worker: &W, keyring: &Keyring, senders: &Senders, delivery: Delivery) -> Reading<W::Input> {
    let delivery = Arc::new(delivery);
    let held = delivery.clone();
    std::panic::catch_unwind(AssertUnwindSafe(|| read(worker, keyring, senders, delivery))).unwrap_or_else(|panic| {
        let detail = format!("its decoder panicked: {}", panic_text(&*panic));
        Reading::TurnedAway(TurnedAway {
            refusal: Refusal::new(Code::Malformed, detail),
            id: None,
            kind: held.routing_key.clone(),
            answerable: false,
            kept: true,
            delivery: held,
        })
    })
}

fn read<W: Worker>(worker: &W, keyring: &Keyring, senders: &Senders, delivery: Arc<Delivery>) -> Reading<W::Input> {
    let properties = &delivery.properties;
    // What comes back from a wait queue has our own headers, and the queue for a routing key.
    let retried = delivery.exchange == topology::RETRY;
    let header = |name: &str| properties.headers.get(name).filter(|_| retried).cloned();
    let kind = if retried { properties.kind.clone().unwrap_or_default() } else { delivery.routing_key.clone() };
    let sender = if retried { header(topology::HEADER_SENDER) } else { properties.user_id.clone() };
    let attempt = header(topology::HEADER_ATTEMPT).and_then(|text| text.parse().ok()).unwrap_or(0);
    let id = properties.message_id.as_deref().and_then(|text| Uuid::parse_str(text).ok()).filter(|id| !id.is_nil());
    let answerable = !properties.reply_to.as_deref().unwrap_or_default().starts_with(topology::RESERVED_PREFIX);

    let request = envelope(&delivery, &kind, id, answerable).and_then(|(id, format)| {
        match Request::read(&kind, format, &delivery.body) {
            Ok(request) => Ok((id, format, request)),
            Err(error) => Err(Refusal::new(error.code(), error.to_string())),
        }
    });
    match request {
        // No journal row: a stranger neither uses up message ids nor fills the database.
        Ok((id, ..)) if !senders.permit(sender.as_deref(), &kind) => {
            let who = match &sender {
                Some(user) => format!("the broker user {user:?} may not send {kind}"),
                None => format!("nobody without the property user_id may send {kind}"),
            };
            let detail = format!("{who}: the table [senders] of the workers' licet.toml says who may");
            let refusal = Refusal::new(Code::Forbidden, detail);
            Reading::TurnedAway(TurnedAway { refusal, id: Some(id), kind, answerable, kept: false, delivery })
        }
        Ok((id, format, request)) => {
            let digest = digest(&kind, properties.content_type.as_deref(), sender.as_deref(), &delivery.body);
            let input = worker.read(keyring, request);
            Reading::Work(Work { id, kind, format, sender, digest, attempt, input, delivery })
        }
        Err(refusal) => Reading::TurnedAway(TurnedAway { refusal, id, kind, answerable, kept: true, delivery }),
    }
}

fn envelope(delivery: &Delivery, kind: &str, id: Option<Uuid>, answerable: bool) -> Result<(Uuid, Format), Refusal> {
    let malformed = |detail: String| Refusal::new(Code::Malformed, detail);
    if !answerable {
        return Err(malformed(format!(
            "reply_to must not begin with {:?}: name a queue of your own",
            topology::RESERVED_PREFIX
        )));
    }
    let id = id.ok_or_else(|| {
        malformed("message_id is not a UUID: it is the idempotency key, so give each message its own".into())
    })?;
    match delivery.properties.kind.as_deref() {
        Some(named) if named != kind => Err(malformed(format!(
            "the property type is {named:?}, but the routing key is {kind:?}: they must be the same"
        ))),
        _ => {
            let format = Format::of(delivery.properties.content_type.as_deref());
            format.map(|format| (id, format)).map_err(|error| Refusal::new(error.code(), error.to_string()))
        }
    }
}

/// Every part with its length before it, so that no two messages give the same bytes to hash.
fn digest(kind: &str, content_type: Option<&str>, sender: Option<&str>, body: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in [Some(kind), content_type, sender] {
        let length = part.map_or(u64::MAX, |part| part.len() as u64);
        hash.update(length.to_be_bytes());
        hash.update(part.unwrap_or_default());
    }
    hash.update(body);
    hash.finalize().into()
}
