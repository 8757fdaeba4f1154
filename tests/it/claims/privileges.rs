//! The claims of the second seed, about licenses that are given back and what they bring: a method
//! (1 to 5), an apparatus (6, 8 to 10), a recording medium (7), a system (11 to 17) and a computer
//! program (18 to 20). The five say the same of different things, so their tests share steps: a
//! method returns at once, an apparatus and a system wait to be told of the deletion, and programs
//! run as programs where there are services for them.

use licet_schema::{
    Count, ExternalId, Output, Request, Text, Timestamp, Version,
    entity::{
        LicenseState, PrivilegeKind, account, certificate, collection, content, entry, license, license_return, payout,
        privilege, purchase,
    },
    message::{
        ContentPut, ContentStatus, ContentVersion, Holding, HoldingsQuery, Instruction, LicenseDeletion, LicenseReturn,
        LicenseReturned, PayoutCompletion, Privilege, ReturnPolicy, SettlementCompletion, SweepKind,
    },
    topology::{EVENTS, WORKERS},
};

use super::{License, certificate_claims, granted, license_claims, licet, order, refused, sweep};
use crate::{
    processes::Process,
    world::{Bought, Told, World, completion, name, on_both, receipt, song, usd, verdict},
};

on_both!(
    seed2_claim_01_a_return_deletes_the_license_and_associates_its_user_with_the_privilege,
    seed2_claim_02_a_return_is_processed_as_collection_or_purchase_and_recorded_with_its_user,
    seed2_claim_03_the_privilege_is_stored_with_the_record_of_the_return,
    seed2_claim_04_the_privilege_can_be_the_next_version,
    seed2_claim_05_the_privilege_can_be_points_that_pay_for_purchases,
    seed2_claim_06_the_apparatus_finds_attributes_by_user_and_deletes_when_the_deletion_is_told,
    seed2_claim_07_presumed_the_installed_programs_manage_licenses_and_privileges,
    seed2_claim_08_presumed_the_apparatus_keeps_collection_or_purchase_with_the_user,
    seed2_claim_09_the_apparatus_gives_points_that_pay_for_purchases,
    seed2_claim_10_the_apparatus_gives_the_next_version,
    seed2_claim_11_the_system_associates_the_user_of_a_deleted_license_with_the_privilege,
    seed2_claim_12_the_system_records_collection_or_purchase_with_the_user,
    seed2_claim_13_the_system_stores_the_privilege_with_that_record,
    seed2_claim_14_the_system_gives_the_next_version,
    seed2_claim_15_the_system_gives_points_that_pay_for_purchases,
    seed2_claim_16_the_record_rests_on_the_transaction_of_the_license,
    seed2_claim_17_status_and_privilege_are_sent_to_external_devices,
    seed2_claim_18_the_program_associates_the_user_of_a_deleted_license_with_the_privilege,
    seed2_claim_19_the_program_records_collection_or_purchase_with_the_user,
    seed2_claim_20_the_program_stores_the_privilege_with_that_record,
);

async fn seed2_claim_01_a_return_deletes_the_license_and_associates_its_user_with_the_privilege(world: World) {
    in_process(world, async |world| the_user_is_associated_with_the_privilege(world, Way::AtOnce).await).await;
}

async fn seed2_claim_02_a_return_is_processed_as_collection_or_purchase_and_recorded_with_its_user(world: World) {
    in_process(world, async |world| collection_or_purchase_is_recorded(world, Way::AtOnce).await).await;
}

async fn seed2_claim_03_the_privilege_is_stored_with_the_record_of_the_return(world: World) {
    in_process(world, async |world| each_privilege_is_stored_with_its_record(world, Way::AtOnce).await).await;
}

async fn seed2_claim_04_the_privilege_can_be_the_next_version(world: World) {
    in_process(world, async |world| drop(the_next_version_is_given(world, Way::AtOnce).await)).await;
}

async fn seed2_claim_05_the_privilege_can_be_points_that_pay_for_purchases(world: World) {
    in_process(world, async |world| points_are_given_and_pay(world, Way::AtOnce, 1000).await).await;
}

async fn seed2_claim_06_the_apparatus_finds_attributes_by_user_and_deletes_when_the_deletion_is_told(world: World) {
    in_process(world, a_return_goes_through_the_apparatus).await;
}

