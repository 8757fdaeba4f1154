//! Certificates, containers and licenses as compact JWS.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use licet_schema::{Code, Name, Refusal, Version};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::Keyring;

/// The only algorithm. Pinned here and never read from a header: a header that chooses the
/// algorithm is how `alg: none` and key-confusion attacks get in.
const ALG: &str = "EdDSA";

/// A token above this is refused unread: Licet never makes one of 100 members beyond 8 KiB.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// What a token of one kind says. `TYP` keeps the kinds apart: a license presented where a
/// certificate belongs is refused, whatever its claims look like.
pub trait Claims: Serialize + DeserializeOwned {
    /// The header's `typ`.
    const TYP: &'static str;
    /// `jti`: the id of what the token stands for.
    fn id(&self) -> Uuid;
}

/// This user may buy licenses for this content version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateClaims {
    /// Who issued it (`LICET_ISSUER`).
    pub iss: String,
    /// The certificate's id.
    pub jti: Uuid,
    /// The user.
    pub sub: Name,
    /// The content.
    pub content: Name,
    /// Its version.
    pub version: Version,
    /// 1 for the first, one more for each reissue.
    pub generation: i64,
    /// Issued, in seconds since 1970.
    pub iat: i64,
    /// Ends, in seconds since 1970.
    pub exp: i64,
    /// The container it was bought in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Uuid>,
}

/// These certificates were bought together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerClaims {
    /// Who issued it.
    pub iss: String,
    /// The container's id.
    pub jti: Uuid,
    /// The user.
    pub sub: Name,
    /// The certificates' ids.
    pub certificates: Vec<Uuid>,
    /// Issued, in seconds since 1970.
    pub iat: i64,
    /// The earliest end of its certificates, in seconds since 1970.
    pub exp: i64,
}

/// This user may use this content version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LicenseClaims {
    /// Who issued it.
    pub iss: String,
    /// The license's id.
    pub jti: Uuid,
    /// The user.
    pub sub: Name,
    /// The certificate that permitted it.
    pub certificate: Uuid,
    /// The content.
    pub content: Name,
    /// Its version.
    pub version: Version,
    /// The device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<Name>,
    /// Issued, in seconds since 1970.
    pub iat: i64,
}

macro_rules! claims {
    ($($claims:ident = $typ:literal),*) => {$(
        impl Claims for $claims {
            const TYP: &'static str = $typ;
            fn id(&self) -> Uuid {
                self.jti
            }
        }
    )*};
}
claims!(
    CertificateClaims = "licet-certificate+jwt",
    ContainerClaims = "licet-container+jwt",
    LicenseClaims = "licet-license+jwt"
);

/// Checked content: the only thing that can be signed.
#[derive(Debug)]
pub struct Draft {
    typ: &'static str,
    payload: Vec<u8>,
}

/// Content that must not be signed. It is a defect of a rule, not of a request.
#[derive(Debug, thiserror::Error)]
#[error("nothing is signed that {0}")]
pub struct DraftError(&'static str);

/// A token that Licet made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The compact JWS.
    pub token: String,
    /// Its SHA-256, by which it is known again.
    pub digest: [u8; 32],
}

impl Draft {
    /// A certificate.
    ///
    /// # Errors
    /// It names no issuer, ends before it begins, or has no generation.
    pub fn certificate(claims: &CertificateClaims) -> Result<Self, DraftError> {
        ensure(!claims.iss.is_empty(), "has no issuer")?;
        ensure(claims.exp > claims.iat, "ends before it begins")?;
        ensure(claims.generation >= 1, "has no generation")?;
        Self::of(claims)
    }

    /// A container.
    ///
    /// # Errors
    /// It names no issuer, ends before it begins, holds fewer than two certificates or one twice.
    pub fn container(claims: &ContainerClaims) -> Result<Self, DraftError> {
        ensure(!claims.iss.is_empty(), "has no issuer")?;
        ensure(claims.exp > claims.iat, "ends before it begins")?;
        ensure(claims.certificates.len() >= 2, "contains fewer than two certificates")?;
        let mut members = claims.certificates.clone();
        members.sort_unstable();
        members.dedup();
        ensure(members.len() == claims.certificates.len(), "contains one certificate twice")?;
        Self::of(claims)
    }

    /// A license.
    ///
    /// # Errors
    /// It names no issuer.
    pub fn license(claims: &LicenseClaims) -> Result<Self, DraftError> {
        ensure(!claims.iss.is_empty(), "has no issuer")?;
        Self::of(claims)
    }

    /// Signs with the keyring's signing key. The same draft and key always give the same bytes.
    ///
    /// # Errors
    /// The keyring only verifies.
    pub fn sign(self, keyring: &Keyring) -> Result<Signed, DraftError> {
        const NO_KEY: DraftError = DraftError("has no key to be signed with: create one with `licet keys new`");
        let kid = keyring.signing_kid().ok_or(NO_KEY)?;
        let header = format!(r#"{{"alg":"{ALG}","kid":"{kid}","typ":"{}"}}"#, self.typ);
        let mut token = URL_SAFE_NO_PAD.encode(header);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(&self.payload, &mut token);
        let signature = keyring.sign(token.as_bytes()).ok_or(NO_KEY)?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature.to_bytes(), &mut token);
        let digest = digest(&token);
        Ok(Signed { token, digest })
    }

