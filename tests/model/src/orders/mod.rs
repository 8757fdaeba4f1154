//! Every order in which the messages of one purchase can be delivered. Each message is delivered
//! twice under different ids, and again under each of its ids.
//!
//! A message is delivered only after the token or id that it needs exists: a license request needs
//! the token of its certificate, and a license receipt needs the token of its license. The search
//! over all orders is depth-first. If two orders lead to the same state (rows, clock, reported
//! payments, known tokens, observed events), the same delivery has the same result, so it is played
//! once and counted for each order.
//!
//! From every state that an order reaches, the right messages lead to a granted license, unless the
//! purchase ended for good. The user is charged once.
//! [`TestSystem`](crate::test_system::TestSystem) checks after every message that no money and no
//! grant is lost.

mod lifecycle;

use std::{
    collections::{BTreeSet, HashMap},
    rc::Rc,
};

use licet_schema::message::{Privilege, SweepKind};

use lifecycle::{
    Lifecycle,
    Message::{
        self, Completion, Deletion, Failure, Hours, LicenseReceipt, LicenseRequest, MemberReceipt, MemberRefund,
        OtherAmount, Receipt, Refund, Reinstatement, ReinstatementOfAll, Reissue, Return, Reversal, ReversalOfOther,
        Sweep, WrongAmount,
    },
    State,
};

const BASIC: [Message; 4] = [Receipt, Completion, LicenseRequest(0, 0), LicenseReceipt(0, 0)];
const LAPSE: [Message; 2] = [Hours(25), Sweep(SweepKind::Reception)];
const EXPIRY: [Message; 2] = [Hours(31 * 24), Sweep(SweepKind::Certificate)];

fn lifecycle(items: usize, grants: i64, messages: &[&[Message]]) -> Lifecycle {
    Lifecycle { items, grants, points: false, messages: messages.concat() }
}

fn with_points(lifecycle: Lifecycle) -> Lifecycle {
    Lifecycle { points: true, ..lifecycle }
}

fn returned(privilege: Privilege) -> [Message; 2] {
    [Return(0, privilege), Deletion(0)]
}

#[test]
fn every_order_for_a_certificate_leads_to_a_grant() {
    for privilege in [Privilege::Points, Privilege::Upgrade] {
        play_all("a license that is returned", lifecycle(1, 1, &[&BASIC, &returned(privilege)]));
        play_all("a license that is returned", lifecycle(1, 2, &[&BASIC, &returned(privilege)]));
    }
    let terminals = [LicenseRequest(0, 1), LicenseReceipt(0, 1)];
    play_all("two terminals and one grant", lifecycle(1, 1, &[&BASIC, &terminals]));
    play_all("two terminals and two grants", lifecycle(1, 2, &[&BASIC, &terminals]));
    play_all("two terminals and a return", lifecycle(1, 2, &[&BASIC, &terminals, &returned(Privilege::Upgrade)]));
}

#[test]
fn every_order_for_a_container_leads_to_a_grant_of_each_member() {
    let members = [MemberReceipt(1), LicenseRequest(1, 0), LicenseReceipt(1, 0)];
    play_all("a container", lifecycle(2, 1, &[&BASIC, &members]));
    play_all("a container", with_points(lifecycle(2, 1, &[&BASIC, &members])));
    play_all("a container and a return", lifecycle(2, 1, &[&BASIC, &members, &returned(Privilege::Points)]));
}

#[test]
fn every_order_with_a_failure_or_a_reversal_loses_no_money() {
    for items in [1, 2] {
        play_all("a failure", with_points(lifecycle(items, 2, &[&BASIC, &[Failure, WrongAmount]])));
        play_all("a reversal", with_points(lifecycle(items, 2, &[&BASIC, &[Reversal, WrongAmount]])));
        play_all("failure and reversal", with_points(lifecycle(items, 2, &[&BASIC, &[Failure, Reversal]])));
    }
    for privilege in [Privilege::Points, Privilege::Upgrade] {
        let messages = [&BASIC[..], &[Reversal], &returned(privilege)];
        play_all("a reversal and a return", with_points(lifecycle(1, 2, &messages)));
    }
}

