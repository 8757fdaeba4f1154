//! Invariant 6: the state follows from what the journal told. Walks the journal by purchase, a
//! bounded page at a time, and holds what was told of each against its rows.

use std::collections::{BTreeMap, BTreeSet};

use licet_common::{
    runtime::outputs_of,
    store::{
        StoreError, Transaction,
        rows::{Lock, select},
    },
};
use licet_schema::{
    Format, Output,
    entity::{LicenseState, certificate, collection, journal, license, mention, purchase},
    message::SettlementOutcome,
};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Statement};
use uuid::Uuid;

use super::{PLACES, Violation};

/// How many purchases are held against the journal at a time.
const PAGE: usize = 256;
/// How many journal rows are read at a time.
const ROWS: u64 = 2048;

/// What the journal told of one purchase.
#[derive(Default)]
struct Purchase {
    certificates: BTreeSet<Uuid>,
    /// Certificates that upgrades made of its licenses.
    upgrades: BTreeSet<Uuid>,
    /// Itself, if it was made so: born received and settled.
    upgraded: Option<Uuid>,
    accepted: BTreeMap<Uuid, u32>,
    settled: u32,
    issued: BTreeMap<Uuid, u32>,
    granted: BTreeMap<Uuid, u32>,
    returned: BTreeMap<Uuid, u32>,
    revoked: BTreeMap<Uuid, u32>,
    /// When, by certificate.
    retired: BTreeMap<Uuid, Vec<i64>>,
    reissued: BTreeMap<Uuid, Vec<i64>>,
}

impl Purchase {
    /// Hears an event of a message about this purchase.
    fn hear(&mut self, event: &Output, at: i64) {
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
            _ => self.hear_ending(event, at),
        }
    }

    /// Hears what may also happen to it by a message about another purchase, or about none.
    fn hear_ending(&mut self, event: &Output, at: i64) {
        match event {
            Output::CertificateRetired(body) => self.retired.entry(body.certificate).or_default().push(at),
            Output::LicenseRevoked(body) => *self.revoked.entry(body.license).or_default() += 1,
            _ => {}
        }
    }

    /// Hears an event of a message that mentions this purchase.
    fn hear_mention(&mut self, subject: Uuid, event: &Output, at: i64) {
        match event {
            Output::LicenseReturned(body) if body.privilege.certificate == Some(subject) => {
                self.upgraded = Some(subject);
            }
            _ => self.hear_ending(event, at),
        }
    }
}

/// What was found wrong, and the sums.
#[derive(Default)]
struct Told {
    purchases: u64,
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

    fn violations(self) -> Vec<Violation> {
        let wrong = self.wrong.into_iter().filter(|(_, places)| !places.is_empty());
        wrong.map(|(what, places)| Violation { invariant: 6, what: what.to_owned(), places }).collect()
    }
}

/// Walks the journal: how many rows there were, and what does not hold.
pub(super) async fn hold_against_journal(connection: &Transaction) -> Result<(u64, Vec<Violation>), StoreError> {
    let mut told = Told::default();
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
                compare(connection, std::mem::take(&mut page), &mut told).await?;
            }
            let purchase = page.entry(subject).or_default();
            for event in events(row)? {
                purchase.hear(&event, row.decided_at);
            }
        }
    }
    compare(connection, page, &mut told).await?;
    count_all(connection, &mut told).await?;
    Ok((rows, told.violations()))
}

fn events(row: &journal::Model) -> Result<Vec<Output>, StoreError> {
    let outputs = outputs_of(row).map_err(StoreError::Refused)?;
    let events = outputs.iter().filter(|output| !output.reply);
    Ok(events.filter_map(|output| Output::decode(&output.kind, Format::Json, &output.body).ok()).collect())
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
    Ok(query.order_by_asc(Subject).order_by_asc(Id).limit(ROWS).all(connection).await?)
}

/// Hears what messages about other purchases, or about none, told of those of this page.
async fn hear_mentions(connection: &Transaction, page: &mut BTreeMap<Uuid, Purchase>) -> Result<(), StoreError> {
    let keys = page.keys().map(|id| vec![(*id).into()]).collect();
    let mentions = select::<mention::Entity>(connection, &[mention::Column::Subject], keys, Lock::None).await?;
    let mut by_row: BTreeMap<Uuid, Vec<Uuid>> = BTreeMap::new();
    for mention in mentions {
        by_row.entry(mention.journal).or_default().push(mention.subject);
    }
    let keys = by_row.keys().map(|id| vec![(*id).into()]).collect();
    for row in select::<journal::Entity>(connection, &[journal::Column::Id], keys, Lock::None).await? {
        let events = events(&row)?;
        for subject in by_row.get(&row.id).into_iter().flatten() {
            if let Some(purchase) = page.get_mut(subject) {
                events.iter().for_each(|event| purchase.hear_mention(*subject, event, row.decided_at));
            }
        }
    }
    Ok(())
}

