//! Reads published keys from a JWKS file or from the keys folder.

use std::path::Path;

use licet_client::{Jwks, Keyring};
use licet_common::{program::Failure, signing::folder};

/// Reads the keys from a JWKS file.
pub(crate) fn read(file: &Path) -> Result<Keyring, Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::Usage(format!("{} cannot be read: {error}", file.display())))?;
    let jwks: Jwks = serde_json::from_str(&text)
        .map_err(|error| Failure::Usage(format!("{} is not a JWKS: {error}", file.display())))?;
    Keyring::from_jwks(&jwks).map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))
}

/// Reads the keys from a JWKS file or, if none is given, the public keys of the keys folder.
/// Neither keyring can sign.
pub(crate) fn read_or_load(file: Option<&Path>, folder: &Path) -> Result<Keyring, Failure> {
    match file {
        Some(file) => read(file),
        None => Keyring::from_jwks(&folder::load(folder)?.jwks()).map_err(Failure::Work),
    }
}
