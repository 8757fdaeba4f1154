//! Tokens: without a trusted key, it is impossible to create an accepted token, even from other
//! valid tokens.

use std::sync::LazyLock;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{Signer, SigningKey};
use licet_common::signing::{
    CertificateClaims, Claims, ContainerClaims, Draft, Keyring, LicenseClaims, Presented, TokenError, digest,
};
use licet_schema::{Name, Version};
use uuid::Uuid;

const SEED: [u8; 32] = [7; 32];

/// A keyring with a fixed key, so that its tokens are the same in every run.
pub fn keyring() -> &'static Keyring {
    static KEYRING: LazyLock<Keyring> = LazyLock::new(|| Keyring::new(SigningKey::from_bytes(&SEED), []));
    &KEYRING
}

/// Three tokens that were signed with this key: a certificate, a container and a license.
pub fn genuine_tokens() -> &'static [String; 3] {
    static TOKENS: LazyLock<[String; 3]> = LazyLock::new(|| {
        let id = Uuid::from_u128;
        let name = |text| Name::try_from(text).expect("a name");
        let (iss, version) = (String::from("licet"), Version::try_from(2i64).expect("a version"));
        let certificate = CertificateClaims {
            iss: iss.clone(),
            jti: id(1),
            sub: name("alice"),
            content: name("song"),
            version,
            generation: 1,
            iat: 1_700_000_000,
            exp: 1_800_000_000,
            container: Some(id(3)),
        };
        let (sub, certificates) = (name("alice"), vec![id(1), id(2)]);
        let container =
            ContainerClaims { iss: iss.clone(), jti: id(3), sub, certificates, iat: 1_700_000_000, exp: 1_800_000_000 };
        let license = LicenseClaims {
            iss,
            jti: id(4),
            sub: name("alice"),
            certificate: id(1),
            content: name("song"),
            version,
            terminal: Some(name("hall")),
            iat: 1_700_000_000,
        };
        let drafts = [Draft::new(&certificate), Draft::new(&container), Draft::new(&license)];
        drafts.map(|draft| draft.expect("valid claims").sign(keyring()).expect("a signing key").token)
    });
    &TOKENS
}

/// Whether the token is accepted as a certificate, as a container and as a license.
fn accepted(token: &str) -> [bool; 3] {
    fn accepted_as<C: Claims>(token: &str) -> bool {
        let Ok(presented) = Presented::<C>::read(token, keyring()) else { return false };
        // The digest of another token must never make a token valid.
        let mut others = genuine_tokens().iter().filter(|other| *other != token);
        let confused = others.any(|other| presented.verify(keyring(), Some(&digest(other))).is_ok());
        let verified = presented.verify(keyring(), None);
        assert!(!confused || verified.is_ok(), "{token:?} is accepted in place of another token");
        verified.is_ok()
    }
    [
        accepted_as::<CertificateClaims>(token),
        accepted_as::<ContainerClaims>(token),
        accepted_as::<LicenseClaims>(token),
    ]
}

/// A text is accepted as a kind of token exactly if it was signed as that kind.
pub(super) fn token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let signed = std::array::from_fn(|kind| genuine_tokens()[kind] == text);
    assert_eq!(accepted(text), signed, "{text:?}");
}

/// A changed token is not accepted. The first byte of the input selects a genuine token. Each group
/// of three bytes after it describes one change.
pub(super) fn token_change(bytes: &[u8]) {
    let Some((which, changes)) = bytes.split_first() else { return };
    let mut text = genuine_tokens()[usize::from(which % 3)].clone().into_bytes();
    // The number of changes is limited, because repeated copying could exhaust the memory.
    for change in changes.chunks_exact(3).take(16) {
        let position = usize::from(u16::from_be_bytes([change[0] & 0x0f, change[1]])) % text.len().max(1);
        match change[0] >> 4 {
            0..4 => text.insert(position, change[2]),
            _ if text.is_empty() => return,
            4..8 => text[position] = change[2],
            8..10 => text[position] ^= 1 << (change[2] % 8),
            10..12 => drop(text.remove(position)),
            12 => text.truncate(position),
            13 => text.rotate_left(position),
            14 => {
                let other = usize::from(change[2]) % text.len();
                text.swap(position, other);
            }
            _ => text.extend_from_within(..position),
        }
    }
    token(&text);
}

/// A payload that is signed with a trusted key is accepted with one meaning, or refused as
/// malformed but never as altered. The payload can be arbitrary, because a faulty or older release
/// may have signed it.
pub(super) fn token_claims(payload: &[u8]) {
    fn check_as<C: Claims + PartialEq + std::fmt::Debug>(payload: &[u8]) {
        let kid = keyring().signing_kid().expect("a signing key");
        let header = format!(r#"{{"alg":"EdDSA","kid":"{kid}","typ":"{}"}}"#, C::TYP);
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = SigningKey::from_bytes(&SEED).sign(signed.as_bytes());
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()));
        match Presented::<C>::read(&token, keyring()) {
            Ok(presented) => {
                let claims = presented.verify(keyring(), None).expect("the signature is valid");
                let again = serde_json::to_vec(claims).expect("JSON");
                assert_eq!(&serde_json::from_slice::<C>(&again).expect("claims that Licet wrote"), claims);
            }
            Err(error) => assert!(matches!(error, TokenError::Malformed { .. }), "{error}"),
        }
    }
    check_as::<CertificateClaims>(payload);
    check_as::<ContainerClaims>(payload);
    check_as::<LicenseClaims>(payload);
}
