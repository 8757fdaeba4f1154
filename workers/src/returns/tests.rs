use licet_schema::Name;
use licet_schema::entity::{account, certificate, collection, entry, license, license_return, privilege};
use licet_schema::{
    Count, Money, Output, Request,
    message::{
        ContentPut, ContentStatus, HoldingsQuery, LicenseDeletion, Privilege, ReturnPolicy, SettlementReinstatement,
        SettlementReversal,
    },
    money::Currency,
};
use uuid::Uuid;

use crate::fixture::{
    Bought, Fixture, HOUR_MS, altered, check, completion, external, generous_song, license_receipt, license_request,
    license_return, name, outcome, reinstatement, reversal, sequel, usd,
};

fn deletion(opened: &Output) -> Request {
    match opened {
        Output::ReturnOpened(opened) => {
            Request::LicenseDeletion(LicenseDeletion { license_return: opened.license_return })
        }
        other => panic!("no return was opened: {other:?}"),
    }
}

#[test]
fn outcomes_of_license_return() {
    check(&[
        (
            "for points, with the copy deleted",
            |fixture| {
                let token = fixture.granted("player");
                fixture.ask(license_return(&token, "alice", Privilege::Points, true))
            },
            "license.returned",
        ),
        (
            "for points, with the copy not deleted yet",
            |fixture| {
                let token = fixture.granted("player");
                fixture.ask(license_return(&token, "alice", Privilege::Points, false))
            },
            "return.opened",
        ),
        (
            "again",
            |fixture| {
                let token = fixture.granted("player");
                fixture.ask(license_return(&token, "alice", Privilege::Points, true));
                fixture.ask(license_return(&token, "alice", Privilege::Points, true))
            },
            "already_returned",
        ),
        (
            "while a return is open",
            |fixture| {
                let token = fixture.granted("player");
                fixture.ask(license_return(&token, "alice", Privilege::Points, false));
                fixture.ask(license_return(&token, "alice", Privilege::Points, true))
            },
            "already_returned",
        ),
        (
            "after a return lapsed",
            |fixture| {
                let token = fixture.granted("player");
                fixture.ask(license_return(&token, "alice", Privilege::Points, false));
                fixture.later(25 * HOUR_MS).ask(license_return(&token, "alice", Privilege::Points, true))
            },
            "license.returned",
        ),
        (
            "by another user",
            |fixture| {
                let token = fixture.granted("player");
                fixture.ask(license_return(&token, "mallory", Privilege::Points, true))
            },
            "not_holder",
        ),
        (
            "before the license's reception is acknowledged",
            |fixture| {
                let bought = fixture.ready(1);
                let token = fixture.license(&bought, "player").expect("a license");
                fixture.ask(license_return(&token, "alice", Privilege::Points, true))
            },
            "not_received",
        ),
        (
            "for a privilege that the content does not offer",
            |fixture| {
                let token = fixture.granted("player");
                fixture.ask(license_return(&token, "alice", Privilege::Buyback, true))
            },
            "not_returnable",
        ),
        (
            "an altered license",
            |fixture| {
                let token = fixture.granted("player");
                fixture.ask(license_return(&altered(&token), "alice", Privilege::Points, true))
            },
            "altered",
        ),
        (
            "a license that does not exist",
            |fixture| {
                let token = Fixture::with_song().later(1).granted("player");
                fixture.ask(license_return(&token, "alice", Privilege::Points, true))
            },
            "unknown_license",
        ),
    ]);
}

#[test]
fn outcomes_of_license_deletion() {
    check(&[
        (
            "in time",
            |fixture| {
                let token = fixture.granted("player");
                let opened = fixture.ask(license_return(&token, "alice", Privilege::Points, false));
                fixture.ask(deletion(&opened))
            },
            "license.returned",
        ),
        (
            "again",
            |fixture| {
                let token = fixture.granted("player");
                let opened = fixture.ask(license_return(&token, "alice", Privilege::Points, false));
                fixture.ask(deletion(&opened));
                fixture.ask(deletion(&opened))
            },
            "license.returned*",
        ),
        (
            "after the deadline",
            |fixture| {
                let token = fixture.granted("player");
                let opened = fixture.ask(license_return(&token, "alice", Privilege::Points, false));
                fixture.later(25 * HOUR_MS).ask(deletion(&opened))
            },
            "lapsed",
        ),
        (
            "a return that does not exist",
            |fixture| fixture.ask(Request::LicenseDeletion(LicenseDeletion { license_return: Uuid::from_u128(3) })),
            "unknown_return",
        ),
    ]);
}

