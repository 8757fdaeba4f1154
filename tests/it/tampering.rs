//! The auditor finds every manual change: a changed value in any column of any table, and added and
//! deleted rows. Every column needs an entry in [`COLUMNS`], which says what the auditor must
//! report.

use std::{collections::BTreeSet, sync::Arc};

use licet_common::config::Terms;
use licet_operator::audit::{Violation, audit};
use licet_schema::{
    Count, Output, Request, Text,
    message::{
        CertificatePresented, CertificateReissue, ContentPut, ContentVersion, Item, LicenseReturn, PayoutCompletion,
        PayoutFailure, Privilege, PurchaseRequest, ReturnPolicy, SettlementCompletion, SettlementFailure,
        SettlementReinstatement, SettlementReversal, SweepDue, SweepKind,
    },
};
use sea_orm::{ConnectionTrait, DatabaseBackend, Statement};
use uuid::Uuid;

use crate::system::{
    Bought, TestSystem, completion, external_id, license_receipt, license_request, message, name, on_both, outcome,
    receipt, reversal, song, usd, version,
};

on_both!(
    case_b14_the_auditor_finds_every_change_of_a_column_that_no_message_made,
    the_auditor_finds_every_row_that_was_added_or_deleted_without_a_message,
    the_auditor_finds_a_manual_change_even_after_a_message_has_overwritten_it,
);

