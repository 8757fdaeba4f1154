//! Payouts for buy-backs.
//!
//! The model stores what was reported about each payout, and derives everything else.

use std::collections::BTreeSet;

use licet_schema::{
    Code, ExternalId, Money, Name, Output,
    message::{PayoutCompletion, PayoutFailure, PayoutOutcome, PayoutRegistered},
};
use uuid::Uuid;

use super::{Model, settlement::refuse_licet};

/// The reports about a payout.
#[derive(Clone, Debug)]
pub(crate) struct Payout {
    pub(crate) license_return: Uuid,
    /// The amounts of its completions, in minor units and with their currencies.
    amounts: BTreeSet<(i64, String)>,
    failed: bool,
}

impl Model {
    pub(super) fn complete_payout(&mut self, body: &PayoutCompletion) -> Result<Output, Code> {
        refuse_licet(&body.provider)?;
        let key = (body.provider.clone(), body.payout.clone());
        let due = self.amount_owed(body.license_return).ok_or(Code::UnknownReturn)?;
        let payout = self.payout(&key, body.license_return)?;
        let completed_before = !payout.amounts.is_empty();
        let first = payout.amounts.insert(comparable(body.amount));
        let answer = |outcome, repeated| Ok(registered(body.license_return, &body.payout, outcome, repeated));
        if payout.failed {
            return answer(PayoutOutcome::Failed, completed_before);
        }
        if body.amount != due {
            let paid = payout.amounts.contains(&comparable(due));
            return Err(if paid { Code::AlreadySettled } else { Code::AmountMismatch });
        }
        if first {
            self.paid_out.push(key.clone());
        }
        if self.counting_payout(body.license_return) == Some(&key) {
            return answer(PayoutOutcome::Completed, !first);
        }
        if first {
            let event = registered(body.license_return, &body.payout, PayoutOutcome::Completed, false);
            self.events.push(event);
        }
        Err(Code::AlreadySettled)
    }

    pub(super) fn fail_payout(&mut self, body: &PayoutFailure) -> Result<Output, Code> {
        refuse_licet(&body.provider)?;
        let key = (body.provider.clone(), body.payout.clone());
        self.amount_owed(body.license_return).ok_or(Code::UnknownReturn)?;
        let payout = self.payout(&key, body.license_return)?;
        let repeated = std::mem::replace(&mut payout.failed, true);
        let outcome = if payout.amounts.is_empty() { PayoutOutcome::Pending } else { PayoutOutcome::Failed };
        Ok(registered(body.license_return, &body.payout, outcome, repeated))
    }

    /// The amount of a buy-back.
    pub(crate) fn amount_owed(&self, license_return: Uuid) -> Option<Money> {
        self.returns.get(&license_return)?.granted.as_ref()?.amount
    }

    /// The payout with this id. A payout is for one return.
    fn payout(&mut self, key: &(Name, ExternalId), license_return: Uuid) -> Result<&mut Payout, Code> {
        let new = || Payout { license_return, amounts: BTreeSet::new(), failed: false };
        let payout = self.payouts.entry(key.clone()).or_insert_with(new);
        if payout.license_return == license_return { Ok(payout) } else { Err(Code::AlreadySettled) }
    }

    /// The payout that counts for a return: the first one that paid the amount owed and did not
    /// fail.
    pub(crate) fn counting_payout(&self, license_return: Uuid) -> Option<&(Name, ExternalId)> {
        let counts = |key: &&(Name, ExternalId)| {
            let payout = &self.payouts[*key];
            payout.license_return == license_return && !payout.failed
        };
        self.paid_out.iter().find(counts)
    }

    /// The state of a payout and its amount, as they are stored.
    pub(crate) fn payout_state(&self, payout: &Payout) -> (&'static str, Option<(i64, String)>) {
        let due = self.amount_owed(payout.license_return).map(comparable);
        let paid = due.filter(|due| payout.amounts.contains(due));
        let state = match (payout.failed, payout.amounts.is_empty()) {
            (true, true) => "pending",
            (true, false) => "failed",
            (false, _) if paid.is_some() => "completed",
            (false, _) => "mismatched",
        };
        (state, paid.or_else(|| payout.amounts.last().cloned()))
    }
}

fn comparable(money: Money) -> (i64, String) {
    (money.amount_minor.get(), money.currency.to_string())
}

fn registered(license_return: Uuid, payout: &ExternalId, outcome: PayoutOutcome, repeated: bool) -> Output {
    let payout = payout.clone();
    Output::PayoutRegistered(PayoutRegistered { license_return, payout, outcome, repeated })
}