async fn seed2_claim_07_presumed_the_installed_programs_manage_licenses_and_privileges(world: World) {
    if world.database_url.is_some() {
        by_programs(world, a_return_goes_through_the_apparatus).await;
        return;
    }
    let printed = licet(&world, &["demo", "--purchases", "20", "--json"]);
    let told: serde_json::Value = serde_json::from_slice(&printed).expect("one JSON object");
    assert_eq!(told["purchases"], 20);
    assert!(told["returned"].as_u64() > Some(0), "licenses were given back: {told}");
    assert!(told["points"].as_u64() > Some(0), "and brought points: {told}");
    assert_eq!(told["audit"]["violations"], serde_json::json!([]));
    world.finish().await;
}

async fn seed2_claim_08_presumed_the_apparatus_keeps_collection_or_purchase_with_the_user(world: World) {
    in_process(world, async |world| {
        collection_or_purchase_is_recorded(world, Way::InTwoSteps).await;
        let records = world.rows::<collection::Entity>().await;
        for user in ["alice", "bob"] {
            let of_user: Vec<_> = records.iter().filter(|record| record.user == user).collect();
            assert_eq!(of_user.len(), 1, "one record of {user}'s");
            let bought = world.row::<purchase::Entity>(of_user[0].certificate).await.expect("purchase information");
            assert_eq!((bought.user.as_str(), &bought.content), (user, &of_user[0].content));
        }
    })
    .await;
}

async fn seed2_claim_09_the_apparatus_gives_points_that_pay_for_purchases(world: World) {
    in_process(world, async |world| {
        points_are_given_and_pay(world, Way::InTwoSteps, 40).await;
        let booked = world.rows::<entry::Entity>().await;
        let of_user = booked.iter().filter(|entry| entry.account == "points:alice").map(|entry| entry.delta);
        assert_eq!(of_user.sum::<i64>(), 0, "earned and spent");
        assert!(booked.iter().any(|entry| (entry.account.as_str(), entry.delta) == ("licet:spent", 40)), "{booked:?}");
    })
    .await;
}

async fn seed2_claim_10_the_apparatus_gives_the_next_version(world: World) {
    in_process(world, async |world| {
        let returned = the_next_version_is_given(world, Way::InTwoSteps).await;
        let given = world.row::<privilege::Entity>(returned.license_return).await.expect("the privilege");
        assert_eq!((given.user.as_str(), given.kind), ("alice", PrivilegeKind::Upgrade));
        let bought = world.row::<purchase::Entity>(given.certificate.expect("a certificate")).await;
        let bought = bought.expect("the next version is in the contents management database");
        assert_eq!((bought.user.as_str(), bought.content.as_str(), bought.version), ("alice", "song", 2));
        assert_eq!(bought.amount_minor, 0, "nothing is paid for it");
    })
    .await;
}

async fn seed2_claim_11_the_system_associates_the_user_of_a_deleted_license_with_the_privilege(world: World) {
    in_process(world, async |world| {
        the_user_is_associated_with_the_privilege(world, Way::InTwoSteps).await;
        assert!(holdings(world, "alice").await.is_empty());
        let [kept] = &holdings(world, "bob").await[..] else { panic!("bob holds one license") };
        assert_eq!((kept.content.as_str(), kept.attributes.title.as_str()), ("song", "A song"));
        assert_eq!(kept.returnable, [Privilege::Points, Privilege::Buyback, Privilege::Collection]);
    })
    .await;
}

async fn seed2_claim_12_the_system_records_collection_or_purchase_with_the_user(world: World) {
    in_process(world, async |world| collection_or_purchase_is_recorded(world, Way::InTwoSteps).await).await;
}

async fn seed2_claim_13_the_system_stores_the_privilege_with_that_record(world: World) {
    in_process(world, async |world| each_privilege_is_stored_with_its_record(world, Way::InTwoSteps).await).await;
}

async fn seed2_claim_14_the_system_gives_the_next_version(world: World) {
    in_process(world, async |world| {
        let returned = the_next_version_is_given(world, Way::InTwoSteps).await;
        let [held] = &holdings(world, "alice").await[..] else { panic!("alice holds one license") };
        assert_ne!(held.license, returned.license, "the old one is gone");
        assert_eq!((held.content.as_str(), held.version.get()), ("song", 2));
        assert_eq!(held.attributes.title.as_str(), "A song, once more");
    })
    .await;
}

