//! The claims of seed 1: a server that distributes licenses (1 to 9), a reissue device (10, 11), a
//! storefront (12 to 18) and a client terminal (19).

use licet_client::{
    Charges, provide,
    terminal::{Fetched, Standing, Store, Terminal},
};
use licet_common::signing::{ContainerClaims, Draft, folder};
use licet_schema::{
    Count, Output, Request, Text,
    entity::{certificate, certificate_record, license, pending_reception, settlement},
    message::{
        CertificateReissue, CertificateReissued, ContentPut, Ending, Instruction, SettlementCompletion, SweepKind,
    },
    topology::{EVENTS, IN},
    vocabulary::Grants,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    alone, altered, certificate_claims, granted, issued, license_claims, licet, notice, order, published, refused,
    signed, sweep, whole,
};
use crate::system::{
    Bought, TestSystem, completion, external_id, license_receipt, license_request, name, on_both, outcome, purchase,
    receipt, song,
};

on_both!(
    seed1_claim_01_a_purchase_yields_a_certificate_and_a_request_with_it_yields_the_matching_license,
    seed1_claim_02_the_settlement_is_registered_with_the_certificate_in_its_database,
    seed1_claim_03_the_settlement_sets_the_number_of_licenses_that_can_be_granted,
    seed1_claim_04_a_license_requires_a_settled_certificate_in_the_database,
    seed1_claim_05_the_reception_of_the_last_license_deletes_its_certificate,
    seed1_claim_06_the_reception_of_a_license_updates_the_count,
    seed1_claim_07_an_altered_certificate_is_refused,
    seed1_claim_08_a_reception_notice_enables_licenses_only_if_its_id_is_in_the_database,
    seed1_claim_09_expired_certificates_are_deleted,
    seed1_claim_10_a_reissue_restores_a_deleted_certificate_and_its_settlement,
    seed1_claim_11_a_reissue_restores_the_number_of_granted_licenses,
    seed1_claim_12_the_account_is_settled_only_after_the_reception_notice,
    seed1_claim_13_an_altered_reception_notice_is_detected_and_instructs_no_settlement,
    seed1_claim_14_a_certificate_id_is_registered_and_checked_before_settlement,
    seed1_claim_15_a_container_id_is_registered_and_checked_before_settlement,
    seed1_claim_16_a_certificate_id_is_deleted_after_its_check,
    seed1_claim_17_a_container_id_is_deleted_after_its_check,
    seed1_claim_18_an_id_without_a_timely_notice_is_deleted,
    seed1_claim_19_the_terminal_stores_the_certificate_and_attaches_it_to_its_license_request,
);

async fn seed1_claim_01_a_purchase_yields_a_certificate_and_a_request_with_it_yields_the_matching_license(
    mut system: TestSystem,
) {
    system.start_workers();
    system.put_song(1).await;
    system.ask(&Request::ContentPut(ContentPut { content: name("film"), ..song(1) })).await;
    for (user, content) in [("alice", "song"), ("bob", "film")] {
        let bought = Bought::of(system.ask(&order(user, content, None)).await);
        let certificate = certificate_claims(&system, &bought.tokens[0]);
        assert_eq!(certificate.jti, bought.certificates[0]);
        assert_eq!((&certificate.sub, &certificate.content), (&name(user), &name(content)));

        system.ask(&receipt(&bought)).await;
        system.ask(&completion(&bought)).await;
        let license = license_claims(&system, &issued(&system, &bought.tokens[0], "player").await.token);
        assert_eq!(license.certificate, certificate.jti);
        assert_eq!(
            (license.sub, license.content, license.version),
            (certificate.sub, certificate.content, certificate.version)
        );
    }
    system.finish().await;
}

