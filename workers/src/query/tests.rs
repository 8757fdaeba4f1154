use licet_schema::{
    Count, ExternalId, Output, Request,
    message::{CertificateState, HoldingsListed, HoldingsQuery, Privilege, StatusListed, StatusQuery, SweepKind},
};
use uuid::Uuid;

use crate::testing::{
    Bought, HOUR_MS, Stage, check, generous_song, license_receipt, license_return, name, sequel, setback, verdict,
};

fn holdings(stage: &mut Stage, after: Option<Uuid>, limit: i64) -> HoldingsListed {
    let query = HoldingsQuery { user: name("alice"), after, limit: Count::try_from(limit).ok() };
    match stage.ask(Request::HoldingsQuery(query)) {
        Output::HoldingsListed(listed) => listed,
        other => panic!("{other:?}"),
    }
}

fn nothing() -> StatusQuery {
    StatusQuery {
        certificate: None,
        container: None,
        license: None,
        license_return: None,
        reference: None,
        settlement: None,
    }
}

fn status(stage: &mut Stage, query: StatusQuery) -> Output {
    stage.ask(Request::StatusQuery(query))
}

fn states(output: &Output) -> Vec<CertificateState> {
    match output {
        Output::StatusListed(StatusListed { certificates }) => certificates.iter().map(|one| one.state).collect(),
        other => panic!("{other:?}"),
    }
}

fn of(bought: &Bought) -> StatusQuery {
    StatusQuery { certificate: bought.certificates.first().copied(), ..nothing() }
}

#[test]
fn verdicts_on_queries() {
    check(&[
        (
            "of a certificate that never was",
            |stage| status(stage, StatusQuery { certificate: Some(Uuid::from_u128(1)), ..nothing() }),
            "unknown_certificate",
        ),
        (
            "of a container that never was",
            |stage| status(stage, StatusQuery { container: Some(Uuid::from_u128(1)), ..nothing() }),
            "unknown_certificate",
        ),
        (
            "of a license that never was",
            |stage| status(stage, StatusQuery { license: Some(Uuid::from_u128(1)), ..nothing() }),
            "unknown_license",
        ),
        (
            "of a return that never was",
            |stage| status(stage, StatusQuery { license_return: Some(Uuid::from_u128(1)), ..nothing() }),
            "unknown_return",
        ),
        (
            "of an order that never was",
            |stage| status(stage, StatusQuery { reference: ExternalId::try_from("nobody's").ok(), ..nothing() }),
            "status.listed",
        ),
        ("of nothing", |stage| status(stage, nothing()), "malformed"),
        (
            "of pages that are too long",
            |stage| {
                let limit = Count::try_from(251i64).ok();
                stage.ask(Request::HoldingsQuery(HoldingsQuery { user: name("alice"), after: None, limit }))
            },
            "malformed",
        ),
        (
            "of somebody unknown",
            |stage| stage.ask(Request::HoldingsQuery(HoldingsQuery { user: name("nobody"), after: None, limit: None })),
            "holdings.listed",
        ),
    ]);
}

#[test]
fn a_certificates_status_follows_its_life_and_its_deadlines() {
    let mut stage = Stage::with_song();
    let bought = stage.buy(1);
    let mut seen = vec![states(&status(&mut stage, of(&bought)))];
    stage.receive(&bought);
    seen.push(states(&status(&mut stage, of(&bought))));
    stage.settle(&bought, "pay-1");
    seen.push(states(&status(&mut stage, of(&bought))));
    stage.later(31 * 24 * HOUR_MS);
    seen.push(states(&status(&mut stage, of(&bought))));
    stage.sweep(SweepKind::Certificate);
    seen.push(states(&status(&mut stage, of(&bought))));
    stage.ask(Request::SettlementReversal(setback(&bought, "pay-1")));
    seen.push(states(&status(&mut stage, of(&bought))));
    use CertificateState::{Expired, Issued, Received, Reversed, Settled};
    assert_eq!(seen.concat(), [Issued, Received, Settled, Expired, Expired, Reversed]);
}

#[test]
fn every_id_leads_to_the_certificates() {
    let mut stage = Stage::with_song();
    let bought = stage.ready(2);
    let license = stage.license(&bought, "player").expect("a license");
    stage.ask(license_receipt(&license));
    let id = stage.tables.licenses.iter().next().map(|row| row.id);
    let Output::ReturnOpened(opened) = stage.ask(license_return(&license, "alice", Privilege::Points, false)) else {
        panic!("not opened")
    };
    for (query, count) in [
        (StatusQuery { container: bought.container, ..nothing() }, 2),
        (StatusQuery { license: id, ..nothing() }, 1),
        (StatusQuery { license_return: Some(opened.license_return), ..nothing() }, 1),
        (StatusQuery { reference: ExternalId::try_from("order-1").ok(), ..nothing() }, 2),
        (StatusQuery { settlement: ExternalId::try_from("pay-1").ok(), ..nothing() }, 2),
        (of(&bought), 1),
    ] {
        assert_eq!(states(&status(&mut stage, query.clone())).len(), count, "{query:?}");
    }
}

#[test]
fn holdings_come_in_pages_with_what_each_license_would_bring_back() {
    let mut stage = Stage::with_song();
    stage.ask(Request::ContentPut(sequel()));
    stage.ask(Request::ContentPut(generous_song()));
    let bought = stage.ready(1);
    for terminal in ["a", "b", "c"] {
        let license = stage.later(1).license(&bought, terminal).expect("a license");
        if terminal != "c" {
            stage.ask(license_receipt(&license));
        }
    }
    let first = holdings(&mut stage, None, 2);
    assert_eq!(first.licenses.len(), 2);
    let everything = [Privilege::Points, Privilege::Upgrade, Privilege::Buyback, Privilege::Collection];
    assert!(first.licenses.iter().all(|one| one.returnable == everything));
    let second = holdings(&mut stage, first.next, 2);
    assert_eq!(second.licenses.len(), 1);
    assert_eq!(second.licenses[0].attributes.state.as_str(), "outstanding");
    assert!(second.licenses[0].returnable.is_empty() && second.next.is_none());
    assert!(stage.events().is_empty());
    assert_eq!(verdict(&Output::HoldingsListed(second)), "holdings.listed");
}
