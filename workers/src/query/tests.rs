use licet_schema::entity::license;
use licet_schema::{
    Count, ExternalId, Output, Request,
    message::{
        CertificateState, HoldingsListed, HoldingsQuery, LicenseDeletion, LicenseState, Privilege, StatusListed,
        StatusQuery, SweepKind,
    },
};
use uuid::Uuid;

use crate::fixture::{
    Bought, Fixture, HOUR_MS, check, generous_song, license_receipt, license_return, name, outcome, reissue, reversal,
    sequel,
};

fn holdings(fixture: &mut Fixture, after: Option<Uuid>, limit: i64) -> HoldingsListed {
    let query = HoldingsQuery { user: name("alice"), after, limit: Count::try_from(limit).ok() };
    match fixture.ask(Request::HoldingsQuery(query)) {
        Output::HoldingsListed(listed) => listed,
        other => panic!("{other:?}"),
    }
}

fn empty_query() -> StatusQuery {
    StatusQuery {
        certificate: None,
        container: None,
        license: None,
        license_return: None,
        reference: None,
        settlement: None,
    }
}

fn status(fixture: &mut Fixture, query: StatusQuery) -> Output {
    fixture.ask(Request::StatusQuery(query))
}

fn states(output: &Output) -> Vec<CertificateState> {
    match output {
        Output::StatusListed(StatusListed { certificates, .. }) => certificates.iter().map(|one| one.state).collect(),
        other => panic!("{other:?}"),
    }
}

fn of(bought: &Bought) -> StatusQuery {
    StatusQuery { certificate: bought.certificates.first().copied(), ..empty_query() }
}

#[test]
fn outcomes_of_queries() {
    check(&[
        (
            "a certificate that does not exist",
            |fixture| status(fixture, StatusQuery { certificate: Some(Uuid::from_u128(1)), ..empty_query() }),
            "unknown_certificate",
        ),
        (
            "a container that does not exist",
            |fixture| status(fixture, StatusQuery { container: Some(Uuid::from_u128(1)), ..empty_query() }),
            "unknown_certificate",
        ),
        (
            "a license that does not exist",
            |fixture| status(fixture, StatusQuery { license: Some(Uuid::from_u128(1)), ..empty_query() }),
            "unknown_license",
        ),
        (
            "a return that does not exist",
            |fixture| status(fixture, StatusQuery { license_return: Some(Uuid::from_u128(1)), ..empty_query() }),
            "unknown_return",
        ),
        (
            "a reference that does not exist",
            |fixture| status(fixture, StatusQuery { reference: ExternalId::try_from("order-9").ok(), ..empty_query() }),
            "status.listed",
        ),
        ("no id", |fixture| status(fixture, empty_query()), "malformed"),
        (
            "a page above the limit",
            |fixture| {
                let limit = Count::try_from(251i64).ok();
                fixture.ask(Request::HoldingsQuery(HoldingsQuery { user: name("alice"), after: None, limit }))
            },
            "malformed",
        ),
        (
            "an unknown user",
            |fixture| {
                fixture.ask(Request::HoldingsQuery(HoldingsQuery { user: name("nobody"), after: None, limit: None }))
            },
            "holdings.listed",
        ),
    ]);
}

#[test]
fn the_status_of_a_certificate_follows_its_messages_and_deadlines() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.buy(1);
    let mut seen = vec![states(&status(&mut fixture, of(&bought)))];
    fixture.receive(&bought);
    seen.push(states(&status(&mut fixture, of(&bought))));
    fixture.settle(&bought, "pay-1");
    seen.push(states(&status(&mut fixture, of(&bought))));
    fixture.later(31 * 24 * HOUR_MS);
    seen.push(states(&status(&mut fixture, of(&bought))));
    fixture.sweep(SweepKind::Certificate);
    seen.push(states(&status(&mut fixture, of(&bought))));
    fixture.ask(Request::SettlementReversal(reversal(&bought, "pay-1")));
    seen.push(states(&status(&mut fixture, of(&bought))));
    use CertificateState::{Expired, Issued, Received, Reversed, Settled};
    assert_eq!(seen.concat(), [Issued, Received, Settled, Expired, Expired, Reversed]);
}

#[test]
fn a_status_query_finds_the_certificates_by_every_id() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.ready(2);
    let license = fixture.license(&bought, "player").expect("a license");
    fixture.ask(license_receipt(&license));
    let id = fixture.store.rows::<license::Entity>().next().map(|row| row.id);
    let Output::ReturnOpened(opened) = fixture.ask(license_return(&license, "alice", Privilege::Points, false)) else {
        panic!("no return was opened")
    };
    for (query, count) in [
        (StatusQuery { container: bought.container, ..empty_query() }, 2),
        (StatusQuery { license: id, ..empty_query() }, 1),
        (StatusQuery { license_return: Some(opened.license_return), ..empty_query() }, 1),
        (StatusQuery { reference: ExternalId::try_from("order-1").ok(), ..empty_query() }, 2),
        (StatusQuery { settlement: ExternalId::try_from("pay-1").ok(), ..empty_query() }, 2),
        (of(&bought), 1),
    ] {
        assert_eq!(states(&status(&mut fixture, query.clone())).len(), count, "{query:?}");
    }
}

