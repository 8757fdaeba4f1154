//! The auditor: checks the invariants of ARCHITECTURE.md against any database, and says where one
//! does not hold. It trusts nothing: what the rows say is held against each other, and against what
//! the journal's outputs told the world.
//!
//! Reads only, from one snapshot, so that it may be asked while workers write.

use std::collections::BTreeMap;

use licet_common::{
    runtime::outputs_of,
    store::{
        Store, StoreError, Transaction,
        rows::{Lock, select},
    },
};
use licet_schema::{
    Format, Output,
    entity::{LicenseState, certificate, collection, journal, license, purchase},
};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, Statement};
use uuid::Uuid;

/// How many places of one violation are named.
const PLACES: usize = 5;
/// How many purchases are held against the journal at a time.
const PAGE: usize = 256;

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Violation {
    /// Its number in ARCHITECTURE.md.
    pub invariant: u8,
    /// What is wrong.
    pub what: String,
    /// Where: the ids of some of the rows.
    pub places: Vec<String>,
}

/// What was checked and found.
#[derive(Debug, serde::Serialize)]
pub struct Report {
    /// How many checks of the tables were made.
    pub checks: usize,
    /// Journal rows that were held against the tables.
    pub journal_rows: u64,
    /// What does not hold; nothing, if all is well.
    pub violations: Vec<Violation>,
}

/// Audits the database.
///
/// # Errors
/// The database's.
pub async fn audit(store: &Store) -> Result<Report, StoreError> {
    let view = store.snapshot().await?;
    let mut violations = Vec::new();
    for check in CHECKS {
        let statement = Statement::from_string(store.backend(), format!("{} LIMIT {PLACES}", check.find));
        let rows = view.query_all(statement).await?;
        if !rows.is_empty() {
            let places = rows.iter().map(place).collect();
            violations.push(Violation { invariant: check.invariant, what: check.what.to_owned(), places });
        }
    }
    let mut told = Told::default();
    let journal_rows = hold_against_journal(&view, &mut told).await?;
    violations.extend(told.violations());
    Ok(Report { checks: CHECKS.len(), journal_rows, violations })
}

fn place(row: &sea_orm::QueryResult) -> String {
    let id = row.try_get_by_index::<Uuid>(0).map(|id| id.to_string());
    id.or_else(|_| row.try_get_by_index::<String>(0)).unwrap_or_else(|_| "a row".into())
}

struct Check {
    invariant: u8,
    what: &'static str,
    /// Finds the rows that break it; the first column names them.
    find: &'static str,
}

