//! What a rule sees and what it says: rows in, rows and answers out, nothing else.
//!
//! The runtime loads the rows a batch needs into [`Tables`], folds the batch over them with the
//! worker's `decide`, and writes back what changed. So contention inside a batch is seen by the
//! rules, and every table is written with one statement.
//!
//! Architecture invariant: no I/O, no clock, no randomness. Ids come from the message's own id.

use std::collections::{BTreeMap, BTreeSet};

use licet_schema::{
    Output, Refusal, Timestamp,
    entity::{
        Keyed, account, certificate, collection, content, entry, license, license_return, payout, pending_reception,
        privilege, purchase, settlement, unmatched_settlement,
    },
    message::RequestRefused,
};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    config::Terms,
    signing::{Draft, DraftError, Keyring, Signed},
};

/// What a rule may know besides the rows: passed in, never asked for.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The time, read once for the batch, after its locks were taken.
    pub now: Timestamp,
    /// The keys.
    pub keyring: &'a Keyring,
    /// What the operator configured.
    pub terms: &'a Terms,
    /// The id of the message being decided.
    pub message_id: Uuid,
}

impl Context<'_> {
    /// A new id, the same whenever this message is decided at this time: UUIDv7, so that keys
    /// made together lie together, with SHA-256 of message id and label for its random bits.
    pub fn id(&self, label: &str, index: usize) -> Uuid {
        let mut hash = Sha256::new();
        hash.update(self.message_id.as_bytes());
        hash.update(label.as_bytes());
        hash.update((index as u64).to_be_bytes());
        let mut random = [0; 10];
        random.copy_from_slice(&hash.finalize()[..10]);
        uuid::Builder::from_unix_timestamp_millis(self.now.as_millis().unsigned_abs(), &random).into_uuid()
    }

    /// Signs a draft.
    ///
    /// # Panics
    /// The draft is unsound, which is a defect of the rule that made it: the runtime catches it
    /// and sets the one message aside.
    pub fn sign(&self, draft: Result<Draft, DraftError>) -> Signed {
        match draft.and_then(|draft| draft.sign(self.keyring)) {
            Ok(signed) => signed,
            Err(defect) => panic!("{defect}"),
        }
    }
}

/// What was decided about one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The answer to whoever asked; none to a clock.
    pub reply: Option<Output>,
    /// What everybody hears besides the reply's own event.
    pub events: Vec<Output>,
    /// Whether the reply, without its tokens, is an event too. Not if its effect stood already.
    pub announced: bool,
    /// The purchase it belongs to: the container's id, or the certificate's if bought alone.
    pub subject: Option<Uuid>,
    /// Further purchases that it changed or made.
    pub mentions: BTreeSet<Uuid>,
}

impl Decision {
    /// An answer.
    pub fn new(reply: Output) -> Self {
        Self { reply: Some(reply), ..Self::nothing() }
    }

    /// Nothing to say. If it stays so, nothing was to be done, and the journal gets no row.
    pub fn nothing() -> Self {
        Self { reply: None, events: Vec::new(), announced: true, subject: None, mentions: BTreeSet::new() }
    }

    /// A refusal.
    pub fn refused(refusal: &Refusal, message_type: &str) -> Self {
        Self::new(Output::RequestRefused(RequestRefused {
            code: refusal.code,
            detail: refusal.detail.clone(),
            message_type: message_type.to_owned(),
        }))
    }

    /// With one more event.
    #[must_use]
    pub fn with(mut self, event: Output) -> Self {
        self.events.push(event);
        self
    }

    /// With more events.
    #[must_use]
    pub fn with_all(mut self, events: impl IntoIterator<Item = Output>) -> Self {
        self.events.extend(events);
        self
    }

    /// Not announced: its effect stood already.
    #[must_use]
    pub fn quietly(mut self) -> Self {
        self.announced = false;
        self
    }

    /// Telling of this purchase too.
    #[must_use]
    pub fn mentioning(mut self, purchase: Uuid) -> Self {
        self.mentions.insert(purchase);
        self
    }

    /// About this purchase.
    #[must_use]
    pub fn about(mut self, subject: Uuid) -> Self {
        self.subject = Some(subject);
        self
    }
}

/// The rows of one table that a batch holds, and what became of each.
#[derive(Clone, Debug)]
pub struct Rows<E: Keyed>(BTreeMap<E::Key, Row<E::Model>>);

#[derive(Clone, Debug)]
enum Row<M> {
    Loaded(M),
    Added(M),
    Changed {
        /// As the database has it, unless its key was removed and added again.
        was: Option<M>,
        now: M,
    },
    Removed,
}

/// What became of a row that the database has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<'a, M> {
    /// As the database has it; none if all of it is to be written.
    pub was: Option<&'a M>,
    /// As it is to be.
    pub now: &'a M,
}

impl<E: Keyed> Default for Rows<E> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<E: Keyed> Rows<E> {
    /// Takes in a row as the database has it.
    pub fn load(&mut self, row: E::Model) {
        self.0.insert(E::key(&row), Row::Loaded(row));
    }

    /// Takes in rows as the database has them.
    pub fn load_all(&mut self, rows: impl IntoIterator<Item = E::Model>) {
        rows.into_iter().for_each(|row| self.load(row));
    }

