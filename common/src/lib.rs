//! Licet's engine: everything that a worker needs and that does not depend on what it sells.
//!
//! Layers, each importing only those before it: [`signing`], [`clock`], [`config`] → [`rows`],
//! [`decision`], [`transport`], [`store`] → [`runtime`] → [`program`]. A client links [`signing`] and
//! [`transport`] alone (without the feature `database`).
//!
//! Architecture invariant: nothing here names a table, a message or a worker of the domain. The
//! engine's own tables are the journal and its mentions; its own message is the refusal.

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
#[cfg(all(feature = "database", feature = "fixture"))]
pub mod fixture;
#[cfg(feature = "database")]
pub mod program;
#[cfg(feature = "database")]
pub mod rows;
#[cfg(feature = "database")]
pub mod runtime;
#[cfg(feature = "database")]
pub mod store;
