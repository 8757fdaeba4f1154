//! Every order in which the messages of one purchase can be delivered, each of them twice under
//! different ids and again under every id that it came under.
//!
//! A message is delivered once what it carries exists: a license request needs its certificate's
//! token, a license receipt the license that a request was answered with. All orders are searched
//! depth first. Where two of them have led to the same state (rows, clock, money told, tokens held
//! and what was heard), the same delivery leads to the same again: it is played once, and counted
//! for each order.
//!
//! Wherever an order has led to, the right messages lead to a granted license from there, unless
//! the purchase has ended in a way that nothing mends; it was charged once; and the judges of
//! [the world](super::world) have agreed all the way that no money and no grant is lost.

mod life;

use std::{collections::HashMap, rc::Rc};

use licet_schema::message::{Privilege, SweepKind};

use life::{
    Life,
    Message::{
        self, Completion, Deletion, Failure, Hours, LicenseReceipt, MemberReceipt, Mistake, Receipt, Reissue,
        Request as Ask, Return, Reversal, Sweep,
    },
    Play,
};

const LIFE: [Message; 4] = [Receipt, Completion, Ask(0, 0), LicenseReceipt(0, 0)];
const LAPSE: [Message; 2] = [Hours(25), Sweep(SweepKind::Reception)];
const EXPIRY: [Message; 2] = [Hours(31 * 24), Sweep(SweepKind::Certificate)];

fn life(items: usize, grants: i64, messages: &[&[Message]]) -> Life {
    Life { items, grants, points: false, messages: messages.concat() }
}

fn with_points(life: Life) -> Life {
    Life { points: true, ..life }
}

fn returned(privilege: Privilege) -> [Message; 2] {
    [Return(0, privilege), Deletion(0)]
}

#[test]
fn every_order_of_a_certificates_life_leads_to_a_grant() {
    for privilege in [Privilege::Points, Privilege::Upgrade] {
        play_all("a license that is returned", life(1, 1, &[&LIFE, &returned(privilege)]));
        play_all("a license that is returned", life(1, 2, &[&LIFE, &returned(privilege)]));
    }
    let terminals = [Ask(0, 1), LicenseReceipt(0, 1)];
    play_all("two terminals and one grant", life(1, 1, &[&LIFE, &terminals]));
    play_all("two terminals and two grants", life(1, 2, &[&LIFE, &terminals]));
    play_all("two terminals and a return", life(1, 2, &[&LIFE, &terminals, &returned(Privilege::Upgrade)]));
}

#[test]
fn every_order_of_a_containers_life_leads_to_a_grant_of_each_member() {
    let members = [MemberReceipt(1), Ask(1, 0), LicenseReceipt(1, 0)];
    play_all("a container", life(2, 1, &[&LIFE, &members]));
    play_all("a container", with_points(life(2, 1, &[&LIFE, &members])));
    play_all("a container and a return", life(2, 1, &[&LIFE, &members, &returned(Privilege::Points)]));
}

#[test]
fn every_order_with_a_setback_loses_no_money() {
    for items in [1, 2] {
        play_all("a failure", with_points(life(items, 2, &[&LIFE, &[Failure, Mistake]])));
        play_all("a reversal", with_points(life(items, 2, &[&LIFE, &[Reversal, Mistake]])));
        play_all("failure and reversal", with_points(life(items, 2, &[&LIFE, &[Failure, Reversal]])));
    }
    for privilege in [Privilege::Points, Privilege::Upgrade] {
        let messages = [&LIFE[..], &[Reversal], &returned(privilege)];
        play_all("a reversal and a return", with_points(life(1, 2, &messages)));
    }
}

#[test]
fn every_order_with_deadlines_and_sweeps_loses_no_money() {
    for items in [1, 2] {
        play_all("a late reception", with_points(life(items, 2, &[&LIFE, &LAPSE])));
        play_all("a certificate that expires", with_points(life(items, 1, &[&LIFE, &EXPIRY])));
        play_all("both, and a reversal", with_points(life(items, 1, &[&LIFE, &LAPSE, &EXPIRY, &[Reversal]])));
    }
    let late = [Hours(25), Sweep(SweepKind::Return)];
    play_all("a return that lapses", life(1, 1, &[&LIFE, &late, &returned(Privilege::Points)]));
}

#[test]
fn every_order_with_a_reissue_leads_to_a_grant() {
    for items in [1, 2] {
        play_all("a reissue", life(items, 2, &[&LIFE, &[Reissue(0)]]));
        play_all("a reissue and a reversal", with_points(life(items, 1, &[&LIFE, &[Reissue(0), Reversal]])));
        play_all("a reissue and an expiry", life(items, 1, &[&LIFE, &EXPIRY, &[Reissue(0)]]));
    }
    play_all("a reissue and a return", life(1, 1, &[&LIFE, &[Reissue(0)], &returned(Privilege::Upgrade)]));
}

fn play_all(sentence: &str, life: Life) {
    let begin = Rc::new(Play::new(&life));
    let mut search = Search { messages: life.messages, played: HashMap::new(), orders: HashMap::new() };
    // The clock is heard once: what it says later is another message.
    let copies = search.messages.iter().map(|message| if matches!(message, Hours(_) | Sweep(_)) { 1 } else { 2 });
    let copies = copies.collect();
    let orders = search.orders(&begin, copies);
    let (items, grants, played) = (life.items, life.grants, search.played.len());
    println!("{sentence} ({items} bought, {grants} grants): {orders} orders, {played} different deliveries");
}

/// The search through all orders.
struct Search {
    messages: Vec<Message>,
    /// What each copy of a message led to from each state in which it was delivered.
    played: HashMap<(u64, usize, u128), Rc<Play>>,
    /// How many orders begin at each state, with so many copies of each message to come.
    orders: HashMap<(u64, Vec<u128>), u128>,
}

impl Search {
    /// Plays whatever can come next.
    fn orders(&mut self, play: &Rc<Play>, left: Vec<u128>) -> u128 {
        let known = (play.state, left);
        if let Some(orders) = self.orders.get(&known) {
            return *orders;
        }
        let mut orders = 0;
        for index in (0..known.1.len()).filter(|index| known.1[*index] > 0) {
            let Some(next) = self.next(play, index, known.1[index]) else { continue };
            let mut left = known.1.clone();
            left[index] -= 1;
            orders += self.orders(&next, left);
        }
        // Nothing can come any more: that was one.
        let orders = orders.max(1);
        self.orders.insert(known, orders);
        orders
    }

    /// Delivers a copy of a message, if what it carries exists.
    fn next(&mut self, play: &Rc<Play>, index: usize, copy: u128) -> Option<Rc<Play>> {
        if let Some(next) = self.played.get(&(play.state, index, copy)) {
            return Some(Rc::clone(next));
        }
        let message = self.messages[index];
        let delivery = play.delivery(message)?;
        let mut next = Play::clone(play);
        let id = 100 * (index as u128 + 2) + copy;
        // This order has not seen it, whatever happened in the one that led here first.
        next.world.forget(id);
        next.deliver(message, id, delivery);
        next.world.repeat_all();
        next.clone().finish();
        let next = Rc::new(next);
        self.played.insert((play.state, index, copy), Rc::clone(&next));
        Some(next)
    }
}
