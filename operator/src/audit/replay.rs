//! Invariant 6: the tables follow from the events in the journal.
//!
//! Reads the journal in the order of purchases, a limited number of rows at a time. Counts the
//! events of each purchase and compares the counts with the rows of the purchase. The order of
//! events is that of the positions in the journal, and does not depend on the clocks of workers.

use std::collections::{BTreeMap, BTreeSet};

use licet_common::{
    runtime::outputs_of,
    store::{Lock, Transaction, keys, select},
};
use licet_schema::{
    Output,
    entity::{LicenseState, certificate, certificate_record, collection, journal, license, mention},
    message::SettlementOutcome,
};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Statement};
use uuid::Uuid;

use super::{AuditError, Fingerprints, PLACES, Violation};

/// The number of purchases that are compared with the tables at a time.
const PURCHASES_PER_PAGE: usize = 256;
/// The number of journal rows that are read at a time.
const JOURNAL_ROWS_PER_PAGE: u64 = 2048;

/// The types of the messages that pay for a purchase. If a refund arrived first, the outcome in the
/// reply is not `completed`.
const PAYMENTS: [&str; 2] = ["settlement.completion", "settlement.assignment"];

/// The events of one purchase.
#[derive(Default)]
struct Purchase {
    certificates: BTreeSet<Uuid>,
    /// The certificates that were granted as upgrades for its licenses.
    upgrades: BTreeSet<Uuid>,
    /// The purchase's own id, if it was granted as an upgrade. Such a purchase is received and
    /// settled from the start.
    upgraded: Option<Uuid>,
    accepted: BTreeMap<Uuid, u32>,
    /// How often a payment was received.
    settled: u32,
    /// Whether the payment was received and refunded by one message, because the refund arrived
    /// first.
    refunded_at_once: bool,
    issued: BTreeMap<Uuid, u32>,
    granted: BTreeMap<Uuid, u32>,
    returned: BTreeMap<Uuid, u32>,
    revoked: BTreeMap<Uuid, u32>,
    /// The positions in the journal at which each certificate ended.
    retired: BTreeMap<Uuid, Vec<i64>>,
    /// The positions in the journal at which each certificate was reissued.
    reissued: BTreeMap<Uuid, Vec<i64>>,
    /// The positions in the journal at which each certificate became live again in the same
    /// generation.
    restored: BTreeMap<Uuid, Vec<i64>>,
}

impl Purchase {
    /// Counts an event of a message about this purchase.
    fn count(&mut self, event: &Output, at: i64) {
        let more = |counts: &mut BTreeMap<Uuid, u32>, id: Uuid| *counts.entry(id).or_default() += 1;
        match event {
            Output::CertificateIssued(body) => {
                self.certificates.extend(body.certificates.iter().map(|one| one.certificate))
            }
            Output::CertificateAccepted(body) => body.certificates.iter().for_each(|id| more(&mut self.accepted, *id)),
            Output::SettlementRegistered(body) => {
                self.settled += u32::from(body.outcome == SettlementOutcome::Completed)
            }
            Output::LicenseIssued(body) => more(&mut self.issued, body.license),
            Output::LicenseGranted(body) => more(&mut self.granted, body.license),
            Output::LicenseReturned(body) => {
                more(&mut self.returned, body.license);
                self.upgrades.extend(body.privilege.certificate);
            }
            Output::CertificateReissued(body) => self.reissued.entry(body.certificate).or_default().push(at),
            Output::CertificateRestored(body) => self.restored.entry(body.certificate).or_default().push(at),
            _ => self.count_ending(event, at),
        }
    }

    /// Counts an event that can also come from a message about another purchase or about no
    /// purchase.
    fn count_ending(&mut self, event: &Output, at: i64) {
        match event {
            Output::CertificateRetired(body) => self.retired.entry(body.certificate).or_default().push(at),
            Output::LicenseRevoked(body) => *self.revoked.entry(body.license).or_default() += 1,
            _ => {}
        }
    }

