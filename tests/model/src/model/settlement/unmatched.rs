//! Money that matches no purchase.

use licet_schema::{
    Code, ExternalId, Money, Output,
    message::{SettlementCompletion, SettlementUnmatched, UnmatchedKind},
};

use super::{Key, Refund, RefundState, Settlement};
use crate::model::{Model, PurchaseIds, Unmatched, money};

impl Model {
    /// Records a payment that matches no purchase, with one event for each amount. Returns the code
    /// of the refusal.
    pub(super) fn record_payment(&mut self, body: &SettlementCompletion, code: Code) -> Code {
        let key = (body.provider.clone(), body.settlement.clone());
        if self.unmatched.iter().any(|one| one.key == key && one.refund.is_none() && one.amount == body.amount) {
            return code;
        }
        let ids = (body.certificate, body.container);
        let new = Settlement { ids, ..Settlement::default() };
        let known = self.settlements.entry(key.clone()).or_insert(new);
        let mut one =
            Unmatched { key: key.clone(), refund: None, amount: body.amount, grants: body.grants, reason: code, ids };
        if self.returned.iter().any(|(other, _)| other.key == key && other.amount == body.amount) {
            one.reason = Code::Reversed;
            self.announce_unmatched(one);
            return Code::Reversed;
        }
        // A refund of this amount comes before one of everything, which returns payments until it is
        // applied to a payment that was matched.
        let rank = |one: &Refund| match (one.state, one.amount, one.undone_return) {
            _ if !known.are_same(one.ids, ids) => None,
            (RefundState::Kept, Some(amount), _) => (amount == body.amount).then_some(0),
            (RefundState::Returned(sum), None, _) | (RefundState::Undone, None, Some(sum)) => {
                (sum.currency == body.amount.currency).then_some(1)
            }
            (RefundState::Kept, None, _) => Some(2),
            _ => None,
        };
        let found = known.refunds.iter().filter_map(|(id, one)| rank(one).map(|rank| (rank, id.clone()))).min();
        let Some((_, id)) = found else {
            self.announce_unmatched(one);
            return code;
        };
        let undone = known.kept.iter().any(|(kept, _)| kept.as_ref().is_none_or(|kept| *kept == id));
        let refund = known.refunds.get_mut(&id).expect("it was just found");
        let plus = |sum: Money| money(sum.amount_minor.get() + body.amount.amount_minor.get(), sum.currency);
        match refund.state {
            RefundState::Returned(sum) => refund.state = RefundState::Returned(plus(sum)),
            RefundState::Kept if !undone => refund.state = RefundState::Returned(body.amount),
            RefundState::Kept => {
                (refund.state, refund.undone_return) = (RefundState::Undone, Some(body.amount));
                known.kept.retain(|(kept, _)| kept.as_ref() != Some(&id));
            }
            _ => refund.undone_return = refund.undone_return.map(plus),
        }
        match refund.state {
            RefundState::Undone => self.announce_unmatched(one),
            _ => self.returned.push((one, id)),
        }
        code
    }

    /// Makes payments open again that this refund had returned, except the `matched` one.
    pub(super) fn reopen(&mut self, key: &Key, id: &ExternalId, matched: Option<Money>) {
        let of_it = |(one, refund): &(Unmatched, ExternalId)| one.key == *key && refund == id;
        let (returned, others) = std::mem::take(&mut self.returned).into_iter().partition(of_it);
        self.returned = others;
        for (mut one, _) in returned {
            let same = |open: &&mut Unmatched| open.key == *key && open.refund.is_none() && open.amount == one.amount;
            if matched == Some(one.amount) {
                continue;
            }
            if self.settlements[key].paid == Some(one.amount) {
                one.reason = Code::Reversed;
            }
            if let Some(open) = self.unmatched.iter_mut().find(same) {
                *open = one;
                continue;
            }
            self.announce_unmatched(one);
        }
    }

    /// Records a refund that does not match its payment.
    pub(super) fn record_refund(&mut self, key: &Key, id: &ExternalId, one: &Refund, reason: Code) {
        if let Some(known) = self.settlements.get(key) {
            let fits = |named: &PurchaseIds| self.names_its_purchase(known, *named) || *named == one.ids;
            let is_foreign = reason == Code::AlreadySettled;
            let includes = |(kept, named): &(Option<ExternalId>, PurchaseIds)| match kept {
                Some(kept) => kept == id && fits(named),
                None => is_foreign && *named == one.ids,
            };
            if known.kept.iter().any(includes) {
                return self.forget_kept(key, id);
            }
        }
        let amount = one.amount.or(self.settlements[key].paid).expect("a refund is refused after the payment");
        let same = |known: &Unmatched| &known.key == key && known.refund.as_ref() == Some(id) && known.amount == amount;
        if !self.unmatched.iter().any(same) {
            let (key, refund) = (key.clone(), Some(id.clone()));
            self.announce_unmatched(Unmatched { key, refund, amount, grants: None, reason, ids: one.ids });
        }
    }

    pub(super) fn announce_unmatched(&mut self, one: Unmatched) {
        self.events.push(Output::SettlementUnmatched(SettlementUnmatched {
            kind: if one.refund.is_some() { UnmatchedKind::Refund } else { UnmatchedKind::Payment },
            settlement: one.key.1.clone(),
            refund: one.refund.clone(),
            provider: one.key.0.clone(),
            certificate: one.ids.0,
            container: one.ids.1,
            amount: Some(one.amount),
            reason: one.reason,
        }));
        self.unmatched.push(one);
    }

    /// Marks the unmatched payments of a purchase that this refund returned: those of this amount or, without
    /// an amount, all in the alphabetically first currency. Returns their sum.
    pub(super) fn take_back(
        &mut self,
        key: &Key,
        id: &ExternalId,
        ids: PurchaseIds,
        amount: Option<Money>,
    ) -> Option<Money> {
        let known = self.settlements.get(key).cloned().unwrap_or_default();
        let matches = |one: &Unmatched| {
            one.key == *key
                && one.refund.is_none()
                && known.are_same(one.ids, ids)
                && amount.is_none_or(|amount| amount == one.amount)
        };
        let currency = self.unmatched.iter().filter(|one| matches(one)).map(|one| one.amount.currency).min()?;
        let matches = |one: &Unmatched| matches(one) && one.amount.currency == currency;
        let (taken, left): (Vec<_>, _) = self.unmatched.iter().cloned().partition(matches);
        let sum = taken.iter().map(|one| one.amount.amount_minor.get()).sum();
        self.unmatched = left;
        self.returned.extend(taken.into_iter().map(|one| (one, id.clone())));
        Some(money(sum, currency))
    }
}
