//! Licet's domain: one module for each worker.
//!
//! The module of a worker documents its input, its guarantees and the rows that it reads. Its
//! `rules` are pure functions from rows and a request to rows and a reply. Its tests are tables of
//! outcomes. [`domain`] contains the code that several workers share. [`registry`] lists all
//! workers.
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
