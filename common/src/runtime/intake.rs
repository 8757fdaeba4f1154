//! From a delivery to what a worker decides about: check the envelope, decode the body, read the
//! tokens. What cannot be read is separated here, before anything is looked up.

use std::{panic::AssertUnwindSafe, sync::Arc};

use licet_schema::{Code, Refusal, Request, encoding, topology};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{
    Resources,
    offload::{OffloadError, offload, panic_text, weight},
    retry_headers::{Origin, Trust},
    worker::{AnyInput, AnyWorker},
};
use crate::{signing::Keyring, transport::Delivery};

/// A message that can be decided.
pub(super) struct Work {
    /// Its message_id.
    pub(super) id: Uuid,
    /// Its type, its sender, and how often it failed before.
    pub(super) origin: Origin,
    /// SHA-256 over type, content_type, sender and body. The sender is part of it, so that a
    /// user who copies another user's message does not receive its answer.
    pub(super) digest: [u8; 32],
    /// Whether its sender may send it. If not, it is refused and not recorded, unless it was decided
    /// before: then that answer counts, even if the configuration has changed.
    pub(super) permitted: bool,
    /// What the rules are given, or the refusal that reading it led to.
    pub(super) input: Result<AnyInput, Refusal>,
    /// The delivery, for its reply and for a copy of it.
    pub(super) delivery: Arc<Delivery>,
}

impl Work {
    /// Whether it shows a sign of having been decided before, or may be answered only if it was.
    pub(super) fn may_be_duplicate(&self) -> bool {
        !self.permitted || self.origin.attempts > 0 || self.delivery.redeliveries > 0
    }
}

/// A message that cannot be decided, and becomes a dead letter.
pub(super) struct Rejected {
    /// Why.
    pub(super) refusal: Refusal,
    /// Its message_id, if it has a usable one.
    pub(super) id: Option<Uuid>,
    /// Its type as far as it names one, its sender, and how often it failed before.
    pub(super) origin: Origin,
    /// Whether its sender may be answered.
    pub(super) answerable: bool,
    /// Whether its decoder panicked.
    pub(super) panicked: bool,
    /// The delivery.
    pub(super) delivery: Arc<Delivery>,
}

/// The result of reading a delivery.
pub(super) enum Reading {
    /// It can be decided.
    Work(Work),
    /// It cannot.
    Rejected(Rejected),
}

/// Reads deliveries.
///
/// # Errors
/// The program is stopping: none of them may be acknowledged.
pub(super) async fn read_all(
    worker: &Arc<dyn AnyWorker>,
    resources: &Resources,
    deliveries: Vec<Delivery>,
) -> Result<Vec<Reading>, OffloadError> {
    let (worker, keyring) = (worker.clone(), resources.keyring.clone());
    let trust = Trust::new(resources.transport.user(), resources.senders.clone());
    let weight = deliveries.iter().map(|delivery| weight(&delivery.body)).sum();
    let reading =
        move || deliveries.into_iter().map(|delivery| read_safely(&*worker, &keyring, &trust, delivery)).collect();
    offload(weight, reading).await
}

/// A message whose decoder panics is unreadable; the other messages are not affected.
fn read_safely(worker: &dyn AnyWorker, keyring: &Keyring, trust: &Trust, delivery: Delivery) -> Reading {
    let delivery = Arc::new(delivery);
    let kept = delivery.clone();
    std::panic::catch_unwind(AssertUnwindSafe(|| read(worker, keyring, trust, delivery))).unwrap_or_else(|panic| {
        let detail = format!("its decoder panicked: {}", panic_text(&*panic));
        Reading::Rejected(Rejected {
            refusal: Refusal::new(Code::Malformed, detail),
            id: None,
            origin: Origin::of_work(&kept, trust),
            answerable: false,
            panicked: true,
            delivery: kept,
        })
    })
}

fn read(worker: &dyn AnyWorker, keyring: &Keyring, trust: &Trust, delivery: Arc<Delivery>) -> Reading {
    let properties = &delivery.properties;
    let origin = Origin::of_work(&delivery, trust);
    let id = properties.message_id.as_deref().and_then(|text| Uuid::parse_str(text).ok()).filter(|id| !id.is_nil());
    let answerable = !properties.reply_to.as_deref().is_some_and(|queue| queue.starts_with(topology::RESERVED_PREFIX));

    let request = check_author(&origin).and_then(|()| envelope(&delivery, &origin.kind, id, answerable));
    let request = request.and_then(|id| match Request::read(&origin.kind, &delivery.body) {
        Ok(request) => Ok((id, request)),
        Err(error) => Err(Refusal::new(error.code(), error.to_string())),
    });
    match request {
        Ok((id, request)) => {
            let sender = origin.sender.as_deref();
            let digest = digest(&origin.kind, properties.content_type.as_deref(), sender, &delivery.body);
            let permitted = trust.senders.permit(sender, &origin.kind);
            let input = if permitted { worker.read(keyring, request) } else { Err(forbidden(&origin)) };
            Reading::Work(Work { id, origin, digest, permitted, input, delivery })
        }
        Err(refusal) => Reading::Rejected(Rejected { refusal, id, origin, answerable, panicked: false, delivery }),
    }
}

/// Refuses a message that came through the retry exchange from a publisher that is not trusted to
/// name its sender.
fn check_author(origin: &Origin) -> Result<(), Refusal> {
    let Some(claim) = &origin.claim else { return Ok(()) };
    let who = |name: &Option<String>| name.as_ref().map_or("nobody".into(), |name| format!("the broker user {name:?}"));
    let (by, sender) = (who(&claim.by), who(&claim.sender));
    let detail = format!(
        "it came through {0} from {by}, who is not trusted to say that {sender} sent it: publish to {1}; if {by} is to replay dead letters, name {0:?} for that user in the table [senders] of the workers' licet.toml",
        topology::RETRY,
        topology::IN
    );
    Err(Refusal::new(Code::Forbidden, detail))
}

fn forbidden(origin: &Origin) -> Refusal {
    let kind = &origin.kind;
    let who = match &origin.sender {
        Some(user) => format!("the broker user {user:?} may not send {kind}"),
        None => format!("nobody without the property user_id may send {kind}"),
    };
    let detail = format!("{who}: the table [senders] of the workers' licet.toml says who may");
    Refusal::new(Code::Forbidden, detail)
}

/// Whether a delivery is larger than the largest that is read. It is not copied either: the broker
/// itself moves it to the dead letters.
pub(super) fn is_oversized(delivery: &Delivery) -> bool {
    delivery.body.len() > topology::MESSAGE_BYTES_MAX
}

fn envelope(delivery: &Delivery, kind: &str, id: Option<Uuid>, answerable: bool) -> Result<Uuid, Refusal> {
    let malformed = |detail: String| Refusal::new(Code::Malformed, detail);
    if is_oversized(delivery) {
        let (bytes, most) = (delivery.body.len(), topology::MESSAGE_BYTES_MAX);
        return Err(malformed(format!("the body has {bytes} bytes: at most {most} are read, so send it in parts")));
    }
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
        _ => match encoding::check_content_type(delivery.properties.content_type.as_deref()) {
            Ok(()) => Ok(id),
            Err(error) => Err(Refusal::new(error.code(), error.to_string())),
        },
    }
}

/// Hashes each part after its length, so that no two messages give the same bytes to hash.
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
