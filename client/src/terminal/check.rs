//! Checks of replies. Tokens are verified offline, and their claims are compared with the request.
//! The terminal stores only tokens that pass these checks.

use licet_common::signing::{CertificateClaims, Claims, ContainerClaims, Keyring, LicenseClaims};
use licet_schema::message::{CertificateIssued, LicenseIssued, LicenseReturned, PurchaseRequest};

use super::{
    TerminalError,
    records::{Certificate, Container, License, Standing},
};
use crate::verify::verify_as;

/// Checks the reply to a purchase. Returns the certificates in the order of the items, and their
/// container if there are several.
pub(super) fn purchase(
    request: &PurchaseRequest,
    issued: &CertificateIssued,
    keyring: &Keyring,
) -> Result<(Vec<Certificate>, Option<Container>), TerminalError> {
    let mut certificates = Vec::new();
    for (one, item) in issued.certificates.iter().zip(&request.items) {
        let certificate = certificate(one.certificate_token.as_deref(), Standing::Arrived, keyring)?;
        let claims = &certificate.claims;
        let matches = claims.jti == one.certificate
            && claims.sub == request.user
            && claims.content == item.content
            && item.version.is_none_or(|version| version == claims.version)
            && claims.container == issued.container;
        ensure(matches, "certificate")?;
        certificates.push(certificate);
    }
    let count = request.items.len();
    let complete = issued.certificates.len() == count && issued.container.is_some() == (count > 1);
    ensure(complete, "purchase")?;
    Ok((certificates, container(request, issued, keyring)?))
}

fn container(
    request: &PurchaseRequest,
    issued: &CertificateIssued,
    keyring: &Keyring,
) -> Result<Option<Container>, TerminalError> {
    let Some(id) = issued.container else { return Ok(None) };
    let (container_token, claims) =
        verified::<ContainerClaims>(issued.container_token.as_deref(), "container", keyring)?;
    let members = issued.certificates.iter().map(|one| one.certificate);
    let matches = claims.jti == id && claims.sub == request.user && members.eq(claims.certificates.iter().copied());
    ensure(matches, "container")?;
    Ok(Some(Container { container_token, claims }))
}

/// Checks the reply to a license request. Returns the license.
pub(super) fn license(
    certificate: &CertificateClaims,
    issued: &LicenseIssued,
    keyring: &Keyring,
) -> Result<License, TerminalError> {
    let (license_token, claims) = verified::<LicenseClaims>(issued.license_token.as_deref(), "license", keyring)?;
    let matches = claims.jti == issued.license
        && claims.certificate == certificate.jti
        && claims.sub == certificate.sub
        && (&claims.content, claims.version) == (&certificate.content, certificate.version);
    ensure(matches, "license")?;
    Ok(License { license_token, claims, received: false, media: None })
}

/// Checks the certificate of an upgrade, if there is one. Such a certificate counts as received and
/// paid for from the start.
pub(super) fn upgrade(returned: &LicenseReturned, keyring: &Keyring) -> Result<Option<Certificate>, TerminalError> {
    let privilege = &returned.privilege;
    let Some(token) = privilege.certificate_token.as_deref() else { return Ok(None) };
    let certificate = certificate(Some(token), Standing::Received, keyring)?;
    let matches = Some(certificate.claims.jti) == privilege.certificate && certificate.claims.sub == returned.user;
    ensure(matches, "certificate")?;
    Ok(Some(certificate))
}

fn certificate(token: Option<&str>, standing: Standing, keyring: &Keyring) -> Result<Certificate, TerminalError> {
    let (certificate_token, claims) = verified(token, "certificate", keyring)?;
    Ok(Certificate { certificate_token, claims, standing })
}

fn verified<C: Claims + Clone>(
    token: Option<&str>,
    what: &'static str,
    keyring: &Keyring,
) -> Result<(String, C), TerminalError> {
    let token = token.ok_or(TerminalError::NoToken { what })?;
    let claims = verify_as(token, keyring).map_err(|source| TerminalError::Token { what, source })?;
    Ok((token.to_owned(), claims))
}

fn ensure(matches: bool, what: &'static str) -> Result<(), TerminalError> {
    if matches { Ok(()) } else { Err(TerminalError::Mismatch { what }) }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
