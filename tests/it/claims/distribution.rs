//! The claims of the first seed: a server that distributes licenses (1 to 9), a reissue device (10,
//! 11), a storefront (12 to 18) and a client terminal (19).

use licet_client::{
    Charges, provide,
    terminal::{Fetched, Standing, Store, Terminal},
};
use licet_common::signing::{ContainerClaims, Draft, folder};
use licet_schema::{
    Count, Format, Output, Request, Text,
    entity::{certificate, license, pending_reception, purchase, settlement},
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
use crate::world::{
    Bought, World, completion, license_receipt, license_request, name, on_both, purchase as purchase_of, receipt, song,
    verdict,
};

on_both!(
    seed1_claim_01_a_purchase_yields_a_certificate_and_a_request_with_it_the_matching_license,
    seed1_claim_02_the_settlement_is_registered_with_the_certificate_in_its_database,
    seed1_claim_03_the_settlement_tells_how_many_licenses_can_be_granted,
    seed1_claim_04_a_license_needs_a_settled_certificate_in_the_database,
    seed1_claim_05_the_reception_of_the_last_license_deletes_its_certificate,
    seed1_claim_06_the_reception_of_a_license_updates_the_count,
    seed1_claim_07_an_altered_certificate_is_refused,
    seed1_claim_08_a_notice_enables_licenses_if_its_id_is_in_the_database,
    seed1_claim_09_certificates_past_their_time_are_deleted,
    seed1_claim_10_a_deleted_certificate_and_its_settlement_are_regenerated,
    seed1_claim_11_the_count_is_regenerated_too,
    seed1_claim_12_the_account_is_settled_only_after_the_reception_notice,
    seed1_claim_13_an_altered_notice_is_detected_and_instructs_no_settlement,
    seed1_claim_14_a_certificates_id_is_kept_and_collated_before_settlement,
    seed1_claim_15_a_containers_id_is_kept_and_collated_before_settlement,
    seed1_claim_16_a_certificates_id_is_deleted_once_collated,
    seed1_claim_17_a_containers_id_is_deleted_once_collated,
    seed1_claim_18_an_id_without_a_notice_in_time_is_deleted,
    seed1_claim_19_the_terminal_holds_the_certificate_and_attaches_it_to_its_license_request,
);

async fn seed1_claim_01_a_purchase_yields_a_certificate_and_a_request_with_it_the_matching_license(mut world: World) {
    world.start_workers();
    world.put_song(1).await;
    world.ask(&Request::ContentPut(ContentPut { content: name("film"), ..song(1) })).await;
    for (user, content) in [("alice", "song"), ("bob", "film")] {
        let bought = Bought::of(world.ask(&order(user, content, None)).await);
        let certificate = certificate_claims(&world, &bought.tokens[0]);
        assert_eq!(certificate.jti, bought.certificates[0]);
        assert_eq!((&certificate.sub, &certificate.content), (&name(user), &name(content)));

        world.ask(&receipt(&bought)).await;
        world.ask(&completion(&bought)).await;
        let license = license_claims(&world, &issued(&world, &bought.tokens[0], "player").await.token);
        assert_eq!(license.certificate, certificate.jti);
        assert_eq!(
            (license.sub, license.content, license.version),
            (certificate.sub, certificate.content, certificate.version)
        );
    }
    world.finish().await;
}

async fn seed1_claim_02_the_settlement_is_registered_with_the_certificate_in_its_database(mut world: World) {
    world.start_workers();
    world.put_song(1).await;
    let (bought, other) = (world.buy("alice", 1).await, world.buy("bob", 1).await);
    let held = row(&world, &bought).await;
    assert_eq!((held.settlement, held.provider, held.settled_at), (None, None, None));

    assert_eq!(verdict(&world.ask(&completion(&bought)).await), "settlement.registered");
    let held = row(&world, &bought).await;
    assert_eq!(held.settlement, Some(format!("pay-{}", bought.certificates[0])));
    assert_eq!(held.provider.as_deref(), Some("bank"));
    assert_eq!(held.settled_at, Some(world.machine.clock.now().as_millis()));
    assert_eq!(row(&world, &other).await.settlement, None, "another certificate's settlement is its own");
    world.finish().await;
}

async fn seed1_claim_03_the_settlement_tells_how_many_licenses_can_be_granted(mut world: World) {
    world.start_workers();
    world.put_song(1).await;
    let bought = world.buy("alice", 1).await;
    assert_eq!(row(&world, &bought).await.grants, 1);
    world.ask(&receipt(&bought)).await;
    let Request::SettlementCompletion(paid) = completion(&bought) else { unreachable!() };
    let paid = SettlementCompletion { grants: Grants::try_from(3i64).ok(), ..paid };
    let answer = world.ask(&Request::SettlementCompletion(paid)).await;
    assert!(
        matches!(&answer, Output::SettlementRegistered(told) if told.grants.is_some_and(|grants| grants.get() == 3)),
        "{answer:?}"
    );
    assert_eq!(row(&world, &bought).await.grants, 3);
    let settlements = world.rows::<settlement::Entity>().await;
    assert_eq!(settlements.iter().map(|row| row.grants).collect::<Vec<_>>(), [Some(3)]);

    for terminal in ["hall", "kitchen", "attic"] {
        issued(&world, &bought.tokens[0], terminal).await;
    }
    assert_eq!(verdict(&world.ask(&license_request(&bought.tokens[0], "cellar")).await), "exhausted");
    world.finish().await;
}

async fn seed1_claim_04_a_license_needs_a_settled_certificate_in_the_database(mut world: World) {
    world.start_workers();
    world.put_song(1).await;
    let bought = world.buy("alice", 1).await;
    world.ask(&receipt(&bought)).await;
    let request = license_request(&bought.tokens[0], "player");
    refused(&world, &request, "not_settled").await;

    world.ask(&completion(&bought)).await;
    let mut never_issued = certificate_claims(&world, &bought.tokens[0]);
    never_issued.jti = Uuid::new_v4();
    let never_issued = signed(world.keyring(), &never_issued);
    refused(&world, &license_request(&never_issued, "player"), "unknown_certificate").await;
    assert!(world.rows::<license::Entity>().await.is_empty());

    let license = granted(&world, &bought.tokens[0], "player").await;
    assert_eq!(world.row::<license::Entity>(license.id).await.map(|row| row.certificate), Some(bought.certificates[0]));
    assert_eq!(world.row::<certificate::Entity>(bought.certificates[0]).await, None);
    refused(&world, &license_request(&bought.tokens[0], "other"), "exhausted").await;
    world.finish().await;
}

async fn seed1_claim_05_the_reception_of_the_last_license_deletes_its_certificate(mut world: World) {
    world.start_workers();
    world.put_song(2).await;
    let (bought, other) = (world.ready("alice", 1).await, world.ready("bob", 1).await);
    granted(&world, &bought.tokens[0], "hall").await;
    let last = issued(&world, &bought.tokens[0], "kitchen").await;
    assert_eq!(row(&world, &bought).await.outstanding, 1, "it stays while a license is to be received");

    let told = world.tell(&license_receipt(&last.token)).await;
    assert_eq!(told.kinds(), ["license.granted", "certificate.retired"]);
    let left: Vec<_> = world.rows::<certificate::Entity>().await.into_iter().map(|row| row.id).collect();
    assert_eq!(left, other.certificates, "the other certificate stays");
    world.finish().await;
}

async fn seed1_claim_06_the_reception_of_a_license_updates_the_count(mut world: World) {
    world.start_workers();
    world.put_song(3).await;
    let bought = world.ready("alice", 1).await;
    let count = async || row(&world, &bought).await.granted;
    let mut licenses = Vec::new();
    for terminal in ["hall", "kitchen"] {
        licenses.push(issued(&world, &bought.tokens[0], terminal).await);
    }
    assert_eq!(count().await, 0, "what is on its way does not count");
    for (license, expected) in licenses.iter().zip(1..) {
        for repeated in [false, true] {
            let answer = world.ask(&license_receipt(&license.token)).await;
            let Output::LicenseGranted(told) = answer else { panic!("{answer:?}") };
            assert_eq!((told.granted.get(), told.repeated), (expected, repeated));
            assert_eq!(count().await, expected);
        }
    }
    world.finish().await;
}

async fn seed1_claim_07_an_altered_certificate_is_refused(mut world: World) {
    world.start_workers();
    world.put_song(1).await;
    let (bought, other) = (world.buy("alice", 1).await, world.buy("bob", 1).await);
    let genuine = &bought.tokens[0];
    certificate_claims(&world, genuine);
    let later = certificate_claims(&world, genuine).exp + 86_400;
    for (claim, value) in [("sub", json!("mallory")), ("jti", json!(other.certificates[0])), ("exp", json!(later))] {
        let altered = altered(genuine, claim, value);
        assert!(is_altered(&world, &altered).await, "{claim}");
        refused(&world, &notice(&altered), "altered").await;
        refused(&world, &license_request(&altered, "player"), "altered").await;
    }
    assert!(!is_altered(&world, genuine).await);
    assert_eq!(verdict(&world.ask(&notice(genuine)).await), "certificate.accepted");
    world.finish().await;
}

async fn seed1_claim_08_a_notice_enables_licenses_if_its_id_is_in_the_database(mut world: World) {
    world.start_workers();
    world.put_song(1).await;
    let (bought, other) = (world.buy("alice", 1).await, world.buy("alice", 1).await);
    assert_ne!(bought.certificates, other.certificates, "the ids tell alike purchases apart");
    for one in [&bought, &other] {
        assert_eq!(row(&world, one).await.received_at, None);
        world.ask(&completion(one)).await;
        refused(&world, &license_request(&one.tokens[0], "player"), "not_received").await;
    }
    let mut never_issued = certificate_claims(&world, &bought.tokens[0]);
    never_issued.jti = Uuid::new_v4();
    refused(&world, &notice(&signed(world.keyring(), &never_issued)), "unknown_certificate").await;

    assert_eq!(verdict(&world.ask(&receipt(&bought)).await), "certificate.accepted");
    assert_eq!(row(&world, &bought).await.received_at, Some(world.machine.clock.now().as_millis()));
    issued(&world, &bought.tokens[0], "player").await;
    refused(&world, &license_request(&other.tokens[0], "player"), "not_received").await;
    world.finish().await;
}

async fn seed1_claim_09_certificates_past_their_time_are_deleted(mut world: World) {
    world.start_workers();
    world.put_song(1).await;
    let old = world.ready("alice", 1).await;
    world.machine.clock.advance_ms(20 * DAY_MS);
    let young = world.ready("bob", 1).await;
    world.machine.clock.advance_ms(11 * DAY_MS);
    assert_eq!(world.rows::<certificate::Entity>().await.len(), 2, "until somebody sweeps");

    let events = sweep(&world, SweepKind::Certificate).await;
    assert_eq!(retired(&events), [(old.certificates[0], Ending::Expired)]);
    let left: Vec<_> = world.rows::<certificate::Entity>().await.into_iter().map(|row| row.id).collect();
    assert_eq!(left, young.certificates);
    refused(&world, &license_request(&old.tokens[0], "player"), "expired").await;
    issued(&world, &young.tokens[0], "player").await;
    world.finish().await;
}

async fn seed1_claim_10_a_deleted_certificate_and_its_settlement_are_regenerated(mut world: World) {
    world.start_workers();
    world.put_song(1).await;
    let bought = world.ready("alice", 1).await;
    let before = row(&world, &bought).await;
    granted(&world, &bought.tokens[0], "lost in the sea").await;
    assert_eq!(world.row::<certificate::Entity>(before.id).await, None);

    let reissued = reissue(&world, before.id, Some(0)).await;
    let token = reissued.certificate_token.expect("a reply has its token");
    let claims = certificate_claims(&world, &token);
    assert_eq!((claims.jti, claims.sub, claims.generation), (before.id, name("alice"), 2));
    let after = row(&world, &bought).await;
    assert_eq!(
        (after.settlement, after.provider, after.settled_at),
        (before.settlement, before.provider, before.settled_at)
    );
    refused(&world, &license_request(&bought.tokens[0], "player"), "superseded").await;
    issued(&world, &token, "player").await;
    world.finish().await;
}

async fn seed1_claim_11_the_count_is_regenerated_too(mut world: World) {
    world.start_workers();
    world.put_song(3).await;
    let (as_it_was, lower) = (world.ready("alice", 1).await, world.ready("bob", 1).await);
    for terminal in ["hall", "kitchen"] {
        granted(&world, &as_it_was.tokens[0], terminal).await;
        granted(&world, &lower.tokens[0], terminal).await;
    }
    world.machine.clock.advance_ms(31 * DAY_MS);
    assert_eq!(retired(&sweep(&world, SweepKind::Certificate).await).len(), 2);
    assert!(world.rows::<certificate::Entity>().await.is_empty());

    for (bought, asked, count) in [(&as_it_was, None, 2), (&lower, Some(1), 1)] {
        let reissued = reissue(&world, bought.certificates[0], asked).await;
        assert_eq!((reissued.granted.get(), reissued.remaining.get()), (count, 3 - count));
        let regenerated = row(&world, bought).await;
        assert_eq!((regenerated.grants, regenerated.granted, regenerated.outstanding), (3, count, 0));
        let token = reissued.certificate_token.expect("a reply has its token");
        for terminal in 0..3 - count {
            granted(&world, &token, &format!("new-{terminal}")).await;
        }
        refused(&world, &license_request(&token, "one too many"), "exhausted").await;
    }
    world.finish().await;
}

async fn seed1_claim_12_the_account_is_settled_only_after_the_reception_notice(mut world: World) {
    world.start_workers();
    world.put_song(1).await;
    let stop = CancellationToken::new();
    let (transport, client, told_to_stop) = (world.machine.transport.clone(), world.client.clone(), stop.clone());
    let settling = tokio::spawn(async move { provide(&transport, &client, Charges::Succeed, &told_to_stop).await });
    let (_, mut settled) = world.listen(&[(EVENTS, "settlement.registered")]).await;

    let mut purchases = Vec::new();
    for user in ["alice", "bob"] {
        let told = world.tell(&purchase_of(user, 1)).await;
        assert_eq!(told.kinds(), ["certificate.issued"], "sending the certificate instructs nothing");
        purchases.push(Bought::of(told.answer));
    }
    let [silent, acknowledged] = &purchases[..] else { unreachable!() };
    let told = world.tell(&receipt(acknowledged)).await;
    let [Output::CertificateAccepted(_), Output::SettlementInstructed(instructed)] = &told.events[..] else {
        panic!("{:?}", told.events)
    };
    assert_eq!(instructed.certificate, Some(acknowledged.certificates[0]));
    assert_eq!((&instructed.user, instructed.amount), (&name("bob"), acknowledged.amount));
    let (registered, _) = settled.event().await;
    assert!(
        matches!(&registered, Output::SettlementRegistered(told) if told.certificate == instructed.certificate),
        "{registered:?}"
    );
    assert!(row(&world, acknowledged).await.settled_at.is_some());
    assert_eq!(row(&world, silent).await.settled_at, None);
    stop.cancel();
    settling.await.expect("the provider stops");
    world.finish().await;
}

async fn seed1_claim_13_an_altered_notice_is_detected_and_instructs_no_settlement(mut world: World) {
    world.start_workers();
    world.put_song(1).await;
    let (_, mut instructions) = world.listen(&[(EVENTS, "settlement.instructed")]).await;
    let (bought, together) = (world.buy("alice", 1).await, world.buy("bob", 2).await);
    let container = together.container_token.clone().expect("several come in a container");

    // The storefront asks whoever can tell, and acts on what it is told.
    let altered_certificate = altered(&bought.tokens[0], "sub", json!("mallory"));
    assert!(is_altered(&world, &altered_certificate).await);
    refused(&world, &notice(&altered_certificate), "altered").await;
    let altered_container = altered(&container, "certificates", json!([bought.certificates[0]]));
    refused(&world, &Request::CertificateReceipt(whole(&altered_container)), "altered").await;

    for genuine in [&bought, &together] {
        let told = world.tell(&receipt(genuine)).await;
        assert_eq!(told.kinds(), ["certificate.accepted", "settlement.instructed"]);
        assert_eq!(instructions.event().await.1, told.id, "the genuine notice alone instructs");
    }
    world.finish().await;
}

async fn seed1_claim_14_a_certificates_id_is_kept_and_collated_before_settlement(mut world: World) {
    world.start_workers();
    world.put_song(1).await;
    let bought = world.buy("alice", 1).await;
    let pending = world.row::<pending_reception::Entity>(bought.certificates[0]).await.expect("the id is kept");
    assert_eq!((pending.container, pending.user.as_str()), (false, "alice"));

    let mut claims = certificate_claims(&world, &bought.tokens[0]);
    let stranger = folder::create(&world.folder.path().join("stranger")).expect("a new key");
    refused(&world, &notice(&signed(&stranger, &claims)), "untrusted_key").await;
    claims.jti = Uuid::new_v4();
    refused(&world, &notice(&signed(world.keyring(), &claims)), "unknown_certificate").await;

    let told = world.tell(&receipt(&bought)).await;
    assert_eq!(told.kinds(), ["certificate.accepted", "settlement.instructed"]);
    let Output::SettlementInstructed(instructed) = &told.events[1] else { panic!() };
    assert_eq!(instructed.certificate, Some(bought.certificates[0]));
    world.finish().await;
}

async fn seed1_claim_15_a_containers_id_is_kept_and_collated_before_settlement(mut world: World) {
    world.start_workers();
    world.put_song(1).await;
    let by_container = world.buy("alice", 2).await;
    let by_member = world.buy("bob", 2).await;
    let id = by_container.container.expect("several come in a container");
    let pending = world.row::<pending_reception::Entity>(id).await.expect("the id is kept");
    assert_eq!((pending.container, pending.user.as_str()), (true, "alice"));
    assert_eq!(world.rows::<pending_reception::Entity>().await.len(), 2, "one id stands for all of a container");

    let never_issued = ContainerClaims {
        iss: "licet".into(),
        jti: Uuid::new_v4(),
        sub: name("alice"),
        certificates: by_container.certificates.clone(),
        iat: 1_700_000_000,
        exp: 1_800_000_000,
    };
    let draft = Draft::container(&never_issued).expect("a container");
    let never_issued = draft.sign(world.keyring()).expect("a key").token;
    refused(&world, &Request::CertificateReceipt(whole(&never_issued)), "unknown_certificate").await;
    let mut foreign = certificate_claims(&world, &by_container.tokens[0]);
    foreign.jti = Uuid::new_v4();
    refused(&world, &notice(&signed(world.keyring(), &foreign)), "unknown_certificate").await;

    for (bought, notice) in [(&by_container, receipt(&by_container)), (&by_member, notice(&by_member.tokens[1]))] {
        let told = world.tell(&notice).await;
        let [Output::CertificateAccepted(accepted), Output::SettlementInstructed(instructed)] = &told.events[..] else {
            panic!("{:?}", told.events)
        };
        assert_eq!((accepted.container, accepted.certificates.len()), (bought.container, 2));
        assert_eq!((instructed.container, instructed.amount), (bought.container, bought.amount));
    }
    world.finish().await;
}

async fn seed1_claim_16_a_certificates_id_is_deleted_once_collated(world: World) {
    an_id_is_deleted_once_collated(world, 1).await;
}

async fn seed1_claim_17_a_containers_id_is_deleted_once_collated(world: World) {
    an_id_is_deleted_once_collated(world, 2).await;
}

/// Of a purchase of so many certificates.
async fn an_id_is_deleted_once_collated(mut world: World, count: usize) {
    world.start_workers();
    world.put_song(1).await;
    let (bought, other) = (world.buy("alice", count).await, world.buy("bob", count).await);
    let pending =
        async || world.rows::<pending_reception::Entity>().await.into_iter().map(|row| row.id).collect::<Vec<_>>();
    let ids = [&bought, &other].map(|bought| bought.container.unwrap_or(bought.certificates[0]));
    let mut both = ids.to_vec();
    both.sort_unstable();
    assert_eq!(pending().await, both);
    refused(&world, &notice(&altered(&bought.tokens[0], "sub", json!("mallory"))), "altered").await;
    assert_eq!(pending().await, both, "what is not consistent deletes nothing");

    assert_eq!(verdict(&world.ask(&receipt(&bought)).await), "certificate.accepted");
    assert_eq!(pending().await, [ids[1]], "the other id stays");
    let again = world.tell(&receipt(&bought)).await;
    assert!(
        matches!(again.answer, Output::CertificateAccepted(told) if told.repeated),
        "what was deleted was collated"
    );
    assert!(again.events.is_empty(), "and is charged once: {:?}", again.events);
    world.finish().await;
}

async fn seed1_claim_18_an_id_without_a_notice_in_time_is_deleted(mut world: World) {
    world.start_workers();
    world.put_song(1).await;
    let (silent, acknowledged) = (world.buy("alice", 1).await, world.buy("bob", 1).await);
    world.ask(&receipt(&acknowledged)).await;
    world.machine.clock.advance_ms(DAY_MS / 2);
    let later = world.buy("carol", 1).await;
    world.machine.clock.advance_ms(DAY_MS / 2 + 1);

    let events = sweep(&world, SweepKind::Reception).await;
    assert_eq!(retired(&events), [(silent.certificates[0], Ending::Lapsed)]);
    let left: Vec<_> = world.rows::<pending_reception::Entity>().await.into_iter().map(|row| row.id).collect();
    assert_eq!(left, later.certificates, "what was sent later still waits");
    let ended = world.row::<purchase::Entity>(silent.certificates[0]).await.and_then(|row| row.ended);
    assert_eq!(ended, Some(licet_schema::entity::Ending::Lapsed));
    refused(&world, &receipt(&silent), "lapsed").await;
    world.finish().await;
}

async fn seed1_claim_19_the_terminal_holds_the_certificate_and_attaches_it_to_its_license_request(mut world: World) {
    world.start_workers();
    world.put_song(1).await;
    let (_, mut overheard) = world.listen(&[(IN, "certificate.receipt"), (IN, "license.request")]).await;
    let folder = world.folder.path().join("terminal");
    let terminal = || {
        let store = Store::open(&folder).expect("a folder");
        Terminal::new(world.client.clone(), published(&world), store, Some(name("player")))
    };
    let mut first = terminal();
    let Request::PurchaseRequest(wish) = order("alice", "song", None) else { unreachable!() };
    let bought = first.buy(wish).await.expect("a purchase");
    assert_eq!(bought.settlement, Instruction::Instructed);
    drop(first);

    // Held: a terminal that starts anew has it still.
    let mut second = terminal();
    let held = second.store().certificates().expect("the folder can be read");
    let [held] = &held[..] else { panic!("{held:?}") };
    assert_eq!((held.claims.jti, held.standing), (bought.certificates[0], Standing::Received));
    let heard = overheard.next().await;
    let told = Request::read("certificate.receipt", Format::Json, &heard.body).expect("a notice");
    assert_eq!(told, notice(&held.certificate_token));

    let paid = Bought {
        certificates: bought.certificates.clone(),
        tokens: vec![held.certificate_token.clone()],
        container: None,
        container_token: None,
        amount: bought.amount,
    };
    assert_eq!(verdict(&world.ask(&completion(&paid)).await), "settlement.registered");
    let fetched = second.fetch(held.claims.jti, None).await.expect("a license");
    let heard = overheard.next().await;
    let asked = Request::read("license.request", Format::Json, &heard.body).expect("a request");
    assert_eq!(asked, license_request(&held.certificate_token, "player"));
    assert!(matches!(fetched, Fetched::Here { .. }), "{fetched:?}");
    world.finish().await;
}

const DAY_MS: i64 = 86_400_000;

/// The certificate's row in its database.
async fn row(world: &World, bought: &Bought) -> certificate::Model {
    world.row::<certificate::Entity>(bought.certificates[0]).await.expect("the certificate is in the database")
}

/// What detection says of a certificate.
async fn is_altered(world: &World, token: &str) -> bool {
    match world.ask(&Request::CertificateCheck(alone(token))).await {
        Output::CertificateChecked(checked) => checked.altered,
        other => panic!("a check was answered with {other:?}"),
    }
}

/// The certificates that ended, and how.
fn retired(events: &[Output]) -> Vec<(Uuid, Ending)> {
    let ended = events.iter().filter_map(|event| match event {
        Output::CertificateRetired(told) => Some((told.certificate, told.reason)),
        _ => None,
    });
    ended.collect()
}

/// Has a certificate reissued, with a count or without: by the reissue device itself, `licet reissue`,
/// where it can run, or else by its message.
async fn reissue(world: &World, certificate: Uuid, granted: Option<i64>) -> CertificateReissued {
    let reason = "the terminal was lost";
    let answer = if world.database_url.is_some() {
        let (certificate, granted) = (certificate.to_string(), granted.map(|count| format!("--granted={count}")));
        let mut arguments = vec!["reissue", &certificate, "--json", "--reason", reason];
        arguments.extend(granted.as_deref());
        Output::decode("certificate.reissued", Format::Json, &licet(world, &arguments)).expect("a reissue")
    } else {
        let (reason, granted) = (Text::try_from(reason), granted.map(Count::try_from));
        let (reason, granted) = (reason.expect("a text"), granted.transpose().expect("a count"));
        world.ask(&Request::CertificateReissue(CertificateReissue { certificate, reason, granted })).await
    };
    match answer {
        Output::CertificateReissued(reissued) => reissued,
        other => panic!("a reissue was answered with {other:?}"),
    }
}
