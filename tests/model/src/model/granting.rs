//! From the purchase to the grant: certificates bought, shown, received, and reissued; licenses
//! requested and confirmed.

use std::rc::Rc;

use licet_schema::{
    Code, Name, Output,
    message::{
        CertificateAccepted, CertificateChecked, CertificateIssued, CertificatePresented, CertificateReissue,
        CertificateReissued, ContentPut, Ending, Instruction, IssuedCertificate, Item, LicenseGranted, LicenseIssued,
        LicenseReceipt, LicenseRequest, LicenseRevoked, PurchaseRequest, Revocation, SettlementInstructed,
        SettlementOutcome,
    },
};
use uuid::Uuid;

use super::{
    Certificate, DAY_MS, LICET, License, LicenseState, Model, Named, Purchase, ReturnState, Settlement, Stands, Token,
    count, money, refusal, time,
};

impl Model {
    pub(super) fn buy(&mut self, body: &PurchaseRequest) -> Result<Output, Code> {
        let sold = |item: &Item| self.sold_now(item).ok_or(Code::UnknownContent);
        let terms = body.items.iter().map(sold).collect::<Result<Vec<_>, _>>()?;
        let currency = terms[0].price.currency;
        if terms.iter().any(|terms| terms.price.currency != currency) {
            return Err(Code::Malformed);
        }
        let amount = terms.iter().map(|terms| terms.price.amount_minor.get()).sum();
        let offered = body.points.map_or(0, |points| points.get());
        let held = offered.min(amount);
        if offered > 0 && (currency.as_str() != "USD" || self.points(&body.user) < held) {
            return Err(Code::InsufficientPoints);
        }

        let receipt_ttl = terms.iter().map(|terms| terms.receipt_ttl_s.map_or(DAY_MS, |ttl| ttl.get() * 1000)).min();
        let receipt_due_at = self.now + receipt_ttl.unwrap_or_default();
        let alone = terms.len() == 1;
        let purchase = if alone { self.made.certificate(0).0 } else { self.made.container.0 };
        let members = self.certify(&terms, purchase, held, (!alone).then_some(purchase));
        let expires_at = members.iter().map(|id| self.certificates[id].expires_at).min().unwrap_or_default();
        if !alone {
            let stands = Stands::Container { id: purchase, members: members.clone() };
            self.learn(self.made.container.1.clone(), stands);
        }
        let bought = Purchase {
            user: body.user.clone(),
            members,
            container: !alone,
            reference: body.reference.clone(),
            bought_at: self.now,
            receipt_due_at,
            settlement: None,
        };
        self.purchases.insert(purchase, bought);
        self.book(&format!("points:{}", body.user), "licet:held", held);
        Ok(Output::CertificateIssued(CertificateIssued {
            certificates: self.made.certificates.iter().cloned().map(issued).collect(),
            container: (!alone).then_some(purchase),
            container_token: (!alone).then(|| self.made.container.1.clone()),
            amount: money(amount, currency),
            points_held: count(held),
            receipt_due_at: time(receipt_due_at),
            expires_at: time(expires_at),
            reference: body.reference.clone(),
        }))
    }

    /// What is sold under an item's name: the version it names, or the highest.
    fn sold_now(&self, item: &Item) -> Option<Rc<ContentPut>> {
        let named = self.sold.iter().filter(|((name, _), _)| *name == item.content);
        let mut fitting = named.filter(|((_, version), _)| item.version.is_none_or(|wanted| wanted == *version));
        fitting.next_back().map(|(_, terms)| Rc::clone(terms))
    }

    /// A certificate under each of these terms; the points go to the first first.
    fn certify(
        &mut self,
        terms: &[Rc<ContentPut>],
        purchase: Uuid,
        mut points: i64,
        container: Option<Uuid>,
    ) -> Vec<Uuid> {
        let mut members = Vec::new();
        for (index, terms) in terms.iter().enumerate() {
            let (id, token) = self.made.certificate(index);
            let covered = points.min(terms.price.amount_minor.get());
            points -= covered;
            let one = Certificate {
                purchase,
                terms: Rc::clone(terms),
                price: terms.price,
                points: covered,
                generation: 1,
                expires_at: self.now + terms.certificate_ttl_s.get() * 1000,
                received: false,
                grants: terms.grants.get(),
                ended: None,
            };
            self.add_certificate(id, one, token, container);
            members.push(id);
        }
        members
    }