    /// The row, if it is there.
    pub fn get(&self, key: &E::Key) -> Option<&E::Model> {
        match self.0.get(key)? {
            Row::Loaded(row) | Row::Added(row) | Row::Changed { now: row, .. } => Some(row),
            Row::Removed => None,
        }
    }

    /// All rows that are there, in key order.
    pub fn iter(&self) -> impl Iterator<Item = &E::Model> {
        self.0.values().filter_map(|row| match row {
            Row::Loaded(row) | Row::Added(row) | Row::Changed { now: row, .. } => Some(row),
            Row::Removed => None,
        })
    }

    /// Adds a row.
    pub fn add(&mut self, row: E::Model) {
        let key = E::key(&row);
        let stood = matches!(self.0.get(&key), Some(Row::Removed));
        self.0.insert(key, if stood { Row::Changed { was: None, now: row } } else { Row::Added(row) });
    }

    /// The row, to be changed.
    pub fn change(&mut self, key: &E::Key) -> Option<&mut E::Model> {
        let slot = self.0.get_mut(key)?;
        if let Row::Loaded(row) = slot {
            let now = row.clone();
            let Row::Loaded(was) = std::mem::replace(slot, Row::Removed) else { unreachable!("it was loaded") };
            *slot = Row::Changed { was: Some(was), now };
        }
        match slot {
            Row::Added(row) | Row::Changed { now: row, .. } => Some(row),
            Row::Loaded(_) | Row::Removed => None,
        }
    }

    /// Removes the row and hands it out.
    pub fn remove(&mut self, key: &E::Key) -> Option<E::Model> {
        match self.0.remove(key)? {
            // It never reached the database: nothing is left to delete.
            Row::Added(row) => Some(row),
            Row::Loaded(row) | Row::Changed { now: row, .. } => {
                self.0.insert(key.clone(), Row::Removed);
                Some(row)
            }
            Row::Removed => {
                self.0.insert(key.clone(), Row::Removed);
                None
            }
        }
    }

    /// Rows that the database does not have yet.
    pub fn added(&self) -> Vec<&E::Model> {
        self.0.values().filter_map(|row| if let Row::Added(row) = row { Some(row) } else { None }).collect()
    }

    /// Rows that the database has otherwise.
    pub fn changed(&self) -> Vec<Change<'_, E::Model>> {
        let changed = self.0.values().filter_map(|row| match row {
            Row::Changed { was, now } => Some(Change { was: was.as_ref(), now }),
            Row::Loaded(_) | Row::Added(_) | Row::Removed => None,
        });
        changed.collect()
    }

    /// Keys of rows that the database still has.
    pub fn removed(&self) -> Vec<&E::Key> {
        self.0.iter().filter_map(|(key, row)| matches!(row, Row::Removed).then_some(key)).collect()
    }
}

/// The rows that a batch holds, by table.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// What is sold.
    pub contents: Rows<content::Entity>,
    /// Every certificate ever issued.
    pub purchases: Rows<purchase::Entity>,
    /// Live certificates, locked.
    pub certificates: Rows<certificate::Entity>,
    /// Sent and not acknowledged.
    pub pending_receptions: Rows<pending_reception::Entity>,
    /// Licenses.
    pub licenses: Rows<license::Entity>,
    /// Returns.
    pub returns: Rows<license_return::Entity>,
    /// Completed returns.
    pub collections: Rows<collection::Entity>,
    /// What they brought.
    pub privileges: Rows<privilege::Entity>,
    /// Points accounts, locked.
    pub accounts: Rows<account::Entity>,
    /// New bookings.
    pub entries: Rows<entry::Entity>,
    /// Registered settlements.
    pub settlements: Rows<settlement::Entity>,
    /// Money without a match.
    pub unmatched_settlements: Rows<unmatched_settlement::Entity>,
    /// Buy-backs paid out.
    pub payouts: Rows<payout::Entity>,
    /// Whether more rows than these wait to be dealt with.
    pub more: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, balance: i64) -> account::Model {
        account::Model { name: name.into(), balance }
    }

    #[test]
    fn a_row_is_written_according_to_what_became_of_it() {
        let mut rows = Rows::<account::Entity>::default();
        rows.load(row("kept", 1));
        rows.load(row("changed", 1));
        rows.load(row("removed", 1));
        rows.add(row("added", 1));
        rows.add(row("passing", 1));
        rows.change(&"changed".to_owned()).expect("it is there").balance = 2;
        rows.change(&"added".to_owned()).expect("it is there").balance = 3;
        rows.remove(&"removed".to_owned());
        rows.remove(&"passing".to_owned());
        assert_eq!(rows.added(), [&row("added", 3)]);
        assert_eq!(rows.changed(), [Change { was: Some(&row("changed", 1)), now: &row("changed", 2) }]);
        assert_eq!(rows.removed(), [&"removed".to_owned()]);
        assert!(rows.get(&"removed".to_owned()).is_none());
        assert!(rows.change(&"removed".to_owned()).is_none());
        rows.add(row("removed", 9));
        let again = Change { was: None, now: &row("removed", 9) };
        assert_eq!(rows.changed()[1..], [again], "what was removed and added again is written whole");
    }

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
        assert_eq!(context.id("license", 0), context.id("license", 0));
        assert_ne!(context.id("license", 0), context.id("license", 1));
        assert_ne!(context.id("license", 0), context.id("certificate", 0));
        let other = Context { message_id: Uuid::from_u128(2), ..context };
        assert_ne!(context.id("license", 0), other.id("license", 0));
    }
}
