//! The four privileges: what is on offer, and what each consists of.

use licet_common::{
    decision::{Context, Tables},
    signing::Draft,
};
use licet_schema::{
    Code, Output, Refusal,
    entity::{Ending, Outcome, PrivilegeKind, certificate, content, license_return, privilege, settlement},
    message::{PayoutInstructed, Privilege},
    vocabulary::INTEGER_MAX,
};

use super::case::Case;
use crate::{
    effects::Effects,
    held::{OWN_PROVIDER, overdue, remaining, retire, subject_of},
    points,
    purchase::{claims, permanent},
    values::{money, name},
};

/// What returning a license bought under these terms would bring its user now.
pub(crate) fn offers(tables: &Tables, terms: &content::Model, user: &str) -> Vec<Privilege> {
    let creditable = |points: i64| points::balance(tables, user).saturating_add(points) <= INTEGER_MAX;
    let offers = [
        (Privilege::Points, terms.return_points.is_some_and(creditable)),
        (Privilege::Upgrade, terms.return_upgrade && successor(tables, terms).is_some()),
        (Privilege::Buyback, terms.return_buyback_minor.is_some()),
        (Privilege::Collection, terms.return_collection),
    ];
    offers.into_iter().filter(|(_, offered)| *offered).map(|(privilege, _)| privilege).collect()
}

/// The refusal of what is not on offer.
pub(super) fn refusal(wish: Privilege) -> Refusal {
    let why = match wish {
        Privilege::Points => "this content gives no points for a return, or none that the account could hold",
        Privilege::Upgrade => "this content gives no upgrade for a return, or its successor is not sold",
        Privilege::Buyback => "this content is not bought back",
        Privilege::Collection => "this content is not collected",
    };
    Refusal::new(Code::NotReturnable, format!("{why}: holdings.query lists what each license would bring back"))
}

/// What the terms name as the successor, as it is sold now.
fn successor(tables: &Tables, terms: &content::Model) -> Option<content::Model> {
    let (content, version) = (terms.successor_content.as_deref()?, terms.successor_version?);
    tables.contents.iter().find(|row| row.current && row.content == content && row.version == version).cloned()
}

/// Gives what a completed return brings: its row, and an upgrade's token.
pub(super) fn grant(
    context: &Context<'_>,
    tables: &mut Tables,
    effects: &mut Effects,
    case: &Case,
    row: &license_return::Model,
) -> (privilege::Model, Option<String>) {
    let mut granted = privilege::Model {
        id: row.id,
        user: row.user.clone(),
        kind: row.privilege,
        points: None,
        certificate: None,
        amount_minor: None,
        currency: None,
    };
    let mut token = None;
    match row.privilege {
        PrivilegeKind::Points => {
            let earned = case.terms.return_points.unwrap_or_default();
            granted.points = Some(earned);
            points::credit(context, tables, effects.points(), points::ISSUED, &row.user, earned);
        }
        PrivilegeKind::Upgrade => {
            if let Some((certificate, signed)) = upgrade(context, tables, effects, case) {
                granted.certificate = Some(certificate.id);
                token = Some(signed);
            }
        }
        PrivilegeKind::Buyback => {
            granted.amount_minor = case.terms.return_buyback_minor;
            granted.currency = case.terms.return_buyback_currency.clone();
            let amount = granted.amount_minor.zip(granted.currency.as_deref());
            if let Some((minor, currency)) = amount {
                effects.tell(Output::PayoutInstructed(PayoutInstructed {
                    license_return: row.id,
                    user: name(&row.user),
                    amount: money(minor, currency),
                }));
            }
        }
        PrivilegeKind::Collection => {}
    }
    (granted, token)
}

/// A certificate for the successor, received and settled, with the grants that were left.
fn upgrade(
    context: &Context<'_>,
    tables: &mut Tables,
    effects: &mut Effects,
    case: &Case,
) -> Option<(certificate::Model, String)> {
    let successor = successor(tables, &case.terms)?;
    let carried = carry(context, tables, effects, case);
    let mut row = settled(context, case, &successor, 1 + carried);
    let signed = context.sign(Draft::certificate(&claims(context, &row)));
    row.token_digest = signed.digest.to_vec();
    tables.settlements.add(settlement::Model {
        provider: OWN_PROVIDER.to_owned(),
        settlement: row.id.to_string(),
        certificate: Some(row.id),
        container: None,
        outcome: Outcome::Completed,
        amount_minor: Some(0),
        currency: Some(row.currency.clone()),
        grants: Some(row.grants),
        registered_at: context.now.as_millis(),
        cause: context.message_id,
    });
    tables.purchases.add(permanent(&row));
    tables.certificates.add(row.clone());
    effects.mention(row.id);
    Some((row, signed.token))
}

/// Takes the grants that are left from the old certificate, which ends if nothing is outstanding.
fn carry(context: &Context<'_>, tables: &mut Tables, effects: &mut Effects, case: &Case) -> i64 {
    let Some(old) = tables.certificates.change(&case.license.certificate) else { return 0 };
    if overdue(std::slice::from_ref(old), context.now).is_some() {
        return 0;
    }
    let carried = remaining(old);
    old.grants -= carried;
    let used_up = old.granted >= old.grants;
    let (id, subject) = (old.id, subject_of(old.id, old.container));
    if used_up && let Some(retired) = retire(tables, id, Ending::Granted, context.now) {
        effects.tell(retired);
        effects.mention(subject);
    }
    carried
}

fn settled(context: &Context<'_>, case: &Case, successor: &content::Model, grants: i64) -> certificate::Model {
    let now = context.now.as_millis();
    let id = context.id("upgrade", 0);
    certificate::Model {
        id,
        container: None,
        user: case.license.user.clone(),
        content: successor.content.clone(),
        version: successor.version,
        revision: successor.revision,
        amount_minor: 0,
        currency: successor.currency.clone(),
        points: 0,
        reference: case.purchase.reference.clone(),
        generation: 1,
        token_digest: Vec::new(),
        issued_at: now,
        receipt_due_at: now,
        expires_at: now + successor.certificate_ttl_s * 1000,
        received_at: Some(now),
        settlement: Some(id.to_string()),
        provider: Some(OWN_PROVIDER.to_owned()),
        settled_at: Some(now),
        grants,
        granted: 0,
        outstanding: 0,
    }
}