    pub(super) fn add_certificate(&mut self, id: Uuid, one: Certificate, token: String, container: Option<Uuid>) {
        self.learn(token, Stands::Certificate { id, generation: 1, container });
        let known = self.certificates.insert(id, one);
        assert!(id.is_nil() || known.is_none(), "the certificate id {id} was made twice");
    }

    pub(super) fn learn(&mut self, token: String, stands: Stands) {
        self.tokens.insert(token, Token { stands, fault: None });
    }

    /// What a token of a certificate or container stands for, and what is wrong with it.
    fn shown(&self, body: &CertificatePresented) -> Result<(Stands, Option<Code>), Code> {
        let alone = body.certificate_token.as_ref();
        let token = alone.or(body.container_token.as_ref()).and_then(|token| self.tokens.get(token));
        let Token { stands, fault } = token.ok_or(Code::Malformed)?.clone();
        match (&stands, alone.is_some()) {
            (Stands::Certificate { .. }, true) | (Stands::Container { .. }, false) => Ok((stands, fault)),
            _ => Err(Code::Malformed),
        }
    }

    pub(super) fn check(&mut self, body: &CertificatePresented) -> Result<Output, Code> {
        let (stands, fault) = self.shown(body)?;
        let altered = match fault {
            None | Some(Code::Altered) => fault.is_some(),
            Some(other) => return Err(other),
        };
        let (certificates, container) = match stands {
            Stands::Certificate { id, container, .. } => (vec![id], container),
            Stands::Container { id, members } => (members, Some(id)),
            Stands::License { .. } => return Err(Code::Malformed),
        };
        Ok(Output::CertificateChecked(CertificateChecked { altered, certificates, container }))
    }

    pub(super) fn receive(&mut self, body: &CertificatePresented) -> Result<Output, Code> {
        let (stands, fault) = self.shown(body)?;
        fault.map_or(Ok(()), Err)?;
        let id = match stands {
            Stands::Certificate { id, container, .. } => container.unwrap_or(id),
            Stands::Container { id, .. } | Stands::License { id } => id,
        };
        let purchase = self.purchases.get(&id).ok_or(Code::UnknownCertificate)?;
        if let Stands::Certificate { id, generation, .. } = stands
            && self.certificates[&id].generation != generation
        {
            return Err(Code::Superseded);
        }
        let bought = purchase.members.clone();
        let received = bought.iter().any(|id| self.certificates[id].received);
        let unreceived = |id: &&Uuid| self.lives(**id) && !self.certificates[id].received;
        let over_alone = |id: &Uuid| purchase.settlement.is_some() && self.overdue(*id).is_some();
        let waiting: Vec<_> = bought.iter().filter(unreceived).filter(|id| !over_alone(id)).copied().collect();
        if received && waiting.is_empty() {
            return Ok(self.accepted(id, bought, true));
        }
        // Unpaid, all of it waits or nothing does.
        let overdue = bought.iter().find(unreceived).and_then(|id| self.overdue(*id));
        let over = match waiting.is_empty() {
            true => overdue.or_else(|| bought.iter().min().and_then(|id| self.certificates[id].ended)),
            false => self.overdue(waiting[0]),
        };
        match over {
            Some(ending) => Err(refusal(ending)),
            None => Ok(self.accept(id, waiting)),
        }
    }

    fn accept(&mut self, purchase: Uuid, waiting: Vec<Uuid>) -> Output {
        for id in &waiting {
            self.certificate(*id).received = true;
        }
        let reply = self.accepted(purchase, waiting, false);
        let Output::CertificateAccepted(accepted) = &reply else { return reply };
        let container = accepted.container;
        let certificate = container.is_none().then_some(purchase);
        let bought = &self.purchases[&purchase];
        if accepted.settlement == Instruction::Instructed {
            self.events.push(Output::SettlementInstructed(SettlementInstructed {
                certificate,
                container,
                user: bought.user.clone(),
                amount: accepted.amount,
                reference: bought.reference.clone(),
            }));
        } else if bought.settlement.is_none() {
            self.settle_without_money(purchase, (certificate, container));
        }
        reply
    }

