//! The invariants of ARCHITECTURE.md, over the rows that rules leave, by their numbers there. The
//! sixth, that every effect has its message in the journal, is the runtime's.

use std::collections::{BTreeMap, BTreeSet};

use licet_common::decision::Tables;
use licet_schema::entity::{
    Ending, LicenseState, Outcome, PrivilegeKind, ReturnState, certificate, collection, purchase, settlement,
};
use uuid::Uuid;

/// Sentences about what does not hold.
#[derive(Default)]
struct Broken(Vec<String>);

impl Broken {
    fn unless(&mut self, holds: bool, sentence: impl FnOnce() -> String) {
        if !holds {
            self.0.push(sentence());
        }
    }
}

/// What does not hold of these rows.
pub(super) fn broken(tables: &Tables) -> Vec<String> {
    let mut broken = Broken::default();
    every_license_has_a_settlement(tables, &mut broken);
    counts_are_those_of_the_licenses(tables, &mut broken);
    settlements_pay_once_in_full(tables, &mut broken);
    settlements_are_known_to_their_certificates(tables, &mut broken);
    a_reversal_revoked_what_it_paid_for(tables, &mut broken);
    completed_returns_have_one_record_and_one_privilege(tables, &mut broken);
    open_returns_have_their_license(tables, &mut broken);
    entries_sum_to_zero(tables, &mut broken);
    points_are_where_they_belong(tables, &mut broken);
    pending_receptions_are_waited_for(tables, &mut broken);
    purchases_know_whether_they_live(tables, &mut broken);
    money_is_kept_once(tables, &mut broken);
    payouts_are_for_buybacks(tables, &mut broken);
    broken.0
}

/// What was changed that must not change: permanent rows gone or rewritten, a settlement
/// that tells otherwise than that it was taken back, an ending undone otherwise than by a reissue.
pub(super) fn changed_without_right(before: &Tables, after: &Tables) -> Vec<String> {
    let mut broken = Broken::default();
    for row in before.purchases.iter() {
        let now = after.purchases.get(&row.id);
        broken.unless(now.is_some(), || format!("8: the purchase row of {} is gone", row.id));
        let same = now.is_some_and(|now| {
            (&now.user, now.revision, now.amount_minor, now.points, now.purchased_at)
                == (&row.user, row.revision, row.amount_minor, row.points, row.purchased_at)
        });
        broken.unless(same, || format!("8: what was bought with {} has changed", row.id));
        let revived = row.ended.is_some() && now.is_some_and(|now| now.ended.is_none());
        let reissued = now.is_some_and(|now| now.generation == row.generation + 1);
        broken.unless(!revived || reissued, || format!("8: {} lives again and was not reissued", row.id));
    }
    for row in before.settlements.iter() {
        let now = after.settlements.get(&(row.provider.clone(), row.settlement.clone()));
        let stands = now.is_some_and(|now| now.outcome == row.outcome || now.outcome == Outcome::Reversed);
        broken.unless(stands, || format!("3: the settlement {}:{} tells otherwise", row.provider, row.settlement));
    }
    for row in before.collections.iter() {
        let kept = after.collections.get(&row.id) == Some(row);
        broken.unless(kept, || format!("4: the record of the return {} has changed", row.id));
    }
    for row in before.entries.iter() {
        let kept = after.entries.get(&row.id) == Some(row);
        broken.unless(kept, || format!("5: the entry {} has changed", row.id));
    }
    broken.0
}

/// 1.
fn every_license_has_a_settlement(tables: &Tables, broken: &mut Broken) {
    for license in tables.licenses.iter() {
        let live = tables.certificates.get(&license.certificate).map(|row| row.settlement.is_some());
        let ended = tables.purchases.get(&license.certificate).map(|row| row.settlement.is_some());
        let settled = live.or(ended).unwrap_or_default();
        broken.unless(settled, || format!("1: the license {} has no settlement", license.id));
    }
}

