//! What `schema/EVENTS.md` tells listeners, held against the types and against what is sent.

use std::collections::BTreeSet;

use licet_schema::{
    ExternalId, Format, Output, Request, Text, Version,
    message::{
        CertificateReissue, ContentPut, ContentVersion, LicenseDeletion, LicenseReturn, PayoutCompletion, Privilege,
        PurchaseRequest, ReturnPolicy, SettlementCompletion, SweepDue, SweepKind,
    },
    topology,
    vocabulary::Grants,
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::world::{
    Bought, Mailbox, World, completion, license_receipt, license_request, message, name, on_both, purchase, receipt,
    song, usd, verdict,
};

const EVENTS_MD: &str = include_str!("../../schema/EVENTS.md");

/// What is only ever answered, or goes to a worker.
const NEVER_EVENTS: [&str; 5] =
    ["request.refused", "certificate.checked", "holdings.listed", "status.listed", "sweep.due"];

/// Left out of an event where whoever caused it left it out. All else is as in one of the examples.
const OPTIONAL: [&str; 2] = ["reference", "grants"];

on_both!(events_have_the_fields_of_their_examples_and_no_token);

#[test]
fn every_example_reads_as_its_type_and_is_what_would_be_sent() {
    for (kind, body) in examples() {
        let output = Output::decode(kind, Format::Json, body.as_bytes());
        let output = output.unwrap_or_else(|error| panic!("an example of {kind}: {error}\n{body}"));
        let again = output.encode(Format::Json).expect("JSON");
        assert_eq!(value(&again), value(body.as_bytes()), "{kind}");
        assert_eq!(output.public(), Some(output), "{kind}: everybody may hear an example as it stands");
    }
}

#[test]
fn every_event_has_a_section_with_an_example_and_nothing_else_has_one() {
    let sections: Vec<_> = sections().map(|(kind, _)| kind).collect();
    let documented: BTreeSet<_> = sections.iter().copied().collect();
    let events: BTreeSet<_> = Output::KINDS.iter().copied().filter(|kind| !NEVER_EVENTS.contains(kind)).collect();
    assert_eq!(documented, events);
    assert_eq!(sections.len(), events.len(), "one section for each");
    let shown: BTreeSet<_> = examples().map(|(kind, _)| kind).collect();
    assert_eq!(shown, events, "an example of each");
    let returned = examples_of("license.returned");
    let privileges: Vec<_> = returned.iter().map(|example| &example["privilege"]["kind"]).collect();
    assert_eq!(privileges, ["points", "upgrade", "buyback", "collection"]);
}

#[test]
fn what_is_only_answered_is_never_an_event() {
    let bodies = [
        json!({"code": "not_settled", "detail": "not paid for", "message_type": "license.request"}),
        json!({"altered": false, "certificates": []}),
        json!({"user": "alice", "points": 0, "debt": 0, "licenses": []}),
        json!({"certificates": []}),
        json!({"kind": "return", "before": "2026-03-02T10:00:00Z"}),
    ];
    for (kind, body) in NEVER_EVENTS.into_iter().zip(bodies) {
        let output = Output::decode(kind, Format::Json, body.to_string().as_bytes()).expect("a body");
        assert_eq!(output.public(), None, "{kind}");
    }
}

#[test]
fn every_field_that_an_event_can_have_is_in_an_example() {
    for (kind, _) in sections() {
        let examples = examples_of(kind);
        let documented: BTreeSet<_> = examples.iter().flat_map(fields).collect();
        let known: BTreeSet<_> = examples.iter().flat_map(|example| known_fields(kind, example)).collect();
        assert_eq!(documented, known, "{kind}");
    }
}

async fn events_have_the_fields_of_their_examples_and_no_token(mut world: World) {
    world.start_workers();
    let (_, events) = world.listen(&[(topology::EVENTS, "#")]).await;
    let mut listener = Listener { world: &world, events, ids: BTreeSet::new(), heard: BTreeSet::new() };
    listener.tell(&Request::ContentPut(returnable_song())).await;
    listener.a_return_for_points().await;
    listener.a_buy_back_from_a_container().await;
    listener.an_upgrade_that_ends_its_certificate().await;
    listener.a_return_that_lapses_and_a_reissue().await;
    let documented: BTreeSet<_> = sections().map(|(kind, _)| kind.to_owned()).collect();
    assert_eq!(listener.heard, documented, "every documented event was sent");
    world.finish().await;
}

/// Somebody who hears everything.
struct Listener<'a> {
    world: &'a World,
    events: Mailbox,
    /// Of the events that came.
    ids: BTreeSet<String>,
    heard: BTreeSet<String>,
}

