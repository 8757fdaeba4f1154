use licet_schema::{
    Output, Request, Timestamp,
    entity::{Ending, LicenseState},
    message::{Privilege, SweepDue, SweepKind},
};

use crate::testing::{HOUR_MS, Stage, license_receipt, license_return, receipt, verdict};

const MONTH_MS: i64 = 31 * 24 * HOUR_MS;

fn endings(stage: &Stage) -> Vec<Option<Ending>> {
    stage.tables.purchases.iter().map(|row| row.ended).collect()
}

#[test]
fn what_was_not_acknowledged_in_time_lapses_with_its_pending_reception() {
    let mut stage = Stage::with_song();
    stage.rich("alice", 100);
    let bought = stage.buy_with_points(2, 100);
    assert!(stage.later(24 * HOUR_MS).sweep(SweepKind::Reception).is_empty(), "its time is not over yet");
    let events = stage.later(1).sweep(SweepKind::Reception);
    assert_eq!(events, ["certificate.retired", "certificate.retired", "points.changed"]);
    assert_eq!(endings(&stage), [Some(Ending::Lapsed); 2]);
    assert_eq!(stage.tables.pending_receptions.iter().count(), 0);
    assert_eq!(crate::points::balance(&stage.tables, "alice"), 100);
    assert_eq!(verdict(&stage.ask(receipt(&bought))), "lapsed");
}

#[test]
fn what_is_paid_for_expires_one_by_one_and_what_is_not_ends_whole() {
    let mut stage = Stage::with_song();
    let (paid, unpaid) = (stage.buy(2), stage.buy(2));
    for bought in [&paid, &unpaid] {
        stage.receive(bought);
    }
    stage.settle(&paid, "pay-1");
    let events = stage.later(MONTH_MS).sweep(SweepKind::Certificate);
    assert_eq!(events, ["certificate.retired"; 4]);
    assert_eq!(endings(&stage), [Some(Ending::Expired); 4]);
    assert!(stage.sweep(SweepKind::Certificate).is_empty());
}

#[test]
fn a_license_under_way_outlives_its_certificate() {
    let mut stage = Stage::with_song();
    let bought = stage.ready(1);
    let license = stage.license(&bought, "player").expect("a license");
    stage.later(MONTH_MS).sweep(SweepKind::Certificate);
    assert_eq!(verdict(&stage.ask(license_receipt(&license))), "license.granted");
    assert_eq!(stage.tables.purchases.iter().map(|row| row.granted).collect::<Vec<_>>(), [1]);
}

#[test]
fn a_return_that_was_not_completed_lapses_and_the_license_is_live_again() {
    let mut stage = Stage::with_song();
    let license = stage.granted("player");
    stage.ask(license_return(&license, "alice", Privilege::Points, false));
    assert!(stage.sweep(SweepKind::Return).is_empty());
    assert_eq!(stage.later(25 * HOUR_MS).sweep(SweepKind::Return), ["return.lapsed"]);
    assert!(stage.tables.licenses.iter().all(|row| row.state == LicenseState::Granted));
    assert_eq!(verdict(&stage.ask(license_return(&license, "alice", Privilege::Points, true))), "license.returned");
}

#[test]
fn a_sweep_does_not_run_ahead_of_time_and_asks_for_more_while_it_gets_on() {
    let mut stage = Stage::with_song();
    stage.buy(1);
    let ahead = SweepDue { kind: SweepKind::Reception, before: Timestamp::from_millis(stage.now_ms + MONTH_MS) };
    assert_eq!(stage.tell(Request::SweepDue(ahead.clone())), None);
    assert!(stage.events().is_empty(), "its bound is now at most");
    stage.tables.more = true;
    stage.later(MONTH_MS);
    stage.tell(Request::SweepDue(ahead.clone()));
    assert_eq!(stage.last.as_ref().and_then(|last| last.events.last().cloned()), Some(Output::SweepDue(ahead.clone())));
    stage.tell(Request::SweepDue(ahead));
    assert!(stage.events().is_empty(), "what others hold is left to the next tick");
}
