//! What a rule is given besides rows, and what it returns: a decision, a refusal, or a defect.
//!
//! Deliberately absent: I/O, clock, randomness. New ids are derived from the message's own id.

use std::collections::BTreeSet;

use licet_schema::{Output, Refusal, Timestamp, message::RequestRefused, token::Claims};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    config::Terms,
    rows::Defect,
    signing::{Draft, Keyring, Signed},
};

/// What a rule may know besides the rows.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The time, read once for the batch after its locks were taken.
    pub now: Timestamp,
    /// The keys that tokens are signed and verified with.
    pub keyring: &'a Keyring,
    /// What the operator configured.
    pub terms: &'a Terms,
    /// The id of the message being decided.
    pub message_id: Uuid,
}

impl Context<'_> {
    /// A new id, the same whenever this message is decided at this time.
    ///
    /// UUIDv7 form: the time first, so that keys made together are neighbours in an index; then SHA-256 of
    /// message id, label and index instead of random bits.
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
    /// The claims contradict themselves, or the keyring cannot sign.
    pub fn sign(&self, claims: &impl Claims) -> Result<Signed, Defect> {
        Ok(Draft::new(claims)?.sign(self.keyring)?)
    }
}

/// Why a rule decided nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// The request is refused. A refusal is an answer: it is journaled and sent.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The program is wrong. Nothing is decided.
    #[error(transparent)]
    Defect(#[from] Defect),
}

impl From<crate::signing::TokenError> for RuleError {
    fn from(error: crate::signing::TokenError) -> Self {
        Self::Refused(error.into())
    }
}

/// What was decided about one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The reply; none to a message from a clock.
    pub reply: Option<Output>,
    /// The events besides the reply's own.
    pub events: Vec<Output>,
    /// Whether the reply, without its tokens, is an event too. Not if its effect existed already.
    pub announced: bool,
    /// What it belongs to: the id that its history is found by.
    pub subject: Option<Uuid>,
    /// Further subjects that it changed or made.
    pub mentions: BTreeSet<Uuid>,
}

impl Decision {
    /// A reply.
    pub fn new(reply: Output) -> Self {
        Self { reply: Some(reply), ..Self::nothing() }
    }

    /// No reply and no event. A decision that stays so did nothing, and gets no journal row.
    pub fn nothing() -> Self {
        Self { reply: None, events: Vec::new(), announced: true, subject: None, mentions: BTreeSet::new() }
    }

    /// A refusal of a request of the type `message_type`.
    pub fn refused(refusal: &Refusal, message_type: &str) -> Self {
        Self::new(Output::RequestRefused(RequestRefused {
            code: refusal.code,
            detail: refusal.detail.clone(),
            message_type: message_type.to_owned(),
        }))
    }

    /// The decision with one more event.
    #[must_use]
    pub fn with_event(mut self, event: Output) -> Self {
        self.events.push(event);
        self
    }

    /// The decision with more events.
    #[must_use]
    pub fn with_events(mut self, events: impl IntoIterator<Item = Output>) -> Self {
        self.events.extend(events);
        self
    }

    /// The decision without the reply's own event: its effect existed already.
    #[must_use]
    pub fn unannounced(mut self) -> Self {
        self.announced = false;
        self
    }

    /// The decision with a further subject.
    #[must_use]
    pub fn mentioning(mut self, subject: Uuid) -> Self {
        self.mentions.insert(subject);
        self
    }

    /// The decision with its subject.
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
        };
        assert_eq!(context.id("first", 0), context.id("first", 0));
        assert_ne!(context.id("first", 0), context.id("first", 1));
        assert_ne!(context.id("first", 0), context.id("second", 0));
        let other = Context { message_id: Uuid::from_u128(2), ..context };
        assert_ne!(context.id("first", 0), other.id("first", 0));
    }
}
