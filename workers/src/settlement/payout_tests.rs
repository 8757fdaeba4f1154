use std::collections::BTreeMap;

use licet_schema::{
    ExternalId, Output, Request, Text,
    entity::{PayoutState, license_return, payout},
    message::{PayoutCompletion, PayoutFailure, PayoutOutcome, Privilege},
};
use uuid::Uuid;

use crate::fixture::{Fixture, generous_song, license_receipt, license_return, name, outcome, reversal, usd};

/// The amount of the buy-back, in cents.
const OWED: i64 = 300;

/// A license that was bought back, and its return.
fn bought_back() -> (Fixture, Uuid) {
    let mut fixture = Fixture::with_song();
    fixture.ask(Request::ContentPut(generous_song()));
    let license = fixture.granted("player");
    let returned = fixture.ask(license_return(&license, "alice", Privilege::Buyback, true));
    let Output::LicenseReturned(returned) = returned else { panic!("the return was refused: {returned:?}") };
    (fixture, returned.license_return)
}

fn external_id(text: &str) -> ExternalId {
    ExternalId::try_from(text).expect("an id")
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

/// The outcome of a reply in one word, with `*` for a repeated one.
fn answer(output: &Output) -> String {
    match output {
        Output::PayoutRegistered(body) => format!("{}{}", body.outcome, if body.repeated { "*" } else { "" }),
        other => outcome(other),
    }
}

/// Sends the messages, and compares the replies.
fn check(messages: &[(Request, &str)]) -> Fixture {
    let (mut fixture, _) = bought_back();
    for (index, (message, expected)) in messages.iter().enumerate() {
        let reply = fixture.ask(message.clone());
        assert_eq!(answer(&reply), *expected, "message {index}: {reply:?}");
    }
    fixture
}

/// The id of the return in every fixture. All fixtures send the same messages.
fn the_return() -> Uuid {
    bought_back().1
}

#[test]
fn a_failed_payout_makes_the_return_open_again() {
    let id = the_return();
    check(&[
        (completed(id, "out-1", OWED), "completed"),
        (completed(id, "out-2", OWED), "already_settled"),
        (failed(id, "out-2"), "failed"),
        (failed(id, "out-1"), "failed"),
        (failed(id, "out-1"), "failed*"),
        (completed(id, "out-1", OWED), "failed*"),
        (completed(id, "out-3", OWED), "completed"),
        (completed(id, "out-2", OWED), "failed*"),
    ]);
}

#[test]
fn a_failure_before_its_completion_is_kept() {
    let id = the_return();
    let fixture = check(&[
        (failed(id, "out-1"), "pending"),
        (failed(id, "out-1"), "pending*"),
        (completed(id, "out-1", OWED), "failed"),
        (completed(id, "out-1", OWED), "failed*"),
        (failed(id, "out-1"), "failed*"),
        (completed(id, "out-2", OWED), "completed"),
    ]);
    let row = fixture.store.rows::<payout::Entity>().find(|row| row.payout.as_str() == "out-1").expect("a row");
    assert_eq!(row.reason.as_ref().map(Text::as_str), Some("the account is closed"));
}

#[test]
fn a_second_payout_is_recorded_and_announced_and_counts_if_the_first_one_fails() {
    let (mut fixture, id) = bought_back();
    fixture.ask(completed(id, "out-1", OWED));
    assert_eq!(answer(&fixture.ask(completed(id, "out-2", OWED))), "already_settled");
    let announced = fixture.last.as_ref().expect("a decision").events.clone();
    assert!(
        matches!(&announced[..], [Output::PayoutRegistered(body)]
            if body.payout.as_str() == "out-2" && body.outcome == PayoutOutcome::Completed && !body.repeated),
        "{announced:?}"
    );
    assert_eq!(answer(&fixture.ask(completed(id, "out-2", OWED))), "already_settled", "the first one still counts");
    assert!(fixture.events().is_empty(), "it is announced once");
    fixture.ask(failed(id, "out-1"));
    assert_eq!(fixture.events(), ["payout.registered"]);
    assert_eq!(answer(&fixture.ask(completed(id, "out-2", OWED))), "completed*", "the second one counts now");
    assert_eq!(answer(&fixture.ask(completed(id, "out-3", OWED))), "already_settled");
}

#[test]
fn a_payout_with_a_wrong_amount_is_recorded_and_leaves_the_return_open() {
    let id = the_return();
    let fixture = check(&[
        (completed(id, "out-1", OWED - 1), "amount_mismatch"),
        (completed(id, "out-1", OWED - 1), "amount_mismatch"),
        (completed(id, "out-2", OWED), "completed"),
        (completed(id, "out-2", OWED + 1), "already_settled"),
        (failed(id, "out-1"), "failed"),
        (completed(id, "out-1", OWED), "failed*"),
    ]);
    let states: Vec<_> = fixture.store.rows::<payout::Entity>().map(|row| row.state).collect();
    assert_eq!(states, [PayoutState::Failed, PayoutState::Completed]);
}

#[test]
fn a_corrected_amount_replaces_a_wrong_one() {
    let id = the_return();
    let fixture = check(&[
        (completed(id, "out-1", OWED - 1), "amount_mismatch"),
        (completed(id, "out-1", OWED), "completed"),
        (completed(id, "out-1", OWED), "completed*"),
        (completed(id, "out-1", OWED - 1), "already_settled"),
    ]);
    let amounts: Vec<_> = fixture.store.rows::<payout::Entity>().map(|row| row.amount_minor).collect();
    assert_eq!(amounts.iter().flatten().map(|one| one.get()).collect::<Vec<_>>(), [OWED]);
}

#[test]
fn reports_of_payouts_that_cannot_be_recorded_are_refused() {
    let id = the_return();
    let mut with_licet = failed(id, "out-1");
    if let Request::PayoutFailure(body) = &mut with_licet {
        body.provider = name("licet");
    }
    check(&[
        (with_licet, "forbidden"),
        (failed(Uuid::from_u128(7), "out-1"), "unknown_return"),
        (completed(Uuid::from_u128(7), "out-1", OWED), "unknown_return"),
    ]);
    let (mut fixture, id) = bought_back();
    fixture.ask(completed(id, "out-1", OWED));
    let bought = fixture.buy(1);
    fixture.receive(&bought);
    fixture.settle(&bought, "pay-2");
    let license = fixture.license(&bought, "player").expect("a license");
    fixture.ask(license_receipt(&license));
    let Output::LicenseReturned(other) = fixture.ask(license_return(&license, "alice", Privilege::Buyback, true))
    else {
        panic!("the return was refused")
    };
    for request in [completed(other.license_return, "out-1", OWED), failed(other.license_return, "out-1")] {
        assert_eq!(answer(&fixture.ask(request)), "already_settled", "the payout is for the first return");
    }
}

#[test]
fn payouts_are_registered_after_the_purchase_was_reversed() {
    let (mut fixture, id) = bought_back();
    let mut bought = fixture.buy(1);
    let returned = fixture.store.rows::<license_return::Entity>().next().expect("a return").certificate;
    bought.certificates = vec![returned];
    assert_eq!(outcome(&fixture.ask(Request::SettlementReversal(reversal(&bought, "pay-1")))), "settlement.registered");
    assert_eq!(answer(&fixture.ask(completed(id, "out-1", OWED))), "completed");
    assert_eq!(answer(&fixture.ask(failed(id, "out-1"))), "failed");
}

/// The columns of a payout that must not depend on the order of the messages.
type State = BTreeMap<String, (PayoutState, Option<i64>)>;

fn state(fixture: &Fixture) -> State {
    let rows = fixture.store.rows::<payout::Entity>();
    rows.map(|row| (row.payout.to_string(), (row.state, row.amount_minor.map(|minor| minor.get())))).collect()
}

/// The state that follows from a set of messages: the amounts and failures of each payout.
fn expected(messages: &[Message]) -> State {
    let mut facts: BTreeMap<String, (Vec<i64>, bool)> = BTreeMap::new();
    for message in messages {
        let (amounts, failed) = facts.entry(message.0.to_owned()).or_default();
        amounts.extend(message.1);
        *failed |= message.1.is_none();
    }
    let of = |(amounts, failed): (Vec<i64>, bool)| {
        let paid = amounts.contains(&OWED);
        let state = match (failed, amounts.is_empty()) {
            (true, true) => PayoutState::Pending,
            (true, false) => PayoutState::Failed,
            (false, _) if paid => PayoutState::Completed,
            (false, _) => PayoutState::Mismatched,
        };
        (state, if paid { Some(OWED) } else { amounts.into_iter().max() })
    };
    facts.into_iter().map(|(payout, facts)| (payout, of(facts))).collect()
}

/// A payout, and the amount of its completion, or `None` for its failure.
type Message = (&'static str, Option<i64>);

fn request(id: Uuid, (payout, amount): Message) -> Request {
    amount.map_or_else(|| failed(id, payout), |minor| completed(id, payout, minor))
}

#[test]
fn every_set_of_payout_messages_ends_in_the_same_state_in_every_order() {
    const MESSAGES: [Message; 6] = [
        ("out-1", Some(OWED)),
        ("out-1", Some(OWED - 1)),
        ("out-1", Some(OWED + 1)),
        ("out-1", None),
        ("out-2", Some(OWED)),
        ("out-2", None),
    ];
    let (fixture, id) = bought_back();
    let mut orders = 0;
    play(&fixture, id, &MESSAGES, &mut Vec::new(), &mut orders);
    // Every ordered selection of the messages, including the empty one.
    assert_eq!(orders, 1957);
}

/// Sends each of the messages that are left, in every order. After each message, every message that
/// was sent before is repeated under a new id and changes nothing, so duplicates at any position
/// change nothing either.
fn play(fixture: &Fixture, id: Uuid, left: &[Message], sent: &mut Vec<Message>, orders: &mut usize) {
    *orders += 1;
    assert_eq!(state(fixture), expected(sent), "{sent:?}");
    let mut again = fixture.clone();
    for message in sent.iter() {
        again.ask(request(id, *message));
        assert!(again.events().is_empty(), "a repeated {message:?} is announced after {sent:?}");
        assert_eq!(state(&again), state(fixture), "{message:?} was repeated after {sent:?}");
    }
    // A return is paid out if and only if a payout is completed.
    let mut probe = fixture.clone();
    let paid = state(fixture).values().any(|(state, _)| *state == PayoutState::Completed);
    let reply = answer(&probe.ask(completed(id, "out-9", OWED)));
    assert_eq!(reply, if paid { "already_settled" } else { "completed" }, "{sent:?}");
    for (index, message) in left.iter().enumerate() {
        let mut next = fixture.clone();
        next.ask(request(id, *message));
        let rest = [&left[..index], &left[index + 1..]].concat();
        sent.push(*message);
        play(&next, id, &rest, sent, orders);
        sent.pop();
    }
}

#[test]
fn a_payout_is_registered_once_and_only_in_the_right_amount() {
    let mut fixture = Fixture::with_song();
    fixture.ask(Request::ContentPut(generous_song()));
    let license = fixture.granted("player");
    let Output::LicenseReturned(returned) = fixture.ask(license_return(&license, "alice", Privilege::Buyback, true))
    else {
        panic!("the return was refused")
    };
    assert!(fixture.events().contains(&"payout.instructed"));
    let paid = |payout: &str, minor: i64| {
        Request::PayoutCompletion(PayoutCompletion {
            license_return: returned.license_return,
            payout: ExternalId::try_from(payout).expect("an id"),
            provider: name("bank"),
            amount: usd(minor),
        })
    };
    assert_eq!(outcome(&fixture.ask(paid("out-1", 299))), "amount_mismatch");
    assert_eq!(outcome(&fixture.ask(paid("out-1", 300))), "payout.registered");
    assert_eq!(outcome(&fixture.ask(paid("out-1", 300))), "payout.registered*");
    assert!(fixture.events().is_empty());
    assert_eq!(outcome(&fixture.ask(paid("out-1", 299))), "already_settled");
    assert_eq!(outcome(&fixture.ask(paid("out-2", 300))), "already_settled");
    let Request::PayoutCompletion(mut unknown) = paid("out-3", 300) else { unreachable!() };
    unknown.license_return = Uuid::from_u128(7);
    assert_eq!(outcome(&fixture.ask(Request::PayoutCompletion(unknown))), "unknown_return");
}
