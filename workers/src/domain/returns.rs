//! The rows that a return of a license refers to, and the privileges that can be granted for a
//! return.

use licet_common::{decision::Context, rows::Defect};
use licet_schema::{
    Count, ExternalId, Money, Name, Output, Text, Timestamp,
    entity::{LicenseState, ReturnState, certificate_record, content, license, license_return},
    message::{ContentStatus, Ending, LicenseAttributes, Privilege, ReturnOpened},
    money::Currency,
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

/// The privileges that the user could receive now for returning a license of this certificate,
/// which was bought under these terms.
pub(crate) fn offers(
    tables: &Tables,
    certificate: Uuid,
    terms: &content::Model,
    user: &Name,
    counted: Counted,
) -> Result<Vec<Privilege>, Defect> {
    let limits = Limits::of(tables, certificate, counted)?;
    let mut offers = Vec::new();
    let is_within = |privilege| limits.exceeded_by(terms, privilege).is_none();
    if let Some(earned) = terms.return_points
        && is_within(Privilege::Points)
        && points::balance(tables, user)?.saturating_add(earned.get()) <= INTEGER_MAX
    {
        offers.push(Privilege::Points);
    }
    if terms.return_upgrade && successor(tables, terms)?.is_some() {
        offers.push(Privilege::Upgrade);
    }
    if terms.return_buyback_minor.is_some() && is_within(Privilege::Buyback) {
        offers.push(Privilege::Buyback);
    }
    if terms.return_collection {
        offers.push(Privilege::Collection);
    }
    Ok(offers)
}

/// What a return for this privilege brings, in minor units of the price. `None` if it brings
/// nothing, or if the terms do not offer it. A point is worth one minor unit, because only content
/// items whose price is in the points currency offer points.
fn value(terms: &content::Model, privilege: Privilege) -> Option<Count> {
    match privilege {
        Privilege::Points => terms.return_points,
        Privilege::Buyback => terms.return_buyback_minor,
        Privilege::Upgrade | Privilege::Collection => None,
    }
}

/// The returns that count for a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counted {
    /// Completed returns, and open returns that can still be completed at this time. A new return
    /// must not use the part of the limit that is reserved for them.
    WithOpen(Timestamp),
    /// Completed returns only. Other open returns do not prevent an open return from completing.
    Completed,
}

/// What returns may bring and have brought, in minor units of the price.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Worth {
    /// What was paid, with money and points, and not refunded.
    pub(crate) paid: i64,
    /// What the counted returns bring.
    pub(crate) brought: i64,
}

impl Worth {
    fn covers(self, more: Count) -> bool {
        self.brought.saturating_add(more.get()) <= self.paid
    }
}

/// The limits of what the returns of a certificate's licenses may bring.
///
/// An upgrade neither brings anything nor adds to what was paid: the returns of a certificate and
/// of all upgrades of its licenses count together, and the limit is what was paid for the first.
///
/// A refund of a container that names no member belongs to no certificate. After a refund, the
/// returns of all members together are therefore limited by what is left of the whole payment, in
/// addition to the limit of each member, which is its price.
///
/// Licet does not convert currencies, so a license of an upgrade that is sold in another currency
/// brings nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The currency in which the first certificate was paid for.
    currency: Currency,
    certificate: Worth,
    /// The limit of all certificates of the container, if a refund of the container was reported.
    container: Option<Worth>,
}

