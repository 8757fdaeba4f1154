//! The records of a terminal, each in its own file. The claims of a token, verified when the token
//! arrived, are stored with it.

use licet_common::signing::{CertificateClaims, ContainerClaims, LicenseClaims};
use licet_schema::{
    Code, DecodeError, EncodeError, Name, Request, Timestamp, Version,
    message::{Media, Privilege, PrivilegeGranted},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::store::Record;

/// A request whose reply is not stored yet. The request is stored before it is sent, so that after
/// a crash the same bytes are sent with the same id, and Licet processes them only once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PendingRequest {
    /// The certificate, license or return that the request is about. For a purchase, the message_id
    /// of the request.
    pub(super) subject: Uuid,
    pub(super) message_id: Uuid,
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// The JSON body, as it is sent.
    pub(super) body: String,
}

impl PendingRequest {
    /// Creates a request with a new id.
    pub(super) fn new(subject: Option<Uuid>, request: &Request) -> Result<Self, EncodeError> {
        let message_id = Uuid::now_v7();
        // Lossless: JSON is UTF-8.
        let body = String::from_utf8_lossy(&request.encode()?).into_owned();
        Ok(Self { subject: subject.unwrap_or(message_id), message_id, kind: request.kind().to_owned(), body })
    }

    /// The request.
    pub(super) fn request(&self) -> Result<Request, DecodeError> {
        Request::decode(&self.kind, self.body.as_bytes())
    }
}

/// A stored purchase certificate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Certificate {
    /// The token to send with license requests.
    pub certificate_token: String,
    /// The claims of the token.
    pub claims: CertificateClaims,
    /// The state of the certificate, as far as this terminal knows.
    pub standing: Standing,
}

/// The state of a stored certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Receipt is not acknowledged yet.
    Arrived,
    /// Receipt was acknowledged.
    Received,
    /// The certificate permits no more licenses, for this reason.
    Ended(Code),
}

/// The container of several certificates. Its token acknowledges all of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Container {
    pub(super) container_token: String,
    pub(super) claims: ContainerClaims,
}

/// A stored license.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct License {
    /// The token, which permits the use of the content.
    pub license_token: String,
    /// The claims of the token.
    pub claims: LicenseClaims,
    /// Whether receipt was acknowledged.
    pub received: bool,
    /// The source of the content, if one was given.
    pub media: Option<Media>,
}

/// The return of a license.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Return {
    /// The id of the return.
    pub license_return: Uuid,
    /// The license. While the return is open, the license may still be stored.
    pub license: Uuid,
    /// The certificate of the license.
    pub certificate: Uuid,
    /// The user of the license.
    pub user: Name,
    /// The name of the content.
    pub content: Name,
    /// The version of the content.
    pub version: Version,
    /// The privilege that the user chose.
    pub privilege: Privilege,
    /// The deadline for reporting the deletion.
    pub delete_by: Timestamp,
    /// How the return ended. Absent while it is open.
    pub outcome: Option<Outcome>,
}

/// How a return ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The license ended, and this privilege was granted. If it is an upgrade, its certificate is
    /// stored.
    Returned(PrivilegeGranted),
    /// No privilege was granted, for this reason.
    Refused(Code),
}

/// Declares the folder and the id of each kind of record. Expands to one impl of [`Record`] for
/// each line.
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
    PendingRequest in "requests" by |pending| pending.subject;
    Certificate in "certificates" by |certificate| certificate.claims.jti;
    Container in "containers" by |container| container.claims.jti;
    License in "licenses" by |license| license.claims.jti;
    Return in "returns" by |one| one.license_return;
);
