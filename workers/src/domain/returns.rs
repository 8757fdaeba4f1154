//! A license that is given back, with the purchase and the terms it goes back to.

use licet_common::decision::{Context, Decision, Tables};
use licet_schema::{
    Code, Name, Output, Refusal, Timestamp,
    entity::{
        LicenseState, PrivilegeKind, ReturnState, collection, content, license, license_return, privilege, purchase,
    },
    message::{
        ContentDeleted, ContentStatus, LicenseAttributes, LicenseReturned, Privilege, PrivilegeGranted, ReturnOpened,
    },
};
use uuid::Uuid;

use super::privilege::{grant, offers, refusal};
use crate::{
    effects::Effects,
    held::subject_of,
    values::{count, money, name, text, version},
};

/// See the module.
pub(crate) struct Case {
    pub(crate) license: license::Model,
    pub(crate) purchase: purchase::Model,
    pub(crate) terms: content::Model,
    settlement: String,
    provider: String,
}

impl Case {
    pub(crate) fn of(tables: &Tables, license: license::Model) -> Result<Self, Refusal> {
        let lost =
            |what: &str| Refusal::new(Code::UnknownCertificate, format!("the license's {what} is not on record"));
        let purchase = tables.purchases.get(&license.certificate).cloned().ok_or_else(|| lost("purchase"))?;
        let key = (purchase.content.clone(), purchase.version, purchase.revision);
        let terms = tables.contents.get(&key).cloned().ok_or_else(|| lost("content"))?;
        // While the certificate lives, its settlement stands there.
        let live = tables.certificates.get(&license.certificate);
        let settlement = live.map_or(&purchase.settlement, |row| &row.settlement).clone();
        let provider = live.map_or(&purchase.provider, |row| &row.provider).clone();
        match (settlement, provider) {
            (Some(settlement), Some(provider)) => Ok(Self { license, purchase, terms, settlement, provider }),
            _ => Err(lost("settlement")),
        }
    }

    pub(crate) fn subject(&self) -> Uuid {
        subject_of(self.purchase.id, self.purchase.container)
    }

    /// Whether what is wished for is on offer now.
    pub(crate) fn check(&self, tables: &Tables, wish: Privilege) -> Result<(), Refusal> {
        if offers(tables, &self.terms, &self.license.user).contains(&wish) { Ok(()) } else { Err(refusal(wish)) }
    }

    pub(crate) fn open(&self, context: &Context<'_>, user: &Name, wish: Privilege) -> license_return::Model {
        license_return::Model {
            id: context.id("return", 0),
            license: self.license.id,
            certificate: self.license.certificate,
            user: user.to_string(),
            privilege: kind(wish),
            state: ReturnState::Opened,
            opened_at: context.now.as_millis(),
            delete_by: context.now.plus(context.terms.return_ttl).as_millis(),
            closed_at: None,
        }
    }

    /// The license waits for its deletion.
    pub(crate) fn begin(&self, tables: &mut Tables, row: license_return::Model) -> Decision {
        if let Some(license) = tables.licenses.change(&self.license.id) {
            license.state = LicenseState::Returning;
        }
        let opened = self.told(&row, "returning", ContentStatus::Returning);
        tables.returns.add(row);
        Decision::new(Output::ReturnOpened(opened))
    }

    /// The license goes, the privilege comes.
    pub(crate) fn complete(
        &self,
        context: &Context<'_>,
        tables: &mut Tables,
        mut row: license_return::Model,
    ) -> Decision {
        row.state = ReturnState::Completed;
        row.closed_at = Some(context.now.as_millis());
        tables.licenses.remove(&self.license.id);
        match tables.returns.change(&row.id) {
            Some(standing) => *standing = row.clone(),
            None => tables.returns.add(row.clone()),
        }
        let mut effects = Effects::default();
        effects.tell(Output::ContentDeleted(ContentDeleted {
            license_return: row.id,
            license: self.license.id,
            user: name(&row.user),
            content: name(&self.license.content),
            version: version(self.license.version),
        }));
        let (granted, token) = grant(context, tables, &mut effects, self, &row);
        let collected = self.collection(context, &row);
        let returned = returned(&collected, &granted, token, &self.terms.title, false);
        tables.collections.add(collected);
        tables.privileges.add(granted);
        effects.into(context, tables, Decision::new(Output::LicenseReturned(returned)))
    }

