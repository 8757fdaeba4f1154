//! Licet's engine: everything that workers need and that is independent of the domain.
//!
//! The layers are: [`address`], [`signing`], [`clock`], [`config`] → [`rows`], [`fingerprint`],
//! [`decision`], [`transport`], [`store`] → [`signing_keys`], [`runtime`] → [`program`]. Each layer
//! imports only the layers before it. A client uses only [`signing`] and [`transport`], without the
//! feature `database`.
//!
//! Architecture invariant: this crate names no table, message or worker of the domain. The engine's
//! own tables are the journal, its mentions and the signing keys. Its own message is the refusal.

pub mod address;
pub mod clock;
pub mod config;
pub mod signing;
pub mod telemetry;
pub mod transport;

#[cfg(feature = "simulation")]
pub mod fault_injection;
#[cfg(not(feature = "simulation"))]
mod fault_injection;

#[cfg(feature = "database")]
pub mod decision;
#[cfg(feature = "database")]
pub mod fingerprint;
#[cfg(all(feature = "database", feature = "fixture"))]
pub mod fixture;
#[cfg(feature = "database")]
pub mod program;
#[cfg(feature = "database")]
pub mod rows;
#[cfg(feature = "database")]
pub mod runtime;
#[cfg(feature = "database")]
pub mod signing_keys;
#[cfg(feature = "database")]
pub mod store;
