//! What an upstream system or a terminal links to: publish with a confirm, await the reply, ask
//! again with the same id, verify tokens offline, keep certificates and licenses ([`terminal`]); and
//! the payment provider for trials.
//!
//! A request that is asked again has the same message_id, so that asking twice never does anything
//! twice: Licet answers the second with the stored answer of the first.

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
