use licet_schema::{
    Output, Request,
    message::{ContentStatus, LicenseDeletion, Privilege},
};
use uuid::Uuid;

use crate::testing::{HOUR_MS, Stage, altered, check, license_receipt, license_return, verdict};

fn deletion(opened: &Output) -> Request {
    match opened {
        Output::ReturnOpened(opened) => {
            Request::LicenseDeletion(LicenseDeletion { license_return: opened.license_return })
        }
        other => panic!("no return was opened: {other:?}"),
    }
}

#[test]
fn verdicts_on_license_return() {
    check(&[
        (
            "for points, and deleted already",
            |stage| {
                let token = stage.granted("player");
                stage.ask(license_return(&token, "alice", Privilege::Points, true))
            },
            "license.returned",
        ),
        (
            "for points, and to be deleted",
            |stage| {
                let token = stage.granted("player");
                stage.ask(license_return(&token, "alice", Privilege::Points, false))
            },
            "return.opened",
        ),
        (
            "again",
            |stage| {
                let token = stage.granted("player");
                stage.ask(license_return(&token, "alice", Privilege::Points, true));
                stage.ask(license_return(&token, "alice", Privilege::Points, true))
            },
            "already_returned",
        ),
        (
            "while its return is open",
            |stage| {
                let token = stage.granted("player");
                stage.ask(license_return(&token, "alice", Privilege::Points, false));
                stage.ask(license_return(&token, "alice", Privilege::Points, true))
            },
            "already_returned",
        ),
        (
            "after its return has lapsed",
            |stage| {
                let token = stage.granted("player");
                stage.ask(license_return(&token, "alice", Privilege::Points, false));
                stage.later(25 * HOUR_MS).ask(license_return(&token, "alice", Privilege::Points, true))
            },
            "license.returned",
        ),
        (
            "by another user",
            |stage| {
                let token = stage.granted("player");
                stage.ask(license_return(&token, "mallory", Privilege::Points, true))
            },
            "not_holder",
        ),
        (
            "before its reception was acknowledged",
            |stage| {
                let bought = stage.ready(1);
                let token = stage.license(&bought, "player").expect("a license");
                stage.ask(license_return(&token, "alice", Privilege::Points, true))
            },
            "not_received",
        ),
        (
            "for what the content does not offer",
            |stage| {
                let token = stage.granted("player");
                stage.ask(license_return(&token, "alice", Privilege::Buyback, true))
            },
            "not_returnable",
        ),
        (
            "an altered license",
            |stage| {
                let token = stage.granted("player");
                stage.ask(license_return(&altered(&token), "alice", Privilege::Points, true))
            },
            "altered",
        ),
        (
            "a license that never was here",
            |stage| {
                let token = Stage::with_song().later(1).granted("player");
                stage.ask(license_return(&token, "alice", Privilege::Points, true))
            },
            "unknown_license",
        ),
    ]);
}

#[test]
fn verdicts_on_license_deletion() {
    check(&[
        (
            "in time",
            |stage| {
                let token = stage.granted("player");
                let opened = stage.ask(license_return(&token, "alice", Privilege::Points, false));
                stage.ask(deletion(&opened))
            },
            "license.returned",
        ),
        (
            "again",
            |stage| {
                let token = stage.granted("player");
                let opened = stage.ask(license_return(&token, "alice", Privilege::Points, false));
                stage.ask(deletion(&opened));
                stage.ask(deletion(&opened))
            },
            "license.returned*",
        ),
        (
            "too late",
            |stage| {
                let token = stage.granted("player");
                let opened = stage.ask(license_return(&token, "alice", Privilege::Points, false));
                stage.later(25 * HOUR_MS).ask(deletion(&opened))
            },
            "lapsed",
        ),
        (
            "of a return that never was",
            |stage| stage.ask(Request::LicenseDeletion(LicenseDeletion { license_return: Uuid::from_u128(3) })),
            "unknown_return",
        ),
    ]);
}