/// How a test changes a column, and what the auditor must do about it.
enum Case {
    /// The value is changed according to its type. The auditor reports it.
    Reported,
    /// The value becomes the one of these words that differs from it. The auditor reports it.
    Words(&'static str, &'static str),
    /// The value becomes the result of this SQL expression. The auditor reports it.
    Sql(&'static str),
    /// The auditor does not notice the change, for this reason.
    Unnoticed(&'static str),
}

use Case::{Reported, Sql, Unnoticed, Words};

const CURRENCY: Case = Words("EUR", "GBP");
const PRIVILEGE: Case = Words("points", "collection");
const ENDING: Case = Words("reversed", "expired");
const OUTCOME: Case = Words("completed", "reversed");
const NO_MESSAGE: Case = Unnoticed("operators and starting workers write signing keys; messages do not");

/// Every column of every table.
const COLUMNS: [(&str, &[(&str, Case)]); 19] = [
    (
        "content",
        &[
            ("content", Reported),
            ("version", Reported),
            ("revision", Sql("revision + 100")),
            ("registered_at", Reported),
            ("title", Reported),
            ("price_minor", Reported),
            ("currency", CURRENCY),
            ("grants", Reported),
            ("certificate_ttl_s", Reported),
            ("receipt_ttl_s", Reported),
            ("successor_content", Reported),
            ("successor_version", Reported),
            ("return_points", Reported),
            ("return_upgrade", Reported),
            ("return_buyback_minor", Reported),
            ("return_buyback_currency", CURRENCY),
            ("return_collection", Reported),
            ("current", Reported),
            ("media_uri", Reported),
            ("media_sha256", Reported),
            ("media_bytes", Reported),
        ],
    ),
    (
        "certificate_record",
        &[
            ("id", Reported),
            ("container", Reported),
            ("user", Reported),
            ("content", Reported),
            ("version", Reported),
            ("revision", Reported),
            ("amount_minor", Reported),
            ("currency", CURRENCY),
            ("points", Reported),
            ("reference", Reported),
            ("purchased_at", Reported),
            ("generation", Reported),
            ("received_at", Reported),
            ("settlement", Reported),
            ("provider", Reported),
            ("settled_at", Reported),
            ("grants", Reported),
            ("granted", Reported),
            ("ended", ENDING),
            ("ended_at", Reported),
            ("reinstated", Reported),
            ("token_digest", Reported),
            ("issued_at", Reported),
            ("receipt_due_at", Reported),
            ("expires_at", Reported),
        ],
    ),
    (
        "certificate",
        &[
            ("id", Reported),
            ("container", Reported),
            ("user", Reported),
            ("content", Reported),
            ("version", Reported),
            ("revision", Reported),
            ("amount_minor", Reported),
            ("currency", CURRENCY),
            ("points", Reported),
            ("reference", Reported),
            ("generation", Reported),
            ("token_digest", Reported),
            ("issued_at", Reported),
            ("receipt_due_at", Reported),
            ("expires_at", Reported),
            ("received_at", Reported),
            ("settlement", Reported),
            ("provider", Reported),
            ("settled_at", Reported),
            ("grants", Reported),
            ("granted", Reported),
            ("outstanding", Reported),
        ],
    ),
    (
        "pending_reception",
        &[
            ("id", Reported),
            ("container", Reported),
            ("user", Reported),
            ("token_digest", Reported),
            ("due_at", Reported),
        ],
    ),
    (
        "license",
        &[
            ("id", Reported),
            ("certificate", Reported),
            ("user", Reported),
            ("content", Reported),
            ("version", Reported),
            ("terminal", Reported),
            ("token", Reported),
            ("state", Words("granted", "outstanding")),
            ("revocation", Words("reissued", "reversed")),
            ("issued_at", Reported),
            ("granted_at", Reported),
        ],
    ),
    (
        "license_return",
        &[
            ("id", Reported),
            ("license", Reported),
            ("certificate", Reported),
            ("user", Reported),
            ("privilege", PRIVILEGE),
            ("state", Words("opened", "lapsed")),
            ("opened_at", Reported),
            ("delete_by", Reported),
            ("closed_at", Reported),
        ],
    ),
    (
        "collection",
        &[
            ("id", Reported),
            ("license", Reported),
            ("user", Reported),
            ("content", Reported),
            ("version", Reported),
            ("certificate", Reported),
            ("settlement", Reported),
            ("provider", Reported),
            ("amount_minor", Reported),
            ("currency", CURRENCY),
            ("kind", PRIVILEGE),
            ("purchased_at", Reported),
            ("granted_at", Reported),
            ("returned_at", Reported),
        ],
    ),
    (
        "privilege",
        &[
            ("id", Reported),
            ("user", Reported),
            ("kind", PRIVILEGE),
            ("points", Reported),
            ("certificate", Reported),
            ("amount_minor", Reported),
            ("currency", CURRENCY),
        ],
    ),
    (
        "payout",
        &[
            ("provider", Reported),
            ("payout", Reported),
            ("license_return", Reported),
            ("state", Words("failed", "mismatched")),
            ("amount_minor", Reported),
            ("currency", CURRENCY),
            ("sequence", Reported),
            ("reason", Reported),
            ("registered_at", Reported),
            ("cause", Reported),
        ],
    ),
    (
        "reference",
        &[
            ("reference", Reported),
            ("sender", Reported),
            ("earlier", Reported),
            ("purchase", Reported),
            ("container", Reported),
        ],
    ),
    ("account", &[("name", Reported), ("balance", Reported)]),
    (
        "entry",
        &[("id", Reported), ("account", Reported), ("delta", Reported), ("cause", Reported), ("booked_at", Reported)],
    ),
    (
        "settlement",
        &[
            ("provider", Reported),
            ("provider_reference", Reported),
            ("certificate", Reported),
            ("container", Reported),
            ("reported_certificate", Reported),
            ("reported_container", Reported),
            ("outcome", OUTCOME),
            ("amount_minor", Reported),
            ("currency", CURRENCY),
            ("grants", Reported),
            ("refunded_minor", Reported),
            ("registered_at", Reported),
            ("cause", Reported),
        ],
    ),
    (
        "refund",
        &[
            ("provider", Reported),
            ("settlement", Reported),
            ("refund", Reported),
            ("certificate", Reported),
            ("container", Reported),
            ("amount_minor", Reported),
            ("currency", CURRENCY),
            ("outcome", Words("refunded", "reinstated")),
            ("counted_minor", Reported),
            ("unmatched", Reported),
            ("registered_at", Reported),
            ("cause", Reported),
        ],
    ),
    (
        "reinstatement",
        &[
            ("id", Reported),
            ("provider", Reported),
            ("settlement", Reported),
            ("refund", Reported),
            ("certificate", Reported),
            ("container", Reported),
            ("registered_at", Reported),
        ],
    ),
    (
        "unmatched_settlement",
        &[
            ("id", Reported),
            ("kind", Words("payment", "refund")),
            ("provider", Reported),
            ("settlement", Reported),
            ("refund", Reported),
            ("certificate", Reported),
            ("container", Reported),
            ("amount_minor", Reported),
            ("currency", CURRENCY),
            ("grants", Reported),
            ("reason", Words("expired", "reversed")),
            ("recorded_at", Reported),
            ("refunded_by", Reported),
        ],
    ),
    (
        "journal",
        &[
            ("id", Reported),
            ("kind", Reported),
            ("sender", Reported),
            ("digest", Reported),
            ("subject", Reported),
            ("code", Reported),
            ("decided_at", Reported),
            ("position", Unnoticed("the position only orders events; an order that the events contradict is reported")),
            ("outputs", Sql("(SELECT outputs FROM journal ORDER BY id DESC LIMIT 1)")),
            ("changes", Sql("NULL")),
        ],
    ),
    ("mention", &[("subject", Reported), ("journal", Reported)]),
    ("signing_key", &[("kid", NO_MESSAGE), ("recorded_at", NO_MESSAGE), ("retired_at", NO_MESSAGE)]),
];

/// A column as the database describes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Described {
    table: String,
    column: String,
    kind: String,
    /// Whether it belongs to the primary key.
    key: bool,
}

/// Changes rows by hand.
struct Tamperer<'a> {
    system: &'a TestSystem,
    columns: Vec<Described>,
}