impl Limits {
    /// The limits for a certificate. `load::refunded` and `load::worth` must have requested its
    /// rows.
    pub(crate) fn of(tables: &Tables, certificate: Uuid, counted: Counted) -> Result<Self, Defect> {
        let mut first = certificate;
        while let Some(upgrade) = tables.upgrade_to(first)? {
            first = tables.returns.require(&upgrade.id)?.certificate;
        }
        let record = tables.records.require(&first)?;
        let currency = record.currency;
        let own = Worth { paid: record.amount_minor.get(), brought: brought(tables, record, counted)? };
        let live = tables.certificates.get(&first)?;
        let settlement = live.map_or(&record.settlement, |row| &row.settlement).clone();
        let provider = live.map_or(&record.provider, |row| &row.provider).clone();
        let (Some(provider), Some(settlement)) = (provider, settlement) else {
            return Err(Defect::violated("every license has a settlement", first));
        };
        if tables.refunds_of(&provider, &settlement)?.is_empty() {
            // The limits of the members add up to that of their container.
            return Ok(Self { currency, certificate: own, container: None });
        }
        let refunded = tables.settlements.require(&(provider, settlement))?.refunded_minor.get();
        let Some(container) = record.container else {
            return Ok(Self { currency, certificate: Worth { paid: own.paid - refunded, ..own }, container: None });
        };
        let mut whole = Worth { paid: -refunded, brought: 0 };
        for member in tables.bought_in(container)? {
            // The points that had paid for a revoked member were credited back to the user.
            let given_back = if is_revoked(member) { member.points.get() } else { 0 };
            whole.paid += member.amount_minor.get() - given_back;
            whole.brought += brought(tables, member, counted)?;
        }
        Ok(Self { currency, certificate: own, container: Some(whole) })
    }

    /// The limit that another return for this privilege would exceed under these terms, if any.
    pub(crate) fn exceeded_by(&self, terms: &content::Model, privilege: Privilege) -> Option<Exceeded> {
        let more = value(terms, privilege).filter(|more| *more > Count::ZERO)?;
        if terms.currency != self.currency {
            return Some(Exceeded::Currency { brings: terms.currency, paid: self.currency });
        }
        let limits = [("certificate", Some(self.certificate)), ("container", self.container)];
        let mut limits = limits.into_iter().filter_map(|(of, worth)| Some((of, worth?)));
        limits.find(|(_, worth)| !worth.covers(more)).map(|(of, worth)| Exceeded::Amount { of, worth })
    }
}

/// Why a return would bring too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exceeded {
    /// Too little is left of what was paid.
    Amount {
        /// What the limit is for: a certificate or a container.
        of: &'static str,
        /// The limit.
        worth: Worth,
    },
    /// The return would bring something in a currency other than that of the payment.
    Currency {
        /// The currency of the return.
        brings: Currency,
        /// The currency of the payment.
        paid: Currency,
    },
}

/// Whether a reversal that was not undone revoked a certificate.
fn is_revoked(record: &certificate_record::Model) -> bool {
    record.ended == Some(Ending::Reversed) && !record.reinstated
}

/// What the returns of a paid certificate, and of all upgrades of its licenses, bring.
fn brought(tables: &Tables, first: &certificate_record::Model, counted: Counted) -> Result<i64, Defect> {
    let mut brought = 0;
    let mut left = vec![first.id];
    while let Some(id) = left.pop() {
        for row in tables.returns_of_certificate(id)? {
            match (row.state, counted) {
                (ReturnState::Completed, _) => {
                    let privilege = tables.privileges.require(&row.id)?;
                    // A reversal takes the points back, but a buy-back stays as it is.
                    let points = privilege.points.filter(|_| !is_revoked(first));
                    brought += [points, privilege.amount_minor].into_iter().flatten().map(Count::get).sum::<i64>();
                    left.extend(privilege.certificate);
                }
                (ReturnState::Opened, Counted::WithOpen(now)) if now <= row.delete_by => {
                    let record = tables.records.require(&row.certificate)?;
                    let key = (record.content.clone(), record.version, record.revision);
                    brought += value(tables.contents.require(&key)?, row.privilege).map_or(0, Count::get);
                }
                (ReturnState::Opened | ReturnState::Lapsed, _) => {}
            }
        }
    }
    Ok(brought)
}

/// The current revision of the successor that the terms name, if it is sold.
pub(crate) fn successor(tables: &Tables, terms: &content::Model) -> Result<Option<content::Model>, Defect> {
    let (Some(content), Some(version)) = (&terms.successor_content, terms.successor_version) else {
        return Ok(None);
    };
    Ok(tables.sold(content)?.into_iter().find(|row| row.version == version).cloned())
}
