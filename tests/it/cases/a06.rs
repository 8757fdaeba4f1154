//! Case A6: a payout that is sent back.

use std::collections::BTreeSet;

use licet_client::Charges;
use licet_operator::payouts::{self, Filter, PayoutsError, State};
use licet_schema::{
    Output, Request, Text,
    entity::{PayoutState, payout},
    message::{
        ContentPut, LicenseReturn, PayoutCompletion, PayoutFailure, PayoutOutcome, Privilege, ReturnPolicy,
        SettlementReversal,
    },
    topology,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    programs::{fails, run},
    system::{
        TIMEOUT, TestSystem, amqp_url, completion, external_id, license_receipt, license_request, name, on_both,
        outcome, song, usd,
    },
};

on_both!(
    case_a06_a_payout_that_was_sent_back_can_be_paid_again,
    case_a06_a_failure_before_its_completion_is_kept,
    case_a06_a_second_payout_is_recorded_and_counts_if_the_first_one_fails,
    case_a06_of_payouts_that_are_reported_at_once_exactly_one_is_completed,
    case_a06_an_operator_instructs_the_provider_again_under_a_new_id,
    case_a06_buybacks_are_listed_with_their_states_and_reversed_purchases_are_marked,
);

/// The amount of a buy-back, in cents.
const OWED: i64 = 300;

/// Starts the workers and registers a song that is bought back for 3.00 USD.
async fn start(system: &mut TestSystem) {
    system.start_workers();
    let policy = ReturnPolicy { buyback: Some(usd(OWED)), ..song(1).return_policy };
    let put = ContentPut { return_policy: policy, ..song(1) };
    assert_eq!(outcome(&system.ask(&Request::ContentPut(put)).await), "content.registered");
}

/// Buys a song for the user, returns its license for money, and returns the id of the return.
async fn buy_back(system: &TestSystem, user: &str) -> Uuid {
    let bought = system.ready(user, 1).await;
    let Output::LicenseIssued(issued) = system.ask(&license_request(&bought.tokens[0], "player")).await else {
        panic!("no license")
    };
    let license_token = issued.license_token.expect("a token");
    system.ask(&license_receipt(&license_token)).await;
    let (privilege, deleted) = (Privilege::Buyback, true);
    let back = LicenseReturn { license_token, user: name(user), privilege, deleted };
    let reply = system.ask(&Request::LicenseReturn(back)).await;
    let Output::LicenseReturned(returned) = reply else { panic!("{reply:?}") };
    returned.license_return
}

fn completed(license_return: Uuid, payout: &str, minor: i64) -> Request {
    let (payout, provider, amount) = (external_id(payout), name("bank"), usd(minor));
    Request::PayoutCompletion(PayoutCompletion { license_return, payout, provider, amount })
}

fn failed(license_return: Uuid, payout: &str) -> Request {
    let reason = Text::try_from("the account is closed").expect("a text");
    let (payout, provider) = (external_id(payout), name("bank"));
    Request::PayoutFailure(PayoutFailure { license_return, payout, provider, reason })
}

/// Sends a message. Returns the outcome of the payout, with `*` if it was repeated, or the code of
/// the refusal.
async fn answer(system: &TestSystem, request: Request) -> String {
    match system.ask(&request).await {
        Output::PayoutRegistered(body) => format!("{}{}", body.outcome, if body.repeated { "*" } else { "" }),
        other => outcome(&other).to_owned(),
    }
}

async fn states(system: &TestSystem, filter: Filter) -> Vec<(Uuid, State)> {
    let found = payouts::list(&system.resources.store, filter).await.expect("the database answers");
    found.iter().map(|one| (one.license_return, one.state())).collect()
}

const ALL: Filter = Filter { open: false, failed: false, before: None };
const OPEN: Filter = Filter { open: true, ..ALL };
const FAILED: Filter = Filter { failed: true, ..ALL };

async fn case_a06_a_payout_that_was_sent_back_can_be_paid_again(mut system: TestSystem) {
    start(&mut system).await;
    let id = buy_back(&system, "alice").await;
    assert_eq!(states(&system, OPEN).await, [(id, State::Open)]);
    assert_eq!(answer(&system, completed(id, "out-1", OWED)).await, "completed");
    assert_eq!(states(&system, OPEN).await, []);
    let bounced = system.process(&failed(id, "out-1")).await;
    assert!(
        matches!(&bounced.events[..], [Output::PayoutRegistered(body)] if body.outcome == PayoutOutcome::Failed),
        "{bounced:?}"
    );
    assert_eq!(states(&system, FAILED).await, [(id, State::Failed)]);
    assert_eq!(answer(&system, completed(id, "out-1", OWED)).await, "failed*", "a failure is final");
    assert_eq!(answer(&system, completed(id, "out-2", OWED)).await, "completed");
    assert_eq!(answer(&system, failed(id, "out-1")).await, "failed*");
    assert_eq!(states(&system, ALL).await, [(id, State::Paid)]);
    system.finish().await;
}