    /// Counts an event of a message that mentions this purchase.
    fn count_mention(&mut self, subject: Uuid, event: &Output, at: i64) {
        match event {
            Output::LicenseReturned(body) if body.privilege.certificate == Some(subject) => {
                self.upgraded = Some(subject);
            }
            _ => self.count_ending(event, at),
        }
    }
}

/// The totals and the violations.
#[derive(Default)]
struct Findings {
    certificates: u64,
    licenses: u64,
    returned: u64,
    wrong: BTreeMap<&'static str, Vec<String>>,
}

impl Findings {
    /// Records the violation `what` at `place`, unless the condition `holds`.
    fn ensure(&mut self, holds: bool, what: &'static str, place: Uuid) {
        if holds {
            return;
        }
        let places = self.wrong.entry(what).or_default();
        if places.len() < PLACES {
            places.push(place.to_string());
        }
    }

    fn ensure_once(&mut self, counts: &BTreeMap<Uuid, u32>, what: &'static str) {
        for (id, count) in counts {
            self.ensure(*count == 1, what, *id);
        }
    }

    fn violations(self) -> Vec<Violation> {
        let violation = |(what, places): (&str, _)| Violation { invariant: 6, what: what.to_owned(), places };
        self.wrong.into_iter().map(violation).collect()
    }
}

/// Compares the tables with the whole journal. Returns the number of journal rows about purchases,
/// and the violations. Adds these journal rows to `fingerprints`.
pub(super) async fn compare_with_journal(
    connection: &Transaction,
    fingerprints: &mut Fingerprints,
) -> Result<(u64, Vec<Violation>), AuditError> {
    let mut findings = Findings::default();
    let mut rows = 0;
    let mut page: BTreeMap<Uuid, Purchase> = BTreeMap::new();
    let mut after: Option<(Uuid, Uuid)> = None;
    loop {
        let batch = journal_after(connection, after).await?;
        let Some((last_subject, last)) = batch.last() else { break };
        after = Some((*last_subject, last.id));
        for (subject, row) in &batch {
            rows += 1;
            fingerprints.count(row)?;
            if page.len() >= PURCHASES_PER_PAGE && !page.contains_key(subject) {
                compare(connection, std::mem::take(&mut page), &mut findings).await?;
            }
            let purchase = page.entry(*subject).or_default();
            for event in events(row)? {
                if let Output::SettlementRegistered(body) = &event
                    && PAYMENTS.contains(&row.kind.as_str())
                {
                    purchase.refunded_at_once |= body.outcome != SettlementOutcome::Completed;
                }
                purchase.count(&event, row.position);
            }
        }
    }
    compare(connection, page, &mut findings).await?;
    compare_totals(connection, &mut findings).await?;
    Ok((rows, findings.violations()))
}

fn events(row: &journal::Model) -> Result<Vec<Output>, AuditError> {
    let outputs = outputs_of(row)?;
    let events = outputs.into_iter().filter(|output| !output.reply);
    let decoded = events.map(|event| {
        Output::decode(&event.kind, &event.body).map_err(|source| AuditError::Event {
            journal: row.id,
            kind: event.kind,
            source,
        })
    });
    decoded.collect()
}

/// The next journal rows that belong to purchases, in the order of the purchases, with their
/// subjects.
async fn journal_after(
    connection: &Transaction,
    after: Option<(Uuid, Uuid)>,
) -> Result<Vec<(Uuid, journal::Model)>, AuditError> {
    use journal::Column::{Id, Subject};
    let mut query = journal::Entity::find().filter(Subject.is_not_null());
    if let Some((subject, id)) = after {
        query = query.filter(Subject.gt(subject).or(Subject.eq(subject).and(Id.gt(id))));
    }
    let rows = query.order_by_asc(Subject).order_by_asc(Id).limit(JOURNAL_ROWS_PER_PAGE).all(connection).await?;
    Ok(rows.into_iter().filter_map(|row| Some((row.subject?, row))).collect())
}