impl<'a> Tamperer<'a> {
    /// Reads the tables and their columns from the database.
    async fn new(system: &'a TestSystem) -> Self {
        let sql = match system.resources.store.backend() {
            DatabaseBackend::Postgres => {
                "SELECT c.table_name::text, c.column_name::text, c.data_type::text, \
                 EXISTS (SELECT 1 FROM information_schema.table_constraints t \
                 JOIN information_schema.key_column_usage k ON k.constraint_name = t.constraint_name \
                 AND k.table_name = t.table_name WHERE t.constraint_type = 'PRIMARY KEY' \
                 AND t.table_name = c.table_name AND k.column_name = c.column_name) \
                 FROM information_schema.columns c WHERE c.table_schema = 'public'"
            }
            _ => {
                "SELECT t.name, c.name, c.type, c.pk > 0 FROM sqlite_master t \
                 JOIN pragma_table_info(t.name) c WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%'"
            }
        };
        let pool = system.resources.store.pool();
        let rows = pool.query_all(Statement::from_string(system.resources.store.backend(), sql)).await;
        let described = rows.expect("the database describes its columns").into_iter().map(|row| Described {
            table: row.try_get_by_index(0).expect("a name"),
            column: row.try_get_by_index(1).expect("a name"),
            kind: row.try_get_by_index::<String>(2).expect("a type").to_lowercase(),
            key: row.try_get_by_index(3).expect("whether it is part of the key"),
        });
        let columns = described.filter(|one| one.table != "_sqlx_migrations").collect();
        Self { system, columns }
    }

    fn of<'b>(&'b self, table: &'b str) -> impl Iterator<Item = &'b Described> {
        self.columns.iter().filter(move |one| one.table == table)
    }

    /// Executes a statement that must change exactly one row.
    async fn change_one(&self, statement: &str) {
        let changed = self.execute(statement).await;
        assert_eq!(changed, 1, "{statement}");
    }

    async fn execute(&self, statement: &str) -> u64 {
        let executed = self.system.resources.store.pool().execute_unprepared(statement).await;
        executed.unwrap_or_else(|error| panic!("{statement}: {error}")).rows_affected()
    }

