//! Offline verification of tokens.

use licet_common::signing::{
    CertificateClaims, Claims, ContainerClaims, Keyring, LicenseClaims, Presented, TokenError,
};

/// The claims of a token whose signature is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verified {
    /// A certificate, which permits its user to request licenses.
    Certificate(CertificateClaims),
    /// A container of certificates that were bought together.
    Container(ContainerClaims),
    /// A license, which permits its user to use a content version.
    License(LicenseClaims),
}

/// Verifies a token of any of the three kinds with trusted keys. It does not check whether the
/// token has expired. To check that, compare its claims with the current time.
///
/// # Errors
/// The text is not a token, its key is not trusted, or it was altered.
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