#[test]
fn a_return_deletes_the_license_and_leaves_a_collection_a_privilege_and_points() {
    let mut stage = Stage::with_song();
    stage.tables.accounts.add(licet_schema::entity::account::Model { name: "points:alice".into(), balance: 0 });
    let token = stage.granted("player");
    let returned = stage.ask(license_return(&token, "alice", Privilege::Points, true));
    let Output::LicenseReturned(returned) = returned else { panic!("{returned:?}") };
    assert_eq!(returned.privilege.points.map(|points| points.get()), Some(40));
    assert_eq!(returned.content_status, ContentStatus::Deleted);
    assert_eq!(stage.events(), ["license.returned", "content.deleted", "points.changed"]);
    assert_eq!(stage.tables.licenses.iter().count(), 0);
    let collected = stage.tables.collections.iter().next().expect("a collection row");
    assert_eq!(
        (collected.settlement.as_str(), collected.provider.as_str(), collected.amount_minor),
        ("pay-1", "bank", 1000)
    );
    assert_eq!(stage.tables.privileges.iter().map(|row| row.id).collect::<Vec<_>>(), [collected.id]);
    assert_eq!(stage.tables.accounts.iter().map(|row| row.balance).collect::<Vec<_>>(), [40]);
    assert_eq!(stage.tables.entries.iter().map(|row| row.delta).sum::<i64>(), 0);
}

#[test]
fn an_account_that_is_full_takes_no_more_points() {
    let mut stage = Stage::with_song();
    let balance = licet_schema::vocabulary::INTEGER_MAX - 39;
    stage.tables.accounts.add(licet_schema::entity::account::Model { name: "points:alice".into(), balance });
    let token = stage.granted("player");
    assert_eq!(verdict(&stage.ask(license_return(&token, "alice", Privilege::Points, true))), "not_returnable");
    stage.tables.accounts.change(&"points:alice".to_owned()).expect("the account").balance -= 1;
    assert_eq!(verdict(&stage.ask(license_return(&token, "alice", Privilege::Points, true))), "license.returned");
}

#[test]
fn a_return_that_is_met_after_its_deadline_lapses_and_says_so() {
    let mut stage = Stage::with_song();
    let token = stage.granted("player");
    stage.ask(license_return(&token, "alice", Privilege::Points, false));
    stage.later(25 * HOUR_MS).ask(license_return(&token, "alice", Privilege::Points, false));
    assert_eq!(stage.events(), ["return.opened", "return.lapsed"]);
    let states: Vec<_> = stage.tables.returns.iter().map(|row| row.state).collect();
    assert_eq!(states, [licet_schema::entity::ReturnState::Lapsed, licet_schema::entity::ReturnState::Opened]);
}

