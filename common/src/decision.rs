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
    /// The broker user who sent the message, if known.
    pub sender: Option<&'a str>,
}

impl Context<'_> {
    /// Creates an id. The id is the same whenever this message is decided at this time.
    ///
    /// The id has the form of a UUIDv7. It begins with the time, so that keys created together are
    /// adjacent in an index. The random bits are replaced by bits of a SHA-256 digest of the
    /// message id, the label and the index.
    pub fn id(&self, label: &str, index: usize) -> Uuid {
        let mut hash = Sha256::new();
        hash.update(self.message_id.as_bytes());
        hash.update(label.as_bytes());
        hash.update((index as u64).to_be_bytes());
        let mut random = [0; 10];
        random.copy_from_slice(&hash.finalize()[..10]);
        uuid::Builder::from_unix_timestamp_millis(self.now.as_millis().unsigned_abs(), &random).into_uuid()
    }

    /// Signs claims.
    ///
    /// # Errors
    /// The claims contradict each other, or the keyring cannot sign.
    pub fn sign(&self, claims: &impl Claims) -> Result<Signed, Defect> {
        Ok(Draft::new(claims)?.sign(self.keyring)?)
    }
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
    /// The reply. `None` for a message from a clock.
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

    #[test]
    fn ids_depend_on_message_label_and_index_alone() {
        let keyring = Keyring::new(ed25519_dalek::SigningKey::from_bytes(&[1; 32]), []);
        let terms = Terms::default();
        let context = Context {
            now: Timestamp::from_millis(1_700_000_000_000),
            keyring: &keyring,
            terms: &terms,
            message_id: Uuid::from_u128(1),
            sender: None,
        };
        assert_eq!(context.id("first", 0), context.id("first", 0));
        assert_ne!(context.id("first", 0), context.id("first", 1));
        assert_ne!(context.id("first", 0), context.id("second", 0));
        let other = Context { message_id: Uuid::from_u128(2), ..context };
        assert_ne!(context.id("first", 0), other.id("first", 0));
    }
}
