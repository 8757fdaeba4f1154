//! From a certificate to a license that is held and acknowledged, and to its content.

use std::path::PathBuf;

use licet_schema::{
    Code, Output, Request,
    message::{LicenseReceipt, LicenseRequest, Media},
};
use serde::Serialize;
use uuid::Uuid;

use super::{
    Terminal, TerminalError, check, is_ending, media,
    records::{Asked, Certificate, License, Standing},
    store::StoreError,
};

/// What came of asking for a certificate's license.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fetched {
    /// The license is here and acknowledged.
    Here {
        /// The license.
        license: Uuid,
        /// Its content, if that is here too.
        content: Option<PathBuf>,
    },
    /// The certificate is not paid for yet: ask again.
    NotPaid,
    /// The certificate brings no more licenses, for this reason.
    Ended(Code),
}

impl Terminal {
    /// Certificates that could bring a license and have none here. One whose license was given back
    /// from here is not among them: that was no wish for another.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn wanted(&self) -> Result<Vec<Uuid>, StoreError> {
        let here = self.store.licenses()?.into_iter().map(|license| license.claims.certificate);
        let back = self.store.returns()?.into_iter().map(|one| one.certificate);
        let done: Vec<_> = here.chain(back).collect();
        let mut certificates = self.store.certificates()?;
        certificates.retain(|certificate| !matches!(certificate.standing, Standing::Ended(_)));
        Ok(certificates.into_iter().map(|one| one.claims.jti).filter(|id| !done.contains(id)).collect())
    }

    /// Sees to it that a certificate's license is here, with its content if it is told where that is
    /// to be had: asks, verifies, keeps, fetches, and then acknowledges. What is here is not asked
    /// for again.
    ///
    /// # Errors
    /// It is refused, or there is no answer, or what comes does not verify.
    pub async fn fetch(&mut self, certificate: Uuid, media: Option<Media>) -> Result<Fetched, TerminalError> {
        let held = self.store.get::<Certificate>(certificate)?;
        let held = held.ok_or(TerminalError::Absent { what: "certificate", id: certificate })?;
        let kept = self.store.licenses()?.into_iter().find(|license| license.claims.certificate == certificate);
        let obtained = match (kept, held.standing) {
            (Some(license), _) => Ok(license),
            (None, Standing::Ended(code)) => return Ok(Fetched::Ended(code)),
            (None, Standing::Arrived | Standing::Received) => self.obtain(&held, media.as_ref()).await,
        };
        match obtained {
            Ok(license) => {
                let license = self.told(license, media).await?;
                self.deliver(license).await
            }
            Err(error) => match error.refusal() {
                Some(Code::NotSettled | Code::NotReceived) => Ok(Fetched::NotPaid),
                Some(code) if is_ending(code) => {
                    self.end(certificate, code)?;
                    Ok(Fetched::Ended(code))
                }
                _ => Err(error),
            },
        }
    }

    /// Asks for a license with the held certificate attached, and keeps it.
    async fn obtain(&mut self, held: &Certificate, media: Option<&Media>) -> Result<License, TerminalError> {
        if held.standing == Standing::Arrived {
            self.acknowledge(held.clone()).await?;
        }
        let request = Request::LicenseRequest(LicenseRequest {
            certificate_token: held.certificate_token.clone(),
            terminal: self.name.clone(),
        });
        let answer = self.ask_about(held.claims.jti, &request).await?;
        let Output::LicenseIssued(issued) = answer else {
            return Err(TerminalError::unexpected(request.kind(), &answer));
        };
        let mut license = check::license(&held.claims, &issued, &self.keyring)?;
        license.media = media.cloned();
        self.store.put(&license)?;
        self.store.remove::<Asked>(held.claims.jti)?;
        Ok(license)
    }

    /// A license that is told where its content is to be had. A copy that is here stays until the
    /// other one is.
    async fn told(&self, mut license: License, media: Option<Media>) -> Result<License, TerminalError> {
        if let Some(media) = media.filter(|media| license.media.as_ref() != Some(media)) {
            let id = license.claims.jti;
            if self.store.content(id).is_some() {
                media::fetch(&media, &self.store.content_path(id)).await?;
            }
            license.media = Some(media);
            self.store.put(&license)?;
        }
        Ok(license)
    }

    /// Fetches what is missing of a license's content, then acknowledges the license.
    pub(super) async fn deliver(&mut self, license: License) -> Result<Fetched, TerminalError> {
        let id = license.claims.jti;
        if let (Some(media), None) = (&license.media, self.store.content(id)) {
            media::fetch(media, &self.store.content_path(id)).await?;
        }
        self.receive(license).await?;
        Ok(Fetched::Here { license: id, content: self.store.content(id) })
    }

    /// Tells that a license is held here. A crash before that is marked leads here again: the notice
    /// is then a repeated one.
    pub(super) async fn receive(&mut self, license: License) -> Result<(), TerminalError> {
        if license.received {
            return Ok(());
        }
        let notice = Request::LicenseReceipt(LicenseReceipt { license_token: license.license_token.clone() });
        let answer = self.tell(&notice).await;
        match self.unless_revoked(&license, answer)? {
            Output::LicenseGranted(granted) => {
                self.store.put(&License { received: true, ..license })?;
                if granted.remaining.get() == 0 && !granted.repeated {
                    self.end(granted.certificate, Code::Exhausted)?;
                }
                Ok(())
            }
            other => Err(TerminalError::unexpected(notice.kind(), &other)),
        }
    }

    /// An answer about a license. One that was revoked permits nothing: it is not kept.
    pub(super) fn unless_revoked<T>(
        &self,
        license: &License,
        answer: Result<T, TerminalError>,
    ) -> Result<T, TerminalError> {
        if answer.as_ref().err().and_then(TerminalError::refusal) == Some(Code::Superseded) {
            self.forget(license.claims.jti)?;
        }
        answer
    }

    /// Deletes a license and its content, the content first.
    pub(super) fn forget(&self, license: Uuid) -> Result<(), StoreError> {
        self.store.remove_content(license)?;
        self.store.remove::<License>(license)
    }

    fn end(&self, certificate: Uuid, code: Code) -> Result<(), StoreError> {
        match self.store.get::<Certificate>(certificate)? {
            Some(held) => self.store.put(&Certificate { standing: Standing::Ended(code), ..held }),
            None => Ok(()),
        }
    }
}
