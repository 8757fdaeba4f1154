//! What giving a license back changes.

use licet_common::{
    decision::{Context, Decision, Tables},
    signing::{LicenseClaims, Presented, digest},
};
use licet_schema::{
    Code, Name, Output, Refusal, Timestamp,
    entity::{
        LicenseState, PrivilegeKind, ReturnState, collection, content, license, license_return, privilege, purchase,
    },
    message::{
        ContentDeleted, ContentStatus, LicenseAttributes, LicenseReturned, Privilege, PrivilegeGranted, ReturnOpened,
    },
    vocabulary::INTEGER_MAX,
};
use uuid::Uuid;

use crate::held::{accounts, balance, count, money, name, points_changed, subject_of, text, transfer, version};

/// A user gives a license back.
pub(super) fn give_back(
    context: &Context<'_>,
    tables: &mut Tables,
    presented: &Presented<LicenseClaims>,
    user: &Name,
    wish: Privilege,
    deleted: bool,
) -> Result<Decision, Refusal> {
    let id = presented.unverified_id();
    let row = tables.licenses.get(&id).cloned();
    let stored = row.as_ref().map(|row| digest(&row.token));
    let claims = presented.verify(context.keyring, stored.as_ref().map(<[u8; 32]>::as_slice))?;
    let Some(license) = row else { return Err(gone(tables, id)) };
    let open = tables.returns.iter().find(|one| one.license == id && one.state == ReturnState::Opened).cloned();
    match license.state {
        LicenseState::Revoked => return Err(Refusal::new(Code::Superseded, "the license was revoked")),
        LicenseState::Returning if open.as_ref().is_some_and(|open| context.now.as_millis() <= open.delete_by) => {
            return Err(Refusal::new(
                Code::AlreadyReturned,
                "a return is open: delete the copy and send license.deletion",
            ));
        }
        LicenseState::Returning | LicenseState::Granted | LicenseState::Outstanding => {}
    }
    if claims.sub != *user {
        return Err(Refusal::new(Code::NotHolder, "the license belongs to another user"));
    }
    if license.state == LicenseState::Outstanding {
        return Err(Refusal::new(Code::NotReceived, "acknowledge the license's reception first, with license.receipt"));
    }
    let case = Case::of(tables, license)?;
    case.offered(wish)?;
    case.creditable(tables)?;

    let lapsed = open.map(|open| lapse(context, tables, &case, &open));
    let row = case.open(context, user, wish);
    let decision = if deleted { case.complete(context, tables, row) } else { case.begin(tables, row) };
    Ok(lapsed.into_iter().fold(decision, Decision::with).about(case.subject()))
}

/// The terminal has deleted its copy.
pub(super) fn deletion(context: &Context<'_>, tables: &mut Tables, id: Uuid) -> Result<Decision, Refusal> {
    let row = tables.returns.get(&id).cloned();
    let row = row.ok_or_else(|| Refusal::new(Code::UnknownReturn, "there is no such return, and never was"))?;
    match row.state {
        ReturnState::Completed => return told_before(tables, &row),
        ReturnState::Opened if context.now.as_millis() <= row.delete_by => {}
        ReturnState::Opened | ReturnState::Lapsed => {
            return Err(Refusal::new(
                Code::Lapsed,
                "the return's deadline passed, and the license is live again: return it anew",
            ));
        }
    }
    let license = tables.licenses.get(&row.license).cloned().ok_or_else(|| gone(tables, row.license))?;
    let case = Case::of(tables, license)?;
    case.creditable(tables)?;
    let subject = case.subject();
    Ok(case.complete(context, tables, row).about(subject))
}

fn gone(tables: &Tables, license: Uuid) -> Refusal {
    if tables.returns.iter().any(|one| one.license == license && one.state == ReturnState::Completed) {
        Refusal::new(Code::AlreadyReturned, "the license was returned already")
    } else {
        Refusal::new(Code::UnknownLicense, "there is no such license, and never was")
    }
}

/// A license with the purchase and the terms it goes back to.
struct Case {
    license: license::Model,
    purchase: purchase::Model,
    terms: content::Model,
    settlement: String,
    provider: String,
}

