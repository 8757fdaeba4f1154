//! The return worker takes licenses back and gives privileges for them.
//!
//! In: `license.return`. Out: `license.returned` if the terminal has already deleted its copy,
//! otherwise `return.opened` with a deadline. In the second case the terminal sends
//! `license.deletion`, and the reply is `license.returned`. Guarantees: only the license's own user
//! can return it, and only once. A completed return deletes the license. It leaves one collection
//! row, which names the settlement of the purchase, and one privilege: points, a certificate for
//! the successor, a payout that a payment provider is instructed to make, or only the collection
//! row. The terms under which the license was bought determine the available privileges. Together,
//! the returns of a certificate never bring more than was paid for it and not refunded.
//!
//! The worker locks the certificates (or the records of certificates that have ended), then the
//! payments that were refunded, and then the points accounts. If a certificate is an upgrade, the
//! worker also locks the certificate that was paid for. After that, it reads licenses, returns and
//! terms.

mod completion;
mod privilege;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use licet_common::{
    config::{Groups, groups},
    decision::{Context, Decision, RuleError},
    runtime::Worker,
    signing::{Keyring, LicenseClaims, Presented},
    store::{Lock, Source, StoreError, keys, load as select_into},
};
use licet_schema::{
    Name, Refusal, Request,
    entity::{collection, license_return},
    message::Privilege,
};
use uuid::Uuid;

use crate::domain::{Tables, load, locks, points, refusals::not_handled};

/// The return worker.
#[derive(Clone, Copy, Debug, Default)]
pub struct Returns;

/// A message about a return, with its token read.
#[derive(Debug)]
pub enum Input {
    /// A user returns a license.
    Return {
        /// The license.
        license: Box<Presented<LicenseClaims>>,
        /// The user.
        user: Name,
        /// The privilege that the user asks for.
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
    const NAME: &'static str = "return";
    const HANDLES: &'static [&'static str] = &["license.return", "license.deletion"];
    const SETTINGS: Groups = groups::TERMS;

    type Input = Input;
    type Rows = Tables;

    fn read(&self, keyring: &Keyring, request: Request) -> Result<Input, Refusal> {
        match request {
            Request::LicenseReturn(body) => Ok(Input::Return {
                license: Box::new(Presented::read(&body.license_token, keyring)?),
                user: body.user,
                privilege: body.privilege,
                deleted: body.deleted,
            }),
            Request::LicenseDeletion(body) => Ok(Input::Deletion { license_return: body.license_return }),
            other => Err(not_handled(Self::NAME, &other)),
        }
    }

    fn subject(&self, input: &Input) -> Option<Uuid> {
        match input {
            Input::Return { license, .. } => Some(license.unverified().certificate),
            Input::Deletion { .. } => None,
        }
    }

    async fn load<S: Source>(&self, source: &S, inputs: &[&Input]) -> Result<Tables, StoreError> {
        let mut tables = Tables::default();
        let (mut wanted, mut users, mut licenses, mut returns) =
            (locks::Wanted::default(), BTreeSet::new(), Vec::new(), Vec::new());
        for input in inputs {
            match input {
                Input::Return { license, user, .. } => {
                    wanted.certificates.insert(license.unverified().certificate);
                    users.extend(points::accounts(user));
                    users.extend(points::accounts(&license.unverified().sub));
                    licenses.push(license.unverified_id());
                }
                Input::Deletion { license_return } => returns.push(*license_return),
            }
        }
        // No locks are needed here, because the references of a return never change.
        let ids = keys(returns.iter().copied());
        let columns = [license_return::Column::Id];
        let opened = source.select::<license_return::Entity>(&columns, ids.clone(), Lock::None).await?;
        for row in &opened {
            wanted.certificates.insert(row.certificate);
            users.extend(points::accounts(&row.user));
            licenses.push(row.license);
        }
        // Returns of a certificate and of its upgrades lock the first certificate, so they see what
        // the others have brought.
        let origins = load::origins(source, &wanted.certificates, &mut tables).await?;
        wanted.certificates.extend(&origins);
        locks::certificates(source, &wanted, &mut tables).await?;
        locks::records(source, &mut tables).await?;
        let sharing = load::refunded(source, origins, Lock::ForUpdate, &mut tables).await?;
        locks::accounts(source, &users, &mut tables).await?;
        load::licenses(source, &licenses, &mut tables).await?;
        tables.returns.cover(&columns, &ids);
        select_into(source, &mut tables.collections, &[collection::Column::Id], ids.clone(), Lock::None).await?;
        load::privileges(source, ids, &mut tables).await?;
        load::worth(source, sharing, &mut tables).await?;
        load::terms(source, &mut tables).await?;
        Ok(tables)
    }

    fn decide(&self, context: &Context<'_>, tables: &mut Tables, input: &Input) -> Result<Decision, RuleError> {
        match input {
            Input::Return { license, user, privilege, deleted } => {
                rules::give_back(context, tables, license, user, *privilege, *deleted)
            }
            Input::Deletion { license_return } => rules::deletion(context, tables, *license_return),
        }
    }
}