    fn of<C: Claims>(claims: &C) -> Result<Self, DraftError> {
        let payload = serde_json::to_vec(claims).map_err(|_| DraftError("cannot be written as JSON"))?;
        Ok(Self { typ: C::TYP, payload })
    }
}

fn ensure(holds: bool, otherwise: &'static str) -> Result<(), DraftError> {
    if holds { Ok(()) } else { Err(DraftError(otherwise)) }
}

/// SHA-256 of a token.
pub fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Why a token is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is no token, or none of this kind.
    #[error("{detail}")]
    Malformed {
        /// What is wrong with it.
        detail: String,
    },
    /// Its key is not trusted.
    #[error("the token was signed with the key {kid:?}, which is not trusted here")]
    UntrustedKey {
        /// The key it names.
        kid: String,
    },
    /// It is not what was signed.
    #[error("the token was altered: its signature does not fit its content")]
    Altered,
}

impl From<TokenError> for Refusal {
    fn from(error: TokenError) -> Self {
        let code = match error {
            TokenError::Malformed { .. } => Code::Malformed,
            TokenError::UntrustedKey { .. } => Code::UntrustedKey,
            TokenError::Altered => Code::Altered,
        };
        Self::new(code, error.to_string())
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: String,
    typ: String,
}

/// A token as it was presented: readable, of the right kind, under a trusted key, and not yet
/// verified. Its claims stay behind [`Presented::verify`]; its id may be used to look it up.
#[derive(Clone, Debug)]
pub struct Presented<C> {
    token: String,
    kid: String,
    digest: [u8; 32],
    claims: C,
}

impl<C: Claims> Presented<C> {
    /// Reads a token.
    ///
    /// # Errors
    /// It is malformed, of another kind or algorithm, or under a key that is not trusted; or its
    /// payload cannot be read and its signature does not fit either, which is `Altered`.
    pub fn read(token: &str, keyring: &Keyring) -> Result<Self, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(malformed("the token is longer than any that is issued here"));
        }
        let (header, payload, signature) = split(token)?;
        let header: Header = serde_json::from_slice(&header)
            .map_err(|_| malformed("the token's header is not JSON with alg, kid and typ"))?;
        if header.alg != ALG {
            return Err(malformed(format!("the token's alg is {:?}: only {ALG} is accepted", header.alg)));
        }
        if header.typ != C::TYP {
            return Err(malformed(format!("the token's typ is {:?}: a {} belongs here", header.typ, C::TYP)));
        }
        if !keyring.trusts(&header.kid) {
            return Err(TokenError::UntrustedKey { kid: header.kid });
        }
        let claims = payload.as_deref().and_then(|payload| serde_json::from_slice(payload).ok());
        match claims {
            Some(claims) => Ok(Self { token: token.to_owned(), kid: header.kid, digest: digest(token), claims }),
            None if verifies(token, &header.kid, signature.as_deref(), keyring) => {
                Err(malformed("the token's claims are not those of its kind"))
            }
            None => Err(TokenError::Altered),
        }
    }

    /// The id that the token claims to stand for. Nothing is proven by it: it only says where to
    /// look.
    pub fn unverified_id(&self) -> Uuid {
        self.claims.id()
    }

    /// The claims, without proof: only for telling people what an altered token speaks of.
    pub fn unverified(&self) -> &C {
        &self.claims
    }

    /// The claims, once the token is proven to be what was signed: by being equal, byte for byte,
    /// to the one that Licet made (`stored` is its digest), or else by strict verification. The
    /// comparison can only accept: a token that differs may still be valid under another key.
    ///
    /// # Errors
    /// The signature does not fit.
    pub fn verify(&self, keyring: &Keyring, stored: Option<&[u8]>) -> Result<&C, TokenError> {
        if stored.is_some_and(|stored| stored == self.digest) {
            return Ok(&self.claims);
        }
        let signature = self.token.rsplit('.').next().and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
        if verifies(&self.token, &self.kid, signature.as_deref(), keyring) {
            Ok(&self.claims)
        } else {
            Err(TokenError::Altered)
        }
    }
}

fn malformed(detail: impl Into<String>) -> TokenError {
    TokenError::Malformed { detail: detail.into() }
}

fn verifies(token: &str, kid: &str, signature: Option<&[u8]>, keyring: &Keyring) -> bool {
    match (token.rfind('.'), signature) {
        (Some(end), Some(signature)) => keyring.verify(kid, &token.as_bytes()[..end], signature),
        _ => false,
    }
}

type Part = Option<Vec<u8>>;

/// Header, payload and signature. The header must decode, since it says who signed; whether the
/// other two do is a matter of alteration.
fn split(token: &str) -> Result<(Vec<u8>, Part, Part), TokenError> {
    let mut parts = token.split('.');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(header), Some(payload), Some(signature), None) => {
            let decode = |part| URL_SAFE_NO_PAD.decode(part).ok();
            let header = decode(header).ok_or_else(|| malformed("the token's header is not base64url"))?;
            Ok((header, decode(payload), decode(signature)))
        }
        _ => Err(malformed("a token has three parts with a dot between them")),
    }
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
