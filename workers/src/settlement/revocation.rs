//! What refunds revoke, and what is restored when they are undone: certificates, licenses, and
//! points in both directions.

use std::collections::{BTreeMap, BTreeSet};

use licet_common::{decision::Context, rows::Defect};
use licet_schema::{
    Count, ExternalId, Name,
    entity::{LicenseState, ReturnState, refund, settlement},
    message::{Ending, Revocation, SettlementOutcome},
};
use uuid::Uuid;

use super::rules::{member_of, paid, purchase_of};
use crate::domain::{
    Tables,
    certificates::{Subject, ended_members, members},
    count,
    effects::Effects,
    points,
};

/// Whether a refund counts: it was applied to the payment and not undone.
pub(super) fn counts(one: &refund::Model) -> bool {
    !one.unmatched && matches!(one.outcome, SettlementOutcome::Refunded | SettlementOutcome::Reversed)
}

/// Whether a refund was applied to the payment, even if it was undone since.
fn was_applied(one: &refund::Model) -> bool {
    counts(one) || (!one.unmatched && one.outcome == SettlementOutcome::Reinstated)
}

/// The sum of the amounts of the refunds that count. Refunds of everything that the others leave
/// have no amount and are not included.
pub(super) fn sum(refunds: &[refund::Model]) -> Result<Count, Defect> {
    sum_of(refunds.iter().filter(|one| counts(one)))
}

fn sum_of<'a>(refunds: impl Iterator<Item = &'a refund::Model>) -> Result<Count, Defect> {
    let mut amounts = refunds.filter_map(|one| one.counted_minor);
    let sum = amounts.try_fold(Count::ZERO, Count::checked_add);
    sum.ok_or_else(too_much)
}

fn too_much() -> Defect {
    Defect::violated("refunds sum to at most 2^53-1", "a settlement")
}

/// Whether everything that a settlement paid is refunded. A payment of zero is refunded only by a
/// refund of everything.
pub(super) fn is_everything(row: &settlement::Model, refunds: &[refund::Model]) -> Result<bool, Defect> {
    let rest = refunds.iter().any(|one| counts(one) && one.counted_minor.is_none());
    Ok(rest || reaches(row, sum(refunds)?))
}

fn reaches(row: &settlement::Model, sum: Count) -> bool {
    row.amount_minor.is_some_and(|paid| paid > Count::ZERO && sum >= paid)
}

/// Whether everything was refunded at some time, if nothing had been undone before. Of several
/// refunds of one member, the largest counts.
fn added_up(row: &settlement::Model, refunds: &[refund::Model], without: Option<&ExternalId>) -> Result<bool, Defect> {
    let applied = refunds.iter().filter(|one| was_applied(one) && Some(&one.refund) != without);
    let mut members: BTreeMap<Uuid, Count> = BTreeMap::new();
    let mut whole = Vec::new();
    for one in applied {
        match (one.counted_minor, member_of(row, one)) {
            (None, _) => return Ok(true),
            (Some(part), Some(member)) => {
                let greatest = members.entry(member).or_insert(part);
                *greatest = part.max(*greatest);
            }
            (Some(part), None) => whole.push(part),
        }
    }
    let sum = members.into_values().chain(whole).try_fold(Count::ZERO, Count::checked_add);
    Ok(reaches(row, sum.ok_or_else(too_much)?))
}

/// Whether a reinstatement of all refunds of a settlement includes a refund that arrives after it.
/// It does if the refunds together do not exceed the payment, because the refund may have been sent
/// before the reinstatement. Otherwise, the refund is a new one.
pub(super) fn was_undone(row: &settlement::Model, refunds: &[refund::Model], id: &ExternalId) -> Result<bool, Defect> {
    let Some(one) = refunds.iter().find(|one| one.refund == *id) else { return Ok(false) };
    let others = || refunds.iter().filter(|other| other.refund != *id && was_applied(other));
    let Some(part) = one.counted_minor else { return Ok(others().all(|other| other.counted_minor.is_some())) };
    let sum = sum_of(others())?.checked_add(part);
    Ok(row.amount_minor.is_some_and(|paid| sum.is_some_and(|sum| sum <= paid)))
}

/// Brings the purchase of a settlement in line with the settlement's refunds: revokes what they
/// cover, and makes reissuable again what they no longer cover. `arrived` is a refund that has just
/// been applied. Returns whether something was revoked.
pub(super) fn update(
    context: &Context<'_>,
    tables: &mut Tables,
    effects: &mut Effects,
    row: &settlement::Model,
    arrived: Option<&ExternalId>,
) -> Result<bool, Defect> {
    let refunds = tables.refunds_of(&row.provider, &row.provider_reference)?;
    let everything = is_everything(row, &refunds)?;
    let refunded = if everything { paid(row).map(|paid| paid.amount_minor) } else { Some(sum(&refunds)?) };
    let key = (row.provider.clone(), row.provider_reference.clone());
    let changed = tables.settlements.change(&key)?;
    changed.refunded_minor = refunded.unwrap_or(Count::ZERO);
    changed.outcome = if everything { SettlementOutcome::Reversed } else { SettlementOutcome::Completed };
    // With this refund, everything was refunded at some time: if another refund had not been undone
    // first, the purchase would have been revoked. Every order of the messages has the same result.
    let at_some_time = match arrived {
        Some(id) => added_up(row, &refunds, None)? && !added_up(row, &refunds, Some(id))?,
        None => false,
    };

    // A refund revokes a certificate that it names as a member of a container.
    let named: BTreeSet<_> = refunds.iter().filter(|one| counts(one)).filter_map(|one| member_of(row, one)).collect();
    let purchase = Subject::of_columns(row.certificate, row.container, &row.provider_reference)?;
    let live = members(tables, purchase)?.into_iter().map(|row| (row.id, false, false));
    let ended = ended_members(tables, purchase)?;
    let ended = ended.iter().map(|row| (row.id, row.ended == Some(Ending::Reversed), row.reinstated));
    let (mut revoked, mut returned) = (Vec::new(), Vec::new());
    for (id, reversed, reinstated) in live.chain(ended) {
        let covered = everything || named.contains(&id);
        let is_reversed = reversed && !reinstated;
        if !is_reversed && (covered || at_some_time) {
            revoked.push(id);
        }
        if !covered && (is_reversed || at_some_time) {
            returned.push(id);
        }
    }
    let mut consequences = Consequences { effects, points: Vec::new() };
    consequences.reverse(context, tables, &revoked)?;
    consequences.reinstate(context, tables, &returned)?;
    Ok(!revoked.is_empty())
}

