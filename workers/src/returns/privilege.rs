//! The four privileges: checking whether one is offered, and granting it.

use licet_common::{
    decision::{Context, RuleError},
    rows::Defect,
};
use licet_schema::{
    Code, Count, Money, Output,
    entity::{Digest, certificate, content, license_return, privilege, settlement},
    message::{Ending, PayoutInstructed, Privilege, SettlementOutcome},
    token::CertificateClaims,
};

use crate::domain::{
    Tables,
    certificates::{overdue, own_provider, own_settlement, record, remaining, retire, subject_of},
    effects::Effects,
    points,
    refusals::refuse,
    returns::{Counted, Exceeded, Limits, ReturnCase, Worth, offers, successor},
};

/// Checks that the privilege the user asks for is offered now.
pub(super) fn check_offer(
    tables: &Tables,
    case: &ReturnCase,
    wanted: Privilege,
    counted: Counted,
) -> Result<(), RuleError> {
    if offers(tables, case.record.id, &case.terms, &case.license.user, counted)?.contains(&wanted) {
        return Ok(());
    }
    let limits = Limits::of(tables, case.record.id, counted)?;
    match limits.exceeded_by(&case.terms, wanted) {
        Some(Exceeded::Amount { of, worth: Worth { paid, brought } }) => {
            let (verb, advice) = match counted {
                Counted::WithOpen(_) => (", with the open ones, bring", "choose another privilege"),
                Counted::Completed => (" have brought", "when this return has lapsed, choose another privilege"),
            };
            let detail = format!(
                "returns of this {of}{verb} {brought} of the {paid} minor units that were paid for it and not \
                 refunded, so this one would bring too much: {advice}"
            );
            return refuse(Code::NotReturnable, detail);
        }
        Some(Exceeded::Currency { brings, paid }) => {
            let detail = format!(
                "this return would bring something in {brings}, but the certificate that was upgraded was paid for in \
                 {paid}, and Licet does not convert currencies: choose another privilege"
            );
            return refuse(Code::NotReturnable, detail);
        }
        None => {}
    }
    let why = match wanted {
        Privilege::Points => "this content gives no points for a return, or the points would exceed the balance limit",
        Privilege::Upgrade => "this content offers no upgrade for a return, or its successor is not sold",
        Privilege::Buyback => "this content offers no buy-back",
        Privilege::Collection => "this content offers no collection record",
    };
    refuse(Code::NotReturnable, format!("{why}: holdings.query lists the available privileges of each license"))
}

/// Grants the privilege of a completed return. Returns its row and, for an upgrade, the token of
/// the new certificate.
pub(super) fn grant(
    context: &Context<'_>,
    tables: &mut Tables,
    effects: &mut Effects,
    case: &ReturnCase,
    row: &license_return::Model,
) -> Result<(privilege::Model, Option<String>), Defect> {
    let mut granted = privilege::Model {
        id: row.id,
        user: row.user.clone(),
        kind: row.privilege,
        points: None,
        certificate: None,
        amount_minor: None,
        currency: None,
    };
    let not_offered = || Defect::violated("a granted privilege is one that the terms offer", row.id);
    let mut token = None;
    match row.privilege {
        Privilege::Points => {
            let earned = case.terms.return_points.ok_or_else(not_offered)?;
            granted.points = Some(earned);
            points::credit(context, tables, effects.points(), points::ISSUED, &row.user, earned.get())?;
        }
        Privilege::Upgrade => {
            let successor = successor(tables, &case.terms)?.ok_or_else(not_offered)?;
            let (certificate, signed) = upgrade(context, tables, effects, case, &successor)?;
            granted.certificate = Some(certificate.id);
            token = Some(signed);
        }
        Privilege::Buyback => {
            let amount_minor = case.terms.return_buyback_minor.ok_or_else(not_offered)?;
            let currency = case.terms.return_buyback_currency.ok_or_else(not_offered)?;
            granted.amount_minor = Some(amount_minor);
            granted.currency = Some(currency);
            effects.add_event(Output::PayoutInstructed(PayoutInstructed {
                license_return: row.id,
                user: row.user.clone(),
                amount: Money { amount_minor, currency },
            }));
        }
        Privilege::Collection => {}
    }
    Ok((granted, token))
}

