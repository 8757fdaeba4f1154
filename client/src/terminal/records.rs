//! The records of a terminal, each a file of its own. Claims are kept beside their tokens, as they
//! were verified when the token came.

use licet_common::signing::{CertificateClaims, ContainerClaims, LicenseClaims};
use licet_schema::{
    Code, DecodeError, Format, Name, Request, Timestamp, Version,
    format::EncodeError,
    message::{Media, Privilege, PrivilegeGranted},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::store::Record;

/// A request whose answer is not kept yet. It is written before it is sent, so that after a crash
/// the same bytes are asked under the same id and nothing happens twice.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Asked {
    /// What it is about: a certificate, license or return that is here; for a purchase, itself.
    pub(super) about: Uuid,
    pub(super) message_id: Uuid,
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// The body, as it was sent.
    pub(super) body: String,
}

impl Asked {
    /// A request under a new id.
    pub(super) fn new(about: Option<Uuid>, request: &Request) -> Result<Self, EncodeError> {
        let message_id = Uuid::now_v7();
        let body = String::from_utf8_lossy(&request.encode(Format::Json)?).into_owned();
        Ok(Self { about: about.unwrap_or(message_id), message_id, kind: request.kind().to_owned(), body })
    }

    /// What was asked.
    pub(super) fn request(&self) -> Result<Request, DecodeError> {
        Request::decode(&self.kind, Format::Json, self.body.as_bytes())
    }
}

/// A purchase certificate that is held here.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Certificate {
    /// What is attached to license requests.
    pub certificate_token: String,
    /// What it says.
    pub claims: CertificateClaims,
    /// Where it stands, as far as this terminal was told.
    pub standing: Standing,
}

/// Where a held certificate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Its reception is still to be acknowledged.
    Arrived,
    /// Its reception was acknowledged.
    Received,
    /// It brings no more licenses, for this reason.
    Ended(Code),
}

/// What several certificates came in; its token acknowledges all of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Container {
    pub(super) container_token: String,
    pub(super) claims: ContainerClaims,
}

/// A license that is held here.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct License {
    /// What permits to use the content.
    pub license_token: String,
    /// What it says.
    pub claims: LicenseClaims,
    /// Whether its reception was acknowledged.
    pub received: bool,
    /// Where its content is to be had, if that was told.
    pub media: Option<Media>,
}

/// A license that is being given back, or was.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Return {
    /// The return's id.
    pub license_return: Uuid,
    /// The license. While the return is open it may still be here; afterwards it is not.
    pub license: Uuid,
    /// Its certificate.
    pub certificate: Uuid,
    /// Whose it was.
    pub user: Name,
    /// Its content.
    pub content: Name,
    /// The content's version.
    pub version: Version,
    /// What it is to bring back.
    pub privilege: Privilege,
    /// Until when the deletion must be told.
    pub delete_by: Timestamp,
    /// How it ended; none while it is open.
    pub outcome: Option<Outcome>,
}

/// How a return ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The license is gone, and this is what it brought. An upgrade's certificate is held here.
    Returned(PrivilegeGranted),
    /// It brought nothing, for this reason.
    Refused(Code),
}

macro_rules! records {
    ($($record:ident in $folder:literal by |$it:ident| $id:expr;)*) => {$(
        impl Record for $record {
            const FOLDER: &'static str = $folder;
            fn id(&self) -> Uuid {
                let $it = self;
                $id
            }
        }
    )*};
}
records!(
    Asked in "asked" by |asked| asked.about;
    Certificate in "certificates" by |certificate| certificate.claims.jti;
    Container in "containers" by |container| container.claims.jti;
    License in "licenses" by |license| license.claims.jti;
    Return in "returns" by |one| one.license_return;
);
