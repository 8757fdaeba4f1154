//! The history of a purchase, read from the journal: every decided message about the purchase, with
//! the events that it caused.
//!
//! A purchase is found by its own id, by the id of a certificate, container, license or return, by
//! the last characters of such an id, or by the name of its user.

use std::{collections::BTreeSet, fmt};

use futures_util::future::BoxFuture;
use licet_common::{
    runtime::{JournalError, StoredOutput, outputs_of},
    store::{Lock, Store, StoreError, keys, select},
};
use licet_schema::{
    DecodeError, Money, Name, Output, Text, Timestamp, Version,
    entity::{certificate_record, content, journal, mention},
    message::{Ending, RequestRefused},
};
use sea_orm::ConnectionTrait;
use serde::{Serialize, Serializer};
use uuid::Uuid;

mod lookup;
mod sentence;
#[cfg(test)]
mod tests;

pub(crate) use lookup::purchases_with;
pub use lookup::{SHORT_ID_LENGTH, short_id};
pub use sentence::sentence;

/// An error while a history is read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The database did not respond, or it rejected a query.
    #[error("the history cannot be read: {source}")]
    Store {
        /// The underlying error.
        #[from]
        source: StoreError,
    },
    /// The outputs in a journal row cannot be read.
    #[error("the history cannot be read: {source}")]
    Journal {
        /// The error, which names the row.
        #[from]
        source: JournalError,
    },
    /// An output in a journal row cannot be decoded.
    #[error(
        "the history cannot be read: {kind} in the journal row {journal} cannot be decoded: {source}; use the `licet` \
         program of the release that wrote it"
    )]
    Output {
        /// The journal row.
        journal: Uuid,
        /// The output's type.
        kind: String,
        /// The underlying error.
        source: DecodeError,
    },
    /// Several purchases have ids that end with these characters.
    #[error("{count} purchases have ids that end with {end:?}: give more characters of the id")]
    Ambiguous {
        /// The last characters of an id.
        end: String,
        /// The number of purchases.
        count: usize,
    },
}

/// The history of a purchase.
#[derive(Debug, Serialize)]
pub struct History {
    /// The id of the container, or of the certificate if it was bought alone.
    pub purchase: Uuid,
    /// The buyer.
    pub user: Name,
    /// The certificates that were bought. In JSON, each is a sentence.
    pub certificates: Vec<Certificate>,
    /// The decided messages, oldest first.
    pub entries: Vec<Entry>,
}

/// A certificate of a purchase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Its id.
    pub id: Uuid,
    /// The title of the content, if the content is in the database.
    pub title: Option<Text>,
    /// The name of the content.
    pub content: Name,
    /// The version of the content.
    pub version: Version,
    /// The price, including points.
    pub price: Money,
    /// How it ended. `None` while it is live.
    pub ended: Option<Ending>,
}

/// A message of a history.
#[derive(Debug, Serialize)]
pub struct Entry {
    /// When it was decided.
    pub at: Timestamp,
    /// Its message_id.
    pub message_id: Uuid,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code of the refusal, if the message was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The explanation of the refusal, if the message was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The events about this purchase that the message caused. In JSON, each is a [`sentence`].
    #[serde(serialize_with = "as_sentences")]
    pub events: Vec<Output>,
}

fn as_sentences<S: Serializer>(events: &[Output], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(events.iter().map(sentence))
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(title) = &self.title {
            write!(f, "{:?} ", title.as_str())?;
        }
        let Self { id, content, version, price, .. } = self;
        write!(f, "({content}, version {version}) for {price}, certificate {id}, ")?;
        match self.ended {
            None => f.write_str("live"),
            Some(ending) => write!(f, "ended: {}", sentence::ending(ending)),
        }
    }
}

impl Serialize for Certificate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The histories of the purchases that `id` identifies. An id, or its last characters, identifies
/// one purchase. The name of a user identifies all purchases of the user. The result is empty if
/// there are none.
///
/// # Errors
/// The database is unavailable, its journal cannot be read, or several purchases have ids that end
/// with `id`.
pub fn histories<'a>(store: &'a Store, id: &'a str) -> BoxFuture<'a, Result<Vec<History>, HistoryError>> {
    Box::pin(async move {
        let connection = &store.pool();
        let mut histories = Vec::new();
        for purchase in lookup::purchases(connection, id).await? {
            histories.extend(history(connection, purchase).await?);
        }
        Ok(histories)
    })
}

/// The history of the purchase with this id, if there is one.
async fn history(connection: &impl ConnectionTrait, purchase: Uuid) -> Result<Option<History>, HistoryError> {
    let records = records(connection, purchase).await?;
    let Some(user) = records.first().map(|record| record.user.clone()) else { return Ok(None) };
    let journal = Journal::of(connection, purchase, &records).await?;
    let entries = journal.rows.iter().map(|row| entry(row, |output| journal.is_about(row, output)));
    let entries = entries.collect::<Result<_, _>>()?;
    let certificates = certificates(connection, &records).await?;
    Ok(Some(History { purchase, user, certificates, entries }))
}

