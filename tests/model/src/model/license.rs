//! Licenses: requests and confirmed deliveries.

use licet_schema::{
    Code, Name, Output,
    message::{Ending, LicenseGranted, LicenseIssued, LicenseReceipt, LicenseRequest},
};
use uuid::Uuid;

use super::{License, LicenseState, Model, TokenSubject, count, refusal};

impl Model {
    pub(super) fn issue_license(&mut self, body: &LicenseRequest) -> Result<Output, Code> {
        let token = self.tokens.get(&body.certificate_token).ok_or(Code::Malformed)?;
        let TokenSubject::Certificate { id, generation, .. } = token.subject else { return Err(Code::Malformed) };
        token.fault.map_or(Ok(()), Err)?;
        let one = self.certificates.get(&id).ok_or(Code::UnknownCertificate)?;
        if one.generation != generation {
            return Err(Code::Superseded);
        }
        if let Some(ending) = self.ending(id) {
            return Err(refusal(ending));
        }
        if !one.received {
            return Err(Code::NotReceived);
        }
        if self.purchase_of(id).settlement.is_none() {
            return Err(Code::NotSettled);
        }
        if let Some((license, token)) = self.outstanding_for(id, body.terminal.as_ref()) {
            self.unannounced = true;
            return Ok(self.license_issued(license, token, id));
        }
        if self.remaining(id) <= 0 {
            return Err(Code::Exhausted);
        }
        let (license, token) = self.issued.license.clone();
        self.add_token(token.clone(), TokenSubject::License { id: license });
        let terminal = body.terminal.clone();
        let state = LicenseState::Outstanding;
        let (granted_at, revocation) = (None, None);
        let one = License { certificate: id, terminal, token: token.clone(), state, granted_at, revocation };
        let known = self.licenses.insert(license, one);
        assert!(license.is_nil() || known.is_none(), "the license id {license} was issued twice");
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

    /// The license of a presented token.
    pub(super) fn presented_license(&self, token: &str) -> Result<Uuid, Code> {
        let token = self.tokens.get(token).ok_or(Code::Malformed)?;
        match token.subject {
            TokenSubject::License { id } => token.fault.map_or(Ok(id), Err),
            TokenSubject::Certificate { .. } | TokenSubject::Container { .. } => Err(Code::Malformed),
        }
    }

    pub(super) fn confirm_license(&mut self, body: &LicenseReceipt) -> Result<Output, Code> {
        let id = self.presented_license(&body.license_token)?;
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
            self.end_if_exhausted(certificate);
        }
        Ok(Output::LicenseGranted(LicenseGranted {
            license: id,
            certificate,
            granted: count(self.granted(certificate)),
            remaining: count(if self.ending(certificate).is_none() { self.remaining(certificate) } else { 0 }),
            repeated,
        }))
    }

    /// Ends a live certificate whose grants are all used.
    pub(super) fn end_if_exhausted(&mut self, certificate: Uuid) {
        if self.is_live(certificate) && self.granted(certificate) >= self.certificates[&certificate].grants {
            self.end(certificate, Ending::Exhausted);
        }
    }
}
