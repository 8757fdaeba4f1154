//! The invariants of ARCHITECTURE.md, checked on rows. Each function names the number of its
//! invariant. Invariant 6, that every effect has its message in the journal, concerns the runtime
//! and is not checked here.

use std::collections::{BTreeMap, BTreeSet};

use licet_common::fixture::MemoryStore;
use licet_schema::{
    ExternalId, Name,
    entity::{
        LicenseState, PayoutState, ReturnState, account, certificate, certificate_record, collection, entry, license,
        license_return, payout, pending_reception, privilege, refund, settlement, unmatched_settlement,
    },
    message::{Ending, Privilege, SettlementOutcome},
};
use uuid::Uuid;

/// Descriptions of violated invariants.
#[derive(Default)]
struct Violations(Vec<String>);

impl Violations {
    fn check(&mut self, holds: bool, violation: impl FnOnce() -> String) {
        if !holds {
            self.0.push(violation());
        }
    }
}

/// The violations in these rows.
pub(crate) fn violations(store: &MemoryStore) -> Vec<String> {
    let mut found = Violations::default();
    every_license_has_a_settlement(store, &mut found);
    counts_equal_the_numbers_of_licenses(store, &mut found);
    settlements_pay_once_and_in_full(store, &mut found);
    certificates_and_settlements_refer_to_each_other(store, &mut found);
    reversals_end_everything_they_paid_for(store, &mut found);
    refunds_sum_to_what_their_settlement_says(store, &mut found);
    completed_returns_have_one_record_and_one_privilege(store, &mut found);
    open_returns_have_their_license(store, &mut found);
    entries_sum_to_zero(store, &mut found);
    points_balance_with_certificates_and_debts(store, &mut found);
    pending_receptions_have_their_certificates(store, &mut found);
    records_have_the_state_of_their_certificates(store, &mut found);
    unmatched_money_is_recorded_once(store, &mut found);
    payouts_are_for_buybacks(store, &mut found);
    returns_bring_at_most_what_was_paid(store, &mut found);
    found.0
}

/// Changes that are never allowed: a permanent row is deleted or changed, a payment is forgotten, or
/// a certificate becomes live again without a reissue or a late payment.
pub(crate) fn forbidden_changes(before: &MemoryStore, after: &MemoryStore) -> Vec<String> {
    let mut found = Violations::default();
    for row in before.rows::<certificate_record::Entity>() {
        let now = after.get::<certificate_record::Entity>(&row.id);
        found.check(now.is_some(), || format!("8: the record of {} was deleted", row.id));
        let same = now.is_some_and(|now| {
            (&now.user, now.revision, now.amount_minor, now.points, now.purchased_at)
                == (&row.user, row.revision, row.amount_minor, row.points, row.purchased_at)
        });
        found.check(same, || format!("8: the purchase data of {} has changed", row.id));
        let revived = row.ended.is_some() && now.is_some_and(|now| now.ended.is_none());
        let reissued = now.is_some_and(|now| now.generation.get() == row.generation.get() + 1);
        let paid = row.settlement.is_none()
            && matches!(row.ended, Some(Ending::Declined | Ending::Lapsed))
            && after.get::<certificate::Entity>(&row.id).is_some_and(|live| live.settlement.is_some());
        found.check(!revived || reissued || paid, || format!("8: {} is live again without a reissue", row.id));
    }
    for row in before.rows::<settlement::Entity>() {
        let now = after.get::<settlement::Entity>(&(row.provider.clone(), row.provider_reference.clone()));
        let allowed = now.is_some_and(|now| match row.amount_minor {
            Some(_) => (now.amount_minor, now.currency) == (row.amount_minor, row.currency),
            None => row.outcome != SettlementOutcome::Failed || now.outcome != SettlementOutcome::Pending,
        });
        let id = || format!("{}:{}", row.provider, row.provider_reference);
        found.check(allowed, || format!("3: the settlement {} changed to {now:?}", id()));
    }
    for row in before.rows::<payout::Entity>() {
        let now = after.get::<payout::Entity>(&(row.provider.clone(), row.payout.clone()));
        let is_final = |state| matches!(state, PayoutState::Failed | PayoutState::Pending);
        let allowed = now.is_some_and(|now| {
            now.license_return == row.license_return && (!is_final(row.state) || is_final(now.state))
        });
        found.check(allowed, || format!("4: the payout {}:{} changed to {now:?}", row.provider, row.payout));
    }
    for row in before.rows::<collection::Entity>() {
        let kept = after.get::<collection::Entity>(&row.id) == Some(row);
        found.check(kept, || format!("4: the record of the return {} has changed", row.id));
    }
    for row in before.rows::<entry::Entity>() {
        let kept = after.get::<entry::Entity>(&row.id) == Some(row);
        found.check(kept, || format!("5: the entry {} has changed", row.id));
    }
    found.0
}

