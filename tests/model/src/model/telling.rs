//! What is told to those who ask: holdings and status.

use licet_schema::{
    Code, ExternalId, Output,
    message::{
        CertificateState, CertificateStatus, Ending, Holding, HoldingsListed, HoldingsQuery, LicenseAttributes,
        StatusListed, StatusQuery,
    },
};
use uuid::Uuid;

use super::{License, LicenseState, Model, count, time};

/// Licenses of a page where the query does not say.
const PAGE: i64 = 100;

impl Model {
    pub(super) fn holdings(&self, body: &HoldingsQuery) -> Output {
        let theirs = |one: &License| self.purchase_of(one.certificate).user == body.user;
        let held = self.licenses.iter().filter(|(_, one)| theirs(one) && state_of(one).is_some());
        let after = held.filter(|(id, _)| body.after.is_none_or(|after| **id > after));
        let found: Vec<_> = after.map(|(id, one)| self.holding(*id, one)).collect();
        let limit = body.limit.map_or(PAGE, |limit| limit.get()) as usize;
        let page = &found[..limit.min(found.len())];
        Output::HoldingsListed(HoldingsListed {
            user: body.user.clone(),
            points: count(self.points(&body.user)),
            debt: count(self.balance(&format!("debt:{}", body.user))),
            next: page.last().filter(|_| found.len() > page.len()).map(|one| one.license),
            licenses: page.to_vec(),
        })
    }

    fn holding(&self, id: Uuid, one: &License) -> Holding {
        let terms = &self.certificates[&one.certificate].terms;
        let returnable = match one.state {
            LicenseState::Granted => self.offers(one),
            LicenseState::Returning if self.return_overdue(id) => self.offers(one),
            _ => Vec::new(),
        };
        Holding {
            license: id,
            content: terms.content.clone(),
            version: terms.version,
            attributes: self.attributes(one, state_of(one).unwrap_or_default()),
            returnable,
        }
    }

    pub(super) fn attributes(&self, license: &License, state: &str) -> LicenseAttributes {
        let certificate = &self.certificates[&license.certificate];
        LicenseAttributes {
            title: certificate.terms.title.clone(),
            purchased_at: time(self.purchase_of(license.certificate).bought_at),
            amount: certificate.price,
            granted_at: license.granted_at.map(time),
            state: state.try_into().expect("a text"),
        }
    }

    pub(super) fn status(&self, body: &StatusQuery) -> Result<Output, Code> {
        let mut certificates = self.asked(body)?;
        certificates.sort();
        let certificates = certificates.into_iter().map(|id| self.stands(id)).collect();
        Ok(Output::StatusListed(StatusListed { certificates }))
    }

    fn asked(&self, body: &StatusQuery) -> Result<Vec<Uuid>, Code> {
        if let Some(id) = body.certificate {
            return self.certificates.get(&id).map(|_| vec![id]).ok_or(Code::UnknownCertificate);
        }
        if let Some(id) = body.container {
            let found = self.purchases.get(&id).filter(|one| one.container);
            return found.map(|one| one.members.clone()).ok_or(Code::UnknownCertificate);
        }
        if let Some(id) = body.license {
            return self.licenses.get(&id).map(|one| vec![one.certificate]).ok_or(Code::UnknownLicense);
        }
        if let Some(id) = body.license_return {
            let found = self.returns.get(&id).map(|one| vec![self.licenses[&one.license].certificate]);
            return found.ok_or(Code::UnknownReturn);
        }
        let fits = |id: &&Uuid| match (&body.reference, &body.settlement) {
            (Some(reference), _) => self.purchase_of(**id).reference.as_ref() == Some(reference),
            (None, settlement) => settlement.as_ref().is_some_and(|settlement| self.is_named(**id, settlement)),
        };
        Ok(self.certificates.keys().filter(fits).copied().collect())
    }

    /// Whether a settlement of this id, whatever it told, names the certificate or its container.
    fn is_named(&self, id: Uuid, settlement: &ExternalId) -> bool {
        let container = Some(self.certificates[&id].purchase).filter(|_| self.purchase_of(id).container);
        let mut told = self.settlements.iter().filter(|((_, id), _)| id == settlement);
        told.any(|(_, one)| one.named.0 == Some(id) || (container.is_some() && one.named.1 == container))
    }

    fn stands(&self, id: Uuid) -> CertificateStatus {
        let bought = self.purchase_of(id);
        let over = self.over(id);
        CertificateStatus {
            certificate: id,
            state: match over {
                Some(Ending::Granted) => CertificateState::Granted,
                Some(Ending::Lapsed) => CertificateState::Lapsed,
                Some(Ending::Expired) => CertificateState::Expired,
                Some(Ending::Declined) => CertificateState::Declined,
                Some(Ending::Reversed) => CertificateState::Reversed,
                None if bought.settlement.is_some() => CertificateState::Settled,
                None if self.certificates[&id].received => CertificateState::Received,
                None => CertificateState::Issued,
            },
            reference: bought.reference.clone(),
            granted: count(self.granted(id)),
            remaining: count(if over.is_none() { self.remaining(id) } else { 0 }),
            settlement: bought.settlement.as_ref().map(|(_, id)| id.clone()),
        }
    }
}

/// The state of a license that somebody holds.
fn state_of(license: &License) -> Option<&'static str> {
    match license.state {
        LicenseState::Outstanding => Some("outstanding"),
        LicenseState::Granted => Some("granted"),
        LicenseState::Returning => Some("returning"),
        LicenseState::Returned | LicenseState::Revoked => None,
    }
}
