//! What payment providers tell: settlements completed, failed and taken back, and payouts.

use licet_schema::{
    Code, ExternalId, Money, Name, Output,
    message::{
        Ending, PayoutCompletion, PayoutRegistered, PrivilegeGranted, Revocation, SettlementCompletion,
        SettlementOutcome, SettlementRegistered, SettlementSetback, SettlementUnmatched,
    },
    vocabulary::Grants,
};
use uuid::Uuid;

use super::{LICET, LicenseState, Model, Named, Settlement, Unmatched, money, refusal};

impl Model {
    pub(super) fn complete(&mut self, body: &SettlementCompletion) -> Result<Output, Code> {
        not_licet(&body.provider)?;
        let named = (body.certificate, body.container);
        if let Some(known) = self.settlements.get(&key_of(body)).cloned() {
            return self.complete_known(body, named, known);
        }
        match self.payable(named, body.amount) {
            Ok(purchase) => Ok(self.pay(body, named, purchase)),
            Err(code) => {
                self.keep_unmatched(body, code);
                Err(code)
            }
        }
    }

    /// A settlement of which something was told before.
    fn complete_known(&mut self, body: &SettlementCompletion, named: Named, known: Settlement) -> Result<Output, Code> {
        let same = known.amount == Some(body.amount);
        let repeated = |outcome| self.registered(named, &body.settlement, outcome, known.grants, true);
        let verdict = match known.outcome {
            SettlementOutcome::Failed => Err(Code::Declined),
            SettlementOutcome::Reversed if known.amount.is_none() => Ok(self.came_and_went(body, named, known)),
            SettlementOutcome::Reversed if same => Ok(repeated(SettlementOutcome::Reversed)),
            SettlementOutcome::Completed if same && known.named == named => {
                // The same money, whatever it says of grants: nothing is kept.
                let agrees = body.grants.is_none() || body.grants == known.grants;
                return if agrees { Ok(repeated(SettlementOutcome::Completed)) } else { Err(Code::AlreadySettled) };
            }
            SettlementOutcome::Completed | SettlementOutcome::Reversed => Err(Code::AlreadySettled),
        };
        verdict.inspect_err(|code| self.keep_unmatched(body, *code))
    }

    /// The money was taken back before anybody told that it came.
    fn came_and_went(&mut self, body: &SettlementCompletion, named: Named, known: Settlement) -> Output {
        if named == known.named
            && let Ok(purchase) = self.payable(named, body.amount)
        {
            self.end_unpaid(purchase, Ending::Reversed);
        }
        let outcome = SettlementOutcome::Reversed;
        let (amount, grants) = (Some(body.amount), body.grants);
        self.settlements.insert(key_of(body), Settlement { amount, grants, ..known });
        // Kept before, it came and went too.
        self.unmatched.retain(|one| one.key != key_of(body) || one.amount != body.amount);
        self.registered(named, &body.settlement, outcome, grants, false)
    }

    /// The purchase that this amount pays for.
    fn payable(&self, named: Named, amount: Money) -> Result<Uuid, Code> {
        let purchase = self.unpaid(named)?;
        let members = &self.purchases[&purchase].members;
        let due = money(self.due(members), self.certificates[&members[0]].price.currency);
        if due == amount { Ok(purchase) } else { Err(Code::AmountMismatch) }
    }

    /// The purchase of this name, if it waits for its payment.
    fn unpaid(&self, named: Named) -> Result<Uuid, Code> {
        let purchase = self.named(named).ok_or(Code::UnknownCertificate)?;
        let bought = &self.purchases[&purchase];
        if bought.settlement.is_some() {
            return Err(Code::AlreadySettled);
        }
        self.over(bought.members[0]).map_or(Ok(purchase), |ending| Err(refusal(ending)))
    }