async fn seed1_claim_02_the_settlement_is_registered_with_the_certificate_in_its_database(mut system: TestSystem) {
    system.start_workers();
    system.put_song(1).await;
    let (bought, other) = (system.buy("alice", 1).await, system.buy("bob", 1).await);
    let before = row(&system, &bought).await;
    assert_eq!((before.settlement, before.provider, before.settled_at), (None, None, None));

    assert_eq!(outcome(&system.ask(&completion(&bought)).await), "settlement.registered");
    let after = row(&system, &bought).await;
    assert_eq!(after.settlement, Some(external_id(&format!("pay-{}", bought.certificates[0]))));
    assert_eq!(after.provider, Some(name("bank")));
    assert_eq!(after.settled_at, Some(system.resources.clock.now()));
    assert_eq!(row(&system, &other).await.settlement, None, "the other certificate is not settled");
    system.finish().await;
}

async fn seed1_claim_03_the_settlement_sets_the_number_of_licenses_that_can_be_granted(mut system: TestSystem) {
    system.start_workers();
    system.put_song(1).await;
    let bought = system.buy("alice", 1).await;
    assert_eq!(row(&system, &bought).await.grants.get(), 1);
    system.ask(&receipt(&bought)).await;
    let Request::SettlementCompletion(paid) = completion(&bought) else { unreachable!() };
    let paid = SettlementCompletion { grants: Grants::try_from(3i64).ok(), ..paid };
    let reply = system.ask(&Request::SettlementCompletion(paid)).await;
    let Output::SettlementRegistered(registered) = reply else { panic!("{reply:?}") };
    assert_eq!(registered.grants.map(Grants::get), Some(3));
    assert_eq!(row(&system, &bought).await.grants.get(), 3);
    let settlements = system.rows::<settlement::Entity>().await;
    assert_eq!(settlements.iter().map(|row| row.grants.map(Grants::get)).collect::<Vec<_>>(), [Some(3)]);

    for terminal in ["hall", "kitchen", "attic"] {
        issued(&system, &bought.tokens[0], terminal).await;
    }
    assert_eq!(outcome(&system.ask(&license_request(&bought.tokens[0], "cellar")).await), "exhausted");
    system.finish().await;
}

async fn seed1_claim_04_a_license_requires_a_settled_certificate_in_the_database(mut system: TestSystem) {
    system.start_workers();
    system.put_song(1).await;
    let bought = system.buy("alice", 1).await;
    system.ask(&receipt(&bought)).await;
    let request = license_request(&bought.tokens[0], "player");
    refused(&system, &request, "not_settled").await;

    system.ask(&completion(&bought)).await;
    let mut never_issued = certificate_claims(&system, &bought.tokens[0]);
    never_issued.jti = Uuid::new_v4();
    let never_issued = signed(system.keyring(), &never_issued);
    refused(&system, &license_request(&never_issued, "player"), "unknown_certificate").await;
    assert!(system.rows::<license::Entity>().await.is_empty());

    let license = granted(&system, &bought.tokens[0], "player").await;
    assert_eq!(
        system.row::<license::Entity>(license.id).await.map(|row| row.certificate),
        Some(bought.certificates[0])
    );
    assert_eq!(system.row::<certificate::Entity>(bought.certificates[0]).await, None);
    refused(&system, &license_request(&bought.tokens[0], "other"), "exhausted").await;
    system.finish().await;
}

async fn seed1_claim_05_the_reception_of_the_last_license_deletes_its_certificate(mut system: TestSystem) {
    system.start_workers();
    system.put_song(2).await;
    let (bought, other) = (system.ready("alice", 1).await, system.ready("bob", 1).await);
    granted(&system, &bought.tokens[0], "hall").await;
    let last = issued(&system, &bought.tokens[0], "kitchen").await;
    assert_eq!(
        row(&system, &bought).await.outstanding,
        Count::ONE,
        "the certificate stays until the license is received"
    );

    let granted = system.process(&license_receipt(&last.token)).await;
    assert_eq!(granted.kinds(), ["license.granted", "certificate.retired"]);
    let left: Vec<_> = system.rows::<certificate::Entity>().await.into_iter().map(|row| row.id).collect();
    assert_eq!(left, other.certificates, "the other certificate stays");
    system.finish().await;
}

