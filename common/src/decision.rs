//! The context that a rule receives in addition to rows, and the result that it returns: a
//! decision, a refusal or a defect.
//!
//! Deliberately absent: I/O, clocks and randomness. New ids are derived from the id of the message.

use std::collections::BTreeSet;

use licet_schema::{Output, Refusal, Timestamp, message::RequestRefused, token::Claims};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    config::Terms,
    rows::Defect,
    signing::{Draft, Keyring, Signed},
};

/// The information that a rule may use in addition to the rows.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The time, which is read once for each batch, after its locks were acquired.
    pub now: Timestamp,
    /// The keys that tokens are signed and verified with.
    pub keyring: &'a Keyring,
    /// The terms that the operator configured.
    pub terms: &'a Terms,
    /// The id of the message being decided.
    pub message_id: Uuid,
    /// The digest of the message being decided (see [`journal::Model::digest`]).
    ///
    /// [`journal::Model::digest`]: licet_schema::entity::journal::Model::digest
    pub message_digest: [u8; 32],
    /// The broker user who sent the message, if known.
    pub sender: Option<&'a str>,
}

/// The maximum distance between the time in a message id and the present for new ids to contain
/// that time: 30 days, in milliseconds.
const MESSAGE_TIME_WINDOW_MS: u64 = 30 * 86_400_000;

impl Context<'_> {
    /// Creates an id. The id is the same whenever this message is decided, if its `message_id` is a
    /// UUIDv7 whose time is within 30 days of now. Otherwise, it is the same whenever this message
    /// is decided at this time.
    ///
    /// A message that is decided again after a backup was restored therefore creates the same ids
    /// again. A different message under the same `message_id` does not.
    ///
    /// The id has the form of a UUIDv7. It begins with the time in the message id, or with the
    /// current time, so that keys created together are adjacent in an index. The random bits are
    /// replaced by bits of a SHA-256 digest of the message's id and digest, the label and the
    /// index.
    pub fn id(&self, label: &str, index: usize) -> Uuid {
        let mut hash = Sha256::new();
        hash.update(self.message_id.as_bytes());
        hash.update(self.message_digest);
        hash.update(label.as_bytes());
        hash.update((index as u64).to_be_bytes());
        let mut random = [0; 10];
        random.copy_from_slice(&hash.finalize()[..10]);
        uuid::Builder::from_unix_timestamp_millis(self.id_time_ms(), &random).into_uuid()
    }

    /// The time that new ids begin with, in Unix milliseconds.
    fn id_time_ms(&self) -> u64 {
        let now_ms = self.now.as_millis().unsigned_abs();
        let is_near = |message_ms: &u64| message_ms.abs_diff(now_ms) <= MESSAGE_TIME_WINDOW_MS;
        time_of_uuid_v7(self.message_id).filter(is_near).unwrap_or(now_ms)
    }

    /// Signs claims.
    ///
    /// # Errors
    /// The claims contradict each other, or the keyring cannot sign.
    pub fn sign(&self, claims: &impl Claims) -> Result<Signed, Defect> {
        Ok(Draft::new(claims)?.sign(self.keyring)?)
    }
}

/// The time in a UUIDv7, in Unix milliseconds. `None` if the id has another version.
fn time_of_uuid_v7(id: Uuid) -> Option<u64> {
    let is_v7 = id.get_version_num() == 7 && id.get_variant() == uuid::Variant::RFC4122;
    // The time is the first 48 of the 128 bits.
    is_v7.then(|| id.as_u64_pair().0 >> 16)
}

/// The reason a rule made no decision.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// The request is refused. A refusal is a normal reply: it is recorded in the journal and sent.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The program has a defect. Nothing is decided.
    #[error(transparent)]
    Defect(#[from] Defect),
}

impl From<crate::signing::TokenError> for RuleError {
    fn from(error: crate::signing::TokenError) -> Self {
        Self::Refused(error.into())
    }
}

/// The decision about one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The reply. `None` for a message from a timer, which expects no reply.
    pub reply: Option<Output>,
    /// The events in addition to the event form of the reply.
    pub events: Vec<Output>,
    /// Whether the reply, without its tokens, is also published as an event. False if its effect
    /// already existed.
    pub announced: bool,
    /// The subject of the message: the id under which its history can be found.
    pub subject: Option<Uuid>,
    /// Further subjects that the message changed or created.
    pub mentions: BTreeSet<Uuid>,
}

impl Decision {
    /// Creates a decision with a reply.
    pub fn new(reply: Output) -> Self {
        Self { reply: Some(reply), ..Self::nothing() }
    }