async fn seed2_claim_15_the_system_gives_points_that_pay_for_purchases(world: World) {
    in_process(world, async |world| {
        let (_, mut changes) = world.listen(&[(EVENTS, "points.changed")]).await;
        points_are_given_and_pay(world, Way::InTwoSteps, 1000).await;
        for expected in [(40, 40), (-40, 0)] {
            let (Output::PointsChanged(told), _) = changes.event().await else { panic!("no change of points") };
            assert_eq!(told.user, name("alice"));
            assert_eq!((told.delta, told.balance.get()), expected);
        }
    })
    .await;
}

async fn seed2_claim_16_the_record_rests_on_the_transaction_of_the_license(world: World) {
    in_process(world, async |world| {
        // The first certificate ends with its only license, the second lives on.
        for (user, grants) in [("alice", 1), ("bob", 2)] {
            put_returnable_song(world, grants).await;
            let held = Held::of(world, user).await;
            let live = world.row::<certificate::Entity>(held.bought.certificates[0]).await;
            assert_eq!(live.is_some(), grants > 1);
            let (bought, license) = (purchase_row(world, &held).await, license_row(world, &held).await);
            world.machine.clock.advance_ms(60_000);

            let returned = completed(give_back(world, &held, Privilege::Collection, Way::InTwoSteps).await);
            let record = record_of(world, &returned).await;
            assert_eq!(record.certificate, bought.id);
            assert_eq!(
                (record.settlement.as_str(), record.provider.as_str()),
                (&*format!("pay-{}", bought.id), "bank")
            );
            assert_eq!((record.amount_minor, record.currency.as_str()), (1000, "USD"));
            assert_eq!((record.purchased_at, Some(record.granted_at)), (bought.purchased_at, license.granted_at));
            assert_eq!(record.returned_at, world.machine.clock.now().as_millis());
        }
    })
    .await;
}

async fn seed2_claim_17_status_and_privilege_are_sent_to_external_devices(world: World) {
    in_process(world, async |world| {
        put_returnable_song(world, 1).await;
        let (upgraded, kept) = (Held::of(world, "alice").await, Held::of(world, "bob").await);
        put_next_version(world).await;
        let kinds = ["return.*", "license.returned", "content.deleted"];
        let (_, mut device) = world.listen(&kinds.map(|kind| (EVENTS, kind))).await;

        give_back(world, &upgraded, Privilege::Upgrade, Way::InTwoSteps).await;
        let (Output::ReturnOpened(opened), _) = device.event().await else { panic!("no return was opened") };
        assert_eq!((opened.content_status, opened.privilege), (ContentStatus::Returning, Privilege::Upgrade));
        let (Output::LicenseReturned(returned), _) = device.event().await else { panic!("no license was returned") };
        assert_eq!((returned.content_status, &returned.user), (ContentStatus::Deleted, &name("alice")));
        let given = &returned.privilege;
        assert_eq!((given.kind, given.certificate.is_some()), (Privilege::Upgrade, true));
        assert_eq!(given.certificate_token, None, "what it is, and not the thing itself");
        let (Output::ContentDeleted(deleted), _) = device.event().await else { panic!("no content was deleted") };
        assert_eq!((deleted.license, &deleted.user), (upgraded.license.id, &name("alice")));

        assert_eq!(verdict(&world.ask(&kept.returned_for(Privilege::Points, false)).await), "return.opened");
        let (Output::ReturnOpened(opened), _) = device.event().await else { panic!("no return was opened") };
        assert_eq!((opened.content_status, opened.privilege), (ContentStatus::Returning, Privilege::Points));
        world.machine.clock.advance_ms(86_400_001);
        sweep(world, SweepKind::Return).await;
        let (Output::ReturnLapsed(lapsed), _) = device.event().await else { panic!("no return lapsed") };
        assert_eq!((lapsed.license, lapsed.content_status), (kept.license.id, ContentStatus::Live));
    })
    .await;
}

async fn seed2_claim_18_the_program_associates_the_user_of_a_deleted_license_with_the_privilege(world: World) {
    by_programs(world, async |world| the_user_is_associated_with_the_privilege(world, Way::AtOnce).await).await;
}

async fn seed2_claim_19_the_program_records_collection_or_purchase_with_the_user(world: World) {
    by_programs(world, async |world| collection_or_purchase_is_recorded(world, Way::AtOnce).await).await;
}

async fn seed2_claim_20_the_program_stores_the_privilege_with_that_record(world: World) {
    by_programs(world, async |world| each_privilege_is_stored_with_its_record(world, Way::AtOnce).await).await;
}