async fn seed1_claim_06_the_reception_of_a_license_updates_the_count(mut system: TestSystem) {
    system.start_workers();
    system.put_song(3).await;
    let bought = system.ready("alice", 1).await;
    let count = async || row(&system, &bought).await.granted.get();
    let mut licenses = Vec::new();
    for terminal in ["hall", "kitchen"] {
        licenses.push(issued(&system, &bought.tokens[0], terminal).await);
    }
    assert_eq!(count().await, 0, "a license that is not acknowledged does not count");
    for (license, expected) in licenses.iter().zip(1..) {
        for repeated in [false, true] {
            let reply = system.ask(&license_receipt(&license.token)).await;
            let Output::LicenseGranted(granted) = reply else { panic!("{reply:?}") };
            assert_eq!((granted.granted.get(), granted.repeated), (expected, repeated));
            assert_eq!(count().await, expected);
        }
    }
    system.finish().await;
}

async fn seed1_claim_07_an_altered_certificate_is_refused(mut system: TestSystem) {
    system.start_workers();
    system.put_song(1).await;
    let (bought, other) = (system.buy("alice", 1).await, system.buy("bob", 1).await);
    let genuine = &bought.tokens[0];
    certificate_claims(&system, genuine);
    let later = certificate_claims(&system, genuine).exp + 86_400;
    for (claim, value) in [("sub", json!("mallory")), ("jti", json!(other.certificates[0])), ("exp", json!(later))] {
        let altered = altered(genuine, claim, value);
        assert!(is_altered(&system, &altered).await, "{claim}");
        refused(&system, &notice(&altered), "altered").await;
        refused(&system, &license_request(&altered, "player"), "altered").await;
    }
    assert!(!is_altered(&system, genuine).await);
    assert_eq!(outcome(&system.ask(&notice(genuine)).await), "certificate.accepted");
    system.finish().await;
}

async fn seed1_claim_08_a_reception_notice_enables_licenses_only_if_its_id_is_in_the_database(mut system: TestSystem) {
    system.start_workers();
    system.put_song(1).await;
    let (bought, other) = (system.buy("alice", 1).await, system.buy("alice", 1).await);
    assert_ne!(bought.certificates, other.certificates, "the ids distinguish equal purchases");
    for one in [&bought, &other] {
        assert_eq!(row(&system, one).await.received_at, None);
        system.ask(&completion(one)).await;
        refused(&system, &license_request(&one.tokens[0], "player"), "not_received").await;
    }
    let mut never_issued = certificate_claims(&system, &bought.tokens[0]);
    never_issued.jti = Uuid::new_v4();
    refused(&system, &notice(&signed(system.keyring(), &never_issued)), "unknown_certificate").await;

    assert_eq!(outcome(&system.ask(&receipt(&bought)).await), "certificate.accepted");
    assert_eq!(row(&system, &bought).await.received_at, Some(system.resources.clock.now()));
    issued(&system, &bought.tokens[0], "player").await;
    refused(&system, &license_request(&other.tokens[0], "player"), "not_received").await;
    system.finish().await;
}

async fn seed1_claim_09_expired_certificates_are_deleted(mut system: TestSystem) {
    system.start_workers();
    system.put_song(1).await;
    let old = system.ready("alice", 1).await;
    system.resources.clock.advance_ms(20 * DAY_MS);
    let young = system.ready("bob", 1).await;
    system.resources.clock.advance_ms(11 * DAY_MS);
    assert_eq!(system.rows::<certificate::Entity>().await.len(), 2, "no sweep has run yet");

    let events = sweep(&system, SweepKind::Certificate).await;
    assert_eq!(retired(&events), [(old.certificates[0], Ending::Expired)]);
    let left: Vec<_> = system.rows::<certificate::Entity>().await.into_iter().map(|row| row.id).collect();
    assert_eq!(left, young.certificates);
    refused(&system, &license_request(&old.tokens[0], "player"), "expired").await;
    issued(&system, &young.tokens[0], "player").await;
    system.finish().await;
}

