//! The tables, and the lookups of rules that do not use a primary key.

use licet_common::rows::{Defect, RowSet, Rows, TableVisitor};
use licet_schema::{
    ExternalId, Name,
    entity::{
        account, certificate, certificate_record, collection, content, entry, license, license_return, payout,
        pending_reception, privilege, reference, refund, reinstatement, settlement, unmatched_settlement,
    },
    message::UnmatchedKind,
};
use uuid::Uuid;

/// All live certificates of a container.
pub(crate) const LIVE_IN_CONTAINER: &str = "the live certificates of container";
/// All ended certificates of a container.
pub(crate) const ENDED_IN_CONTAINER: &str = "the ended certificates of container";
/// A certificate, if it has ended.
pub(crate) const ENDED: &str = "the ended certificate";
/// The licenses of a user that one page needs.
pub(crate) const PAGE_OF_USER: &str = "the page of licenses of user";
/// The newest certificates that were bought under an order number of an upstream system.
pub(crate) const NEWEST_OF_REFERENCE: &str = "the newest certificates of reference";

/// The rows of a batch, by table.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// Content items that are or were sold.
    pub contents: Rows<content::Entity>,
    /// One permanent record for each certificate ever issued.
    pub records: Rows<certificate_record::Entity>,
    /// Live certificates, locked.
    pub certificates: Rows<certificate::Entity>,
    /// Certificates and containers that were sent and are not acknowledged yet.
    pub pending_receptions: Rows<pending_reception::Entity>,
    /// Licenses.
    pub licenses: Rows<license::Entity>,
    /// Returns of licenses.
    pub returns: Rows<license_return::Entity>,
    /// Completed returns.
    pub collections: Rows<collection::Entity>,
    /// Privileges that completed returns granted.
    pub privileges: Rows<privilege::Entity>,
    /// References that a sender may use for only one purchase.
    pub references: Rows<reference::Entity>,
    /// Points accounts, locked.
    pub accounts: Rows<account::Entity>,
    /// New entries of the ledger.
    pub entries: Rows<entry::Entity>,
    /// Registered settlements.
    pub settlements: Rows<settlement::Entity>,
    /// Refunds of settlements.
    pub refunds: Rows<refund::Entity>,
    /// Reinstatements that wait for their refund.
    pub reinstatements: Rows<reinstatement::Entity>,
    /// Money that matches no purchase.
    pub unmatched_settlements: Rows<unmatched_settlement::Entity>,
    /// Buy-backs that were paid out.
    pub payouts: Rows<payout::Entity>,
    /// Whether a sweep found as many rows as it processes at once, so more rows may be overdue.
    pub more: bool,
}

impl RowSet for Tables {
    fn visit(&self, visitor: &mut impl TableVisitor) {
        // All fields are named, so that a new table cannot be forgotten here.
        let Self {
            contents,
            records,
            certificates,
            pending_receptions,
            licenses,
            returns,
            collections,
            privileges,
            references,
            accounts,
            entries,
            settlements,
            refunds,
            reinstatements,
            unmatched_settlements,
            payouts,
            more: _,
        } = self;
        visitor.table(contents);
        visitor.table(settlements);
        visitor.table(refunds);
        visitor.table(reinstatements);
        visitor.table(records);
        visitor.table(certificates);
        visitor.table(pending_receptions);
        visitor.table(licenses);
        visitor.table(returns);
        visitor.table(collections);
        visitor.table(privileges);
        visitor.table(payouts);
        visitor.table(references);
        visitor.table(accounts);
        visitor.table(entries);
        visitor.table(unmatched_settlements);
    }
}

impl Tables {
    /// The current revision of every content version.
    pub(crate) fn sold(&self, content: &Name) -> Result<Vec<&content::Model>, Defect> {
        let columns = [content::Column::Content, content::Column::Current];
        let is_sold = |row: &content::Model| row.current && row.content == *content;
        Ok(self.contents.all(&columns, vec![content.clone().into(), true.into()], is_sold)?.collect())
    }

    /// The record of a certificate, if the certificate has ended.
    pub(crate) fn ended(&self, certificate: Uuid) -> Result<Option<&certificate_record::Model>, Defect> {
        let is_it = move |row: &certificate_record::Model| row.id == certificate && row.ended.is_some();
        Ok(self.records.set(ENDED, certificate.into(), is_it)?.next())
    }

    /// The records of a container's certificates that have ended.
    pub(crate) fn ended_in(&self, container: Uuid) -> Result<Vec<&certificate_record::Model>, Defect> {
        let is_in = move |row: &certificate_record::Model| row.container == Some(container) && row.ended.is_some();
        Ok(self.records.set(ENDED_IN_CONTAINER, container.into(), is_in)?.collect())
    }

    /// The records of all certificates that were bought in a container.
    pub(crate) fn bought_in(&self, container: Uuid) -> Result<Vec<&certificate_record::Model>, Defect> {
        let columns = [certificate_record::Column::Container];
        let is_in = move |row: &certificate_record::Model| row.container == Some(container);
        Ok(self.records.all(&columns, vec![container.into()], is_in)?.collect())
    }