    /// A condition that selects the first row of a table. Only journal rows with changes are
    /// selected.
    fn first(&self, table: &str) -> String {
        let key = self.of(table).filter(|one| one.key).map(|one| format!("\"{}\"", one.column));
        let key = key.collect::<Vec<_>>().join(", ");
        let which = if table == "journal" { "WHERE changes IS NOT NULL" } else { "" };
        format!("({key}) IN (SELECT {key} FROM \"{table}\" {which} ORDER BY {key} LIMIT 1)")
    }

    /// An SQL expression for another value of a column.
    fn other(&self, described: &Described, case: &Case) -> String {
        let column = format!("\"{}\"", described.column);
        let postgres = self.system.resources.store.backend() == DatabaseBackend::Postgres;
        match case {
            Sql(expression) => (*expression).to_owned(),
            Words(one, other) => format!("CASE WHEN {column} = '{one}' THEN '{other}' ELSE '{one}' END"),
            Reported | Unnoticed(_) => match described.kind.as_str() {
                kind if kind.contains("bool") => format!("NOT {column}"),
                kind if kind.contains("uuid") && postgres => "'00000000-0000-7000-8000-0000000000aa'".to_owned(),
                kind if kind.contains("uuid") => "X'000000000000700080000000000000aa'".to_owned(),
                kind if kind.contains("int") => format!("COALESCE({column}, 0) + 1"),
                kind if kind.contains("text") => format!("COALESCE({column}, '') || 'x'"),
                "bytea" => format!("'\\x{}'::bytea", "ab".repeat(32)),
                "blob" => format!("X'{}'", "ab".repeat(32)),
                kind => panic!("{described:?} has the type {kind}, for which there is no other value"),
            },
        }
    }

    /// Changes a table, audits, and undoes the change.
    async fn violations_after(&self, table: &str, statement: &str) -> Vec<Violation> {
        self.execute(&format!("CREATE TABLE saved AS SELECT * FROM \"{table}\"")).await;
        self.change_one(statement).await;
        let report = audit(&self.system.resources.store).await;
        let violations = report.unwrap_or_else(|error| panic!("{statement}: {error}")).violations;
        self.execute(&format!("DELETE FROM \"{table}\"")).await;
        self.execute(&format!("INSERT INTO \"{table}\" SELECT * FROM saved")).await;
        self.execute("DROP TABLE saved").await;
        violations
    }

    async fn assert_unchanged(&self) {
        let violations = audit(&self.system.resources.store).await.expect("the auditor can read").violations;
        assert!(violations.is_empty(), "{violations:#?}");
    }
}

/// Whether a violation is about a row of this table that only the fingerprints reveal.
fn is_about(violation: &Violation, table: &str) -> bool {
    violation.what.contains(&format!("row of {table} that")) || violation.what.contains(&format!("row of {table},"))
}

async fn case_b14_the_auditor_finds_every_change_of_a_column_that_no_message_made(mut system: TestSystem) {
    play(&mut system).await;
    system.stop_workers().await;
    let tamperer = Tamperer::new(&system).await;
    let decided = COLUMNS.iter().flat_map(|(table, columns)| columns.iter().map(|(column, _)| (*table, *column)));
    let decided: BTreeSet<_> = decided.collect();
    let existing: BTreeSet<_> = tamperer.columns.iter().map(|one| (one.table.as_str(), one.column.as_str())).collect();
    assert_eq!(decided, existing, "add each column to COLUMNS, with what the auditor must do about it");
    tamperer.assert_unchanged().await;
    let mut missed = Vec::new();
    for (table, columns) in &COLUMNS {
        for (column, case) in *columns {
            if matches!(case, Unnoticed(_)) && *table == "signing_key" {
                continue;
            }
            let described = tamperer.of(table).find(|one| one.column == *column).expect("it exists");
            let (value, which) = (tamperer.other(described, case), tamperer.first(table));
            let statement = format!("UPDATE \"{table}\" SET \"{column}\" = {value} WHERE {which}");
            let violations = tamperer.violations_after(table, &statement).await;
            match case {
                Unnoticed(reason) => assert!(violations.is_empty(), "{table}.{column}: {reason}: {violations:#?}"),
                _ if violations.iter().any(|violation| is_about(violation, table)) => {}
                _ => missed.push(format!("{table}.{column}: {violations:?}")),
            }
        }
    }
    assert!(missed.is_empty(), "these changes were not reported:\n{}", missed.join("\n"));
    system.finish().await;
}