async fn seed1_claim_10_a_reissue_restores_a_deleted_certificate_and_its_settlement(mut system: TestSystem) {
    system.start_workers();
    system.put_song(1).await;
    let bought = system.ready("alice", 1).await;
    let before = row(&system, &bought).await;
    granted(&system, &bought.tokens[0], "lost terminal").await;
    assert_eq!(system.row::<certificate::Entity>(before.id).await, None);

    let reissued = reissue(&system, before.id, Some(0)).await;
    let token = reissued.certificate_token.expect("a reply has its token");
    let claims = certificate_claims(&system, &token);
    assert_eq!((claims.jti, claims.sub, claims.generation), (before.id, name("alice"), 2));
    let after = row(&system, &bought).await;
    assert_eq!(
        (after.settlement, after.provider, after.settled_at),
        (before.settlement, before.provider, before.settled_at)
    );
    refused(&system, &license_request(&bought.tokens[0], "player"), "superseded").await;
    issued(&system, &token, "player").await;
    system.finish().await;
}

async fn seed1_claim_11_a_reissue_restores_the_number_of_granted_licenses(mut system: TestSystem) {
    system.start_workers();
    system.put_song(3).await;
    let (as_it_was, lower) = (system.ready("alice", 1).await, system.ready("bob", 1).await);
    for terminal in ["hall", "kitchen"] {
        granted(&system, &as_it_was.tokens[0], terminal).await;
        granted(&system, &lower.tokens[0], terminal).await;
    }
    system.resources.clock.advance_ms(31 * DAY_MS);
    assert_eq!(retired(&sweep(&system, SweepKind::Certificate).await).len(), 2);
    assert!(system.rows::<certificate::Entity>().await.is_empty());

    for (bought, requested, count) in [(&as_it_was, None, 2), (&lower, Some(1), 1)] {
        let reissued = reissue(&system, bought.certificates[0], requested).await;
        assert_eq!((reissued.granted.get(), reissued.remaining.get()), (count, 3 - count));
        let regenerated = row(&system, bought).await;
        assert_eq!((regenerated.grants.get(), regenerated.granted.get(), regenerated.outstanding.get()), (3, count, 0));
        let token = reissued.certificate_token.expect("a reply has its token");
        for terminal in 0..3 - count {
            granted(&system, &token, &format!("new-{terminal}")).await;
        }
        refused(&system, &license_request(&token, "one too many"), "exhausted").await;
    }
    system.finish().await;
}

async fn seed1_claim_12_the_account_is_settled_only_after_the_reception_notice(mut system: TestSystem) {
    system.start_workers();
    system.put_song(1).await;
    let stop = CancellationToken::new();
    let (transport, client, stopped) = (system.resources.transport.clone(), system.client.clone(), stop.clone());
    let settling = tokio::spawn(async move { provide(&transport, &client, Charges::Succeed, &stopped).await });
    let (_, mut settled) = system.listen(&[(EVENTS, "settlement.registered")]).await;

    let mut purchases = Vec::new();
    for user in ["alice", "bob"] {
        let sold = system.process(&purchase(user, 1)).await;
        assert_eq!(sold.kinds(), ["certificate.issued"], "the purchase instructs no settlement");
        purchases.push(Bought::of(sold.reply));
    }
    let [unacknowledged, acknowledged] = &purchases[..] else { unreachable!() };
    let accepted = system.process(&receipt(acknowledged)).await;
    let [Output::CertificateAccepted(_), Output::SettlementInstructed(instructed)] = &accepted.events[..] else {
        panic!("{:?}", accepted.events)
    };
    assert_eq!(instructed.certificate, Some(acknowledged.certificates[0]));
    assert_eq!((&instructed.user, instructed.amount), (&name("bob"), acknowledged.amount));
    let (registered, _) = settled.event().await;
    assert!(
        matches!(&registered, Output::SettlementRegistered(body) if body.certificate == instructed.certificate),
        "{registered:?}"
    );
    assert!(row(&system, acknowledged).await.settled_at.is_some());
    assert_eq!(row(&system, unacknowledged).await.settled_at, None);
    stop.cancel();
    settling.await.expect("the provider stops");
    system.finish().await;
}

