//! Refunds and their reinstatements.

use std::collections::BTreeMap;

use licet_schema::{
    Code, ExternalId, Output,
    message::{SettlementOutcome, SettlementReinstatement, SettlementReversal},
};

use super::{Key, Refund, RefundState, Settlement, refuse_licet};
use crate::model::{Model, PurchaseIds, Unmatched, money};

impl Model {
    pub(in crate::model) fn reverse_settlement(&mut self, body: &SettlementReversal) -> Result<Output, Code> {
        refuse_licet(&body.provider)?;
        let ids = (body.certificate, body.container);
        let key = (body.provider.clone(), body.settlement.clone());
        let id = body.refund.clone().unwrap_or_else(|| body.settlement.clone());
        let known = self.settlements.get(&key).cloned().unwrap_or_default();
        if let Some(one) = known.refunds.get(&id) {
            let same = known.are_same(one.ids, ids) && one.amount == body.amount;
            let outcome = one.outcome();
            return if same { Ok(self.registered(ids, &key, outcome, true)) } else { Err(Code::AmountMismatch) };
        }
        let amount = body.amount;
        let one = Refund { ids, amount, state: RefundState::Kept, undone: None, undone_return: None, revoked: false };
        let part = match known.paid.is_some() {
            true => self.part(&key, &id, &one).map(Some),
            false => Ok(None),
        };
        let reduces = amount.is_none() && matches!(part, Ok(Some(Part::Amount(_) | Part::Rest)));
        let returned = if reduces { None } else { self.take_back(&key, &id, ids, amount) };
        let row = |model: &mut Self, one: Refund| {
            let new = Settlement { ids, ..Settlement::default() };
            model.settlements.entry(key.clone()).or_insert(new).refunds.insert(id.clone(), one);
        };
        match (returned, part) {
            (Some(amount), _) => row(self, Refund { state: RefundState::Returned(amount), ..one }),
            (None, Ok(part)) => {
                row(self, one);
                if let Some(part) = part {
                    self.count_refund(&key, &id, part);
                }
            }
            (None, Err(code)) => {
                self.record_refund(&key, &id, &one, code);
                return Err(code);
            }
        }
        self.unmatched.retain(|one| one.key != key || one.refund.as_ref() != Some(&id));
        self.undo_if_kept(&key, &id);
        let outcome = self.settlements[&key].refunds[&id].outcome();
        Ok(self.registered(ids, &key, outcome, false))
    }

    /// What a refund of a known settlement counts for.
    pub(super) fn part(&self, key: &Key, id: &ExternalId, one: &Refund) -> Result<Part, Code> {
        let known = &self.settlements[key];
        let whole = known.is_for(one.ids);
        let member = known.member(one.ids).filter(|id| {
            let container = self.certificates.get(id).map(|one| one.purchase);
            container == known.ids.1
        });
        if !whole && member.is_none() {
            return Err(Code::AlreadySettled);
        }
        let Some(paid) = known.paid else { return Ok(Part::Later) };
        let mut others = known.clone();
        others.refunds.remove(id);
        let left = paid.amount_minor.get() - others.counted();
        let part = match (one.amount, member) {
            (Some(amount), _) => amount,
            (None, Some(member)) => money(self.due(&[member]).min(left), paid.currency),
            (None, None) if others.all_refunded() => return Ok(Part::Nothing),
            (None, None) => return Ok(Part::Rest),
        };
        match part.currency == paid.currency && part.amount_minor.get() <= left {
            true => Ok(Part::Amount(part.amount_minor.get())),
            false => Err(Code::AmountMismatch),
        }
    }

    pub(super) fn count_refund(&mut self, key: &Key, id: &ExternalId, part: Part) {
        let state = match part {
            Part::Amount(amount) => RefundState::Counts(Some(amount)),
            Part::Rest | Part::Nothing => RefundState::Counts(None),
            Part::Later => return,
        };
        self.refund_mut(key, id).state = state;
        let known = &self.settlements[key];
        let at_some_time = known.added_up(None) && !known.added_up(Some(id));
        let revoked = self.follow_refunds(key, at_some_time);
        self.refund_mut(key, id).revoked = revoked;
    }

    fn refund_mut(&mut self, key: &Key, id: &ExternalId) -> &mut Refund {
        let refunds = &mut self.settlements.get_mut(key).expect("the settlement is known").refunds;
        refunds.get_mut(id).expect("the refund is known")
    }