#[test]
fn every_order_with_deadlines_and_sweeps_loses_no_money() {
    for items in [1, 2] {
        play_all("a late reception", with_points(lifecycle(items, 2, &[&BASIC, &LAPSE])));
        play_all("a certificate that expires", with_points(lifecycle(items, 1, &[&BASIC, &EXPIRY])));
        play_all(
            "a late reception, an expiry and a reversal",
            with_points(lifecycle(items, 1, &[&BASIC, &LAPSE, &EXPIRY, &[Reversal]])),
        );
    }
    let late = [Hours(25), Sweep(SweepKind::Return)];
    play_all("a return that lapses", lifecycle(1, 1, &[&BASIC, &late, &returned(Privilege::Points)]));
}

#[test]
fn every_order_with_a_reissue_leads_to_a_grant() {
    for items in [1, 2] {
        play_all("a reissue", lifecycle(items, 2, &[&BASIC, &[Reissue(0)]]));
        play_all("a reissue and a reversal", with_points(lifecycle(items, 1, &[&BASIC, &[Reissue(0), Reversal]])));
        play_all("a reissue and an expiry", lifecycle(items, 1, &[&BASIC, &EXPIRY, &[Reissue(0)]]));
    }
    play_all("a reissue and a return", lifecycle(1, 1, &[&BASIC, &[Reissue(0)], &returned(Privilege::Upgrade)]));
}

#[test]
fn every_order_of_payments_refunds_and_reinstatements_ends_in_one_state() {
    let whole = [Completion, Reversal, Reinstatement(None)];
    for items in [1, 2] {
        let play = |messages: &[&[Message]]| converge(with_points(lifecycle(items, 2, messages)));
        play(&[&whole, &[Failure]]);
        play(&[&[Completion, WrongAmount, Failure]]);
        play(&[&[Completion, Failure, Refund(1, 300), Reinstatement(Some(1))]]);
        play(&[&[Completion, Refund(1, 300), Refund(2, 400), Reinstatement(Some(2))]]);
        play(&[&[Completion, Receipt, Refund(1, 300), Reversal]]);
        let all = if items == 1 { 960 } else { 1960 };
        play(&[&[Completion, Refund(1, 300), Refund(2, all - 300), Reinstatement(Some(1))]]);
    }
    let members = |messages: &[Message]| converge(with_points(lifecycle(3, 1, &[messages])));
    members(&[Completion, MemberRefund(1, 0), MemberRefund(2, 1), Reinstatement(Some(1))]);
    members(&[Completion, MemberRefund(1, 0), Refund(2, 200), Failure]);
    members(&[Completion, MemberRefund(1, 0), Reversal, Reinstatement(None)]);
    members(&[Completion, Refund(1, 300), Reversal, ReinstatementOfAll]);
    members(&[Completion, Refund(1, 300), Refund(2, 400), ReinstatementOfAll, Failure]);
    members(&[Completion, MemberRefund(1, 0), Refund(2, 400), ReinstatementOfAll]);
}

#[test]
fn every_order_of_unmatched_payments_and_their_refunds_ends_in_one_state() {
    let play = |messages: &[Message]| converge(lifecycle(1, 1, &[messages]));
    play(&[WrongAmount, OtherAmount, Reversal]);
    play(&[WrongAmount, OtherAmount, Reversal, Reinstatement(None)]);
    play(&[WrongAmount, OtherAmount, Reversal, ReinstatementOfAll]);
    play(&[WrongAmount, OtherAmount, Refund(1, 1), Refund(2, 2), Reinstatement(Some(1))]);
    play(&[Completion, WrongAmount, Reversal]);
    play(&[Completion, WrongAmount, Reversal, Reinstatement(None)]);
    play(&[Completion, WrongAmount, OtherAmount, Refund(1, 300)]);
    play(&[Completion, ReversalOfOther, Failure]);
    play(&[Completion, ReversalOfOther, ReinstatementOfAll]);
    play(&[Completion, ReversalOfOther, Refund(1, 300), ReinstatementOfAll]);
    play(&[Completion, ReversalOfOther, Refund(1, 300), Reinstatement(Some(1))]);
}

