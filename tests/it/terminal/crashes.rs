//! A terminal that is stopped between two steps, and what goes on when it comes back. What stops it is
//! a worker that does not run, whose answer comes later and to nobody, or a file that cannot be
//! deleted.

use std::{path::Path, time::Duration};

use licet_client::{
    Patience,
    terminal::{Fetched, Outcome, Resumed, Standing, Terminal, TerminalError},
};
use licet_schema::{
    Code, Format, Request,
    entity::purchase,
    message::{LicenseDeletion, Privilege},
    topology,
};
use sea_orm::EntityTrait;

use super::{
    Workers, brought, first_version, license_of, licensed, only, patient, pay, put_songs, standings, terminal, work,
};
use crate::world::{World, on_both};

on_both!(
    a_purchase_whose_answer_was_lost_is_completed_and_not_made_again,
    what_is_kept_and_not_acknowledged_is_acknowledged_by_the_next_run,
    a_deletion_is_reported_only_after_the_copy_is_gone,
    a_deletion_whose_answer_was_lost_still_brings_the_upgrade,
    a_return_that_lapsed_before_the_copy_was_deleted_is_opened_anew,
);

/// One that soon gives up on a worker that does not run.
async fn hasty(world: &World) -> Terminal {
    terminal(world, Patience { each: Duration::from_secs(3), attempts: 1 }).await
}

fn is_unanswered<T: std::fmt::Debug>(result: Result<T, TerminalError>, asked: &str) {
    let Err(TerminalError::Client(error)) = &result else { panic!("{asked} was answered: {result:?}") };
    assert!(error.to_string().contains(asked), "{error}");
}

async fn a_purchase_whose_answer_was_lost_is_completed_and_not_made_again(mut world: World) {
    let workers = Workers::start_without(&world, &["purchase"]);
    put_songs(&world).await;
    is_unanswered(hasty(&world).await.buy(first_version(2)).await, "purchase.request");
    workers.stop().await;

    // It is decided now, and answered to a terminal that is gone.
    let (_, mut issued) = world.listen(&[(topology::EVENTS, "certificate.issued")]).await;
    world.start_workers();
    issued.next().await;
    let bought = patient(&world).await.buy(first_version(2)).await.expect("the same purchase");
    assert_eq!(bought.certificates.len(), 2);
    let mut terminal = patient(&world).await;
    assert!(terminal.resume().await.expect("readable").is_empty());
    assert_eq!(standings(&terminal), [Standing::Received; 2]);
    let made = purchase::Entity::find().all(&world.machine.store.reader()).await.expect("the purchases");
    assert_eq!(made.len(), 2, "two certificates of one purchase");
    world.finish().await;
}

async fn what_is_kept_and_not_acknowledged_is_acknowledged_by_the_next_run(mut world: World) {
    let workers = Workers::start_without(&world, &["reception"]);
    put_songs(&world).await;
    let mut terminal = hasty(&world).await;
    is_unanswered(terminal.buy(first_version(2)).await, "certificate.receipt");
    assert_eq!(standings(&terminal), [Standing::Arrived; 2]);
    drop(terminal);
    workers.stop().await;
    let workers = Workers::start(&world, &["catalog", "purchase", "reception", "settlement"]);
    let mut terminal = patient(&world).await;
    let Ok(Resumed::Bought(bought)) = only(terminal.resume().await.expect("readable")) else { panic!("not resumed") };
    assert_eq!(standings(&terminal), [Standing::Received; 2]);
    pay(&world, &bought).await;
    drop(terminal);
    workers.stop().await;

    let workers = Workers::start(&world, &["license"]);
    let mut terminal = hasty(&world).await;
    is_unanswered(terminal.fetch(bought.certificates[0], None).await, "license.receipt");
    let [kept] = &terminal.store().licenses().expect("readable")[..] else { panic!("one license is kept") };
    assert!(!kept.received);
    drop(terminal);
    workers.stop().await;
    world.start_workers();
    let mut terminal = patient(&world).await;
    let resumed = only(terminal.resume().await.expect("readable")).expect("an answer");
    assert!(
        matches!(&resumed, Resumed::Fetched { fetched: Fetched::Here { license, .. }, .. } if *license == kept.claims.jti)
    );
    assert!(terminal.store().licenses().expect("readable")[0].received);
    world.finish().await;
}