impl Listener<'_> {
    async fn a_return_for_points(&mut self) {
        let bought = self.ready("alice", 1, Some("order-1")).await;
        let license = self.license(&bought.tokens[0]).await;
        let Output::ReturnOpened(opened) = self.give_back(&license, "alice", Privilege::Points, false).await else {
            panic!("no return was opened")
        };
        let deletion = LicenseDeletion { license_return: opened.license_return };
        let answer = self.tell(&Request::LicenseDeletion(deletion)).await;
        assert_eq!(verdict(&answer), "license.returned");
    }

    async fn a_buy_back_from_a_container(&mut self) {
        let bought = self.ready("bob", 2, None).await;
        let license = self.license(&bought.tokens[0]).await;
        let Output::LicenseReturned(returned) = self.give_back(&license, "bob", Privilege::Buyback, true).await else {
            panic!("no license was returned")
        };
        let paid = PayoutCompletion {
            license_return: returned.license_return,
            payout: external("out-1"),
            provider: name("bank"),
            amount: returned.privilege.amount.expect("money"),
        };
        assert_eq!(verdict(&self.tell(&Request::PayoutCompletion(paid)).await), "payout.registered");
    }

    async fn an_upgrade_that_ends_its_certificate(&mut self) {
        let bought = self.ready("carol", 1, None).await;
        let license = self.license(&bought.tokens[0]).await;
        self.tell(&Request::ContentPut(ContentPut { version: version(2), ..song(1) })).await;
        let answer = self.give_back(&license, "carol", Privilege::Upgrade, true).await;
        assert_eq!(verdict(&answer), "license.returned");
    }

    async fn a_return_that_lapses_and_a_reissue(&mut self) {
        self.tell(&Request::ContentPut(ContentPut { version: version(3), ..returnable_song() })).await;
        let bought = self.ready("dave", 1, Some("order-2")).await;
        let license = self.license(&bought.tokens[0]).await;
        let answer = self.give_back(&license, "dave", Privilege::Collection, false).await;
        assert_eq!(verdict(&answer), "return.opened");
        self.world.machine.clock.advance_ms(86_400_001);
        self.sweep(SweepKind::Return).await;
        let answer = self.give_back(&license, "dave", Privilege::Collection, true).await;
        assert_eq!(verdict(&answer), "license.returned");

        let outstanding = self.tell(&license_request(&bought.tokens[0], "hall")).await;
        assert_eq!(verdict(&outstanding), "license.issued");
        let reissue = CertificateReissue {
            certificate: bought.certificates[0],
            reason: Text::try_from("terminal lost").expect("a text"),
            granted: None,
        };
        assert_eq!(verdict(&self.tell(&Request::CertificateReissue(reissue)).await), "certificate.reissued");
    }

    /// Bought, received and settled, after a payment of too little.
    async fn ready(&mut self, user: &str, count: usize, reference: Option<&str>) -> Bought {
        let Request::PurchaseRequest(request) = purchase(user, count) else { unreachable!() };
        let request = PurchaseRequest { reference: reference.map(external), ..request };
        let bought = Bought::of(self.tell(&Request::PurchaseRequest(request)).await);
        assert_eq!(verdict(&self.tell(&receipt(&bought)).await), "certificate.accepted");
        let Request::SettlementCompletion(paid) = completion(&bought) else { unreachable!() };
        let too_little = SettlementCompletion { amount: usd(1), ..paid.clone() };
        assert_eq!(verdict(&self.tell(&Request::SettlementCompletion(too_little)).await), "amount_mismatch");
        let grants = reference.is_some().then(|| Grants::try_from(2i64).expect("a count"));
        let paid = SettlementCompletion { grants, ..paid };
        assert_eq!(verdict(&self.tell(&Request::SettlementCompletion(paid)).await), "settlement.registered");
        bought
    }

    async fn license(&mut self, certificate_token: &str) -> String {
        let Output::LicenseIssued(issued) = self.tell(&license_request(certificate_token, "player")).await else {
            panic!("no license was issued")
        };
        let license = issued.license_token.expect("a reply has its token");
        assert_eq!(verdict(&self.tell(&license_receipt(&license)).await), "license.granted");
        license
    }

    async fn give_back(&mut self, license: &str, user: &str, privilege: Privilege, deleted: bool) -> Output {
        let license_token = license.to_owned();
        self.tell(&Request::LicenseReturn(LicenseReturn { license_token, user: name(user), privilege, deleted })).await
    }

    async fn sweep(&mut self, kind: SweepKind) {
        let id = Uuid::now_v7();
        let due = SweepDue { kind, before: self.world.machine.clock.now() };
        self.world.publish(message(id, &Request::SweepDue(due), None)).await;
        let expected = self.world.events_of(id).await.len();
        self.hear(id, expected).await;
    }

    async fn tell(&mut self, request: &Request) -> Output {
        let told = self.world.tell(request).await;
        self.hear(told.id, told.events.len()).await;
        told.answer
    }

    /// Hears as many events as a message caused.
    async fn hear(&mut self, cause: Uuid, expected: usize) {
        for _ in 0..expected {
            let event = self.events.next().await;
            let (kind, properties) = (event.routing_key, event.properties);
            let text = std::str::from_utf8(&event.body).expect("JSON");
            assert_eq!(properties.kind.as_ref(), Some(&kind));
            assert_eq!(properties.content_type.as_deref(), Some("application/json"));
            assert_eq!(properties.headers.get(topology::HEADER_CAUSE), Some(&cause.to_string()));
            assert!(self.ids.insert(properties.message_id.expect("an id")), "{kind} came twice");
            assert!(!text.contains("_token") && !text.contains("eyJ"), "a token in {kind}: {text}");
            Output::decode(&kind, Format::Json, &event.body).expect("an event");
            assert!(is_documented(&kind, &value(&event.body)), "{kind} is like none of its examples: {text}");
            self.heard.insert(kind);
        }
    }
}