/// The state of a license in the reply to a query for it.
fn license_state(fixture: &mut Fixture, id: Uuid) -> LicenseState {
    match status(fixture, StatusQuery { license: Some(id), ..empty_query() }) {
        Output::StatusListed(StatusListed { certificates, license: Some(one) }) => {
            assert_eq!((certificates.len(), one.license), (1, id));
            one.state
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_status_query_for_a_license_tells_the_state_of_the_license_itself() {
    use LicenseState::{Granted, Outstanding, Returned, Revoked, Superseded};
    let mut fixture = Fixture::with_song();
    let bought = fixture.ready(1);
    let mut licenses = Vec::new();
    for terminal in ["a", "b", "c"] {
        let token = fixture.license(&bought, terminal).expect("a license");
        let known: Vec<_> = licenses.iter().map(|(id, _)| *id).collect();
        let id = fixture.store.rows::<license::Entity>().map(|row| row.id).find(|id| !known.contains(id));
        licenses.push((id.expect("a new license"), token));
    }
    let [(first, first_token), (second, second_token), (third, _)] = &licenses[..] else { unreachable!() };
    assert_eq!(license_state(&mut fixture, *first), Outstanding);
    fixture.ask(license_receipt(first_token));
    assert_eq!(license_state(&mut fixture, *first), Granted);
    let Output::ReturnOpened(opened) = fixture.ask(license_return(first_token, "alice", Privilege::Points, false))
    else {
        panic!("no return was opened")
    };
    assert_eq!(license_state(&mut fixture, *first), Granted, "the return may still lapse");
    fixture.ask(Request::LicenseDeletion(LicenseDeletion { license_return: opened.license_return }));
    assert_eq!(license_state(&mut fixture, *first), Returned);
    fixture.ask(license_receipt(second_token));
    fixture.ask(reissue(bought.certificates[0], None));
    assert_eq!(license_state(&mut fixture, *third), Superseded, "a reissue revokes outstanding licenses");
    assert_eq!(license_state(&mut fixture, *second), Granted);
    fixture.ask(Request::SettlementReversal(reversal(&bought, "pay-1")));
    let states = [first, second, third].map(|id| license_state(&mut fixture, *id));
    assert_eq!(states, [Returned, Revoked, Superseded], "a reversal revokes the license that is left");
    let Output::StatusListed(listed) = status(&mut fixture, of(&bought)) else { panic!("no status") };
    assert_eq!(listed.license, None, "other queries tell nothing about a license");
}

#[test]
fn holdings_are_listed_in_pages_with_the_privileges_of_each_license() {
    let mut fixture = Fixture::with_song();
    fixture.ask(Request::ContentPut(sequel()));
    fixture.ask(Request::ContentPut(generous_song()));
    let bought = fixture.ready(1);
    for terminal in ["a", "b", "c"] {
        let license = fixture.later(1).license(&bought, terminal).expect("a license");
        if terminal != "c" {
            fixture.ask(license_receipt(&license));
        }
    }
    let first = holdings(&mut fixture, None, 2);
    assert_eq!(first.licenses.len(), 2);
    let everything = [Privilege::Points, Privilege::Upgrade, Privilege::Buyback, Privilege::Collection];
    assert!(first.licenses.iter().all(|one| one.returnable == everything));
    let second = holdings(&mut fixture, first.next, 2);
    assert_eq!(second.licenses.len(), 1);
    assert_eq!(second.licenses[0].attributes.state.as_str(), "outstanding");
    assert!(second.licenses[0].returnable.is_empty() && second.next.is_none());
    assert!(fixture.events().is_empty());
    assert_eq!(outcome(&Output::HoldingsListed(second)), "holdings.listed");
}

#[test]
fn a_license_is_returning_until_the_deadline_of_its_return_and_then_granted_again() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.ready(1);
    let token = fixture.license(&bought, "player").expect("a license");
    fixture.ask(license_receipt(&token));
    fixture.ask(license_return(&token, "alice", Privilege::Points, false));
    let mut listed = |later_ms| {
        let page = holdings(fixture.later(later_ms), None, 10);
        let license = page.licenses.into_iter().next().expect("one license");
        (license.attributes.state.as_str().to_owned(), license.returnable)
    };
    assert_eq!(listed(0), ("returning".into(), vec![]));
    assert_eq!(listed(25 * HOUR_MS), ("granted".into(), vec![Privilege::Points]), "no sweep has run");
}
