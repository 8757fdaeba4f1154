//! Histories: what happens to the rules in the long run, and in every order.
//!
//! [`play`] plays random histories: purchases, notices, settlements, setbacks, returns, reissues and
//! sweeps by several users and terminals in any order, twice, too late, with the wrong token or the
//! wrong amount, under a clock that jumps. [`orders`] plays every order in which the few messages of
//! one purchase's life can be delivered. Both deliver their messages to a [`world`], which holds
//! each against two judges:
//!
//! - [`model`], which was written from the specification alone and shares no code with the rules,
//!   says beforehand what is answered and told; the answer must be that, field by field;
//! - [`invariants`] must hold of the rows after every message, and no money may be lost.
//!
//! Absent: the journal, the locks and the database, which are the runtime's. A message that comes
//! again under its own id is answered from a journal that the world keeps for the purpose; one that
//! comes again under another id meets the rules again.

mod chance;
mod invariants;
mod model;
#[cfg(test)]
mod orders;
#[cfg(test)]
mod play;
mod player;
mod script;
mod shop;
#[cfg(feature = "simulation")]
pub mod simulation;
mod strangers;
mod world;
