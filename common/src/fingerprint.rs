//! Fingerprints of rows, with which the auditor finds every change of a row that no message made.
//!
//! The fingerprint of a row is a number computed from all its columns. With the journal rows of a
//! batch, the runtime stores how the fingerprint of each written row changed ([`Changes`]). The
//! differences of a row add up to its current fingerprint, in any order. If anything other than a
//! message changed, added or removed the row, the sum differs.
//!
//! NULL does not contribute to a fingerprint, so a migration may add a column that is NULL in the
//! existing rows. The rows of the engine's own tables have fingerprints too, except the signing
//! keys, which no message writes.
//!
//! Deliberately absent: protection against someone who writes matching fingerprints. Anyone who may
//! write the tables may also write the journal.

use licet_schema::entity::{Keyed, journal};
use sea_orm::{EntityName, IdenStatic, Iterable, ModelTrait, Value};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::rows::{Defect, Rows, TableVisitor};

/// The fingerprint of a row that does not exist.
pub const ABSENT: u64 = 0;

/// The changes of one batch to one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableChanges {
    /// The table.
    pub table: String,
    /// The changed rows.
    pub rows: Vec<RowChange>,
}

impl TableChanges {
    /// Reads the bytes that a journal row stores.
    ///
    /// # Errors
    /// The bytes cannot be read.
    pub fn all_from_bytes(bytes: &[u8]) -> Result<Vec<Self>, postcard::Error> {
        postcard::from_bytes(bytes)
    }
}

/// The change of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowChange {
    /// The [`tag`] of the row.
    pub tag: [u8; 4],
    /// The new fingerprint minus the old one, modulo 2^64.
    pub difference: [u8; 8],
}

/// The changes of one batch to all tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes(Vec<TableChanges>);

impl Changes {
    /// Adds rows that the batch inserts.
    pub fn add_inserted<E: Keyed>(&mut self, rows: &[E::Model])
    where
        E::Model: ModelTrait<Entity = E>,
    {
        self.add::<E>(rows.iter().map(|row| (None, Some(row))));
    }

    fn add<'a, E: Keyed>(&mut self, rows: impl Iterator<Item = (Option<&'a E::Model>, Option<&'a E::Model>)>)
    where
        E::Model: ModelTrait<Entity = E>,
    {
        let changed = rows.filter_map(|(old, new)| {
            let any = new.or(old)?;
            let of = |row: Option<&E::Model>| row.map_or(ABSENT, fingerprint::<E>);
            let difference = of(new).wrapping_sub(of(old));
            let tag = tag::<E>(&E::key(any)).to_le_bytes();
            (difference != 0).then(|| RowChange { tag, difference: difference.to_le_bytes() })
        });
        let rows: Vec<_> = changed.collect();
        if !rows.is_empty() {
            self.0.push(TableChanges { table: E::default().table_name().to_owned(), rows });
        }
    }

    /// The bytes that a journal row stores.
    ///
    /// # Errors
    /// [`Defect::Unwritable`] if encoding fails.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Defect> {
        postcard::to_stdvec(&self.0)
            .map_err(|error| Defect::Unwritable { kind: "list of changed rows".into(), cause: error.to_string() })
    }
}

impl TableVisitor for Changes {
    fn table<E: Keyed>(&mut self, rows: &Rows<E>)
    where
        E::Model: ModelTrait<Entity = E>,
    {
        let removed = rows.removed().into_iter().map(|row| (Some(row), None));
        let changed = rows.changed().into_iter().map(|change| (Some(change.stored), Some(change.now)));
        let added = rows.added().into_iter().map(|row| (None, Some(row)));
        self.add::<E>(removed.chain(changed).chain(added));
    }
}

/// A short hash of a row's table and key. Different rows may have the same tag.
pub fn tag<E: Keyed>(key: &E::Key) -> u32 {
    let mut bytes = Bytes::of(E::default().table_name());
    E::key_values(key).iter().for_each(|value| bytes.value("", value));
    let digest = bytes.digest();
    u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]])
}

/// The fingerprint of a row, which is never [`ABSENT`].
pub fn fingerprint<E: Keyed>(row: &E::Model) -> u64
where
    E::Model: ModelTrait<Entity = E>,
{
    let entity = E::default();
    let mut bytes = Bytes::of(entity.table_name());
    // A journal row's `position` comes from the database, and its `changes` contain the
    // fingerprint.
    let is_journal = entity.table_name() == journal::Entity.table_name();
    let is_left_out = |name: &str| is_journal && matches!(name, "position" | "changes");
    for column in E::Column::iter().filter(|column| !is_left_out(column.as_str())) {
        bytes.value(column.as_str(), &row.get(column));
    }
    let [a, b, c, d, e, f, g, h, ..] = bytes.digest();
    u64::from_le_bytes([a, b, c, d, e, f, g, h]).max(1)
}

/// An unambiguous encoding of names and values: different names or values have different bytes.
struct Bytes(Vec<u8>);