async fn seed1_claim_13_an_altered_reception_notice_is_detected_and_instructs_no_settlement(mut system: TestSystem) {
    system.start_workers();
    system.put_song(1).await;
    let (_, mut instructions) = system.listen(&[(EVENTS, "settlement.instructed")]).await;
    let (bought, together) = (system.buy("alice", 1).await, system.buy("bob", 2).await);
    let container = together.container_token.clone().expect("several certificates have a container");

    // The storefront can check a certificate before it acknowledges receipt.
    let altered_certificate = altered(&bought.tokens[0], "sub", json!("mallory"));
    assert!(is_altered(&system, &altered_certificate).await);
    refused(&system, &notice(&altered_certificate), "altered").await;
    let altered_container = altered(&container, "certificates", json!([bought.certificates[0]]));
    refused(&system, &Request::CertificateReceipt(whole(&altered_container)), "altered").await;

    for genuine in [&bought, &together] {
        let accepted = system.process(&receipt(genuine)).await;
        assert_eq!(accepted.kinds(), ["certificate.accepted", "settlement.instructed"]);
        assert_eq!(instructions.event().await.1, accepted.id, "only the genuine notice instructs the settlement");
    }
    system.finish().await;
}

async fn seed1_claim_14_a_certificate_id_is_registered_and_checked_before_settlement(mut system: TestSystem) {
    system.start_workers();
    system.put_song(1).await;
    let bought = system.buy("alice", 1).await;
    let pending = system.row::<pending_reception::Entity>(bought.certificates[0]).await.expect("the id is registered");
    assert_eq!((pending.container, pending.user.as_str()), (false, "alice"));

    let mut claims = certificate_claims(&system, &bought.tokens[0]);
    let other_keys = folder::create(&system.folder.path().join("other_keys")).expect("a new key");
    refused(&system, &notice(&signed(&other_keys, &claims)), "untrusted_key").await;
    claims.jti = Uuid::new_v4();
    refused(&system, &notice(&signed(system.keyring(), &claims)), "unknown_certificate").await;

    let accepted = system.process(&receipt(&bought)).await;
    assert_eq!(accepted.kinds(), ["certificate.accepted", "settlement.instructed"]);
    let Output::SettlementInstructed(instructed) = &accepted.events[1] else { panic!() };
    assert_eq!(instructed.certificate, Some(bought.certificates[0]));
    system.finish().await;
}

