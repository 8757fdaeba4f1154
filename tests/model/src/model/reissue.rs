//! Reissues of certificates, and revocations of licenses.

use licet_schema::{
    Code, Output,
    message::{CertificateReissue, CertificateReissued, Ending, LicenseRevoked, Revocation},
};
use uuid::Uuid;

use super::{LicenseState, Model, ReturnState, TokenSubject, count, refusal};

impl Model {
    pub(super) fn reissue(&mut self, body: &CertificateReissue) -> Result<Output, Code> {
        let id = body.certificate;
        let one = self.certificates.get(&id).ok_or(Code::UnknownCertificate)?;
        let paid = self.purchase_of(id).settlement.is_some();
        match self.ending(id).filter(|ending| *ending != Ending::Reversed || !one.reinstated) {
            Some(ending @ (Ending::Lapsed | Ending::Declined | Ending::Reversed)) => return Err(refusal(ending)),
            Some(Ending::Expired) if !paid => return Err(Code::Expired),
            Some(Ending::Expired | Ending::Exhausted) | None => {}
        }
        let generation = one.generation + 1;
        let container = self.purchase_of(id).container.then_some(one.purchase);
        let expires_at = self.now + one.terms.certificate_ttl_s.get() * 1000;
        let one = self.certificate_mut(id);
        (one.generation, one.expires_at, one.ended, one.reinstated) = (generation, expires_at, None, false);
        let token = self.issued.certificate(0).1;
        self.add_token(token.clone(), TokenSubject::Certificate { id, generation, container });
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

    /// Revokes all outstanding licenses, and as many granted ones as exceed `wanted`, newest first.
    fn revoke_for_reissue(&mut self, certificate: Uuid, wanted: Option<i64>) {
        let of = |state: &[LicenseState]| {
            let mut found: Vec<_> = self.licenses.iter().filter(|(_, one)| one.certificate == certificate).collect();
            found.retain(|(_, one)| state.contains(&one.state));
            found.sort_by_key(|(id, one)| std::cmp::Reverse((one.granted_at, **id)));
            found.into_iter().map(|(id, _)| *id).collect::<Vec<_>>()
        };
        let outstanding = of(&[LicenseState::Outstanding]);
        let revocable = of(&[LicenseState::Granted, LicenseState::Returning]);
        let excess = wanted.map_or(0, |wanted| self.granted(certificate) - wanted);
        let excess = usize::try_from(excess).unwrap_or(0).min(revocable.len());
        for id in outstanding.into_iter().chain(revocable.into_iter().take(excess)) {
            self.revoke(id, Revocation::Reissued);
        }
    }

    /// Revokes a license. An open return of the license ends without an event.
    pub(super) fn revoke(&mut self, id: Uuid, reason: Revocation) {
        let license = self.licenses.get_mut(&id).expect("the license is known");
        (license.state, license.revocation) = (LicenseState::Revoked, Some(reason));
        let certificate = license.certificate;
        if let Some(open) = self.open_return(id) {
            self.returns.get_mut(&open).expect("the return is known").state = ReturnState::Lapsed;
        }
        self.events.push(Output::LicenseRevoked(LicenseRevoked { license: id, certificate, reason }));
    }
}