/// 2.
fn counts_are_those_of_the_licenses(tables: &Tables, broken: &mut Broken) {
    for purchase in tables.purchases.iter() {
        let id = purchase.id;
        let licenses = |states: &[LicenseState]| {
            let of = tables.licenses.iter().filter(|row| row.certificate == id && states.contains(&row.state));
            of.count() as i64
        };
        let returned = tables.returns.iter().filter(|row| row.certificate == id && row.state == ReturnState::Completed);
        let granted = licenses(&[LicenseState::Granted, LicenseState::Returning]) + returned.count() as i64;
        let outstanding = licenses(&[LicenseState::Outstanding]);
        let told = tables.certificates.get(&id).map_or(purchase.granted, |row| row.granted);
        broken.unless(told == granted, || format!("2: {id} counts {told} grants, there are {granted}"));
        let grants = tables.certificates.get(&id).map(|row| row.grants).or(purchase.grants);
        let within = grants.is_none_or(|grants| granted + outstanding <= grants);
        broken.unless(within, || format!("2: {id} has {granted} + {outstanding} licenses, and grants {grants:?}"));
        if let Some(row) = tables.certificates.get(&id) {
            let told = row.outstanding;
            broken.unless(told == outstanding, || format!("2: {id} counts {told} licenses sent, not {outstanding}"));
        }
    }
}

fn paid_for<'a>(tables: &'a Tables, settlement: &'a settlement::Model) -> impl Iterator<Item = &'a purchase::Model> {
    tables.purchases.iter().filter(|row| match settlement.container {
        Some(container) => row.container == Some(container),
        None => settlement.certificate == Some(row.id) && row.container.is_none(),
    })
}

/// 3.
fn settlements_pay_once_in_full(tables: &Tables, broken: &mut Broken) {
    let mut paid = BTreeSet::new();
    for row in tables.settlements.iter() {
        let one = row.certificate.is_some() != row.container.is_some();
        broken.unless(one, || format!("3: the settlement {} names no purchase, or two", row.settlement));
        if row.outcome != Outcome::Completed {
            continue;
        }
        let first = paid.insert((row.certificate, row.container));
        broken.unless(first, || format!("3: the settlement {} is the second for its purchase", row.settlement));
        let due: i64 = paid_for(tables, row).map(|row| row.amount_minor - row.points).sum();
        let currency = paid_for(tables, row).all(|one| Some(&one.currency) == row.currency.as_ref());
        let in_full = row.amount_minor == Some(due) && currency && paid_for(tables, row).next().is_some();
        broken.unless(in_full, || format!("3: the settlement {} is not what was due: {due}", row.settlement));
    }
}

/// The settlement that a certificate names, wherever it stands.
fn named<'a>(tables: &'a Tables, purchase: &'a purchase::Model) -> Option<(String, String)> {
    match tables.certificates.get(&purchase.id) {
        Some(live) => live.provider.clone().zip(live.settlement.clone()),
        None => purchase.provider.clone().zip(purchase.settlement.clone()),
    }
}

/// 3.
fn settlements_are_known_to_their_certificates(tables: &Tables, broken: &mut Broken) {
    for row in tables.settlements.iter().filter(|row| row.outcome == Outcome::Completed) {
        let key = Some((row.provider.clone(), row.settlement.clone()));
        let known = paid_for(tables, row).all(|one| named(tables, one) == key);
        broken.unless(known, || format!("3: a certificate does not know its settlement {}", row.settlement));
    }
    for purchase in tables.purchases.iter() {
        let Some(key) = named(tables, purchase) else { continue };
        let row = tables.settlements.get(&key);
        let pays = row.is_some_and(|row| paid_for(tables, row).any(|one| one.id == purchase.id));
        broken.unless(pays, || format!("3: {} names the settlement {}, which does not pay for it", purchase.id, key.1));
        let took = row.is_some_and(|row| row.outcome == Outcome::Failed);
        broken.unless(!took, || format!("3: {} names the failed settlement {}", purchase.id, key.1));
    }
}

/// 3: and what was made of it by upgrades, likewise.
fn a_reversal_revoked_what_it_paid_for(tables: &Tables, broken: &mut Broken) {
    for row in tables.settlements.iter().filter(|row| row.outcome == Outcome::Reversed) {
        let key = Some((row.provider.clone(), row.settlement.clone()));
        for purchase in paid_for(tables, row).filter(|one| named(tables, one) == key) {
            taken_back(tables, purchase.id, broken);
        }
    }
}

