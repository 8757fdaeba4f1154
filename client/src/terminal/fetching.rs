//! Licenses, from the request to a stored and acknowledged license with its content.

use std::path::PathBuf;

use futures_util::future::BoxFuture;
use licet_schema::{
    Code, Output, Request,
    message::{LicenseReceipt, LicenseRequest, Media},
};
use serde::Serialize;
use uuid::Uuid;

use super::{
    Terminal, TerminalError, check, is_ending, media,
    records::{Certificate, License, PendingRequest, Standing},
    store::StoreError,
};

/// The result of requesting a license.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fetched {
    /// The license is stored and acknowledged.
    Here {
        /// The license.
        license: Uuid,
        /// The file of the license's content, if the content is stored too.
        content: Option<PathBuf>,
    },
    /// The certificate is not paid for yet. Request the license again later.
    NotPaid,
    /// The certificate permits no more licenses, for this reason.
    Ended(Code),
}

impl Terminal {
    /// The certificates that may still permit a license and have no license in this terminal.
    /// Certificates whose license was returned from this terminal are left out, because a return is
    /// not a request for another license.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn wanted(&self) -> Result<Vec<Uuid>, StoreError> {
        let licensed = self.store.licenses()?.into_iter().map(|license| license.claims.certificate);
        let returned = self.store.returns()?.into_iter().map(|one| one.certificate);
        let done: Vec<_> = licensed.chain(returned).collect();
        let mut certificates = self.store.certificates()?;
        certificates.retain(|certificate| !matches!(certificate.standing, Standing::Ended(_)));
        Ok(certificates.into_iter().map(|one| one.claims.jti).filter(|id| !done.contains(id)).collect())
    }

    /// Requests the license of a certificate, verifies it, stores it, downloads its content from
    /// `media` if given, and acknowledges the license. A license that is already stored is not
    /// requested again.
    ///
    /// # Errors
    /// The request is refused, no reply arrives, or a token in the reply is not valid.
    pub fn fetch(&mut self, certificate: Uuid, media: Option<Media>) -> BoxFuture<'_, Result<Fetched, TerminalError>> {
        Box::pin(async move {
            let stored = self.store.get::<Certificate>(certificate)?;
            let stored = stored.ok_or(TerminalError::Absent { what: "certificate", id: certificate })?;
            let license = self.store.licenses()?.into_iter().find(|license| license.claims.certificate == certificate);
            let obtained = match (license, stored.standing) {
                (Some(license), _) => Ok(license),
                (None, Standing::Ended(code)) => return Ok(Fetched::Ended(code)),
                (None, Standing::Arrived | Standing::Received) => self.obtain(&stored, media.as_ref()).await,
            };
            match obtained {
                Ok(license) => {
                    let license = self.with_media(license, media).await?;
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
        })
    }

    /// Requests a license with this certificate, and stores it.
    async fn obtain(&mut self, certificate: &Certificate, media: Option<&Media>) -> Result<License, TerminalError> {
        if certificate.standing == Standing::Arrived {
            self.acknowledge(certificate.clone()).await?;
        }
        let request = Request::LicenseRequest(LicenseRequest {
            certificate_token: certificate.certificate_token.clone(),
            terminal: self.name.clone(),
        });
        let reply = self.ask_about(certificate.claims.jti, &request).await?;
        let Output::LicenseIssued(issued) = reply else {
            return Err(TerminalError::unexpected(request.kind(), &reply));
        };
        let mut license = check::license(&certificate.claims, &issued, &self.keyring)?;
        license.media = media.cloned();
        self.store.put(&license)?;
        self.store.remove::<PendingRequest>(certificate.claims.jti)?;
        Ok(license)
    }

    /// Stores a new source for the content of a license, if one is given. A stored copy stays until
    /// the new copy replaces it.
    async fn with_media(&self, mut license: License, media: Option<Media>) -> Result<License, TerminalError> {
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

    /// Downloads the content of a license if it is missing, then acknowledges the license.
    pub(super) async fn deliver(&mut self, license: License) -> Result<Fetched, TerminalError> {
        let id = license.claims.jti;
        if let (Some(media), None) = (&license.media, self.store.content(id)) {
            media::fetch(media, &self.store.content_path(id)).await?;
        }
        self.receive(license).await?;
        Ok(Fetched::Here { license: id, content: self.store.content(id) })
    }

    /// Acknowledges receipt of a license, unless it is already acknowledged. After a crash before
    /// the license is marked as received, this function runs again, which repeats the
    /// acknowledgement.
    pub(super) async fn receive(&mut self, license: License) -> Result<(), TerminalError> {
        if license.received {
            return Ok(());
        }
        let receipt = Request::LicenseReceipt(LicenseReceipt { license_token: license.license_token.clone() });
        let reply = self.send_receipt(&receipt).await;
        match self.unless_revoked(&license, reply)? {
            Output::LicenseGranted(granted) => {
                self.store.put(&License { received: true, ..license })?;
                if granted.remaining.get() == 0 && !granted.repeated {
                    self.end(granted.certificate, Code::Exhausted)?;
                }
                Ok(())
            }
            other => Err(TerminalError::unexpected(receipt.kind(), &other)),
        }
    }

    /// Passes on a reply about a license, and deletes the license if the reply states that it was
    /// revoked.
    pub(super) fn unless_revoked<T>(
        &self,
        license: &License,
        reply: Result<T, TerminalError>,
    ) -> Result<T, TerminalError> {
        if reply.as_ref().err().and_then(TerminalError::refusal) == Some(Code::Superseded) {
            self.delete(license.claims.jti)?;
        }
        reply
    }

    /// Deletes the content of a license, then the license.
    pub(super) fn delete(&self, license: Uuid) -> Result<(), StoreError> {
        self.store.remove_content(license)?;
        self.store.remove::<License>(license)
    }

    fn end(&self, certificate: Uuid, code: Code) -> Result<(), StoreError> {
        match self.store.get::<Certificate>(certificate)? {
            Some(stored) => self.store.put(&Certificate { standing: Standing::Ended(code), ..stored }),
            None => Ok(()),
        }
    }
}