async fn case_a06_a_failure_before_its_completion_is_kept(mut system: TestSystem) {
    start(&mut system).await;
    let id = buy_back(&system, "alice").await;
    assert_eq!(answer(&system, failed(id, "out-1")).await, "pending");
    assert_eq!(answer(&system, failed(id, "out-1")).await, "pending*");
    assert_eq!(answer(&system, completed(id, "out-1", OWED)).await, "failed");
    assert_eq!(answer(&system, completed(id, "out-2", OWED - 1)).await, "amount_mismatch");
    assert_eq!(states(&system, OPEN).await, [(id, State::Failed)]);
    let rows = system.rows::<payout::Entity>().await;
    let rows: Vec<_> =
        rows.iter().map(|row| (row.payout.as_str(), row.state, row.amount_minor.map(|a| a.get()))).collect();
    assert_eq!(
        rows,
        [("out-1", PayoutState::Failed, Some(OWED)), ("out-2", PayoutState::Mismatched, Some(OWED - 1))],
        "money that has left the provider is on record"
    );
    system.finish().await;
}

async fn case_a06_a_second_payout_is_recorded_and_counts_if_the_first_one_fails(mut system: TestSystem) {
    start(&mut system).await;
    let id = buy_back(&system, "alice").await;
    assert_eq!(answer(&system, completed(id, "out-1", OWED)).await, "completed");
    let second = system.process(&completed(id, "out-2", OWED)).await;
    assert_eq!((outcome(&second.reply), second.kinds()), ("already_settled", vec!["payout.registered"]));
    assert_eq!(states(&system, ALL).await, [(id, State::PaidTwice)]);
    assert_eq!(answer(&system, failed(id, "out-1")).await, "failed");
    assert_eq!(answer(&system, completed(id, "out-2", OWED)).await, "completed*");
    assert_eq!(states(&system, ALL).await, [(id, State::Paid)]);
    system.finish().await;
}

async fn case_a06_of_payouts_that_are_reported_at_once_exactly_one_is_completed(mut system: TestSystem) {
    start(&mut system).await;
    system.start_workers();
    let id = buy_back(&system, "alice").await;
    let reports = (0..12).map(|number| completed(id, &format!("out-{number}"), OWED));
    let answers = futures_util::future::join_all(reports.map(|report| answer(&system, report))).await;
    assert_eq!(answers.iter().filter(|one| *one == "completed").count(), 1, "{answers:?}");
    assert_eq!(answers.iter().filter(|one| *one == "already_settled").count(), 11, "{answers:?}");
    let rows = system.rows::<payout::Entity>().await;
    let sequences: BTreeSet<_> = rows.iter().map(|row| row.sequence.get()).collect();
    assert_eq!(sequences, (1..=12).collect(), "each payout was recorded after another one");
    system.finish().await;
}

async fn case_a06_an_operator_instructs_the_provider_again_under_a_new_id(mut system: TestSystem) {
    start(&mut system).await;
    let (store, transport) = (system.resources.store.clone(), system.resources.transport.clone());
    let (_, mut events) = system.listen(&[(topology::EVENTS, "payout.*")]).await;
    let id = buy_back(&system, "alice").await;
    let first = events.next().await.properties.message_id.expect("an id");

    // The trial provider pays under an id that belongs to the instruction.
    let (stop, client) = (CancellationToken::new(), system.client.clone());
    let (stopped, broker) = (stop.clone(), transport.clone());
    let provider =
        tokio::spawn(async move { licet_client::provide(&broker, &client, Charges::Succeed, &stopped).await });
    let (Output::PayoutRegistered(paid), _) = events.event().await else { panic!("another event") };
    assert_eq!((paid.payout.as_str(), paid.outcome), (&*format!("payout-{first}"), PayoutOutcome::Completed));
    stop.cancel();
    provider.await.expect("the provider stops");
    let refused = payouts::instruct(&payouts::find(&store, id).await.expect("a buy-back"));
    assert!(matches!(refused, Err(PayoutsError::PaidOut { .. })), "{refused:?}");

    let Request::PayoutFailure(mut bounced) = failed(id, paid.payout.as_str()) else { unreachable!() };
    bounced.provider = name("trial");
    assert_eq!(answer(&system, Request::PayoutFailure(bounced)).await, "failed");
    let (Output::PayoutRegistered(body), _) = events.event().await else { panic!("another event") };
    assert_eq!(body.outcome, PayoutOutcome::Failed);

    let instruction = payouts::instruct(&payouts::find(&store, id).await.expect("a buy-back")).expect("it is owed");
    payouts::publish(&transport, &instruction, system.resources.clock.now()).await.expect("the broker confirms");
    let again = Some(instruction.message_id.to_string());
    assert_ne!(again, Some(first), "a provider that deduplicates pays again");
    assert_eq!(events.next().await.properties.message_id, again);
    let mut instructed = transport.consume(topology::INSTRUCTED, 100).await.expect("the queue");
    // Earlier instructions are delivered again if the provider stopped before it acknowledged them.
    let found = async {
        loop {
            let delivery = instructed.receive(1, usize::MAX).await.expect("the connection stays open").pop();
            let properties = delivery.expect("an instruction").properties;
            if properties.message_id == again {
                return properties.kind;
            }
        }
    };
    let kind = tokio::time::timeout(TIMEOUT, found).await.expect("the instruction is in the queue");
    assert_eq!(kind.as_deref(), Some("payout.instructed"));
    system.finish().await;
}