/// SQL that PostgreSQL and SQLite both speak.
const CHECKS: &[Check] = &[
    Check {
        invariant: 1,
        what: "a license without a settlement",
        find: "SELECT l.id FROM license l LEFT JOIN certificate c ON c.id = l.certificate \
               LEFT JOIN purchase p ON p.id = l.certificate WHERE COALESCE(c.settlement, p.settlement) IS NULL",
    },
    Check {
        invariant: 2,
        what: "a live certificate that has granted or issued more than it grants",
        find: "SELECT id FROM certificate WHERE granted + outstanding > grants OR granted < 0 OR outstanding < 0",
    },
    Check {
        invariant: 2,
        what: "an ended certificate that has granted more than it grants",
        find: "SELECT id FROM purchase WHERE ended IS NOT NULL AND granted > grants",
    },
    Check {
        invariant: 2,
        what: "a certificate whose outstanding count is not the number of its outstanding licenses",
        find: "SELECT c.id FROM certificate c WHERE c.outstanding <> \
               (SELECT COUNT(*) FROM license l WHERE l.certificate = c.id AND l.state = 'outstanding')",
    },
    Check {
        invariant: 2,
        what: "a purchase whose count is not the number of its licenses granted and returned",
        find: "SELECT p.id FROM purchase p LEFT JOIN certificate c ON c.id = p.id WHERE COALESCE(c.granted, p.granted) <> \
               (SELECT COUNT(*) FROM license l WHERE l.certificate = p.id AND l.state IN ('granted', 'returning')) + \
               (SELECT COUNT(*) FROM license_return r WHERE r.certificate = p.id AND r.state = 'completed')",
    },
    Check {
        invariant: 3,
        what: "a settlement that pays for no purchase, or for two",
        find: "SELECT settlement FROM settlement WHERE (certificate IS NULL) = (container IS NULL)",
    },
    Check {
        invariant: 3,
        what: "two settlements for one purchase",
        find: "SELECT COALESCE(container, certificate) FROM settlement WHERE outcome = 'completed' \
               GROUP BY COALESCE(container, certificate) HAVING COUNT(*) > 1",
    },
    Check {
        invariant: 3,
        what: "a settlement whose amount is not what was due",
        find: "SELECT s.settlement FROM settlement s WHERE s.outcome = 'completed' AND s.amount_minor <> \
               (SELECT COALESCE(SUM(p.amount_minor - p.points), -1) FROM purchase p \
                WHERE p.container = s.container OR p.id = s.certificate)",
    },
    Check {
        invariant: 3,
        what: "a settlement in another currency than what it pays for",
        find: "SELECT s.settlement FROM settlement s JOIN purchase p ON p.container = s.container OR p.id = s.certificate \
               WHERE s.currency <> p.currency",
    },
    Check {
        invariant: 3,
        what: "a settlement that is registered and still without a match",
        find: "SELECT u.settlement FROM unmatched_settlement u JOIN settlement s ON s.provider = u.provider \
               AND s.settlement = u.settlement AND s.amount_minor = u.amount_minor AND s.currency = u.currency \
               AND COALESCE(s.container, s.certificate) = COALESCE(u.container, u.certificate)",
    },
    Check {
        invariant: 5,
        what: "points are held otherwise than live certificates wait for",
        find: "SELECT 'licet:held' AS account WHERE (SELECT COALESCE(SUM(delta), 0) FROM entry WHERE account = 'licet:held') <> \
               (SELECT COALESCE(SUM(points), 0) FROM certificate WHERE settlement IS NULL)",
    },
    Check {
        invariant: 3,
        what: "a certificate that names a settlement which does not pay for it",
        find: "SELECT p.id FROM purchase p LEFT JOIN certificate c ON c.id = p.id \
               LEFT JOIN settlement s ON s.provider = COALESCE(c.provider, p.provider) \
               AND s.settlement = COALESCE(c.settlement, p.settlement) \
               AND (s.container = p.container OR s.certificate = p.id) \
               WHERE COALESCE(c.settlement, p.settlement) IS NOT NULL AND s.settlement IS NULL",
    },
    Check {
        invariant: 3,
        what: "a settlement that its certificate does not know",
        find: "SELECT p.id FROM settlement s JOIN purchase p ON p.container = s.container OR p.id = s.certificate \
               LEFT JOIN certificate c ON c.id = p.id WHERE s.outcome = 'completed' \
               AND COALESCE(c.settlement, p.settlement, '') <> s.settlement",
    },
    Check {
        invariant: 4,
        what: "a completed return without its collection or its privilege",
        find: "SELECT r.id FROM license_return r LEFT JOIN collection c ON c.id = r.id LEFT JOIN privilege p ON p.id = r.id \
               WHERE r.state = 'completed' AND (c.id IS NULL OR p.id IS NULL)",
    },
    Check {
        invariant: 4,
        what: "a collection or a privilege without its completed return",
        find: "SELECT x.id FROM (SELECT id FROM collection UNION SELECT id FROM privilege) x \
               LEFT JOIN license_return r ON r.id = x.id AND r.state = 'completed' WHERE r.id IS NULL",
    },
    Check {
        invariant: 4,
        what: "a license that was returned twice",
        find: "SELECT license FROM collection GROUP BY license HAVING COUNT(*) > 1",
    },
    Check {
        invariant: 4,
        what: "a returned license that is still there",
        find: "SELECT l.id FROM license l JOIN collection c ON c.license = l.id",
    },
    Check {
        invariant: 5,
        what: "entries of one message that do not sum to zero",
        find: "SELECT cause FROM entry GROUP BY cause HAVING SUM(delta) <> 0",
    },
    Check {
        invariant: 5,
        what: "an account whose balance is not the sum of its entries, or is below zero",
        find: "SELECT a.name FROM account a WHERE a.balance < 0 OR a.balance <> \
               (SELECT COALESCE(SUM(e.delta), 0) FROM entry e WHERE e.account = a.name)",
    },
    Check {
        invariant: 5,
        what: "points of a user without an account",
        find: "SELECT e.id FROM entry e LEFT JOIN account a ON a.name = e.account \
               WHERE e.account LIKE 'points:%' AND a.name IS NULL",
    },
    Check {
        invariant: 6,
        what: "a settlement or a booking whose message is not in the journal",
        find: "SELECT x.cause FROM (SELECT cause FROM settlement UNION SELECT cause FROM entry) x \
               LEFT JOIN journal j ON j.id = x.cause WHERE j.id IS NULL",
    },
    Check {
        invariant: 7,
        what: "a pending reception without a live certificate that waits for it",
        find: "SELECT r.id FROM pending_reception r WHERE NOT EXISTS \
               (SELECT 1 FROM certificate c WHERE (c.id = r.id OR c.container = r.id) AND c.received_at IS NULL)",
    },
    Check {
        invariant: 7,
        what: "a live certificate that waits for its reception and is not pending",
        find: "SELECT c.id FROM certificate c WHERE c.received_at IS NULL AND NOT EXISTS \
               (SELECT 1 FROM pending_reception r WHERE r.id = COALESCE(c.container, c.id))",
    },
    Check {
        invariant: 8,
        what: "a purchase that says live without a certificate, or ended with one",
        find: "SELECT p.id FROM purchase p LEFT JOIN certificate c ON c.id = p.id \
               WHERE (p.ended IS NULL) <> (c.id IS NOT NULL)",
    },
    Check {
        invariant: 8,
        what: "a certificate without its purchase",
        find: "SELECT c.id FROM certificate c LEFT JOIN purchase p ON p.id = c.id WHERE p.id IS NULL",
    },
];

