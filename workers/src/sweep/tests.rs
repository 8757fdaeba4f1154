use licet_common::decision::{Context, Decision};
use licet_schema::entity::{certificate_record, license, pending_reception};
use licet_schema::{
    Output, Request, Timestamp,
    entity::LicenseState,
    message::Ending,
    message::{Privilege, SweepDue, SweepKind},
};

use uuid::Uuid;

use super::{ROWS_MAX, rules};
use crate::domain::Tables;
use crate::fixture::{Fixture, HOUR_MS, license_receipt, license_return, outcome, receipt};

const MONTH_MS: i64 = 31 * 24 * HOUR_MS;

fn endings(fixture: &Fixture) -> Vec<Option<Ending>> {
    fixture.store.rows::<certificate_record::Entity>().map(|row| row.ended).collect()
}

#[test]
fn a_purchase_that_is_not_acknowledged_in_time_lapses_with_its_pending_reception() {
    let mut fixture = Fixture::with_song();
    fixture.give_points("alice", 100);
    let bought = fixture.buy_with_points(2, 100);
    assert!(fixture.later(24 * HOUR_MS).sweep(SweepKind::Reception).is_empty(), "the deadline is not over yet");
    let events = fixture.later(1).sweep(SweepKind::Reception);
    assert_eq!(events, ["certificate.retired", "certificate.retired", "points.changed"]);
    assert_eq!(endings(&fixture), [Some(Ending::Lapsed); 2]);
    assert_eq!(fixture.store.rows::<pending_reception::Entity>().count(), 0);
    assert_eq!(fixture.points_of("alice"), 100);
    assert_eq!(outcome(&fixture.ask(receipt(&bought))), "lapsed");
}

#[test]
fn paid_and_unpaid_certificates_expire() {
    let mut fixture = Fixture::with_song();
    let (paid, unpaid) = (fixture.buy(2), fixture.buy(2));
    for bought in [&paid, &unpaid] {
        fixture.receive(bought);
    }
    fixture.settle(&paid, "pay-1");
    let events = fixture.later(MONTH_MS).sweep(SweepKind::Certificate);
    assert_eq!(events, ["certificate.retired"; 4]);
    assert_eq!(endings(&fixture), [Some(Ending::Expired); 4]);
    assert!(fixture.sweep(SweepKind::Certificate).is_empty());
}

#[test]
fn an_outstanding_license_survives_the_expiry_of_its_certificate() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.ready(1);
    let license = fixture.license(&bought, "player").expect("a license");
    fixture.later(MONTH_MS).sweep(SweepKind::Certificate);
    assert_eq!(outcome(&fixture.ask(license_receipt(&license))), "license.granted");
    assert_eq!(
        fixture.store.rows::<certificate_record::Entity>().map(|row| row.granted.get()).collect::<Vec<_>>(),
        [1]
    );
}

#[test]
fn a_return_that_is_not_completed_in_time_lapses_and_its_license_is_valid_again() {
    let mut fixture = Fixture::with_song();
    let license = fixture.granted("player");
    fixture.ask(license_return(&license, "alice", Privilege::Points, false));
    assert!(fixture.sweep(SweepKind::Return).is_empty());
    assert_eq!(fixture.later(25 * HOUR_MS).sweep(SweepKind::Return), ["return.lapsed"]);
    assert!(fixture.store.rows::<license::Entity>().all(|row| row.state == LicenseState::Granted));
    assert_eq!(outcome(&fixture.ask(license_return(&license, "alice", Privilege::Points, true))), "license.returned");
}

#[test]
fn a_sweep_ignores_future_deadlines_and_continues_while_more_is_overdue() {
    let mut fixture = Fixture::with_song();
    fixture.buy(1);
    let ahead = SweepDue { kind: SweepKind::Reception, before: Timestamp::from_millis(fixture.now_ms + MONTH_MS) };
    assert_eq!(fixture.send(Request::SweepDue(ahead.clone())), None);
    assert!(fixture.events().is_empty(), "a bound in the future is limited to now");
    for _ in 0..ROWS_MAX {
        fixture.buy(1);
    }
    fixture.later(MONTH_MS);
    fixture.send(Request::SweepDue(ahead.clone()));
    assert_eq!(
        fixture.last.as_ref().and_then(|last| last.events.last().cloned()),
        Some(Output::SweepDue(ahead.clone()))
    );
    assert_eq!(fixture.events().iter().filter(|kind| **kind == "certificate.retired").count() as u64, ROWS_MAX);
    fixture.send(Request::SweepDue(ahead.clone()));
    assert_eq!(fixture.events(), ["certificate.retired"], "the last certificate, and no further sweep");
    fixture.send(Request::SweepDue(ahead.clone()));
    assert!(fixture.events().is_empty());

    let context = Context {
        now: Timestamp::from_millis(fixture.now_ms),
        keyring: &fixture.keyring,
        terms: &fixture.terms,
        message_id: Uuid::from_u128(1),
        message_digest: [0; 32],
        sender: None,
    };
    let mut locked_elsewhere = Tables { more: true, ..Tables::default() };
    let decision = rules::sweep(&context, &mut locked_elsewhere, &ahead).expect("no defect");
    assert_eq!(decision, Decision::nothing(), "rows that other transactions have locked are left to the next tick");
}
