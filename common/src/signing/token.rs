//! Tokens as compact JWS (RFC 7515), signed with Ed25519 (RFC 8037).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use licet_schema::{Code, Refusal, token::Claims};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::Keyring;

/// The only supported algorithm. It is fixed, because a header that chooses the algorithm would
/// allow `alg: none` and key-confusion attacks.
const ALG: &str = "EdDSA";

/// The maximum length of a token, in bytes. Longer tokens are refused before they are decoded. The
/// largest token that Licet signs, a container of 100 certificates, is smaller than 8 KiB.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Checked claims, ready to be signed.
#[derive(Debug)]
pub struct Draft {
    typ: &'static str,
    payload: Vec<u8>,
}

/// The reason claims are not signed. It is a defect of the program, not of a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DraftError {
    /// The claims contradict each other.
    #[error("the claims of a {typ} must not be signed: {why}")]
    Invalid {
        /// The kind of token.
        typ: &'static str,
        /// The contradiction.
        why: &'static str,
    },
    /// The claims cannot be encoded as JSON.
    #[error("the claims of a {typ} cannot be encoded as JSON: {cause}")]
    Unwritable {
        /// The kind of token.
        typ: &'static str,
        /// The encoder's error.
        cause: String,
    },
    /// The keyring has no signing key.
    #[error("there is no signing key: create one with `licet keys new`")]
    NoSigningKey,
}

/// A signed token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The compact JWS.
    pub token: String,
    /// The SHA-256 of the token, by which Licet recognizes it.
    pub digest: [u8; 32],
}

impl Draft {
    /// Checks claims.
    ///
    /// # Errors
    /// The claims contradict each other.
    pub fn new<C: Claims>(claims: &C) -> Result<Self, DraftError> {
        claims.check().map_err(|why| DraftError::Invalid { typ: C::TYP, why })?;
        let unwritable = |error: serde_json::Error| DraftError::Unwritable { typ: C::TYP, cause: error.to_string() };
        Ok(Self { typ: C::TYP, payload: serde_json::to_vec(claims).map_err(unwritable)? })
    }

    /// Signs with the keyring's signing key. The same claims and key always produce the same bytes.
    ///
    /// # Errors
    /// The keyring has no signing key.
    pub fn sign(self, keyring: &Keyring) -> Result<Signed, DraftError> {
        let kid = keyring.signing_kid().ok_or(DraftError::NoSigningKey)?;
        let header = format!(r#"{{"alg":"{ALG}","kid":"{kid}","typ":"{}"}}"#, self.typ);
        let mut token = URL_SAFE_NO_PAD.encode(header);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(&self.payload, &mut token);
        let signature = keyring.sign(token.as_bytes()).ok_or(DraftError::NoSigningKey)?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature.to_bytes(), &mut token);
        let digest = digest(&token);
        Ok(Signed { token, digest })
    }
}

/// The SHA-256 of a token.
pub fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// The reason a token is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The text is not a token, or is a token of another kind.
    #[error("{detail}")]
    Malformed {
        /// What is wrong, as a sentence.
        detail: String,
    },
    /// The token was signed with a key that is not trusted.
    #[error("the token was signed with the key {kid:?}, which is not trusted")]
    UntrustedKey {
        /// The thumbprint of the key that the token names.
        kid: String,
    },
    /// The token differs from the token that was signed.
    #[error("the token was altered: its signature does not match its content")]
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

/// A received token that is not verified yet. It can be decoded, is of the right kind, and names a
/// trusted key. [`Presented::verify`] returns its claims. Its unverified id may be used to look up
/// its row.
#[derive(Clone, Debug)]
pub struct Presented<C> {
    token: String,
    kid: String,
    digest: [u8; 32],
    claims: C,
}

impl<C: Claims> Presented<C> {
    /// Decodes a token.
    ///
    /// # Errors
    /// The token is malformed, of another kind or algorithm, or names a key that is not trusted. A
    /// token whose payload cannot be decoded and whose signature does not match is
    /// [`TokenError::Altered`].
    pub fn read(token: &str, keyring: &Keyring) -> Result<Self, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(malformed("the token is longer than any token that Licet issues"));
        }
        let (header, payload, signature) = split(token)?;
        let header: Header = serde_json::from_slice(&header)
            .map_err(|_| malformed("the token's header is not JSON with alg, kid and typ"))?;
        if header.alg != ALG {
            return Err(malformed(format!("the token's alg is {:?}: only {ALG} is accepted", header.alg)));
        }
        if header.typ != C::TYP {
            return Err(malformed(format!("the token's typ is {:?}: expected {}", header.typ, C::TYP)));
        }
        if !keyring.trusts(&header.kid) {
            return Err(TokenError::UntrustedKey { kid: header.kid });
        }
        let claims = payload.as_deref().and_then(|payload| serde_json::from_slice(payload).ok());
        match claims {
            Some(claims) => Ok(Self { token: token.to_owned(), kid: header.kid, digest: digest(token), claims }),
            None if verifies(token, &header.kid, signature.as_deref(), keyring) => {
                Err(malformed("the token's claims do not match its typ"))
            }
            None => Err(TokenError::Altered),
        }
    }

    /// The unverified id in the claims. Use it only to find the row that the token refers to.
    pub fn unverified_id(&self) -> Uuid {
        self.claims.id()
    }

    /// The unverified claims. Use them only to describe an altered token to a person.
    pub fn unverified(&self) -> &C {
        &self.claims
    }

    /// Verifies the token and returns its claims. The token is valid if its digest equals `stored`,
    /// the digest of the token that Licet signed. Otherwise, it is valid if its signature is valid.
    /// A different digest does not prove that the token is invalid, because the token may have a
    /// valid signature from another key.
    ///
    /// # Errors
    /// [`TokenError::Altered`] if the token is not valid.
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

/// Splits a token into header, payload and signature. The header must be valid base64url, because
/// it names the key. If the payload or the signature is not valid base64url, the token counts as
/// altered, not as malformed.
fn split(token: &str) -> Result<(Vec<u8>, Part, Part), TokenError> {
    let mut parts = token.split('.');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(header), Some(payload), Some(signature), None) => {
            let decode = |part| URL_SAFE_NO_PAD.decode(part).ok();
            let header = decode(header).ok_or_else(|| malformed("the token's header is not base64url"))?;
            Ok((header, decode(payload), decode(signature)))
        }
        _ => Err(malformed("a token has three parts, separated by dots")),
    }
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