/// What the journal told of one purchase.
#[derive(Default)]
struct Purchase {
    certificates: Vec<Uuid>,
    accepted: u32,
    settled: u32,
    issued: BTreeMap<Uuid, u32>,
    granted: BTreeMap<Uuid, u32>,
    returned: BTreeMap<Uuid, u32>,
    retired: BTreeMap<Uuid, u32>,
}

impl Purchase {
    fn hear(&mut self, event: &Output) {
        match event {
            Output::CertificateIssued(body) => {
                self.certificates.extend(body.certificates.iter().map(|one| one.certificate))
            }
            Output::CertificateAccepted(_) => self.accepted += 1,
            Output::SettlementRegistered(_) => self.settled += 1,
            Output::LicenseIssued(body) => *self.issued.entry(body.license).or_default() += 1,
            Output::LicenseGranted(body) => *self.granted.entry(body.license).or_default() += 1,
            Output::LicenseReturned(body) => *self.returned.entry(body.license).or_default() += 1,
            Output::CertificateRetired(body) => *self.retired.entry(body.certificate).or_default() += 1,
            Output::ContentRegistered(_)
            | Output::CertificateChecked(_)
            | Output::ReturnOpened(_)
            | Output::ReturnLapsed(_)
            | Output::RequestRefused(_)
            | Output::SettlementInstructed(_)
            | Output::PointsChanged(_)
            | Output::ContentDeleted(_)
            | Output::SettlementUnmatched(_) => {}
        }
    }
}

/// Invariant 6: the state follows from what the journal told.
#[derive(Default)]
struct Told {
    issued: u64,
    licenses: u64,
    returned: u64,
    wrong: BTreeMap<&'static str, Vec<String>>,
}

impl Told {
    fn ensure(&mut self, holds: bool, what: &'static str, place: Uuid) {
        let places = self.wrong.entry(what).or_default();
        if !holds && places.len() < PLACES {
            places.push(place.to_string());
        }
    }

    fn violations(&self) -> impl Iterator<Item = Violation> {
        let wrong = self.wrong.iter().filter(|(_, places)| !places.is_empty());
        wrong.map(|(what, places)| Violation { invariant: 6, what: (*what).to_owned(), places: places.clone() })
    }
}

/// Walks the journal by purchase and holds page after page against the tables.
async fn hold_against_journal(connection: &Transaction, told: &mut Told) -> Result<u64, StoreError> {
    let mut rows = 0;
    let mut page: BTreeMap<Uuid, Purchase> = BTreeMap::new();
    let mut after: Option<(Uuid, Uuid)> = None;
    loop {
        let batch = journal_after(connection, after).await?;
        let Some(last) = batch.last() else { break };
        after = last.subject.map(|subject| (subject, last.id));
        for row in &batch {
            rows += 1;
            let subject = row.subject.unwrap_or_default();
            if page.len() >= PAGE && !page.contains_key(&subject) {
                compare(connection, &std::mem::take(&mut page), told).await?;
            }
            let purchase = page.entry(subject).or_default();
            for output in outputs_of(row).map_err(StoreError::Refused)?.iter().filter(|output| !output.reply) {
                if let Ok(event) = Output::decode(&output.kind, Format::Json, &output.body) {
                    purchase.hear(&event);
                }
            }
        }
    }
    compare(connection, &page, told).await?;
    for (what, counted, sql) in [
        ("there are other purchases than the journal tells of", told.issued, "SELECT COUNT(*) FROM purchase"),
        ("there are other returns than the journal tells of", told.returned, "SELECT COUNT(*) FROM collection"),
        (
            "there are other licenses than the journal tells of",
            told.licenses,
            "SELECT (SELECT COUNT(*) FROM license) + (SELECT COUNT(*) FROM collection)",
        ),
    ] {
        let statement = Statement::from_string(connection.get_database_backend(), sql);
        let found = connection.query_one(statement).await?.and_then(|row| row.try_get_by_index::<i64>(0).ok());
        told.ensure(found.is_some_and(|found| found.unsigned_abs() == counted), what, Uuid::nil());
    }
    Ok(rows)
}