/// Claims 1, 11 and 18.
async fn the_user_is_associated_with_the_privilege(world: &World, way: Way) {
    put_returnable_song(world, 1).await;
    let (returned, kept) = (Held::of(world, "alice").await, Held::of(world, "bob").await);
    for held in [&returned, &kept] {
        let license = license_row(world, held).await;
        assert_eq!((license.user.as_str(), license.content.as_str(), license.version), (held.user, "song", 1));
    }
    let contents = world.rows::<content::Entity>().await;
    assert_eq!(contents.iter().map(|row| row.title.as_str()).collect::<Vec<_>>(), ["A song"]);

    let told = completed(give_back(world, &returned, Privilege::Points, way).await);
    let left: Vec<_> = world.rows::<license::Entity>().await.into_iter().map(|row| row.id).collect();
    assert_eq!(left, [kept.license.id], "the returned license alone is deleted");
    assert_eq!((told.license, &told.user), (returned.license.id, &name("alice")));
    let record = record_of(world, &told).await;
    assert_eq!((record.user.as_str(), record.license), ("alice", returned.license.id));
    assert_eq!((record.content.as_str(), record.version), ("song", 1));
    let given = world.row::<privilege::Entity>(told.license_return).await.expect("the privilege");
    assert_eq!((given.user.as_str(), given.kind, given.points), ("alice", PrivilegeKind::Points, Some(40)));
}

/// Claims 2, 8, 12 and 19.
async fn collection_or_purchase_is_recorded(world: &World, way: Way) {
    put_returnable_song(world, 1).await;
    let (collected, bought_back) = (Held::of(world, "alice").await, Held::of(world, "bob").await);
    let told = give_back(world, &collected, Privilege::Collection, way).await;
    assert!(!told.kinds().contains(&"payout.instructed"), "a collection brings no money");
    let record = record_of(world, &completed(told)).await;
    assert_eq!((record.kind, record.user.as_str()), (PrivilegeKind::Collection, "alice"));
    assert_eq!(record.license, collected.license.id);

    let told = give_back(world, &bought_back, Privilege::Buyback, way).await;
    let instructed = told.events.iter().find_map(|event| match event {
        Output::PayoutInstructed(instructed) => Some(instructed.clone()),
        _ => None,
    });
    let instructed = instructed.expect("the purchase of a license is to be paid for");
    assert_eq!((&instructed.user, instructed.amount), (&name("bob"), usd(300)));
    let returned = completed(told);
    let record = record_of(world, &returned).await;
    assert_eq!((record.kind, record.user.as_str()), (PrivilegeKind::Buyback, "bob"));
    assert_eq!(record.license, bought_back.license.id);

    let paid = Request::PayoutCompletion(PayoutCompletion {
        license_return: instructed.license_return,
        payout: ExternalId::try_from("out-1").expect("an id"),
        provider: name("bank"),
        amount: instructed.amount,
    });
    assert_eq!(verdict(&world.ask(&paid).await), "payout.registered");
    let payouts = world.rows::<payout::Entity>().await;
    assert_eq!(payouts.iter().map(|row| row.license_return).collect::<Vec<_>>(), [record.id]);
}

/// Claims 3, 13 and 20.
async fn each_privilege_is_stored_with_its_record(world: &World, way: Way) {
    put_returnable_song(world, 1).await;
    let wishes = [Privilege::Points, Privilege::Upgrade, Privilege::Buyback, Privilege::Collection];
    let mut held = Vec::new();
    for user in ["alice", "bob", "carol", "dave"] {
        held.push(Held::of(world, user).await);
    }
    put_next_version(world).await;
    for (held, wish) in held.iter().zip(wishes) {
        let returned = completed(give_back(world, held, wish, way).await);
        let record = record_of(world, &returned).await;
        let given = world.row::<privilege::Entity>(record.id).await.expect("a privilege under the record's id");
        assert_eq!((given.kind, given.user.as_str()), (record.kind, held.user));
        let value = (given.points, given.certificate, given.amount_minor.zip(given.currency));
        let expected = match wish {
            Privilege::Points => (Some(40), None, None),
            Privilege::Upgrade => (None, returned.privilege.certificate, None),
            Privilege::Buyback => (None, None, Some((300, "USD".into()))),
            Privilege::Collection => (None, None, None),
        };
        assert_eq!(value, expected);
        assert_eq!(value.1.is_some(), wish == Privilege::Upgrade);
    }
    assert_eq!(world.rows::<privilege::Entity>().await.len(), wishes.len());
}

