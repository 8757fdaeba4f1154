//! The claims of seed 2, about returned licenses and their privileges: a method (1 to 5), an
//! apparatus (6, 8 to 10), a recording medium (7), a system (11 to 17) and a computer program (18
//! to 20). The five groups repeat the same statements, so their tests share steps. The method
//! returns a license in one step, the apparatus and the system in two. For the computer program,
//! the worker programs run on RabbitMQ and PostgreSQL.

use licet_schema::{
    Count, Output, Request, Text,
    entity::{
        LicenseState, account, certificate, certificate_record, collection, content, entry, license, license_return,
        payout, privilege,
    },
    message::{
        ContentPut, ContentStatus, ContentVersion, Holding, HoldingsQuery, Instruction, LicenseDeletion, LicenseReturn,
        LicenseReturned, PayoutCompletion, Privilege, ReturnPolicy, SettlementCompletion, SweepKind,
    },
    topology::EVENTS,
};
use licet_workers::registry;

use super::{License, certificate_claims, granted, license_claims, licet, order, refused, sweep};
use crate::{
    processes::Process,
    system::{
        Bought, Processed, TestSystem, completion, external_id, name, on_both, outcome, receipt, song, usd, version,
    },
};

on_both!(
    seed2_claim_01_a_return_deletes_the_license_and_associates_its_user_with_the_privilege,
    seed2_claim_02_a_return_is_processed_as_collection_or_purchase_and_recorded_with_its_user,
    seed2_claim_03_the_privilege_is_stored_with_the_record_of_the_return,
    seed2_claim_04_the_privilege_can_be_the_next_version,
    seed2_claim_05_the_privilege_can_be_points_that_pay_for_purchases,
    seed2_claim_06_the_apparatus_finds_attributes_by_user_and_deletes_the_license_when_its_deletion_is_reported,
    seed2_claim_07_presumed_the_installed_programs_manage_licenses_and_privileges,
    seed2_claim_08_presumed_the_apparatus_records_collection_or_purchase_with_the_user,
    seed2_claim_09_the_apparatus_gives_points_that_pay_for_purchases,
    seed2_claim_10_the_apparatus_gives_the_next_version,
    seed2_claim_11_the_system_associates_the_user_of_a_deleted_license_with_the_privilege,
    seed2_claim_12_the_system_records_collection_or_purchase_with_the_user,
    seed2_claim_13_the_system_stores_the_privilege_with_that_record,
    seed2_claim_14_the_system_gives_the_next_version,
    seed2_claim_15_the_system_gives_points_that_pay_for_purchases,
    seed2_claim_16_the_record_is_based_on_the_transaction_of_the_license,
    seed2_claim_17_status_and_privilege_are_sent_to_external_devices,
    seed2_claim_18_the_program_associates_the_user_of_a_deleted_license_with_the_privilege,
    seed2_claim_19_the_program_records_collection_or_purchase_with_the_user,
    seed2_claim_20_the_program_stores_the_privilege_with_that_record,
);

async fn seed2_claim_01_a_return_deletes_the_license_and_associates_its_user_with_the_privilege(system: TestSystem) {
    in_process(system, async |system| the_user_is_associated_with_the_privilege(system, Way::InOneStep).await).await;
}

async fn seed2_claim_02_a_return_is_processed_as_collection_or_purchase_and_recorded_with_its_user(system: TestSystem) {
    in_process(system, async |system| collection_or_purchase_is_recorded(system, Way::InOneStep).await).await;
}

async fn seed2_claim_03_the_privilege_is_stored_with_the_record_of_the_return(system: TestSystem) {
    in_process(system, async |system| each_privilege_is_stored_with_its_record(system, Way::InOneStep).await).await;
}

async fn seed2_claim_04_the_privilege_can_be_the_next_version(system: TestSystem) {
    in_process(system, async |system| drop(the_next_version_is_given(system, Way::InOneStep).await)).await;
}