    /// A container's live certificates.
    pub(crate) fn live_in(&self, container: Uuid) -> Result<Vec<&certificate::Model>, Defect> {
        let is_in = move |row: &certificate::Model| row.container == Some(container);
        Ok(self.certificates.set(LIVE_IN_CONTAINER, container.into(), is_in)?.collect())
    }

    /// The licenses of a certificate.
    pub(crate) fn licenses_of(&self, certificate: Uuid) -> Result<Vec<&license::Model>, Defect> {
        let columns = [license::Column::Certificate];
        let of_it = move |row: &license::Model| row.certificate == certificate;
        Ok(self.licenses.all(&columns, vec![certificate.into()], of_it)?.collect())
    }

    /// The privilege that created a certificate, if it is an upgrade.
    pub(crate) fn upgrade_to(&self, certificate: Uuid) -> Result<Option<&privilege::Model>, Defect> {
        let columns = [privilege::Column::Certificate];
        let created = move |row: &privilege::Model| row.certificate == Some(certificate);
        Ok(self.privileges.all(&columns, vec![certificate.into()], created)?.next())
    }

    /// The purchases that a sender made with a reference while references had to be unique, oldest
    /// first.
    pub(crate) fn bought_with(&self, reference: &ExternalId, sender: &str) -> Result<Vec<&reference::Model>, Defect> {
        let columns = [reference::Column::Reference];
        let same = |row: &reference::Model| row.reference == *reference && row.sender == sender;
        Ok(self.references.all(&columns, vec![reference.clone().into()], same)?.collect())
    }

    /// The returns of a license.
    pub(crate) fn returns_of_license(&self, license: Uuid) -> Result<Vec<&license_return::Model>, Defect> {
        let columns = [license_return::Column::License];
        let of_it = move |row: &license_return::Model| row.license == license;
        Ok(self.returns.all(&columns, vec![license.into()], of_it)?.collect())
    }

    /// The returns of a certificate's licenses.
    pub(crate) fn returns_of_certificate(&self, certificate: Uuid) -> Result<Vec<&license_return::Model>, Defect> {
        let columns = [license_return::Column::Certificate];
        let of_it = move |row: &license_return::Model| row.certificate == certificate;
        Ok(self.returns.all(&columns, vec![certificate.into()], of_it)?.collect())
    }

    /// The open unmatched money that a provider reported under this settlement id: payments or
    /// refunds.
    pub(crate) fn unmatched(
        &self,
        kind: UnmatchedKind,
        provider: &Name,
        settlement: &ExternalId,
    ) -> Result<Vec<unmatched_settlement::Model>, Defect> {
        let columns = [unmatched_settlement::Column::Provider, unmatched_settlement::Column::Settlement];
        let key = vec![provider.clone().into(), settlement.clone().into()];
        let same = |row: &unmatched_settlement::Model| {
            let is_open = row.refunded_by.is_none();
            is_open && row.kind == kind && row.provider == *provider && row.settlement == *settlement
        };
        Ok(self.unmatched_settlements.all(&columns, key, same)?.cloned().collect())
    }

    /// The unmatched payments under this settlement id that a refund returned.
    pub(crate) fn returned_payments(
        &self,
        provider: &Name,
        settlement: &ExternalId,
    ) -> Result<Vec<unmatched_settlement::Model>, Defect> {
        let columns = [unmatched_settlement::Column::Provider, unmatched_settlement::Column::Settlement];
        let key = vec![provider.clone().into(), settlement.clone().into()];
        let same = |row: &unmatched_settlement::Model| {
            row.refunded_by.is_some() && row.provider == *provider && row.settlement == *settlement
        };
        Ok(self.unmatched_settlements.all(&columns, key, same)?.cloned().collect())
    }

    /// The refunds of a settlement, in the order of their ids.
    pub(crate) fn refunds_of(&self, provider: &Name, settlement: &ExternalId) -> Result<Vec<refund::Model>, Defect> {
        let columns = [refund::Column::Provider, refund::Column::Settlement];
        let key = vec![provider.clone().into(), settlement.clone().into()];
        let same = |row: &refund::Model| row.provider == *provider && row.settlement == *settlement;
        Ok(self.refunds.all(&columns, key, same)?.cloned().collect())
    }

    /// The reinstatements of a settlement that wait for their refund, in the order of their ids.
    pub(crate) fn reinstatements_of(
        &self,
        provider: &Name,
        settlement: &ExternalId,
    ) -> Result<Vec<reinstatement::Model>, Defect> {
        let columns = [reinstatement::Column::Provider, reinstatement::Column::Settlement];
        let key = vec![provider.clone().into(), settlement.clone().into()];
        let same = |row: &reinstatement::Model| row.provider == *provider && row.settlement == *settlement;
        Ok(self.reinstatements.all(&columns, key, same)?.cloned().collect())
    }
}
