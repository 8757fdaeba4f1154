//! Points, as a double-entry ledger: the entries of every message sum to zero.
//!
//! A user has an account for points and an account for debt. Their balances are never negative. If
//! points are taken back from a user who has already spent them, the missing points become debt.
//! Points that the user receives later repay the debt first.

use std::collections::BTreeMap;

use licet_common::{decision::Context, rows::Defect};
use licet_schema::{
    Count, Name, Output,
    entity::{account, entry},
    message::PointsChanged,
    vocabulary::INTEGER_MAX,
};

use super::{count, tables::Tables};

/// The source of granted points, and the destination of points that are taken back.
pub(crate) const ISSUED: &str = "licet:issued";
/// Points that are held until their purchase is settled or ends.
pub(crate) const HELD: &str = "licet:held";
/// Points that paid for something.
pub(crate) const SPENT: &str = "licet:spent";
/// The counterpart of all debts.
pub(crate) const OWED: &str = "licet:owed";

/// The account of a user's points.
pub(crate) fn account(user: &Name) -> String {
    format!("points:{user}")
}

/// The account of a user's debt.
pub(crate) fn debt_account(user: &Name) -> String {
    format!("debt:{user}")
}

/// Both accounts of a user. Lock them before points are credited or taken back.
pub(crate) fn accounts(user: &Name) -> [String; 2] {
    [account(user), debt_account(user)]
}

/// Whether an account belongs to a user. Only accounts of users have a row with their balance.
///
/// Licet's own accounts have entries but no balance row, so no transaction waits for a lock on
/// them. The auditor sums their entries.
fn is_users(account: &str) -> bool {
    !account.starts_with("licet:")
}

/// A user's points.
pub(crate) fn balance(tables: &Tables, user: &Name) -> Result<i64, Defect> {
    balance_of(tables, &account(user))
}

/// A user's debt.
pub(crate) fn debt(tables: &Tables, user: &Name) -> Result<i64, Defect> {
    balance_of(tables, &debt_account(user))
}

/// A balance, limited to the maximum of the wire contract (2^53-1).
pub(crate) fn expressible(context: &Context<'_>, balance: i64) -> Result<Count, Defect> {
    count(balance.min(INTEGER_MAX), "a user's balance is never below zero", context)
}

fn balance_of(tables: &Tables, account: &String) -> Result<i64, Defect> {
    Ok(tables.accounts.get(account)?.map_or(0, |row| row.balance))
}

/// The net changes to users' points that one message causes.
#[derive(Debug, Default)]
pub(crate) struct Changes(BTreeMap<Name, i64>);

impl Changes {
    fn add(&mut self, user: &Name, delta: i64) {
        *self.0.entry(user.clone()).or_insert(0) += delta;
    }

    /// The events that announce the changes, one for each user.
    pub(crate) fn events(self, context: &Context<'_>, tables: &Tables) -> Result<Vec<Output>, Defect> {
        let changed = self.0.into_iter().filter(|(_, delta)| *delta != 0);
        let event = |(user, delta): (Name, i64)| {
            let balance = expressible(context, balance(tables, &user)?)?;
            Ok(Output::PointsChanged(PointsChanged { user, delta, balance, cause: context.message_id }))
        };
        changed.map(event).collect()
    }
}

/// Holds points of a user for a purchase. The user's balance must be sufficient.
pub(crate) fn hold(
    context: &Context<'_>,
    tables: &mut Tables,
    changes: &mut Changes,
    user: &Name,
    points: i64,
) -> Result<(), Defect> {
    transfer(context, tables, &account(user), HELD, points)?;
    changes.add(user, -points);
    Ok(())
}

/// Credits points to a user. They repay the user's debt first.
pub(crate) fn credit(
    context: &Context<'_>,
    tables: &mut Tables,
    changes: &mut Changes,
    from: &str,
    user: &Name,
    points: i64,
) -> Result<(), Defect> {
    let repaid = points.min(debt(tables, user)?);
    transfer(context, tables, from, ISSUED, repaid)?;
    transfer(context, tables, &debt_account(user), OWED, repaid)?;
    transfer(context, tables, from, &account(user), points - repaid)?;
    changes.add(user, points - repaid);
    Ok(())
}

/// Takes points back from a user. Points that the user no longer has become debt.
pub(crate) fn debit(
    context: &Context<'_>,
    tables: &mut Tables,
    changes: &mut Changes,
    user: &Name,
    points: i64,
) -> Result<(), Defect> {
    let taken = points.min(balance(tables, user)?);
    transfer(context, tables, &account(user), ISSUED, taken)?;
    transfer(context, tables, OWED, &debt_account(user), points - taken)?;
    changes.add(user, -taken);
    Ok(())
}

/// Takes points that were credited back and now pay for something again. Points that the user no
/// longer has become debt.
pub(crate) fn spend(
    context: &Context<'_>,
    tables: &mut Tables,
    changes: &mut Changes,
    user: &Name,
    points: i64,
) -> Result<(), Defect> {
    let taken = points.min(balance(tables, user)?);
    transfer(context, tables, &account(user), SPENT, taken)?;
    transfer(context, tables, OWED, &debt_account(user), points - taken)?;
    transfer(context, tables, ISSUED, SPENT, points - taken)?;
    changes.add(user, -taken);
    Ok(())
}

/// Transfers points from one account to another with two entries that sum to zero.
pub(crate) fn transfer(
    context: &Context<'_>,
    tables: &mut Tables,
    from: &str,
    to: &str,
    points: i64,
) -> Result<(), Defect> {
    if points == 0 || from == to {
        return Ok(());
    }
    for (account, delta) in [(from, -points), (to, points)] {
        // Names contain no control characters, so each label is unique.
        book(context, tables, &format!("{from}\0{to}\0{account}"), account, delta)?;
        if is_users(account) {
            change_balance(tables, account.to_owned(), delta)?;
        }
    }
    Ok(())
}

fn change_balance(tables: &mut Tables, name: String, delta: i64) -> Result<(), Defect> {
    match tables.accounts.get(&name)? {
        Some(_) => tables.accounts.change(&name)?.balance += delta,
        None => tables.accounts.insert(account::Model { name, balance: delta })?,
    }
    Ok(())
}

/// Adds to an entry. A message has one entry for each account and direction, however many transfers
/// it makes.
fn book(context: &Context<'_>, tables: &mut Tables, label: &str, account: &str, delta: i64) -> Result<(), Defect> {
    let id = context.id(&format!("entry:{label}"), 0);
    if let Some(entry) = tables.entries.added_row(&id) {
        entry.delta += delta;
        return Ok(());
    }
    tables.entries.insert(entry::Model {
        id,
        account: account.to_owned(),
        delta,
        cause: context.message_id,
        booked_at: context.now,
    })
}
