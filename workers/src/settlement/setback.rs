//! What a payment that failed, or was taken back, undoes.

use std::collections::BTreeSet;

use licet_common::decision::{Context, Decision, Tables};
use licet_schema::{
    Code, Refusal,
    entity::{Ending, LicenseState, Outcome, ReturnState, license, settlement, unmatched_settlement},
    message::{Revocation, SettlementSetback},
};
use uuid::Uuid;

use super::{
    completion::unmatched_before,
    rules::{Purchase, already_settled, known, registered, subject},
};
use crate::{
    effects::Effects,
    held::{Subject, ended_members, members, over, refusal_of},
    points,
};

/// The payment failed: what it was for is declined.
pub(super) fn failure(
    context: &Context<'_>,
    tables: &mut Tables,
    told: &SettlementSetback,
) -> Result<Decision, Refusal> {
    if let Some(known) = known(tables, &told.provider, &told.settlement).cloned() {
        same_purchase(&known, told)?;
        // A failure after its completion changes nothing: the answer says what stands.
        return Ok(registered(tables, &known, true));
    }
    let subject = subject(told.certificate, told.container);
    let purchase = Purchase::of(tables, subject)?;
    if purchase.is_settled() {
        return Err(already_settled("by another settlement"));
    }
    if let Some(ending) = over(&purchase.live, &purchase.ended, context.now) {
        return Err(refusal_of(ending));
    }
    let ids: Vec<_> = purchase.live.iter().map(|row| row.id).collect();
    let mut effects = Effects::default();
    effects.end(context, tables, subject, &ids, Ending::Declined);
    let row = row(context, told, Outcome::Failed);
    tables.settlements.add(row.clone());
    let decision = registered(tables, &row, false);
    Ok(effects.into(context, tables, decision))
}

/// The payment was taken back: so is what it paid for.
pub(super) fn reversal(
    context: &Context<'_>,
    tables: &mut Tables,
    told: &SettlementSetback,
) -> Result<Decision, Refusal> {
    let Some(known) = known(tables, &told.provider, &told.settlement).cloned() else {
        return of_unknown(context, tables, told);
    };
    let same = same_purchase(&known, told);
    if same.is_err() || other_amount(&known, told) {
        // Not what is registered, but money of the same settlement that was kept without a match.
        if let Some(kept) = give_up_kept(tables, told) {
            return Ok(registered(tables, &reversed(known, told, &kept), false));
        }
        let mismatch = || Refusal::new(Code::AmountMismatch, "the settlement was told with another amount");
        return Err(same.err().unwrap_or_else(mismatch));
    }
    match known.outcome {
        Outcome::Completed => Ok(undo(context, tables, known)),
        Outcome::Failed => Ok(match give_up_kept(tables, told) {
            Some(kept) => {
                let row = reversed(known, told, &kept);
                write(tables, &row);
                registered(tables, &row, false)
            }
            None => registered(tables, &known, true),
        }),
        // Money of it may have been kept meanwhile: that is gone, too.
        Outcome::Reversed => {
            let kept = give_up_kept(tables, told);
            Ok(registered(tables, &known, kept.is_none()))
        }
    }
}

fn undo(context: &Context<'_>, tables: &mut Tables, known: settlement::Model) -> Decision {
    let row = settlement::Model { outcome: Outcome::Reversed, ..known };
    write(tables, &row);
    let mut undoing = Undoing::default();
    undoing.left.push(subject(row.certificate, row.container));
    while let Some(purchase) = undoing.left.pop() {
        undoing.purchase(context, tables, purchase);
    }
    let Undoing { mut effects, credits, .. } = undoing;
    for (user, spent) in credits {
        points::credit(context, tables, effects.points(), points::SPENT, &user, spent);
    }
    let decision = registered(tables, &row, false);
    effects.into(context, tables, decision)
}

/// A settlement of which nothing is known, or only that it matches nothing: kept, so that its
/// completion, when it comes, is known to be reversed.
fn of_unknown(context: &Context<'_>, tables: &mut Tables, told: &SettlementSetback) -> Result<Decision, Refusal> {
    let mut row = row(context, told, Outcome::Reversed);
    match give_up_kept(tables, told) {
        Some(kept) => row = reversed(row, told, &kept),
        // An amount picks one of several that were told.
        None if told.amount.is_some() => {
            let detail = "no such amount was told of this settlement: tell its reversal without an amount";
            return Err(Refusal::new(Code::AmountMismatch, detail));
        }
        None => {}
    }
    tables.settlements.add(row.clone());
    Ok(registered(tables, &row, false))
}

/// Money that was kept for the operator is gone again: the newest of what was told.
fn give_up_kept(tables: &mut Tables, told: &SettlementSetback) -> Option<unmatched_settlement::Model> {
    let meant = |row: &unmatched_settlement::Model| {
        told.amount.is_none_or(|amount| {
            row.amount_minor == amount.amount_minor.get() && row.currency == amount.currency.as_str()
        })
    };
    let mut kept = unmatched_before(tables, told.provider.as_str(), told.settlement.as_str());
    kept.retain(meant);
    kept.iter().for_each(|row| {
        tables.unmatched_settlements.remove(&row.id);
    });
    kept.into_iter().max_by_key(|row| (row.told_at, row.id))
}