/// Version 1 of a song whose license brings any of the four privileges, version 2 being the next.
fn returnable_song() -> ContentPut {
    let policy =
        ReturnPolicy { upgrade: Some(true), buyback: Some(usd(300)), collection: Some(true), ..song(2).return_policy };
    let successor = ContentVersion { content: name("song"), version: version(2) };
    ContentPut { successor: Some(successor), return_policy: policy, ..song(2) }
}

fn version(number: i64) -> Version {
    Version::try_from(number).expect("a version")
}

fn external(text: &str) -> ExternalId {
    ExternalId::try_from(text).expect("an id")
}

/// The sections of the document, by the type of event that they are about.
fn sections() -> impl Iterator<Item = (&'static str, &'static str)> {
    EVENTS_MD.split("\n### `").skip(1).map(|section| section.split_once("`\n").expect("a heading is a type alone"))
}

/// The example bodies, with their types.
fn examples() -> impl Iterator<Item = (&'static str, &'static str)> {
    let body = |block: &'static str| block.split_once("\n```").expect("a block ends").0;
    sections().flat_map(move |(kind, text)| text.split("\n```json\n").skip(1).map(move |block| (kind, body(block))))
}

fn examples_of(kind: &str) -> Vec<Value> {
    examples().filter(|example| example.0 == kind).map(|(_, body)| value(body.as_bytes())).collect()
}

/// Whether an event has the fields of an example of its type, and no other.
fn is_documented(kind: &str, event: &Value) -> bool {
    let event = fields(event);
    examples_of(kind).iter().map(fields).any(|example| {
        event.is_subset(&example) && example.difference(&event).all(|field| OPTIONAL.contains(&field.as_str()))
    })
}

/// The fields of a body, those of its parts as `part.field`.
fn fields(body: &Value) -> BTreeSet<String> {
    objects(body)
        .into_iter()
        .flat_map(|(pointer, object)| {
            let path = dotted(&pointer);
            object.keys().map(move |field| format!("{path}{field}")).collect::<Vec<_>>()
        })
        .collect()
}

/// The fields that the type has where the example has any, but for tokens: serde names them to
/// whoever gives one that is unknown.
fn known_fields(kind: &str, example: &Value) -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for (pointer, _) in objects(example) {
        let mut strange = example.clone();
        strange.pointer_mut(&pointer).expect("an object")["?"] = json!(true);
        let error = Output::decode(kind, Format::Json, strange.to_string().as_bytes()).expect_err("an unknown field");
        let error = error.to_string();
        let (_, expected) = error.split_once("unknown field `?`, expected ").expect("what is expected");
        let names = expected.split('`').skip(1).step_by(2).filter(|name| !name.ends_with("_token"));
        known.extend(names.map(|name| format!("{}{name}", dotted(&pointer))));
    }
    known
}

/// The objects of a body, itself among them, by their JSON pointers.
fn objects(body: &Value) -> Vec<(String, &serde_json::Map<String, Value>)> {
    let mut found = Vec::new();
    let mut left = vec![(String::new(), body)];
    while let Some((pointer, part)) = left.pop() {
        match part {
            Value::Object(object) => {
                left.extend(object.iter().map(|(field, part)| (format!("{pointer}/{field}"), part)));
                found.push((pointer, object));
            }
            Value::Array(parts) => {
                left.extend(parts.iter().enumerate().map(|(index, part)| (format!("{pointer}/{index}"), part)));
            }
            _ => {}
        }
    }
    found
}

/// What stands before a field: its parts' names, without their places in lists.
fn dotted(pointer: &str) -> String {
    let parts = pointer.split('/').filter(|part| !part.is_empty() && part.parse::<usize>().is_err());
    parts.map(|part| format!("{part}.")).collect()
}

fn value(body: &[u8]) -> Value {
    serde_json::from_slice(body).expect("JSON")
}
