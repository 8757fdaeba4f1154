//! From a delivery to what a worker decides about: the envelope is checked, the body decoded, the
//! tokens read. What cannot be read is told apart here, before anything is looked up.

use std::{panic::AssertUnwindSafe, sync::Arc};

use licet_schema::{Code, Format, Refusal, Request, topology};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{
    Machine, Worker,
    batch::panic_text,
    compute::{computed, weight},
    copies::{Past, Trust},
};
use crate::{
    signing::Keyring,
    transport::{Delivery, Lost},
};

/// A message that can be decided.
pub(super) struct Work<I> {
    /// Its message_id.
    pub(super) id: Uuid,
    /// Its type, who sent it, how often it failed before.
    pub(super) past: Past,
    /// Its encoding, which its reply will have.
    pub(super) format: Format,
    /// SHA-256 over type, content_type, sender and body. The sender is in it, so that copying a
    /// message does not earn its answer.
    pub(super) digest: [u8; 32],
    /// Whether its sender may send it. If not, it is refused and leaves no trace, unless it was
    /// decided before: then its answer stands, whatever was configured since.
    pub(super) permitted: bool,
    /// What the rules are given, or the refusal that its reading earned.
    pub(super) input: Result<I, Refusal>,
    /// The delivery, for its reply and for a copy of it.
    pub(super) delivery: Arc<Delivery>,
}

impl<I> Work<I> {
    /// Whether there is a sign that it was decided before, or that only what was decided before may be told.
    pub(super) fn may_be_known(&self) -> bool {
        !self.permitted || self.past.attempts > 0 || self.delivery.redeliveries > 0
    }
}

/// A message that cannot be decided, and becomes a dead letter.
pub(super) struct TurnedAway {
    /// Why.
    pub(super) refusal: Refusal,
    /// Its message_id, if it has a usable one.
    pub(super) id: Option<Uuid>,
    /// Its type, as far as it names one, who sent it, how often it failed before.
    pub(super) past: Past,
    /// Whether its sender may be answered.
    pub(super) answerable: bool,
    /// Whether it brought its decoder down.
    pub(super) panicked: bool,
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

/// Reads deliveries.
///
/// # Errors
/// The program is ending, and there are no threads any more: nothing of this may be acknowledged.
pub(super) async fn read_all<W: Worker>(
    worker: &Arc<W>,
    machine: &Machine,
    deliveries: Vec<Delivery>,
) -> Result<Vec<Reading<W::Input>>, Lost> {
    let (worker, keyring) = (worker.clone(), machine.keyring.clone());
    let trust = Trust::new(machine.transport.user(), machine.senders.clone());
    let weight = deliveries.iter().map(|delivery| weight(&delivery.body)).sum();
    let reading =
        move || deliveries.into_iter().map(|delivery| read_safely(&*worker, &keyring, &trust, delivery)).collect();
    computed(weight, reading).await.map_err(|_| Lost("the program is ending".into()))
}

/// A message that brings its decoder down is unreadable, and nothing more.
fn read_safely<W: Worker>(worker: &W, keyring: &Keyring, trust: &Trust, delivery: Delivery) -> Reading<W::Input> {
    let delivery = Arc::new(delivery);
    let held = delivery.clone();
    std::panic::catch_unwind(AssertUnwindSafe(|| read(worker, keyring, trust, delivery))).unwrap_or_else(|panic| {
        let detail = format!("its decoder panicked: {}", panic_text(&*panic));
        Reading::TurnedAway(TurnedAway {
            refusal: Refusal::new(Code::Malformed, detail),
            id: None,
            past: Past::of_work(&held, trust),
            answerable: false,
            panicked: true,
            delivery: held,
        })
    })
}

fn read<W: Worker>(worker: &W, keyring: &Keyring, trust: &Trust, delivery: Arc<Delivery>) -> Reading<W::Input> {
    let properties = &delivery.properties;
    let past = Past::of_work(&delivery, trust);
    let id = properties.message_id.as_deref().and_then(|text| Uuid::parse_str(text).ok()).filter(|id| !id.is_nil());
    let answerable = !properties.reply_to.as_deref().unwrap_or_default().starts_with(topology::RESERVED_PREFIX);

    let request = believed(&past).and_then(|()| envelope(&delivery, &past.kind, id, answerable));
    let request = request.and_then(|(id, format)| match Request::read(&past.kind, format, &delivery.body) {
        Ok(request) => Ok((id, format, request)),
        Err(error) => Err(Refusal::new(error.code(), error.to_string())),
    });
    match request {
        Ok((id, format, request)) => {
            let sender = past.sender.as_deref();
            let digest = digest(&past.kind, properties.content_type.as_deref(), sender, &delivery.body);
            let permitted = trust.senders.permit(sender, &past.kind);
            let input = if permitted { worker.read(keyring, request) } else { Err(forbidden(&past)) };
            Reading::Work(Work { id, past, format, digest, permitted, input, delivery })
        }
        Err(refusal) => Reading::TurnedAway(TurnedAway { refusal, id, past, answerable, panicked: false, delivery }),
    }
}

/// A copy is worth no more than its author's word.
fn believed(past: &Past) -> Result<(), Refusal> {
    let Some(claim) = &past.claim else { return Ok(()) };
    let who = |name: &Option<String>| name.as_ref().map_or("nobody".into(), |name| format!("the broker user {name:?}"));
    let (by, sender) = (who(&claim.by), who(&claim.sender));
    let detail = format!(
        "it came through {0} from {by}, who is not believed that {sender} sent it: publish to {1}; if {by} is to replay dead letters, name {0:?} for that user in the table [senders] of the workers' licet.toml",
        topology::RETRY,
        topology::IN
    );
    Err(Refusal::new(Code::Forbidden, detail))
}

fn forbidden(past: &Past) -> Refusal {
    let kind = &past.kind;
    let who = match &past.sender {
        Some(user) => format!("the broker user {user:?} may not send {kind}"),
        None => format!("nobody without the property user_id may send {kind}"),
    };
    let detail = format!("{who}: the table [senders] of the workers' licet.toml says who may");
    Refusal::new(Code::Forbidden, detail)
}

/// Whether a delivery is larger than any is read. Such a one is not copied either: the broker itself
/// moves it to the dead letters.
pub(super) fn is_oversized(delivery: &Delivery) -> bool {
    delivery.body.len() > topology::MESSAGE_BYTES_MAX
}

fn envelope(delivery: &Delivery, kind: &str, id: Option<Uuid>, answerable: bool) -> Result<(Uuid, Format), Refusal> {
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