async fn the_auditor_finds_every_row_that_was_added_or_deleted_without_a_message(mut system: TestSystem) {
    play(&mut system).await;
    system.stop_workers().await;
    let tamperer = Tamperer::new(&system).await;
    tamperer.assert_unchanged().await;
    for (table, columns) in COLUMNS.iter().filter(|(table, _)| *table != "signing_key") {
        let which = tamperer.first(table);
        let deleted = tamperer.violations_after(table, &format!("DELETE FROM \"{table}\" WHERE {which}")).await;
        // The changes of a batch are deleted with the journal row that stores them, so nothing
        // shows that the row is missing.
        let found = |violation: &Violation| *table == "journal" || is_about(violation, table);
        assert!(deleted.iter().any(found), "deleted from {table}: {deleted:#?}");

        let key = tamperer.of(table).find(|one| one.key).expect("a key");
        let select = tamperer.of(table).map(|one| {
            let case = columns.iter().find(|(column, _)| *column == one.column).map(|(_, case)| case);
            // The amount is part of a unique index of unmatched money.
            if one == key || (*table == "unmatched_settlement" && one.column == "amount_minor") {
                tamperer.other(one, case.expect("it is in the list"))
            } else if *table == "journal" && one.column == "changes" {
                "NULL".to_owned()
            } else {
                format!("\"{}\"", one.column)
            }
        });
        let names: Vec<_> = tamperer.of(table).map(|one| format!("\"{}\"", one.column)).collect();
        let (names, select) = (names.join(", "), select.collect::<Vec<_>>().join(", "));
        let copy = format!("INSERT INTO \"{table}\" ({names}) SELECT {select} FROM \"{table}\" WHERE {which}");
        let added = tamperer.violations_after(table, &copy).await;
        let found = added.iter().find(|violation| is_about(violation, table));
        let found = found.unwrap_or_else(|| panic!("added to {table}: {added:#?}"));
        assert_eq!(found.what, format!("a row of {table} that no message wrote"));
    }
    system.finish().await;
}

async fn the_auditor_finds_a_manual_change_even_after_a_message_has_overwritten_it(mut system: TestSystem) {
    system.put_song_with_workers().await;
    let certificate = system.ready("alice", 1).await.certificates[0];
    let change = "UPDATE certificate SET expires_at = expires_at + 1000";
    system.resources.store.pool().execute_unprepared(change).await.expect("a change");
    let history = History { system: &system, purchases: std::cell::Cell::new(0) };
    history.reissue(certificate, None).await;
    system.stop_workers().await;
    let found = audit(&system.resources.store).await.expect("the auditor can read").violations;
    let what = "a row of certificate that differs from what messages wrote".to_owned();
    assert_eq!(found, [Violation { invariant: 6, what, places: vec![certificate.to_string()] }]);
}

/// An hour and a day in milliseconds.
const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

fn text(text: &str) -> Text {
    Text::try_from(text).expect("a text")
}

fn count(number: i64) -> Count {
    Count::try_from(number).expect("a count")
}

/// Sends messages that must succeed.
struct History<'a> {
    system: &'a TestSystem,
    purchases: std::cell::Cell<u32>,
}