#[test]
fn a_deletion_told_again_gets_the_same_answer_but_for_the_mark() {
    let mut stage = Stage::with_song();
    let token = stage.granted("player");
    let opened = stage.ask(license_return(&token, "alice", Privilege::Points, false));
    let first = stage.ask(deletion(&opened));
    stage.later(1000);
    let second = stage.ask(deletion(&opened));
    assert!(stage.events().is_empty(), "a repeat causes no event");
    match (first, second) {
        (Output::LicenseReturned(first), Output::LicenseReturned(second)) => {
            assert!(!first.repeated && second.repeated);
            assert_eq!(licet_schema::message::LicenseReturned { repeated: true, ..first }, second);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(verdict(&opened), "return.opened");
}

fn upgraded(stage: &mut Stage, license: &str) -> licet_schema::message::LicenseReturned {
    match stage.ask(license_return(license, "alice", Privilege::Upgrade, true)) {
        Output::LicenseReturned(returned) => returned,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_privilege_is_given_as_the_policy_offers() {
    for (privilege, brings) in [
        (Privilege::Points, (Some(40), None, false)),
        (Privilege::Buyback, (None, Some(300), false)),
        (Privilege::Collection, (None, None, false)),
        (Privilege::Upgrade, (None, None, true)),
    ] {
        let mut stage = Stage::with_song();
        stage.ask(Request::ContentPut(crate::testing::sequel()));
        let poor = stage.granted("player");
        if privilege != Privilege::Points {
            assert_eq!(verdict(&stage.ask(license_return(&poor, "alice", privilege, true))), "not_returnable");
        }
        stage.ask(Request::ContentPut(crate::testing::generous_song()));
        let bought = stage.buy(1);
        stage.receive(&bought);
        stage.settle(&bought, "pay-2");
        let license = stage.license(&bought, "player").expect("a license");
        stage.ask(license_receipt(&license));
        let Output::LicenseReturned(returned) = stage.ask(license_return(&license, "alice", privilege, true)) else {
            panic!("{privilege:?} was not given")
        };
        let given = &returned.privilege;
        let given = (
            given.points.map(|points| points.get()),
            given.amount.map(|amount| amount.amount_minor.get()),
            given.certificate.is_some(),
        );
        assert_eq!(given, brings, "{privilege:?}");
        assert_eq!(stage.tables.collections.iter().count(), 1, "{privilege:?}");
        assert_eq!(stage.tables.privileges.iter().count(), 1, "{privilege:?}");
    }
}

#[test]
fn an_upgrade_carries_the_grants_that_are_left_and_they_are_not_there_twice() {
    let mut stage = Stage::with_song();
    stage.ask(Request::ContentPut(crate::testing::sequel()));
    stage.ask(Request::ContentPut(crate::testing::generous_song()));
    let bought = stage.ready(1);
    let license = stage.license(&bought, "player").expect("a license");
    stage.ask(license_receipt(&license));
    let returned = upgraded(&mut stage, &license);
    let token = returned.privilege.certificate_token.expect("the successor's token");
    let row = stage.tables.certificates.get(&returned.privilege.certificate.unwrap_or_default()).expect("it lives");
    assert_eq!((row.content.as_str(), row.grants, row.provider.as_deref()), ("sequel", 3, Some("licet")));
    for terminal in ["a", "b", "c"] {
        assert_eq!(verdict(&stage.ask(crate::testing::license_request(&token, terminal))), "license.issued");
    }
    assert_eq!(verdict(&stage.ask(crate::testing::license_request(&token, "d"))), "exhausted");
    assert_eq!(verdict(&stage.ask(crate::testing::license_request(&bought.tokens[0], "d"))), "exhausted");
}

#[test]
fn an_upgrade_to_what_is_not_sold_is_not_on_offer() {
    let mut stage = Stage::with_song();
    stage.ask(Request::ContentPut(crate::testing::generous_song()));
    let license = stage.granted("player");
    assert_eq!(verdict(&stage.ask(license_return(&license, "alice", Privilege::Upgrade, true))), "not_returnable");
}

#[test]
fn an_upgrades_token_goes_to_whoever_told_the_deletion_first_and_to_nobody_else() {
    let mut stage = Stage::with_song();
    stage.ask(Request::ContentPut(crate::testing::sequel()));
    stage.ask(Request::ContentPut(crate::testing::generous_song()));
    let license = stage.granted("player");
    let Output::ReturnOpened(opened) = stage.ask(license_return(&license, "alice", Privilege::Upgrade, false)) else {
        panic!("not opened")
    };
    let deletion = Request::LicenseDeletion(LicenseDeletion { license_return: opened.license_return });
    let mut tokens = Vec::new();
    for _ in 0..2 {
        let Output::LicenseReturned(returned) = stage.ask(deletion.clone()) else { panic!("not returned") };
        tokens.push((returned.repeated, returned.privilege.certificate_token.is_some()));
    }
    assert_eq!(tokens, [(false, true), (true, false)]);
}