impl Case {
    fn of(tables: &Tables, license: license::Model) -> Result<Self, Refusal> {
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

    fn subject(&self) -> Uuid {
        subject_of(self.purchase.id, self.purchase.container)
    }

    /// Whether the content's policy offers what is wished for.
    fn offered(&self, wish: Privilege) -> Result<(), Refusal> {
        let not = |detail: &str| Err(Refusal::new(Code::NotReturnable, detail));
        match wish {
            Privilege::Points if self.terms.return_points.is_some() => Ok(()),
            Privilege::Points => not("this content gives no points for a return"),
            Privilege::Upgrade | Privilege::Buyback | Privilege::Collection => {
                not("licenses are taken back for points alone")
            }
        }
    }

    /// Whether the user's account can hold the points besides those that it has.
    fn creditable(&self, tables: &Tables) -> Result<(), Refusal> {
        let points = self.terms.return_points.unwrap_or_default();
        if balance(tables, &self.license.user).saturating_add(points) > INTEGER_MAX {
            return Err(Refusal::new(
                Code::NotReturnable,
                "the user has as many points as an account can hold: spend some first",
            ));
        }
        Ok(())
    }

    fn open(&self, context: &Context<'_>, user: &Name, wish: Privilege) -> license_return::Model {
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
    fn begin(&self, tables: &mut Tables, row: license_return::Model) -> Decision {
        if let Some(license) = tables.licenses.change(&self.license.id) {
            license.state = LicenseState::Returning;
        }
        let opened = self.told(&row, "returning", ContentStatus::Returning);
        tables.returns.add(row);
        Decision::new(Output::ReturnOpened(opened))
    }

    /// The license goes, the privilege comes.
    fn complete(&self, context: &Context<'_>, tables: &mut Tables, mut row: license_return::Model) -> Decision {
        row.state = ReturnState::Completed;
        row.closed_at = Some(context.now.as_millis());
        tables.licenses.remove(&self.license.id);
        match tables.returns.change(&row.id) {
            Some(standing) => *standing = row.clone(),
            None => tables.returns.add(row.clone()),
        }
        let collected = self.collection(context, &row);
        let points = self.terms.return_points.unwrap_or_default();
        let granted = privilege::Model {
            id: row.id,
            user: row.user.clone(),
            kind: row.privilege,
            points: Some(points),
            certificate: None,
            amount_minor: None,
            currency: None,
        };
        let returned = returned(&collected, &granted, &self.terms.title, false);
        tables.collections.add(collected);
        tables.privileges.add(granted);
        transfer(context, tables, accounts::ISSUED, &accounts::points(&row.user), points);
        let decision = Decision::new(Output::LicenseReturned(returned)).with(Output::ContentDeleted(ContentDeleted {
            license_return: row.id,
            license: self.license.id,
            user: name(&row.user),
            content: name(&self.license.content),
            version: version(self.license.version),
        }));
        if points == 0 { decision } else { decision.with(points_changed(context, tables, &row.user, points)) }
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

    fn told(&self, row: &license_return::Model, state: &str, status: ContentStatus) -> ReturnOpened {
        ReturnOpened {
            license_return: row.id,
            license: self.license.id,
            content: name(&self.license.content),
            version: version(self.license.version),
            attributes: LicenseAttributes {
                title: text(&self.terms.title),
                purchased_at: Timestamp::from_millis(self.purchase.purchased_at),
                amount: money(self.purchase.amount_minor, &self.purchase.currency),
                granted_at: self.license.granted_at.map(Timestamp::from_millis),
                state: text(state),
            },
            privilege: wish(row.privilege),
            delete_by: Timestamp::from_millis(row.delete_by),
            content_status: status,
        }
    }
}

/// A return whose deadline passed, met before any sweep came: the license is live again.
fn lapse(context: &Context<'_>, tables: &mut Tables, case: &Case, open: &license_return::Model) -> Output {
    if let Some(row) = tables.returns.change(&open.id) {
        row.state = ReturnState::Lapsed;
        row.closed_at = Some(context.now.as_millis());
    }
    Output::ReturnLapsed(case.told(open, "granted", ContentStatus::Live))
}

/// The deletion was told before: the same answer, from what is on record.
fn told_before(tables: &Tables, row: &license_return::Model) -> Result<Decision, Refusal> {
    let lost = || Refusal::new(Code::UnknownReturn, "the return's record is incomplete: run `licet audit`");
    let collected = tables.collections.get(&row.id).ok_or_else(lost)?;
    let granted = tables.privileges.get(&row.id).ok_or_else(lost)?;
    let purchase = tables.purchases.get(&row.certificate).ok_or_else(lost)?;
    let terms =
        tables.contents.get(&(purchase.content.clone(), purchase.version, purchase.revision)).ok_or_else(lost)?;
    let returned = returned(collected, granted, &terms.title, true);
    Ok(Decision::new(Output::LicenseReturned(returned)).about(subject_of(purchase.id, purchase.container)))
}

fn returned(collected: &collection::Model, granted: &privilege::Model, title: &str, repeated: bool) -> LicenseReturned {
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
            certificate_token: None,
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

fn wish(kind: PrivilegeKind) -> Privilege {
    match kind {
        PrivilegeKind::Points => Privilege::Points,
        PrivilegeKind::Upgrade => Privilege::Upgrade,
        PrivilegeKind::Buyback => Privilege::Buyback,
        PrivilegeKind::Collection => Privilege::Collection,
    }
}