struct Found {
    purchases: BTreeMap<Uuid, purchase::Model>,
    live: BTreeMap<Uuid, certificate::Model>,
    licenses: BTreeMap<Uuid, license::Model>,
    collected: BTreeSet<Uuid>,
}

async fn compare(
    connection: &Transaction,
    mut page: BTreeMap<Uuid, Purchase>,
    told: &mut Told,
) -> Result<(), StoreError> {
    hear_mentions(connection, &mut page).await?;
    let own = page.values().flat_map(|purchase| purchase.certificates.iter().chain(&purchase.upgraded));
    let ids: Vec<_> = own.map(|id| vec![(*id).into()]).collect();
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
    for (subject, purchase) in &page {
        hold(*subject, purchase, &rows, told);
    }
    Ok(())
}

fn hold(subject: Uuid, purchase: &Purchase, rows: &Found, told: &mut Told) {
    told.purchases += (purchase.certificates.len() + purchase.upgrades.len()) as u64;
    told.licenses += purchase.issued.len() as u64;
    told.returned += purchase.returned.len() as u64;
    told.ensure(purchase.settled <= 1, "a purchase was settled twice", subject);
    let once = |told: &mut Told, counts: &BTreeMap<Uuid, u32>, what| {
        for (id, count) in counts {
            told.ensure(*count == 1, what, *id);
        }
    };
    once(told, &purchase.accepted, "a certificate was accepted twice");
    once(told, &purchase.issued, "a license was issued twice");
    once(told, &purchase.granted, "a license was granted twice");
    once(told, &purchase.returned, "a license was returned twice");
    once(told, &purchase.revoked, "a license was revoked twice");
    for id in purchase.certificates.iter().chain(&purchase.upgraded) {
        hold_certificate(*id, purchase, rows, told);
    }
    for id in purchase.issued.keys() {
        hold_license(*id, purchase, rows, told);
    }
}

fn hold_license(id: Uuid, purchase: &Purchase, rows: &Found, told: &mut Told) {
    let granted = purchase.granted.contains_key(&id);
    let returned = purchase.returned.contains_key(&id);
    let revoked = purchase.revoked.contains_key(&id);
    let stands = match rows.licenses.get(&id).map(|row| row.state) {
        Some(LicenseState::Outstanding) => !granted && !returned && !revoked,
        Some(LicenseState::Granted | LicenseState::Returning) => granted && !returned && !revoked,
        Some(LicenseState::Revoked) => revoked && !returned,
        None => granted && returned && !revoked && rows.collected.contains(&id),
    };
    told.ensure(stands, "a license stands otherwise than the journal tells", id);
}

fn hold_certificate(id: Uuid, purchase: &Purchase, rows: &Found, told: &mut Told) {
    told.ensure(rows.purchases.contains_key(&id), "a certificate was issued and has no purchase", id);
    let Some(row) = rows.purchases.get(&id) else { return };
    let live = rows.live.get(&id);
    let upgraded = purchase.upgraded == Some(id);
    let received = live.map_or(row.received_at, |row| row.received_at).is_some();
    let settled = live.map_or(&row.settlement, |row| &row.settlement).is_some();
    let accepted = upgraded || purchase.accepted.contains_key(&id);
    told.ensure(received == accepted, "a certificate's reception is not what the journal tells", id);
    let paid = upgraded || purchase.settled > 0;
    told.ensure(settled == paid, "a certificate's settlement is not what the journal tells", id);
    hold_ending(id, purchase, row, told);
}

/// A certificate ends once in each of its lives, and stands as it was told last.
fn hold_ending(id: Uuid, purchase: &Purchase, row: &purchase::Model, told: &mut Told) {
    let times = |told: &BTreeMap<Uuid, Vec<i64>>| {
        let times = told.get(&id).cloned().unwrap_or_default();
        (times.len(), times.into_iter().max())
    };
    let ((endings, ended), (reissues, reissued)) = (times(&purchase.retired), times(&purchase.reissued));
    told.ensure(endings <= 1 + reissues, "a certificate was retired twice", id);
    // Told in the same millisecond, nobody can say which came first.
    if ended != reissued || ended.is_none() {
        told.ensure(
            row.ended.is_some() == (ended > reissued),
            "a certificate's ending is not what the journal tells",
            id,
        );
    }
    let generation = i64::try_from(1 + reissues).unwrap_or(i64::MAX);
    told.ensure(row.generation == generation, "a certificate's generation is not what the journal tells", id);
}

async fn count_all(connection: &Transaction, told: &mut Told) -> Result<(), StoreError> {
    for (what, counted, sql) in [
        ("there are other purchases than the journal tells of", told.purchases, "SELECT COUNT(*) FROM purchase"),
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
    Ok(())
}
