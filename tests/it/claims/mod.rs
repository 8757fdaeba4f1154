//! One test for each claim of the two seed documents. `distribution` tests the claims of seed 1
//! (distribution of licenses), `privileges` those of seed 2 (licenses and privileges).
//!
//! Each test checks exactly the statement of its claim. It checks observable results: rows of the
//! tables that the claim names, replies, events and tokens. Each test runs the real workers on both
//! pairs of services. The names of two tests contain `presumed`, because the text of their claims
//! is partly lost.
//!
//! The last test compares the tables in `docs/claims.md` with the tests.

mod distribution;
mod privileges;

use std::{collections::BTreeSet, process::Command};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use licet_client::{Verified, verify};
use licet_common::signing::{CertificateClaims, Draft, Keyring, LicenseClaims};
use licet_schema::{
    Count, Output, Request,
    entity::{certificate, license, pending_reception, settlement},
    message::{CertificatePresented, Item, PurchaseRequest, SweepDue, SweepKind},
};
use serde_json::Value;
use uuid::Uuid;

use crate::system::{TestSystem, amqp_url, license_receipt, license_request, message, name, outcome, program};

/// A license on a terminal.
#[derive(Clone, Debug)]
struct License {
    id: Uuid,
    token: String,
}

/// Requests a license and does not acknowledge it. The license must be issued.
async fn issued(system: &TestSystem, certificate_token: &str, terminal: &str) -> License {
    match system.ask(&license_request(certificate_token, terminal)).await {
        Output::LicenseIssued(issued) => {
            License { id: issued.license, token: issued.license_token.expect("a reply has its token") }
        }
        other => panic!("the reply to a license request is {other:?}"),
    }
}

/// Requests a license and acknowledges it.
async fn granted(system: &TestSystem, certificate_token: &str, terminal: &str) -> License {
    let license = issued(system, certificate_token, terminal).await;
    assert_eq!(outcome(&system.ask(&license_receipt(&license.token)).await), "license.granted");
    license
}

/// Presents a certificate.
fn alone(certificate_token: &str) -> CertificatePresented {
    CertificatePresented { certificate_token: Some(certificate_token.to_owned()), container_token: None }
}

/// Presents a container.
fn whole(container_token: &str) -> CertificatePresented {
    CertificatePresented { certificate_token: None, container_token: Some(container_token.to_owned()) }
}

/// A `certificate.receipt` with this token.
fn notice(certificate_token: &str) -> Request {
    Request::CertificateReceipt(alone(certificate_token))
}

/// A purchase of the current version of one content item, with this number of points as payment.
fn order(user: &str, content: &str, points: Option<i64>) -> Request {
    Request::PurchaseRequest(PurchaseRequest {
        user: name(user),
        items: vec![Item { content: name(content), version: None }],
        points: points.map(|points| Count::try_from(points).expect("a count")),
        reference: None,
    })
}

/// Sends a request that must be refused with this code, and checks that it has no effect.
async fn refused(system: &TestSystem, request: &Request, code: &str) {
    let rows = async || {
        (
            system.rows::<certificate::Entity>().await,
            system.rows::<pending_reception::Entity>().await,
            system.rows::<license::Entity>().await,
            system.rows::<settlement::Entity>().await,
        )
    };
    let before = rows().await;
    let processed = system.process(request).await;
    assert_eq!(outcome(&processed.reply), code);
    assert!(processed.events.is_empty(), "{:?}", processed.events);
    assert_eq!(rows().await, before, "a refusal changes nothing");
}

/// Sweeps everything that is overdue now, and returns the events. At least one object must be
/// overdue.
async fn sweep(system: &TestSystem, kind: SweepKind) -> Vec<Output> {
    let id = Uuid::now_v7();
    let due = SweepDue { kind, before: system.resources.clock.now() };
    system.publish(message(id, &Request::SweepDue(due), None)).await;
    system.events_of(id).await
}

