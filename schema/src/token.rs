//! The claims of the three kinds of tokens, and the conditions under which claims may be signed.
//!
//! The module `licet_common::signing` signs and verifies claims. Times are NumericDate values (RFC
//! 7519): whole seconds since 1970-01-01T00:00:00Z.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::{Name, Version};

/// The claims of one kind of token. `TYP` distinguishes the kinds. For example, a license that is
/// presented in place of a certificate is refused, whatever its claims are.
pub trait Claims: Serialize + DeserializeOwned {
    /// The `typ` in the token's header.
    const TYP: &'static str;

    /// `jti`: the id of the certificate, container or license.
    fn id(&self) -> Uuid;

    /// Checks that these claims may be signed.
    ///
    /// # Errors
    /// The claims contradict each other. The text completes the sentence "claims must not be
    /// signed: ".
    fn check(&self) -> Result<(), &'static str>;
}

/// A purchase certificate: its user may request licenses for a content version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateClaims {
    /// The issuer (`LICET_ISSUER`).
    pub iss: String,
    /// The certificate's id.
    pub jti: Uuid,
    /// The user.
    pub sub: Name,
    /// The content.
    pub content: Name,
    /// The content's version.
    pub version: Version,
    /// The generation: 1 for the first token, increased by 1 with each reissue.
    pub generation: i64,
    /// Time of issue, in seconds since 1970.
    pub iat: i64,
    /// Time of expiry, in seconds since 1970.
    pub exp: i64,
    /// The container to which the certificate belongs, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Uuid>,
}

/// A container: certificates that were bought together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerClaims {
    /// The issuer.
    pub iss: String,
    /// The container's id.
    pub jti: Uuid,
    /// The user.
    pub sub: Name,
    /// The ids of the certificates, at least two, each once.
    pub certificates: Vec<Uuid>,
    /// Time of issue, in seconds since 1970.
    pub iat: i64,
    /// The earliest expiry of its certificates, in seconds since 1970.
    pub exp: i64,
}

/// A license: its user may use a content version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LicenseClaims {
    /// The issuer.
    pub iss: String,
    /// The license's id.
    pub jti: Uuid,
    /// The user.
    pub sub: Name,
    /// The certificate that the license was issued for.
    pub certificate: Uuid,
    /// The content.
    pub content: Name,
    /// The content's version.
    pub version: Version,
    /// The device that requested the license, if the request named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<Name>,
    /// Time of issue, in seconds since 1970.
    pub iat: i64,
}

impl Claims for CertificateClaims {
    const TYP: &'static str = "licet-certificate+jwt";

    fn id(&self) -> Uuid {
        self.jti
    }

    fn check(&self) -> Result<(), &'static str> {
        ensure(!self.iss.is_empty(), "they have no issuer")?;
        ensure(self.exp > self.iat, "they expire before they are issued")?;
        ensure(self.generation >= 1, "they have no generation")
    }
}

impl Claims for ContainerClaims {
    const TYP: &'static str = "licet-container+jwt";

    fn id(&self) -> Uuid {
        self.jti
    }

    fn check(&self) -> Result<(), &'static str> {
        ensure(!self.iss.is_empty(), "they have no issuer")?;
        ensure(self.exp > self.iat, "they expire before they are issued")?;
        ensure(self.certificates.len() >= 2, "they contain fewer than two certificates")?;
        let mut members = self.certificates.clone();
        members.sort_unstable();
        members.dedup();
        ensure(members.len() == self.certificates.len(), "they contain one certificate twice")
    }
}

impl Claims for LicenseClaims {
    const TYP: &'static str = "licet-license+jwt";

    fn id(&self) -> Uuid {
        self.jti
    }

    fn check(&self) -> Result<(), &'static str> {
        ensure(!self.iss.is_empty(), "they have no issuer")
    }
}

fn ensure(holds: bool, otherwise: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(otherwise) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate() -> CertificateClaims {
        CertificateClaims {
            iss: "licet".into(),
            jti: Uuid::from_u128(7),
            sub: Name::try_from("alice").expect("a name"),
            content: Name::try_from("song").expect("a name"),
            version: Version::try_from(1i64).expect("a version"),
            generation: 1,
            iat: 1_700_000_000,
            exp: 1_800_000_000,
            container: None,
        }
    }

    #[test]
    fn claims_that_contradict_themselves_are_refused() {
        assert_eq!(certificate().check(), Ok(()));
        assert!(CertificateClaims { exp: 0, ..certificate() }.check().is_err());
        assert!(CertificateClaims { generation: 0, ..certificate() }.check().is_err());
        assert!(CertificateClaims { iss: String::new(), ..certificate() }.check().is_err());
        let container = |certificates| ContainerClaims {
            iss: "licet".into(),
            jti: Uuid::from_u128(9),
            sub: certificate().sub,
            certificates,
            iat: 1,
            exp: 2,
        };
        assert_eq!(container(vec![Uuid::from_u128(1), Uuid::from_u128(2)]).check(), Ok(()));
        assert!(container(vec![Uuid::from_u128(1); 2]).check().is_err(), "one certificate twice");
        assert!(container(vec![Uuid::from_u128(1)]).check().is_err(), "one certificate alone");
        let license = LicenseClaims {
            iss: String::new(),
            jti: Uuid::from_u128(5),
            sub: certificate().sub,
            certificate: Uuid::from_u128(7),
            content: certificate().content,
            version: certificate().version,
            terminal: None,
            iat: 1,
        };
        assert!(license.check().is_err(), "no issuer");
        assert_eq!(LicenseClaims { iss: "licet".into(), ..license }.check(), Ok(()));
    }

    #[test]
    fn each_kind_of_token_has_a_typ_of_its_own() {
        let all = [CertificateClaims::TYP, ContainerClaims::TYP, LicenseClaims::TYP];
        assert_eq!(all, ["licet-certificate+jwt", "licet-container+jwt", "licet-license+jwt"]);
    }
}