/// Invariant 1.
fn every_license_has_a_settlement(store: &MemoryStore, found: &mut Violations) {
    for license in store.rows::<license::Entity>() {
        let id = &license.certificate;
        let live = store.get::<certificate::Entity>(id).map(|row| row.settlement.is_some());
        let ended = store.get::<certificate_record::Entity>(id).map(|row| row.settlement.is_some());
        found.check(live.or(ended) == Some(true), || format!("1: the license {} has no settlement", license.id));
    }
}

/// Invariant 2.
fn counts_equal_the_numbers_of_licenses(store: &MemoryStore, found: &mut Violations) {
    for record in store.rows::<certificate_record::Entity>() {
        let id = record.id;
        let licenses = |states: &[LicenseState]| {
            let of = store.rows::<license::Entity>();
            of.filter(|row| row.certificate == id && states.contains(&row.state)).count() as i64
        };
        let returned = store
            .rows::<license_return::Entity>()
            .filter(|row| row.certificate == id && row.state == ReturnState::Completed);
        let granted = licenses(&[LicenseState::Granted, LicenseState::Returning]) + returned.count() as i64;
        let outstanding = licenses(&[LicenseState::Outstanding]);
        let live = store.get::<certificate::Entity>(&id);
        let counted = live.map_or(record.granted, |row| row.granted).get();
        found.check(counted == granted, || format!("2: {id} counts {counted} grants, but there are {granted}"));
        let grants = live.map(|row| row.grants).or(record.grants);
        let within = grants.is_none_or(|grants| granted + outstanding <= grants.get());
        found.check(within, || format!("2: {id} has {granted} + {outstanding} licenses, but grants {grants:?}"));
        if let Some(row) = live {
            let counted = row.outstanding.get();
            let same = counted == outstanding;
            found.check(same, || format!("2: {id} counts {counted} outstanding licenses, but there are {outstanding}"));
        }
    }
}

fn paid_for<'a>(
    store: &'a MemoryStore,
    settlement: &'a settlement::Model,
) -> impl Iterator<Item = &'a certificate_record::Model> {
    store.rows::<certificate_record::Entity>().filter(|row| match settlement.container {
        Some(container) => row.container == Some(container),
        None => settlement.certificate == Some(row.id) && row.container.is_none(),
    })
}

/// Invariant 3.
fn settlements_pay_once_and_in_full(store: &MemoryStore, found: &mut Violations) {
    let mut paid = BTreeSet::new();
    for row in store.rows::<settlement::Entity>() {
        let id = &row.provider_reference;
        let one = row.certificate.is_some() != row.container.is_some();
        found.check(one, || format!("3: the settlement {id} does not name exactly one purchase"));
        if row.outcome != SettlementOutcome::Completed {
            continue;
        }
        let first = paid.insert((row.certificate, row.container));
        found.check(first, || format!("3: the settlement {id} is the second for its purchase"));
        let due: i64 = paid_for(store, row).map(|row| row.amount_minor.get() - row.points.get()).sum();
        let currency = paid_for(store, row).all(|one| Some(&one.currency) == row.currency.as_ref());
        let amount = row.amount_minor.map(|amount| amount.get());
        let in_full = amount == Some(due) && currency && paid_for(store, row).next().is_some();
        found.check(in_full, || format!("3: the amount of the settlement {id} differs from the amount due, {due}"));
    }
}