/// Creates a certificate for the successor. It counts as received and settled, and takes over the
/// remaining grants.
fn upgrade(
    context: &Context<'_>,
    tables: &mut Tables,
    effects: &mut Effects,
    case: &ReturnCase,
    successor: &content::Model,
) -> Result<(certificate::Model, String), Defect> {
    let carried = carry(context, tables, effects, case)?;
    let grants = carried.checked_add(Count::ONE);
    let grants = grants.ok_or_else(|| Defect::violated("a count is at most 2^53-1", case.license.id))?;
    let (row, token) = settled(context, case, successor, grants)?;
    tables.settlements.insert(settlement::Model {
        provider: own_provider()?,
        provider_reference: own_settlement(row.id)?,
        certificate: Some(row.id),
        container: None,
        reported_certificate: None,
        reported_container: None,
        outcome: SettlementOutcome::Completed,
        amount_minor: Some(Count::ZERO),
        currency: Some(row.currency),
        grants: Some(
            row.grants.try_into().map_err(|_| Defect::violated("an upgrade grants at least one license", row.id))?,
        ),
        refunded_minor: Count::ZERO,
        registered_at: context.now,
        cause: context.message_id,
    })?;
    tables.records.insert(record(&row))?;
    tables.certificates.insert(row.clone())?;
    // No license of a new certificate can have been returned yet.
    tables.returns.cover(&[license_return::Column::Certificate], &[vec![row.id.into()]]);
    effects.mention(row.id);
    Ok((row, token))
}

/// Takes the remaining grants from the old certificate. The certificate ends if no license is
/// outstanding.
fn carry(
    context: &Context<'_>,
    tables: &mut Tables,
    effects: &mut Effects,
    case: &ReturnCase,
) -> Result<Count, Defect> {
    let id = case.license.certificate;
    let Some(old) = tables.certificates.get(&id)? else { return Ok(Count::ZERO) };
    if overdue(std::slice::from_ref(old), context.now).is_some() {
        return Ok(Count::ZERO);
    }
    let carried = remaining(old)?;
    let subject = subject_of(old.id, old.container);
    let old = tables.certificates.change(&id)?;
    old.grants = old
        .grants
        .checked_sub(carried)
        .ok_or_else(|| Defect::violated("granted and outstanding licenses are at most the grants", id))?;
    if old.granted >= old.grants {
        effects.add_event(retire(tables, id, Ending::Exhausted, context.now)?);
        effects.mention(subject);
    }
    Ok(carried)
}

fn settled(
    context: &Context<'_>,
    case: &ReturnCase,
    successor: &content::Model,
    grants: Count,
) -> Result<(certificate::Model, String), Defect> {
    let id = context.id("upgrade", 0);
    let expires_at = context.now.plus(successor.certificate_ttl_s);
    let signed = context.sign(&CertificateClaims {
        iss: context.terms.issuer.clone(),
        jti: id,
        sub: case.license.user.clone(),
        content: successor.content.clone(),
        version: successor.version,
        generation: 1,
        iat: context.now.as_seconds(),
        exp: expires_at.as_seconds(),
        container: None,
    })?;
    let row = certificate::Model {
        id,
        container: None,
        user: case.license.user.clone(),
        content: successor.content.clone(),
        version: successor.version,
        revision: successor.revision,
        amount_minor: Count::ZERO,
        currency: successor.currency,
        points: Count::ZERO,
        reference: case.record.reference.clone(),
        generation: Count::ONE,
        token_digest: Digest(signed.digest),
        issued_at: context.now,
        receipt_due_at: context.now,
        expires_at,
        received_at: Some(context.now),
        settlement: Some(own_settlement(id)?),
        provider: Some(own_provider()?),
        settled_at: Some(context.now),
        grants,
        granted: Count::ZERO,
        outstanding: Count::ZERO,
    };
    Ok((row, signed.token))
}
