//! Settlements that complete, fail, are refunded or reinstated.

use std::collections::BTreeMap;

use licet_schema::{
    Code, ExternalId, Money, Name, Output,
    message::{
        CertificateRestored, Ending, PrivilegeGranted, Restoration, Revocation, SettlementAssignment,
        SettlementCompletion, SettlementFailure, SettlementOutcome, SettlementRegistered, SettlementReinstatement,
        SettlementReversal, SettlementUnmatched, UnmatchedKind,
    },
    vocabulary::Grants,
};
use uuid::Uuid;

use super::{LICET, LicenseState, Model, PurchaseIds, Unmatched, money, refusal};

type Key = (Name, ExternalId);

/// What is known of a provider's settlement.
#[derive(Clone, Debug, Default)]
pub(super) struct Settlement {
    pub(super) ids: PurchaseIds,
    /// The purchase that the provider named, if an operator assigned the payment to another one.
    reported: Option<PurchaseIds>,
    failed: bool,
    /// The amount, once the payment was received.
    paid: Option<Money>,
    grants: Option<Grants>,
    refunds: BTreeMap<ExternalId, Refund>,
    /// Reinstatements that wait for their refund, with the purchase that they name.
    kept: Vec<(Option<ExternalId>, PurchaseIds)>,
}

#[derive(Clone, Debug)]
struct Refund {
    ids: PurchaseIds,
    amount: Option<Money>,
    state: RefundState,
    /// What it counted for before it was undone, if it counted.
    undone: Option<Option<i64>>,
    revoked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RefundState {
    /// The payment has not arrived.
    Kept,
    /// It counts for this part of the payment, or for all that is left.
    Counts(Option<i64>),
    /// It returned money that paid for nothing.
    Returned(Money),
    Undone,
}

impl Refund {
    fn outcome(&self) -> SettlementOutcome {
        match self.state {
            RefundState::Kept => SettlementOutcome::Pending,
            RefundState::Undone => SettlementOutcome::Reinstated,
            RefundState::Counts(_) if self.revoked => SettlementOutcome::Reversed,
            RefundState::Counts(_) | RefundState::Returned(_) => SettlementOutcome::Refunded,
        }
    }

    /// The part that it counts or counted for. `None` if it was never applied to the payment.
    fn applied(&self) -> Option<Option<i64>> {
        match self.state {
            RefundState::Counts(part) => Some(part),
            RefundState::Undone => self.undone,
            RefundState::Kept | RefundState::Returned(_) => None,
        }
    }

    fn stands(&self) -> bool {
        matches!(self.state, RefundState::Counts(_) | RefundState::Returned(_))
    }
}

impl Settlement {
    /// The settlement of a purchase for which nothing is due.
    pub(super) fn free(ids: PurchaseIds, nothing: Money) -> Self {
        Self { ids, paid: Some(nothing), ..Self::default() }
    }

    /// Whether a message that names this purchase can be about this settlement.
    fn is_for(&self, ids: PurchaseIds) -> bool {
        self.ids == ids || self.reported == Some(ids)
    }

    /// Whether two messages that name these purchases mean the same one.
    fn are_same(&self, one: PurchaseIds, other: PurchaseIds) -> bool {
        one == other || (self.is_for(one) && self.is_for(other))
    }

    /// The member of the container that a refund names.
    fn member(&self, ids: PurchaseIds) -> Option<Uuid> {
        ids.0.filter(|_| self.ids.1.is_some() && !self.is_for(ids))
    }

    /// The sum of the amounts that count.
    fn counted(&self) -> i64 {
        let counted = self.refunds.values().filter_map(|one| match one.state {
            RefundState::Counts(part) => part,
            _ => None,
        });
        counted.sum()
    }

    fn all_refunded(&self) -> bool {
        let rest = self.refunds.values().any(|one| one.state == RefundState::Counts(None));
        rest || self.reached(self.counted())
    }

    /// Whether all refunds but `without`, undone ones included, add up to the payment. Of several
    /// refunds of one member, the greatest counts.
    fn added_up(&self, without: Option<&ExternalId>) -> bool {
        let mut sums: BTreeMap<(Option<Uuid>, Option<&ExternalId>), i64> = BTreeMap::new();
        for (id, one) in self.refunds.iter().filter(|(id, _)| Some(*id) != without) {
            let Some(part) = one.applied() else { continue };
            let Some(part) = part else { return true };
            let member = self.member(one.ids);
            let key = (member, member.is_none().then_some(id));
            let greatest = sums.get(&key).copied().unwrap_or(0).max(part);
            sums.insert(key, greatest);
        }
        self.reached(sums.values().sum())
    }

