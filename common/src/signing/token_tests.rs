use ed25519_dalek::SigningKey;
use proptest::prelude::*;

use super::*;

fn keyring(seed: u8) -> Keyring {
    Keyring::new(SigningKey::from_bytes(&[seed; 32]), [])
}

/// Claims that exist only in these tests.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Statement {
    jti: Uuid,
    sub: String,
}

impl Claims for Statement {
    const TYP: &'static str = "licet-statement+jwt";

    fn id(&self) -> Uuid {
        self.jti
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.sub.is_empty() { Err("the subject is empty") } else { Ok(()) }
    }
}

fn statement() -> Statement {
    Statement { jti: Uuid::from_u128(7), sub: "alice".into() }
}

fn token() -> String {
    Draft::new(&statement()).expect("valid claims").sign(&keyring(1)).expect("a key").token
}

/// Signs any header and payload, as an attacker with another key can.
fn forged(header: &str, payload: &str, seed: u8) -> String {
    use ed25519_dalek::Signer;
    let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let signature = SigningKey::from_bytes(&[seed; 32]).sign(input.as_bytes());
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()))
}

fn kid(seed: u8) -> String {
    keyring(seed).signing_kid().expect("a signing key").to_owned()
}

fn read(token: &str) -> Result<Statement, TokenError> {
    let keyring = keyring(1);
    let presented = Presented::<Statement>::read(token, &keyring)?;
    presented.verify(&keyring, None).cloned()
}

#[test]
fn a_token_verifies_and_signing_is_deterministic() {
    assert_eq!(read(&token()), Ok(statement()));
    assert_eq!(token(), token());
}

#[test]
fn a_token_with_a_changed_payload_is_altered() {
    let token = token();
    let mut parts: Vec<_> = token.split('.').map(str::to_owned).collect();
    let payload = String::from_utf8(URL_SAFE_NO_PAD.decode(&parts[1]).expect("base64url")).expect("JSON");
    parts[1] = URL_SAFE_NO_PAD.encode(payload.replace("alice", "mallo"));
    assert_eq!(read(&parts.join(".")), Err(TokenError::Altered));
    parts[1] = URL_SAFE_NO_PAD.encode("not JSON");
    assert_eq!(read(&parts.join(".")), Err(TokenError::Altered));
}

#[test]
fn a_token_of_another_key_is_untrusted_and_altered_if_it_names_a_trusted_key() {
    let payload = serde_json::to_string(&statement()).expect("JSON");
    let header = |kid: &str| format!(r#"{{"alg":"EdDSA","kid":"{kid}","typ":"licet-statement+jwt"}}"#);
    assert_eq!(read(&forged(&header(&kid(2)), &payload, 2)), Err(TokenError::UntrustedKey { kid: kid(2) }));
    assert_eq!(read(&forged(&header(&kid(1)), &payload, 2)), Err(TokenError::Altered));
}

#[test]
fn another_algorithm_or_kind_is_malformed_even_if_the_signature_is_valid() {
    let payload = serde_json::to_string(&statement()).expect("JSON");
    for (alg, typ) in [
        ("none", "licet-statement+jwt"),
        ("HS256", "licet-statement+jwt"),
        ("EdDSA", "licet-license+jwt"),
        ("EdDSA", "JWT"),
    ] {
        let header = format!(r#"{{"alg":"{alg}","kid":"{}","typ":"{typ}"}}"#, kid(1));
        let error = read(&forged(&header, &payload, 1)).expect_err("must not be accepted");
        assert!(matches!(error, TokenError::Malformed { .. }), "{alg} {typ}: {error:?}");
    }
}

#[test]
fn text_that_is_not_a_token_is_malformed() {
    for text in ["", ".", "..", "a.b.c", "a.b.c.d", &"x".repeat(TOKEN_BYTES_MAX + 1), "\u{0}.é.z"] {
        assert!(matches!(read(text), Err(TokenError::Malformed { .. })), "{text:.20}");
    }
}

#[test]
fn a_stored_digest_can_accept_a_token_but_not_reject_it() {
    let keyring = keyring(1);
    let presented = Presented::<Statement>::read(&token(), &keyring).expect("a token");
    assert!(presented.verify(&keyring, Some(&digest(&token()))).is_ok());
    assert!(presented.verify(&keyring, Some(&[0; 32])).is_ok(), "with another digest the signature decides");
}

#[test]
fn claims_that_contradict_themselves_are_not_signed() {
    let error = Draft::new(&Statement { sub: String::new(), ..statement() }).expect_err("the subject is empty");
    let expected = DraftError::Invalid { typ: Statement::TYP, why: "the subject is empty" };
    assert_eq!(error, expected);
    let published = Keyring::from_jwks(&keyring(1).jwks()).expect("public keys");
    let error = Draft::new(&statement()).expect("valid claims").sign(&published).expect_err("there is no signing key");
    assert_eq!(error, DraftError::NoSigningKey);
}

proptest! {
    #[test]
    fn arbitrary_text_is_rejected_without_a_panic(text in "\\PC{0,200}") {
        prop_assert!(read(&text).is_err());
    }

    #[test]
    fn a_token_with_a_changed_byte_is_rejected(at in 0usize..400, to in 0u8..128) {
        let good = token();
        let mut bytes = good.clone().into_bytes();
        let at = at % bytes.len();
        prop_assume!(bytes[at] != to);
        bytes[at] = to;
        let changed = String::from_utf8(bytes).expect("ASCII");
        prop_assert!(read(&changed).is_err(), "accepted with byte {at} = {to}");
    }
}
