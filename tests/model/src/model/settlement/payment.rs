//! Payments that arrive, fail, or are assigned by an operator.

use licet_schema::{
    Code, Money, Output,
    message::{
        CertificateRestored, Ending, Restoration, SettlementAssignment, SettlementCompletion, SettlementFailure,
        SettlementOutcome,
    },
    vocabulary::Grants,
};
use uuid::Uuid;

use super::{Key, RefundState, refuse_licet};
use crate::model::{Certificate, Model, PurchaseIds, money, refusal};

impl Model {
    pub(in crate::model) fn complete_settlement(&mut self, body: &SettlementCompletion) -> Result<Output, Code> {
        refuse_licet(&body.provider)?;
        let ids = (body.certificate, body.container);
        let key = (body.provider.clone(), body.settlement.clone());
        let known = self.settlements.get(&key).cloned().unwrap_or_default();
        if let Some(paid) = known.paid {
            if paid != body.amount {
                return Err(self.record_payment(body, Code::AlreadySettled));
            }
            if known.all_refunded() {
                return Err(self.record_payment(body, Code::Reversed));
            }
            // This is the same money, even if the purchase or the number of grants differs, so it is not
            // unmatched.
            if !known.is_for(ids) || (body.grants.is_some() && body.grants != known.grants) {
                return Err(Code::AlreadySettled);
            }
            return Ok(self.registered(ids, &key, SettlementOutcome::Completed, true));
        }
        if known.failed && !known.is_for(ids) {
            return Err(self.record_payment(body, Code::AlreadySettled));
        }
        match self.payable(ids, body.amount, false) {
            Ok(purchase) => {
                self.unmatched.retain(|one| one.key != key || one.refund.is_some() || one.amount != body.amount);
                Ok(self.pay(&key, ids, purchase, body.amount, body.grants, None))
            }
            Err(code) => Err(self.record_payment(body, code)),
        }
    }

    /// An operator lets an unmatched payment pay for a purchase.
    pub(in crate::model) fn assign_settlement(&mut self, body: &SettlementAssignment) -> Result<Output, Code> {
        refuse_licet(&body.provider)?;
        let ids = (body.certificate, body.container);
        let key = (body.provider.clone(), body.settlement.clone());
        let purchase = self.find_purchase(ids).ok_or(Code::UnknownCertificate)?;
        let members = self.purchases[&purchase].members.clone();
        let is_reversed = |one: &Certificate| one.ended == Some(Ending::Reversed) && !one.reinstated;
        if members.iter().all(|id| is_reversed(&self.certificates[id])) {
            return Err(Code::Reversed);
        }
        let known = self.settlements.get(&key).cloned().unwrap_or_default();
        let unmatched: Vec<_> =
            self.unmatched.iter().filter(|one| one.key == key && one.refund.is_none()).cloned().collect();
        let is_amount = |amount: Money| body.amount.is_none_or(|named| named == amount);
        let mut selected: Vec<_> = unmatched.iter().filter(|one| is_amount(one.amount)).collect();
        if let Some(paid) = known.paid {
            return match known.ids == ids && is_amount(paid) && selected.is_empty() {
                true => Ok(self.registered(ids, &key, SettlementOutcome::Completed, true)),
                false => Err(Code::AlreadySettled),
            };
        }
        let was_returned = known.refunds.values().any(|one| matches!(one.state, RefundState::Returned(_)));
        let one = match (selected.pop(), unmatched.is_empty(), was_returned) {
            (Some(one), ..) if selected.is_empty() => one,
            (None, true, true) => return Err(Code::Reversed),
            (None, true, false) => return Err(Code::NotSettled),
            _ => return Err(Code::AmountMismatch),
        };
        self.payable(ids, one.amount, true)?;
        if self.ending(members[0]).is_some() {
            for id in &members {
                let lifetime = self.certificates[id].terms.certificate_ttl_s.get() * 1000;
                let extended = self.now + lifetime;
                let one = self.certificate_mut(*id);
                one.expires_at = one.expires_at.max(extended);
            }
        }
        self.unmatched.retain(|other| other.key != key || other.refund.is_some() || other.amount != one.amount);
        let reported = (one.ids != ids).then_some(one.ids);
        Ok(self.pay(&key, ids, purchase, one.amount, one.grants, reported))
    }