    fn collection(&self, context: &Context<'_>, row: &license_return::Model) -> collection::Model {
        collection::Model {
            id: row.id,
            license: self.license.id,
            user: row.user.clone(),
            content: self.license.content.clone(),
            version: self.license.version,
            certificate: self.license.certificate,
            settlement: self.settlement.clone(),
            provider: self.provider.clone(),
            amount_minor: self.purchase.amount_minor,
            currency: self.purchase.currency.clone(),
            kind: row.privilege,
            purchased_at: self.purchase.purchased_at,
            granted_at: self.license.granted_at.unwrap_or(self.license.issued_at),
            returned_at: context.now.as_millis(),
        }
    }

    pub(crate) fn told(&self, row: &license_return::Model, state: &str, status: ContentStatus) -> ReturnOpened {
        ReturnOpened {
            license_return: row.id,
            license: self.license.id,
            content: name(&self.license.content),
            version: version(self.license.version),
            attributes: attributes(&self.license, &self.purchase, &self.terms, state),
            privilege: wish(row.privilege),
            delete_by: Timestamp::from_millis(row.delete_by),
            content_status: status,
        }
    }
}

/// What a license is for, in words for people.
pub(crate) fn attributes(
    license: &license::Model,
    purchase: &purchase::Model,
    terms: &content::Model,
    state: &str,
) -> LicenseAttributes {
    LicenseAttributes {
        title: text(&terms.title),
        purchased_at: Timestamp::from_millis(purchase.purchased_at),
        amount: money(purchase.amount_minor, &purchase.currency),
        granted_at: license.granted_at.map(Timestamp::from_millis),
        state: text(state),
    }
}

/// What is told of a completed return.
pub(super) fn returned(
    collected: &collection::Model,
    granted: &privilege::Model,
    certificate_token: Option<String>,
    title: &str,
    repeated: bool,
) -> LicenseReturned {
    let amount = granted.amount_minor.zip(granted.currency.as_deref());
    LicenseReturned {
        license_return: collected.id,
        license: collected.license,
        user: name(&collected.user),
        content: name(&collected.content),
        version: version(collected.version),
        attributes: LicenseAttributes {
            title: text(title),
            purchased_at: Timestamp::from_millis(collected.purchased_at),
            amount: money(collected.amount_minor, &collected.currency),
            granted_at: Some(Timestamp::from_millis(collected.granted_at)),
            state: text("returned"),
        },
        privilege: PrivilegeGranted {
            kind: wish(granted.kind),
            points: granted.points.map(count),
            certificate: granted.certificate,
            certificate_token,
            amount: amount.map(|(minor, currency)| money(minor, currency)),
        },
        content_status: ContentStatus::Deleted,
        repeated,
    }
}

fn kind(wish: Privilege) -> PrivilegeKind {
    match wish {
        Privilege::Points => PrivilegeKind::Points,
        Privilege::Upgrade => PrivilegeKind::Upgrade,
        Privilege::Buyback => PrivilegeKind::Buyback,
        Privilege::Collection => PrivilegeKind::Collection,
    }
}

/// A privilege's kind, as it stands on the wire.
pub(crate) fn wish(kind: PrivilegeKind) -> Privilege {
    match kind {
        PrivilegeKind::Points => Privilege::Points,
        PrivilegeKind::Upgrade => Privilege::Upgrade,
        PrivilegeKind::Buyback => Privilege::Buyback,
        PrivilegeKind::Collection => Privilege::Collection,
    }
}
