//! Settlements that complete, fail or are reversed.

use licet_schema::{
    Code, ExternalId, Money, Name, Output,
    message::{
        Ending, PrivilegeGranted, Revocation, SettlementCompletion, SettlementOutcome, SettlementRegistered,
        SettlementSetback, SettlementUnmatched,
    },
    vocabulary::Grants,
};
use uuid::Uuid;

use super::{LICET, LicenseState, Model, PurchaseIds, Settlement, Unmatched, money, refusal};

impl Model {
    pub(super) fn complete_settlement(&mut self, body: &SettlementCompletion) -> Result<Output, Code> {
        refuse_licet(&body.provider)?;
        let ids = (body.certificate, body.container);
        if let Some(known) = self.settlements.get(&key_of(body)).cloned() {
            return self.complete_known(body, ids, known);
        }
        match self.payable(ids, body.amount) {
            Ok(purchase) => Ok(self.pay(body, ids, purchase)),
            Err(code) => {
                self.record_unmatched(body, code);
                Err(code)
            }
        }
    }

    /// Completes a settlement that is already known from an earlier message.
    fn complete_known(
        &mut self,
        body: &SettlementCompletion,
        ids: PurchaseIds,
        known: Settlement,
    ) -> Result<Output, Code> {
        let same = known.amount == Some(body.amount);
        let repeated = |outcome| self.registered(ids, &body.settlement, outcome, known.grants, true);
        let result = match known.outcome {
            SettlementOutcome::Failed => Err(Code::Declined),
            SettlementOutcome::Reversed if known.amount.is_none() => Ok(self.complete_after_reversal(body, ids, known)),
            SettlementOutcome::Reversed if same => Ok(repeated(SettlementOutcome::Reversed)),
            SettlementOutcome::Completed if same && known.ids == ids => {
                // This is the same money even if the number of grants differs, so it is not
                // unmatched.
                let agrees = body.grants.is_none() || body.grants == known.grants;
                return if agrees { Ok(repeated(SettlementOutcome::Completed)) } else { Err(Code::AlreadySettled) };
            }
            SettlementOutcome::Completed | SettlementOutcome::Reversed => Err(Code::AlreadySettled),
        };
        result.inspect_err(|code| self.record_unmatched(body, *code))
    }

    /// The reversal was received before the completion.
    fn complete_after_reversal(&mut self, body: &SettlementCompletion, ids: PurchaseIds, known: Settlement) -> Output {
        if ids == known.ids
            && let Ok(purchase) = self.payable(ids, body.amount)
        {
            self.end_unpaid(purchase, Ending::Reversed);
        }
        let outcome = SettlementOutcome::Reversed;
        let (amount, grants) = (Some(body.amount), body.grants);
        self.settlements.insert(key_of(body), Settlement { amount, grants, ..known });
        // If the same amount was recorded as unmatched, it is reversed, too.
        self.unmatched.retain(|one| one.key != key_of(body) || one.amount != body.amount);
        self.registered(ids, &body.settlement, outcome, grants, false)
    }

    /// The purchase that this amount pays for.
    fn payable(&self, ids: PurchaseIds, amount: Money) -> Result<Uuid, Code> {
        let purchase = self.unpaid(ids)?;
        let members = &self.purchases[&purchase].members;
        let due = money(self.due(members), self.certificates[&members[0]].price.currency);
        if due == amount { Ok(purchase) } else { Err(Code::AmountMismatch) }
    }

    /// The purchase with these ids, if it is not paid for yet.
    fn unpaid(&self, ids: PurchaseIds) -> Result<Uuid, Code> {
        let purchase = self.find_purchase(ids).ok_or(Code::UnknownCertificate)?;
        let bought = &self.purchases[&purchase];
        if bought.settlement.is_some() {
            return Err(Code::AlreadySettled);
        }
        self.ending(bought.members[0]).map_or(Ok(purchase), |ending| Err(refusal(ending)))
    }

    fn pay(&mut self, body: &SettlementCompletion, ids: PurchaseIds, purchase: Uuid) -> Output {
        let (key, outcome) = (key_of(body), SettlementOutcome::Completed);
        self.settle(purchase, key.clone(), body.grants);
        self.unmatched.retain(|one| one.key != key);
        self.settlements.insert(key, Settlement { ids, outcome, amount: Some(body.amount), grants: body.grants });
        self.registered(ids, &body.settlement, outcome, body.grants, false)
    }

    pub(super) fn settle(&mut self, purchase: Uuid, key: (Name, ExternalId), grants: Option<Grants>) {
        let bought = self.purchases.get_mut(&purchase).expect("the purchase is known");
        bought.settlement = Some(key);
        for id in bought.members.clone() {
            let one = self.certificate_mut(id);
            one.grants = grants.map_or(one.grants, |grants| grants.get());
            let points = one.points;
            self.transfer("licet:held", "licet:spent", points);
        }
    }

    /// Records money that matches no purchase, with one event for each amount.
    fn record_unmatched(&mut self, body: &SettlementCompletion, reason: Code) {
        let key = key_of(body);
        if self.unmatched.iter().any(|one| one.key == key && one.amount == body.amount) {
            return;
        }
        self.unmatched.push(Unmatched { key, amount: body.amount, reported: (self.now, self.message) });
        self.events.push(Output::SettlementUnmatched(SettlementUnmatched {
            settlement: body.settlement.clone(),
            provider: body.provider.clone(),
            certificate: body.certificate,
            container: body.container,
            amount: Some(body.amount),
            reason,
        }));
    }

