//! Properties that must hold for every external input, with one function for each reader.
//!
//! Each function accepts any bytes, and panics only if its property is violated. The properties
//! are:
//!
//! - no reader panics;
//! - an accepted input has one meaning, which stays the same when it is written and read again;
//! - a token is accepted only if its bytes are exactly those that were signed.
//!
//! The fuzz targets in `fuzz/` call these functions with inputs from libFuzzer. `it/bad_input.rs`
//! calls them on stable Rust with the corpus in `fuzz/corpus/` and with random changes to it.

mod bodies;
mod files;
mod tokens;

pub use tokens::{genuine_tokens, keyring};

/// A property of a reader.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The name of the property, of its corpus folder and of its fuzz target.
    pub name: &'static str,
    /// Panics if the property does not hold for this input.
    pub check: fn(&[u8]),
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "request", check: bodies::request },
    Target { name: "output", check: bodies::output },
    Target { name: "content_type", check: bodies::content_type },
    Target { name: "journal", check: bodies::journal },
    Target { name: "token", check: tokens::token },
    Target { name: "token_change", check: tokens::token_change },
    Target { name: "token_claims", check: tokens::token_claims },
    Target { name: "jwks", check: files::jwks },
    Target { name: "keys", check: files::keys },
    Target { name: "config", check: files::config },
    Target { name: "terminal", check: files::terminal },
];

/// Checks the property with this name for `input`.
///
/// # Panics
/// The property does not hold, or no target has this name.
pub fn check(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.unwrap_or_else(|| panic!("no target has the name {name:?}")).check)(input);
}
