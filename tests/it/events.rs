//! The events that the workers publish, compared with the examples in `docs/protocol.md`.
//!
//! `protocol.rs` checks the document against the types. These tests check the published events.

use std::collections::BTreeSet;

use licet_schema::{
    Output, Request, Text,
    message::{
        CertificateReissue, ContentPut, ContentVersion, LicenseDeletion, LicenseReturn, PayoutCompletion, Privilege,
        PurchaseRequest, ReturnPolicy, SettlementCompletion, SettlementFailure, SettlementReversal, SweepDue,
        SweepKind,
    },
    topology,
    vocabulary::Grants,
};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    protocol::examples_of,
    system::{
        Bought, Mailbox, TestSystem, completion, external_id, license_receipt, license_request, message, name, on_both,
        outcome, purchase, receipt, reversal, song, usd, version,
    },
};

/// The outputs that are never events, because they are only replies or are sent to a worker.
const NEVER_EVENTS: [&str; 5] =
    ["request.refused", "certificate.checked", "holdings.listed", "status.listed", "sweep.due"];

/// Fields that an event has only if the request that caused it had them. Every other optional field
/// is present if and only if it is present in the matching example.
const OPTIONAL: [&str; 2] = ["reference", "grants"];

on_both!(every_event_has_the_fields_of_an_example_and_no_token);

#[test]
fn replies_to_queries_and_checks_refusals_and_sweeps_are_never_events() {
    for kind in Output::KINDS {
        assert_eq!(public_examples(kind).is_empty(), NEVER_EVENTS.contains(kind), "{kind}");
    }
}

async fn every_event_has_the_fields_of_an_example_and_no_token(mut system: TestSystem) {
    system.start_workers();
    let (_, events) = system.listen(&[(topology::EVENTS, "#")]).await;
    let mut listener = Listener { system: &system, events, ids: BTreeSet::new(), received: BTreeSet::new() };
    listener.process(&Request::ContentPut(returnable_song())).await;
    listener.a_return_for_points().await;
    listener.a_buyback_from_a_container().await;
    listener.an_upgrade_that_ends_its_certificate().await;
    listener.a_return_that_lapses_and_a_reissue().await;
    listener.a_late_payment().await;
    let documented: BTreeSet<_> = Output::KINDS.iter().filter(|kind| !NEVER_EVENTS.contains(kind)).copied().collect();
    let received: BTreeSet<_> = listener.received.iter().map(String::as_str).collect();
    assert_eq!(received, documented, "every documented event was sent");
    system.finish().await;
}

/// A consumer of all events.
struct Listener<'a> {
    system: &'a TestSystem,
    events: Mailbox,
    /// The message ids of the received events.
    ids: BTreeSet<String>,
    /// The message types of the received events.
    received: BTreeSet<String>,
}

