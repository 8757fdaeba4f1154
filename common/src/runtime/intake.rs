//! Reads deliveries: checks the message properties, decodes the body and reads the tokens. Messages
//! that cannot be read are separated here, before anything is looked up in the database.

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
    /// The `message_id` of the message.
    pub(super) id: Uuid,
    /// The type and the sender of the message, and its earlier attempts.
    pub(super) origin: Origin,
    /// The SHA-256 digest of the type, sender and body. It includes the sender so
    /// that a user who copies another user's message does not receive the reply to it.
    pub(super) digest: [u8; 32],
    /// Whether the message can be decided: the sender may send it, and its token, if any, names a
    /// trusted key. If not, the message is refused and not recorded. If it was decided earlier,
    /// however, the recorded outputs are sent, even if the configuration or the keys folder has
    /// changed since.
    pub(super) decidable: bool,
    /// The input of the rules, or the refusal that resulted from reading the message.
    pub(super) input: Result<AnyInput, Refusal>,
    /// The delivery, which is needed to reply to the message or to copy it.
    pub(super) delivery: Arc<Delivery>,
}

impl Work {
    /// Whether to look up the message in the journal: it may have been decided earlier, or it
    /// cannot be decided now and only outputs that are already recorded may be sent.
    pub(super) fn may_be_duplicate(&self) -> bool {
        !self.decidable || self.origin.attempts > 0 || self.delivery.redeliveries > 0
    }
}

/// A message that cannot be decided and becomes a dead letter.
pub(super) struct Rejected {
    /// The reason.
    pub(super) refusal: Refusal,
    /// The `message_id` of the message, if it is usable.
    pub(super) id: Option<Uuid>,
    /// The type of the message if it has one, its sender, and its earlier attempts.
    pub(super) origin: Origin,
    /// Whether a reply may be sent.
    pub(super) answerable: bool,
    /// Whether the decoder panicked.
    pub(super) panicked: bool,
    /// The delivery.
    pub(super) delivery: Arc<Delivery>,
}

/// The result of reading a delivery.
pub(super) enum Reading {
    /// The message can be decided.
    Work(Work),
    /// The message cannot be decided.
    Rejected(Rejected),
    /// The sender may not send the message, and it cannot be looked up: it is answered if possible and
    /// has no other effect.
    Forbidden(Rejected),
}

/// Reads deliveries.
///
/// # Errors
/// The program is stopping. None of the deliveries may be acknowledged.
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

/// Reads a delivery. If its decoder panics, the message counts as unreadable and other messages are
/// not affected.
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

    let permitted = !is_forbidden(trust, &origin);
    if leaves_nothing(trust, &origin, &delivery) {
        // The table is consulted first, and the body is not decoded, so that a sender without rights
        // can neither leave dead letters nor use processor time. If the message was decided earlier,
        // its stored outputs are sent.
        let refusal = forbidden(&origin);
        return match envelope(&delivery, &origin.kind, id, answerable) {
            Ok(id) => {
                let digest = digest(&origin.kind, origin.sender.as_deref(), &delivery.body);
                Reading::Work(Work { id, origin, digest, decidable: false, input: Err(refusal), delivery })
            }
            Err(_) => Reading::Forbidden(Rejected { refusal, id, origin, answerable, panicked: false, delivery }),
        };
    }
    let request = check_author(&origin).and_then(|()| envelope(&delivery, &origin.kind, id, answerable));
    let request = request.and_then(|id| match Request::read(&origin.kind, &delivery.body) {
        Ok(request) => Ok((id, request)),
        Err(error) => Err(Refusal::new(error.code(), error.to_string())),
    });
    match request {
        Ok((id, request)) => {
            let digest = digest(&origin.kind, origin.sender.as_deref(), &delivery.body);
            let input = if permitted { worker.read(keyring, request) } else { Err(forbidden(&origin)) };
            let decidable = permitted && input.as_ref().err().is_none_or(|refusal| refusal.code.is_recorded());
            Reading::Work(Work { id, origin, digest, decidable, input, delivery })
        }
        Err(refusal) => Reading::Rejected(Rejected { refusal, id, origin, answerable, panicked: false, delivery }),
    }
}

/// Whether the table `[senders]` forbids a message. A message whose publisher is not trusted to name
/// its sender is refused by [`check_author`] instead.
fn is_forbidden(trust: &Trust, origin: &Origin) -> bool {
    origin.claim.is_none() && !trust.senders.permit(origin.sender.as_deref(), &origin.kind)
}

/// Whether a message leaves no dead letter, because its sender may not send it. A copy in the retry
/// exchange comes from a trusted publisher. If it cannot be read, it becomes a dead letter again,
/// because it would be lost otherwise.
fn leaves_nothing(trust: &Trust, origin: &Origin, delivery: &Delivery) -> bool {
    is_forbidden(trust, origin) && delivery.exchange != topology::RETRY
}

/// Refuses a message that came through the retry exchange from a publisher that is not trusted to
/// name its sender.
fn check_author(origin: &Origin) -> Result<(), Refusal> {
    let Some(claim) = &origin.claim else { return Ok(()) };
    let who = |name: &Option<String>| {
        name.as_ref().map_or("an unknown user".into(), |name| format!("the broker user {name:?}"))
    };
    let (by, sender) = (who(&claim.by), who(&claim.sender));
    let detail = format!(
        "it came through {0} from {by}, who is not trusted to name {sender} as the sender: publish to {1}, or, \
         to let {by} replay dead letters, add the entry {0:?} for that user \
         to the table [senders] of the workers' licet.toml",
        topology::RETRY,
        topology::IN
    );
    Err(Refusal::new(Code::Forbidden, detail))
}

fn forbidden(origin: &Origin) -> Refusal {
    let kind = &origin.kind;
    let who = match &origin.sender {
        Some(user) => format!("the broker user {user:?} may not send {kind}"),
        None => format!("messages without the property user_id may not have the type {kind}"),
    };
    let detail = format!("{who}: the table [senders] of the workers' licet.toml lists the permitted senders");
    Refusal::new(Code::Forbidden, detail)
}

/// Whether the broker itself must move a delivery to the dead letters, because it is too large to be
/// copied, and its sender may send it.
pub(super) fn is_moved_by_the_broker(resources: &Resources, delivery: &Delivery) -> bool {
    is_oversized(delivery) && {
        let trust = Trust::new(resources.transport.user(), resources.senders.clone());
        !leaves_nothing(&trust, &Origin::of_work(delivery, &trust), delivery)
    }
}

/// Whether a delivery is too large to be read. Such a delivery is not copied either.
pub(super) fn is_oversized(delivery: &Delivery) -> bool {
    delivery.body.len() > topology::MESSAGE_BYTES_MAX
}

fn envelope(delivery: &Delivery, kind: &str, id: Option<Uuid>, answerable: bool) -> Result<Uuid, Refusal> {
    let malformed = |detail: String| Refusal::new(Code::Malformed, detail);
    if is_oversized(delivery) {
        let (bytes, most) = (delivery.body.len(), topology::MESSAGE_BYTES_MAX);
        return Err(malformed(format!(
            "the body has {bytes} bytes, but at most {most} are allowed: send smaller requests"
        )));
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

/// Hashes the length of each part before the part itself, so that no two messages produce the same
/// input for the hash.
fn digest(kind: &str, sender: Option<&str>, body: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in [Some(kind), sender] {
        let length = part.map_or(u64::MAX, |part| part.len() as u64);
        hash.update(length.to_be_bytes());
        hash.update(part.unwrap_or_default());
    }
    hash.update(body);
    hash.finalize().into()
}
