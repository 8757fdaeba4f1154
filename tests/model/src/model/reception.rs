//! Checks of tokens, and acknowledgements of receipt.

use licet_schema::{
    Code, Output,
    message::{
        CertificateAccepted, CertificateChecked, CertificatePresented, Instruction, SettlementInstructed,
        SettlementOutcome,
    },
};
use uuid::Uuid;

use super::{LICET, Model, PurchaseIds, Settlement, Token, TokenSubject, money, refusal};

impl Model {
    /// The subject of the presented certificate or container token, and the token's fault.
    fn presented(&self, body: &CertificatePresented) -> Result<(TokenSubject, Option<Code>), Code> {
        let of_certificate = body.certificate_token.as_ref();
        let token = of_certificate.or(body.container_token.as_ref()).and_then(|token| self.tokens.get(token));
        let Token { subject, fault } = token.ok_or(Code::Malformed)?.clone();
        match (&subject, of_certificate.is_some()) {
            (TokenSubject::Certificate { .. }, true) | (TokenSubject::Container { .. }, false) => Ok((subject, fault)),
            _ => Err(Code::Malformed),
        }
    }

    pub(super) fn check_certificate(&mut self, body: &CertificatePresented) -> Result<Output, Code> {
        let (subject, fault) = self.presented(body)?;
        let altered = match fault {
            None | Some(Code::Altered) => fault.is_some(),
            Some(other) => return Err(other),
        };
        let (certificates, container) = match subject {
            TokenSubject::Certificate { id, container, .. } => (vec![id], container),
            TokenSubject::Container { id, members } => (members, Some(id)),
            TokenSubject::License { .. } => return Err(Code::Malformed),
        };
        Ok(Output::CertificateChecked(CertificateChecked { altered, certificates, container }))
    }

    pub(super) fn receive(&mut self, body: &CertificatePresented) -> Result<Output, Code> {
        let (subject, fault) = self.presented(body)?;
        fault.map_or(Ok(()), Err)?;
        let id = match subject {
            TokenSubject::Certificate { id, container, .. } => container.unwrap_or(id),
            TokenSubject::Container { id, .. } | TokenSubject::License { id } => id,
        };
        let purchase = self.purchases.get(&id).ok_or(Code::UnknownCertificate)?;
        if let TokenSubject::Certificate { id, generation, .. } = subject
            && self.certificates[&id].generation != generation
        {
            return Err(Code::Superseded);
        }
        let members = purchase.members.clone();
        let received = members.iter().any(|id| self.certificates[id].received);
        let unreceived = |id: &&Uuid| self.is_live(**id) && !self.certificates[id].received;
        let ended_alone = |id: &Uuid| purchase.settlement.is_some() && self.overdue_ending(*id).is_some();
        let waiting: Vec<_> = members.iter().filter(unreceived).filter(|id| !ended_alone(id)).copied().collect();
        if received && waiting.is_empty() {
            return Ok(self.accepted(id, members, true));
        }
        // An unpaid purchase is received as a whole or not at all.
        let overdue = members.iter().find(unreceived).and_then(|id| self.overdue_ending(*id));
        let ending = match waiting.is_empty() {
            true => overdue.or_else(|| members.iter().min().and_then(|id| self.certificates[id].ended)),
            false => self.overdue_ending(waiting[0]),
        };
        match ending {
            Some(ending) => Err(refusal(ending)),
            None => Ok(self.accept(id, waiting)),
        }
    }

    fn accept(&mut self, purchase: Uuid, waiting: Vec<Uuid>) -> Output {
        for id in &waiting {
            self.certificate_mut(*id).received = true;
        }
        let accepted = self.acceptance(purchase, waiting, false);
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
            self.settle_without_payment(purchase, (certificate, container));
        }
        Output::CertificateAccepted(accepted)
    }

    /// Settles a purchase whose amount due is zero.
    fn settle_without_payment(&mut self, purchase: Uuid, ids: PurchaseIds) {
        let reference = purchase.to_string().as_str().try_into().expect("an id is visible ASCII");
        let key = (LICET.try_into().expect("a name"), reference);
        self.settle(purchase, key.clone(), None);
        let currency = self.certificates[&self.purchases[&purchase].members[0]].price.currency;
        self.settlements.insert(key.clone(), Settlement::free(ids, money(0, currency)));
        let event = self.registered(ids, &key, SettlementOutcome::Completed, false);
        self.events.push(event);
    }

    fn accepted(&self, purchase: Uuid, certificates: Vec<Uuid>, repeated: bool) -> Output {
        Output::CertificateAccepted(self.acceptance(purchase, certificates, repeated))
    }

    fn acceptance(&self, purchase: Uuid, certificates: Vec<Uuid>, repeated: bool) -> CertificateAccepted {
        let bought = &self.purchases[&purchase];
        let currency = self.certificates[&bought.members[0]].price.currency;
        let due = self.due(&certificates);
        let pays = match repeated {
            true => bought.settlement.is_none(),
            false => bought.settlement.is_none() && due > 0,
        };
        CertificateAccepted {
            container: bought.container.then_some(purchase),
            amount: money(due, currency),
            settlement: if pays { Instruction::Instructed } else { Instruction::NotNeeded },
            repeated,
            reference: bought.reference.clone(),
            certificates,
        }
    }

    /// The amount due for these certificates: their prices less the points held for them.
    pub(super) fn due(&self, certificates: &[Uuid]) -> i64 {
        certificates
            .iter()
            .map(|id| self.certificates[id].price.amount_minor.get() - self.certificates[id].points)
            .sum()
    }
}
