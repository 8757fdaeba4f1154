//! The return worker takes licenses back and gives privileges for them.
//!
//! In: `license.return`. Out: `license.returned` where the terminal has deleted its copy already,
//! or else `return.opened` with a deadline; then `license.deletion`, and `license.returned`.
//! Promised: only the license's own user returns it, once; a completed return deletes the license
//! row and leaves one collection row, with the transaction it goes back to, and one privilege:
//! points, the successor's certificate, money that a payment provider is instructed to pay out, or
//! the collection row alone, as the terms offer that the license was bought under.
//!
//! Locks the certificates (or, where they have ended, their purchases), then the points accounts;
//! reads licenses, returns and terms after that.

mod case;
mod privilege;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use licet_common::{
    decision::{Context, Decision, Tables},
    runtime::Worker,
    signing::{Keyring, LicenseClaims, Presented},
    store::{
        StoreError, Transaction, locks,
        rows::{Lock, select},
    },
};
use licet_schema::{
    Name, Refusal, Request,
    entity::{collection, license_return},
    message::Privilege,
};
use uuid::Uuid;

pub(crate) use case::{Case, attributes, wish};
pub(crate) use privilege::offers;

use crate::{load, points};

/// The return worker.
#[derive(Debug)]
pub struct Returns;

/// What it decides about.
#[derive(Debug)]
pub enum Input {
    /// A user gives a license back.
    Return {
        /// The license.
        license: Box<Presented<LicenseClaims>>,
        /// Who gives it back.
        user: Name,
        /// For what.
        privilege: Privilege,
        /// Whether the terminal has deleted its copy.
        deleted: bool,
    },
    /// The terminal has deleted its copy.
    Deletion {
        /// The return.
        license_return: Uuid,
    },
}

impl Worker for Returns {
    type Input = Input;

    fn name(&self) -> &'static str {
        "return"
    }

    fn read(&self, keyring: &Keyring, request: Request) -> Result<Input, Refusal> {
        match request {
            Request::LicenseReturn(body) => Ok(Input::Return {
                license: Box::new(Presented::read(&body.license_token, keyring)?),
                user: body.user,
                privilege: body.privilege,
                deleted: body.deleted,
            }),
            Request::LicenseDeletion(body) => Ok(Input::Deletion { license_return: body.license_return }),
            other => Err(crate::program::not_handled(self.name(), &other)),
        }
    }

    fn subject(&self, input: &Input) -> Option<Uuid> {
        match input {
            Input::Return { license, .. } => Some(license.unverified().certificate),
            Input::Deletion { .. } => None,
        }
    }

    async fn load(&self, connection: &Transaction, inputs: &[&Input]) -> Result<Tables, StoreError> {
        let mut tables = Tables::default();
        let (mut wanted, mut users, mut licenses, mut returns) =
            (locks::Wanted::default(), BTreeSet::new(), Vec::new(), Vec::new());
        for input in inputs {
            match input {
                Input::Return { license, user, .. } => {
                    wanted.certificates.insert(license.unverified().certificate);
                    users.extend(points::accounts(user.as_str()));
                    licenses.push(license.unverified_id());
                }
                Input::Deletion { license_return } => returns.push(vec![(*license_return).into()]),
            }
        }
        // Resolved without locks: what a return refers to never changes.
        let opened =
            select::<license_return::Entity>(connection, &[license_return::Column::Id], returns.clone(), Lock::None)
                .await?;
        for row in &opened {
            wanted.certificates.insert(row.certificate);
            users.extend(points::accounts(&row.user));
            licenses.push(row.license);
        }
        locks::certificates(connection, &wanted, &mut tables).await?;
        locks::accounts(connection, &users, &mut tables).await?;
        load::licenses(connection, &licenses, &mut tables).await?;
        locks::purchases(connection, &mut tables).await?;
        load::terms(connection, &mut tables).await?;
        let columns = [collection::Column::Id];
        let collections = select::<collection::Entity>(connection, &columns, returns.clone(), Lock::None).await?;
        tables.collections.load_all(collections);
        load::privileges(connection, returns, &mut tables).await?;
        Ok(tables)
    }

    fn decide(&self, context: &Context<'_>, tables: &mut Tables, input: &Input) -> Result<Decision, Refusal> {
        match input {
            Input::Return { license, user, privilege, deleted } => {
                rules::give_back(context, tables, license, user, *privilege, *deleted)
            }
            Input::Deletion { license_return } => rules::deletion(context, tables, *license_return),
        }
    }
}