/// Counts the events of messages that only mention purchases of this page.
async fn count_mentions(connection: &Transaction, page: &mut BTreeMap<Uuid, Purchase>) -> Result<(), AuditError> {
    let subjects = keys(page.keys().copied());
    let mentions = select::<mention::Entity>(connection, &[mention::Column::Subject], subjects, Lock::None).await?;
    let mut by_row: BTreeMap<Uuid, Vec<Uuid>> = BTreeMap::new();
    for mention in mentions {
        by_row.entry(mention.journal).or_default().push(mention.subject);
    }
    let ids = keys(by_row.keys().copied());
    for row in select::<journal::Entity>(connection, &[journal::Column::Id], ids, Lock::None).await? {
        let events = events(&row)?;
        for subject in by_row.get(&row.id).into_iter().flatten() {
            if let Some(purchase) = page.get_mut(subject) {
                events.iter().for_each(|event| purchase.count_mention(*subject, event, row.position));
            }
        }
    }
    Ok(())
}

/// The rows of the purchases of a page.
struct Rows {
    records: BTreeMap<Uuid, certificate_record::Model>,
    live: BTreeMap<Uuid, certificate::Model>,
    licenses: BTreeMap<Uuid, license::Model>,
    /// The licenses with a completed return.
    collected: BTreeSet<Uuid>,
}

async fn compare(
    connection: &Transaction,
    mut page: BTreeMap<Uuid, Purchase>,
    findings: &mut Findings,
) -> Result<(), AuditError> {
    use {certificate::Entity as Certificates, certificate_record::Entity as Records};
    use {collection::Entity as Collections, license::Entity as Licenses};
    count_mentions(connection, &mut page).await?;
    let own = page.values().flat_map(|purchase| purchase.certificates.iter().chain(&purchase.upgraded));
    let ids = keys(own.copied());
    let returned = keys(page.values().flat_map(|purchase| purchase.returned.keys()).copied());
    let records = select::<Records>(connection, &[certificate_record::Column::Id], ids.clone(), Lock::None).await?;
    let live = select::<Certificates>(connection, &[certificate::Column::Id], ids.clone(), Lock::None).await?;
    let licenses = select::<Licenses>(connection, &[license::Column::Certificate], ids, Lock::None).await?;
    let collected = select::<Collections>(connection, &[collection::Column::License], returned, Lock::None).await?;
    let rows = Rows {
        records: records.into_iter().map(|row| (row.id, row)).collect(),
        live: live.into_iter().map(|row| (row.id, row)).collect(),
        licenses: licenses.into_iter().map(|row| (row.id, row)).collect(),
        collected: collected.into_iter().map(|row| row.license).collect(),
    };
    for (subject, purchase) in &page {
        compare_purchase(*subject, purchase, &rows, findings);
    }
    Ok(())
}

fn compare_purchase(subject: Uuid, purchase: &Purchase, rows: &Rows, findings: &mut Findings) {
    findings.certificates += (purchase.certificates.len() + purchase.upgrades.len()) as u64;
    findings.licenses += purchase.issued.len() as u64;
    findings.returned += purchase.returned.len() as u64;
    findings.ensure(purchase.settled <= 1, "a purchase was settled twice", subject);
    findings.ensure_once(&purchase.accepted, "a certificate was accepted twice");
    findings.ensure_once(&purchase.issued, "a license was issued twice");
    findings.ensure_once(&purchase.granted, "a license was granted twice");
    findings.ensure_once(&purchase.returned, "a license was returned twice");
    findings.ensure_once(&purchase.revoked, "a license was revoked twice");
    for id in purchase.certificates.iter().chain(&purchase.upgraded) {
        compare_certificate(*id, purchase, rows, findings);
    }
    for id in purchase.issued.keys() {
        compare_license(*id, purchase, rows, findings);
    }
}

