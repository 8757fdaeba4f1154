//! Signed tokens: signing, verification and the trusted keys.
//!
//! Inputs: claims that consist of checked values. Outputs: compact JWS (RFC 7515) with
//! `alg: EdDSA`, which any JOSE library can verify offline against the exported JWKS.
//!
//! Guarantees: only a [`Draft`] can be signed, and creating one checks its claims. Only
//! [`Presented::verify`] returns the verified claims of a received token. Signing is deterministic:
//! the same draft and key give the same bytes.
//!
//! Deliberately absent: randomness, except for new keys, and I/O, except for the keys folder
//! ([`folder`]).

pub mod folder;
mod keyring;
mod token;

pub use keyring::{Jwk, Jwks, Keyring};
pub use licet_schema::token::{CertificateClaims, Claims, ContainerClaims, LicenseClaims};
pub use token::{Draft, DraftError, Presented, Signed, TokenError, digest};