fn taken_back(tables: &Tables, certificate: Uuid, broken: &mut Broken) {
    let ended = tables.purchases.get(&certificate).and_then(|row| row.ended);
    broken.unless(ended == Some(Ending::Reversed), || format!("3: {certificate} was reversed and is {ended:?}"));
    for license in tables.licenses.iter().filter(|row| row.certificate == certificate) {
        let revoked = license.state == LicenseState::Revoked;
        broken.unless(revoked, || format!("3: {} was reversed and is {:?}", license.id, license.state));
    }
    let returned = tables.collections.iter().filter(|row| row.certificate == certificate);
    for upgrade in returned.filter_map(|row| tables.privileges.get(&row.id)?.certificate) {
        taken_back(tables, upgrade, broken);
    }
}

/// 4.
fn completed_returns_have_one_record_and_one_privilege(tables: &Tables, broken: &mut Broken) {
    let completed: BTreeSet<_> =
        tables.returns.iter().filter(|row| row.state == ReturnState::Completed).map(|row| row.id).collect();
    let collected: BTreeSet<_> = tables.collections.iter().map(|row| row.id).collect();
    let given: BTreeSet<_> = tables.privileges.iter().map(|row| row.id).collect();
    broken.unless(completed == collected, || format!("4: {completed:?} were returned, {collected:?} are on record"));
    broken.unless(completed == given, || format!("4: {completed:?} were returned, {given:?} brought something"));
    let licenses: BTreeSet<_> = tables.collections.iter().map(|row| row.license).collect();
    broken.unless(licenses.len() == collected.len(), || "4: a license was returned twice".into());
    for row in tables.collections.iter() {
        broken.unless(tables.licenses.get(&row.license).is_none(), || format!("4: {} is still there", row.license));
        broken.unless(record_fits(tables, row), || format!("4: the record of {} fits no transaction", row.id));
    }
    for row in tables.privileges.iter() {
        let brings = (row.points.is_some(), row.certificate.is_some(), row.amount_minor.is_some());
        let fits = brings
            == match row.kind {
                PrivilegeKind::Points => (true, false, false),
                PrivilegeKind::Upgrade => (false, true, false),
                PrivilegeKind::Buyback => (false, false, true),
                PrivilegeKind::Collection => (false, false, false),
            };
        broken.unless(fits, || format!("4: {row:?} is not one privilege"));
        let made = row.certificate.is_none_or(|id| tables.purchases.get(&id).is_some());
        broken.unless(made, || format!("4: the upgrade {row:?} was not made"));
    }
}

/// The record goes back to the purchase and its settlement.
fn record_fits(tables: &Tables, row: &collection::Model) -> bool {
    let purchase = tables.purchases.get(&row.certificate);
    purchase.is_some_and(|one| {
        (&one.user, &one.content, one.version, one.amount_minor, one.purchased_at)
            == (&row.user, &row.content, row.version, row.amount_minor, row.purchased_at)
            && named(tables, one) == Some((row.provider.clone(), row.settlement.clone()))
    })
}

/// 4.
fn open_returns_have_their_license(tables: &Tables, broken: &mut Broken) {
    let open = tables.returns.iter().filter(|row| row.state == ReturnState::Opened);
    let opened: Vec<_> = open.map(|row| row.license).collect();
    let once: BTreeSet<_> = opened.iter().copied().collect();
    broken.unless(once.len() == opened.len(), || "4: a license is being returned twice".into());
    let returning = tables.licenses.iter().filter(|row| row.state == LicenseState::Returning);
    let returning: BTreeSet<_> = returning.map(|row| row.id).collect();
    broken.unless(once == returning, || format!("4: the open returns are of {once:?}, and {returning:?} return"));
}

/// 5.
fn entries_sum_to_zero(tables: &Tables, broken: &mut Broken) {
    let (mut causes, mut accounts) = (BTreeMap::<Uuid, i64>::new(), BTreeMap::<&str, i64>::new());
    for row in tables.entries.iter() {
        *causes.entry(row.cause).or_default() += row.delta;
        *accounts.entry(&row.account).or_default() += row.delta;
    }
    for (cause, sum) in causes {
        broken.unless(sum == 0, || format!("5: the entries of {cause} sum to {sum}"));
    }
    for row in tables.accounts.iter() {
        let booked = accounts.get(row.name.as_str()).copied().unwrap_or_default();
        broken.unless(row.balance == booked, || format!("5: {} has {}, not {booked}", row.name, row.balance));
        broken.unless(row.balance >= 0, || format!("5: {} is below zero: {}", row.name, row.balance));
    }
    for account in accounts.keys().filter(|account| !account.starts_with("licet:")) {
        let has_row = tables.accounts.get(&(*account).to_owned()).is_some();
        broken.unless(has_row, || format!("5: {account} has entries and no balance"));
    }
}

