//! Reads the rows that reports of payouts need.

use licet_common::store::{Lock, Source, StoreError, keys, load as select_into};
use licet_schema::entity::{license_return, payout};
use sea_orm::Value;
use uuid::Uuid;

use super::{Input, PayoutReport};
use crate::domain::{Tables, load};

/// The reports of payouts in a batch.
fn reports<'a>(inputs: &[&'a Input]) -> Vec<&'a PayoutReport> {
    let report = |input: &&'a Input| match *input {
        Input::Payout(report) => Some(report),
        Input::Completion(..)
        | Input::Failure(..)
        | Input::Reversal(..)
        | Input::Reinstatement(..)
        | Input::Assignment(..) => None,
    };
    inputs.iter().filter_map(report).collect()
}

/// The certificates of the returns that the reports name. The caller locks them, so that only one
/// transaction at a time changes the payouts of a return. No locks are needed here, because the
/// certificate of a return never changes.
pub(super) async fn certificates<S: Source>(source: &S, inputs: &[&Input]) -> Result<Vec<Uuid>, StoreError> {
    let ids = keys(reports(inputs).iter().map(|report| report.license_return()));
    let returns = source.select::<license_return::Entity>(&[license_return::Column::Id], ids, Lock::None).await?;
    Ok(returns.iter().map(|row| row.certificate).collect())
}

/// Reads the returns that the reports name, their privileges and their payouts, and the payouts
/// with the reported ids. The certificates of the returns must be locked. If two transactions
/// report one payout for different returns, the later one violates the key and is retried.
pub(super) async fn rows<S: Source>(source: &S, inputs: &[&Input], tables: &mut Tables) -> Result<(), StoreError> {
    let reports = reports(inputs);
    if reports.is_empty() {
        return Ok(());
    }
    let ids = || keys(reports.iter().map(|report| report.license_return()));
    select_into(source, &mut tables.returns, &[license_return::Column::Id], ids(), Lock::None).await?;
    load::privileges(source, ids(), tables).await?;
    select_into(source, &mut tables.payouts, &[payout::Column::LicenseReturn], ids(), Lock::None).await?;
    let reported: Vec<Vec<Value>> = reports
        .iter()
        .map(|report| report.key())
        .map(|(provider, payout)| vec![provider.into(), payout.into()])
        .collect();
    let columns = [payout::Column::Provider, payout::Column::Payout];
    select_into(source, &mut tables.payouts, &columns, reported, Lock::None).await
}
