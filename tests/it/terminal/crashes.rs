//! A terminal is interrupted between two steps and continues later. It is interrupted either
//! because a worker is not running, so that the reply does not arrive in time, or because a file
//! cannot be deleted.

use std::{path::Path, time::Duration};

use licet_client::{
    Patience,
    terminal::{Outcome, Resumed, Standing, Terminal, TerminalError},
};
use licet_schema::{
    Code, Request,
    entity::certificate_record,
    message::{LicenseDeletion, Privilege},
    topology,
};

use super::{
    Workers, content_file, first_version, license_of, licensed, only, patient, pay, points_of, put_songs, standings,
    terminal,
};
use crate::system::{TestSystem, on_both};

on_both!(
    a_purchase_whose_reply_was_lost_is_completed_and_not_repeated,
    stored_certificates_and_licenses_are_acknowledged_by_the_next_run,
    a_deletion_is_reported_only_after_the_copy_is_deleted,
    a_deletion_whose_reply_was_lost_still_yields_the_upgrade,
    a_return_that_lapsed_before_the_copy_was_deleted_is_opened_again,
);

/// A terminal that waits only 3 s for the reply of a worker that is not running.
async fn impatient(system: &TestSystem) -> Terminal {
    terminal(system, Patience { each: Duration::from_secs(3), attempts: 1 }).await
}

fn assert_no_reply<T: std::fmt::Debug>(result: Result<T, TerminalError>, request: &str) {
    let Err(TerminalError::Client(error)) = &result else { panic!("{request} has a reply: {result:?}") };
    assert!(error.to_string().contains(request), "{error}");
}

async fn a_purchase_whose_reply_was_lost_is_completed_and_not_repeated(mut system: TestSystem) {
    let workers = Workers::start_without(&system, &["purchase"]);
    put_songs(&system).await;
    assert_no_reply(impatient(&system).await.buy(first_version(2)).await, "purchase.request");
    workers.stop().await;

    // The purchase is decided now, but no terminal is running that could receive the reply.
    let (_, mut issued) = system.listen(&[(topology::EVENTS, "certificate.issued")]).await;
    system.start_workers();
    issued.next().await;
    let bought = patient(&system).await.buy(first_version(2)).await.expect("the same purchase");
    assert_eq!(bought.certificates.len(), 2);
    let mut terminal = patient(&system).await;
    assert!(terminal.resume().await.expect("readable").is_empty());
    assert_eq!(standings(&terminal), [Standing::Received; 2]);
    let records = system.rows::<certificate_record::Entity>().await;
    assert_eq!(records.len(), 2, "two certificates of one purchase");
    system.finish().await;
}

async fn stored_certificates_and_licenses_are_acknowledged_by_the_next_run(mut system: TestSystem) {
    let workers = Workers::start_without(&system, &["reception"]);
    put_songs(&system).await;
    let mut terminal = impatient(&system).await;
    assert_no_reply(terminal.buy(first_version(2)).await, "certificate.receipt");
    assert_eq!(standings(&terminal), [Standing::Arrived; 2]);
    drop(terminal);
    workers.stop().await;
    let workers = Workers::start(&system, &["catalog", "purchase", "reception", "settlement"]);
    let mut terminal = patient(&system).await;
    let Ok(Resumed::Bought(bought)) = only(terminal.resume().await.expect("readable")) else { panic!("not resumed") };
    assert_eq!(standings(&terminal), [Standing::Received; 2]);
    pay(&system, &bought).await;
    drop(terminal);
    workers.stop().await;

    let workers = Workers::start(&system, &["license"]);
    let mut terminal = impatient(&system).await;
    assert_no_reply(terminal.fetch(bought.certificates[0], None).await, "license.receipt");
    let [stored] = &terminal.store().licenses().expect("readable")[..] else { panic!("not one stored license") };
    assert!(!stored.received);
    drop(terminal);
    workers.stop().await;
    system.start_workers();
    let mut terminal = patient(&system).await;
    let resumed = only(terminal.resume().await.expect("readable")).expect("a reply");
    let Resumed::Fetched { fetched, .. } = resumed else { panic!("{resumed:?}") };
    assert_eq!(license_of(fetched), stored.claims.jti);
    assert!(terminal.store().licenses().expect("readable")[0].received);
    system.finish().await;
}

