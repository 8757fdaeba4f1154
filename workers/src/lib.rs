//! Licet's rules: one module for each worker.
//!
//! A worker's module is its story (what comes in, what is promised, which rows it reads); its
//! `rules` are pure functions from rows and a request to rows and an answer; its tests are tables
//! of verdicts. [`registry`] names them all, [`program`] starts them.
//!
//! Architecture invariant: `rules.rs` sees no async, no query, no clock, no randomness.

pub mod audit;
pub mod dead;
pub mod program;
pub mod registry;
pub mod story;

pub mod catalog;
pub mod license;
pub mod purchase;
pub mod query;
pub mod reception;
pub mod reissue;
pub mod returns;
pub mod settlement;
pub mod sweep;

mod effects;
mod held;
mod load;
mod points;
mod presented;
mod values;

#[cfg(any(test, feature = "simulation"))]
#[cfg_attr(not(test), allow(dead_code, reason = "random histories use all of it"))]
mod histories;
#[cfg(any(test, feature = "simulation"))]
#[cfg_attr(not(test), allow(dead_code, reason = "the rules' own tests use all of it"))]
mod testing;

#[cfg(feature = "simulation")]
pub use histories::simulation;
