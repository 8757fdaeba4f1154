//! Rules of `content.put`.

use licet_common::decision::{Context, Decision, RuleError};
use licet_schema::{
    Code, Output,
    entity::content,
    message::{ContentPut, ContentRegistered},
};

use crate::domain::{Tables, refusals::refuse};

/// Registers the terms under which a content version is sold from now on.
pub(super) fn put(context: &Context<'_>, tables: &mut Tables, put: &ContentPut) -> Result<Decision, RuleError> {
    let points_currency = context.terms.points_currency;
    if put.return_policy.points.is_some() && put.price.currency != points_currency {
        let detail = format!(
            "return_policy.points needs a price in {points_currency}, the currency of points: set the price in \
             {points_currency}, or offer no points"
        );
        return refuse(Code::Malformed, detail);
    }
    let current = tables.sold(&put.content)?.into_iter().find(|row| row.version == put.version).cloned();
    let reply = Output::ContentRegistered(ContentRegistered { content: put.content.clone(), version: put.version });
    let revision = current.as_ref().map_or(0, |row| row.revision);
    let mut row = row(put, revision, context);
    if let Some(old) = current {
        row.registered_at = old.registered_at;
        if row == old {
            return Ok(Decision::new(reply).unannounced());
        }
        tables.contents.change(&(old.content, old.version, old.revision))?.current = false;
    }
    tables.contents.insert(content::Model { revision: revision + 1, registered_at: context.now, ..row })?;
    Ok(Decision::new(reply))
}

fn row(put: &ContentPut, revision: i64, context: &Context<'_>) -> content::Model {
    let policy = &put.return_policy;
    content::Model {
        content: put.content.clone(),
        version: put.version,
        revision,
        registered_at: context.now,
        title: put.title.clone(),
        price_minor: put.price.amount_minor,
        currency: put.price.currency,
        grants: put.grants,
        certificate_ttl_s: put.certificate_ttl_s,
        receipt_ttl_s: put.receipt_ttl_s,
        successor_content: put.successor.as_ref().map(|next| next.content.clone()),
        successor_version: put.successor.as_ref().map(|next| next.version),
        return_points: policy.points,
        return_upgrade: policy.upgrade == Some(true),
        return_buyback_minor: policy.buyback.map(|money| money.amount_minor),
        return_buyback_currency: policy.buyback.map(|money| money.currency),
        return_collection: policy.collection == Some(true),
        current: true,
        media_uri: put.media.as_ref().map(|media| media.uri.clone()),
        media_sha256: put.media.as_ref().map(|media| media.sha256.clone()),
        media_bytes: put.media.as_ref().map(|media| media.bytes),
    }
}