impl History<'_> {
    /// Sends a request whose reply must have this type, or be refused with this code.
    async fn expect(&self, request: Request, expected: &str) -> Output {
        let reply = self.system.ask(&request).await;
        assert_eq!(outcome(&reply), expected, "{request:?}: {reply:?}");
        reply
    }

    async fn buy(&self, user: &str, content: &str, items: usize, points: Option<i64>) -> Bought {
        self.purchases.set(self.purchases.get() + 1);
        let request = PurchaseRequest {
            user: name(user),
            items: vec![Item { content: name(content), version: None }; items],
            points: points.map(count),
            reference: Some(external_id(&format!("order-{}", self.purchases.get()))),
        };
        Bought::of(self.expect(Request::PurchaseRequest(request), "certificate.issued").await)
    }

    async fn pay(&self, bought: &Bought, points: i64) {
        let Request::SettlementCompletion(body) = completion(bought) else { unreachable!() };
        let amount = usd(bought.amount.amount_minor.get() - points);
        let paid = SettlementCompletion { amount, ..body };
        self.expect(Request::SettlementCompletion(paid), "settlement.registered").await;
    }

    async fn ready(&self, user: &str, items: usize) -> Bought {
        let bought = self.buy(user, "song", items, None).await;
        self.expect(receipt(&bought), "certificate.accepted").await;
        self.pay(&bought, 0).await;
        bought
    }

    async fn issued(&self, token: &str, terminal: &str) -> String {
        let reply = self.expect(license_request(token, terminal), "license.issued").await;
        let Output::LicenseIssued(issued) = reply else { unreachable!() };
        issued.license_token.expect("a token")
    }

    async fn granted(&self, token: &str, terminal: &str) -> String {
        let license = self.issued(token, terminal).await;
        self.expect(license_receipt(&license), "license.granted").await;
        license
    }

    /// Returns a license. The reply has the id of the return.
    async fn give_back(&self, license: &str, user: &str, privilege: Privilege, deleted: bool) -> Output {
        let request = LicenseReturn { license_token: license.to_owned(), user: name(user), privilege, deleted };
        let expected = if deleted { "license.returned" } else { "return.opened" };
        self.expect(Request::LicenseReturn(request), expected).await
    }

    /// Buys a song, and returns a license for money.
    async fn buy_back(&self, user: &str) -> Uuid {
        let bought = self.ready(user, 1).await;
        let license = self.granted(&bought.tokens[0], "player").await;
        let reply = self.give_back(&license, user, Privilege::Buyback, true).await;
        let Output::LicenseReturned(returned) = reply else { unreachable!() };
        returned.license_return
    }

    async fn sweep(&self, kind: SweepKind) {
        let id = Uuid::now_v7();
        let due = SweepDue { kind, before: self.system.resources.clock.now() };
        self.system.publish(message(id, &Request::SweepDue(due), None)).await;
        assert!(!self.system.events_of(id).await.is_empty(), "the sweep ended something");
    }

    async fn refund(&self, bought: &Bought, change: impl FnOnce(&mut SettlementReversal), expected: &str) {
        let mut body = reversal(bought);
        change(&mut body);
        self.expect(Request::SettlementReversal(body), expected).await;
    }

    async fn reinstate(&self, bought: &Bought, refund: Option<&str>) {
        let SettlementReversal { certificate, container, settlement, provider, reason, .. } = reversal(bought);
        let refund = refund.map(external_id);
        let body = SettlementReinstatement { certificate, container, settlement, provider, refund, reason };
        self.expect(Request::SettlementReinstatement(body), "settlement.registered").await;
    }

    async fn reissue(&self, certificate: Uuid, granted: Option<i64>) {
        let body = CertificateReissue { certificate, reason: text("lost"), granted: granted.map(count) };
        self.expect(Request::CertificateReissue(body), "certificate.reissued").await;
    }

    async fn fail(&self, bought: &Bought, settlement: &str) {
        let SettlementReversal { certificate, container, provider, reason, .. } = reversal(bought);
        let settlement = external_id(settlement);
        let body = SettlementFailure { certificate, container, settlement, provider, reason };
        self.expect(Request::SettlementFailure(body), "settlement.registered").await;
    }

    async fn paid_out(&self, license_return: Uuid, payout: &str, minor: i64, expected: &str) {
        let (payout, provider, amount) = (external_id(payout), name("bank"), usd(minor));
        let body = PayoutCompletion { license_return, payout, provider, amount };
        self.expect(Request::PayoutCompletion(body), expected).await;
    }

    async fn bounced(&self, license_return: Uuid, payout: &str) {
        let (payout, provider, reason) = (external_id(payout), name("bank"), text("closed"));
        let body = PayoutFailure { license_return, payout, provider, reason };
        self.expect(Request::PayoutFailure(body), "payout.registered").await;
    }

    async fn put(&self, content: ContentPut) {
        self.expect(Request::ContentPut(content), "content.registered").await;
    }
}