/// Reverses or reinstates certificates and everything that followed from them.
struct Consequences<'a> {
    effects: &'a mut Effects,
    /// Points that paid part of the price. They are booked last, when all debts are known.
    points: Vec<(Name, i64)>,
}

impl Consequences<'_> {
    fn reverse(&mut self, context: &Context<'_>, tables: &mut Tables, certificates: &[Uuid]) -> Result<(), Defect> {
        let mut left = certificates.to_vec();
        while let Some(id) = left.pop() {
            self.revoke_licenses(context, tables, id)?;
            for earned in privileges(tables, id)? {
                points::debit(context, tables, self.effects.points(), &earned.user, earned.points)?;
                left.extend(earned.upgrade);
            }
            self.end(context, tables, id)?;
        }
        for (user, spent) in std::mem::take(&mut self.points) {
            points::credit(context, tables, self.effects.points(), points::SPENT, &user, spent)?;
        }
        Ok(())
    }

    fn revoke_licenses(&mut self, context: &Context<'_>, tables: &mut Tables, id: Uuid) -> Result<(), Defect> {
        let licenses: Vec<_> = tables.licenses_of(id)?.into_iter().cloned().collect();
        for license in licenses.iter().filter(|row| row.state != LicenseState::Revoked) {
            self.effects.revoke(context, tables, license, Revocation::Reversed)?;
        }
        Ok(())
    }

    fn end(&mut self, context: &Context<'_>, tables: &mut Tables, id: Uuid) -> Result<(), Defect> {
        let granted = returned(context, tables, id)?;
        let subject = purchase_of(tables, Subject::Certificate(id))?;
        if tables.certificates.get(&id)?.is_some() {
            let row = tables.certificates.change(&id)?;
            row.outstanding = Count::ZERO;
            row.granted = granted;
            self.effects.end(context, tables, subject, &[id], Ending::Reversed)?;
        } else {
            let record = tables.records.change(&id)?;
            record.granted = granted;
            record.ended = Some(Ending::Reversed);
            record.reinstated = false;
            self.effects.mention(subject.id());
        }
        self.note_points(tables, id)
    }

    /// Marks reversed certificates as reissuable. The points that the reversal took back are
    /// credited, and those that had paid are taken again.
    fn reinstate(&mut self, context: &Context<'_>, tables: &mut Tables, certificates: &[Uuid]) -> Result<(), Defect> {
        let mut left = certificates.to_vec();
        while let Some(id) = left.pop() {
            for earned in privileges(tables, id)? {
                let points = self.effects.points();
                points::credit(context, tables, points, points::ISSUED, &earned.user, earned.points)?;
                left.extend(earned.upgrade);
            }
            tables.records.change(&id)?.reinstated = true;
            self.effects.mention(purchase_of(tables, Subject::Certificate(id))?.id());
            self.note_points(tables, id)?;
        }
        for (user, spent) in std::mem::take(&mut self.points) {
            points::spend(context, tables, self.effects.points(), &user, spent)?;
        }
        Ok(())
    }

    fn note_points(&mut self, tables: &Tables, id: Uuid) -> Result<(), Defect> {
        let record = tables.records.require(&id)?;
        if record.points.get() > 0 {
            self.points.push((record.user.clone(), record.points.get()));
        }
        Ok(())
    }
}

/// What a returned license earned. A buy-back stays as it is.
struct Earned {
    user: Name,
    points: i64,
    upgrade: Option<Uuid>,
}

/// The privileges that the returned licenses of a certificate earned.
fn privileges(tables: &Tables, certificate: Uuid) -> Result<Vec<Earned>, Defect> {
    let mut earned = Vec::new();
    for row in tables.returns_of_certificate(certificate)? {
        let Some(privilege) = tables.privileges.get(&row.id)? else { continue };
        earned.push(Earned {
            user: privilege.user.clone(),
            points: privilege.points.map_or(0, Count::get),
            upgrade: privilege.certificate,
        });
    }
    Ok(earned)
}

/// The number of returned licenses of a certificate.
fn returned(context: &Context<'_>, tables: &Tables, certificate: Uuid) -> Result<Count, Defect> {
    let returns = tables.returns_of_certificate(certificate)?;
    let completed = returns.iter().filter(|row| row.state == ReturnState::Completed).count();
    count(i64::try_from(completed).unwrap_or(i64::MAX), "a count is at most 2^53-1", context)
}