impl Listener<'_> {
    async fn a_return_for_points(&mut self) {
        let bought = self.ready("alice", 1, Some("order-1")).await;
        let license = self.license(&bought.tokens[0]).await;
        let Output::ReturnOpened(opened) = self.give_back(&license, "alice", Privilege::Points, false).await else {
            panic!("no return was opened")
        };
        let deletion = LicenseDeletion { license_return: opened.license_return };
        let reply = self.process(&Request::LicenseDeletion(deletion)).await;
        assert_eq!(outcome(&reply), "license.returned");
    }

    async fn a_buyback_from_a_container(&mut self) {
        let bought = self.ready("bob", 2, None).await;
        let license = self.license(&bought.tokens[0]).await;
        let Output::LicenseReturned(returned) = self.give_back(&license, "bob", Privilege::Buyback, true).await else {
            panic!("no license was returned")
        };
        let paid = PayoutCompletion {
            license_return: returned.license_return,
            payout: external_id("out-1"),
            provider: name("bank"),
            amount: returned.privilege.amount.expect("money"),
        };
        assert_eq!(outcome(&self.process(&Request::PayoutCompletion(paid)).await), "payout.registered");
    }

    async fn an_upgrade_that_ends_its_certificate(&mut self) {
        let bought = self.ready("carol", 1, None).await;
        let license = self.license(&bought.tokens[0]).await;
        self.process(&Request::ContentPut(ContentPut { version: version(2), ..song(1) })).await;
        let reply = self.give_back(&license, "carol", Privilege::Upgrade, true).await;
        assert_eq!(outcome(&reply), "license.returned");
    }

    async fn a_return_that_lapses_and_a_reissue(&mut self) {
        self.process(&Request::ContentPut(ContentPut { version: version(3), ..returnable_song() })).await;
        let bought = self.ready("dave", 1, Some("order-2")).await;
        let license = self.license(&bought.tokens[0]).await;
        let reply = self.give_back(&license, "dave", Privilege::Collection, false).await;
        assert_eq!(outcome(&reply), "return.opened");
        self.system.resources.clock.advance_ms(86_400_001);
        self.sweep(SweepKind::Return).await;
        let reply = self.give_back(&license, "dave", Privilege::Collection, true).await;
        assert_eq!(outcome(&reply), "license.returned");

        let outstanding = self.process(&license_request(&bought.tokens[0], "hall")).await;
        assert_eq!(outcome(&outstanding), "license.issued");
        let reissue = CertificateReissue {
            certificate: bought.certificates[0],
            reason: Text::try_from("terminal lost").expect("a text"),
            granted: None,
        };
        assert_eq!(outcome(&self.process(&Request::CertificateReissue(reissue)).await), "certificate.reissued");
    }

    async fn a_late_payment(&mut self) {
        let bought = Bought::of(self.process(&purchase("erin", 2)).await);
        let SettlementReversal { certificate, container, settlement, provider, reason, .. } = reversal(&bought);
        let failure = SettlementFailure { certificate, container, settlement, provider, reason };
        assert_eq!(outcome(&self.process(&Request::SettlementFailure(failure)).await), "settlement.registered");
        let Request::SettlementCompletion(paid) = completion(&bought) else { unreachable!() };
        let paid = SettlementCompletion { grants: Grants::try_from(2i64).ok(), ..paid };
        assert_eq!(outcome(&self.process(&Request::SettlementCompletion(paid)).await), "settlement.registered");
        for (amount, expected) in [(500, "settlement.registered"), (1501, "amount_mismatch")] {
            let (refund, amount) = (Some(external_id(&format!("re-{amount}"))), Some(usd(amount)));
            let refund = SettlementReversal { refund, amount, ..reversal(&bought) };
            assert_eq!(outcome(&self.process(&Request::SettlementReversal(refund)).await), expected);
        }
    }

    /// Buys certificates, acknowledges their receipt, and pays, first too little and then the
    /// correct amount.
    async fn ready(&mut self, user: &str, count: usize, reference: Option<&str>) -> Bought {
        let Request::PurchaseRequest(request) = purchase(user, count) else { unreachable!() };
        let request = PurchaseRequest { reference: reference.map(external_id), ..request };
        let bought = Bought::of(self.process(&Request::PurchaseRequest(request)).await);
        assert_eq!(outcome(&self.process(&receipt(&bought)).await), "certificate.accepted");
        let Request::SettlementCompletion(paid) = completion(&bought) else { unreachable!() };
        let too_little = SettlementCompletion { amount: usd(1), ..paid.clone() };
        assert_eq!(outcome(&self.process(&Request::SettlementCompletion(too_little)).await), "amount_mismatch");
        let grants = reference.is_some().then(|| Grants::try_from(2i64).expect("a number of grants"));
        let paid = SettlementCompletion { grants, ..paid };
        assert_eq!(outcome(&self.process(&Request::SettlementCompletion(paid)).await), "settlement.registered");
        bought
    }

    async fn license(&mut self, certificate_token: &str) -> String {
        let Output::LicenseIssued(issued) = self.process(&license_request(certificate_token, "player")).await else {
            panic!("no license was issued")
        };
        let license = issued.license_token.expect("a reply has its token");
        assert_eq!(outcome(&self.process(&license_receipt(&license)).await), "license.granted");
        license
    }

    async fn give_back(&mut self, license: &str, user: &str, privilege: Privilege, deleted: bool) -> Output {
        let license_token = license.to_owned();
        let request = LicenseReturn { license_token, user: name(user), privilege, deleted };
        self.process(&Request::LicenseReturn(request)).await
    }

    async fn sweep(&mut self, kind: SweepKind) {
        let id = Uuid::now_v7();
        let due = SweepDue { kind, before: self.system.resources.clock.now() };
        self.system.publish(message(id, &Request::SweepDue(due), None)).await;
        let expected = self.system.events_of(id).await.len();
        self.receive(id, expected).await;
    }

    async fn process(&mut self, request: &Request) -> Output {
        let processed = self.system.process(request).await;
        self.receive(processed.id, processed.events.len()).await;
        processed.reply
    }

    /// Receives and checks this number of events with this cause.
    async fn receive(&mut self, cause: Uuid, expected: usize) {
        for _ in 0..expected {
            let event = self.events.next().await;
            let (kind, properties) = (event.routing_key, event.properties);
            let text = std::str::from_utf8(&event.body).expect("JSON");
            assert_eq!(properties.kind.as_ref(), Some(&kind));
            assert_eq!(properties.content_type.as_deref(), Some("application/json"));
            assert_eq!(properties.headers.get(topology::HEADER_CAUSE), Some(&cause.to_string()));
            assert!(self.ids.insert(properties.message_id.expect("an id")), "{kind} was sent twice");
            assert!(!text.contains("_token") && !text.contains("eyJ"), "a token in {kind}: {text}");
            Output::decode(&kind, &event.body).expect("an event");
            let body = serde_json::from_slice(&event.body).expect("JSON");
            assert!(is_like_an_example(&kind, &body), "{kind} does not have the fields of any of its examples: {text}");
            self.received.insert(kind);
        }
    }
}