#[test]
fn a_return_deletes_the_license_and_records_a_collection_a_privilege_and_points() {
    let mut fixture = Fixture::with_song();
    fixture.give_points("alice", 0);
    let token = fixture.granted("player");
    let returned = fixture.ask(license_return(&token, "alice", Privilege::Points, true));
    let Output::LicenseReturned(returned) = returned else { panic!("{returned:?}") };
    assert_eq!(returned.privilege.points.map(|points| points.get()), Some(40));
    assert_eq!(returned.content_status, ContentStatus::Deleted);
    assert_eq!(fixture.events(), ["license.returned", "content.deleted", "points.changed"]);
    assert_eq!(fixture.store.rows::<license::Entity>().count(), 0);
    let collected = fixture.store.rows::<collection::Entity>().next().expect("a collection row");
    assert_eq!(
        (collected.settlement.as_str(), collected.provider.as_str(), collected.amount_minor.get()),
        ("pay-1", "bank", 1000)
    );
    assert_eq!(fixture.store.rows::<privilege::Entity>().map(|row| row.id).collect::<Vec<_>>(), [collected.id]);
    assert_eq!(fixture.store.rows::<account::Entity>().map(|row| row.balance).collect::<Vec<_>>(), [40]);
    assert_eq!(fixture.store.rows::<entry::Entity>().map(|row| row.delta).sum::<i64>(), 0);
}

#[test]
fn a_return_whose_points_would_exceed_the_maximum_balance_is_refused() {
    let mut fixture = Fixture::with_song();
    let balance = licet_schema::vocabulary::INTEGER_MAX - 39;
    fixture.give_points("alice", balance);
    let token = fixture.granted("player");
    assert_eq!(outcome(&fixture.ask(license_return(&token, "alice", Privilege::Points, true))), "not_returnable");
    fixture.store.change::<account::Entity>(&"points:alice".to_owned(), |row| row.balance -= 1);
    assert_eq!(outcome(&fixture.ask(license_return(&token, "alice", Privilege::Points, true))), "license.returned");
}

#[test]
fn another_return_after_the_deadline_lapses_the_first_and_announces_it() {
    let mut fixture = Fixture::with_song();
    let token = fixture.granted("player");
    fixture.ask(license_return(&token, "alice", Privilege::Points, false));
    fixture.later(25 * HOUR_MS).ask(license_return(&token, "alice", Privilege::Points, false));
    assert_eq!(fixture.events(), ["return.opened", "return.lapsed"]);
    let states: Vec<_> = fixture.store.rows::<license_return::Entity>().map(|row| row.state).collect();
    assert_eq!(states, [licet_schema::entity::ReturnState::Lapsed, licet_schema::entity::ReturnState::Opened]);
}

