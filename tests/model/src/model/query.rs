//! Queries: holdings and status.

use licet_schema::{
    Code, ExternalId, Output,
    message::{
        self, CertificateState, CertificateStatus, Ending, Holding, HoldingsListed, HoldingsQuery, LicenseAttributes,
        LicenseStatus, Revocation, StatusListed, StatusQuery,
    },
};
use uuid::Uuid;

use super::{License, LicenseState, Model, count, time};

/// The page size if the query sets no limit.
const PAGE_DEFAULT: i64 = 100;

impl Model {
    pub(super) fn holdings(&self, body: &HoldingsQuery) -> Output {
        let of_user = |one: &License| self.purchase_of(one.certificate).user == body.user;
        let valid = self.licenses.iter().filter(|(id, one)| of_user(one) && self.state_of(**id, one).is_some());
        let after = valid.filter(|(id, _)| body.after.is_none_or(|after| **id > after));
        let found: Vec<_> = after.map(|(id, one)| self.holding(*id, one)).collect();
        let limit = body.limit.map_or(PAGE_DEFAULT, |limit| limit.get()) as usize;
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
            attributes: self.attributes(one, self.state_of(id, one).expect("only valid licenses are listed")),
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
        let mut certificates = self.selected_certificates(body)?;
        certificates.sort();
        let certificates = certificates.into_iter().map(|id| self.certificate_status(id)).collect();
        let license = body.license.map(|id| self.license_status(id));
        Ok(Output::StatusListed(StatusListed { certificates, license }))
    }

    fn selected_certificates(&self, body: &StatusQuery) -> Result<Vec<Uuid>, Code> {
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
        let matches = |id: &&Uuid| match (&body.reference, &body.settlement) {
            (Some(reference), _) => self.purchase_of(**id).reference.as_ref() == Some(reference),
            (None, settlement) => settlement.as_ref().is_some_and(|settlement| self.has_settlement(**id, settlement)),
        };
        Ok(self.certificates.keys().filter(matches).copied().collect())
    }

    /// Whether a settlement with this id and any outcome names the certificate or its container.
    fn has_settlement(&self, id: Uuid, settlement: &ExternalId) -> bool {
        let container = Some(self.certificates[&id].purchase).filter(|_| self.purchase_of(id).container);
        let mut named = self.settlements.iter().filter(|((_, id), _)| id == settlement);
        named.any(|(_, one)| one.ids.0 == Some(id) || (container.is_some() && one.ids.1 == container))
    }

    fn license_status(&self, id: Uuid) -> LicenseStatus {
        use message::LicenseState::{Granted, Outstanding, Returned, Revoked, Superseded};
        let one = &self.licenses[&id];
        let state = match (one.state, one.revocation) {
            (LicenseState::Outstanding, _) => Outstanding,
            (LicenseState::Granted | LicenseState::Returning, _) => Granted,
            (LicenseState::Returned, _) => Returned,
            (LicenseState::Revoked, Some(Revocation::Reissued)) => Superseded,
            (LicenseState::Revoked, _) => Revoked,
        };
        LicenseStatus { license: id, state }
    }

    fn certificate_status(&self, id: Uuid) -> CertificateStatus {
        let bought = self.purchase_of(id);
        let ending = self.ending(id);
        CertificateStatus {
            certificate: id,
            state: match ending {
                Some(Ending::Exhausted) => CertificateState::Exhausted,
                Some(Ending::Lapsed) => CertificateState::Lapsed,
                Some(Ending::Expired) => CertificateState::Expired,
                Some(Ending::Declined) => CertificateState::Declined,
                Some(Ending::Reversed) if self.certificates[&id].reinstated => CertificateState::Reinstated,
                Some(Ending::Reversed) => CertificateState::Reversed,
                None if bought.settlement.is_some() => CertificateState::Settled,
                None if self.certificates[&id].received => CertificateState::Received,
                None => CertificateState::Issued,
            },
            reference: bought.reference.clone(),
            granted: count(self.granted(id)),
            remaining: count(if ending.is_none() { self.remaining(id) } else { 0 }),
            settlement: bought.settlement.as_ref().map(|(_, id)| id.clone()),
        }
    }

    /// The state of a license in listings, or `None` if it is not listed. A license
    /// whose return has missed its deadline counts as granted.
    fn state_of(&self, id: Uuid, license: &License) -> Option<&'static str> {
        match license.state {
            LicenseState::Outstanding => Some("outstanding"),
            LicenseState::Returning if !self.return_overdue(id) => Some("returning"),
            LicenseState::Granted | LicenseState::Returning => Some("granted"),
            LicenseState::Returned | LicenseState::Revoked => None,
        }
    }
}
