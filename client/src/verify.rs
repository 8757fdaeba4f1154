//! Verification of tokens without asking anybody.

use licet_common::signing::{
    CertificateClaims, Claims, ContainerClaims, Keyring, LicenseClaims, Presented, TokenError,
};

/// A token that is what was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verified {
    /// It permits to buy licenses.
    Certificate(CertificateClaims),
    /// It holds several certificates.
    Container(ContainerClaims),
    /// It permits to use a content.
    License(LicenseClaims),
}

/// Verifies a token of any of the three kinds against trusted keys. Whether its time is over is
/// another question, which its claims answer.
///
/// # Errors
/// It is none, or not one of these keys', or altered.
pub fn verify(token: &str, keyring: &Keyring) -> Result<Verified, TokenError> {
    let certificate = verify_as(token, keyring).map(Verified::Certificate);
    let Err(TokenError::Malformed { .. }) = certificate else { return certificate };
    let container = verify_as(token, keyring).map(Verified::Container);
    let Err(TokenError::Malformed { .. }) = container else { return container };
    verify_as(token, keyring).map(Verified::License)
}

/// Verifies a token of one kind.
pub(crate) fn verify_as<C: Claims + Clone>(token: &str, keyring: &Keyring) -> Result<C, TokenError> {
    Presented::<C>::read(token, keyring)?.verify(keyring, None).cloned()
}