async fn seed1_claim_15_a_container_id_is_registered_and_checked_before_settlement(mut system: TestSystem) {
    system.start_workers();
    system.put_song(1).await;
    let by_container = system.buy("alice", 2).await;
    let by_member = system.buy("bob", 2).await;
    let id = by_container.container.expect("several certificates have a container");
    let pending = system.row::<pending_reception::Entity>(id).await.expect("the id is registered");
    assert_eq!((pending.container, pending.user.as_str()), (true, "alice"));
    assert_eq!(
        system.rows::<pending_reception::Entity>().await.len(),
        2,
        "one id represents all certificates of a container"
    );

    let never_issued = ContainerClaims {
        iss: "licet".into(),
        jti: Uuid::new_v4(),
        sub: name("alice"),
        certificates: by_container.certificates.clone(),
        iat: 1_700_000_000,
        exp: 1_800_000_000,
    };
    let draft = Draft::new(&never_issued).expect("a container");
    let never_issued = draft.sign(system.keyring()).expect("a key").token;
    refused(&system, &Request::CertificateReceipt(whole(&never_issued)), "unknown_certificate").await;
    let mut foreign = certificate_claims(&system, &by_container.tokens[0]);
    foreign.jti = Uuid::new_v4();
    refused(&system, &notice(&signed(system.keyring(), &foreign)), "unknown_certificate").await;

    for (bought, notice) in [(&by_container, receipt(&by_container)), (&by_member, notice(&by_member.tokens[1]))] {
        let processed = system.process(&notice).await;
        let [Output::CertificateAccepted(accepted), Output::SettlementInstructed(instructed)] = &processed.events[..]
        else {
            panic!("{:?}", processed.events)
        };
        assert_eq!((accepted.container, accepted.certificates.len()), (bought.container, 2));
        assert_eq!((instructed.container, instructed.amount), (bought.container, bought.amount));
    }
    system.finish().await;
}

async fn seed1_claim_16_a_certificate_id_is_deleted_after_its_check(system: TestSystem) {
    an_id_is_deleted_once_collated(system, 1).await;
}

async fn seed1_claim_17_a_container_id_is_deleted_after_its_check(system: TestSystem) {
    an_id_is_deleted_once_collated(system, 2).await;
}

/// Checks that the id of a purchase of `count` certificates is deleted after its check.
async fn an_id_is_deleted_once_collated(mut system: TestSystem, count: usize) {
    system.start_workers();
    system.put_song(1).await;
    let (bought, other) = (system.buy("alice", count).await, system.buy("bob", count).await);
    let pending =
        async || system.rows::<pending_reception::Entity>().await.into_iter().map(|row| row.id).collect::<Vec<_>>();
    let ids = [&bought, &other].map(|bought| bought.container.unwrap_or(bought.certificates[0]));
    let mut both = ids.to_vec();
    both.sort_unstable();
    assert_eq!(pending().await, both);
    refused(&system, &notice(&altered(&bought.tokens[0], "sub", json!("mallory"))), "altered").await;
    assert_eq!(pending().await, both, "an altered notice deletes nothing");

    assert_eq!(outcome(&system.ask(&receipt(&bought)).await), "certificate.accepted");
    assert_eq!(pending().await, [ids[1]], "the other id stays");
    let again = system.process(&receipt(&bought)).await;
    assert!(
        matches!(again.reply, Output::CertificateAccepted(accepted) if accepted.repeated),
        "the id is deleted, so the notice counts as repeated"
    );
    assert!(again.events.is_empty(), "the settlement is instructed once: {:?}", again.events);
    system.finish().await;
}

async fn seed1_claim_18_an_id_without_a_timely_notice_is_deleted(mut system: TestSystem) {
    system.start_workers();
    system.put_song(1).await;
    let (unacknowledged, acknowledged) = (system.buy("alice", 1).await, system.buy("bob", 1).await);
    system.ask(&receipt(&acknowledged)).await;
    system.resources.clock.advance_ms(DAY_MS / 2);
    let later = system.buy("carol", 1).await;
    system.resources.clock.advance_ms(DAY_MS / 2 + 1);

    let events = sweep(&system, SweepKind::Reception).await;
    assert_eq!(retired(&events), [(unacknowledged.certificates[0], Ending::Lapsed)]);
    let left: Vec<_> = system.rows::<pending_reception::Entity>().await.into_iter().map(|row| row.id).collect();
    assert_eq!(left, later.certificates, "the later certificate still waits");
    let ended =
        system.row::<certificate_record::Entity>(unacknowledged.certificates[0]).await.and_then(|row| row.ended);
    assert_eq!(ended, Some(Ending::Lapsed));
    refused(&system, &receipt(&unacknowledged), "lapsed").await;
    system.finish().await;
}

