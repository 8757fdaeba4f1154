//! Points, as a ledger of double entries: what is booked sums to zero, message by message.
//!
//! A user's points and debt are accounts with a balance that is never below zero. What is taken
//! back from a user who has spent it becomes debt, and later points repay that first.

use std::collections::BTreeMap;

use licet_common::decision::{Context, Tables};
use licet_schema::{
    Output,
    entity::{account, entry},
    message::PointsChanged,
};

use crate::values::{name, shown};

/// Where granted points come from, and where those that are taken back go.
pub(crate) const ISSUED: &str = "licet:issued";
/// Points that wait for their purchase to be settled.
pub(crate) const HELD: &str = "licet:held";
/// Points that paid for something.
pub(crate) const SPENT: &str = "licet:spent";
/// The other side of all debts: what users owe.
pub(crate) const OWED: &str = "licet:owed";

/// The account of a user's points.
pub(crate) fn account(user: &str) -> String {
    format!("points:{user}")
}

/// The account of what a user owes.
pub(crate) fn debt_account(user: &str) -> String {
    format!("debt:{user}")
}

/// Both accounts of a user: what is locked where points come or are taken back.
pub(crate) fn accounts(user: &str) -> [String; 2] {
    [account(user), debt_account(user)]
}

/// Whether an account has an owner, and so a balance row.
fn is_users(account: &str) -> bool {
    !account.starts_with("licet:")
}

/// A user's points.
pub(crate) fn balance(tables: &Tables, user: &str) -> i64 {
    balance_of(tables, &account(user))
}

/// What a user owes.
pub(crate) fn debt(tables: &Tables, user: &str) -> i64 {
    balance_of(tables, &debt_account(user))
}

fn balance_of(tables: &Tables, account: &String) -> i64 {
    tables.accounts.get(account).map_or(0, |row: &account::Model| row.balance)
}

/// Net changes to users' points in the course of one message.
#[derive(Debug, Default)]
pub(crate) struct Changes(BTreeMap<String, i64>);

impl Changes {
    fn add(&mut self, user: &str, delta: i64) {
        *self.0.entry(user.to_owned()).or_default() += delta;
    }

    /// What everybody hears of them: one net change for each user.
    pub(crate) fn events(self, context: &Context<'_>, tables: &Tables) -> Vec<Output> {
        let changed = self.0.into_iter().filter(|(_, delta)| *delta != 0);
        let event = |(user, delta): (String, i64)| {
            let balance = shown(balance(tables, &user));
            Output::PointsChanged(PointsChanged { user: name(&user), delta, balance, cause: context.message_id })
        };
        changed.map(event).collect()
    }
}

/// Sets a user's points aside for a purchase. There must be as many.
pub(crate) fn hold(context: &Context<'_>, tables: &mut Tables, changes: &mut Changes, user: &str, points: i64) {
    transfer(context, tables, &account(user), HELD, points);
    changes.add(user, -points);
}

/// Gives a user points: they repay the user's debt first.
pub(crate) fn credit(
    context: &Context<'_>,
    tables: &mut Tables,
    changes: &mut Changes,
    from: &str,
    user: &str,
    points: i64,
) {
    let repaid = points.min(debt(tables, user));
    transfer(context, tables, from, ISSUED, repaid);
    transfer(context, tables, &debt_account(user), OWED, repaid);
    transfer(context, tables, from, &account(user), points - repaid);
    changes.add(user, points - repaid);
}

/// Takes points back from a user: what is no longer there becomes debt.
pub(crate) fn debit(context: &Context<'_>, tables: &mut Tables, changes: &mut Changes, user: &str, points: i64) {
    let taken = points.min(balance(tables, user));
    transfer(context, tables, &account(user), ISSUED, taken);
    transfer(context, tables, OWED, &debt_account(user), points - taken);
    changes.add(user, -taken);
}

/// Books points from one account to another: two entries that sum to zero.
pub(crate) fn transfer(context: &Context<'_>, tables: &mut Tables, from: &str, to: &str, points: i64) {
    if points == 0 || from == to {
        return;
    }
    for (account, delta) in [(from, -points), (to, points)] {
        // Names have no control characters: no two labels are alike.
        enter(context, tables, &format!("{from}\0{to}\0{account}"), account, delta);
        match tables.accounts.change(&account.to_owned()) {
            Some(row) => row.balance += delta,
            None if is_users(account) => {
                tables.accounts.add(account::Model { name: account.to_owned(), balance: delta });
            }
            None => {}
        }
    }
}

/// One entry for each message, direction and account, however often it is booked on.
fn enter(context: &Context<'_>, tables: &mut Tables, label: &str, account: &str, delta: i64) {
    let id = context.id(&format!("entry:{label}"), 0);
    match tables.entries.change(&id) {
        Some(entry) => entry.delta += delta,
        None => tables.entries.add(entry::Model {
            id,
            account: account.to_owned(),
            delta,
            cause: context.message_id,
            booked_at: context.now.as_millis(),
        }),
    }
}