    /// Creates a decision without a reply and without events. A decision that remains empty had no
    /// effect and gets no journal row.
    pub fn nothing() -> Self {
        Self { reply: None, events: Vec::new(), announced: true, subject: None, mentions: BTreeSet::new() }
    }

    /// Creates a refusal of a request of the type `message_type`.
    pub fn refused(refusal: &Refusal, message_type: &str) -> Self {
        Self::new(Output::RequestRefused(RequestRefused {
            code: refusal.code,
            detail: refusal.detail.clone(),
            message_type: message_type.to_owned(),
        }))
    }

    /// Adds an event.
    #[must_use]
    pub fn with_event(mut self, event: Output) -> Self {
        self.events.push(event);
        self
    }

    /// Adds events.
    #[must_use]
    pub fn with_events(mut self, events: impl IntoIterator<Item = Output>) -> Self {
        self.events.extend(events);
        self
    }

    /// Removes the event form of the reply, because its effect already existed.
    #[must_use]
    pub fn unannounced(mut self) -> Self {
        self.announced = false;
        self
    }

    /// Adds a further subject.
    #[must_use]
    pub fn mentioning(mut self, subject: Uuid) -> Self {
        self.mentions.insert(subject);
        self
    }

    /// Sets the subject.
    #[must_use]
    pub fn about(mut self, subject: Uuid) -> Self {
        self.subject = Some(subject);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_700_000_000_000;
    const DAY_MS: i64 = 86_400_000;

    /// Creates ids for a message at this time.
    fn ids(now_ms: i64, message_id: Uuid, message_digest: [u8; 32]) -> impl Fn(&str, usize) -> Uuid {
        move |label, index| {
            let keyring = Keyring::new(ed25519_dalek::SigningKey::from_bytes(&[1; 32]), []);
            let (now, terms) = (Timestamp::from_millis(now_ms), Terms::default());
            Context { now, keyring: &keyring, terms: &terms, message_id, message_digest, sender: None }.id(label, index)
        }
    }

    /// A UUIDv7 with this time.
    fn uuid_v7(time_ms: i64) -> Uuid {
        uuid::Builder::from_unix_timestamp_millis(time_ms.unsigned_abs(), &[7; 10]).into_uuid()
    }

    #[test]
    fn ids_depend_on_message_label_and_index_alone() {
        let id = ids(NOW_MS, Uuid::from_u128(1), [0; 32]);
        assert_eq!(id("first", 0), id("first", 0));
        assert_ne!(id("first", 0), id("first", 1));
        assert_ne!(id("first", 0), id("second", 0));
        assert_ne!(id("first", 0), ids(NOW_MS, Uuid::from_u128(2), [0; 32])("first", 0));
    }

    #[test]
    fn a_message_whose_id_is_a_recent_uuid_v7_creates_the_same_ids_whenever_it_is_decided() {
        let message = uuid_v7(NOW_MS);
        let id = |after_ms| ids(NOW_MS + after_ms, message, [0; 32])("row", 0);
        for after_ms in [-30 * DAY_MS, -1, 1, 30 * DAY_MS] {
            assert_eq!(id(after_ms), id(0), "{after_ms} ms after the time in the message id");
        }
        assert_eq!(time_of_uuid_v7(id(0)), time_of_uuid_v7(message));
    }

    #[test]
    fn another_message_under_the_same_id_creates_other_ids() {
        let id = |digest| ids(NOW_MS, uuid_v7(NOW_MS), digest)("row", 0);
        assert_ne!(id([0; 32]), id([1; 32]));
    }

    #[test]
    fn ids_begin_with_the_current_time_if_the_message_id_has_no_recent_time() {
        let other_variant = Uuid::from_u128(uuid_v7(NOW_MS - DAY_MS).as_u128() | 3 << 62);
        let ids_without_a_recent_time = [
            Uuid::from_u128(1),
            uuid_v7(NOW_MS - 30 * DAY_MS - 1),
            uuid_v7(NOW_MS + 30 * DAY_MS + 1),
            uuid::Builder::from_random_bytes(*uuid_v7(NOW_MS).as_bytes()).into_uuid(),
            other_variant,
        ];
        for message in ids_without_a_recent_time {
            let id = ids(NOW_MS, message, [0; 32])("row", 0);
            assert_eq!(time_of_uuid_v7(id), Some(NOW_MS.unsigned_abs()), "{message}");
            assert_ne!(id, ids(NOW_MS + 1, message, [0; 32])("row", 0), "{message}");
        }
    }
}
