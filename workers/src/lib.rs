//! Licet's domain: one module for each worker.
//!
//! A worker's module says what it takes, what it guarantees and which rows it reads; its `rules` are
//! pure functions from rows and a request to rows and a reply; its tests are tables of outcomes. What
//! several workers share is in [`domain`]. [`registry`] lists all workers.
//!
//! Architecture invariant: a `rules.rs` has no async code, no query, no clock and no randomness. No
//! worker module imports another worker's module.

pub mod domain;
pub mod registry;

pub mod catalog;
pub mod license;
pub mod purchase;
pub mod query;
pub mod reception;
pub mod reissue;
pub mod returns;
pub mod settlement;
pub mod sweep;

#[cfg(any(test, feature = "fixture"))]
pub mod fixture;

pub use licet_common::program::worker_main;