/// Version 1 of a song with all four privileges and two grants. Its successor is version 2.
fn returnable_song() -> ContentPut {
    let policy =
        ReturnPolicy { upgrade: Some(true), buyback: Some(usd(300)), collection: Some(true), ..song(2).return_policy };
    let successor = ContentVersion { content: name("song"), version: version(2) };
    ContentPut { successor: Some(successor), return_policy: policy, ..song(2) }
}

/// The examples of a message type in the form in which they are events.
fn public_examples(kind: &str) -> Vec<Value> {
    let public = |example: Value| {
        let output = Output::decode(kind, example.to_string().as_bytes()).expect("an example");
        let body = output.public()?.encode().expect("JSON");
        Some(serde_json::from_slice(&body).expect("JSON"))
    };
    examples_of(kind).into_iter().filter_map(public).collect()
}

/// Whether an event has the fields of an example of its type, and no others.
fn is_like_an_example(kind: &str, event: &Value) -> bool {
    let event = paths(event);
    public_examples(kind).iter().map(paths).any(|example| {
        event.is_subset(&example) && example.difference(&event).all(|field| OPTIONAL.contains(&field.as_str()))
    })
}

/// The fields of a body. Fields of nested objects are named by their path, `part.field`.
fn paths(body: &Value) -> BTreeSet<String> {
    match body {
        Value::Object(object) => {
            let mut found = BTreeSet::new();
            for (field, part) in object {
                found.extend(paths(part).into_iter().map(|path| format!("{field}.{path}")));
                found.insert(field.clone());
            }
            found
        }
        Value::Array(elements) => elements.iter().flat_map(paths).collect(),
        _ => BTreeSet::new(),
    }
}