/// Runs a history after which every table has rows in most of their states.
async fn play(system: &mut TestSystem) {
    system.resources.terms = Arc::new(Terms { unique_reference: true, ..Terms::default() });
    system.start_workers();
    let history = History { system, purchases: std::cell::Cell::new(0) };
    let policy =
        ReturnPolicy { points: Some(count(100)), upgrade: Some(true), buyback: Some(usd(300)), collection: Some(true) };
    let successor = Some(ContentVersion { content: name("sequel"), version: version(1) });
    let nothing = ReturnPolicy { points: None, upgrade: None, buyback: None, collection: None };
    history.put(ContentPut { content: name("sequel"), return_policy: nothing.clone(), ..song(1) }).await;
    history.put(ContentPut { content: name("free"), price: usd(0), return_policy: nothing, ..song(1) }).await;
    history.put(song(1)).await;
    history.put(ContentPut { successor, return_policy: policy, ..song(3) }).await;

    purchases_that_end(&history).await;
    returns_and_points(&history).await;
    payouts(&history).await;
    refunds(&history).await;
    let waiting = history.buy("zoe", "song", 1, None).await;
    assert_eq!(waiting.certificates.len(), 1);
}

/// Purchases that expire, lapse, are declined, are paid late, or cost nothing.
async fn purchases_that_end(history: &History<'_>) {
    let expired = history.ready("paul", 1).await;
    let license = history.granted(&expired.tokens[0], "player").await;
    history.give_back(&license, "paul", Privilege::Points, false).await;
    history.buy("paul", "song", 1, None).await;
    let restored = history.buy("rita", "song", 2, None).await;
    history.system.resources.clock.advance_ms(25 * HOUR_MS);
    history.sweep(SweepKind::Reception).await;
    history.sweep(SweepKind::Return).await;
    history.pay(&restored, 0).await;
    history.system.resources.clock.advance_ms(31 * DAY_MS);
    history.sweep(SweepKind::Certificate).await;

    let declined = history.buy("dora", "song", 1, None).await;
    history.expect(receipt(&declined), "certificate.accepted").await;
    history.fail(&declined, "pay-declined").await;
    let late = history.buy("dora", "song", 1, None).await;
    history.fail(&late, "pay-failed-first").await;
    history.pay(&late, 0).await;
    let free = history.buy("fred", "free", 1, None).await;
    history.expect(receipt(&free), "certificate.accepted").await;
    history.granted(&free.tokens[0], "player").await;
}

/// Returned, open, revoked and superseded licenses; points that pay, and a debt.
async fn returns_and_points(history: &History<'_>) {
    let bought = history.ready("alice", 1).await;
    let license = history.granted(&bought.tokens[0], "kitchen").await;
    history.give_back(&license, "alice", Privilege::Points, true).await;
    let license = history.granted(&bought.tokens[0], "cellar").await;
    history.give_back(&license, "alice", Privilege::Collection, false).await;
    history.issued(&bought.tokens[0], "attic").await;
    let with_points = history.buy("alice", "song", 1, Some(60)).await;
    history.expect(receipt(&with_points), "certificate.accepted").await;
    history.pay(&with_points, 60).await;
    let waiting = history.buy("alice", "song", 1, Some(30)).await;
    history.expect(receipt(&waiting), "certificate.accepted").await;

    let upgraded = history.ready("carol", 1).await;
    let license = history.granted(&upgraded.tokens[0], "player").await;
    let reply = history.give_back(&license, "carol", Privilege::Upgrade, true).await;
    let Output::LicenseReturned(returned) = reply else { unreachable!() };
    history.granted(returned.privilege.certificate_token.as_deref().expect("a token"), "player").await;

    let reissued = history.ready("rolf", 1).await;
    history.granted(&reissued.tokens[0], "player").await;
    history.issued(&reissued.tokens[0], "tablet").await;
    history.reissue(reissued.certificates[0], Some(0)).await;

    // The points of the first purchase pay for the second, and then the first is reversed.
    let first = history.ready("erin", 1).await;
    let license = history.granted(&first.tokens[0], "player").await;
    history.give_back(&license, "erin", Privilege::Points, true).await;
    let second = history.buy("erin", "song", 1, Some(100)).await;
    history.expect(receipt(&second), "certificate.accepted").await;
    history.pay(&second, 100).await;
    history.refund(&first, |_| {}, "settlement.registered").await;
}