async fn case_a06_buybacks_are_listed_with_their_states_and_reversed_purchases_are_marked(mut system: TestSystem) {
    start(&mut system).await;
    let (first, began) = (buy_back(&system, "alice").await, system.resources.clock.now());
    system.resources.clock.advance_ms(3_600_000);
    let second = buy_back(&system, "bob").await;
    let before = Some(system.resources.clock.now());
    assert_eq!(states(&system, ALL).await, [(first, State::Open), (second, State::Open)], "the oldest is first");
    assert_eq!(states(&system, Filter { before, ..ALL }).await, [(first, State::Open)]);
    let found = payouts::find(&system.resources.store, first).await.expect("a buy-back");
    assert_eq!((found.user.as_str(), found.amount, found.reversed), ("alice", usd(OWED), false));
    assert_eq!(found.returned_at, began);

    let reversal = SettlementReversal {
        certificate: Some(found.certificate),
        container: None,
        settlement: external_id(&format!("pay-{}", found.certificate)),
        provider: name("bank"),
        reason: Text::try_from("chargeback").expect("a text"),
        refund: None,
        amount: None,
    };
    assert_eq!(outcome(&system.ask(&Request::SettlementReversal(reversal)).await), "settlement.registered");
    let found = payouts::list(&system.resources.store, OPEN).await.expect("the database answers");
    assert_eq!(found.iter().map(|one| one.reversed).collect::<Vec<_>>(), [true, false]);
    system.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn case_a06_the_program_lists_open_payouts_and_instructs_one_again() {
    let mut system = TestSystem::services().await;
    start(&mut system).await;
    let id = buy_back(&system, "alice").await;
    let (amqp, database) = (amqp_url(), system.database_url.clone().expect("a database"));
    let settings = [("LICET_AMQP_URL", amqp.as_str()), ("LICET_DATABASE_URL", database.as_str())];
    let licet =
        |arguments: &[&str]| run("licet", &[&["payouts"][..], arguments].concat(), &settings, system.folder.path());
    let listed = |arguments: &[&str]| -> Value {
        let output = licet(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).expect("one JSON object")
    };
    assert_eq!(listed(&["list", "--failed"]), json!({"buybacks": []}));
    // The clock of the test's workers is set to 2023.
    let open = listed(&["list", "--open", "--older-than", "7d"]);
    assert_eq!((&open["buybacks"][0]["license_return"], &open["buybacks"][0]["state"]), (&json!(id), &json!("open")));
    assert_eq!(answer(&system, completed(id, "out-1", OWED)).await, "completed");
    assert_eq!(listed(&["list", "--open"]), json!({"buybacks": []}));
    fails(&licet(&["instruct", &id.to_string()]), 1, "already paid out by out-1 from bank");
    assert_eq!(answer(&system, failed(id, "out-1")).await, "failed");
    let text = String::from_utf8(licet(&["list"]).stdout).expect("text");
    assert!(text.contains("3.00 USD  failed  to alice"), "{text}");
    assert!(text.contains("; out-1 from bank failed: the account is closed"), "{text}");
    let instructed = licet(&["instruct", &id.to_string()]);
    let text = String::from_utf8(instructed.stdout).expect("text");
    assert!(text.contains("instructed to pay 3.00 USD to alice"), "{text}");
    assert!(!text.contains("No payout of this return has failed"), "{text}");
    fails(&licet(&["instruct", &Uuid::nil().to_string()]), 1, "licet payouts list");
    assert_eq!(outcome(&system.ask(&completion(&system.buy("bob", 1).await)).await), "settlement.registered");
    system.finish().await;
}
