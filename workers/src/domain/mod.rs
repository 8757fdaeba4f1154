//! What several workers share: the tables and their locks, and the rules about them.
//!
//! | module | what is in it |
//! |---|---|
//! | `tables` | the set of tables, and the look-ups that rules make |
//! | `locks` | the order in which every worker locks rows |
//! | `load` | reads that several workers make |
//! | `certificates` | purchases and their certificates: members, deadlines, amounts, endings |
//! | `effects` | what ending certificates and revoking licenses causes |
//! | `points` | the ledger of points |
//! | `refusals` | the texts of refusals that several rules use |
//! | `token_check` | a certificate or container token of a request |
//!
//! No worker module imports another worker's module: what two of them need is here.

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

/// A count that rules computed.
///
/// # Errors
/// The number left the range of a count, which violates `invariant`.
pub(crate) fn count(number: i64, invariant: &'static str, context: &Context<'_>) -> Result<Count, Defect> {
    Count::try_from(number).map_err(|_| Defect::violated(invariant, context.message_id))
}
