//! Rules of `settlement.failure`.

use licet_common::decision::{Context, Decision, RuleError};
use licet_schema::message::{Ending, SettlementOutcome};

use super::rules::{Named, Purchase, already_settled, for_another_purchase, is_for, write};
use crate::domain::{Tables, certificates::over, effects::Effects, refusals::refusal_of};

/// A payment failed. Its purchase is declined, unless it is paid for.
pub(super) fn decide(context: &Context<'_>, tables: &mut Tables, named: Named<'_>) -> Result<Decision, RuleError> {
    // A kept refund does not prevent the failure.
    if let Some(known) = named.registered_before(tables)?.filter(|known| known.outcome != SettlementOutcome::Pending) {
        if !is_for(&known, named.subject) {
            return Err(for_another_purchase().into());
        }
        // A failure after the completion changes nothing. The reply states the registered outcome.
        return Ok(named.registered(tables, known.outcome, true)?);
    }
    let purchase = Purchase::of(tables, named.subject)?;
    if purchase.is_settled() {
        return Err(already_settled("by another settlement").into());
    }
    if let Some(ending) = over(&purchase.live, &purchase.ended, context.now)? {
        return Err(refusal_of(ending).into());
    }
    let ids: Vec<_> = purchase.live.iter().map(|row| row.id).collect();
    let mut effects = Effects::default();
    effects.end(context, tables, named.subject, &ids, Ending::Declined)?;
    write(tables, named.row(context, SettlementOutcome::Failed))?;
    let decision = named.registered(tables, SettlementOutcome::Failed, false)?;
    Ok(effects.into(context, tables, decision)?)
}
