//! Tokens: what is signed, how it is verified, and whose keys are trusted.
//!
//! In: claims made of checked vocabulary. Out: compact JWS (RFC 7515) with `alg: EdDSA` that any
//! stock JOSE library verifies offline against the exported JWKS.
//!
//! Two doors, and no way around them: only a [`Draft`] can be signed, and making one checks its
//! content; only [`Presented::verify`] hands out a presented token's claims.
//!
//! Architecture invariant: no randomness (Ed25519 is deterministic: the same draft always gives
//! the same bytes) but for new keys, and no I/O but for the keys folder ([`folder`]).

pub mod folder;
mod keyring;
mod token;

pub use keyring::{Jwk, Jwks, Keyring};
pub use token::{
    CertificateClaims, Claims, ContainerClaims, Draft, DraftError, LicenseClaims, Presented, Signed, TokenError, digest,
};