/// 5: what is held is what unpaid live certificates wait for; what is owed is what users owe; and
/// nobody owes who has points.
fn points_are_where_they_belong(tables: &Tables, broken: &mut Broken) {
    let sum = |account: &str| -> i64 {
        tables.entries.iter().filter(|row| row.account == account).map(|row| row.delta).sum()
    };
    let balance = |account: &String| tables.accounts.get(account).map_or(0, |row| row.balance);
    let waiting: i64 = tables.certificates.iter().filter(|row| row.settled_at.is_none()).map(|row| row.points).sum();
    let held = sum("licet:held");
    broken.unless(held == waiting, || format!("5: {held} points are held, {waiting} are waited for"));
    let debts = tables.accounts.iter().filter(|row| row.name.starts_with("debt:"));
    let owed = sum("licet:owed");
    let debts: Vec<_> = debts.collect();
    let total: i64 = debts.iter().map(|row| row.balance).sum();
    broken.unless(total == -owed, || format!("5: users owe {total} points, {owed} are owed"));
    for row in debts.iter().filter(|row| row.balance > 0) {
        let points = balance(&row.name.replacen("debt:", "points:", 1));
        broken.unless(points == 0, || format!("5: {} is {} while there are {points} points", row.name, row.balance));
    }
}

/// 7.
fn pending_receptions_are_waited_for(tables: &Tables, broken: &mut Broken) {
    let waiting = |row: &&certificate::Model| row.received_at.is_none();
    for row in tables.pending_receptions.iter() {
        let member =
            |one: &certificate::Model| if row.container { one.container == Some(row.id) } else { one.id == row.id };
        let waits = tables.certificates.iter().filter(waiting).find(|one| member(one));
        broken.unless(waits.is_some(), || format!("7: nobody waits for the reception of {}", row.id));
        let token = waits.is_none_or(|one| row.container || row.token_digest == one.token_digest);
        broken.unless(token, || format!("7: the reception of {} is pending under another token", row.id));
        let due = waits.is_none_or(|one| row.due_at == one.settled_at.is_none().then_some(one.receipt_due_at));
        broken.unless(due, || format!("7: the reception of {} is due at {:?}", row.id, row.due_at));
    }
    for row in tables.certificates.iter().filter(waiting) {
        let pending = tables.pending_receptions.get(&row.container.unwrap_or(row.id)).is_some();
        broken.unless(pending, || format!("7: {} waits for its reception and is not pending", row.id));
    }
}

/// 8.
fn purchases_know_whether_they_live(tables: &Tables, broken: &mut Broken) {
    for row in tables.purchases.iter() {
        let lives = tables.certificates.get(&row.id);
        broken.unless(row.ended.is_none() == lives.is_some(), || format!("8: {} is {:?}", row.id, row.ended));
        let same = lives.is_none_or(|live| live.generation == row.generation);
        broken.unless(same, || format!("8: {} has another generation than its certificate", row.id));
    }
    for row in tables.certificates.iter() {
        let bought = tables.purchases.get(&row.id).is_some();
        broken.unless(bought, || format!("8: {} was never bought", row.id));
    }
}

/// Money without a match is kept once, and not while it pays.
fn money_is_kept_once(tables: &Tables, broken: &mut Broken) {
    let mut kept = BTreeSet::new();
    for row in tables.unmatched_settlements.iter() {
        let first = kept.insert((&row.provider, &row.settlement, row.amount_minor, &row.currency));
        broken.unless(first, || format!("3: {}:{} is kept twice", row.provider, row.settlement));
    }
}

/// Each return is paid out once, in full, and only if it is a buy-back.
fn payouts_are_for_buybacks(tables: &Tables, broken: &mut Broken) {
    let mut paid = BTreeSet::new();
    for row in tables.payouts.iter() {
        let first = paid.insert(row.license_return);
        broken.unless(first, || format!("4: {} was paid out twice", row.license_return));
        let due = tables.privileges.get(&row.license_return);
        let due = due.and_then(|due| due.amount_minor.zip(due.currency.clone()));
        let in_full = due == Some((row.amount_minor, row.currency.clone()));
        broken.unless(in_full, || format!("4: {} was paid out and {due:?} was due", row.license_return));
    }
}
