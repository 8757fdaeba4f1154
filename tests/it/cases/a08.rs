//! Case A8: returns that bring more than was paid.

use licet_schema::{
    Count, Money, Output, Request,
    entity::{ReturnState, content, entry, license, license_return, privilege, settlement},
    message::{
        ContentPut, ContentVersion, HoldingsQuery, LicenseDeletion, LicenseReturn, Privilege, ReturnPolicy,
        SettlementOutcome, SettlementReinstatement, SettlementReversal,
    },
    money::Currency,
};
use sea_orm::{EntityTrait, IntoActiveModel, QuerySelect, TransactionTrait};
use uuid::Uuid;

use crate::system::{
    Bought, TestSystem, external_id, license_receipt, license_request, name, on_both, outcome, reversal, song, usd,
    version,
};

on_both!(
    case_a08_content_whose_returns_bring_more_than_its_price_is_refused,
    case_a08_the_returns_of_a_certificate_never_bring_more_than_was_paid_for_it,
    case_a08_an_upgrade_shares_the_limit_of_the_certificate_that_was_paid_for,
    case_a08_returns_never_bring_what_was_refunded,
    case_a08_two_open_returns_together_never_bring_more_than_was_paid,
    case_a08_returns_of_two_members_of_a_refunded_container_wait_for_each_other,
);

fn eur(minor: i64) -> Money {
    Money { currency: Currency::try_from("EUR").expect("a currency"), ..usd(minor) }
}

fn policy(points: Option<i64>, buyback: Option<Money>) -> ReturnPolicy {
    let points = points.map(|points| Count::try_from(points).expect("a count"));
    ReturnPolicy { points, buyback, upgrade: None, collection: Some(true) }
}

async fn case_a08_content_whose_returns_bring_more_than_its_price_is_refused(mut system: TestSystem) {
    system.start_workers();
    let put = |price: Money, return_policy: ReturnPolicy| ContentPut { price, return_policy, ..song(3) };
    let itself = Some(ContentVersion { content: name("song"), version: version(1) });
    for (body, advice) in [
        (put(usd(0), policy(Some(500), None)), "offer fewer points"),
        (put(usd(499), policy(Some(500), None)), "offer fewer points"),
        (put(usd(500), policy(None, Some(usd(501)))), "offer a lower amount"),
        (put(usd(500), policy(None, Some(eur(500)))), "send an amount in USD"),
        (put(eur(500), policy(Some(1), None)), "set the price in USD, or offer no points"),
        (ContentPut { successor: itself, ..song(3) }, "name another content or version"),
    ] {
        let reply = system.ask(&Request::ContentPut(body.clone())).await;
        let Output::RequestRefused(refused) = &reply else { panic!("{body:?}: {reply:?}") };
        assert_eq!(refused.code.as_str(), "malformed", "{body:?}");
        assert!(refused.detail.contains(advice), "{body:?}: {}", refused.detail);
    }
    assert!(system.rows::<content::Entity>().await.is_empty(), "nothing was registered");
    for body in [put(usd(500), policy(Some(500), Some(usd(500)))), put(eur(500), policy(None, Some(eur(500))))] {
        assert_eq!(outcome(&system.ask(&Request::ContentPut(body)).await), "content.registered");
    }
    system.finish().await;
}

/// A license whose receipt is acknowledged.
async fn license(system: &TestSystem, certificate_token: &str, terminal: &str) -> String {
    let issued = system.ask(&license_request(certificate_token, terminal)).await;
    let Output::LicenseIssued(issued) = issued else { panic!("{issued:?}") };
    let token = issued.license_token.expect("a reply has its token");
    assert_eq!(outcome(&system.ask(&license_receipt(&token)).await), "license.granted");
    token
}

fn back(license_token: &str, privilege: Privilege) -> Request {
    let license_token = license_token.to_owned();
    Request::LicenseReturn(LicenseReturn { license_token, user: name("alice"), privilege, deleted: true })
}

async fn points(system: &TestSystem) -> i64 {
    let entries = system.rows::<entry::Entity>().await;
    entries.iter().filter(|row| row.account == "points:alice").map(|row| row.delta).sum()
}