/// Runs the program `licet`, which must succeed, and returns its output. The program uses RabbitMQ
/// and PostgreSQL if the system does.
fn licet(system: &TestSystem, arguments: &[&str]) -> Vec<u8> {
    let mut command = Command::new(program("licet"));
    if let Some(url) = &system.database_url {
        command.env("LICET_AMQP_URL", amqp_url()).env("LICET_DATABASE_URL", url);
    }
    let output = command.args(arguments).current_dir(system.folder.path()).output().expect("the program runs");
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

/// A certificate with these claims, signed with any key.
fn signed(keyring: &Keyring, claims: &CertificateClaims) -> String {
    Draft::new(claims).and_then(|draft| draft.sign(keyring)).expect("a token").token
}

/// The published keys, which verify but do not sign.
fn published(system: &TestSystem) -> Keyring {
    Keyring::from_jwks(&system.keyring().jwks()).expect("published keys")
}

/// The claims of a certificate, verified with the published keys.
fn certificate_claims(system: &TestSystem, token: &str) -> CertificateClaims {
    match verify(token, &published(system)) {
        Ok(Verified::Certificate(claims)) => claims,
        other => panic!("not a certificate: {other:?}"),
    }
}

/// The claims of a license, verified with the published keys.
fn license_claims(system: &TestSystem, token: &str) -> LicenseClaims {
    match verify(token, &published(system)) {
        Ok(Verified::License(claims)) => claims,
        other => panic!("not a license: {other:?}"),
    }
}

/// The token with one claim changed and its signature kept.
fn altered(token: &str, claim: &str, value: Value) -> String {
    let mut parts: Vec<_> = token.split('.').map(str::to_owned).collect();
    let payload = URL_SAFE_NO_PAD.decode(&parts[1]).expect("base64url");
    let mut claims: Value = serde_json::from_slice(&payload).expect("JSON");
    assert_ne!(claims[claim], value, "the value differs");
    claims[claim] = value;
    parts[1] = URL_SAFE_NO_PAD.encode(claims.to_string());
    parts.join(".")
}

const CLAIMS: &str = include_str!("../../../docs/claims.md");
const SOURCES: [(&str, &str, usize); 2] =
    [("seed1_claim_", include_str!("distribution.rs"), 19), ("seed2_claim_", include_str!("privileges.rs"), 20)];

/// The names of claim tests in a text, including repetitions.
fn names(text: &'static str) -> impl Iterator<Item = &'static str> {
    let words = text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    words.filter(|word| SOURCES.iter().any(|(prefix, ..)| word.starts_with(prefix)))
}

#[test]
fn every_claim_has_one_test_and_one_row_in_the_tables_of_claims_md() {
    let mut tests = BTreeSet::new();
    for (prefix, source, count) in SOURCES {
        let (listed, functions) = source.split_once(");").expect("on_both!(...); is at the beginning");
        let declared: Vec<_> = names(listed).collect();
        let numbers: Vec<_> = declared.iter().map(|name| name[prefix.len()..][..2].parse::<usize>()).collect();
        assert_eq!(
            numbers,
            (1..=count).map(Ok).collect::<Vec<_>>(),
            "the list contains each claim of {prefix}* once, in order"
        );
        for name in &declared {
            assert!(functions.contains(&format!("async fn {name}(")), "there is no function {name}");
        }
        tests.extend(declared);
    }
    assert_eq!(tests.len(), 39);

    let (_, tables) = CLAIMS.split_once("\n## Claims\n").expect("docs/claims.md has a heading ## Claims");
    let tables = tables.split("\n## ").next().unwrap_or_default();
    let mut rows: Vec<_> = tables.lines().filter(|line| line.starts_with('|')).flat_map(names).collect();
    rows.sort_unstable();
    let documented = BTreeSet::from_iter(rows.iter().copied());
    let different: Vec<_> = documented.symmetric_difference(&tests).collect();
    assert!(different.is_empty(), "only in the tables, or only in the tests: {different:?}");
    assert_eq!(rows.len(), tests.len(), "one row for each claim: {rows:#?}");
}
