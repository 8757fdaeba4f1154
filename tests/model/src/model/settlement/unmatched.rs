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
        let mut reason = code;
        {
            let new = Settlement { ids: (body.certificate, body.container), ..Settlement::default() };
            let known = self.settlements.entry(key.clone()).or_insert(new);
            let returned = |one: &Refund| match one.state {
                RefundState::Returned(sum) if one.amount.is_none() => {
                    sum.currency == body.amount.currency && sum.amount_minor >= body.amount.amount_minor
                }
                RefundState::Returned(amount) => amount == body.amount,
                _ => false,
            };
            if known.refunds.values().any(returned) {
                reason = Code::Reversed;
            } else {
                let ids = (body.certificate, body.container);
                let returns = |one: &Refund| {
                    one.state == RefundState::Kept
                        && known.are_same(one.ids, ids)
                        && one.amount.is_none_or(|amount| amount == body.amount)
                };
                let kept = known.refunds.iter().find(|(_, one)| returns(one)).map(|(id, _)| id.clone());
                if let Some(id) = kept {
                    let one = known.refunds.get_mut(&id).expect("it was just found");
                    one.state = RefundState::Returned(body.amount);
                    let fits = |named: &PurchaseIds| !known.failed || *named == ids || *named == known.ids;
                    let mut kept = known.kept.iter().filter(|(_, named)| fits(named));
                    if !kept.any(|(kept, _)| kept.as_ref().is_none_or(|kept| *kept == id)) {
                        return code;
                    }
                    one.state = RefundState::Undone;
                    known.kept.retain(|(kept, _)| kept.as_ref() != Some(&id));
                }
            }
        }
        let one = Unmatched {
            key,
            refund: None,
            amount: body.amount,
            grants: body.grants,
            reason,
            ids: (body.certificate, body.container),
        };
        self.announce_unmatched(one);
        reason
    }

    /// Records a refund that does not match its payment.
    pub(super) fn record_refund(&mut self, key: &Key, id: &ExternalId, one: &Refund, reason: Code) {
        if let Some(known) = self.settlements.get(key) {
            let fits = |named: &PurchaseIds| self.names_its_purchase(known, *named) || *named == one.ids;
            let mut kept = known.kept.iter().filter(|(_, named)| fits(named));
            if kept.any(|(kept, _)| kept.as_ref() == Some(id)) {
                return self.forget_kept(key, id);
            }
        }
        let Some(amount) = one.amount else { return };
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

    /// Removes the unmatched payments of a purchase that were refunded: those of this amount or, without
    /// an amount, all in the alphabetically first currency. Returns their sum.
    pub(super) fn take_back(&mut self, key: &Key, ids: PurchaseIds, amount: Option<Money>) -> Option<Money> {
        let known = self.settlements.get(key).cloned().unwrap_or_default();
        let matches = |one: &Unmatched| {
            one.key == *key
                && one.refund.is_none()
                && known.are_same(one.ids, ids)
                && amount.is_none_or(|amount| amount == one.amount)
        };
        let currency = self.unmatched.iter().filter(|one| matches(one)).map(|one| one.amount.currency).min()?;
        let matches = |one: &Unmatched| matches(one) && one.amount.currency == currency;
        let sum = self.unmatched.iter().filter(|one| matches(one)).map(|one| one.amount.amount_minor.get()).sum();
        self.unmatched.retain(|one| !matches(one));
        Some(money(sum, currency))
    }
}
