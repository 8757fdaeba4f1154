//! Purchases: certificates are issued under the current terms.

use std::rc::Rc;

use licet_schema::{
    Code, Output,
    message::{CertificateIssued, ContentPut, Ending, IssuedCertificate, Item, PurchaseRequest},
};
use uuid::Uuid;

use super::{Certificate, DAY_MS, Model, POINTS_CURRENCY, Purchase, Token, TokenSubject, count, money, time};

impl Model {
    pub(super) fn buy(&mut self, body: &PurchaseRequest) -> Result<Output, Code> {
        let terms_of = |item: &Item| self.current_terms(item).ok_or(Code::UnknownContent);
        let terms = body.items.iter().map(terms_of).collect::<Result<Vec<_>, _>>()?;
        let currency = terms[0].price.currency;
        if terms.iter().any(|terms| terms.price.currency != currency) {
            return Err(Code::Malformed);
        }
        if self.unique_reference && self.used_before(body) {
            return Err(Code::ReferenceUsed);
        }
        let amount = terms.iter().map(|terms| terms.price.amount_minor.get()).sum();
        let offered = body.points.map_or(0, |points| points.get());
        let held = offered.min(amount);
        if offered > 0 && (currency.as_str() != POINTS_CURRENCY || self.points(&body.user) < held) {
            return Err(Code::InsufficientPoints);
        }

        let receipt_ttl = terms.iter().map(|terms| terms.receipt_ttl_s.map_or(DAY_MS, |ttl| ttl.get() * 1000)).min();
        let ttl = terms.iter().map(|terms| terms.certificate_ttl_s.get() * 1000).min();
        let receipt_due_at = self.now + receipt_ttl.min(ttl).expect("a purchase has items");
        let single = terms.len() == 1;
        let purchase = if single { self.issued.certificate(0).0 } else { self.issued.container.0 };
        let members = self.add_certificates(&terms, purchase, held, (!single).then_some(purchase));
        let expires_at = members.iter().map(|id| self.certificates[id].expires_at).min();
        if !single {
            let subject = TokenSubject::Container { id: purchase, members: members.clone() };
            self.add_token(self.issued.container.1.clone(), subject);
        }
        let bought = Purchase {
            user: body.user.clone(),
            members,
            container: !single,
            reference: body.reference.clone(),
            bought_at: self.now,
            receipt_due_at,
            settlement: None,
        };
        self.purchases.insert(purchase, bought);
        if let Some(reference) = body.reference.clone() {
            self.references.entry(reference).or_default().push(purchase);
        }
        self.transfer(&format!("points:{}", body.user), "licet:held", held);
        Ok(Output::CertificateIssued(CertificateIssued {
            certificates: self.issued.certificates.iter().cloned().map(issued_certificate).collect(),
            container: (!single).then_some(purchase),
            container_token: (!single).then(|| self.issued.container.1.clone()),
            amount: money(amount, currency),
            points_held: count(held),
            receipt_due_at: time(receipt_due_at),
            expires_at: time(expires_at.expect("a purchase has items")),
            reference: body.reference.clone(),
        }))
    }

    /// Whether a purchase with the same reference was paid or can still be paid before it ends. All
    /// purchases have the same sender.
    fn used_before(&self, body: &PurchaseRequest) -> bool {
        let unpaid = [Ending::Lapsed, Ending::Expired, Ending::Declined];
        let stands = |one: &Uuid| {
            let one = &self.purchases[one];
            one.settlement.is_some() || !self.ending(one.members[0]).is_some_and(|ending| unpaid.contains(&ending))
        };
        let earlier = body.reference.as_ref().and_then(|reference| self.references.get(reference));
        earlier.is_some_and(|earlier| earlier.iter().any(stands))
    }

    /// The current terms of an item: those of the version that it names, or of the highest version.
    fn current_terms(&self, item: &Item) -> Option<Rc<ContentPut>> {
        let of_name = self.contents.iter().filter(|((name, _), _)| *name == item.content);
        let mut matching = of_name.filter(|((_, version), _)| item.version.is_none_or(|wanted| wanted == *version));
        matching.next_back().map(|(_, terms)| Rc::clone(terms))
    }

    /// Adds one certificate for each of these terms. Points are applied to the certificates in
    /// their order.
    fn add_certificates(
        &mut self,
        terms: &[Rc<ContentPut>],
        purchase: Uuid,
        mut points: i64,
        container: Option<Uuid>,
    ) -> Vec<Uuid> {
        let mut members = Vec::new();
        for (index, terms) in terms.iter().enumerate() {
            let (id, token) = self.issued.certificate(index);
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
                reinstated: false,
            };
            self.add_certificate(id, one, token, container);
            members.push(id);
        }
        members
    }

    pub(super) fn add_certificate(&mut self, id: Uuid, one: Certificate, token: String, container: Option<Uuid>) {
        self.add_token(token, TokenSubject::Certificate { id, generation: 1, container });
        let known = self.certificates.insert(id, one);
        assert!(id.is_nil() || known.is_none(), "the certificate id {id} was issued twice");
    }

    pub(super) fn add_token(&mut self, token: String, subject: TokenSubject) {
        self.tokens.insert(token, Token { subject, fault: None });
    }
}

fn issued_certificate((certificate, token): (Uuid, String)) -> IssuedCertificate {
    IssuedCertificate { certificate, certificate_token: Some(token) }
}