async fn a_deletion_is_reported_only_after_the_copy_is_gone(mut world: World) {
    world.start_workers();
    put_songs(&world).await;
    let (_, media) = work(&world);
    let (_, mut deletions) = world.listen(&[(topology::IN, "license.deletion")]).await;
    let mut terminal = patient(&world).await;
    let (_, license) = licensed(&world, &mut terminal, Some(media.clone())).await;
    let content = terminal.store().content(license).expect("its content");
    put_folder_in_place_of(&content);
    let error = terminal.give_back(license, Privilege::Points).await.expect_err("a folder is no file to delete");
    assert!(matches!(error, TerminalError::Store(_)), "{error}");
    drop(terminal);

    std::fs::remove_dir(&content).expect("the folder goes");
    std::fs::write(&content, "la la la").expect("the copy is back");
    let mut terminal = patient(&world).await;
    let Ok(Resumed::Returned(returned)) = only(terminal.resume().await.expect("readable")) else {
        panic!("not resumed")
    };
    assert_eq!(brought(&returned), Some(40));
    let files = std::fs::read_dir(content.parent().expect("a folder")).expect("readable");
    assert_eq!(files.count(), 0, "neither the license nor its content is here");
    let (_, second) = licensed(&world, &mut terminal, Some(media)).await;
    let second = terminal.give_back(second, Privilege::Points).await.expect("points");
    for expected in [returned.license_return, second.license_return] {
        let told = deletions.next().await;
        let told = Request::decode("license.deletion", Format::Json, &told.body).expect("a deletion");
        assert_eq!(told, Request::LicenseDeletion(LicenseDeletion { license_return: expected }));
    }
    world.finish().await;
}

/// So that deleting the file fails, and the terminal stops there.
fn put_folder_in_place_of(file: &Path) {
    std::fs::remove_file(file).expect("the file goes");
    std::fs::create_dir(file).expect("a folder in its place");
}

async fn a_deletion_whose_answer_was_lost_still_brings_the_upgrade(mut world: World) {
    world.start_workers();
    put_songs(&world).await;
    let (_, media) = work(&world);
    let mut terminal = patient(&world).await;
    let (_, license) = licensed(&world, &mut terminal, Some(media)).await;
    let content = terminal.store().content(license).expect("its content");
    put_folder_in_place_of(&content);
    terminal.give_back(license, Privilege::Upgrade).await.expect_err("it stops when the return is open");
    drop(terminal);
    // Had it come further, it would have deleted both, and ended before it reported that.
    std::fs::remove_dir(&content).expect("the content goes");
    std::fs::remove_file(content.with_extension("json")).expect("the license goes");
    world.stop_workers().await;
    let mut terminal = hasty(&world).await;
    is_unanswered(only(terminal.resume().await.expect("readable")), "license.deletion");
    drop(terminal);

    let (_, mut returned) = world.listen(&[(topology::EVENTS, "license.returned")]).await;
    world.start_workers();
    returned.next().await;
    let mut terminal = patient(&world).await;
    let Ok(Resumed::Returned(_)) = only(terminal.resume().await.expect("readable")) else { panic!("not resumed") };
    let wanted = terminal.wanted().expect("readable");
    assert_eq!(wanted.len(), 1, "the upgrade's certificate is held");
    license_of(terminal.fetch(wanted[0], None).await.expect("its license"));
    world.finish().await;
}

async fn a_return_that_lapsed_before_the_copy_was_deleted_is_opened_anew(mut world: World) {
    world.start_workers();
    put_songs(&world).await;
    let (_, media) = work(&world);
    let mut terminal = patient(&world).await;
    let (_, license) = licensed(&world, &mut terminal, Some(media)).await;
    let content = terminal.store().content(license).expect("its content");
    put_folder_in_place_of(&content);
    terminal.give_back(license, Privilege::Points).await.expect_err("it stops when the return is open");
    let other = terminal.give_back(license, Privilege::Upgrade).await.expect_err("one wish at a time");
    assert!(matches!(other, TerminalError::Returning { privilege: Privilege::Points }), "{other}");
    world.machine.clock.advance_ms(25 * 3_600_000);
    std::fs::remove_dir(&content).expect("the folder goes");
    let returned = terminal.give_back(license, Privilege::Points).await.expect("points");
    assert_eq!(brought(&returned), Some(40));
    let outcomes: Vec<_> = terminal.store().returns().expect("readable").into_iter().map(|one| one.outcome).collect();
    assert_eq!(outcomes, [Some(Outcome::Refused(Code::Lapsed)), returned.outcome]);
    world.finish().await;
}
