//! From a license to the privilege that it brings back.
//!
//! The return is opened and kept; the content and the license are deleted; only then is the deletion
//! reported. From the deletion on the open return is all that this terminal has of the license.

use licet_schema::{
    Code, Output, Request,
    message::{LicenseDeletion, LicenseReturn, Privilege, PrivilegeGranted, ReturnOpened},
};
use uuid::Uuid;

use super::{
    Terminal, TerminalError, check,
    records::{Asked, License, Outcome, Return},
    store::StoreError,
};

impl Terminal {
    /// Gives a license back: opens its return, deletes its content and itself, reports that, and
    /// keeps what it brings. An upgrade's certificate is held from then on. What was given back
    /// already is told again.
    ///
    /// # Errors
    /// It is refused, or there is no answer; what was begun goes on with [`Terminal::resume`].
    pub async fn give_back(&mut self, license: Uuid, privilege: Privilege) -> Result<Return, TerminalError> {
        let Some(held) = self.store.get::<License>(license)? else {
            return self.given_back(license).await;
        };
        self.receive(held.clone()).await?;
        let opened = self.open_return(&held, privilege).await;
        let open = self.unless_revoked(&held, opened)?;
        // A crash from here on leaves a return that is open and a license that is gone or going.
        self.forget(license)?;
        self.report_deletion(open.license_return).await
    }

    async fn given_back(&mut self, license: Uuid) -> Result<Return, TerminalError> {
        match self.store.returns()?.into_iter().rfind(|one| one.license == license) {
            Some(open) if open.outcome.is_none() => self.report_deletion(open.license_return).await,
            Some(ended) => Ok(ended),
            None => Err(TerminalError::Absent { what: "license", id: license }),
        }
    }

    /// Opens a license's return. One that an earlier run opened may have lapsed, and its license is
    /// live again: asking once more tells, and opens another then.
    async fn open_return(&mut self, held: &License, privilege: Privilege) -> Result<Return, TerminalError> {
        let license = held.claims.jti;
        if let Some(earlier) = self.store.get::<Asked>(license)? {
            match self.ask(&earlier).await {
                Ok(answer) => drop(self.keep_opened(held, &answer)?),
                Err(TerminalError::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let earlier = self.store.returns()?.into_iter().rfind(|one| one.license == license && one.outcome.is_none());
        if let Some(open) = earlier.as_ref().filter(|open| open.privilege != privilege) {
            return Err(TerminalError::Returning { privilege: open.privilege });
        }
        let request = Request::LicenseReturn(LicenseReturn {
            license_token: held.license_token.clone(),
            user: held.claims.sub.clone(),
            privilege,
            deleted: false,
        });
        match (self.ask_anew(license, &request).await, earlier) {
            (Err(error), Some(open)) if error.refusal() == Some(Code::AlreadyReturned) => Ok(open),
            (answer, _) => self.keep_opened(held, &answer?),
        }
    }

    fn keep_opened(&self, held: &License, answer: &Output) -> Result<Return, TerminalError> {
        let Output::ReturnOpened(opened) = answer else {
            return Err(TerminalError::unexpected("license.return", answer));
        };
        if opened.license != held.claims.jti {
            return Err(TerminalError::Mismatch { what: "return" });
        }
        let open = return_of(held, opened);
        self.close_earlier(&open)?;
        self.store.put(&open)?;
        self.store.remove::<Asked>(opened.license)?;
        Ok(open)
    }

    /// Where a return is opened anew, those before it have lapsed.
    fn close_earlier(&self, open: &Return) -> Result<(), StoreError> {
        let mut earlier = self.store.returns()?.into_iter().filter(|one| {
            one.license == open.license && one.license_return != open.license_return && one.outcome.is_none()
        });
        let lapsed = Some(Outcome::Refused(Code::Lapsed));
        earlier.try_for_each(|one| self.store.put(&Return { outcome: lapsed.clone(), ..one }))
    }

    /// Reports the deletion, and keeps what the license brought. It is asked under one id until the
    /// answer is kept: an upgrade's token comes with that answer and no other.
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
                self.store.remove::<Asked>(license_return)?;
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

/// Whether a return cannot be completed any more, whatever happens.
fn is_over(code: Code) -> bool {
    matches!(code, Code::Lapsed | Code::Superseded | Code::AlreadyReturned)
}

fn return_of(held: &License, opened: &ReturnOpened) -> Return {
    Return {
        license_return: opened.license_return,
        license: opened.license,
        certificate: held.claims.certificate,
        user: held.claims.sub.clone(),
        content: opened.content.clone(),
        version: opened.version,
        privilege: opened.privilege,
        delete_by: opened.delete_by,
        outcome: None,
    }
}