/// The settlement in the rows of a certificate.
fn settlement_of(store: &MemoryStore, record: &certificate_record::Model) -> Option<(Name, ExternalId)> {
    match store.get::<certificate::Entity>(&record.id) {
        Some(live) => live.provider.clone().zip(live.settlement.clone()),
        None => record.provider.clone().zip(record.settlement.clone()),
    }
}

fn key_of(row: &settlement::Model) -> (Name, ExternalId) {
    (row.provider.clone(), row.provider_reference.clone())
}

/// Invariant 3.
fn certificates_and_settlements_refer_to_each_other(store: &MemoryStore, found: &mut Violations) {
    for row in store.rows::<settlement::Entity>().filter(|row| row.outcome == SettlementOutcome::Completed) {
        let key = Some(key_of(row));
        let known = paid_for(store, row).all(|one| settlement_of(store, one) == key);
        found.check(known, || format!("3: a certificate does not name its settlement {}", row.provider_reference));
    }
    for record in store.rows::<certificate_record::Entity>() {
        let Some(key) = settlement_of(store, record) else { continue };
        let row = store.get::<settlement::Entity>(&key);
        let pays = row.is_some_and(|row| paid_for(store, row).any(|one| one.id == record.id));
        found.check(pays, || format!("3: {} names the settlement {}, which does not pay for it", record.id, key.1));
        let failed = row.is_some_and(|row| row.outcome == SettlementOutcome::Failed);
        found.check(!failed, || format!("3: {} names the failed settlement {}", record.id, key.1));
    }
}

/// Invariant 3, including certificates that were issued as upgrades.
fn reversals_end_everything_they_paid_for(store: &MemoryStore, found: &mut Violations) {
    for row in store.rows::<settlement::Entity>().filter(|row| row.outcome == SettlementOutcome::Reversed) {
        let key = Some(key_of(row));
        for record in paid_for(store, row).filter(|one| settlement_of(store, one) == key) {
            check_reversed(store, record.id, found);
        }
    }
}

/// Invariant 3: the refunds that count sum to at most the payment, and a refunded member is revoked.
fn refunds_sum_to_what_their_settlement_says(store: &MemoryStore, found: &mut Violations) {
    for row in store.rows::<settlement::Entity>() {
        let counts = |one: &&refund::Model| {
            (&one.provider, &one.settlement) == (&row.provider, &row.provider_reference)
                && !one.unmatched
                && matches!(one.outcome, SettlementOutcome::Refunded | SettlementOutcome::Reversed)
        };
        let refunds: Vec<_> = store.rows::<refund::Entity>().filter(counts).collect();
        let paid = row.amount_minor.map_or(0, |amount| amount.get());
        let sum: i64 = refunds.iter().filter_map(|one| one.counted_minor).map(|amount| amount.get()).sum();
        let rest = refunds.iter().any(|one| one.counted_minor.is_none());
        let everything = rest || (paid > 0 && sum == paid);
        let (id, refunded) = (&row.provider_reference, row.refunded_minor.get());
        found.check(sum <= paid, || format!("3: {sum} of {paid} was refunded of the settlement {id}"));
        let expected = if everything { paid } else { sum };
        found.check(refunded == expected, || format!("3: {id} says {refunded} is refunded, but it is {expected}"));
        let reversed = row.outcome == SettlementOutcome::Reversed;
        found
            .check(reversed == everything, || format!("3: {id} is {:?}, but {sum} of {paid} is refunded", row.outcome));
        let named = refunds.iter().filter(|_| row.container.is_some()).filter_map(|one| one.certificate);
        for member in named.filter(|id| row.reported_certificate != Some(*id)) {
            let record = store.get::<certificate_record::Entity>(&member);
            let revoked = record.is_some_and(|one| one.ended == Some(Ending::Reversed) && !one.reinstated);
            found.check(revoked, || format!("3: the refunded member {member} is not revoked"));
        }
    }
}

