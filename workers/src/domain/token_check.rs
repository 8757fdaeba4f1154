//! The token of a request that is about a certificate or a container.

use licet_common::signing::{CertificateClaims, ContainerClaims, Keyring, Presented, TokenError};
use licet_schema::{Code, Refusal, message::CertificatePresented};
use uuid::Uuid;

use super::certificates::Subject;

/// A certificate token or a container token, read and not yet verified.
#[derive(Debug)]
pub enum PurchaseToken {
    /// A certificate: bought alone, or a member of a container.
    Certificate(Presented<CertificateClaims>),
    /// A container.
    Container(Presented<ContainerClaims>),
}

impl PurchaseToken {
    /// Reads the token of a request body.
    ///
    /// # Errors
    /// There is none, there are two, or it cannot be read.
    pub fn read(body: &CertificatePresented, keyring: &Keyring) -> Result<Self, Refusal> {
        match (&body.certificate_token, &body.container_token) {
            (Some(token), None) => Ok(Self::Certificate(Presented::read(token, keyring)?)),
            (None, Some(token)) => Ok(Self::Container(Presented::read(token, keyring)?)),
            _ => Err(Refusal::new(Code::Malformed, "give exactly one of certificate_token and container_token")),
        }
    }

    /// The purchase that it claims to belong to, for looking it up.
    pub(crate) fn unverified_subject(&self) -> Subject {
        match self {
            Self::Certificate(presented) => match presented.unverified().container {
                Some(container) => Subject::Container(container),
                None => Subject::Certificate(presented.unverified_id()),
            },
            Self::Container(presented) => Subject::Container(presented.unverified_id()),
        }
    }

    /// The certificates that it claims to represent, and their container.
    pub(crate) fn unverified_certificates(&self) -> (Vec<Uuid>, Option<Uuid>) {
        match self {
            Self::Certificate(presented) => (vec![presented.unverified_id()], presented.unverified().container),
            Self::Container(presented) => {
                (presented.unverified().certificates.clone(), Some(presented.unverified_id()))
            }
        }
    }

    /// Verifies it. `stored` is the digest of the token that Licet sent with this id, if known.
    pub(crate) fn verify(&self, keyring: &Keyring, stored: Option<&[u8]>) -> Result<(), TokenError> {
        match self {
            Self::Certificate(presented) => presented.verify(keyring, stored).map(|_| ()),
            Self::Container(presented) => presented.verify(keyring, stored).map(|_| ()),
        }
    }
}
