//! The story of a purchase, a certificate, a license, a return or a user, as the journal tells it.

use std::collections::BTreeSet;

use licet_common::{
    runtime::{StoredOutput, outputs_of},
    store::{
        Store, StoreError,
        rows::{Lock, select},
    },
};
use licet_schema::{
    Timestamp,
    entity::{collection, journal, license, license_return, mention, purchase},
};
use sea_orm::{ConnectionTrait, Value};
use uuid::Uuid;

/// One message of a story.
#[derive(Debug, serde::Serialize)]
pub struct Chapter {
    /// When it was decided.
    pub at: Timestamp,
    /// The message's id.
    pub message_id: Uuid,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The refusal code, if it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The events it caused, in a few words each.
    pub events: Vec<String>,
}

/// A purchase with its chapters.
#[derive(Debug, serde::Serialize)]
pub struct Story {
    /// The container's id, or the certificate's if bought alone.
    pub purchase: Uuid,
    /// Who bought.
    pub user: String,
    /// What, and how it stands.
    pub certificates: Vec<String>,
    /// What happened, in order.
    pub chapters: Vec<Chapter>,
}

/// The stories that `id` is part of: an id of a purchase, certificate, container, license or
/// return, or a user's name.
///
/// # Errors
/// The database's.
pub async fn stories(store: &Store, id: &str) -> Result<Vec<Story>, StoreError> {
    let connection = &store.reader();
    let mut subjects = match Uuid::parse_str(id) {
        Ok(id) => subjects_of(connection, id).await?,
        Err(_) => {
            let user = vec![vec![id.into()]];
            let bought = select::<purchase::Entity>(connection, &[purchase::Column::User], user, Lock::None).await?;
            bought.iter().map(|row| row.container.unwrap_or(row.id)).collect()
        }
    };
    subjects.sort_unstable();
    subjects.dedup();
    let mut stories = Vec::new();
    for subject in subjects {
        stories.push(story(connection, subject).await?);
    }
    Ok(stories)
}

async fn subjects_of(connection: &impl ConnectionTrait, id: Uuid) -> Result<Vec<Uuid>, StoreError> {
    let key = || -> Vec<Vec<Value>> { vec![vec![id.into()]] };
    let mut certificates = vec![id];
    let licenses = select::<license::Entity>(connection, &[license::Column::Id], key(), Lock::None).await?;
    certificates.extend(licenses.iter().map(|row| row.certificate));
    let returns =
        select::<license_return::Entity>(connection, &[license_return::Column::License], key(), Lock::None).await?;
    certificates.extend(returns.iter().map(|row| row.certificate));
    let returns = select::<collection::Entity>(connection, &[collection::Column::Id], key(), Lock::None).await?;
    certificates.extend(returns.iter().map(|row| row.certificate));
    let returns =
        select::<license_return::Entity>(connection, &[license_return::Column::Id], key(), Lock::None).await?;
    certificates.extend(returns.iter().map(|row| row.certificate));
    let keys = certificates.into_iter().map(|id| vec![id.into()]).collect();
    let bought = select::<purchase::Entity>(connection, &[purchase::Column::Id], keys, Lock::None).await?;
    let members = select::<purchase::Entity>(connection, &[purchase::Column::Container], key(), Lock::None).await?;
    Ok(bought.iter().chain(&members).map(|row| row.container.unwrap_or(row.id)).collect())
}

async fn story(connection: &impl ConnectionTrait, subject: Uuid) -> Result<Story, StoreError> {
    let key = || -> Vec<Vec<Value>> { vec![vec![subject.into()]] };
    let mut bought = select::<purchase::Entity>(connection, &[purchase::Column::Id], key(), Lock::None).await?;
    bought.extend(select::<purchase::Entity>(connection, &[purchase::Column::Container], key(), Lock::None).await?);
    // A refusal knows the certificate alone, where what is decided knows its container.
    let subjects = bought.iter().map(|row| row.id).chain([subject]).map(|id| vec![id.into()]).collect();
    let mut rows = select::<journal::Entity>(connection, &[journal::Column::Subject], subjects, Lock::None).await?;
    // Ids are made in order by most upstreams, which settles what happened in one millisecond.
    let own = rows.iter().map(|row| row.id).collect::<BTreeSet<_>>();
    rows.extend(mentions(connection, subject).await?);
    rows.sort_by_key(|row| (row.decided_at, row.id));
    rows.dedup_by_key(|row| row.id);
    let ids: Vec<_> = bought.iter().map(|row| row.id.to_string()).chain([subject.to_string()]).collect();
    let chapters = rows.iter().map(|row| {
        // What only mentions this purchase may tell of many others.
        let about = |output: &StoredOutput| own.contains(&row.id) || names_any(&output.body, &ids);
        chapter(row, about)
    });
    let chapters = chapters.collect::<Result<_, _>>().map_err(StoreError::Refused)?;
    Ok(Story {
        purchase: subject,
        user: bought.first().map(|row| row.user.clone()).unwrap_or_default(),
        certificates: bought.iter().map(certificate).collect(),
        chapters,
    })
}

fn certificate(row: &purchase::Model) -> String {
    let ended =
        row.ended.map_or("live".to_owned(), |ending| format!("ended: {}", sea_orm::ActiveEnum::to_value(&ending)));
    let (price, currency) = (row.amount_minor, &row.currency);
    format!("{} {} v{} for {price} {currency} (minor units), {ended}", row.id, row.content, row.version)
}

/// Messages about other purchases, or about none, that changed or made this one.
async fn mentions(connection: &impl ConnectionTrait, subject: Uuid) -> Result<Vec<journal::Model>, StoreError> {
    let keys = vec![vec![subject.into()]];
    let mentions = select::<mention::Entity>(connection, &[mention::Column::Subject], keys, Lock::None).await?;
    let keys = mentions.iter().map(|row| vec![row.journal.into()]).collect();
    select::<journal::Entity>(connection, &[journal::Column::Id], keys, Lock::None).await
}

fn names_any(body: &[u8], ids: &[String]) -> bool {
    let text = String::from_utf8_lossy(body);
    ids.iter().any(|id| text.contains(id.as_str()))
}

fn chapter(row: &journal::Model, about: impl Fn(&StoredOutput) -> bool) -> Result<Chapter, String> {
    let events = outputs_of(row)?.iter().filter(|output| !output.reply && about(output)).map(words).collect();
    Ok(Chapter {
        at: Timestamp::from_millis(row.decided_at),
        message_id: row.id,
        kind: row.kind.clone(),
        code: row.code.clone(),
        events,
    })
}

/// An event in a few words: its type, and the fields that say what changed.
fn words(output: &StoredOutput) -> String {
    const TELLING: &[&str] =
        &["settlement", "reason", "granted", "remaining", "delta", "balance", "points_held", "user", "outcome"];
    let body: serde_json::Value = serde_json::from_slice(&output.body).unwrap_or_default();
    let mut text = output.kind.clone();
    let privilege = body.pointer("/privilege/kind").or(body.get("privilege"));
    if let Some(serde_json::Value::String(kind)) = privilege {
        text.push_str(&format!(" privilege={kind}"));
    }
    for field in TELLING {
        match body.get(*field) {
            Some(serde_json::Value::String(value)) => text.push_str(&format!(" {field}={value}")),
            Some(serde_json::Value::Number(value)) => text.push_str(&format!(" {field}={value}")),
            _ => {}
        }
    }
    text
}