fn check_reversed(store: &MemoryStore, certificate: Uuid, found: &mut Violations) {
    let ended = store.get::<certificate_record::Entity>(&certificate).and_then(|row| row.ended);
    found.check(ended == Some(Ending::Reversed), || format!("3: {certificate} was reversed but is {ended:?}"));
    for license in store.rows::<license::Entity>().filter(|row| row.certificate == certificate) {
        let revoked = license.state == LicenseState::Revoked;
        found.check(revoked, || format!("3: {} was reversed but is {:?}", license.id, license.state));
    }
    let returned = store.rows::<collection::Entity>().filter(|row| row.certificate == certificate);
    for upgrade in returned.filter_map(|row| store.get::<privilege::Entity>(&row.id)?.certificate) {
        check_reversed(store, upgrade, found);
    }
}

/// Invariant 4.
fn completed_returns_have_one_record_and_one_privilege(store: &MemoryStore, found: &mut Violations) {
    let completed = store.rows::<license_return::Entity>().filter(|row| row.state == ReturnState::Completed);
    let completed: BTreeSet<_> = completed.map(|row| row.id).collect();
    let recorded: BTreeSet<_> = store.rows::<collection::Entity>().map(|row| row.id).collect();
    let given: BTreeSet<_> = store.rows::<privilege::Entity>().map(|row| row.id).collect();
    found.check(completed == recorded, || {
        format!("4: the completed returns are {completed:?}, but the recorded returns are {recorded:?}")
    });
    found.check(completed == given, || {
        format!("4: the completed returns are {completed:?}, but the privileges are {given:?}")
    });
    let licenses: BTreeSet<_> = store.rows::<collection::Entity>().map(|row| row.license).collect();
    found.check(licenses.len() == recorded.len(), || "4: a license was returned twice".into());
    for row in store.rows::<collection::Entity>() {
        let deleted = store.get::<license::Entity>(&row.license).is_none();
        found.check(deleted, || format!("4: the returned license {} still exists", row.license));
        found.check(record_matches(store, row), || format!("4: the record of {} matches no purchase", row.id));
    }
    for row in store.rows::<privilege::Entity>() {
        let present = (row.points.is_some(), row.certificate.is_some(), row.amount_minor.is_some());
        let expected = match row.kind {
            Privilege::Points => (true, false, false),
            Privilege::Upgrade => (false, true, false),
            Privilege::Buyback => (false, false, true),
            Privilege::Collection => (false, false, false),
        };
        found.check(present == expected, || format!("4: {row:?} does not contain exactly one privilege"));
        let exists = |id: Uuid| store.get::<certificate_record::Entity>(&id).is_some();
        found.check(row.certificate.is_none_or(exists), || format!("4: the certificate of {row:?} does not exist"));
    }
}

/// Whether the record of a return agrees with its purchase and settlement.
fn record_matches(store: &MemoryStore, row: &collection::Model) -> bool {
    let record = store.get::<certificate_record::Entity>(&row.certificate);
    record.is_some_and(|one| {
        (&one.user, &one.content, one.version, one.amount_minor, one.purchased_at)
            == (&row.user, &row.content, row.version, row.amount_minor, row.purchased_at)
            && settlement_of(store, one) == Some((row.provider.clone(), row.settlement.clone()))
    })
}

/// Invariant 4.
fn open_returns_have_their_license(store: &MemoryStore, found: &mut Violations) {
    let open = store.rows::<license_return::Entity>().filter(|row| row.state == ReturnState::Opened);
    let opened: Vec<_> = open.map(|row| row.license).collect();
    let distinct: BTreeSet<_> = opened.iter().copied().collect();
    found.check(distinct.len() == opened.len(), || "4: a license has two open returns".into());
    let returning = store.rows::<license::Entity>().filter(|row| row.state == LicenseState::Returning);
    let returning: BTreeSet<_> = returning.map(|row| row.id).collect();
    let same = distinct == returning;
    found.check(same, || {
        format!("4: the open returns are of {distinct:?}, but the returning licenses are {returning:?}")
    });
}