/// The next journal rows in the order of their purchases, a bounded number of them.
async fn journal_after(
    connection: &Transaction,
    after: Option<(Uuid, Uuid)>,
) -> Result<Vec<journal::Model>, StoreError> {
    use journal::Column::{Id, Subject};
    let mut query = journal::Entity::find().filter(Subject.is_not_null());
    if let Some((subject, id)) = after {
        query = query.filter(Subject.gt(subject).or(Subject.eq(subject).and(Id.gt(id))));
    }
    let query = query.order_by_asc(Subject).order_by_asc(Id);
    Ok(sea_orm::QuerySelect::limit(query, 2048).all(connection).await?)
}

async fn compare(
    connection: &impl ConnectionTrait,
    page: &BTreeMap<Uuid, Purchase>,
    told: &mut Told,
) -> Result<(), StoreError> {
    let ids: Vec<_> = page.values().flat_map(|purchase| &purchase.certificates).map(|id| vec![(*id).into()]).collect();
    let purchases = select::<purchase::Entity>(connection, &[purchase::Column::Id], ids.clone(), Lock::None).await?;
    let live = select::<certificate::Entity>(connection, &[certificate::Column::Id], ids.clone(), Lock::None).await?;
    let licenses = select::<license::Entity>(connection, &[license::Column::Certificate], ids, Lock::None).await?;
    let returned: Vec<_> =
        page.values().flat_map(|purchase| purchase.returned.keys()).map(|id| vec![(*id).into()]).collect();
    let collected =
        select::<collection::Entity>(connection, &[collection::Column::License], returned, Lock::None).await?;
    let rows = Found {
        purchases: purchases.into_iter().map(|row| (row.id, row)).collect(),
        live: live.into_iter().map(|row| (row.id, row)).collect(),
        licenses: licenses.into_iter().map(|row| (row.id, row)).collect(),
        collected: collected.into_iter().map(|row| row.license).collect(),
    };
    for (subject, purchase) in page {
        hold(*subject, purchase, &rows, told);
    }
    Ok(())
}

struct Found {
    purchases: BTreeMap<Uuid, purchase::Model>,
    live: BTreeMap<Uuid, certificate::Model>,
    licenses: BTreeMap<Uuid, license::Model>,
    collected: std::collections::BTreeSet<Uuid>,
}

fn hold(subject: Uuid, purchase: &Purchase, rows: &Found, told: &mut Told) {
    told.issued += purchase.certificates.len() as u64;
    told.licenses += purchase.issued.len() as u64;
    told.returned += purchase.returned.len() as u64;
    told.ensure(purchase.accepted <= 1, "a purchase was accepted twice", subject);
    told.ensure(purchase.settled <= 1, "a purchase was settled twice", subject);
    let once = |told: &mut Told, counts: &BTreeMap<Uuid, u32>, what| {
        for (id, count) in counts {
            told.ensure(*count == 1, what, *id);
        }
    };
    once(told, &purchase.issued, "a license was issued twice");
    once(told, &purchase.granted, "a license was granted twice");
    once(told, &purchase.returned, "a license was returned twice");
    once(told, &purchase.retired, "a certificate was retired twice");
    for id in &purchase.certificates {
        hold_certificate(*id, purchase, rows, told);
    }
    for id in purchase.issued.keys() {
        let granted = purchase.granted.contains_key(id);
        let returned = purchase.returned.contains_key(id);
        let state = rows.licenses.get(id).map(|row| row.state);
        let stands = match state {
            Some(LicenseState::Outstanding) => !granted && !returned,
            Some(LicenseState::Granted | LicenseState::Returning) => granted && !returned,
            Some(LicenseState::Revoked) => !returned,
            None => granted && returned && rows.collected.contains(id),
        };
        told.ensure(stands, "a license stands otherwise than the journal tells", *id);
    }
}

fn hold_certificate(id: Uuid, purchase: &Purchase, rows: &Found, told: &mut Told) {
    told.ensure(rows.purchases.contains_key(&id), "a certificate was issued and has no purchase", id);
    let Some(row) = rows.purchases.get(&id) else { return };
    let live = rows.live.get(&id);
    let received = live.map_or(row.received_at, |row| row.received_at).is_some();
    let settled = live.map_or(&row.settlement, |row| &row.settlement).is_some();
    told.ensure(received == (purchase.accepted > 0), "a certificate's reception is not what the journal tells", id);
    told.ensure(settled == (purchase.settled > 0), "a certificate's settlement is not what the journal tells", id);
    let retired = purchase.retired.contains_key(&id);
    told.ensure(row.ended.is_some() == retired, "a certificate's ending is not what the journal tells", id);
}