fn reversed(
    known: settlement::Model,
    told: &SettlementSetback,
    kept: &unmatched_settlement::Model,
) -> settlement::Model {
    settlement::Model {
        certificate: told.certificate,
        container: told.container,
        outcome: Outcome::Reversed,
        amount_minor: Some(kept.amount_minor),
        currency: Some(kept.currency.clone()),
        ..known
    }
}

fn write(tables: &mut Tables, row: &settlement::Model) {
    if let Some(standing) = tables.settlements.change(&(row.provider.clone(), row.settlement.clone())) {
        *standing = row.clone();
    }
}

fn same_purchase(known: &settlement::Model, told: &SettlementSetback) -> Result<(), Refusal> {
    if (known.certificate, known.container) == (told.certificate, told.container) {
        return Ok(());
    }
    Err(Refusal::new(Code::AlreadySettled, "this settlement was told before, for another purchase"))
}

fn other_amount(known: &settlement::Model, told: &SettlementSetback) -> bool {
    let registered = known.amount_minor.zip(known.currency.as_deref());
    let told = told.amount.as_ref().map(|amount| (amount.amount_minor.get(), amount.currency.as_str()));
    told.is_some_and(|told| registered.is_some_and(|registered| registered != told))
}

fn row(context: &Context<'_>, told: &SettlementSetback, outcome: Outcome) -> settlement::Model {
    settlement::Model {
        provider: told.provider.to_string(),
        settlement: told.settlement.to_string(),
        certificate: told.certificate,
        container: told.container,
        outcome,
        amount_minor: None,
        currency: None,
        grants: None,
        registered_at: context.now.as_millis(),
        cause: context.message_id,
    }
}

/// The undoing of what was paid for, and of what came of it.
#[derive(Default)]
struct Undoing {
    effects: Effects,
    /// Points that the purchases had spent: they go back last, when all debts are known.
    credits: Vec<(String, i64)>,
    /// Purchases that are still to be undone: upgrades made one of another.
    left: Vec<Subject>,
    done: BTreeSet<Uuid>,
}

impl Undoing {
    fn purchase(&mut self, context: &Context<'_>, tables: &mut Tables, subject: Subject) {
        let live: Vec<_> = members(tables, subject).iter().map(|row| row.id).collect();
        let ended = ended_members(tables, subject).iter().map(|row| row.id).collect::<Vec<_>>();
        for id in live.iter().chain(&ended) {
            if self.done.insert(*id) {
                self.licenses(context, tables, *id);
                self.returns(context, tables, *id);
            }
        }
        for id in &live {
            let granted = returned(tables, *id);
            if let Some(row) = tables.certificates.change(id) {
                row.outstanding = 0;
                row.granted = granted;
            }
        }
        self.effects.end(context, tables, subject, &live, Ending::Reversed);
        for id in &ended {
            let granted = returned(tables, *id);
            if let Some(row) = tables.purchases.change(id) {
                row.granted = granted;
                row.ended = Some(Ending::Reversed);
            }
        }
        let spent = live.iter().chain(&ended).filter_map(|id| tables.purchases.get(id));
        self.credits.extend(spent.filter(|row| row.points > 0).map(|row| (row.user.clone(), row.points)));
    }

    fn licenses(&mut self, context: &Context<'_>, tables: &mut Tables, certificate: Uuid) {
        let counts = |row: &&license::Model| row.certificate == certificate && row.state != LicenseState::Revoked;
        let licenses: Vec<_> = tables.licenses.iter().filter(counts).cloned().collect();
        for license in licenses {
            self.effects.revoke(context, tables, &license, Revocation::Reversed);
        }
    }

    /// Takes back what returned licenses brought. A buy-back that was instructed stays.
    fn returns(&mut self, context: &Context<'_>, tables: &mut Tables, certificate: Uuid) {
        let completed = tables.returns.iter().filter(|one| one.certificate == certificate);
        let brought = completed.filter_map(|one| tables.privileges.get(&one.id)).cloned().collect::<Vec<_>>();
        for privilege in brought {
            if let Some(earned) = privilege.points.filter(|points| *points > 0) {
                points::debit(context, tables, self.effects.points(), &privilege.user, earned);
            }
            if let Some(upgrade) = privilege.certificate {
                self.left.push(Subject::Certificate(upgrade));
            }
        }
    }
}

/// Licenses of a certificate that came back.
fn returned(tables: &Tables, certificate: Uuid) -> i64 {
    let completed = |one: &&licet_schema::entity::license_return::Model| {
        one.certificate == certificate && one.state == ReturnState::Completed
    };
    i64::try_from(tables.returns.iter().filter(completed).count()).unwrap_or(i64::MAX)
}
