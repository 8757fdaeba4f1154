use ed25519_dalek::SigningKey;
use proptest::prelude::*;

use super::*;

fn keyring(seed: u8) -> Keyring {
    Keyring::new(SigningKey::from_bytes(&[seed; 32]), [])
}

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

fn token() -> String {
    Draft::certificate(&certificate()).expect("sound content").sign(&keyring(1)).expect("a key").token
}

/// Signs any header and payload, as a stranger with a key of their own could.
fn forged(header: &str, payload: &str, seed: u8) -> String {
    use ed25519_dalek::Signer;
    let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let signature = SigningKey::from_bytes(&[seed; 32]).sign(input.as_bytes());
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()))
}

fn kid(seed: u8) -> String {
    keyring(seed).signing_kid().expect("it signs").to_owned()
}

fn read(token: &str) -> Result<CertificateClaims, TokenError> {
    let keyring = keyring(1);
    let presented = Presented::<CertificateClaims>::read(token, &keyring)?;
    presented.verify(&keyring, None).cloned()
}

#[test]
fn a_token_comes_back_as_what_was_signed_and_always_as_the_same_bytes() {
    assert_eq!(read(&token()), Ok(certificate()));
    assert_eq!(token(), token());
}

#[test]
fn an_altered_payload_is_altered() {
    let token = token();
    let mut parts: Vec<_> = token.split('.').map(str::to_owned).collect();
    let payload = String::from_utf8(URL_SAFE_NO_PAD.decode(&parts[1]).expect("ours")).expect("JSON");
    parts[1] = URL_SAFE_NO_PAD.encode(payload.replace("alice", "mallo"));
    assert_eq!(read(&parts.join(".")), Err(TokenError::Altered));
    parts[1] = URL_SAFE_NO_PAD.encode("not JSON");
    assert_eq!(read(&parts.join(".")), Err(TokenError::Altered));
}

#[test]
fn a_token_under_a_foreign_key_is_untrusted_and_under_a_stolen_name_altered() {
    let payload = serde_json::to_string(&certificate()).expect("JSON");
    let header = |kid: &str| format!(r#"{{"alg":"EdDSA","kid":"{kid}","typ":"licet-certificate+jwt"}}"#);
    assert_eq!(read(&forged(&header(&kid(2)), &payload, 2)), Err(TokenError::UntrustedKey { kid: kid(2) }));
    assert_eq!(read(&forged(&header(&kid(1)), &payload, 2)), Err(TokenError::Altered));
}

#[test]
fn another_algorithm_or_another_kind_is_malformed_even_if_the_signature_fits() {
    let payload = serde_json::to_string(&certificate()).expect("JSON");
    for (alg, typ) in [
        ("none", "licet-certificate+jwt"),
        ("HS256", "licet-certificate+jwt"),
        ("EdDSA", "licet-license+jwt"),
        ("EdDSA", "JWT"),
    ] {
        let header = format!(r#"{{"alg":"{alg}","kid":"{}","typ":"{typ}"}}"#, kid(1));
        let error = read(&forged(&header, &payload, 1)).expect_err("must not be accepted");
        assert!(matches!(error, TokenError::Malformed { .. }), "{alg} {typ}: {error:?}");
    }
}

#[test]
fn what_is_no_token_is_malformed() {
    for text in ["", ".", "..", "a.b.c", "a.b.c.d", &"x".repeat(TOKEN_BYTES_MAX + 1), "\u{0}.é.z"] {
        assert!(matches!(read(text), Err(TokenError::Malformed { .. })), "{text:.20}");
    }
}

#[test]
fn a_stored_digest_can_accept_and_never_refuse() {
    let keyring = keyring(1);
    let presented = Presented::<CertificateClaims>::read(&token(), &keyring).expect("readable");
    assert!(presented.verify(&keyring, Some(&digest(&token()))).is_ok());
    assert!(presented.verify(&keyring, Some(&[0; 32])).is_ok(), "another digest leaves it to the signature");
}

#[test]
fn nothing_unsound_can_become_a_draft() {
    assert!(Draft::certificate(&CertificateClaims { exp: 0, ..certificate() }).is_err());
    assert!(Draft::certificate(&CertificateClaims { generation: 0, ..certificate() }).is_err());
    assert!(Draft::certificate(&CertificateClaims { iss: String::new(), ..certificate() }).is_err());
    let container = ContainerClaims {
        iss: "licet".into(),
        jti: Uuid::from_u128(9),
        sub: certificate().sub,
        certificates: vec![Uuid::from_u128(1); 2],
        iat: 1,
        exp: 2,
    };
    assert!(Draft::container(&container).is_err(), "one certificate twice");
}

proptest! {
    #[test]
    fn no_text_panics_or_is_accepted(text in "\\PC{0,200}") {
        prop_assert!(read(&text).is_err());
    }

    #[test]
    fn no_changed_byte_is_accepted(at in 0usize..400, to in 0u8..128) {
        let good = token();
        let mut bytes = good.clone().into_bytes();
        let at = at % bytes.len();
        prop_assume!(bytes[at] != to);
        bytes[at] = to;
        let changed = String::from_utf8(bytes).expect("ASCII");
        prop_assert!(read(&changed).is_err(), "accepted with byte {at} = {to}");
    }
}