/// Invariant 5.
fn entries_sum_to_zero(store: &MemoryStore, found: &mut Violations) {
    let (mut causes, mut accounts) = (BTreeMap::<Uuid, i64>::new(), BTreeMap::<&str, i64>::new());
    for row in store.rows::<entry::Entity>() {
        *causes.entry(row.cause).or_default() += row.delta;
        *accounts.entry(&row.account).or_default() += row.delta;
    }
    for (cause, sum) in causes {
        found.check(sum == 0, || format!("5: the entries of {cause} sum to {sum}"));
    }
    for row in store.rows::<account::Entity>() {
        let booked = accounts.get(row.name.as_str()).copied().unwrap_or(0);
        let balance = row.balance;
        found.check(balance == booked, || format!("5: {} has {balance}, but its entries sum to {booked}", row.name));
        found.check(balance >= 0, || format!("5: {} is negative: {balance}", row.name));
    }
    for account in accounts.keys().filter(|account| !account.starts_with("licet:")) {
        let has_row = store.get::<account::Entity>(&(*account).to_owned()).is_some();
        found.check(has_row, || format!("5: {account} has entries but no balance"));
    }
}

/// Invariant 5: the held points are those of unpaid live certificates, the points owed to Licet are
/// the users' debts, and no user has points and debt at once.
fn points_balance_with_certificates_and_debts(store: &MemoryStore, found: &mut Violations) {
    let sum = |account: &str| -> i64 {
        store.rows::<entry::Entity>().filter(|row| row.account == account).map(|row| row.delta).sum()
    };
    let balance = |account: &String| store.get::<account::Entity>(account).map_or(0, |row| row.balance);
    let unpaid = store.rows::<certificate::Entity>().filter(|row| row.settled_at.is_none());
    let unpaid: i64 = unpaid.map(|row| row.points.get()).sum();
    let held = sum("licet:held");
    found.check(held == unpaid, || format!("5: {held} points are held, but unpaid certificates need {unpaid}"));
    let debts: Vec<_> = store.rows::<account::Entity>().filter(|row| row.name.starts_with("debt:")).collect();
    let owed = sum("licet:owed");
    let total: i64 = debts.iter().map(|row| row.balance).sum();
    found.check(total == -owed, || format!("5: the debts sum to {total} points, but Licet's account has {owed}"));
    for row in debts.iter().filter(|row| row.balance > 0) {
        let points = balance(&row.name.replacen("debt:", "points:", 1));
        found.check(points == 0, || format!("5: {} is {} while the user has {points} points", row.name, row.balance));
    }
}

/// Invariant 7.
fn pending_receptions_have_their_certificates(store: &MemoryStore, found: &mut Violations) {
    let unreceived = |row: &&certificate::Model| row.received_at.is_none();
    for row in store.rows::<pending_reception::Entity>() {
        let member =
            |one: &certificate::Model| if row.container { one.container == Some(row.id) } else { one.id == row.id };
        let waiting = store.rows::<certificate::Entity>().filter(unreceived).find(|one| member(one));
        found.check(waiting.is_some(), || format!("7: {} is pending but has no unreceived certificate", row.id));
        let token = waiting.is_none_or(|one| row.container || row.token_digest == Some(one.token_digest));
        found.check(token, || format!("7: the pending reception of {} has another token", row.id));
        let due = waiting.is_none_or(|one| row.due_at == one.settled_at.is_none().then_some(one.receipt_due_at));
        found.check(due, || format!("7: the reception of {} is due at {:?}", row.id, row.due_at));
    }
    for row in store.rows::<certificate::Entity>().filter(unreceived) {
        let pending = store.get::<pending_reception::Entity>(&row.container.unwrap_or(row.id)).is_some();
        found.check(pending, || format!("7: {} is unreceived but not pending", row.id));
    }
}