    /// The purchase that this amount pays for, even if it arrives after the purchase expired.
    fn payable(&self, ids: PurchaseIds, amount: Money, late: bool) -> Result<Uuid, Code> {
        let purchase = self.find_purchase(ids).ok_or(Code::UnknownCertificate)?;
        let bought = &self.purchases[&purchase];
        if bought.settlement.is_some() {
            return Err(Code::AlreadySettled);
        }
        let expiry = bought.members.iter().map(|id| self.certificates[id].expires_at).min();
        match self.ending(bought.members[0]) {
            None => {}
            Some(Ending::Lapsed | Ending::Declined | Ending::Expired) if late => {}
            Some(Ending::Lapsed | Ending::Declined) if expiry.is_some_and(|expiry| self.now <= expiry) => {}
            Some(Ending::Lapsed | Ending::Declined | Ending::Expired) => return Err(Code::Expired),
            Some(ending) => return Err(refusal(ending)),
        }
        if money(self.due(&bought.members), self.certificates[&bought.members[0]].price.currency) != amount {
            return Err(Code::AmountMismatch);
        }
        let points: i64 = bought.members.iter().map(|id| self.certificates[id].points).sum();
        match self.is_live(bought.members[0]) || points <= self.points(&bought.user) {
            true => Ok(purchase),
            false => Err(Code::InsufficientPoints),
        }
    }

    fn pay(
        &mut self,
        key: &Key,
        ids: PurchaseIds,
        purchase: Uuid,
        amount: Money,
        grants: Option<Grants>,
        reported: Option<PurchaseIds>,
    ) -> Output {
        let user = self.purchases[&purchase].user.clone();
        for id in self.purchases[&purchase].members.clone() {
            if !self.is_live(id) {
                self.certificate_mut(id).ended = None;
                let points = self.certificates[&id].points;
                self.transfer(&format!("points:{user}"), "licet:held", points);
                let reason = Restoration::Paid;
                self.events.push(Output::CertificateRestored(CertificateRestored { certificate: id, reason }));
            }
        }
        self.settle(purchase, key.clone(), grants);
        let row = self.settlements.entry(key.clone()).or_default();
        (row.ids, row.reported, row.failed) = (ids, reported, false);
        (row.paid, row.grants) = (Some(amount), grants);
        let mut undone = false;
        for id in row.refunds.keys().cloned().collect::<Vec<_>>() {
            let one = &mut self.settlements.get_mut(key).expect("it was just registered").refunds;
            let one = one.get_mut(&id).expect("it is known");
            let returned = matches!(one.state, RefundState::Returned(_));
            let was_undone = one.undone_return.take().is_some();
            let covers_all = (returned || was_undone) && one.amount.is_none() && one.ids == ids;
            if one.state != RefundState::Kept && !covers_all {
                continue;
            }
            one.state = RefundState::Kept;
            let one = one.clone();
            if returned {
                self.reopen(key, &id, Some(amount));
            }
            match self.part(key, &id, &one) {
                Ok(part) => {
                    self.count_refund(key, &id, part);
                    if was_undone {
                        self.undo(key, std::slice::from_ref(&id));
                    }
                    undone |= was_undone || self.undo_if_kept(key, &id);
                }
                Err(code) => {
                    self.settlements.get_mut(key).expect("it is known").refunds.remove(&id);
                    self.record_refund(key, &id, &one, code);
                }
            }
        }
        let outcome = match (self.settlements[key].all_refunded(), undone) {
            (true, _) => SettlementOutcome::Reversed,
            (false, true) => SettlementOutcome::Reinstated,
            (false, false) => SettlementOutcome::Completed,
        };
        self.registered(ids, key, outcome, false)
    }

    pub(in crate::model) fn settle(&mut self, purchase: Uuid, key: Key, grants: Option<Grants>) {
        let bought = self.purchases.get_mut(&purchase).expect("the purchase is known");
        bought.settlement = Some(key);
        for id in bought.members.clone() {
            let one = self.certificate_mut(id);
            one.grants = grants.map_or(one.grants, |grants| grants.get());
            let points = one.points;
            self.transfer("licet:held", "licet:spent", points);
        }
    }

    pub(in crate::model) fn fail_settlement(&mut self, body: &SettlementFailure) -> Result<Output, Code> {
        refuse_licet(&body.provider)?;
        let ids = (body.certificate, body.container);
        let key = (body.provider.clone(), body.settlement.clone());
        if let Some(known) = self.settlements.get(&key)
            && (known.failed || known.paid.is_some())
        {
            let outcome = match known.failed {
                true => SettlementOutcome::Failed,
                false if known.all_refunded() => SettlementOutcome::Reversed,
                false => SettlementOutcome::Completed,
            };
            return if known.is_for(ids) {
                Ok(self.registered(ids, &key, outcome, true))
            } else {
                Err(Code::AlreadySettled)
            };
        }
        let purchase = self.find_purchase(ids).ok_or(Code::UnknownCertificate)?;
        if self.purchases[&purchase].settlement.is_some() {
            return Err(Code::AlreadySettled);
        }
        if let Some(ending) = self.ending(self.purchases[&purchase].members[0]) {
            return Err(refusal(ending));
        }
        self.end_unpaid(purchase, Ending::Declined);
        let row = self.settlements.entry(key.clone()).or_default();
        (row.ids, row.failed) = (ids, true);
        Ok(self.registered(ids, &key, SettlementOutcome::Failed, false))
    }
}