/// Claims 4, 10 and 14.
async fn the_next_version_is_given(world: &World, way: Way) -> LicenseReturned {
    put_returnable_song(world, 1).await;
    let held = Held::of(world, "alice").await;
    put_next_version(world).await;
    let returned = completed(give_back(world, &held, Privilege::Upgrade, way).await);
    let token = returned.privilege.certificate_token.as_deref().expect("a reply has its token");
    let certificate = certificate_claims(world, token);
    assert_eq!(Some(certificate.jti), returned.privilege.certificate);
    assert_eq!((&certificate.sub, certificate.version.get()), (&name("alice"), 2));

    let license = license_claims(world, &granted(world, token, "player").await.token);
    assert_eq!((license.sub, license.content, license.version.get()), (name("alice"), name("song"), 2));
    returned
}

/// Claims 5, 9 and 15: points pay for a content of this price, all of it or in part.
async fn points_are_given_and_pay(world: &World, way: Way, price_minor: i64) {
    put_returnable_song(world, 1).await;
    let film = ContentPut { content: name("film"), price: usd(price_minor), ..song(1) };
    world.ask(&Request::ContentPut(film)).await;
    let held = Held::of(world, "alice").await;
    let returned = completed(give_back(world, &held, Privilege::Points, way).await);
    assert_eq!(returned.privilege.points.map(Count::get), Some(40));
    assert_eq!(points_of_alice(world).await, 40);

    let Output::CertificateIssued(issued) = world.ask(&order("alice", "film", Some(40))).await else { panic!() };
    assert_eq!((issued.amount, issued.points_held.get()), (usd(price_minor), 40));
    assert_eq!(points_of_alice(world).await, 0);
    refused(world, &order("alice", "film", Some(1)), "insufficient_points").await;
    let bought = Bought::of(Output::CertificateIssued(issued));
    let Output::CertificateAccepted(accepted) = world.ask(&receipt(&bought)).await else { panic!() };
    assert_eq!(accepted.amount, usd(price_minor - 40), "the points are taken off what is charged");
    if accepted.settlement == Instruction::Instructed {
        let Request::SettlementCompletion(paid) = completion(&bought) else { unreachable!() };
        let paid = Request::SettlementCompletion(SettlementCompletion { amount: accepted.amount, ..paid });
        assert_eq!(verdict(&world.ask(&paid).await), "settlement.registered");
    }
    let license = license_claims(world, &granted(world, &bought.tokens[0], "player").await.token);
    assert_eq!((license.sub, license.content), (name("alice"), name("film")));
}

/// Claims 6 and 7.
async fn a_return_goes_through_the_apparatus(world: &World) {
    put_returnable_song(world, 1).await;
    let held = Held::of(world, "alice").await;
    let (bought, license) = (purchase_row(world, &held).await, license_row(world, &held).await);
    let foreign = Held { user: "mallory", ..held.clone() };
    refused(world, &foreign.returned_for(Privilege::Points, false), "not_holder").await;

    let answer = world.ask(&held.returned_for(Privilege::Points, false)).await;
    let Output::ReturnOpened(opened) = answer else { panic!("{answer:?}") };
    assert_eq!((opened.license, opened.content.as_str(), opened.version.get()), (held.license.id, "song", 1));
    let attributes = &opened.attributes;
    assert_eq!((attributes.title.as_str(), attributes.amount), ("A song", usd(bought.amount_minor)));
    assert_eq!(attributes.purchased_at.as_millis(), bought.purchased_at);
    assert_eq!(attributes.granted_at.map(Timestamp::as_millis), license.granted_at);
    assert_eq!(license_row(world, &held).await.state, LicenseState::Returning, "nothing is deleted yet");
    assert!(world.rows::<privilege::Entity>().await.is_empty(), "and nothing given");

    let license_return = opened.license_return;
    let told = world.tell(&Request::LicenseDeletion(LicenseDeletion { license_return })).await;
    assert_eq!(world.row::<license::Entity>(held.license.id).await, None);
    let deleted = told.events.iter().find_map(|event| match event {
        Output::ContentDeleted(deleted) => Some(deleted),
        _ => None,
    });
    let deleted = deleted.expect("the content is to be deleted");
    assert_eq!((deleted.license, &deleted.user, &deleted.content), (held.license.id, &name("alice"), &name("song")));
    let returned = world.row::<license_return::Entity>(license_return).await.expect("the return");
    let given = world.row::<privilege::Entity>(license_return).await.expect("the privilege");
    assert_eq!((returned.user.as_str(), given.user.as_str(), given.points), ("alice", "alice", Some(40)));
}