#[test]
fn a_repeated_deletion_gets_the_same_reply_marked_as_repeated() {
    let mut fixture = Fixture::with_song();
    let token = fixture.granted("player");
    let opened = fixture.ask(license_return(&token, "alice", Privilege::Points, false));
    let first = fixture.ask(deletion(&opened));
    fixture.later(1000);
    let second = fixture.ask(deletion(&opened));
    assert!(fixture.events().is_empty(), "a repetition has no event");
    match (first, second) {
        (Output::LicenseReturned(first), Output::LicenseReturned(second)) => {
            assert!(!first.repeated && second.repeated);
            assert_eq!(licet_schema::message::LicenseReturned { repeated: true, ..first }, second);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(outcome(&opened), "return.opened");
}

/// A song with these points and this buy-back for a return, and the grants of a certificate.
fn put_song(fixture: &mut Fixture, points: i64, buyback: i64) {
    let return_policy = ReturnPolicy {
        points: Count::try_from(points).ok(),
        buyback: Some(usd(buyback)),
        ..generous_song().return_policy
    };
    fixture.ask(Request::ContentPut(ContentPut { return_policy, ..generous_song() }));
}

/// Licenses for these terminals, with their receipts acknowledged.
fn licenses<const N: usize>(fixture: &mut Fixture, certificate_token: &str, terminals: [&str; N]) -> [String; N] {
    terminals.map(|terminal| {
        let issued = fixture.ask(license_request(certificate_token, terminal));
        let Output::LicenseIssued(issued) = issued else { panic!("{issued:?}") };
        let token = issued.license_token.expect("a reply has its token");
        fixture.ask(license_receipt(&token));
        token
    })
}

/// The privileges that the listing of the user's licenses offers.
fn returnable(fixture: &mut Fixture) -> Vec<Vec<Privilege>> {
    let query = HoldingsQuery { user: name("alice"), after: None, limit: None };
    let Output::HoldingsListed(listed) = fixture.ask(Request::HoldingsQuery(query)) else { panic!("not listed") };
    listed.licenses.into_iter().map(|license| license.returnable).collect()
}

#[test]
fn the_returns_of_a_certificate_bring_at_most_its_price_in_sum() {
    use Privilege::{Buyback, Collection, Points};
    for (points, buyback, wanted, expected) in [
        (400, 400, [Points, Points, Points], ["license.returned", "license.returned", "not_returnable"]),
        (500, 500, [Points, Buyback, Points], ["license.returned", "license.returned", "not_returnable"]),
        (400, 601, [Points, Buyback, Collection], ["license.returned", "not_returnable", "license.returned"]),
        (1000, 1, [Points, Buyback, Collection], ["license.returned", "not_returnable", "license.returned"]),
        (0, 1000, [Buyback, Points, Buyback], ["license.returned", "license.returned", "not_returnable"]),
    ] {
        let mut fixture = Fixture::new();
        put_song(&mut fixture, points, buyback);
        let bought = fixture.ready(1);
        let tokens = licenses(&mut fixture, &bought.tokens[0], ["a", "b", "c"]);
        let replies = [0, 1, 2].map(|index| fixture.ask(license_return(&tokens[index], "alice", wanted[index], true)));
        let case = format!("{points} points, {buyback} cents: {replies:?}");
        assert_eq!(replies.map(|reply| outcome(&reply)), expected, "{case}");
    }
}

#[test]
fn a_refusal_says_how_much_the_returns_have_brought_and_the_listing_agrees() {
    let mut fixture = Fixture::new();
    put_song(&mut fixture, 600, 400);
    let bought = fixture.ready(1);
    let [first, second] = licenses(&mut fixture, &bought.tokens[0], ["a", "b"]);
    assert!(returnable(&mut fixture).iter().all(|offers| offers.contains(&Privilege::Points)));
    fixture.ask(license_return(&first, "alice", Privilege::Points, true));
    assert_eq!(returnable(&mut fixture), [[Privilege::Buyback, Privilege::Collection]]);
    let Output::RequestRefused(refused) = fixture.ask(license_return(&second, "alice", Privilege::Points, true)) else {
        panic!("not refused")
    };
    assert!(refused.detail.contains("bring 600 of the 1000 minor units"), "{}", refused.detail);
}

#[test]
fn the_members_of_a_container_have_limits_of_their_own() {
    let mut fixture = Fixture::new();
    put_song(&mut fixture, 1000, 1000);
    let bought = fixture.ready(2);
    for token in &bought.tokens {
        let [first, second] = licenses(&mut fixture, token, ["a", "b"]);
        for (license, expected) in [(first, "license.returned"), (second, "not_returnable")] {
            let reply = fixture.ask(license_return(&license, "alice", Privilege::Points, true));
            assert_eq!(outcome(&reply), expected);
        }
    }
}

#[test]
fn an_open_return_reserves_its_part_of_the_limit_until_its_deadline_has_passed() {
    let mut fixture = Fixture::new();
    put_song(&mut fixture, 600, 600);
    let bought = fixture.ready(1);
    let [first, second] = licenses(&mut fixture, &bought.tokens[0], ["a", "b"]);
    let opened = fixture.ask(license_return(&first, "alice", Privilege::Points, false));
    assert_eq!(returnable(&mut fixture), [vec![], vec![Privilege::Collection]], "600 of 1000 are reserved");
    for deleted in [false, true] {
        let Output::RequestRefused(refused) =
            fixture.ask(license_return(&second, "alice", Privilege::Buyback, deleted))
        else {
            panic!("both returns would bring 1200 of 1000")
        };
        assert_eq!(refused.code.as_str(), "not_returnable");
        assert!(refused.detail.contains("with the open ones, bring 600 of the 1000"), "{}", refused.detail);
    }
    assert_eq!(outcome(&fixture.ask(license_return(&second, "alice", Privilege::Collection, false))), "return.opened");
    fixture.later(25 * HOUR_MS);
    assert_eq!(outcome(&fixture.ask(license_return(&second, "alice", Privilege::Points, true))), "license.returned");
    assert_eq!(outcome(&fixture.ask(license_return(&first, "alice", Privilege::Points, true))), "not_returnable");
    assert_eq!(outcome(&fixture.ask(deletion(&opened))), "lapsed");
    assert_eq!(fixture.points_of("alice"), 600);
}

#[test]
fn an_open_return_of_an_upgrade_reserves_its_part_of_the_limit_of_the_certificate_that_was_paid_for() {
    let mut fixture = Fixture::new();
    put_song(&mut fixture, 600, 600);
    let policy = ReturnPolicy { upgrade: None, ..generous_song().return_policy };
    let policy = ReturnPolicy { points: Count::try_from(700i64).ok(), ..policy };
    fixture.ask(Request::ContentPut(ContentPut { return_policy: policy, ..sequel() }));
    let bought = fixture.ready(1);
    let [first, second] = licenses(&mut fixture, &bought.tokens[0], ["a", "b"]);
    let token = upgraded(&mut fixture, &first).privilege.certificate_token.expect("the successor's token");
    let [newest] = licenses(&mut fixture, &token, ["a"]);
    let opened = fixture.ask(license_return(&newest, "alice", Privilege::Points, false));
    assert_eq!(outcome(&fixture.ask(license_return(&second, "alice", Privilege::Points, true))), "not_returnable");
    assert_eq!(outcome(&fixture.ask(deletion(&opened))), "license.returned");
}

#[test]
fn the_returns_of_an_upgrade_in_another_currency_bring_nothing() {
    let eur = |minor| Money { currency: Currency::try_from("EUR").expect("a currency"), ..usd(minor) };
    let mut fixture = Fixture::new();
    put_song(&mut fixture, 400, 400);
    let policy = |buyback| ReturnPolicy { points: None, upgrade: None, buyback, collection: Some(true) };
    for (buyback, expected) in [(eur(500), "not_returnable"), (eur(0), "license.returned")] {
        let return_policy = policy(Some(buyback));
        fixture.ask(Request::ContentPut(ContentPut { price: eur(500), return_policy, ..sequel() }));
        let bought = fixture.buy(1);
        fixture.receive(&bought);
        fixture.settle(&bought, &format!("pay-{expected}"));
        let [license] = licenses(&mut fixture, &bought.tokens[0], ["a"]);
        let token = upgraded(&mut fixture, &license).privilege.certificate_token.expect("the successor's token");
        let [newest] = licenses(&mut fixture, &token, ["a"]);
        let reply = fixture.ask(license_return(&newest, "alice", Privilege::Buyback, true));
        assert_eq!(outcome(&reply), expected, "{buyback}: {reply:?}");
        let Output::RequestRefused(refused) = reply else { continue };
        assert!(refused.detail.contains("in EUR, but") && refused.detail.contains("in USD"), "{}", refused.detail);
        let reply = fixture.ask(license_return(&newest, "alice", Privilege::Collection, true));
        assert_eq!(outcome(&reply), "license.returned");
    }
}

/// Refunds this part of the payment `pay-1` under this refund id.
fn refund(fixture: &mut Fixture, bought: &Bought, id: &str, part: i64) -> String {
    let body = SettlementReversal { refund: Some(external(id)), amount: Some(usd(part)), ..reversal(bought, "pay-1") };
    outcome(&fixture.ask(Request::SettlementReversal(body)))
}

/// Refunds one member of a container, for the amount that was paid for it.
fn refund_member(fixture: &mut Fixture, bought: &Bought, member: usize) {
    let body = SettlementReversal {
        certificate: Some(bought.certificates[member]),
        container: None,
        refund: Some(external(&format!("member-{member}"))),
        ..reversal(bought, "pay-1")
    };
    assert_eq!(outcome(&fixture.ask(Request::SettlementReversal(body))), "settlement.registered");
}

#[test]
fn returns_bring_at_most_what_is_left_after_partial_refunds() {
    let mut fixture = Fixture::new();
    put_song(&mut fixture, 400, 300);
    let bought = fixture.ready(1);
    let [first, second, third] = licenses(&mut fixture, &bought.tokens[0], ["a", "b", "c"]);
    refund(&mut fixture, &bought, "r1", 300);
    refund(&mut fixture, &bought, "r2", 1);
    let mut back = |token: &str, privilege| fixture.ask(license_return(token, "alice", privilege, true));
    assert_eq!(outcome(&back(&first, Privilege::Points)), "license.returned", "400 of 699");
    for privilege in [Privilege::Points, Privilege::Buyback] {
        let Output::RequestRefused(refused) = back(&second, privilege) else { panic!("{privilege:?}: 299 are left") };
        assert_eq!(refused.code.as_str(), "not_returnable");
        assert!(refused.detail.contains("bring 400 of the 699 minor units"), "{}", refused.detail);
    }
    assert!(returnable(&mut fixture).iter().all(|offers| *offers == [Privilege::Collection]));

    let undone = SettlementReinstatement { refund: Some(external("r2")), ..reinstatement(&bought, "pay-1") };
    fixture.ask(Request::SettlementReinstatement(undone));
    let mut back = |token: &str, privilege| outcome(&fixture.ask(license_return(token, "alice", privilege, true)));
    assert_eq!(back(&second, Privilege::Points), "not_returnable", "300 are left");
    assert_eq!(back(&second, Privilege::Buyback), "license.returned", "the refund that was undone does not count");
    assert_eq!(back(&third, Privilege::Buyback), "not_returnable", "nothing is left");
}

#[test]
fn a_partial_refund_limits_the_returns_of_a_certificate_and_its_upgrades_together() {
    let mut fixture = Fixture::new();
    put_song(&mut fixture, 400, 400);
    let policy = ReturnPolicy { upgrade: None, ..generous_song().return_policy };
    let policy = ReturnPolicy { points: Count::try_from(400i64).ok(), ..policy };
    fixture.ask(Request::ContentPut(ContentPut { return_policy: policy, ..sequel() }));
    let bought = fixture.ready(1);
    let [first, second] = licenses(&mut fixture, &bought.tokens[0], ["a", "b"]);
    let token = upgraded(&mut fixture, &first).privilege.certificate_token.expect("the successor's token");
    let [newest] = licenses(&mut fixture, &token, ["a"]);
    refund(&mut fixture, &bought, "r1", 300);
    let mut back = |token: &str| outcome(&fixture.ask(license_return(token, "alice", Privilege::Points, true)));
    assert_eq!(back(&newest), "license.returned", "400 of 700");
    assert_eq!(back(&second), "not_returnable", "300 are left");
}

#[test]
fn after_a_refund_of_a_container_its_members_share_what_is_left() {
    let mut fixture = Fixture::new();
    put_song(&mut fixture, 1000, 500);
    let bought = fixture.ready(2);
    let [first, same] = licenses(&mut fixture, &bought.tokens[0], ["a", "b"]);
    let [second] = licenses(&mut fixture, &bought.tokens[1], ["a"]);
    refund(&mut fixture, &bought, "r1", 501);
    let mut back = |token: &str, privilege| fixture.ask(license_return(token, "alice", privilege, true));
    assert_eq!(outcome(&back(&first, Privilege::Points)), "license.returned", "1000 of 1499");
    let Output::RequestRefused(refused) = back(&same, Privilege::Buyback) else { panic!("1000 were paid for it") };
    assert!(refused.detail.starts_with("returns of this certificate,"), "{}", refused.detail);
    let Output::RequestRefused(refused) = back(&second, Privilege::Buyback) else { panic!("499 are left") };
    assert!(refused.detail.starts_with("returns of this container,"), "{}", refused.detail);
    assert!(refused.detail.contains("bring 1000 of the 1499 minor units"), "{}", refused.detail);

    fixture.ask(Request::SettlementReinstatement(reinstatement(&bought, "pay-1")));
    assert_eq!(outcome(&fixture.ask(license_return(&second, "alice", Privilege::Points, true))), "license.returned");
}

#[test]
fn the_refund_of_a_member_leaves_the_other_members_what_was_paid_for_them() {
    // Points that the revoked member brought are taken back. Its buy-back stays, so it counts.
    for (privilege, left) in [(Privilege::Points, "license.returned"), (Privilege::Buyback, "not_returnable")] {
        let mut fixture = Fixture::new();
        put_song(&mut fixture, 1000, 1000);
        let bought = fixture.ready(2);
        let [first] = licenses(&mut fixture, &bought.tokens[0], ["a"]);
        let [second] = licenses(&mut fixture, &bought.tokens[1], ["a"]);
        assert_eq!(outcome(&fixture.ask(license_return(&first, "alice", privilege, true))), "license.returned");
        refund_member(&mut fixture, &bought, 0);
        assert_eq!(fixture.points_of("alice"), 0, "{privilege:?}");
        let reply = fixture.ask(license_return(&second, "alice", Privilege::Points, true));
        assert_eq!(outcome(&reply), left, "{privilege:?}: {reply:?}");
    }
}

#[test]
fn points_that_the_refund_of_a_member_credited_back_reduce_the_limit_of_the_other_members() {
    let mut fixture = Fixture::new();
    put_song(&mut fixture, 1000, 1000);
    fixture.give_points("alice", 1500);
    let bought = fixture.buy_with_points(2, 1500);
    fixture.receive(&bought);
    fixture.ask(completion(&bought, "pay-1", usd(500)));
    let [first] = licenses(&mut fixture, &bought.tokens[0], ["a"]);
    let [second] = licenses(&mut fixture, &bought.tokens[1], ["a"]);
    assert_eq!(outcome(&fixture.ask(license_return(&first, "alice", Privilege::Buyback, true))), "license.returned");
    // The first member was paid for only with points, so its refund amounts to zero.
    refund_member(&mut fixture, &bought, 0);
    assert_eq!(fixture.points_of("alice"), 1000);
    assert_eq!(outcome(&fixture.ask(license_return(&second, "alice", Privilege::Points, true))), "not_returnable");
}

#[test]
fn a_return_that_was_opened_before_a_refund_is_checked_again_when_it_completes() {
    let mut fixture = Fixture::new();
    put_song(&mut fixture, 400, 400);
    let bought = fixture.ready(1);
    let tokens = licenses(&mut fixture, &bought.tokens[0], ["a", "b"]);
    let opened = tokens.map(|token| fixture.ask(license_return(&token, "alice", Privilege::Points, false)));
    refund(&mut fixture, &bought, "r1", 300);
    let completed = opened.map(|opened| outcome(&fixture.ask(deletion(&opened))));
    assert_eq!(completed, ["license.returned", "not_returnable"], "700 are left, so the first of them can complete");
    assert_eq!(fixture.points_of("alice"), 400);
}

#[test]
fn the_returns_of_an_upgrade_count_together_with_those_of_the_certificate_that_was_paid_for() {
    let mut fixture = Fixture::new();
    put_song(&mut fixture, 600, 400);
    let policy = ReturnPolicy { upgrade: None, ..generous_song().return_policy };
    let policy = ReturnPolicy { points: Count::try_from(600i64).ok(), ..policy };
    fixture.ask(Request::ContentPut(ContentPut { return_policy: policy, ..sequel() }));
    let bought = fixture.ready(1);
    let [first, second, third] = licenses(&mut fixture, &bought.tokens[0], ["a", "b", "c"]);
    let token = upgraded(&mut fixture, &first).privilege.certificate_token.expect("the successor's token");
    let [newest] = licenses(&mut fixture, &token, ["a"]);
    let mut back = |token: &str, privilege| outcome(&fixture.ask(license_return(token, "alice", privilege, true)));
    assert_eq!(back(&newest, Privilege::Points), "license.returned", "600 of the 1000 that were paid for the song");
    assert_eq!(back(&second, Privilege::Points), "not_returnable", "600 more of the song itself");
    assert_eq!(back(&second, Privilege::Buyback), "license.returned", "400 more");
    assert_eq!(back(&third, Privilege::Buyback), "not_returnable", "nothing is left");
    assert_eq!(back(&third, Privilege::Upgrade), "license.returned", "an upgrade brings nothing by itself");
}

fn upgraded(fixture: &mut Fixture, license: &str) -> licet_schema::message::LicenseReturned {
    match fixture.ask(license_return(license, "alice", Privilege::Upgrade, true)) {
        Output::LicenseReturned(returned) => returned,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_return_grants_the_privilege_that_the_policy_offers() {
    for (privilege, expected) in [
        (Privilege::Points, (Some(40), None, false)),
        (Privilege::Buyback, (None, Some(300), false)),
        (Privilege::Collection, (None, None, false)),
        (Privilege::Upgrade, (None, None, true)),
    ] {
        let mut fixture = Fixture::with_song();
        fixture.ask(Request::ContentPut(crate::fixture::sequel()));
        let points_only = fixture.granted("player");
        if privilege != Privilege::Points {
            assert_eq!(outcome(&fixture.ask(license_return(&points_only, "alice", privilege, true))), "not_returnable");
        }
        fixture.ask(Request::ContentPut(crate::fixture::generous_song()));
        let bought = fixture.buy(1);
        fixture.receive(&bought);
        fixture.settle(&bought, "pay-2");
        let license = fixture.license(&bought, "player").expect("a license");
        fixture.ask(license_receipt(&license));
        let Output::LicenseReturned(returned) = fixture.ask(license_return(&license, "alice", privilege, true)) else {
            panic!("{privilege:?} was not granted")
        };
        let granted = &returned.privilege;
        let granted = (
            granted.points.map(|points| points.get()),
            granted.amount.map(|amount| amount.amount_minor.get()),
            granted.certificate.is_some(),
        );
        assert_eq!(granted, expected, "{privilege:?}");
        assert_eq!(fixture.store.rows::<collection::Entity>().count(), 1, "{privilege:?}");
        assert_eq!(fixture.store.rows::<privilege::Entity>().count(), 1, "{privilege:?}");
    }
}

#[test]
fn an_upgrade_moves_the_remaining_grants_to_the_successor() {
    let mut fixture = Fixture::with_song();
    fixture.ask(Request::ContentPut(crate::fixture::sequel()));
    fixture.ask(Request::ContentPut(crate::fixture::generous_song()));
    let bought = fixture.ready(1);
    let license = fixture.license(&bought, "player").expect("a license");
    fixture.ask(license_receipt(&license));
    let returned = upgraded(&mut fixture, &license);
    let token = returned.privilege.certificate_token.expect("the successor's token");
    let row = fixture
        .store
        .get::<certificate::Entity>(&returned.privilege.certificate.expect("an upgrade"))
        .expect("a live certificate");
    assert_eq!(
        (row.content.as_str(), row.grants.get(), row.provider.as_ref().map(Name::as_str)),
        ("sequel", 3, Some("licet"))
    );
    for terminal in ["a", "b", "c"] {
        assert_eq!(outcome(&fixture.ask(crate::fixture::license_request(&token, terminal))), "license.issued");
    }
    assert_eq!(outcome(&fixture.ask(crate::fixture::license_request(&token, "d"))), "exhausted");
    assert_eq!(outcome(&fixture.ask(crate::fixture::license_request(&bought.tokens[0], "d"))), "exhausted");
}

#[test]
fn an_upgrade_to_a_content_that_is_not_sold_is_refused() {
    let mut fixture = Fixture::with_song();
    fixture.ask(Request::ContentPut(crate::fixture::generous_song()));
    let license = fixture.granted("player");
    assert_eq!(outcome(&fixture.ask(license_return(&license, "alice", Privilege::Upgrade, true))), "not_returnable");
}

#[test]
fn the_token_of_an_upgrade_is_sent_only_in_the_first_reply() {
    let mut fixture = Fixture::with_song();
    fixture.ask(Request::ContentPut(crate::fixture::sequel()));
    fixture.ask(Request::ContentPut(crate::fixture::generous_song()));
    let license = fixture.granted("player");
    let Output::ReturnOpened(opened) = fixture.ask(license_return(&license, "alice", Privilege::Upgrade, false)) else {
        panic!("no return was opened")
    };
    let deletion = Request::LicenseDeletion(LicenseDeletion { license_return: opened.license_return });
    let mut tokens = Vec::new();
    for _ in 0..2 {
        let Output::LicenseReturned(returned) = fixture.ask(deletion.clone()) else { panic!("the return was refused") };
        tokens.push((returned.repeated, returned.privilege.certificate_token.is_some()));
    }
    assert_eq!(tokens, [(false, true), (true, false)]);
}