async fn seed1_claim_19_the_terminal_stores_the_certificate_and_attaches_it_to_its_license_request(
    mut system: TestSystem,
) {
    system.start_workers();
    system.put_song(1).await;
    let (_, mut requests) = system.listen(&[(IN, "certificate.receipt"), (IN, "license.request")]).await;
    let folder = system.folder.path().join("terminal");
    let terminal = || {
        let store = Store::open(&folder).expect("a folder");
        Terminal::new(system.client.clone(), published(&system), store, Some(name("player")))
    };
    let mut first = terminal();
    let Request::PurchaseRequest(request) = order("alice", "song", None) else { unreachable!() };
    let bought = first.buy(request).await.expect("a purchase");
    assert_eq!(bought.settlement, Instruction::Instructed);
    drop(first);

    // After a restart, the terminal still has the certificate.
    let mut second = terminal();
    let stored = second.store().certificates().expect("the folder can be read");
    let [stored] = &stored[..] else { panic!("{stored:?}") };
    assert_eq!((stored.claims.jti, stored.standing), (bought.certificates[0], Standing::Received));
    let delivery = requests.next().await;
    let sent = Request::read("certificate.receipt", &delivery.body).expect("a notice");
    assert_eq!(sent, notice(&stored.certificate_token));

    let paid = Bought {
        certificates: bought.certificates.clone(),
        tokens: vec![stored.certificate_token.clone()],
        container: None,
        container_token: None,
        amount: bought.amount,
    };
    assert_eq!(outcome(&system.ask(&completion(&paid)).await), "settlement.registered");
    let fetched = second.fetch(stored.claims.jti, None).await.expect("a license");
    let delivery = requests.next().await;
    let sent = Request::read("license.request", &delivery.body).expect("a request");
    assert_eq!(sent, license_request(&stored.certificate_token, "player"));
    assert!(matches!(fetched, Fetched::Here { .. }), "{fetched:?}");
    system.finish().await;
}

const DAY_MS: i64 = 86_400_000;

/// The certificate's row in the database.
async fn row(system: &TestSystem, bought: &Bought) -> certificate::Model {
    system.row::<certificate::Entity>(bought.certificates[0]).await.expect("the certificate is in the database")
}

/// The result of `certificate.check` for a certificate.
async fn is_altered(system: &TestSystem, token: &str) -> bool {
    match system.ask(&Request::CertificateCheck(alone(token))).await {
        Output::CertificateChecked(checked) => checked.altered,
        other => panic!("the reply to a check is {other:?}"),
    }
}

/// The certificates that ended, with the reasons.
fn retired(events: &[Output]) -> Vec<(Uuid, Ending)> {
    let ended = events.iter().filter_map(|event| match event {
        Output::CertificateRetired(retired) => Some((retired.certificate, retired.reason)),
        _ => None,
    });
    ended.collect()
}

/// Reissues a certificate, with or without a count. On RabbitMQ and PostgreSQL it runs the reissue
/// device, `licet reissue`. On the embedded services it sends the message.
async fn reissue(system: &TestSystem, certificate: Uuid, granted: Option<i64>) -> CertificateReissued {
    let reason = "the terminal was lost";
    let reply = if system.database_url.is_some() {
        let (certificate, granted) = (certificate.to_string(), granted.map(|count| format!("--granted={count}")));
        let mut arguments = vec!["reissue", &certificate, "--json", "--reason", reason];
        arguments.extend(granted.as_deref());
        Output::decode("certificate.reissued", &licet(system, &arguments)).expect("a reissue")
    } else {
        let (reason, granted) = (Text::try_from(reason), granted.map(Count::try_from));
        let (reason, granted) = (reason.expect("a text"), granted.transpose().expect("a count"));
        system.ask(&Request::CertificateReissue(CertificateReissue { certificate, reason, granted })).await
    };
    match reply {
        Output::CertificateReissued(reissued) => reissued,
        other => panic!("the reply to a reissue is {other:?}"),
    }
}
