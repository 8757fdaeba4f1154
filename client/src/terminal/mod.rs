//! The client terminal: buys, holds purchase certificates, fetches licenses and contents with them,
//! and gives licenses back.
//!
//! What it promises: nothing is acknowledged before it is verified and on the disk; nothing is
//! reported as deleted before it is gone. Between any two steps the program may end, and the next
//! one over the same folder goes on:
//!
//! | ended after | what goes on |
//! |---|---|
//! | a request was written down | it is sent, again perhaps, under the same id: Licet answers it once |
//! | an answer came | the same: the stored answer comes again |
//! | certificates were kept | their reception is acknowledged; a second notice changes nothing |
//! | a license was kept | its content is fetched, then its reception acknowledged |
//! | a return was opened | Licet is asked whether it still is; then the copy is deleted |
//! | the copy was deleted | the deletion is reported; a second report changes nothing |
//!
//! Architecture invariant: it decides nothing that Licet decides. It has no clock; what has ended it
//! learns by asking.

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
use records::Asked;

/// A client terminal over its folder.
#[derive(Debug)]
pub struct Terminal {
    client: Client,
    keyring: Keyring,
    store: Store,
    name: Option<Name>,
}

/// Something that an earlier run had begun.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Resumed {
    /// A purchase.
    Bought(Bought),
    /// A license.
    Fetched {
        /// The certificate that it was asked for with.
        certificate: Uuid,
        /// What came of it.
        fetched: Fetched,
    },
    /// A return.
    Returned(Box<Return>),
}

impl Terminal {
    /// A terminal that trusts these keys and holds what is in the store. Its name is the device's:
    /// a device asks for a license once and not again while the first is under way.
    pub fn new(client: Client, keyring: Keyring, store: Store, name: Option<Name>) -> Self {
        Self { client, keyring, store, name }
    }

    /// What is held.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Goes on with all that an earlier run had begun and not ended. What one of it meets does not
    /// keep the others from going on.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub async fn resume(&mut self) -> Result<Vec<Result<Resumed, TerminalError>>, StoreError> {
        let mut resumed = Vec::new();
        for asked in self.store.all::<Asked>()? {
            resumed.push(self.resume_asked(asked).await);
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

    async fn resume_asked(&mut self, asked: Asked) -> Result<Resumed, TerminalError> {
        let unreadable = |error: licet_schema::DecodeError| {
            TerminalError::Store(self.store.damaged::<Asked>(asked.about, error.to_string()))
        };
        match asked.request().map_err(unreadable)? {
            Request::PurchaseRequest(purchase) => self.complete_purchase(&asked, &purchase).await.map(Resumed::Bought),
            Request::LicenseReturn(body) => self.give_back(asked.about, body.privilege).await.map(Resumed::returned),
            Request::LicenseDeletion(_) => self.report_deletion(asked.about).await.map(Resumed::returned),
            _ => {
                let certificate = asked.about;
                self.fetch(certificate, None).await.map(|fetched| Resumed::Fetched { certificate, fetched })
            }
        }
    }

    /// Asks what was written down. A refusal is an answer for good: under this id there is no other,
    /// and it is forgotten; unless it was refused undecided, so that it may be asked again.
    async fn ask(&self, asked: &Asked) -> Result<Output, TerminalError> {
        let answer = self.client.ask_json(asked.message_id, &asked.kind, asked.body.clone().into()).await?;
        let Output::RequestRefused(refused) = answer else { return Ok(answer) };
        if !is_undecided(refused.code) {
            self.store.remove::<Asked>(asked.about)?;
        }
        Err(refusal(refused))
    }

    /// Writes a request about something that is here down, and asks.
    async fn ask_anew(&self, about: Uuid, request: &Request) -> Result<Output, TerminalError> {
        let asked = Asked::new(Some(about), request)?;
        self.store.put(&asked)?;
        self.ask(&asked).await
    }

    /// Asks about something that is here: first what an earlier run had asked, whose answer may have
    /// been lost on the way; if that was a refusal, which may be out of date by now, once more.
    async fn ask_about(&self, about: Uuid, request: &Request) -> Result<Output, TerminalError> {
        if let Some(earlier) = self.store.get::<Asked>(about)? {
            match self.ask(&earlier).await {
                Err(TerminalError::Refused { refusal, .. }) if !is_undecided(refusal.code) => {}
                answered => return answered,
            }
        }
        self.ask_anew(about, request).await
    }

    /// Sends a notice, which may be repeated under any id.
    async fn tell(&self, notice: &Request) -> Result<Output, TerminalError> {
        match self.client.ask(notice).await? {
            Output::RequestRefused(refused) => Err(refusal(refused)),
            answer => Ok(answer),
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

/// Whether a refusal says nothing of what was asked, which may have been answered before, to another
/// sender perhaps. It stays written down.
fn is_undecided(code: Code) -> bool {
    matches!(code, Code::Forbidden | Code::Conflict)
}

/// Whether a certificate brings no more licenses, whatever happens.
fn is_ending(code: Code) -> bool {
    matches!(code, Code::Superseded | Code::Exhausted | Code::Lapsed | Code::Expired | Code::Declined | Code::Reversed)
}
