//! Outputs as the journal stores them: the exact bytes that were sent, so that they can be sent
//! again.
//!
//! A journal row stores its outputs in the postcard format. Only Licet reads these bytes.

use licet_schema::{Output, Timestamp, entity::journal};
use sea_orm::{ConnectionTrait, DatabaseBackend, Statement};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    decision::Decision,
    fingerprint::TableChanges,
    rows::Defect,
    store::{StoreError, Transaction, Writes},
};

/// One output. `reply_to` and `correlation_id` are not stored, because they come from the current
/// delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredOutput {
    /// Whether the output is the reply. Otherwise, it is an event.
    pub reply: bool,
    /// The message type.
    pub kind: String,
    /// The `message_id`. It is derived from the `message_id` of the input, so that an output that
    /// is sent again has the same one.
    pub message_id: Uuid,
    /// The time of the decision, in seconds since 1970.
    pub timestamp_s: i64,
    /// The body in JSON.
    pub body: Vec<u8>,
}

/// The reason the outputs of a journal row cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The stored bytes cannot be read.
    #[error("the journal row {id} has unreadable outputs: {source}. Run `licet audit`")]
    Unreadable {
        /// The row's id.
        id: Uuid,
        /// The decoder's error.
        source: postcard::Error,
    },
    /// The stored list of changed rows cannot be read.
    #[error("the journal row {id} has an unreadable list of changed rows: {source}")]
    UnreadableChanges {
        /// The row's id.
        id: Uuid,
        /// The decoder's error.
        source: postcard::Error,
    },
    /// The stored bytes can be read, but differ from the bytes that Licet writes.
    #[error("the journal row {id} has altered outputs. Run `licet audit`")]
    Altered {
        /// The row's id.
        id: Uuid,
    },
}

/// The outputs in a journal row.
///
/// # Errors
/// The stored bytes differ from the bytes that Licet writes.
pub fn outputs_of(row: &journal::Model) -> Result<Vec<StoredOutput>, JournalError> {
    let unreadable = |source| JournalError::Unreadable { id: row.id, source };
    let outputs: Vec<_> = postcard::from_bytes(&row.outputs).map_err(unreadable)?;
    // postcard ignores trailing bytes, and accepts numbers with leading zeros.
    if postcard::to_stdvec(&outputs).map_err(unreadable)? != row.outputs {
        return Err(JournalError::Altered { id: row.id });
    }
    Ok(outputs)
}

/// The changes of rows that a journal row stores. Only one of the journal rows of a batch has them.
///
/// # Errors
/// The stored bytes cannot be read.
pub fn changes_of(row: &journal::Model) -> Result<Vec<TableChanges>, JournalError> {
    let Some(bytes) = &row.changes else { return Ok(Vec::new()) };
    TableChanges::all_from_bytes(bytes).map_err(|source| JournalError::UnreadableChanges { id: row.id, source })
}

/// The bytes that a journal row stores.
///
/// # Errors
/// [`Defect::Unwritable`] if encoding fails.
pub(super) fn outputs_to_bytes(outputs: &[StoredOutput]) -> Result<Vec<u8>, Defect> {
    postcard::to_stdvec(outputs)
        .map_err(|error| Defect::Unwritable { kind: "journal row".into(), cause: error.to_string() })
}

/// Adds the rows of a batch to `writes`, in the order of their ids, and adds the first position of
/// the batch to their positions.
///
/// Positions are assigned after the locks of the batch were acquired, and its locks are released
/// after the commit. Of two messages that need the same lock, the first to acquire it therefore has
/// the lower position.
///
/// # Errors
/// The database is unavailable.
pub(super) async fn insert(
    transaction: &Transaction,
    writes: &mut Writes,
    rows: &mut [journal::Model],
) -> Result<(), StoreError> {
    if transaction.get_database_backend() == DatabaseBackend::Postgres {
        let rows: Vec<_> = rows.iter().collect();
        writes.insert_numbered::<journal::Entity>(&rows, journal::Column::Position, journal::POSITION_SEQUENCE);
        return Ok(());
    }
    let first = first_position(transaction).await?;
    rows.iter_mut().for_each(|row| row.position += first);
    writes.insert::<journal::Entity>(&rows.iter().collect::<Vec<_>>());
    Ok(())
}

