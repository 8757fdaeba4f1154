//! What must hold of every byte string that comes from outside, one function for each reader.
//!
//! In: any bytes. Promised by each function: it returns, and panics only where a property is broken.
//! The properties: no reader panics; what is accepted has one meaning, which survives being written
//! and read again; a token is accepted in exactly the bytes in which it was signed.
//!
//! The fuzz targets in `fuzz/` call these functions with what libFuzzer thinks up; `it/bad_input.rs`
//! calls the same ones with the corpus in `fuzz/corpus/` and with random bytes, on stable Rust.

mod bodies;
mod files;
mod tokens;

pub use tokens::{genuine, keyring};

/// A property to be held against any bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, which is its corpus folder's and its fuzz target's.
    pub name: &'static str,
    /// Panics if the property is broken.
    pub holds: fn(&[u8]),
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "request", holds: bodies::request },
    Target { name: "output", holds: bodies::output },
    Target { name: "content_type", holds: bodies::content_type },
    Target { name: "journal", holds: bodies::journal },
    Target { name: "token", holds: tokens::token },
    Target { name: "token_change", holds: tokens::token_change },
    Target { name: "token_claims", holds: tokens::token_claims },
    Target { name: "jwks", holds: files::jwks },
    Target { name: "keys", holds: files::keys },
    Target { name: "config", holds: files::config },
    Target { name: "terminal", holds: files::terminal },
];

/// Holds the property of this name against `bytes`.
///
/// # Panics
/// The property is broken, or there is none of this name.
pub fn hold(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.unwrap_or_else(|| panic!("there is no target {name:?}")).holds)(bytes);
}
