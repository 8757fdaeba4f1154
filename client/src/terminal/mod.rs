//! A client terminal. It buys certificates, stores them, requests licenses with them, downloads
//! content, and returns licenses.
//!
//! Guarantees: a terminal acknowledges a certificate or license only after it has verified it and
//! stored it on disk. It reports a deletion only after it has deleted the copy. The program may
//! stop between any two steps. The next run with the same folder continues:
//!
//! | the program stopped after | the next run |
//! |---|---|
//! | a request was stored | sends it with the same id, possibly again; Licet processes it once |
//! | a reply arrived | sends the request again; Licet returns the stored reply |
//! | certificates were stored | acknowledges their receipt; repeating this changes nothing |
//! | a license was stored | downloads its content, then acknowledges its receipt |
//! | a return was opened | asks Licet whether it is still open, then deletes the copy |
//! | the copy was deleted | reports the deletion; repeating this changes nothing |
//!
//! Architecture invariant: a terminal makes no decision that Licet makes. It has no clock, and
//! learns from replies that a certificate or a return has expired.

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

use futures_util::future::BoxFuture;
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

/// An operation that an earlier run started.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Resumed {
    /// A purchase.
    Bought(Bought),
    /// The request for a license.
    Fetched {
        /// The certificate used in the request.
        certificate: Uuid,
        /// The result.
        fetched: Fetched,
    },
    /// A return.
    Returned(Box<Return>),
}

impl Terminal {
    /// Creates a terminal that trusts these keys. `name` identifies the device in license requests.
    /// While the device has an outstanding license of a certificate, Licet sends it the same
    /// license again.
    pub fn new(client: Client, keyring: Keyring, store: Store, name: Option<Name>) -> Self {
        Self { client, keyring, store, name }
    }

    /// The terminal's folder.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Continues every operation that an earlier run started and did not complete. The failure of
    /// one operation does not stop the others.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn resume(&mut self) -> BoxFuture<'_, Result<Vec<Result<Resumed, TerminalError>>, StoreError>> {
        Box::pin(async move {
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
        })
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

    /// Sends a stored request. If it is refused, it is removed, because the same id always gets the
    /// same reply. It stays stored if the refusal leaves its outcome open.
    async fn ask(&self, pending: &PendingRequest) -> Result<Output, TerminalError> {
        let body = pending.body.clone().into();
        let reply = self.client.ask_encoded(pending.message_id, &pending.kind, body).await?;
        let Output::RequestRefused(refused) = reply else { return Ok(reply) };
        if !is_undecided(refused.code) {
            self.store.remove::<PendingRequest>(pending.subject)?;
        }
        Err(refusal(refused))
    }

    /// Stores a request about `subject` with a new id, and sends it.
    async fn ask_anew(&self, subject: Uuid, request: &Request) -> Result<Output, TerminalError> {
        let pending = PendingRequest::new(Some(subject), request)?;
        self.store.put(&pending)?;
        self.ask(&pending).await
    }

    /// Sends a request about `subject`. If an earlier run stored a request, that request is sent
    /// first, because its reply may have been lost. If it is refused, the refusal may be out of
    /// date, so a new request follows.
    async fn ask_about(&self, subject: Uuid, request: &Request) -> Result<Output, TerminalError> {
        if let Some(earlier) = self.store.get::<PendingRequest>(subject)? {
            match self.ask(&earlier).await {
                Err(TerminalError::Refused { refusal, .. }) if !is_undecided(refusal.code) => {}
                answered => return answered,
            }
        }
        self.ask_anew(subject, request).await
    }

    /// Sends a receipt. Receipts are not stored, because they may be repeated with any id.
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