/// Invariant 8.
fn records_have_the_state_of_their_certificates(store: &MemoryStore, found: &mut Violations) {
    for row in store.rows::<certificate_record::Entity>() {
        let live = store.get::<certificate::Entity>(&row.id);
        found.check(row.ended.is_none() == live.is_some(), || {
            format!("8: the ending of the record {} contradicts the live rows: {:?}", row.id, row.ended)
        });
        let same = live.is_none_or(|live| live.generation == row.generation);
        found.check(same, || format!("8: the record of {} has another generation", row.id));
    }
    for row in store.rows::<certificate::Entity>() {
        let recorded = store.get::<certificate_record::Entity>(&row.id).is_some();
        found.check(recorded, || format!("8: {} has no record", row.id));
    }
}

/// Invariant 3: the same unmatched money is recorded once while it is open, and once for each refund
/// that returned it. Such a refund counts for the payments that it returned.
fn unmatched_money_is_recorded_once(store: &MemoryStore, found: &mut Violations) {
    let mut recorded = BTreeSet::new();
    for row in store.rows::<unmatched_settlement::Entity>() {
        let money = (row.amount_minor, &row.currency);
        let first = recorded.insert((&row.provider, &row.settlement, &row.refund, money, &row.refunded_by));
        found.check(first, || format!("3: {}:{} is recorded twice", row.provider, row.settlement));
    }
    let counts = |one: &&refund::Model| one.unmatched && one.outcome == SettlementOutcome::Refunded;
    for one in store.rows::<refund::Entity>().filter(counts) {
        let is_returned = |row: &&unmatched_settlement::Model| {
            (&row.provider, &row.settlement, row.refunded_by.as_ref())
                == (&one.provider, &one.settlement, Some(&one.refund))
        };
        let rows = store.rows::<unmatched_settlement::Entity>().filter(is_returned);
        let sum: i64 = rows.map(|row| row.amount_minor.get()).sum();
        let counted = one.counted_minor.map(|counted| counted.get());
        found.check(counted == Some(sum), || format!("3: {} counts for {counted:?}, not for {sum}", one.refund));
    }
}

/// Invariant 4: the returns of a certificate, and of all upgrades of its licenses, bring at most what
/// was paid for it.
fn returns_bring_at_most_what_was_paid(store: &MemoryStore, found: &mut Violations) {
    let mut brought = BTreeMap::<Uuid, i64>::new();
    for row in store.rows::<privilege::Entity>() {
        let returned = |id: Uuid| store.get::<license_return::Entity>(&id).map(|row| row.certificate);
        let Some(mut first) = returned(row.id) else { continue };
        let upgrade_to = |id: Uuid| store.rows::<privilege::Entity>().find(|row| row.certificate == Some(id));
        while let Some(origin) = upgrade_to(first).and_then(|row| returned(row.id)) {
            first = origin;
        }
        let amounts = [row.points, row.amount_minor];
        *brought.entry(first).or_default() += amounts.iter().flatten().map(|amount| amount.get()).sum::<i64>();
    }
    for (id, brought) in brought {
        let paid = store.get::<certificate_record::Entity>(&id).map_or(0, |row| row.amount_minor.get());
        found.check(brought <= paid, || format!("4: returns of {id} brought {brought}, but {paid} was paid for it"));
    }
}

/// Invariant 4: only buy-backs are paid out, and a completed payout has the amount owed.
fn payouts_are_for_buybacks(store: &MemoryStore, found: &mut Violations) {
    for row in store.rows::<payout::Entity>() {
        let due = store.get::<privilege::Entity>(&row.license_return);
        let due = due.and_then(|due| due.amount_minor.zip(due.currency));
        let paid = row.amount_minor.zip(row.currency);
        let agrees = match row.state {
            PayoutState::Completed => paid == due,
            PayoutState::Mismatched => paid.is_some() && paid != due,
            PayoutState::Failed => paid.is_some(),
            PayoutState::Pending => paid.is_none(),
        };
        found.check(due.is_some() && agrees, || format!("4: {due:?} was due, but the payout is {row:?}"));
    }
}