async fn case_a08_the_returns_of_a_certificate_never_bring_more_than_was_paid_for_it(mut system: TestSystem) {
    system.start_workers();
    let terms = ContentPut { return_policy: policy(Some(400), Some(usd(300))), ..song(3) };
    assert_eq!(outcome(&system.ask(&Request::ContentPut(terms)).await), "content.registered");
    let bought = system.ready("alice", 1).await;
    let mut licenses = Vec::new();
    for terminal in ["hall", "kitchen", "attic"] {
        licenses.push(license(&system, &bought.tokens[0], terminal).await);
    }
    for token in &licenses[..2] {
        assert_eq!(outcome(&system.ask(&back(token, Privilege::Points)).await), "license.returned");
    }
    let query = Request::HoldingsQuery(HoldingsQuery { user: name("alice"), after: None, limit: None });
    let Output::HoldingsListed(listed) = system.ask(&query).await else { panic!("not listed") };
    assert_eq!(listed.licenses[0].returnable, [Privilege::Collection], "200 of 1000 minor units are left");
    for privilege in [Privilege::Points, Privilege::Buyback] {
        let refused = system.process(&back(&licenses[2], privilege)).await;
        assert_eq!(outcome(&refused.reply), "not_returnable", "{privilege}");
        assert!(refused.events.is_empty(), "{privilege}");
    }
    assert_eq!(outcome(&system.ask(&back(&licenses[2], Privilege::Collection)).await), "license.returned");
    assert_eq!(points(&system).await, 800);
    system.finish().await;
}

async fn case_a08_an_upgrade_shares_the_limit_of_the_certificate_that_was_paid_for(mut system: TestSystem) {
    system.start_workers();
    let next = ContentVersion { content: name("song"), version: version(2) };
    let sequel = ContentPut { version: version(2), return_policy: policy(Some(1000), None), ..song(1) };
    let upgradable = ReturnPolicy { upgrade: Some(true), ..policy(Some(1000), None) };
    let first = ContentPut { successor: Some(next), return_policy: upgradable, ..song(2) };
    assert_eq!(outcome(&system.ask(&Request::ContentPut(first)).await), "content.registered");
    let bought = system.ready("alice", 1).await;
    assert_eq!(outcome(&system.ask(&Request::ContentPut(sequel)).await), "content.registered");
    let upgraded = license(&system, &bought.tokens[0], "hall").await;
    let kept = license(&system, &bought.tokens[0], "kitchen").await;
    let Output::LicenseReturned(returned) = system.ask(&back(&upgraded, Privilege::Upgrade)).await else {
        panic!("the upgrade was refused")
    };
    let token = returned.privilege.certificate_token.expect("a reply has its token");
    let successor = license(&system, &token, "hall").await;
    assert_eq!(outcome(&system.ask(&back(&successor, Privilege::Points)).await), "license.returned");
    assert_eq!(outcome(&system.ask(&back(&kept, Privilege::Points)).await), "not_returnable");
    assert_eq!(points(&system).await, 1000);
    system.finish().await;
}

/// Refunds this part of what was paid for a purchase.
fn refund(bought: &Bought, part: i64) -> SettlementReversal {
    SettlementReversal { refund: Some(external_id("re-1")), amount: Some(usd(part)), ..reversal(bought) }
}

async fn case_a08_returns_never_bring_what_was_refunded(mut system: TestSystem) {
    system.start_workers();
    let terms = ContentPut { return_policy: policy(Some(400), Some(usd(300))), ..song(3) };
    assert_eq!(outcome(&system.ask(&Request::ContentPut(terms)).await), "content.registered");
    let bought = system.ready("alice", 1).await;
    let [first, second] =
        [license(&system, &bought.tokens[0], "hall").await, license(&system, &bought.tokens[0], "attic").await];
    let one = refund(&bought, 301);
    let refunded = system.ask(&Request::SettlementReversal(one.clone())).await;
    let Output::SettlementRegistered(refunded) = refunded else { panic!("{refunded:?}") };
    assert_eq!((refunded.outcome, refunded.refunded), (SettlementOutcome::Refunded, Some(usd(301))));
    assert_eq!(outcome(&system.ask(&back(&first, Privilege::Points)).await), "license.returned");
    let query = Request::HoldingsQuery(HoldingsQuery { user: name("alice"), after: None, limit: None });
    let Output::HoldingsListed(listed) = system.ask(&query).await else { panic!("not listed") };
    assert_eq!(listed.licenses[0].returnable, [Privilege::Collection], "299 of 699 minor units are left");
    for privilege in [Privilege::Points, Privilege::Buyback] {
        let refused = system.process(&back(&second, privilege)).await;
        assert_eq!(outcome(&refused.reply), "not_returnable", "{privilege}");
        assert!(refused.events.is_empty(), "{privilege}");
    }
    let undone = Request::SettlementReinstatement(SettlementReinstatement {
        certificate: one.certificate,
        container: one.container,
        settlement: one.settlement,
        provider: one.provider,
        refund: one.refund,
        reason: "the dispute was won".try_into().expect("a text"),
    });
    assert_eq!(outcome(&system.ask(&undone).await), "settlement.registered");
    assert_eq!(outcome(&system.ask(&back(&second, Privilege::Points)).await), "license.returned");
    assert_eq!(points(&system).await, 800);
    system.finish().await;
}