    pub(in crate::model) fn reinstate_settlement(&mut self, body: &SettlementReinstatement) -> Result<Output, Code> {
        refuse_licet(&body.provider)?;
        let ids = (body.certificate, body.container);
        let key = (body.provider.clone(), body.settlement.clone());
        let selects = |id: &ExternalId| body.refund.as_ref().is_none_or(|refund| refund == id);
        let known = self.settlements.get(&key).cloned().unwrap_or_default();
        let selected: BTreeMap<_, _> = known.refunds.iter().filter(|(id, _)| selects(id)).collect();
        // A reinstatement of all refunds includes one of another purchase only if it names that purchase.
        let includes = |one: &Unmatched| body.refund.is_some() || one.reason != Code::AlreadySettled || one.ids == ids;
        let refused = |one: &Unmatched| one.key == key && one.refund.as_ref().is_some_and(selects) && includes(one);
        let is_named = selected.values().any(|one| known.are_same(one.ids, ids))
            || self.unmatched.iter().any(|one| refused(one) && known.are_same(one.ids, ids));
        if known.paid.is_some() && !is_named {
            let of_container = ids.0.and_then(|id| self.certificates.get(&id)).map(|one| one.purchase);
            if !known.is_for(ids) && (known.ids.1.is_none() || of_container != known.ids.1) {
                return Err(Code::AlreadySettled);
            }
        }
        let standing: Vec<_> = selected.iter().filter(|(_, one)| one.stands()).map(|(id, _)| (*id).clone()).collect();
        let kept_before = known.kept.iter().any(|(kept, _)| *kept == body.refund);
        let was_refused = self.unmatched.iter().any(refused);
        self.unmatched.retain(|one| !refused(one));
        let (outcome, repeated) = if !standing.is_empty() || was_refused {
            self.undo(&key, &standing);
            (SettlementOutcome::Reinstated, false)
        } else if !selected.is_empty() && selected.values().all(|one| one.state == RefundState::Undone) {
            (SettlementOutcome::Reinstated, true)
        } else {
            (SettlementOutcome::Pending, kept_before)
        };
        if !kept_before && (outcome == SettlementOutcome::Pending || body.refund.is_none()) {
            let new = Settlement { ids, ..Settlement::default() };
            self.settlements.entry(key.clone()).or_insert(new).kept.push((body.refund.clone(), ids));
        }
        Ok(self.registered(ids, &key, outcome, repeated))
    }

    /// Undoes a refund whose reinstatement arrived before it.
    pub(super) fn undo_if_kept(&mut self, key: &Key, id: &ExternalId) -> bool {
        let known = &self.settlements[key];
        if !known.refunds[id].stands() {
            return false;
        }
        let fits = |named: &PurchaseIds| self.names_its_purchase(known, *named) || *named == known.refunds[id].ids;
        let kept: Vec<_> = known.kept.iter().filter(|(_, named)| fits(named)).map(|(kept, _)| kept.as_ref()).collect();
        let included = kept.contains(&None) && known.fits(id);
        if !kept.contains(&Some(id)) && !included {
            return false;
        }
        self.forget_kept(key, id);
        self.undo(key, std::slice::from_ref(id));
        true
    }

    /// Whether these ids are the purchase of a settlement, or a member of it. Before the payment, any
    /// purchase can be meant.
    pub(super) fn names_its_purchase(&self, known: &Settlement, ids: PurchaseIds) -> bool {
        let container = ids.0.and_then(|id| self.certificates.get(&id)).map(|one| one.purchase);
        let member = known.ids.1.is_some() && container == known.ids.1;
        known.paid.is_none() || known.is_for(ids) || member
    }

    pub(super) fn forget_kept(&mut self, key: &Key, id: &ExternalId) {
        let kept = &mut self.settlements.get_mut(key).expect("the settlement is known").kept;
        kept.retain(|(kept, _)| kept.as_ref() != Some(id));
    }

    pub(super) fn undo(&mut self, key: &Key, refunds: &[ExternalId]) {
        for id in refunds {
            let one = self.refund_mut(key, id);
            one.undone_return = match one.state {
                RefundState::Returned(amount) => Some(amount),
                _ => None,
            };
            one.undone = one.applied();
            one.state = RefundState::Undone;
        }
        let paid = self.settlements[key].paid;
        if paid.is_some() {
            self.follow_refunds(key, false);
        }
        let explained = paid.filter(|_| !self.settlements[key].all_refunded());
        for id in refunds {
            self.reopen(key, id, explained);
        }
        let repeated = |one: &Unmatched| {
            let same = one.key == *key && one.refund.is_none() && one.reason == Code::Reversed;
            same && Some(one.amount) == explained
        };
        self.unmatched.retain(|one| !repeated(one));
    }
}

/// What a refund counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Amount(i64),
    /// Everything that is left.
    Rest,
    /// Nothing is left.
    Nothing,
    /// The payment has not arrived.
    Later,
}