    fn pay(&mut self, body: &SettlementCompletion, named: Named, purchase: Uuid) -> Output {
        let (key, outcome) = (key_of(body), SettlementOutcome::Completed);
        self.settle(purchase, key.clone(), body.grants);
        self.unmatched.retain(|one| one.key != key);
        self.settlements.insert(key, Settlement { named, outcome, amount: Some(body.amount), grants: body.grants });
        self.registered(named, &body.settlement, outcome, body.grants, false)
    }

    pub(super) fn settle(&mut self, purchase: Uuid, key: (Name, ExternalId), grants: Option<Grants>) {
        let bought = self.purchases.get_mut(&purchase).expect("the purchase is known");
        bought.settlement = Some(key);
        for id in bought.members.clone() {
            let one = self.certificate(id);
            one.grants = grants.map_or(one.grants, |grants| grants.get());
            let points = one.points;
            self.book("licet:held", "licet:spent", points);
        }
    }

    /// Money is kept, once, and announced, once.
    fn keep_unmatched(&mut self, body: &SettlementCompletion, reason: Code) {
        let one = Unmatched { key: key_of(body), amount: body.amount };
        if self.unmatched.contains(&one) {
            return;
        }
        self.unmatched.push(one);
        self.events.push(Output::SettlementUnmatched(SettlementUnmatched {
            settlement: body.settlement.clone(),
            provider: body.provider.clone(),
            certificate: body.certificate,
            container: body.container,
            amount: Some(body.amount),
            reason,
        }));
    }

    pub(super) fn fail(&mut self, body: &SettlementSetback) -> Result<Output, Code> {
        not_licet(&body.provider)?;
        let named = (body.certificate, body.container);
        match self.settlements.get(&key_of_setback(body)) {
            Some(known) if known.named != named => return Err(Code::AlreadySettled),
            Some(known) => return Ok(self.registered(named, &body.settlement, known.outcome, known.grants, true)),
            None => {}
        }
        let purchase = self.unpaid(named)?;
        self.end_unpaid(purchase, Ending::Declined);
        let outcome = SettlementOutcome::Failed;
        self.settlements.insert(key_of_setback(body), Settlement { named, outcome, amount: None, grants: None });
        Ok(self.registered(named, &body.settlement, outcome, None, false))
    }

    pub(super) fn reverse(&mut self, body: &SettlementSetback) -> Result<Output, Code> {
        not_licet(&body.provider)?;
        let named = (body.certificate, body.container);
        let (key, outcome) = (key_of_setback(body), SettlementOutcome::Reversed);
        let other_amount = |known: Money| body.amount.is_some_and(|amount| amount != known);
        let (grants, repeated) = match self.settlements.get(&key).cloned() {
            None => {
                let amount = self.let_go(body);
                if amount.is_none() && body.amount.is_some() {
                    return Err(Code::AmountMismatch);
                }
                self.settlements.insert(key, Settlement { named, outcome, amount, grants: None });
                (None, false)
            }
            Some(known) if known.named != named || known.amount.is_some_and(other_amount) => {
                // Not what is registered: perhaps other money under the same id, that matched nothing.
                let refusal = if known.named == named { Code::AmountMismatch } else { Code::AlreadySettled };
                self.let_go(body).ok_or(refusal)?;
                (known.grants, false)
            }
            Some(known) if known.outcome == SettlementOutcome::Completed => {
                self.settlements.insert(key, Settlement { outcome, ..known });
                self.take_back_purchase(named);
                (known.grants, false)
            }
            Some(known) if known.outcome == SettlementOutcome::Failed => match self.let_go(body) {
                Some(amount) => {
                    self.settlements.insert(key, Settlement { outcome, amount: Some(amount), ..known });
                    (known.grants, false)
                }
                None => return Ok(self.registered(named, &body.settlement, known.outcome, known.grants, true)),
            },
            Some(known) => (known.grants, self.let_go(body).is_none()),
        };
        Ok(self.registered(named, &body.settlement, outcome, grants, repeated))
    }