    fn reached(&self, sum: i64) -> bool {
        self.paid.is_some_and(|paid| paid.amount_minor.get() > 0 && sum >= paid.amount_minor.get())
    }

    /// Whether this refund, which arrived after the reinstatement of all refunds, may have been sent
    /// before it: together, the refunds do not exceed the payment.
    fn fits(&self, id: &ExternalId) -> bool {
        let others = self.refunds.iter().filter(|(other, _)| *other != id).filter_map(|(_, one)| one.applied());
        let others: Vec<_> = others.collect();
        match self.refunds[id].state {
            RefundState::Counts(Some(part)) => {
                let sum = others.iter().flatten().sum::<i64>() + part;
                self.paid.is_some_and(|paid| sum <= paid.amount_minor.get())
            }
            RefundState::Counts(None) => !others.contains(&None),
            _ => true,
        }
    }

    /// The sum of the refunds, if there are any but kept ones.
    pub(super) fn refunded(&self) -> Option<Money> {
        if self.refunds.values().all(|one| one.state == RefundState::Kept) {
            return None;
        }
        let mut returned = self.refunds.values().filter_map(|one| match one.state {
            RefundState::Returned(amount) => Some(amount),
            _ => None,
        });
        let start = match self.paid {
            Some(paid) if self.all_refunded() => paid,
            Some(paid) => money(self.counted(), paid.currency),
            None => returned.next()?,
        };
        let same = returned.filter(|one| one.currency == start.currency).map(|one| one.amount_minor.get());
        Some(money(start.amount_minor.get() + same.sum::<i64>(), start.currency))
    }
}

impl Model {
    pub(super) fn complete_settlement(&mut self, body: &SettlementCompletion) -> Result<Output, Code> {
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
    pub(super) fn assign_settlement(&mut self, body: &SettlementAssignment) -> Result<Output, Code> {
        refuse_licet(&body.provider)?;
        let ids = (body.certificate, body.container);
        let key = (body.provider.clone(), body.settlement.clone());
        let purchase = self.find_purchase(ids).ok_or(Code::UnknownCertificate)?;
        let members = self.purchases[&purchase].members.clone();
        let is_reversed = |one: &super::Certificate| one.ended == Some(Ending::Reversed) && !one.reinstated;
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
        Ok(self.pay(&key, ids, purchase, one.amount, None, reported))
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
            let covers_all = matches!(one.state, RefundState::Returned(_)) && one.amount.is_none() && one.ids == ids;
            if one.state != RefundState::Kept && !covers_all {
                continue;
            }
            one.state = RefundState::Kept;
            let one = one.clone();
            match self.part(key, &id, &one) {
                Ok(part) => {
                    self.count_refund(key, &id, part);
                    undone |= self.undo_if_kept(key, &id);
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

    pub(super) fn settle(&mut self, purchase: Uuid, key: Key, grants: Option<Grants>) {
        let bought = self.purchases.get_mut(&purchase).expect("the purchase is known");
        bought.settlement = Some(key);
        for id in bought.members.clone() {
            let one = self.certificate_mut(id);
            one.grants = grants.map_or(one.grants, |grants| grants.get());
            let points = one.points;
            self.transfer("licet:held", "licet:spent", points);
        }
    }

    /// Records a payment that matches no purchase, with one event for each amount. Returns the code
    /// of the refusal.
    fn record_payment(&mut self, body: &SettlementCompletion, code: Code) -> Code {
        let key = (body.provider.clone(), body.settlement.clone());
        if self.unmatched.iter().any(|one| one.key == key && one.refund.is_none() && one.amount == body.amount) {
            return code;
        }
        let mut reason = code;
        {
            let new = Settlement { ids: (body.certificate, body.container), ..Settlement::default() };
            let known = self.settlements.entry(key.clone()).or_insert(new);
            let returned = |one: &Refund| match one.state {
                RefundState::Returned(amount) => amount.amount_minor == body.amount.amount_minor,
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
        let one = Unmatched { key, refund: None, amount: body.amount, reason, ids: (body.certificate, body.container) };
        self.announce_unmatched(one);
        reason
    }

    /// Records a refund that does not match its payment.
    fn record_refund(&mut self, key: &Key, id: &ExternalId, one: &Refund, reason: Code) {
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
            self.announce_unmatched(Unmatched { key, refund, amount, reason, ids: one.ids });
        }
    }

    fn announce_unmatched(&mut self, one: Unmatched) {
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

    pub(super) fn fail_settlement(&mut self, body: &SettlementFailure) -> Result<Output, Code> {
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

    pub(super) fn reverse_settlement(&mut self, body: &SettlementReversal) -> Result<Output, Code> {
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
        let one = Refund { ids, amount, state: RefundState::Kept, undone: None, revoked: false };
        let part = match known.paid.is_some() || known.failed {
            true => self.part(&key, &id, &one).map(Some),
            false => Ok(None),
        };
        let reduces = amount.is_none() && matches!(part, Ok(Some(Part::Amount(_) | Part::Rest)));
        let returned = if reduces { None } else { self.take_back(&key, ids, amount) };
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
    fn part(&self, key: &Key, id: &ExternalId, one: &Refund) -> Result<Part, Code> {
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

    fn count_refund(&mut self, key: &Key, id: &ExternalId, part: Part) {
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

    /// Removes unmatched payments of a purchase that were refunded: those of this amount, or all in the
    /// currency that comes first in the alphabet. Returns their sum.
    fn take_back(&mut self, key: &Key, ids: PurchaseIds, amount: Option<Money>) -> Option<Money> {
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

    pub(super) fn reinstate_settlement(&mut self, body: &SettlementReinstatement) -> Result<Output, Code> {
        refuse_licet(&body.provider)?;
        let ids = (body.certificate, body.container);
        let key = (body.provider.clone(), body.settlement.clone());
        let selects = |id: &ExternalId| body.refund.as_ref().is_none_or(|refund| refund == id);
        let known = self.settlements.get(&key).cloned().unwrap_or_default();
        let selected: BTreeMap<_, _> = known.refunds.iter().filter(|(id, _)| selects(id)).collect();
        let refused = |one: &Unmatched| one.key == key && one.refund.as_ref().is_some_and(selects);
        let is_named = selected.values().any(|one| known.are_same(one.ids, ids))
            || self.unmatched.iter().any(|one| refused(one) && known.are_same(one.ids, ids));
        if (known.failed || known.paid.is_some()) && !is_named {
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
    fn undo_if_kept(&mut self, key: &Key, id: &ExternalId) -> bool {
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
    fn names_its_purchase(&self, known: &Settlement, ids: PurchaseIds) -> bool {
        let container = ids.0.and_then(|id| self.certificates.get(&id)).map(|one| one.purchase);
        let member = known.ids.1.is_some() && container == known.ids.1;
        (!known.failed && known.paid.is_none()) || known.is_for(ids) || member
    }

    fn forget_kept(&mut self, key: &Key, id: &ExternalId) {
        let kept = &mut self.settlements.get_mut(key).expect("the settlement is known").kept;
        kept.retain(|(kept, _)| kept.as_ref() != Some(id));
    }

    fn undo(&mut self, key: &Key, refunds: &[ExternalId]) {
        let mut returned = Vec::new();
        for id in refunds {
            let one = self.refund_mut(key, id);
            if let RefundState::Returned(amount) = one.state {
                returned.push((amount, one.ids));
            }
            one.undone = one.applied();
            one.state = RefundState::Undone;
        }
        let paid = self.settlements[key].paid;
        if paid.is_some() {
            self.follow_refunds(key, false);
        }
        let explained = paid.filter(|_| !self.settlements[key].all_refunded());
        for (amount, ids) in returned {
            let is_known = |one: &Unmatched| one.key == *key && one.refund.is_none() && one.amount == amount;
            if explained != Some(amount) && !self.unmatched.iter().any(is_known) {
                let reason = Code::Reversed;
                self.announce_unmatched(Unmatched { key: key.clone(), refund: None, amount, reason, ids });
            }
        }
        let repeated = |one: &Unmatched| {
            let same = one.key == *key && one.refund.is_none() && one.reason == Code::Reversed;
            same && Some(one.amount) == explained
        };
        self.unmatched.retain(|one| !repeated(one));
    }

    /// Revokes what the refunds of a payment cover, and reinstates what they no longer cover.
    /// `at_some_time` tells that everything would have been refunded if nothing had been undone first.
    /// Returns whether something was revoked. Points that were earned are debited before points that
    /// were spent are credited.
    fn follow_refunds(&mut self, key: &Key, at_some_time: bool) -> bool {
        let known = self.settlements[key].clone();
        let Some(purchase) = self.find_purchase(known.ids) else { return false };
        let bought = self.purchases[&purchase].clone();
        let named = known.refunds.values().filter(|one| matches!(one.state, RefundState::Counts(_)));
        let named: Vec<_> = named.filter_map(|one| known.member(one.ids)).collect();
        let (mut revoked, mut reinstated) = (Vec::new(), Vec::new());
        for id in bought.members {
            let one = &self.certificates[&id];
            let reversed = one.ended == Some(Ending::Reversed) && !one.reinstated;
            let covered = known.all_refunded() || named.contains(&id);
            if !reversed && (covered || at_some_time) {
                revoked.push(id);
            }
            if !covered && (reversed || at_some_time) {
                reinstated.push(id);
            }
        }
        let (mut earned, mut spent) = (0, 0);
        revoked.iter().for_each(|id| self.reverse_certificate(*id, &mut earned, &mut spent));
        self.debit(&bought.user, earned);
        self.credit("licet:spent", &bought.user, spent);
        let (mut earned, mut spent) = (0, 0);
        reinstated.iter().for_each(|id| self.reinstate_certificate(*id, &mut earned, &mut spent));
        self.credit("licet:issued", &bought.user, earned);
        let taken = spent.min(self.points(&bought.user));
        self.transfer(&format!("points:{}", bought.user), "licet:spent", taken);
        self.transfer("licet:owed", &format!("debt:{}", bought.user), spent - taken);
        self.transfer("licet:issued", "licet:spent", spent - taken);
        !revoked.is_empty()
    }

    fn reverse_certificate(&mut self, certificate: Uuid, earned: &mut i64, spent: &mut i64) {
        if self.is_live(certificate) {
            self.end(certificate, Ending::Reversed);
        }
        let one = self.certificate_mut(certificate);
        (one.ended, one.reinstated) = (Some(Ending::Reversed), false);
        *spent += one.points;
        let licenses: Vec<_> = self.licenses.iter().filter(|(_, one)| one.certificate == certificate).collect();
        for (id, state) in licenses.into_iter().map(|(id, one)| (*id, one.state)).collect::<Vec<_>>() {
            match state {
                LicenseState::Outstanding | LicenseState::Granted | LicenseState::Returning => {
                    self.revoke(id, Revocation::Reversed);
                }
                LicenseState::Returned => {
                    let granted = self.privilege_of(id);
                    *earned += granted.points.map_or(0, |points| points.get());
                    if let Some(upgrade) = granted.certificate {
                        self.reverse_certificate(upgrade, earned, spent);
                    }
                }
                LicenseState::Revoked => {}
            }
        }
    }

    fn reinstate_certificate(&mut self, certificate: Uuid, earned: &mut i64, spent: &mut i64) {
        let one = self.certificate_mut(certificate);
        one.reinstated = true;
        *spent += one.points;
        let returned = |one: &&super::License| one.certificate == certificate && one.state == LicenseState::Returned;
        let returned: Vec<_> = self.licenses.iter().filter(|(_, one)| returned(one)).map(|(id, _)| *id).collect();
        for id in returned {
            let granted = self.privilege_of(id);
            *earned += granted.points.map_or(0, |points| points.get());
            if let Some(upgrade) = granted.certificate {
                self.reinstate_certificate(upgrade, earned, spent);
            }
        }
    }

    fn privilege_of(&self, license: Uuid) -> PrivilegeGranted {
        let mut of = self.returns.values().filter(|one| one.license == license);
        of.find_map(|one| one.granted.clone()).expect("a completed return has a privilege")
    }

    /// The purchase with these ids, if its kind matches. A member of a container is not a purchase.
    fn find_purchase(&self, (certificate, container): PurchaseIds) -> Option<Uuid> {
        let id = certificate.or(container)?;
        self.purchases.get(&id).filter(|one| one.container == container.is_some()).map(|_| id)
    }

    pub(super) fn registered(
        &self,
        (certificate, container): PurchaseIds,
        key: &Key,
        outcome: SettlementOutcome,
        repeated: bool,
    ) -> Output {
        let purchase = match certificate {
            Some(id) => self.certificates.get(&id).map(|one| one.purchase),
            None => self.find_purchase((None, container)),
        };
        let known = self.settlements.get(key);
        Output::SettlementRegistered(SettlementRegistered {
            certificate,
            container,
            settlement: key.1.clone(),
            outcome,
            grants: known.and_then(|one| one.grants),
            refunded: known.and_then(Settlement::refunded),
            repeated,
            reference: purchase.and_then(|id| self.purchases[&id].reference.clone()),
        })
    }
}

/// What a refund counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Amount(i64),
    /// Everything that is left.
    Rest,
    /// Nothing is left.
    Nothing,
    /// The payment has not arrived.
    Later,
}

/// The provider name `licet` is reserved.
pub(super) fn refuse_licet(provider: &Name) -> Result<(), Code> {
    if provider.as_str() == LICET { Err(Code::Forbidden) } else { Ok(()) }
}
