//! The signing key and the trusted keys, each identified by its RFC 7638 thumbprint (`kid`).

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Trusted public keys, and optionally one signing key.
#[derive(Clone)]
pub struct Keyring {
    signing: Option<(String, SigningKey)>,
    trusted: BTreeMap<String, VerifyingKey>,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyring").field("trusted", &self.trusted.keys()).finish_non_exhaustive()
    }
}

impl Keyring {
    /// Creates a keyring that signs with `signing`, and trusts this key and `others`.
    pub fn new(signing: SigningKey, others: impl IntoIterator<Item = VerifyingKey>) -> Self {
        let mut trusted: BTreeMap<_, _> = others.into_iter().map(|key| (thumbprint(&key), key)).collect();
        let kid = thumbprint(&signing.verifying_key());
        trusted.insert(kid.clone(), signing.verifying_key());
        Self { signing: Some((kid, signing)), trusted }
    }

    /// Creates a keyring that only verifies, from a published JWKS. Keys for other algorithms are
    /// ignored.
    ///
    /// # Errors
    /// An entry that is marked as an Ed25519 key is not a valid Ed25519 key. The text names the
    /// entry.
    pub fn from_jwks(jwks: &Jwks) -> Result<Self, String> {
        let mut trusted = BTreeMap::new();
        for jwk in jwks.keys.iter().filter(|jwk| jwk.kty == "OKP" && jwk.crv == "Ed25519") {
            let bytes = URL_SAFE_NO_PAD.decode(&jwk.x).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
            let key = bytes.and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok());
            let key = key.ok_or_else(|| format!("the key {:?} of the JWKS is not an Ed25519 public key", jwk.kid))?;
            trusted.insert(thumbprint(&key), key);
        }
        Ok(Self { signing: None, trusted })
    }

    /// The public keys, for programs that verify tokens.
    pub fn jwks(&self) -> Jwks {
        Jwks { keys: self.trusted.iter().map(|(kid, key)| Jwk::of(kid, key)).collect() }
    }

    /// The thumbprint of the signing key, if there is one.
    pub fn signing_kid(&self) -> Option<&str> {
        self.signing.as_ref().map(|(kid, _)| kid.as_str())
    }

    /// Whether the keyring contains the key with this thumbprint.
    pub(crate) fn trusts(&self, kid: &str) -> bool {
        self.trusted.contains_key(kid)
    }

    /// Signs with the signing key. Called only by [`super::Draft::sign`].
    pub(super) fn sign(&self, input: &[u8]) -> Option<Signature> {
        self.signing.as_ref().map(|(_, key)| key.sign(input))
    }

    /// Verifies strictly (RFC 8032 without the malleable encodings). A token therefore has exactly
    /// one valid signature, and a second valid token cannot be derived from it.
    pub(super) fn verify(&self, kid: &str, input: &[u8], signature: &[u8]) -> bool {
        let Ok(signature) = Signature::from_slice(signature) else { return false };
        self.trusted.get(kid).is_some_and(|key| key.verify_strict(input, &signature).is_ok())
    }
}

/// The thumbprint of a key: RFC 7638 with the members of RFC 8037.
pub(super) fn thumbprint(key: &VerifyingKey) -> String {
    let x = URL_SAFE_NO_PAD.encode(key.as_bytes());
    URL_SAFE_NO_PAD.encode(Sha256::digest(format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#)))
}

/// A JSON Web Key Set (RFC 7517).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jwks {
    /// The keys.
    pub keys: Vec<Jwk>,
}

/// A public Ed25519 key as a JSON Web Key (RFC 8037).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jwk {
    /// `OKP`.
    #[serde(default)]
    pub kty: String,
    /// `Ed25519`.
    #[serde(default)]
    pub crv: String,
    /// The public key, encoded as base64url.
    #[serde(default)]
    pub x: String,
    /// The thumbprint.
    #[serde(default)]
    pub kid: String,
    /// `EdDSA`.
    #[serde(default)]
    pub alg: String,
    /// `sig`.
    #[serde(default, rename = "use")]
    pub usage: String,
}

impl Jwk {
    fn of(kid: &str, key: &VerifyingKey) -> Self {
        Self {
            kty: "OKP".into(),
            crv: "Ed25519".into(),
            x: URL_SAFE_NO_PAD.encode(key.as_bytes()),
            kid: kid.to_owned(),
            alg: "EdDSA".into(),
            usage: "sig".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thumbprint_matches_rfc_8037_appendix_a_3() {
        let x = URL_SAFE_NO_PAD.decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").expect("base64url");
        let key = VerifyingKey::from_bytes(&x.try_into().expect("32 bytes")).expect("a valid key");
        assert_eq!(thumbprint(&key), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }
}
