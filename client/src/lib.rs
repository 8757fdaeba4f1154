//! The library for upstream systems and terminals.
//!
//! - [`Client`] publishes requests with confirms and waits for their replies.
//! - [`Events`] receives the events that Licet publishes.
//! - [`verify`] verifies tokens offline with published keys.
//! - [`terminal`] stores certificates, licenses and content on a user's device.
//! - [`provide`] is a payment provider for trials.
//!
//! A request that is repeated with the same message_id is processed only once. Licet answers the
//! repetition with the stored reply.

mod ask;
mod events;
mod provider;
pub mod terminal;
mod verify;

pub use ask::{Client, ClientError, Patience};
pub use events::Events;
pub use provider::{Charges, provide};
pub use verify::{Verified, verify};

pub use licet_common::{
    signing::{CertificateClaims, ContainerClaims, Jwks, Keyring, LicenseClaims},
    transport::{Lost, Transport, TransportError},
};
pub use licet_schema as schema;