    /// Nothing is left to pay.
    fn settle_without_money(&mut self, purchase: Uuid, named: Named) {
        let id = purchase.to_string().as_str().try_into().expect("an id is visible ASCII");
        let key = (LICET.try_into().expect("a name"), id);
        self.settle(purchase, key.clone(), None);
        let currency = self.certificates[&self.purchases[&purchase].members[0]].price.currency;
        let outcome = SettlementOutcome::Completed;
        self.settlements
            .insert(key.clone(), Settlement { named, outcome, amount: Some(money(0, currency)), grants: None });
        let event = self.registered(named, &key.1, outcome, None, false);
        self.events.push(event);
    }

    fn accepted(&self, purchase: Uuid, certificates: Vec<Uuid>, repeated: bool) -> Output {
        let bought = &self.purchases[&purchase];
        let currency = self.certificates[&bought.members[0]].price.currency;
        let due = self.due(&certificates);
        let pays = match repeated {
            true => bought.settlement.is_none() && certificates.iter().any(|id| self.lives(*id)),
            false => bought.settlement.is_none() && due > 0,
        };
        Output::CertificateAccepted(CertificateAccepted {
            container: bought.container.then_some(purchase),
            amount: money(due, currency),
            settlement: if pays { Instruction::Instructed } else { Instruction::NotNeeded },
            repeated,
            reference: bought.reference.clone(),
            certificates,
        })
    }

    /// What is charged for these: their prices less the points held for them.
    pub(super) fn due(&self, certificates: &[Uuid]) -> i64 {
        certificates
            .iter()
            .map(|id| self.certificates[id].price.amount_minor.get() - self.certificates[id].points)
            .sum()
    }

    pub(super) fn license(&mut self, body: &LicenseRequest) -> Result<Output, Code> {
        let token = self.tokens.get(&body.certificate_token).ok_or(Code::Malformed)?;
        let Stands::Certificate { id, generation, .. } = token.stands else { return Err(Code::Malformed) };
        token.fault.map_or(Ok(()), Err)?;
        let one = self.certificates.get(&id).ok_or(Code::UnknownCertificate)?;
        if one.generation != generation {
            return Err(Code::Superseded);
        }
        if let Some(ending) = self.over(id) {
            return Err(refusal(ending));
        }
        if !one.received {
            return Err(Code::NotReceived);
        }
        if self.purchase_of(id).settlement.is_none() {
            return Err(Code::NotSettled);
        }
        if let Some((license, token)) = self.outstanding_for(id, body.terminal.as_ref()) {
            self.quiet = true;
            return Ok(self.license_issued(license, token, id));
        }
        if self.remaining(id) <= 0 {
            return Err(Code::Exhausted);
        }
        let (license, token) = self.made.license.clone();
        self.learn(token.clone(), Stands::License { id: license });
        let terminal = body.terminal.clone();
        let state = LicenseState::Outstanding;
        let one = License { certificate: id, terminal, token: token.clone(), state, granted_at: None };
        let known = self.licenses.insert(license, one);
        assert!(license.is_nil() || known.is_none(), "the license id {license} was made twice");
        Ok(self.license_issued(license, token, id))
    }

    fn outstanding_for(&self, certificate: Uuid, terminal: Option<&Name>) -> Option<(Uuid, String)> {
        let same = |(_, one): &(&Uuid, &License)| {
            one.certificate == certificate
                && one.state == LicenseState::Outstanding
                && one.terminal.as_ref() == terminal
        };
        self.licenses.iter().find(same).map(|(id, one)| (*id, one.token.clone()))
    }

    fn license_issued(&self, license: Uuid, token: String, certificate: Uuid) -> Output {
        let remaining = count(self.remaining(certificate));
        Output::LicenseIssued(LicenseIssued { license, license_token: Some(token), remaining })
    }

    pub(super) fn license_shown(&self, token: &str) -> Result<Uuid, Code> {
        let token = self.tokens.get(token).ok_or(Code::Malformed)?;
        match token.stands {
            Stands::License { id } => token.fault.map_or(Ok(id), Err),
            Stands::Certificate { .. } | Stands::Container { .. } => Err(Code::Malformed),
        }
    }

