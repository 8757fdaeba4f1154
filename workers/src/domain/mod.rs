//! Code that several workers share: the tables, their locks, and the rules about them.
//!
//! | module | content |
//! |---|---|
//! | `tables` | the set of tables, and the lookups that rules use |
//! | `locks` | the order in which every worker locks rows |
//! | `load` | queries that several workers use |
//! | `certificates` | purchases and their certificates: members, deadlines, amounts, endings |
//! | `effects` | the consequences of ending certificates and revoking licenses |
//! | `points` | the ledger of points |
//! | `refusals` | the refusals that several rules use |
//! | `token_check` | the certificate or container token of a request |
//!
//! No worker module imports the module of another worker. Code that two of them need belongs here.

pub(crate) mod certificates;
pub(crate) mod effects;
pub(crate) mod load;
pub(crate) mod locks;
pub(crate) mod points;
pub(crate) mod refusals;
pub(crate) mod returns;
pub mod tables;
pub mod token_check;

use licet_common::{decision::Context, rows::Defect};
use licet_schema::Count;

pub use tables::Tables;

/// Converts a number that a rule computed to a count.
///
/// # Errors
/// The number is out of range, which violates `invariant`.
pub(crate) fn count(number: i64, invariant: &'static str, context: &Context<'_>) -> Result<Count, Defect> {
    Count::try_from(number).map_err(|_| Defect::violated(invariant, context.message_id))
}