/// The certificates of the purchase with this id.
pub(crate) async fn records(
    connection: &impl ConnectionTrait,
    purchase: Uuid,
) -> Result<Vec<certificate_record::Model>, StoreError> {
    use certificate_record::{Column, Entity};
    let mut records = select::<Entity>(connection, &[Column::Id], keys([purchase]), Lock::None).await?;
    records.extend(select::<Entity>(connection, &[Column::Container], keys([purchase]), Lock::None).await?);
    Ok(records)
}

async fn certificates(
    connection: &impl ConnectionTrait,
    records: &[certificate_record::Model],
) -> Result<Vec<Certificate>, HistoryError> {
    use content::Column::{Content, Revision, Version};
    let terms: BTreeSet<_> =
        records.iter().map(|record| (record.content.clone(), record.version, record.revision)).collect();
    let keys = terms.into_iter().map(|(name, version, revision)| vec![name.into(), version.into(), revision.into()]);
    let contents =
        select::<content::Entity>(connection, &[Content, Version, Revision], keys.collect(), Lock::None).await?;
    let certificate = |record: &certificate_record::Model| {
        let is_of = |row: &&content::Model| {
            (&row.content, row.version, row.revision) == (&record.content, record.version, record.revision)
        };
        Certificate {
            id: record.id,
            title: contents.iter().find(is_of).map(|row| row.title.clone()),
            content: record.content.clone(),
            version: record.version,
            price: Money { amount_minor: record.amount_minor, currency: record.currency },
            ended: record.ended,
        }
    };
    Ok(records.iter().map(certificate).collect())
}

/// The journal rows that concern one purchase.
pub(crate) struct Journal {
    /// The rows, in the order of their decisions.
    pub(crate) rows: Vec<journal::Model>,
    /// The rows whose subject is the purchase. The others only mention it.
    own: BTreeSet<Uuid>,
    /// The ids of the container and of its certificates.
    ids: Vec<String>,
}

impl Journal {
    /// The journal rows of a purchase with these certificates.
    pub(crate) async fn of(
        connection: &impl ConnectionTrait,
        purchase: Uuid,
        records: &[certificate_record::Model],
    ) -> Result<Self, StoreError> {
        let ids: BTreeSet<_> = records.iter().map(|record| record.id).chain([purchase]).collect();
        // The subject of a refused message can be a member certificate. The subject of any other
        // message is the container.
        let subjects = keys(ids.iter().copied());
        let mut rows = select::<journal::Entity>(connection, &[journal::Column::Subject], subjects, Lock::None).await?;
        let own: BTreeSet<_> = rows.iter().map(|row| row.id).collect();
        rows.extend(mentions(connection, purchase).await?);
        // Most message ids are UUIDv7, which orders messages of the same millisecond.
        rows.sort_by_key(|row| (row.position, row.id));
        rows.dedup_by_key(|row| row.id);
        Ok(Self { rows, own, ids: ids.iter().map(Uuid::to_string).collect() })
    }

    /// Whether an output of a row is about the purchase. A message that only mentions the purchase
    /// may have caused events about other purchases.
    pub(crate) fn is_about(&self, row: &journal::Model, output: &StoredOutput) -> bool {
        self.own.contains(&row.id) || names_any(&output.body, &self.ids)
    }
}

/// The journal rows of messages about other purchases, or about no purchase, that changed or
/// created this purchase.
async fn mentions(connection: &impl ConnectionTrait, purchase: Uuid) -> Result<Vec<journal::Model>, StoreError> {
    let mentions =
        select::<mention::Entity>(connection, &[mention::Column::Subject], keys([purchase]), Lock::None).await?;
    let ids = keys(mentions.iter().map(|row| row.journal));
    select::<journal::Entity>(connection, &[journal::Column::Id], ids, Lock::None).await
}

pub(crate) fn names_any(body: &[u8], ids: &[String]) -> bool {
    let text = String::from_utf8_lossy(body);
    ids.iter().any(|id| text.contains(id.as_str()))
}

fn entry(row: &journal::Model, is_about: impl Fn(&StoredOutput) -> bool) -> Result<Entry, HistoryError> {
    let decode = |output: &StoredOutput| {
        Output::decode(&output.kind, &output.body).map_err(|source| HistoryError::Output {
            journal: row.id,
            kind: output.kind.clone(),
            source,
        })
    };
    let (mut detail, mut events) = (None, Vec::new());
    for output in outputs_of(row)? {
        if !output.reply && is_about(&output) {
            events.push(decode(&output)?);
        } else if output.reply
            && row.code.is_some()
            && let Output::RequestRefused(RequestRefused { detail: sentence, .. }) = decode(&output)?
        {
            detail = Some(sentence);
        }
    }
    let (kind, code) = (row.kind.clone(), row.code.clone());
    Ok(Entry { at: row.decided_at, message_id: row.id, kind, code, detail, events })
}
