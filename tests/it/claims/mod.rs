//! What the two seeds claim, each shown by a test of its own: `distribution` holds the claims of the
//! first (distribution of licenses), `privileges` those of the second (licenses and privileges).
//!
//! A test shows what its claim says and nothing else, and it shows it by what can be observed: rows
//! of the databases that the claim speaks of, answers, events, tokens. Each runs the real loop, on
//! both pairs of services. Those of two claims whose text is lost in part say `presumed`.
//!
//! The table in ARCHITECTURE.md is held against the tests: a claim without one fails.

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

use crate::world::{World, amqp_url, license_receipt, license_request, message, name, program, verdict};

/// A license that a terminal has.
#[derive(Clone, Debug)]
struct License {
    id: Uuid,
    token: String,
}

/// Asks for a license that must be issued, and does not acknowledge it.
async fn issued(world: &World, certificate_token: &str, terminal: &str) -> License {
    match world.ask(&license_request(certificate_token, terminal)).await {
        Output::LicenseIssued(issued) => {
            License { id: issued.license, token: issued.license_token.expect("a reply has its token") }
        }
        other => panic!("a license request was answered with {other:?}"),
    }
}

/// Asks for a license and acknowledges it.
async fn granted(world: &World, certificate_token: &str, terminal: &str) -> License {
    let license = issued(world, certificate_token, terminal).await;
    assert_eq!(verdict(&world.ask(&license_receipt(&license.token)).await), "license.granted");
    license
}

/// A certificate alone, as it is presented.
fn alone(certificate_token: &str) -> CertificatePresented {
    CertificatePresented { certificate_token: Some(certificate_token.to_owned()), container_token: None }
}

/// A container, as it is presented.
fn whole(container_token: &str) -> CertificatePresented {
    CertificatePresented { certificate_token: None, container_token: Some(container_token.to_owned()) }
}

/// The reception notice of a certificate.
fn notice(certificate_token: &str) -> Request {
    Request::CertificateReceipt(alone(certificate_token))
}

/// A purchase of one content, as it is sold now, with so many points.
fn order(user: &str, content: &str, points: Option<i64>) -> Request {
    Request::PurchaseRequest(PurchaseRequest {
        user: name(user),
        items: vec![Item { content: name(content), version: None }],
        points: points.map(|points| Count::try_from(points).expect("a count")),
        reference: None,
    })
}

/// Sends what must be refused with this code, and sees that nothing comes of it.
async fn refused(world: &World, request: &Request, code: &str) {
    let standing = async || {
        (
            world.rows::<certificate::Entity>().await,
            world.rows::<pending_reception::Entity>().await,
            world.rows::<license::Entity>().await,
            world.rows::<settlement::Entity>().await,
        )
    };
    let before = standing().await;
    let told = world.tell(request).await;
    assert_eq!(verdict(&told.answer), code);
    assert!(told.events.is_empty(), "{:?}", told.events);
    assert_eq!(standing().await, before, "a refusal changes nothing");
}

/// Sweeps what was due before now, and tells what came of it. Something must.
async fn sweep(world: &World, kind: SweepKind) -> Vec<Output> {
    let id = Uuid::now_v7();
    let due = SweepDue { kind, before: world.machine.clock.now() };
    world.publish(message(id, &Request::SweepDue(due), None)).await;
    world.events_of(id).await
}

/// Runs the operator's program, on the world's services if it has any; what it prints. It must succeed.
fn licet(world: &World, arguments: &[&str]) -> Vec<u8> {
    let mut command = Command::new(program("licet"));
    if let Some(url) = &world.database_url {
        command.env("LICET_AMQP_URL", amqp_url()).env("LICET_DATABASE_URL", url);
    }
    let output = command.args(arguments).current_dir(world.folder.path()).output().expect("the program runs");
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

/// A certificate with these claims, whoever signs it.
fn signed(keyring: &Keyring, claims: &CertificateClaims) -> String {
    Draft::certificate(claims).and_then(|draft| draft.sign(keyring)).expect("a token").token
}

/// The keys as they are published: they verify and sign nothing.
fn published(world: &World) -> Keyring {
    Keyring::from_jwks(&world.keyring().jwks()).expect("published keys")
}

/// What a certificate says to whoever has the published keys.
fn certificate_claims(world: &World, token: &str) -> CertificateClaims {
    match verify(token, &published(world)) {
        Ok(Verified::Certificate(claims)) => claims,
        other => panic!("no certificate: {other:?}"),
    }
}

/// What a license says to whoever has the published keys.
fn license_claims(world: &World, token: &str) -> LicenseClaims {
    match verify(token, &published(world)) {
        Ok(Verified::License(claims)) => claims,
        other => panic!("no license: {other:?}"),
    }
}

/// The same token with something else written into it, under the signature that it had.
fn altered(token: &str, claim: &str, value: Value) -> String {
    let mut parts: Vec<_> = token.split('.').map(str::to_owned).collect();
    let payload = URL_SAFE_NO_PAD.decode(&parts[1]).expect("base64url");
    let mut claims: Value = serde_json::from_slice(&payload).expect("JSON");
    assert_ne!(claims[claim], value, "an alteration alters");
    claims[claim] = value;
    parts[1] = URL_SAFE_NO_PAD.encode(claims.to_string());
    parts.join(".")
}

const ARCHITECTURE: &str = include_str!("../../../ARCHITECTURE.md");
const SOURCES: [(&str, &str, usize); 2] =
    [("seed1_claim_", include_str!("distribution.rs"), 19), ("seed2_claim_", include_str!("privileges.rs"), 20)];

/// The names of tests of claims in a text, as often as they stand there.
fn names(text: &'static str) -> impl Iterator<Item = &'static str> {
    let words = text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    words.filter(|word| SOURCES.iter().any(|(prefix, ..)| word.starts_with(prefix)))
}

#[test]
fn every_claim_has_one_test_and_one_row_in_the_table_of_architecture_md() {
    let mut tests = BTreeSet::new();
    for (prefix, source, count) in SOURCES {
        let (listed, written) = source.split_once(");").expect("on_both!(...); comes first");
        let run: Vec<_> = names(listed).collect();
        let numbers: Vec<_> = run.iter().map(|name| name[prefix.len()..][..2].parse::<usize>()).collect();
        assert_eq!(numbers, (1..=count).map(Ok).collect::<Vec<_>>(), "each claim of {prefix}* once, in order");
        for name in &run {
            assert!(written.contains(&format!("async fn {name}(")), "{name} is not written");
        }
        tests.extend(run);
    }
    assert_eq!(tests.len(), 39);

    let (_, table) = ARCHITECTURE.split_once("\n## Claims\n").expect("ARCHITECTURE.md has a heading ## Claims");
    let table = table.split("\n## ").next().unwrap_or_default();
    let mut rows: Vec<_> = table.lines().filter(|line| line.starts_with('|')).flat_map(names).collect();
    rows.sort_unstable();
    let (once, all) = (BTreeSet::from_iter(rows.iter().copied()), rows.len());
    let amiss: Vec<_> = once.symmetric_difference(&tests).collect();
    assert!(amiss.is_empty(), "in the table and not in the tests, or the reverse: {amiss:?}");
    assert_eq!(all, tests.len(), "one row for each claim: {rows:#?}");
}
