//! A client terminal: it buys, stores certificates, requests licenses with them, downloads
//! contents, and returns licenses.
//!
//! It guarantees: nothing is acknowledged before it is verified and stored on disk, and no deletion
//! is reported before it happened. The program may end between any two steps. The next one with the
//! same folder continues:
//!
//! | the program ended after | what the next one does |
//! |---|---|
//! | a request was stored | sends it, perhaps again, under the same id; Licet processes it once |
//! | a reply arrived | the same; Licet sends the stored reply |
//! | certificates were stored | acknowledges their reception; a repetition changes nothing |
//! | a license was stored | downloads its content, then acknowledges its delivery |
//! | a return was opened | asks Licet whether it is still open, then deletes the copy |
//! | the copy was deleted | reports the deletion; a repetition changes nothing |
//!
//! Architecture invariant: a terminal decides nothing that Licet decides. It has no clock, and
//! learns from replies what has expired.

mod buying;
mod check;
mod error;
mod fetching;
mod media;
mod records;
mod returning;
mod store;

pub use buying::Bought;
pub use error::TerminalError;
pub use fetching::Fetched;
pub use media::MediaError;
pub use records::{Certificate, License, Outcome, Return, Standing};
pub use store::{Store, StoreError};

use licet_common::signing::Keyring;
use licet_schema::{Code, Name, Output, Refusal, Request, message::RequestRefused};
use serde::Serialize;
use uuid::Uuid;

use crate::Client;
use records::PendingRequest;

/// A client terminal with its folder.
#[derive(Debug)]
pub struct Terminal {
    client: Client,
    keyring: Keyring,
    store: Store,
    name: Option<Name>,
}

/// An operation that an earlier run began.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Resumed {
    /// A purchase.
    Bought(Bought),
    /// The request for a license.
    Fetched {
        /// The certificate that it was requested with.
        certificate: Uuid,
        /// The result.
        fetched: Fetched,
    },
    /// A return.
    Returned(Box<Return>),
}

impl Terminal {
    /// A terminal that trusts these keys. `name` identifies the device in license requests: while
    /// the device has an outstanding license of a certificate, Licet issues no other one to it.
    pub fn new(client: Client, keyring: Keyring, store: Store, name: Option<Name>) -> Self {
        Self { client, keyring, store, name }
    }

    /// The terminal's folder.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Continues every operation that an earlier run began and did not complete. The failure of one
    /// operation does not stop the others.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub async fn resume(&mut self) -> Result<Vec<Result<Resumed, TerminalError>>, StoreError> {
        let mut resumed = Vec::new();
        for pending in self.store.all::<PendingRequest>()? {
            resumed.push(self.resume_request(pending).await);
        }
        for certificate in self.unacknowledged()? {
            resumed.push(self.acknowledge(certificate).await.map(Resumed::Bought));
        }
        for license in self.store.licenses()?.into_iter().filter(|license| !license.received) {
            let certificate = license.claims.certificate;
            resumed.push(self.deliver(license).await.map(|fetched| Resumed::Fetched { certificate, fetched }));
        }
        for open in self.store.returns()?.into_iter().filter(|one| one.outcome.is_none()) {
            resumed.push(self.give_back(open.license, open.privilege).await.map(Resumed::returned));
        }
        Ok(resumed)
    }

    async fn resume_request(&mut self, pending: PendingRequest) -> Result<Resumed, TerminalError> {
        let unreadable = |error: licet_schema::DecodeError| {
            TerminalError::Store(self.store.damaged::<PendingRequest>(pending.subject, error.to_string()))
        };
        match pending.request().map_err(unreadable)? {
            Request::PurchaseRequest(purchase) => {
                self.complete_purchase(&pending, &purchase).await.map(Resumed::Bought)
            }
            Request::LicenseReturn(body) => {
                self.give_back(pending.subject, body.privilege).await.map(Resumed::returned)
            }
            Request::LicenseDeletion(_) => self.report_deletion(pending.subject).await.map(Resumed::returned),
            _ => {
                let certificate = pending.subject;
                self.fetch(certificate, None).await.map(|fetched| Resumed::Fetched { certificate, fetched })
            }
        }
    }

    /// Sends a stored request. A refusal is final, because a repetition under this id has the same
    /// reply: the request is removed. It stays if the refusal decided nothing.
    async fn ask(&self, pending: &PendingRequest) -> Result<Output, TerminalError> {
        let body = pending.body.clone().into();
        let reply = self.client.ask_encoded(pending.message_id, &pending.kind, body).await?;
        let Output::RequestRefused(refused) = reply else { return Ok(reply) };
        if !is_undecided(refused.code) {
            self.store.remove::<PendingRequest>(pending.subject)?;
        }
        Err(refusal(refused))
    }

    /// Stores a request about `subject` under a new id, and sends it.
    async fn ask_anew(&self, subject: Uuid, request: &Request) -> Result<Output, TerminalError> {
        let pending = PendingRequest::new(Some(subject), request)?;
        self.store.put(&pending)?;
        self.ask(&pending).await
    }

    /// Sends a request about `subject`. If an earlier run stored one, that is sent first, because
    /// its reply may have been lost. If its reply is a refusal, which may be out of date, a new
    /// request follows.
    async fn ask_about(&self, subject: Uuid, request: &Request) -> Result<Output, TerminalError> {
        if let Some(earlier) = self.store.get::<PendingRequest>(subject)? {
            match self.ask(&earlier).await {
                Err(TerminalError::Refused { refusal, .. }) if !is_undecided(refusal.code) => {}
                answered => return answered,
            }
        }
        self.ask_anew(subject, request).await
    }

    /// Sends a receipt. It is not stored, because it may be repeated under any id.
    async fn send_receipt(&self, receipt: &Request) -> Result<Output, TerminalError> {
        match self.client.ask(receipt).await? {
            Output::RequestRefused(refused) => Err(refusal(refused)),
            reply => Ok(reply),
        }
    }
}

impl Resumed {
    fn returned(one: Return) -> Self {
        Self::Returned(Box::new(one))
    }
}

fn refusal(refused: RequestRefused) -> TerminalError {
    let RequestRefused { code, detail, message_type } = refused;
    TerminalError::Refused { kind: message_type, refusal: Refusal { code, detail } }
}

/// Whether a refusal leaves the outcome of the request open. An earlier attempt may have been
/// processed, so the request stays stored.
fn is_undecided(code: Code) -> bool {
    matches!(code, Code::Forbidden | Code::Conflict)
}

/// Whether a certificate can never grant another license.
fn is_ending(code: Code) -> bool {
    matches!(code, Code::Superseded | Code::Exhausted | Code::Lapsed | Code::Expired | Code::Declined | Code::Reversed)
}
