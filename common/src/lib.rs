//! Licet's machine: what every worker needs and none is named in.
//!
//! Floors, each importing only downward: [`signing`], [`gate`], [`clock`], [`config`], [`decision`] →
//! [`store`], [`transport`] → [`runtime`]. A client links [`signing`] and [`transport`] alone
//! (no feature `database`).
//!
//! Architecture invariant: nothing here knows a particular worker, or what a message means.

pub mod clock;
pub mod config;
pub mod gate;
pub mod signing;
pub mod telemetry;
pub mod transport;

#[cfg(feature = "database")]
pub mod decision;
#[cfg(feature = "database")]
pub mod runtime;
#[cfg(feature = "database")]
pub mod store;
