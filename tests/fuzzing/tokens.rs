//! Tokens: whoever holds none of our keys makes none that is accepted, whatever tokens he has seen.

use std::sync::LazyLock;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{Signer, SigningKey};
use licet_common::signing::{
    CertificateClaims, Claims, ContainerClaims, Draft, Keyring, LicenseClaims, Presented, TokenError, digest,
};
use licet_schema::{Name, Version};
use uuid::Uuid;

const SEED: [u8; 32] = [7; 32];

/// A keyring whose key is known, so that the same tokens come out everywhere.
pub fn keyring() -> &'static Keyring {
    static KEYRING: LazyLock<Keyring> = LazyLock::new(|| Keyring::new(SigningKey::from_bytes(&SEED), []));
    &KEYRING
}

/// The tokens that were signed with that key: a certificate, a container and a license.
pub fn genuine() -> &'static [String; 3] {
    static GENUINE: LazyLock<[String; 3]> = LazyLock::new(|| {
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
        let drafts = [Draft::certificate(&certificate), Draft::container(&container), Draft::license(&license)];
        drafts.map(|draft| draft.expect("sound claims").sign(keyring()).expect("a key").token)
    });
    &GENUINE
}

/// What each door says of a token: whether the three kinds accept it.
fn accepted(text: &str) -> [bool; 3] {
    fn by<C: Claims>(text: &str) -> bool {
        let Ok(presented) = Presented::<C>::read(text, keyring()) else { return false };
        // The digests of other tokens prove nothing.
        let others = genuine().iter().filter(|token| *token != text);
        let mistaken = others.filter(|token| presented.verify(keyring(), Some(&digest(token))).is_ok()).count();
        let verified = presented.verify(keyring(), None);
        assert!(mistaken == 0 || verified.is_ok(), "{text:?} passes for another token");
        verified.is_ok()
    }
    [by::<CertificateClaims>(text), by::<ContainerClaims>(text), by::<LicenseClaims>(text)]
}

/// A text is accepted by the door of its kind if it was signed, and by no other.
pub(super) fn token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let signed = std::array::from_fn(|kind| genuine()[kind] == text);
    assert_eq!(accepted(text), signed, "{text:?}");
}

/// Three bytes each change a genuine token; the first byte says which. However it is changed, it is
/// not accepted.
pub(super) fn token_change(bytes: &[u8]) {
    let Some((which, changes)) = bytes.split_first() else { return };
    let mut text = genuine()[usize::from(which % 3)].clone().into_bytes();
    // So few that repeating parts of it cannot fill the memory.
    for change in changes.chunks_exact(3).take(16) {
        let place = usize::from(u16::from_be_bytes([change[0] & 0x0f, change[1]])) % text.len().max(1);
        match change[0] >> 4 {
            0..4 => text.insert(place, change[2]),
            _ if text.is_empty() => return,
            4..8 => text[place] = change[2],
            8..10 => text[place] ^= 1 << (change[2] % 8),
            10..12 => drop(text.remove(place)),
            12 => text.truncate(place),
            13 => text.rotate_left(place),
            14 => {
                let other = usize::from(change[2]) % text.len();
                text.swap(place, other);
            }
            _ => text.extend_from_within(..place),
        }
    }
    token(&text);
}

/// A payload under our own signature, as a careless or older release may have signed it, is accepted
/// with one meaning, or refused and never called altered.
pub(super) fn token_claims(payload: &[u8]) {
    fn by<C: Claims + PartialEq + std::fmt::Debug>(payload: &[u8]) {
        let kid = keyring().signing_kid().expect("it signs");
        let header = format!(r#"{{"alg":"EdDSA","kid":"{kid}","typ":"{}"}}"#, C::TYP);
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = SigningKey::from_bytes(&SEED).sign(signed.as_bytes());
        let text = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()));
        match Presented::<C>::read(&text, keyring()) {
            Ok(presented) => {
                let claims = presented.verify(keyring(), None).expect("our own signature");
                let again = serde_json::to_vec(claims).expect("JSON");
                assert_eq!(&serde_json::from_slice::<C>(&again).expect("our own claims"), claims);
            }
            Err(error) => assert!(matches!(error, TokenError::Malformed { .. }), "{error}"),
        }
    }
    by::<CertificateClaims>(payload);
    by::<ContainerClaims>(payload);
    by::<LicenseClaims>(payload);
}