/// Plays all orders, and checks that they end in the same state of money and rights.
fn converge(lifecycle: Lifecycle) {
    let messages = lifecycle.messages.clone();
    let ends = play(&lifecycle, false).ends;
    assert_eq!(ends.len(), 1, "{messages:?} ends in several states:\n{ends:#?}");
}

fn play_all(description: &str, lifecycle: Lifecycle) {
    let (items, grants) = (lifecycle.items, lifecycle.grants);
    let Search { count, played, .. } = play(&lifecycle, true);
    let played = played.len();
    println!("{description} ({items} bought, {grants} grants): {count} orders, {played} different deliveries");
}

/// Plays all orders. If `complete`, checks from each state that the right messages lead to a grant.
fn play(lifecycle: &Lifecycle, complete: bool) -> Search {
    let start = Rc::new(State::new(lifecycle));
    let messages = lifecycle.messages.clone();
    let mut search = Search { messages, complete, ..Search::default() };
    // A clock message is delivered once, because it would be a different message at a later time.
    let copies = search.messages.iter().map(|message| if matches!(message, Hours(_) | Sweep(_)) { 1 } else { 2 });
    let copies = copies.collect();
    search.count = search.orders(&start, copies);
    search
}

/// The search through all orders.
#[derive(Default)]
struct Search {
    messages: Vec<Message>,
    /// Whether to check that the right messages lead to a grant.
    complete: bool,
    /// The number of orders.
    count: u128,
    /// The states of money and rights in which orders end.
    ends: BTreeSet<String>,
    /// The state after each delivery: by the state before, the message and its copy.
    played: HashMap<(u64, usize, u128), Rc<State>>,
    /// The number of orders from each state, by the remaining copies of each message.
    orders: HashMap<(u64, Vec<u128>), u128>,
}

impl Search {
    /// Plays all orders from this state, and counts them.
    fn orders(&mut self, state: &Rc<State>, left: Vec<u128>) -> u128 {
        let known = (state.digest, left);
        if let Some(orders) = self.orders.get(&known) {
            return *orders;
        }
        let mut orders = 0;
        for index in (0..known.1.len()).filter(|index| known.1[*index] > 0) {
            let Some(next) = self.next(state, index, known.1[index]) else { continue };
            let mut left = known.1.clone();
            left[index] -= 1;
            orders += self.orders(&next, left);
        }
        // Without further deliveries, this order is complete.
        if orders == 0 {
            self.ends.insert(state.money_and_rights());
        }
        let orders = orders.max(1);
        self.orders.insert(known, orders);
        orders
    }

    /// Delivers a copy of a message, if the token or id that it needs exists.
    fn next(&mut self, state: &Rc<State>, index: usize, copy: u128) -> Option<Rc<State>> {
        if let Some(next) = self.played.get(&(state.digest, index, copy)) {
            return Some(Rc::clone(next));
        }
        let message = self.messages[index];
        let delivery = state.delivery(message)?;
        let mut next = State::clone(state);
        let id = 100 * (index as u128 + 2) + copy;
        // Another order that led to this state may have delivered this copy.
        next.system.forget(id);
        next.deliver(message, id, delivery);
        next.system.redeliver_all();
        if self.complete {
            next.clone().complete();
        }
        let next = Rc::new(next);
        self.played.insert((state.digest, index, copy), Rc::clone(&next));
        Some(next)
    }
}
