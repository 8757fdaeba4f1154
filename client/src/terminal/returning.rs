//! Returns of licenses, from the request to the privilege that the user receives.
//!
//! The terminal opens the return and stores it, deletes the content and the license, and only then
//! reports the deletion. After the deletion, the stored return is the terminal's only record of the
//! license.

use futures_util::future::BoxFuture;
use licet_schema::{
    Code, Output, Request,
    message::{LicenseDeletion, LicenseReturn, Privilege, PrivilegeGranted, ReturnOpened},
};
use uuid::Uuid;

use super::{
    Terminal, TerminalError, check,
    records::{License, Outcome, PendingRequest, Return},
    store::StoreError,
};

impl Terminal {
    /// Returns a license: opens the return, deletes the content and the license, reports the
    /// deletion, and stores the privilege. The certificate of an upgrade is stored too. If the
    /// license was deleted by an earlier call, this call completes that return, or reads its record
    /// if it has ended.
    ///
    /// # Errors
    /// The return is refused, or no reply arrives. [`Terminal::resume`] continues an interrupted
    /// return.
    pub fn give_back(&mut self, license: Uuid, privilege: Privilege) -> BoxFuture<'_, Result<Return, TerminalError>> {
        Box::pin(async move {
            let Some(stored) = self.store.get::<License>(license)? else {
                return self.earlier_return(license).await;
            };
            self.receive(stored.clone()).await?;
            let opened = self.open_return(&stored, privilege).await;
            let open = self.unless_revoked(&stored, opened)?;
            // After a crash from here on, the return is open and the license may be deleted.
            self.delete(license)?;
            self.report_deletion(open.license_return).await
        })
    }

    async fn earlier_return(&mut self, license: Uuid) -> Result<Return, TerminalError> {
        match self.store.returns()?.into_iter().rfind(|one| one.license == license) {
            Some(open) if open.outcome.is_none() => self.report_deletion(open.license_return).await,
            Some(ended) => Ok(ended),
            None => Err(TerminalError::Absent { what: "license", id: license }),
        }
    }

    /// Opens the return of a license. A return that an earlier run opened may have lapsed, so the
    /// terminal asks again. If the return has lapsed, Licet opens another.
    async fn open_return(&mut self, license: &License, privilege: Privilege) -> Result<Return, TerminalError> {
        let id = license.claims.jti;
        if let Some(earlier) = self.store.get::<PendingRequest>(id)? {
            match self.ask(&earlier).await {
                Ok(reply) => drop(self.store_opened(license, &reply)?),
                Err(TerminalError::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let earlier = self.store.returns()?.into_iter().rfind(|one| one.license == id && one.outcome.is_none());
        if let Some(open) = earlier.as_ref().filter(|open| open.privilege != privilege) {
            return Err(TerminalError::Returning { privilege: open.privilege });
        }
        let request = Request::LicenseReturn(LicenseReturn {
            license_token: license.license_token.clone(),
            user: license.claims.sub.clone(),
            privilege,
            deleted: false,
        });
        match (self.ask_anew(id, &request).await, earlier) {
            (Err(error), Some(open)) if error.refusal() == Some(Code::AlreadyReturned) => Ok(open),
            (reply, _) => self.store_opened(license, &reply?),
        }
    }

    fn store_opened(&self, license: &License, reply: &Output) -> Result<Return, TerminalError> {
        let Output::ReturnOpened(opened) = reply else {
            return Err(TerminalError::unexpected("license.return", reply));
        };
        if opened.license != license.claims.jti {
            return Err(TerminalError::Mismatch { what: "return" });
        }
        let open = return_of(license, opened);
        self.close_earlier(&open)?;
        self.store.put(&open)?;
        self.store.remove::<PendingRequest>(opened.license)?;
        Ok(open)
    }

    /// Marks earlier returns of the license as lapsed, because Licet opens another return only if
    /// the earlier ones have lapsed.
    fn close_earlier(&self, open: &Return) -> Result<(), StoreError> {
        let mut earlier = self.store.returns()?.into_iter().filter(|one| {
            one.license == open.license && one.license_return != open.license_return && one.outcome.is_none()
        });
        let lapsed = Some(Outcome::Refused(Code::Lapsed));
        earlier.try_for_each(|one| self.store.put(&Return { outcome: lapsed.clone(), ..one }))
    }

    /// Reports the deletion, and stores the privilege. The report keeps its id until the reply is
    /// stored, because only that reply contains the token of an upgrade.
    pub(super) async fn report_deletion(&mut self, license_return: Uuid) -> Result<Return, TerminalError> {
        let open = self.store.get::<Return>(license_return)?;
        let mut open = open.ok_or(TerminalError::Absent { what: "return", id: license_return })?;
        let request = Request::LicenseDeletion(LicenseDeletion { license_return });
        match self.ask_about(license_return, &request).await {
            Ok(Output::LicenseReturned(returned)) if returned.license_return == license_return => {
                if let Some(certificate) = check::upgrade(&returned, &self.keyring)? {
                    self.store.put(&certificate)?;
                }
                open.outcome =
                    Some(Outcome::Returned(PrivilegeGranted { certificate_token: None, ..returned.privilege }));
                self.store.put(&open)?;
                self.store.remove::<PendingRequest>(license_return)?;
                Ok(open)
            }
            Ok(other) => Err(TerminalError::unexpected(request.kind(), &other)),
            Err(error) => {
                if let Some(code) = error.refusal().filter(|code| is_over(*code)) {
                    open.outcome = Some(Outcome::Refused(code));
                    self.store.put(&open)?;
                }
                Err(error)
            }
        }
    }
}

/// Whether a return can never be completed.
fn is_over(code: Code) -> bool {
    matches!(code, Code::Lapsed | Code::Superseded | Code::AlreadyReturned)
}

fn return_of(license: &License, opened: &ReturnOpened) -> Return {
    Return {
        license_return: opened.license_return,
        license: opened.license,
        certificate: license.claims.certificate,
        user: license.claims.sub.clone(),
        content: opened.content.clone(),
        version: opened.version,
        privilege: opened.privilege,
        delete_by: opened.delete_by,
        outcome: None,
    }
}