    /// Money that was kept is taken back: of this amount, or of any; says what was told last.
    fn let_go(&mut self, body: &SettlementSetback) -> Option<Money> {
        let key = key_of_setback(body);
        let meant = |one: &Unmatched| one.key == key && body.amount.is_none_or(|amount| amount == one.amount);
        let last = self.unmatched.iter().rfind(|one| meant(one)).map(|one| one.amount);
        self.unmatched.retain(|one| !meant(one));
        last
    }

    /// Everything that the payment paid for is taken back; of points, first what was earned by it.
    fn take_back_purchase(&mut self, named: Named) {
        let Some(purchase) = self.named(named) else { return };
        let user = self.purchases[&purchase].user.clone();
        let (mut earned, mut spent) = (0, 0);
        for id in self.purchases[&purchase].members.clone() {
            self.take_back(id, &mut earned, &mut spent);
        }
        self.debit(&user, earned);
        self.credit("licet:spent", &user, spent);
    }

    fn take_back(&mut self, certificate: Uuid, earned: &mut i64, spent: &mut i64) {
        if self.lives(certificate) {
            self.end(certificate, Ending::Reversed);
        }
        let one = self.certificate(certificate);
        one.ended = Some(Ending::Reversed);
        *spent += one.points;
        let licenses: Vec<_> = self.licenses.iter().filter(|(_, one)| one.certificate == certificate).collect();
        for (id, state) in licenses.into_iter().map(|(id, one)| (*id, one.state)).collect::<Vec<_>>() {
            match state {
                LicenseState::Outstanding | LicenseState::Granted | LicenseState::Returning => {
                    self.revoke(id, Revocation::Reversed);
                }
                LicenseState::Returned => {
                    let brought = self.brought_by(id);
                    *earned += brought.points.map_or(0, |points| points.get());
                    if let Some(upgrade) = brought.certificate {
                        self.take_back(upgrade, earned, spent);
                    }
                }
                LicenseState::Revoked => {}
            }
        }
    }

    fn brought_by(&self, license: Uuid) -> PrivilegeGranted {
        let mut of = self.returns.values().filter(|one| one.license == license);
        of.find_map(|one| one.brought.clone()).expect("a returned license brought something")
    }

    pub(super) fn pay_out(&mut self, body: &PayoutCompletion) -> Result<Output, Code> {
        not_licet(&body.provider)?;
        let brought = self.returns.get(&body.license_return).and_then(|one| one.brought.as_ref());
        let due = brought.and_then(|brought| brought.amount).ok_or(Code::UnknownReturn)?;
        let key = (body.provider.clone(), body.payout.clone());
        let told = (body.license_return, body.amount);
        let repeated = self.payouts.get(&key) == Some(&told);
        let paid = self.payouts.contains_key(&key) || self.payouts.values().any(|(id, _)| *id == body.license_return);
        if paid && !repeated {
            return Err(Code::AlreadySettled);
        }
        if due != body.amount {
            return Err(Code::AmountMismatch);
        }
        self.payouts.insert(key, told);
        let (license_return, payout) = (body.license_return, body.payout.clone());
        Ok(Output::PayoutRegistered(PayoutRegistered { license_return, payout, repeated }))
    }

    /// The purchase of this id, if it is of this kind. A member of a container is no purchase.
    fn named(&self, (certificate, container): Named) -> Option<Uuid> {
        let id = certificate.or(container)?;
        self.purchases.get(&id).filter(|one| one.container == container.is_some()).map(|_| id)
    }

    pub(super) fn registered(
        &self,
        (certificate, container): Named,
        settlement: &ExternalId,
        outcome: SettlementOutcome,
        grants: Option<Grants>,
        repeated: bool,
    ) -> Output {
        let purchase = match certificate {
            Some(id) => self.certificates.get(&id).map(|one| one.purchase),
            None => self.named((None, container)),
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

/// Nobody else is Licet.
fn not_licet(provider: &Name) -> Result<(), Code> {
    if provider.as_str() == LICET { Err(Code::Forbidden) } else { Ok(()) }
}
