//! The token of a request about a certificate or a container.

use licet_common::signing::{CertificateClaims, ContainerClaims, Keyring, Presented, TokenError};
use licet_schema::{Code, Refusal, message::CertificatePresented};
use uuid::Uuid;

use super::certificates::Subject;

/// A certificate token or a container token that was read and is not verified yet.
#[derive(Debug)]
pub enum PurchaseToken {
    /// The token of a certificate that was bought alone or in a container.
    Certificate(Presented<CertificateClaims>),
    /// The token of a container.
    Container(Presented<ContainerClaims>),
}

impl PurchaseToken {
    /// Reads the token in the body of a request.
    ///
    /// # Errors
    /// The body has no token or two tokens, or the token cannot be read.
    pub fn read(body: &CertificatePresented, keyring: &Keyring) -> Result<Self, Refusal> {
        match (&body.certificate_token, &body.container_token) {
            (Some(token), None) => Ok(Self::Certificate(Presented::read(token, keyring)?)),
            (None, Some(token)) => Ok(Self::Container(Presented::read(token, keyring)?)),
            _ => Err(Refusal::new(Code::Malformed, "provide exactly one of certificate_token and container_token")),
        }
    }

    /// The purchase that the unverified token names. Use it only to look up rows.
    pub(crate) fn unverified_subject(&self) -> Subject {
        match self {
            Self::Certificate(presented) => match presented.unverified().container {
                Some(container) => Subject::Container(container),
                None => Subject::Certificate(presented.unverified_id()),
            },
            Self::Container(presented) => Subject::Container(presented.unverified_id()),
        }
    }

    /// The certificates that the unverified token names, and their container.
    pub(crate) fn unverified_certificates(&self) -> (Vec<Uuid>, Option<Uuid>) {
        match self {
            Self::Certificate(presented) => (vec![presented.unverified_id()], presented.unverified().container),
            Self::Container(presented) => {
                (presented.unverified().certificates.clone(), Some(presented.unverified_id()))
            }
        }
    }

    /// Verifies the token. `stored` is the digest of the token that Licet sent under this id, if it
    /// is known.
    pub(crate) fn verify(&self, keyring: &Keyring, stored: Option<&[u8]>) -> Result<(), TokenError> {
        match self {
            Self::Certificate(presented) => presented.verify(keyring, stored).map(|_| ()),
            Self::Container(presented) => presented.verify(keyring, stored).map(|_| ()),
        }
    }
}