async fn a_deletion_is_reported_only_after_the_copy_is_deleted(mut system: TestSystem) {
    system.start_workers();
    put_songs(&system).await;
    let (_, media) = content_file(&system);
    let (_, mut deletions) = system.listen(&[(topology::IN, "license.deletion")]).await;
    let mut terminal = patient(&system).await;
    let (_, license) = licensed(&system, &mut terminal, Some(media.clone())).await;
    let content = terminal.store().content(license).expect("its content");
    replace_with_folder(&content);
    let error = terminal.give_back(license, Privilege::Points).await.expect_err("a folder cannot be deleted as a file");
    assert!(matches!(error, TerminalError::Store(_)), "{error}");
    drop(terminal);

    std::fs::remove_dir(&content).expect("the folder is removed");
    std::fs::write(&content, "la la la").expect("the copy is a file again");
    let mut terminal = patient(&system).await;
    let Ok(Resumed::Returned(returned)) = only(terminal.resume().await.expect("readable")) else {
        panic!("not resumed")
    };
    assert_eq!(points_of(&returned), Some(40));
    let files = std::fs::read_dir(content.parent().expect("a folder")).expect("readable");
    assert_eq!(files.count(), 0, "the license and its content are deleted");
    let (_, second) = licensed(&system, &mut terminal, Some(media)).await;
    let second = terminal.give_back(second, Privilege::Points).await.expect("points");
    for expected in [returned.license_return, second.license_return] {
        let report = deletions.next().await;
        let report = Request::decode("license.deletion", &report.body).expect("a deletion");
        assert_eq!(report, Request::LicenseDeletion(LicenseDeletion { license_return: expected }));
    }
    system.finish().await;
}

/// Makes the deletion of the file fail, so that the terminal stops at this step.
fn replace_with_folder(file: &Path) {
    std::fs::remove_file(file).expect("the file is removed");
    std::fs::create_dir(file).expect("a folder in its place");
}

async fn a_deletion_whose_reply_was_lost_still_yields_the_upgrade(mut system: TestSystem) {
    system.start_workers();
    put_songs(&system).await;
    let (_, media) = content_file(&system);
    let mut terminal = patient(&system).await;
    let (_, license) = licensed(&system, &mut terminal, Some(media)).await;
    let content = terminal.store().content(license).expect("its content");
    replace_with_folder(&content);
    terminal.give_back(license, Privilege::Upgrade).await.expect_err("it stops after the return is opened");
    drop(terminal);
    // Create the state of a terminal that was interrupted after it deleted both files and before it
    // reported the deletion.
    std::fs::remove_dir(&content).expect("the content is removed");
    std::fs::remove_file(content.with_extension("json")).expect("the license is removed");
    system.stop_workers().await;
    let mut terminal = impatient(&system).await;
    assert_no_reply(only(terminal.resume().await.expect("readable")), "license.deletion");
    drop(terminal);

    let (_, mut returned) = system.listen(&[(topology::EVENTS, "license.returned")]).await;
    system.start_workers();
    returned.next().await;
    let mut terminal = patient(&system).await;
    let Ok(Resumed::Returned(_)) = only(terminal.resume().await.expect("readable")) else { panic!("not resumed") };
    let wanted = terminal.wanted().expect("readable");
    assert_eq!(wanted.len(), 1, "the certificate of the upgrade is stored");
    license_of(terminal.fetch(wanted[0], None).await.expect("its license"));
    system.finish().await;
}

async fn a_return_that_lapsed_before_the_copy_was_deleted_is_opened_again(mut system: TestSystem) {
    system.start_workers();
    put_songs(&system).await;
    let (_, media) = content_file(&system);
    let mut terminal = patient(&system).await;
    let (_, license) = licensed(&system, &mut terminal, Some(media)).await;
    let content = terminal.store().content(license).expect("its content");
    replace_with_folder(&content);
    terminal.give_back(license, Privilege::Points).await.expect_err("it stops after the return is opened");
    let other = terminal.give_back(license, Privilege::Upgrade).await.expect_err("one privilege at a time");
    assert!(matches!(other, TerminalError::Returning { privilege: Privilege::Points }), "{other}");
    system.resources.clock.advance_ms(25 * 3_600_000);
    std::fs::remove_dir(&content).expect("the folder is removed");
    let returned = terminal.give_back(license, Privilege::Points).await.expect("points");
    assert_eq!(points_of(&returned), Some(40));
    let outcomes: Vec<_> = terminal.store().returns().expect("readable").into_iter().map(|one| one.outcome).collect();
    assert_eq!(outcomes, [Some(Outcome::Refused(Code::Lapsed)), returned.outcome]);
    system.finish().await;
}