/// How a license is given back.
#[derive(Clone, Copy)]
enum Way {
    /// The terminal has deleted its copy when it asks.
    AtOnce,
    /// It asks, deletes its copy, and tells that it has.
    InTwoSteps,
}

/// A license in its user's hands, with the purchase it comes from.
#[derive(Clone)]
struct Held {
    user: &'static str,
    bought: Bought,
    license: License,
}

impl Held {
    /// The user buys a song and gets a license.
    async fn of(world: &World, user: &'static str) -> Self {
        let bought = world.ready(user, 1).await;
        let license = granted(world, &bought.tokens[0], "player").await;
        Self { user, bought, license }
    }

    fn returned_for(&self, privilege: Privilege, deleted: bool) -> Request {
        let license_token = self.license.token.clone();
        Request::LicenseReturn(LicenseReturn { license_token, user: name(self.user), privilege, deleted })
    }
}

/// Gives a license back; what the message told that completed it.
async fn give_back(world: &World, held: &Held, privilege: Privilege, way: Way) -> Told {
    match way {
        Way::AtOnce => world.tell(&held.returned_for(privilege, true)).await,
        Way::InTwoSteps => {
            let answer = world.ask(&held.returned_for(privilege, false)).await;
            let Output::ReturnOpened(opened) = answer else { panic!("a return was answered with {answer:?}") };
            let deletion = LicenseDeletion { license_return: opened.license_return };
            world.tell(&Request::LicenseDeletion(deletion)).await
        }
    }
}

fn completed(told: Told) -> LicenseReturned {
    match told.answer {
        Output::LicenseReturned(returned) => returned,
        other => panic!("a return was answered with {other:?}"),
    }
}

/// A song in version 1 whose license brings any of the four privileges, if its version 2 is sold.
async fn put_returnable_song(world: &World, grants: i64) {
    let policy =
        ReturnPolicy { upgrade: Some(true), buyback: Some(usd(300)), collection: Some(true), ..song(1).return_policy };
    let successor = ContentVersion { content: name("song"), version: version_2() };
    let song = ContentPut { successor: Some(successor), return_policy: policy, ..song(grants) };
    assert_eq!(verdict(&world.ask(&Request::ContentPut(song)).await), "content.registered");
}

async fn put_next_version(world: &World) {
    let title = Text::try_from("A song, once more").expect("a text");
    let song = ContentPut { version: version_2(), title, ..song(1) };
    assert_eq!(verdict(&world.ask(&Request::ContentPut(song)).await), "content.registered");
}

fn version_2() -> Version {
    Version::try_from(2i64).expect("a version")
}

async fn license_row(world: &World, held: &Held) -> license::Model {
    world.row::<license::Entity>(held.license.id).await.expect("the license is in its database")
}

async fn purchase_row(world: &World, held: &Held) -> purchase::Model {
    world.row::<purchase::Entity>(held.bought.certificates[0]).await.expect("the purchase is in its database")
}

/// The record of a return: collection or purchase of the license.
async fn record_of(world: &World, returned: &LicenseReturned) -> collection::Model {
    world.row::<collection::Entity>(returned.license_return).await.expect("the return is recorded")
}

async fn points_of_alice(world: &World) -> i64 {
    let accounts = world.rows::<account::Entity>().await;
    accounts.iter().filter(|row| row.name == "points:alice").map(|row| row.balance).sum()
}

async fn holdings(world: &World, user: &str) -> Vec<Holding> {
    let query = Request::HoldingsQuery(HoldingsQuery { user: name(user), after: None, limit: None });
    match world.ask(&query).await {
        Output::HoldingsListed(listed) => listed.licenses,
        other => panic!("a query was answered with {other:?}"),
    }
}

/// Runs steps on the workers in this process.
async fn in_process(mut world: World, steps: impl AsyncFnOnce(&World)) {
    world.start_workers();
    steps(&world).await;
    world.finish().await;
}

/// Runs steps on the installed programs, one process for each worker; where there are no services
/// for them, on the same workers by their registry, as `licet serve` does.
async fn by_programs(mut world: World, steps: impl AsyncFnOnce(&World)) {
    let mut programs = Vec::new();
    if world.database_url.is_some() {
        programs.extend(WORKERS.iter().map(|worker| Process::start(&world, &format!("licet-{}", worker.name))));
    } else {
        world.start_workers();
    }
    steps(&world).await;
    for program in programs {
        assert_eq!(program.terminate(), Some(0), "a program ends cleanly");
    }
    world.finish().await;
}