/// The first position of the next batch on SQLite, which has one writer at a time.
async fn first_position(transaction: &Transaction) -> Result<i64, StoreError> {
    let newest = "SELECT position FROM journal ORDER BY rowid DESC LIMIT 1";
    let newest = transaction.query_one(Statement::from_string(DatabaseBackend::Sqlite, newest)).await?;
    let newest: Option<i64> = newest.map(|row| row.try_get_by_index(0)).transpose()?;
    Ok(newest.map_or(0, |newest| (newest / journal::POSITIONS_PER_BATCH + 1) * journal::POSITIONS_PER_BATCH))
}

/// The outputs of a decision: the reply, its public form as an event, and the other events.
///
/// # Errors
/// An output cannot be encoded, or an event has no subject.
pub(super) fn outputs_of_decision(
    input: Uuid,
    now: Timestamp,
    decision: &Decision,
) -> Result<Vec<StoredOutput>, Defect> {
    let mut outputs = Vec::with_capacity(2 + decision.events.len());
    if let Some(reply) = &decision.reply {
        outputs.push(reply_output(input, &format!("reply:{}", reply.kind()), now, reply)?);
    }
    let announced = decision.reply.as_ref().filter(|_| decision.announced).and_then(Output::public);
    for event in announced.iter().chain(&decision.events) {
        let kind = event.kind();
        let subject = event.subject().ok_or_else(|| Defect::NoSubject { kind: kind.to_owned() })?;
        outputs.push(output(input, &format!("event:{kind}:{subject}"), now, event, false)?);
    }
    Ok(outputs)
}

/// Creates a reply. Its `message_id` is derived from `namespace` and `name`.
///
/// # Errors
/// [`Defect::Unwritable`] if encoding fails.
pub(super) fn reply_output(
    namespace: Uuid,
    name: &str,
    now: Timestamp,
    reply: &Output,
) -> Result<StoredOutput, Defect> {
    output(namespace, name, now, reply, true)
}

fn output(namespace: Uuid, name: &str, now: Timestamp, output: &Output, reply: bool) -> Result<StoredOutput, Defect> {
    let kind = output.kind().to_owned();
    let body = output.encode().map_err(|error| Defect::Unwritable { kind: kind.clone(), cause: error.to_string() })?;
    let message_id = Uuid::new_v5(&namespace, name.as_bytes());
    Ok(StoredOutput { reply, kind, message_id, timestamp_s: now.as_seconds(), body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_come_back_as_they_were_stored_and_altered_bytes_are_refused() {
        let output = StoredOutput {
            reply: true,
            kind: "request.refused".into(),
            message_id: Uuid::from_u128(1),
            timestamp_s: 2,
            body: b"{}".to_vec(),
        };
        let bytes = outputs_to_bytes(std::slice::from_ref(&output)).expect("postcard writes it");
        let row = |outputs: Vec<u8>| journal::Model {
            id: Uuid::from_u128(9),
            kind: "example.request".into(),
            sender: None,
            digest: licet_schema::entity::Digest([0; 32]),
            subject: None,
            code: None,
            decided_at: Timestamp::from_millis(0),
            position: 0,
            outputs,
            changes: None,
        };
        assert_eq!(outputs_of(&row(bytes.clone())).expect("its own bytes"), [output]);
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(matches!(outputs_of(&row(longer)), Err(JournalError::Altered { .. })));
        assert!(matches!(outputs_of(&row(bytes[..5].to_vec())), Err(JournalError::Unreadable { .. })));
    }
}