async fn seed2_claim_05_the_privilege_can_be_points_that_pay_for_purchases(system: TestSystem) {
    in_process(system, async |system| points_are_given_and_pay(system, Way::InOneStep, 1000).await).await;
}

async fn seed2_claim_06_the_apparatus_finds_attributes_by_user_and_deletes_the_license_when_its_deletion_is_reported(
    system: TestSystem,
) {
    in_process(system, a_return_goes_through_the_apparatus).await;
}

async fn seed2_claim_07_presumed_the_installed_programs_manage_licenses_and_privileges(system: TestSystem) {
    if system.database_url.is_some() {
        by_programs(system, a_return_goes_through_the_apparatus).await;
        return;
    }
    let printed = licet(&system, &["demo", "--purchases", "20", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&printed).expect("one JSON object");
    assert_eq!(report["purchases"], 20);
    assert!(report["returned"].as_u64() > Some(0), "licenses were returned: {report}");
    assert!(report["points"].as_u64() > Some(0), "points were given: {report}");
    assert_eq!(report["audit"]["violations"], serde_json::json!([]));
    system.finish().await;
}

async fn seed2_claim_08_presumed_the_apparatus_records_collection_or_purchase_with_the_user(system: TestSystem) {
    in_process(system, async |system| {
        collection_or_purchase_is_recorded(system, Way::InTwoSteps).await;
        let records = system.rows::<collection::Entity>().await;
        for user in ["alice", "bob"] {
            let of_user: Vec<_> = records.iter().filter(|record| record.user == name(user)).collect();
            assert_eq!(of_user.len(), 1, "one record of {user}");
            let bought =
                system.row::<certificate_record::Entity>(of_user[0].certificate).await.expect("purchase information");
            assert_eq!((&bought.user, &bought.content), (&name(user), &of_user[0].content));
        }
    })
    .await;
}

async fn seed2_claim_09_the_apparatus_gives_points_that_pay_for_purchases(system: TestSystem) {
    in_process(system, async |system| {
        points_are_given_and_pay(system, Way::InTwoSteps, 40).await;
        let entries = system.rows::<entry::Entity>().await;
        let of_user = entries.iter().filter(|entry| entry.account == "points:alice").map(|entry| entry.delta);
        assert_eq!(of_user.sum::<i64>(), 0, "earned and spent");
        assert!(
            entries.iter().any(|entry| (entry.account.as_str(), entry.delta) == ("licet:spent", 40)),
            "{entries:?}"
        );
    })
    .await;
}

async fn seed2_claim_10_the_apparatus_gives_the_next_version(system: TestSystem) {
    in_process(system, async |system| {
        let returned = the_next_version_is_given(system, Way::InTwoSteps).await;
        let given = system.row::<privilege::Entity>(returned.license_return).await.expect("the privilege");
        assert_eq!((given.user.as_str(), given.kind), ("alice", Privilege::Upgrade));
        let bought = system.row::<certificate_record::Entity>(given.certificate.expect("a certificate")).await;
        let bought = bought.expect("the next version is in the database");
        assert_eq!((bought.user.as_str(), bought.content.as_str(), bought.version.get()), ("alice", "song", 2));
        assert_eq!(bought.amount_minor, Count::ZERO, "an upgrade is free");
    })
    .await;
}

async fn seed2_claim_11_the_system_associates_the_user_of_a_deleted_license_with_the_privilege(system: TestSystem) {
    in_process(system, async |system| {
        the_user_is_associated_with_the_privilege(system, Way::InTwoSteps).await;
        assert!(holdings(system, "alice").await.is_empty());
        let [kept] = &holdings(system, "bob").await[..] else { panic!("bob has one license") };
        assert_eq!((kept.content.as_str(), kept.attributes.title.as_str()), ("song", "A song"));
        assert_eq!(kept.returnable, [Privilege::Points, Privilege::Buyback, Privilege::Collection]);
    })
    .await;
}

async fn seed2_claim_12_the_system_records_collection_or_purchase_with_the_user(system: TestSystem) {
    in_process(system, async |system| collection_or_purchase_is_recorded(system, Way::InTwoSteps).await).await;
}

async fn seed2_claim_13_the_system_stores_the_privilege_with_that_record(system: TestSystem) {
    in_process(system, async |system| each_privilege_is_stored_with_its_record(system, Way::InTwoSteps).await).await;
}

async fn seed2_claim_14_the_system_gives_the_next_version(system: TestSystem) {
    in_process(system, async |system| {
        let returned = the_next_version_is_given(system, Way::InTwoSteps).await;
        let [holding] = &holdings(system, "alice").await[..] else { panic!("alice has one license") };
        assert_ne!(holding.license, returned.license, "the old license was deleted");
        assert_eq!((holding.content.as_str(), holding.version.get()), ("song", 2));
        assert_eq!(holding.attributes.title.as_str(), "A song, second edition");
    })
    .await;
}

async fn seed2_claim_15_the_system_gives_points_that_pay_for_purchases(system: TestSystem) {
    in_process(system, async |system| {
        let (_, mut changes) = system.listen(&[(EVENTS, "points.changed")]).await;
        points_are_given_and_pay(system, Way::InTwoSteps, 1000).await;
        for expected in [(40, 40), (-40, 0)] {
            let (Output::PointsChanged(changed), _) = changes.event().await else { panic!("points did not change") };
            assert_eq!(changed.user, name("alice"));
            assert_eq!((changed.delta, changed.balance.get()), expected);
        }
    })
    .await;
}

async fn seed2_claim_16_the_record_is_based_on_the_transaction_of_the_license(system: TestSystem) {
    in_process(system, async |system| {
        // The first certificate ends with its only license, and the second stays live.
        for (user, grants) in [("alice", 1), ("bob", 2)] {
            put_returnable_song(system, grants).await;
            let owned = UserLicense::of(system, user).await;
            let live = system.row::<certificate::Entity>(owned.bought.certificates[0]).await;
            assert_eq!(live.is_some(), grants > 1);
            let (bought, license) = (record_row(system, &owned).await, license_row(system, &owned).await);
            system.resources.clock.advance_ms(60_000);

            let returned = completed(give_back(system, &owned, Privilege::Collection, Way::InTwoSteps).await);
            let record = record_of(system, &returned).await;
            assert_eq!(record.certificate, bought.id);
            let settlement = external_id(&format!("pay-{}", bought.id));
            assert_eq!((record.settlement, record.provider), (settlement, name("bank")));
            assert_eq!((record.amount_minor.get(), record.currency.as_str()), (1000, "USD"));
            assert_eq!((record.purchased_at, Some(record.granted_at)), (bought.purchased_at, license.granted_at));
            assert_eq!(record.returned_at, system.resources.clock.now());
        }
    })
    .await;
}

async fn seed2_claim_17_status_and_privilege_are_sent_to_external_devices(system: TestSystem) {
    in_process(system, async |system| {
        put_returnable_song(system, 1).await;
        let (upgraded, kept) = (UserLicense::of(system, "alice").await, UserLicense::of(system, "bob").await);
        put_next_version(system).await;
        let kinds = ["return.*", "license.returned", "content.deleted"];
        let (_, mut device) = system.listen(&kinds.map(|kind| (EVENTS, kind))).await;

        give_back(system, &upgraded, Privilege::Upgrade, Way::InTwoSteps).await;
        let (Output::ReturnOpened(opened), _) = device.event().await else { panic!("no return was opened") };
        assert_eq!((opened.content_status, opened.privilege), (ContentStatus::Returning, Privilege::Upgrade));
        let (Output::LicenseReturned(returned), _) = device.event().await else { panic!("no license was returned") };
        assert_eq!((returned.content_status, &returned.user), (ContentStatus::Deleted, &name("alice")));
        let given = &returned.privilege;
        assert_eq!((given.kind, given.certificate.is_some()), (Privilege::Upgrade, true));
        assert_eq!(given.certificate_token, None, "the event has no token");
        let (Output::ContentDeleted(deleted), _) = device.event().await else { panic!("no content was deleted") };
        assert_eq!((deleted.license, &deleted.user), (upgraded.license.id, &name("alice")));

        assert_eq!(outcome(&system.ask(&kept.returned_for(Privilege::Points, false)).await), "return.opened");
        let (Output::ReturnOpened(opened), _) = device.event().await else { panic!("no return was opened") };
        assert_eq!((opened.content_status, opened.privilege), (ContentStatus::Returning, Privilege::Points));
        system.resources.clock.advance_ms(86_400_001);
        sweep(system, SweepKind::Return).await;
        let (Output::ReturnLapsed(lapsed), _) = device.event().await else { panic!("no return lapsed") };
        assert_eq!((lapsed.license, lapsed.content_status), (kept.license.id, ContentStatus::Live));
    })
    .await;
}

async fn seed2_claim_18_the_program_associates_the_user_of_a_deleted_license_with_the_privilege(system: TestSystem) {
    by_programs(system, async |system| the_user_is_associated_with_the_privilege(system, Way::InOneStep).await).await;
}

async fn seed2_claim_19_the_program_records_collection_or_purchase_with_the_user(system: TestSystem) {
    by_programs(system, async |system| collection_or_purchase_is_recorded(system, Way::InOneStep).await).await;
}

async fn seed2_claim_20_the_program_stores_the_privilege_with_that_record(system: TestSystem) {
    by_programs(system, async |system| each_privilege_is_stored_with_its_record(system, Way::InOneStep).await).await;
}

/// Claims 1, 11 and 18.
async fn the_user_is_associated_with_the_privilege(system: &TestSystem, way: Way) {
    put_returnable_song(system, 1).await;
    let (returned, kept) = (UserLicense::of(system, "alice").await, UserLicense::of(system, "bob").await);
    for owned in [&returned, &kept] {
        let license = license_row(system, owned).await;
        assert_eq!((license.user.as_str(), license.content.as_str(), license.version.get()), (owned.user, "song", 1));
    }
    let contents = system.rows::<content::Entity>().await;
    assert_eq!(contents.iter().map(|row| row.title.as_str()).collect::<Vec<_>>(), ["A song"]);

    let reply = completed(give_back(system, &returned, Privilege::Points, way).await);
    let left: Vec<_> = system.rows::<license::Entity>().await.into_iter().map(|row| row.id).collect();
    assert_eq!(left, [kept.license.id], "only the returned license is deleted");
    assert_eq!((reply.license, &reply.user), (returned.license.id, &name("alice")));
    let record = record_of(system, &reply).await;
    assert_eq!((record.user.as_str(), record.license), ("alice", returned.license.id));
    assert_eq!((record.content.as_str(), record.version.get()), ("song", 1));
    let given = system.row::<privilege::Entity>(reply.license_return).await.expect("the privilege");
    assert_eq!((given.user.as_str(), given.kind, given.points.map(Count::get)), ("alice", Privilege::Points, Some(40)));
}

/// Claims 2, 8, 12 and 19.
async fn collection_or_purchase_is_recorded(system: &TestSystem, way: Way) {
    put_returnable_song(system, 1).await;
    let (collected, bought_back) = (UserLicense::of(system, "alice").await, UserLicense::of(system, "bob").await);
    let processed = give_back(system, &collected, Privilege::Collection, way).await;
    assert!(!processed.kinds().contains(&"payout.instructed"), "no money is paid for a collection");
    let record = record_of(system, &completed(processed)).await;
    assert_eq!((record.kind, record.user.as_str()), (Privilege::Collection, "alice"));
    assert_eq!(record.license, collected.license.id);

    let processed = give_back(system, &bought_back, Privilege::Buyback, way).await;
    let instructed = processed.events.iter().find_map(|event| match event {
        Output::PayoutInstructed(instructed) => Some(instructed.clone()),
        _ => None,
    });
    let instructed = instructed.expect("the payout for the purchase of a license is instructed");
    assert_eq!((&instructed.user, instructed.amount), (&name("bob"), usd(300)));
    let returned = completed(processed);
    let record = record_of(system, &returned).await;
    assert_eq!((record.kind, record.user.as_str()), (Privilege::Buyback, "bob"));
    assert_eq!(record.license, bought_back.license.id);

    let paid = Request::PayoutCompletion(PayoutCompletion {
        license_return: instructed.license_return,
        payout: external_id("out-1"),
        provider: name("bank"),
        amount: instructed.amount,
    });
    assert_eq!(outcome(&system.ask(&paid).await), "payout.registered");
    let payouts = system.rows::<payout::Entity>().await;
    assert_eq!(payouts.iter().map(|row| row.license_return).collect::<Vec<_>>(), [record.id]);
}

/// Claims 3, 13 and 20.
async fn each_privilege_is_stored_with_its_record(system: &TestSystem, way: Way) {
    put_returnable_song(system, 1).await;
    let privileges = [Privilege::Points, Privilege::Upgrade, Privilege::Buyback, Privilege::Collection];
    let mut owned = Vec::new();
    for user in ["alice", "bob", "carol", "dave"] {
        owned.push(UserLicense::of(system, user).await);
    }
    put_next_version(system).await;
    for (owned, privilege) in owned.iter().zip(privileges) {
        let returned = completed(give_back(system, owned, privilege, way).await);
        let record = record_of(system, &returned).await;
        let given = system.row::<privilege::Entity>(record.id).await.expect("a privilege with the id of the record");
        assert_eq!((given.kind, given.user.as_str()), (record.kind, owned.user));
        let amount = given.amount_minor.zip(given.currency);
        let amount = amount.map(|(amount, currency)| (amount.get(), currency.to_string()));
        let value = (given.points.map(Count::get), given.certificate, amount);
        let expected = match privilege {
            Privilege::Points => (Some(40), None, None),
            Privilege::Upgrade => (None, returned.privilege.certificate, None),
            Privilege::Buyback => (None, None, Some((300, "USD".into()))),
            Privilege::Collection => (None, None, None),
        };
        assert_eq!(value, expected);
        assert_eq!(value.1.is_some(), privilege == Privilege::Upgrade);
    }
    assert_eq!(system.rows::<privilege::Entity>().await.len(), privileges.len());
}

/// Claims 4, 10 and 14.
async fn the_next_version_is_given(system: &TestSystem, way: Way) -> LicenseReturned {
    put_returnable_song(system, 1).await;
    let owned = UserLicense::of(system, "alice").await;
    put_next_version(system).await;
    let returned = completed(give_back(system, &owned, Privilege::Upgrade, way).await);
    let token = returned.privilege.certificate_token.as_deref().expect("a reply has its token");
    let certificate = certificate_claims(system, token);
    assert_eq!(Some(certificate.jti), returned.privilege.certificate);
    assert_eq!((&certificate.sub, certificate.version.get()), (&name("alice"), 2));

    let license = license_claims(system, &granted(system, token, "player").await.token);
    assert_eq!((license.sub, license.content, license.version.get()), (name("alice"), name("song"), 2));
    returned
}

/// Claims 5, 9 and 15: points pay for a content item with this price, in full or in part.
async fn points_are_given_and_pay(system: &TestSystem, way: Way, price_minor: i64) {
    put_returnable_song(system, 1).await;
    let film = ContentPut { content: name("film"), price: usd(price_minor), ..song(1) };
    system.ask(&Request::ContentPut(film)).await;
    let owned = UserLicense::of(system, "alice").await;
    let returned = completed(give_back(system, &owned, Privilege::Points, way).await);
    assert_eq!(returned.privilege.points.map(Count::get), Some(40));
    assert_eq!(points_of_alice(system).await, 40);

    let Output::CertificateIssued(issued) = system.ask(&order("alice", "film", Some(40))).await else { panic!() };
    assert_eq!((issued.amount, issued.points_held.get()), (usd(price_minor), 40));
    assert_eq!(points_of_alice(system).await, 0);
    refused(system, &order("alice", "film", Some(1)), "insufficient_points").await;
    let bought = Bought::of(Output::CertificateIssued(issued));
    let Output::CertificateAccepted(accepted) = system.ask(&receipt(&bought)).await else { panic!() };
    assert_eq!(accepted.amount, usd(price_minor - 40), "the points reduce the charged amount");
    if accepted.settlement == Instruction::Instructed {
        let Request::SettlementCompletion(paid) = completion(&bought) else { unreachable!() };
        let paid = Request::SettlementCompletion(SettlementCompletion { amount: accepted.amount, ..paid });
        assert_eq!(outcome(&system.ask(&paid).await), "settlement.registered");
    }
    let license = license_claims(system, &granted(system, &bought.tokens[0], "player").await.token);
    assert_eq!((license.sub, license.content), (name("alice"), name("film")));
}

/// Claims 6 and 7.
async fn a_return_goes_through_the_apparatus(system: &TestSystem) {
    put_returnable_song(system, 1).await;
    let owned = UserLicense::of(system, "alice").await;
    let (bought, license) = (record_row(system, &owned).await, license_row(system, &owned).await);
    let other_user = UserLicense { user: "mallory", ..owned.clone() };
    refused(system, &other_user.returned_for(Privilege::Points, false), "not_holder").await;

    let reply = system.ask(&owned.returned_for(Privilege::Points, false)).await;
    let Output::ReturnOpened(opened) = reply else { panic!("{reply:?}") };
    assert_eq!((opened.license, opened.content.as_str(), opened.version.get()), (owned.license.id, "song", 1));
    let attributes = &opened.attributes;
    assert_eq!((attributes.title.as_str(), attributes.amount), ("A song", usd(bought.amount_minor.get())));
    assert_eq!((attributes.purchased_at, attributes.granted_at), (bought.purchased_at, license.granted_at));
    assert_eq!(license_row(system, &owned).await.state, LicenseState::Returning, "nothing is deleted yet");
    assert!(system.rows::<privilege::Entity>().await.is_empty(), "no privilege is given yet");

    let license_return = opened.license_return;
    let processed = system.process(&Request::LicenseDeletion(LicenseDeletion { license_return })).await;
    assert_eq!(system.row::<license::Entity>(owned.license.id).await, None);
    let deleted = processed.events.iter().find_map(|event| match event {
        Output::ContentDeleted(deleted) => Some(deleted),
        _ => None,
    });
    let deleted = deleted.expect("an event about the deleted content");
    assert_eq!((deleted.license, &deleted.user, &deleted.content), (owned.license.id, &name("alice"), &name("song")));
    let returned = system.row::<license_return::Entity>(license_return).await.expect("the return");
    let given = system.row::<privilege::Entity>(license_return).await.expect("the privilege");
    assert_eq!((returned.user.as_str(), given.user.as_str()), ("alice", "alice"));
    assert_eq!(given.points.map(Count::get), Some(40));
}

/// How a license is returned.
#[derive(Clone, Copy)]
enum Way {
    /// The terminal deletes its copy before it sends `license.return`.
    InOneStep,
    /// The terminal sends `license.return`, deletes its copy, and sends `license.deletion`.
    InTwoSteps,
}

/// A user's license, with its purchase.
#[derive(Clone)]
struct UserLicense {
    user: &'static str,
    bought: Bought,
    license: License,
}

impl UserLicense {
    /// The user buys a song and gets a license.
    async fn of(system: &TestSystem, user: &'static str) -> Self {
        let bought = system.ready(user, 1).await;
        let license = granted(system, &bought.tokens[0], "player").await;
        Self { user, bought, license }
    }

    fn returned_for(&self, privilege: Privilege, deleted: bool) -> Request {
        let license_token = self.license.token.clone();
        Request::LicenseReturn(LicenseReturn { license_token, user: name(self.user), privilege, deleted })
    }
}

/// Gives a license back. Returns the reply and the events of the request that completed the return.
async fn give_back(system: &TestSystem, owned: &UserLicense, privilege: Privilege, way: Way) -> Processed {
    match way {
        Way::InOneStep => system.process(&owned.returned_for(privilege, true)).await,
        Way::InTwoSteps => {
            let reply = system.ask(&owned.returned_for(privilege, false)).await;
            let Output::ReturnOpened(opened) = reply else { panic!("the reply to a return is {reply:?}") };
            let deletion = LicenseDeletion { license_return: opened.license_return };
            system.process(&Request::LicenseDeletion(deletion)).await
        }
    }
}

fn completed(processed: Processed) -> LicenseReturned {
    match processed.reply {
        Output::LicenseReturned(returned) => returned,
        other => panic!("the reply to a return is {other:?}"),
    }
}

/// Registers version 1 of a song with all four privileges. The upgrade is offered once version 2 is
/// registered.
async fn put_returnable_song(system: &TestSystem, grants: i64) {
    let policy =
        ReturnPolicy { upgrade: Some(true), buyback: Some(usd(300)), collection: Some(true), ..song(1).return_policy };
    let successor = ContentVersion { content: name("song"), version: version(2) };
    let song = ContentPut { successor: Some(successor), return_policy: policy, ..song(grants) };
    assert_eq!(outcome(&system.ask(&Request::ContentPut(song)).await), "content.registered");
}

async fn put_next_version(system: &TestSystem) {
    let title = Text::try_from("A song, second edition").expect("a text");
    let song = ContentPut { version: version(2), title, ..song(1) };
    assert_eq!(outcome(&system.ask(&Request::ContentPut(song)).await), "content.registered");
}

async fn license_row(system: &TestSystem, owned: &UserLicense) -> license::Model {
    system.row::<license::Entity>(owned.license.id).await.expect("the license is in the database")
}

async fn record_row(system: &TestSystem, owned: &UserLicense) -> certificate_record::Model {
    system
        .row::<certificate_record::Entity>(owned.bought.certificates[0])
        .await
        .expect("the purchase is in the database")
}

/// The record of a return, which is a collection or a purchase of the license.
async fn record_of(system: &TestSystem, returned: &LicenseReturned) -> collection::Model {
    system.row::<collection::Entity>(returned.license_return).await.expect("the return is recorded")
}

async fn points_of_alice(system: &TestSystem) -> i64 {
    let accounts = system.rows::<account::Entity>().await;
    accounts.iter().filter(|row| row.name == "points:alice").map(|row| row.balance).sum()
}

async fn holdings(system: &TestSystem, user: &str) -> Vec<Holding> {
    let query = Request::HoldingsQuery(HoldingsQuery { user: name(user), after: None, limit: None });
    match system.ask(&query).await {
        Output::HoldingsListed(listed) => listed.licenses,
        other => panic!("the reply to a query is {other:?}"),
    }
}

/// Runs the steps on workers in this process.
async fn in_process(mut system: TestSystem, steps: impl AsyncFnOnce(&TestSystem)) {
    system.start_workers();
    steps(&system).await;
    system.finish().await;
}

/// Runs the steps on the worker programs, with one process for each worker. On the embedded
/// services, it runs them on workers in this process, as `licet serve` does.
async fn by_programs(mut system: TestSystem, steps: impl AsyncFnOnce(&TestSystem)) {
    let mut programs = Vec::new();
    if system.database_url.is_some() {
        programs.extend(registry::names().map(|name| Process::start(&system, &format!("licet-{name}"))));
    } else {
        system.start_workers();
    }
    steps(&system).await;
    for program in programs {
        assert_eq!(program.terminate(), Some(0), "a program ends cleanly");
    }
    system.finish().await;
}