fn compare_license(id: Uuid, purchase: &Purchase, rows: &Rows, findings: &mut Findings) {
    let granted = purchase.granted.contains_key(&id);
    let returned = purchase.returned.contains_key(&id);
    let revoked = purchase.revoked.contains_key(&id);
    let agrees = match rows.licenses.get(&id).map(|row| row.state) {
        Some(LicenseState::Outstanding) => !granted && !returned && !revoked,
        Some(LicenseState::Granted | LicenseState::Returning) => granted && !returned && !revoked,
        Some(LicenseState::Revoked) => revoked && !returned,
        None => granted && returned && !revoked && rows.collected.contains(&id),
    };
    findings.ensure(agrees, "the state of a license differs from the journal", id);
}

fn compare_certificate(id: Uuid, purchase: &Purchase, rows: &Rows, findings: &mut Findings) {
    findings.ensure(rows.records.contains_key(&id), "a certificate was issued but has no record", id);
    let Some(record) = rows.records.get(&id) else { return };
    let live = rows.live.get(&id);
    let upgraded = purchase.upgraded == Some(id);
    let received = live.map_or(record.received_at, |row| row.received_at).is_some();
    let settled = live.map_or(&record.settlement, |row| &row.settlement).is_some();
    let accepted = upgraded || purchase.accepted.contains_key(&id);
    findings.ensure(received == accepted, "the receipt of a certificate differs from the journal", id);
    let paid = upgraded || purchase.settled > 0 || purchase.refunded_at_once;
    findings.ensure(settled == paid, "the settlement of a certificate differs from the journal", id);
    compare_ending(id, purchase, record, findings);
}

/// Checks that a certificate ended at most once, and at most once more after each reissue or
/// restoration, and that its record has the state of its last event.
fn compare_ending(id: Uuid, purchase: &Purchase, record: &certificate_record::Model, findings: &mut Findings) {
    let count_and_last = |positions: &BTreeMap<Uuid, Vec<i64>>| {
        let positions = positions.get(&id).map_or(&[][..], Vec::as_slice);
        (positions.len(), positions.iter().max().copied())
    };
    let (endings, last_ended) = count_and_last(&purchase.retired);
    let (reissues, last_reissued) = count_and_last(&purchase.reissued);
    let (restorations, last_restored) = count_and_last(&purchase.restored);
    findings.ensure(endings <= 1 + reissues + restorations, "a certificate ended twice", id);
    let last_revived = last_reissued.max(last_restored);
    // A payment whose refund arrived first may restore and end a certificate at once.
    if last_ended != last_revived || last_ended.is_none() {
        let ended = last_ended > last_revived;
        findings.ensure(record.ended.is_some() == ended, "the ending of a certificate differs from the journal", id);
    }
    let generation = i64::try_from(1 + reissues).unwrap_or(i64::MAX);
    findings.ensure(
        record.generation.get() == generation,
        "the generation of a certificate differs from the journal",
        id,
    );
}

async fn compare_totals(connection: &Transaction, findings: &mut Findings) -> Result<(), AuditError> {
    for (what, counted, sql) in [
        (
            "the number of certificates differs from the journal",
            findings.certificates,
            "SELECT COUNT(*) FROM certificate_record",
        ),
        ("the number of returns differs from the journal", findings.returned, "SELECT COUNT(*) FROM collection"),
        (
            "the number of licenses differs from the journal",
            findings.licenses,
            "SELECT (SELECT COUNT(*) FROM license) + (SELECT COUNT(*) FROM collection)",
        ),
    ] {
        let statement = Statement::from_string(connection.get_database_backend(), sql);
        let found = connection.query_one(statement).await?.map(|row| row.try_get_by_index::<i64>(0)).transpose()?;
        findings.ensure(found.is_some_and(|found| found.unsigned_abs() == counted), what, Uuid::nil());
    }
    Ok(())
}