impl Bytes {
    fn of(table: &str) -> Self {
        let mut bytes = Self(Vec::with_capacity(512));
        bytes.part(0, table.as_bytes());
        bytes
    }

    fn part(&mut self, kind: u8, bytes: &[u8]) {
        self.0.push(kind);
        // Most lengths are written as one byte, because hashing takes time for each byte.
        match u8::try_from(bytes.len()) {
            Ok(length) if length < u8::MAX => self.0.push(length),
            _ => {
                self.0.push(u8::MAX);
                self.0.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
            }
        }
        self.0.extend_from_slice(bytes);
    }

    fn value(&mut self, column: &str, value: &Value) {
        if matches!(
            value,
            Value::Bool(None) | Value::BigInt(None) | Value::String(None) | Value::Uuid(None) | Value::Bytes(None)
        ) {
            return;
        }
        self.part(1, column.as_bytes());
        match value {
            Value::Bool(Some(value)) => self.part(2, &[u8::from(*value)]),
            Value::BigInt(Some(value)) => self.part(3, &value.to_le_bytes()),
            Value::String(Some(value)) => self.part(4, value.as_bytes()),
            Value::Uuid(Some(value)) => self.part(5, value.as_bytes()),
            Value::Bytes(Some(value)) => self.part(6, value),
            other => self.part(7, format!("{other:?}").as_bytes()),
        }
    }

    fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.0).into()
    }
}

#[cfg(test)]
mod tests {
    use licet_schema::{
        Timestamp,
        entity::{Digest as StoredDigest, mention},
    };
    use uuid::Uuid;

    use super::*;

    fn row(position: i64) -> journal::Model {
        journal::Model {
            id: Uuid::from_u128(1),
            kind: "example.request".into(),
            sender: None,
            digest: StoredDigest([0; 32]),
            subject: None,
            code: None,
            decided_at: Timestamp::from_millis(0),
            position,
            outputs: vec![1],
            changes: None,
        }
    }

    #[test]
    fn every_column_of_a_row_changes_its_fingerprint_except_the_position_and_the_changes_of_the_journal() {
        let original = fingerprint::<journal::Entity>(&row(0));
        let same = [row(7), journal::Model { changes: Some(vec![1]), ..row(0) }];
        assert!(same.iter().all(|row| fingerprint::<journal::Entity>(row) == original));
        let others = [
            journal::Model { id: Uuid::from_u128(2), ..row(0) },
            journal::Model { kind: "example.reply".into(), ..row(0) },
            journal::Model { sender: Some(String::new()), ..row(0) },
            journal::Model { digest: StoredDigest([1; 32]), ..row(0) },
            journal::Model { subject: Some(Uuid::nil()), ..row(0) },
            journal::Model { code: Some("expired".into()), ..row(0) },
            journal::Model { decided_at: Timestamp::from_millis(1), ..row(0) },
            journal::Model { outputs: vec![2], ..row(0) },
            // The same text in another column.
            journal::Model { sender: Some("expired".into()), ..row(0) },
        ];
        let mut all: Vec<_> = others.iter().map(fingerprint::<journal::Entity>).chain([original]).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), others.len() + 1);
    }

    #[test]
    fn the_changes_of_a_row_add_up_to_its_fingerprint_and_to_zero_if_it_was_removed() {
        let one = mention::Model { subject: Uuid::from_u128(1), journal: Uuid::from_u128(2) };
        let two = mention::Model { journal: Uuid::from_u128(3), ..one.clone() };
        let mut rows = Rows::<mention::Entity>::default();
        rows.take([one.clone()]);
        let (mut inserted, mut replaced) = (Changes::default(), Changes::default());
        inserted.add_inserted::<mention::Entity>(std::slice::from_ref(&one));
        rows.remove(&mention::Entity::key(&one)).expect("it is stored");
        rows.cover(&[mention::Column::Subject, mention::Column::Journal], &[]);
        rows.insert(two.clone()).expect("it is new");
        replaced.table(&rows);
        let sum = |row: &mention::Model| {
            let tag = tag::<mention::Entity>(&mention::Entity::key(row)).to_le_bytes();
            let changes = inserted.0.iter().chain(&replaced.0).flat_map(|table| &table.rows);
            let own = changes.filter(|change| change.tag == tag);
            own.fold(0_u64, |sum, change| sum.wrapping_add(u64::from_le_bytes(change.difference)))
        };
        assert_eq!((sum(&one), sum(&two)), (ABSENT, fingerprint::<mention::Entity>(&two)));
    }

    #[test]
    fn changes_are_read_back_from_the_bytes_that_a_journal_row_stores() {
        let mut changes = Changes::default();
        changes.add_inserted::<journal::Entity>(&[row(0)]);
        let bytes = changes.to_bytes().expect("postcard writes it");
        assert_eq!(TableChanges::all_from_bytes(&bytes).expect("its own bytes"), changes.0);
        assert!(TableChanges::all_from_bytes(&bytes[..5]).is_err());
    }
}