/// Payouts that are completed, open, failed, failed early, repeated, or wrong.
async fn payouts(history: &History<'_>) {
    history.buy_back("olga").await;
    let id = history.buy_back("pete").await;
    history.paid_out(id, "out-1", 300, "payout.registered").await;
    history.paid_out(id, "out-2", 300, "already_settled").await;
    let id = history.buy_back("quin").await;
    history.paid_out(id, "out-3", 299, "amount_mismatch").await;
    history.bounced(id, "out-4").await;
    let id = history.buy_back("rose").await;
    history.paid_out(id, "out-5", 300, "payout.registered").await;
    history.bounced(id, "out-5").await;
}

/// Partial refunds, refunds of a member and of everything, early refunds, reinstatements, and
/// unmatched money.
async fn refunds(history: &History<'_>) {
    let part = |refund: &'static str, minor: i64| {
        move |body: &mut SettlementReversal| {
            (body.refund, body.amount) = (Some(external_id(refund)), Some(usd(minor)));
        }
    };
    let container = history.ready("gina", 3).await;
    history.granted(&container.tokens[0], "player").await;
    history.refund(&container, part("re-1", 150), "settlement.registered").await;
    let member = container.certificates[1];
    let of_member = |body: &mut SettlementReversal| {
        (body.certificate, body.container, body.refund) = (Some(member), None, Some(external_id("re-2")));
    };
    history.refund(&container, of_member, "settlement.registered").await;
    history.refund(&container, part("re-3", 9000), "amount_mismatch").await;

    let disputed = history.ready("hugo", 1).await;
    history.granted(&disputed.tokens[0], "player").await;
    history.refund(&disputed, |_| {}, "settlement.registered").await;
    history.reinstate(&disputed, None).await;
    history.reissue(disputed.certificates[0], None).await;
    let won = history.ready("hugo", 1).await;
    history.refund(&won, part("re-4", 1000), "settlement.registered").await;
    history.reinstate(&won, Some("re-4")).await;

    let early = history.buy("ines", "song", 1, None).await;
    history.refund(&early, part("re-5", 200), "settlement.registered").await;
    history.reinstate(&early, Some("re-6")).await;
    let both = history.buy("ines", "song", 1, None).await;
    history.refund(&both, |_| {}, "settlement.registered").await;
    history.expect(receipt(&both), "certificate.accepted").await;
    history.pay(&both, 0).await;
    let Request::SettlementCompletion(body) = completion(&both) else { unreachable!() };
    history.expect(Request::SettlementCompletion(body), "reversed").await;

    let wrong = history.buy("jane", "song", 1, None).await;
    let Request::SettlementCompletion(body) = completion(&wrong) else { unreachable!() };
    for amount in [999, 998] {
        let body = SettlementCompletion { amount: usd(amount), ..body.clone() };
        history.expect(Request::SettlementCompletion(body), "amount_mismatch").await;
    }
    history.refund(&wrong, part("re-7", 998), "settlement.registered").await;
    let presented = CertificatePresented { certificate_token: Some(wrong.tokens[0].clone()), container_token: None };
    history.expect(Request::CertificateCheck(presented), "certificate.checked").await;
}
