use licet_common::signing::{Draft, folder};
use licet_schema::{
    Count, Money, Name, Timestamp, Version,
    message::{IssuedCertificate, Item},
    money::Currency,
};
use uuid::Uuid;

use super::*;

fn keyring() -> Keyring {
    Keyring::new(folder::new_key().expect("random bytes"), [])
}

fn name(text: &str) -> Name {
    Name::try_from(text).expect("a name")
}

fn version(number: i64) -> Version {
    Version::try_from(number).expect("a version")
}

fn request(items: &[(&str, Option<i64>)]) -> PurchaseRequest {
    let item = |(content, number): &(&str, Option<i64>)| Item { content: name(content), version: number.map(version) };
    PurchaseRequest { user: name("alice"), items: items.iter().map(item).collect(), points: None, reference: None }
}

fn claims(id: u128, container: Option<u128>) -> CertificateClaims {
    CertificateClaims {
        iss: "licet".into(),
        jti: Uuid::from_u128(id),
        sub: name("alice"),
        content: name("song"),
        version: version(2),
        generation: 1,
        iat: 1,
        exp: 2,
        container: container.map(Uuid::from_u128),
    }
}

fn signed(claims: &CertificateClaims, keyring: &Keyring) -> String {
    Draft::new(claims).and_then(|draft| draft.sign(keyring)).expect("a token").token
}

/// The reply to a purchase of certificates with the ids 1, 2, …, in container 9 if there are
/// several.
fn issued(count: u128, keyring: &Keyring) -> CertificateIssued {
    let container = (count > 1).then_some(9);
    let certificates: Vec<_> = (1..=count).map(Uuid::from_u128).collect();
    let container_token = container.map(|id| {
        let (jti, sub) = (Uuid::from_u128(id), name("alice"));
        let claims =
            ContainerClaims { iss: "licet".into(), jti, sub, certificates: certificates.clone(), iat: 1, exp: 2 };
        Draft::new(&claims).and_then(|draft| draft.sign(keyring)).expect("a token").token
    });
    let one = |id| IssuedCertificate {
        certificate: Uuid::from_u128(id),
        certificate_token: Some(signed(&claims(id, container), keyring)),
    };
    CertificateIssued {
        certificates: (1..=count).map(one).collect(),
        container: container.map(Uuid::from_u128),
        container_token,
        amount: Money::new(1, Currency::try_from("USD").expect("a currency")).expect("an amount"),
        points_held: Count::try_from(0i64).expect("a count"),
        receipt_due_at: Timestamp::from_millis(0),
        expires_at: Timestamp::from_millis(0),
        reference: None,
    }
}

#[test]
fn the_requested_certificates_are_accepted() {
    let keyring = keyring();
    let (certificates, container) =
        purchase(&request(&[("song", None)]), &issued(1, &keyring), &keyring).expect("a certificate");
    assert!(certificates[0].claims == claims(1, None) && container.is_none());
    let items = [("song", Some(2)), ("song", None)];
    let (certificates, container) = purchase(&request(&items), &issued(2, &keyring), &keyring).expect("a container");
    assert_eq!((certificates.len(), container.map(|one| one.claims.jti)), (2, Some(Uuid::from_u128(9))));
}

#[test]
fn valid_certificates_of_another_purchase_are_refused() {
    let keyring = keyring();
    let other = |change: &dyn Fn(&mut CertificateClaims)| {
        let (mut claims, mut issued) = (claims(1, None), issued(1, &keyring));
        change(&mut claims);
        issued.certificates[0].certificate_token = Some(signed(&claims, &keyring));
        issued
    };
    let fewer = CertificateIssued { certificates: Vec::new(), ..issued(1, &keyring) };
    for (what, reply) in [
        ("another certificate", other(&|claims| claims.jti = Uuid::from_u128(2))),
        ("another user", other(&|claims| claims.sub = name("mallory"))),
        ("another content", other(&|claims| claims.content = name("noise"))),
        ("another version", other(&|claims| claims.version = version(1))),
        ("another container", other(&|claims| claims.container = Some(Uuid::from_u128(9)))),
        ("more than were requested", issued(2, &keyring)),
        ("fewer than were requested", fewer),
    ] {
        let result = purchase(&request(&[("song", Some(2))]), &reply, &keyring);
        assert!(matches!(result, Err(TerminalError::Mismatch { .. })), "{what}: {result:?}");
    }
    let members = CertificateIssued { container_token: issued(3, &keyring).container_token, ..issued(2, &keyring) };
    let result = purchase(&request(&[("song", None), ("song", None)]), &members, &keyring);
    assert!(matches!(result, Err(TerminalError::Mismatch { what: "container" })), "{result:?}");
}

#[test]
fn certificates_without_a_valid_token_are_refused() {
    let keyring = keyring();
    let with = |token: Option<String>| {
        let mut issued = issued(1, &keyring);
        issued.certificates[0].certificate_token = token;
        issued
    };
    let foreign = signed(&claims(1, None), &self::keyring());
    let mut altered = signed(&claims(1, None), &keyring);
    altered.truncate(altered.len() - 4);
    for token in ["hello".to_owned(), foreign, altered, String::new()] {
        let result = purchase(&request(&[("song", None)]), &with(Some(token.clone())), &keyring);
        assert!(matches!(result, Err(TerminalError::Token { what: "certificate", .. })), "{token:?}: {result:?}");
    }
    let result = purchase(&request(&[("song", None)]), &with(None), &keyring);
    assert!(matches!(result, Err(TerminalError::NoToken { what: "certificate" })), "{result:?}");
}

#[test]
fn a_license_is_accepted_only_for_its_certificate() {
    let keyring = keyring();
    let genuine = LicenseClaims {
        iss: "licet".into(),
        jti: Uuid::from_u128(5),
        sub: name("alice"),
        certificate: Uuid::from_u128(1),
        content: name("song"),
        version: version(2),
        terminal: None,
        iat: 1,
    };
    let result = |claims: &LicenseClaims| {
        let token = Draft::new(claims).and_then(|draft| draft.sign(&keyring)).expect("a token").token;
        let remaining = Count::try_from(0i64).expect("a count");
        let issued = LicenseIssued { license: Uuid::from_u128(5), license_token: Some(token), remaining };
        license(&self::claims(1, None), &issued, &keyring)
    };
    assert_eq!(result(&genuine).expect("a license").claims, genuine);
    for other in [
        LicenseClaims { jti: Uuid::from_u128(6), ..genuine.clone() },
        LicenseClaims { sub: name("mallory"), ..genuine.clone() },
        LicenseClaims { certificate: Uuid::from_u128(2), ..genuine.clone() },
        LicenseClaims { content: name("noise"), ..genuine.clone() },
        LicenseClaims { version: version(1), ..genuine.clone() },
    ] {
        assert!(matches!(result(&other), Err(TerminalError::Mismatch { what: "license" })), "{other:?}");
    }
}
