//! The rows that a return of a license refers to, and the privileges that can be granted for a
//! return.

use licet_common::{decision::Context, rows::Defect};
use licet_schema::{
    Count, ExternalId, Money, Name, Output, Text,
    entity::{LicenseState, ReturnState, certificate_record, content, license, license_return},
    message::{ContentStatus, LicenseAttributes, Privilege, ReturnOpened},
    vocabulary::INTEGER_MAX,
};
use uuid::Uuid;

use super::{certificates::subject_of, points, tables::Tables};

/// A license, its certificate's record, the terms of the purchase, and the settlement that paid for
/// it.
pub(crate) struct ReturnCase {
    pub(crate) license: license::Model,
    pub(crate) record: certificate_record::Model,
    pub(crate) terms: content::Model,
    /// The settlement that paid for the license's certificate.
    pub(crate) settlement: ExternalId,
    /// The provider of that settlement.
    pub(crate) provider: Name,
}

impl ReturnCase {
    /// Collects the rows that belong to a license.
    ///
    /// # Errors
    /// One of the rows does not exist, or the certificate has no settlement.
    pub(crate) fn of(tables: &Tables, license: license::Model) -> Result<Self, Defect> {
        let record = tables.records.require(&license.certificate)?.clone();
        let terms = tables.contents.require(&(record.content.clone(), record.version, record.revision))?.clone();
        // While the certificate is live, the settlement is in its row, not in the record.
        let live = tables.certificates.get(&license.certificate)?;
        let settlement = live.map_or(&record.settlement, |row| &row.settlement).clone();
        let provider = live.map_or(&record.provider, |row| &row.provider).clone();
        let (Some(settlement), Some(provider)) = (settlement, provider) else {
            return Err(Defect::violated("every license has a settlement", license.id));
        };
        Ok(Self { license, record, terms, settlement, provider })
    }

    /// The id of the purchase that the license belongs to.
    pub(crate) fn subject(&self) -> Uuid {
        subject_of(self.record.id, self.record.container)
    }

    /// The body that describes an open or lapsed return.
    pub(crate) fn describe(
        &self,
        row: &license_return::Model,
        state: &str,
        status: ContentStatus,
    ) -> Result<ReturnOpened, Defect> {
        Ok(ReturnOpened {
            license_return: row.id,
            license: self.license.id,
            content: self.license.content.clone(),
            version: self.license.version,
            attributes: attributes(&self.license, &self.record, &self.terms, state)?,
            privilege: row.privilege,
            delete_by: row.delete_by,
            content_status: status,
        })
    }

    /// Lapses an open return, which makes the license live again.
    pub(crate) fn lapse(
        &self,
        context: &Context<'_>,
        tables: &mut Tables,
        open: &license_return::Model,
    ) -> Result<Output, Defect> {
        let row = tables.returns.change(&open.id)?;
        row.state = ReturnState::Lapsed;
        row.closed_at = Some(context.now);
        tables.licenses.change(&open.license)?.state = LicenseState::Granted;
        Ok(Output::ReturnLapsed(self.describe(open, "granted", ContentStatus::Live)?))
    }
}

/// The attributes of a license that are shown to people.
pub(crate) fn attributes(
    license: &license::Model,
    record: &certificate_record::Model,
    terms: &content::Model,
    state: &str,
) -> Result<LicenseAttributes, Defect> {
    Ok(LicenseAttributes {
        title: terms.title.clone(),
        purchased_at: record.purchased_at,
        amount: Money { amount_minor: record.amount_minor, currency: record.currency },
        granted_at: license.granted_at,
        state: state_text(state)?,
    })
}

/// The state of a license, as a text that is shown to people.
pub(crate) fn state_text(state: &str) -> Result<Text, Defect> {
    Text::try_from(state).map_err(|_| Defect::violated("the state of a license is a text", state))
}

/// The privileges that the user could receive now for returning a license of this certificate, which
/// was bought under these terms.
pub(crate) fn offers(
    tables: &Tables,
    certificate: Uuid,
    terms: &content::Model,
    user: &Name,
) -> Result<Vec<Privilege>, Defect> {
    let worth = Worth::of(tables, certificate)?;
    let mut offers = Vec::new();
    if let Some(earned) = terms.return_points
        && worth.covers(earned)
        && points::balance(tables, user)?.saturating_add(earned.get()) <= INTEGER_MAX
    {
        offers.push(Privilege::Points);
    }
    if terms.return_upgrade && successor(tables, terms)?.is_some() {
        offers.push(Privilege::Upgrade);
    }
    if terms.return_buyback_minor.is_some_and(|amount| worth.covers(amount)) {
        offers.push(Privilege::Buyback);
    }
    if terms.return_collection {
        offers.push(Privilege::Collection);
    }
    Ok(offers)
}

/// What the returns of a certificate's licenses may bring and have brought, in minor units of its
/// price. A point is worth one minor unit.
///
/// An upgrade neither brings anything nor adds to what was paid: the returns of a certificate and
/// of all upgrades of its licenses count together, and the limit is what was paid for the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Worth {
    /// What was paid for the certificate, with money and points, and not refunded.
    pub(crate) paid: i64,
    /// What completed returns have brought.
    pub(crate) brought: i64,
}

impl Worth {
    /// The worth of a certificate, which `load::worth` must have requested.
    pub(crate) fn of(tables: &Tables, certificate: Uuid) -> Result<Self, Defect> {
        let mut first = certificate;
        while let Some(upgrade) = tables.upgrade_to(first)? {
            first = tables.returns.require(&upgrade.id)?.certificate;
        }
        let mut brought = 0;
        let mut left = vec![first];
        while let Some(id) = left.pop() {
            for row in tables.returns_of_certificate(id)? {
                if row.state != ReturnState::Completed {
                    continue;
                }
                let privilege = tables.privileges.require(&row.id)?;
                let amounts = [privilege.points, privilege.amount_minor];
                brought += amounts.into_iter().flatten().map(Count::get).sum::<i64>();
                left.extend(privilege.certificate);
            }
        }
        Ok(Self { paid: paid(tables.records.require(&first)?), brought })
    }

    /// Whether another return may bring this much.
    pub(crate) fn covers(self, more: Count) -> bool {
        self.brought.saturating_add(more.get()) <= self.paid || more == Count::ZERO
    }
}

/// What was paid for a certificate and not refunded, in minor units: its price, of which a part may
/// have been paid with points.
fn paid(record: &certificate_record::Model) -> i64 {
    record.amount_minor.get()
}

/// The current revision of the successor that the terms name, if it is sold.
pub(crate) fn successor(tables: &Tables, terms: &content::Model) -> Result<Option<content::Model>, Defect> {
    let (Some(content), Some(version)) = (&terms.successor_content, terms.successor_version) else {
        return Ok(None);
    };
    Ok(tables.sold(content)?.into_iter().find(|row| row.version == version).cloned())
}
