//! What putting a content changes.

use licet_common::decision::{Context, Decision, Tables};
use licet_schema::{
    Output, Refusal,
    entity::content,
    message::{ContentPut, ContentRegistered},
};

/// Makes the terms what is sold from now on.
pub(super) fn put(context: &Context<'_>, tables: &mut Tables, put: &ContentPut) -> Result<Decision, Refusal> {
    let standing = tables
        .contents
        .iter()
        .find(|row| row.current && row.content == put.content.as_str() && row.version == put.version.get());
    let standing = standing.cloned();
    let reply = Output::ContentRegistered(ContentRegistered { content: put.content.clone(), version: put.version });
    let revision = standing.as_ref().map_or(0, |row| row.revision);
    let mut row = row(put, revision, context);
    if let Some(old) = standing {
        row.registered_at = old.registered_at;
        if row == old {
            return Ok(Decision::new(reply).quietly());
        }
        if let Some(old) = tables.contents.change(&(old.content, old.version, old.revision)) {
            old.current = false;
        }
    }
    tables.contents.add(content::Model { revision: revision + 1, registered_at: context.now.as_millis(), ..row });
    Ok(Decision::new(reply))
}

fn row(put: &ContentPut, revision: i64, context: &Context<'_>) -> content::Model {
    let policy = &put.return_policy;
    content::Model {
        content: put.content.to_string(),
        version: put.version.get(),
        revision,
        registered_at: context.now.as_millis(),
        title: put.title.to_string(),
        price_minor: put.price.amount_minor.get(),
        currency: put.price.currency.to_string(),
        grants: put.grants.get(),
        certificate_ttl_s: put.certificate_ttl_s.get(),
        receipt_ttl_s: put.receipt_ttl_s.map(|ttl| ttl.get()),
        successor_content: put.successor.as_ref().map(|next| next.content.to_string()),
        successor_version: put.successor.as_ref().map(|next| next.version.get()),
        return_points: policy.points.map(|points| points.get()),
        return_upgrade: policy.upgrade.unwrap_or(false),
        return_buyback_minor: policy.buyback.map(|money| money.amount_minor.get()),
        return_buyback_currency: policy.buyback.map(|money| money.currency.to_string()),
        return_collection: policy.collection.unwrap_or(false),
        current: true,
        media_uri: put.media.as_ref().map(|media| media.uri.to_string()),
        media_sha256: put.media.as_ref().map(|media| media.sha256.to_string()),
        media_bytes: put.media.as_ref().map(|media| media.bytes.get()),
    }
}