async fn case_a08_two_open_returns_together_never_bring_more_than_was_paid(mut system: TestSystem) {
    system.start_workers();
    let terms = ContentPut { return_policy: policy(Some(600), None), ..song(2) };
    assert_eq!(outcome(&system.ask(&Request::ContentPut(terms)).await), "content.registered");
    let bought = system.ready("alice", 1).await;
    let [first, second] =
        [license(&system, &bought.tokens[0], "hall").await, license(&system, &bought.tokens[0], "attic").await];
    let open = |token: &str, privilege| match back(token, privilege) {
        Request::LicenseReturn(body) => Request::LicenseReturn(LicenseReturn { deleted: false, ..body }),
        other => other,
    };
    let Output::ReturnOpened(opened) = system.ask(&open(&first, Privilege::Points)).await else { panic!("refused") };
    assert_eq!(outcome(&system.ask(&open(&second, Privilege::Points)).await), "not_returnable");
    assert_eq!(outcome(&system.ask(&back(&second, Privilege::Points)).await), "not_returnable");
    let deletion = Request::LicenseDeletion(LicenseDeletion { license_return: opened.license_return });
    assert_eq!(outcome(&system.ask(&deletion).await), "license.returned", "a return that was opened completes");
    assert_eq!(outcome(&system.ask(&back(&second, Privilege::Points)).await), "not_returnable");
    assert_eq!(outcome(&system.ask(&open(&second, Privilege::Collection)).await), "return.opened");
    assert_eq!(points(&system).await, 600);
    system.finish().await;
}

async fn case_a08_returns_of_two_members_of_a_refunded_container_wait_for_each_other(mut system: TestSystem) {
    system.start_workers();
    // A buy-back changes no points, so the returns do not wait for the user's account.
    let terms = ContentPut { return_policy: policy(None, Some(usd(1000))), ..song(1) };
    assert_eq!(outcome(&system.ask(&Request::ContentPut(terms)).await), "content.registered");
    let bought = system.ready("alice", 2).await;
    license(&system, &bought.tokens[0], "hall").await;
    let second = license(&system, &bought.tokens[1], "hall").await;
    let one = Request::SettlementReversal(refund(&bought, 1));
    assert_eq!(outcome(&system.ask(&one).await), "settlement.registered");

    // Another copy of the return worker has locked the payment and completes the return of the
    // first member.
    let first =
        system.rows::<license::Entity>().await.into_iter().find(|row| row.certificate == bought.certificates[0]);
    let (id, now) = (Uuid::now_v7(), system.resources.clock.now());
    let returned = license_return::Model {
        id,
        license: first.expect("a license").id,
        certificate: bought.certificates[0],
        user: name("alice"),
        privilege: Privilege::Buyback,
        state: ReturnState::Completed,
        opened_at: now,
        delete_by: now,
        closed_at: Some(now),
    };
    let granted = privilege::Model {
        id,
        user: name("alice"),
        kind: Privilege::Buyback,
        points: None,
        certificate: None,
        amount_minor: Some(usd(1000).amount_minor),
        currency: Some(usd(1000).currency),
    };
    let pool = system.resources.store.pool();
    let other = pool.begin().await.expect("a transaction");
    let locked = settlement::Entity::find().lock_exclusive().all(&other).await.expect("the payment");
    assert_eq!(locked.len(), 1);
    let insert = license_return::Entity::insert(returned.into_active_model());
    insert.exec_without_returning(&other).await.expect("a row");
    let insert = privilege::Entity::insert(granted.into_active_model());
    insert.exec_without_returning(&other).await.expect("a row");

    let request = back(&second, Privilege::Buyback);
    let mut asked = Box::pin(system.ask(&request));
    tokio::select! {
        biased;
        reply = &mut asked => panic!("the worker did not wait for the other transaction: {reply:?}"),
        () = system.until_a_transaction_waits() => {}
    }
    other.commit().await.expect("the rows are committed");
    let reply = asked.await;
    assert_eq!(outcome(&reply), "not_returnable", "999 of 1999 minor units are left: {reply:?}");
    // Delete the rows, because the auditor would report that the other rows of this return are
    // missing.
    license_return::Entity::delete_by_id(id).exec(&pool).await.expect("the row is deleted");
    privilege::Entity::delete_by_id(id).exec(&pool).await.expect("the row is deleted");
    assert_eq!(outcome(&system.ask(&request).await), "license.returned");
    system.finish().await;
}