    pub(super) fn confirm(&mut self, body: &LicenseReceipt) -> Result<Output, Code> {
        let id = self.license_shown(&body.license_token)?;
        let now = self.now;
        let license = self.licenses.get_mut(&id).ok_or(Code::UnknownLicense)?;
        let certificate = license.certificate;
        let repeated = match license.state {
            LicenseState::Revoked => return Err(Code::Superseded),
            LicenseState::Granted | LicenseState::Returning | LicenseState::Returned => true,
            LicenseState::Outstanding => false,
        };
        if !repeated {
            (license.state, license.granted_at) = (LicenseState::Granted, Some(now));
            self.end_if_used_up(certificate);
        }
        Ok(Output::LicenseGranted(LicenseGranted {
            license: id,
            certificate,
            granted: count(self.granted(certificate)),
            remaining: count(if self.over(certificate).is_none() { self.remaining(certificate) } else { 0 }),
            repeated,
        }))
    }

    /// The last grant ends a live certificate.
    pub(super) fn end_if_used_up(&mut self, certificate: Uuid) {
        if self.lives(certificate) && self.granted(certificate) >= self.certificates[&certificate].grants {
            self.end(certificate, Ending::Granted);
        }
    }

    pub(super) fn reissue(&mut self, body: &CertificateReissue) -> Result<Output, Code> {
        let id = body.certificate;
        let one = self.certificates.get(&id).ok_or(Code::UnknownCertificate)?;
        let paid = self.purchase_of(id).settlement.is_some();
        match self.over(id) {
            Some(ending @ (Ending::Lapsed | Ending::Declined | Ending::Reversed)) => return Err(refusal(ending)),
            Some(Ending::Expired) if !paid => return Err(Code::Expired),
            Some(Ending::Expired | Ending::Granted) | None => {}
        }
        let generation = one.generation + 1;
        let container = self.purchase_of(id).container.then_some(one.purchase);
        let expires_at = self.now + one.terms.certificate_ttl_s.get() * 1000;
        let one = self.certificate(id);
        (one.generation, one.expires_at, one.ended) = (generation, expires_at, None);
        let token = self.made.certificate(0).1;
        self.learn(token.clone(), Stands::Certificate { id, generation, container });
        self.revoke_for_reissue(id, body.granted.map(|granted| granted.get()));
        Ok(Output::CertificateReissued(CertificateReissued {
            certificate: id,
            certificate_token: Some(token),
            generation: count(generation),
            granted: count(self.granted(id)),
            remaining: count(self.remaining(id)),
            reference: self.purchase_of(id).reference.clone(),
        }))
    }

    /// Outstanding licenses go, and of the granted ones as many as shall not count, newest first.
    fn revoke_for_reissue(&mut self, certificate: Uuid, wanted: Option<i64>) {
        let of = |state: &[LicenseState]| {
            let mut found: Vec<_> = self.licenses.iter().filter(|(_, one)| one.certificate == certificate).collect();
            found.retain(|(_, one)| state.contains(&one.state));
            found.sort_by_key(|(id, one)| std::cmp::Reverse((one.granted_at, **id)));
            found.into_iter().map(|(id, _)| *id).collect::<Vec<_>>()
        };
        let outstanding = of(&[LicenseState::Outstanding]);
        let held = of(&[LicenseState::Granted, LicenseState::Returning]);
        let fewer = wanted.map_or(0, |wanted| self.granted(certificate) - wanted);
        let fewer = usize::try_from(fewer).unwrap_or_default().min(held.len());
        for id in outstanding.into_iter().chain(held.into_iter().take(fewer)) {
            self.revoke(id, Revocation::Reissued);
        }
    }

    /// A license counts no more; an open return of it is over, without a word.
    pub(super) fn revoke(&mut self, id: Uuid, reason: Revocation) {
        let license = self.licenses.get_mut(&id).expect("the license is known");
        license.state = LicenseState::Revoked;
        let certificate = license.certificate;
        if let Some(open) = self.open_return(id) {
            self.returns.get_mut(&open).expect("the return is known").state = ReturnState::Lapsed;
        }
        self.events.push(Output::LicenseRevoked(LicenseRevoked { license: id, certificate, reason }));
    }
}

fn issued((certificate, token): (Uuid, String)) -> IssuedCertificate {
    IssuedCertificate { certificate, certificate_token: Some(token) }
}