    pub(super) fn fail_settlement(&mut self, body: &SettlementSetback) -> Result<Output, Code> {
        refuse_licet(&body.provider)?;
        let ids = (body.certificate, body.container);
        match self.settlements.get(&key_of_setback(body)) {
            Some(known) if known.ids != ids => return Err(Code::AlreadySettled),
            Some(known) => return Ok(self.registered(ids, &body.settlement, known.outcome, known.grants, true)),
            None => {}
        }
        let purchase = self.unpaid(ids)?;
        self.end_unpaid(purchase, Ending::Declined);
        let outcome = SettlementOutcome::Failed;
        self.settlements.insert(key_of_setback(body), Settlement { ids, outcome, amount: None, grants: None });
        Ok(self.registered(ids, &body.settlement, outcome, None, false))
    }

    pub(super) fn reverse_settlement(&mut self, body: &SettlementSetback) -> Result<Output, Code> {
        refuse_licet(&body.provider)?;
        let ids = (body.certificate, body.container);
        let (key, outcome) = (key_of_setback(body), SettlementOutcome::Reversed);
        let other_amount = |known: Money| body.amount.is_some_and(|amount| amount != known);
        let (grants, repeated) = match self.settlements.get(&key).cloned() {
            None => {
                let amount = self.remove_unmatched(body);
                if amount.is_none() && body.amount.is_some() {
                    return Err(Code::AmountMismatch);
                }
                self.settlements.insert(key, Settlement { ids, outcome, amount, grants: None });
                (None, false)
            }
            Some(known) if known.ids != ids || known.amount.is_some_and(other_amount) => {
                // The reversal does not match the registered settlement, but may match unmatched
                // money with the same id.
                let refusal = if known.ids == ids { Code::AmountMismatch } else { Code::AlreadySettled };
                self.remove_unmatched(body).ok_or(refusal)?;
                (known.grants, false)
            }
            Some(known) if known.outcome == SettlementOutcome::Completed => {
                self.settlements.insert(key, Settlement { outcome, ..known });
                self.reverse_purchase(ids);
                (known.grants, false)
            }
            Some(known) if known.outcome == SettlementOutcome::Failed => match self.remove_unmatched(body) {
                Some(amount) => {
                    self.settlements.insert(key, Settlement { outcome, amount: Some(amount), ..known });
                    (known.grants, false)
                }
                None => return Ok(self.registered(ids, &body.settlement, known.outcome, known.grants, true)),
            },
            Some(known) => (known.grants, self.remove_unmatched(body).is_none()),
        };
        Ok(self.registered(ids, &body.settlement, outcome, grants, repeated))
    }

    /// Removes unmatched money that was reversed: this amount, or every amount if none is given.
    /// Returns the amount that was reported last. If several were reported at the same time, this
    /// is the amount whose message has the greatest id.
    fn remove_unmatched(&mut self, body: &SettlementSetback) -> Option<Money> {
        let key = key_of_setback(body);
        let matches = |one: &Unmatched| one.key == key && body.amount.is_none_or(|amount| amount == one.amount);
        let last = self.unmatched.iter().filter(|one| matches(one)).max_by_key(|one| one.reported);
        let last = last.map(|one| one.amount);
        self.unmatched.retain(|one| !matches(one));
        last
    }

    /// Reverses everything that the payment paid for. Points that were earned with it are debited
    /// before points that were spent on it are credited.
    fn reverse_purchase(&mut self, ids: PurchaseIds) {
        let Some(purchase) = self.find_purchase(ids) else { return };
        let user = self.purchases[&purchase].user.clone();
        let (mut earned, mut spent) = (0, 0);
        for id in self.purchases[&purchase].members.clone() {
            self.reverse_certificate(id, &mut earned, &mut spent);
        }
        self.debit(&user, earned);
        self.credit("licet:spent", &user, spent);
    }

    fn reverse_certificate(&mut self, certificate: Uuid, earned: &mut i64, spent: &mut i64) {
        if self.is_live(certificate) {
            self.end(certificate, Ending::Reversed);
        }
        let one = self.certificate_mut(certificate);
        one.ended = Some(Ending::Reversed);
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
        settlement: &ExternalId,
        outcome: SettlementOutcome,
        grants: Option<Grants>,
        repeated: bool,
    ) -> Output {
        let purchase = match certificate {
            Some(id) => self.certificates.get(&id).map(|one| one.purchase),
            None => self.find_purchase((None, container)),
        };
        let reference = purchase.and_then(|id| self.purchases[&id].reference.clone());
        let settlement = settlement.clone();
        let body = SettlementRegistered { certificate, container, settlement, outcome, grants, repeated, reference };
        Output::SettlementRegistered(body)
    }
}

fn key_of(body: &SettlementCompletion) -> (Name, ExternalId) {
    (body.provider.clone(), body.settlement.clone())
}

fn key_of_setback(body: &SettlementSetback) -> (Name, ExternalId) {
    (body.provider.clone(), body.settlement.clone())
}

/// The provider name `licet` is reserved.
pub(super) fn refuse_licet(provider: &Name) -> Result<(), Code> {
    if provider.as_str() == LICET { Err(Code::Forbidden) } else { Ok(()) }
}
