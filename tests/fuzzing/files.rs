//! Input files: public keys, key folders, the configuration, and the records of a terminal. A
//! mistake in a file is reported as an error and never causes a panic.

use std::{fs, path::Path, sync::LazyLock};

use licet_client::terminal::{Certificate, License, Return};
use licet_common::{
    config::Settings,
    signing::{Jwks, Keyring, folder},
};
use serde::{Serialize, de::DeserializeOwned};

/// A key set that is read and published again contains the same keys.
pub(super) fn jwks(bytes: &[u8]) {
    let Ok(jwks) = serde_json::from_slice::<Jwks>(bytes) else { return };
    let Ok(keyring) = Keyring::from_jwks(&jwks) else { return };
    assert!(keyring.signing_kid().is_none(), "a published key set must not sign");
    let published = keyring.jwks();
    let again = Keyring::from_jwks(&published).expect("a key set that Licet published can be read");
    assert_eq!(again.jwks(), published);
}

/// A key folder with this content is refused, or it signs with the key that it names. The input is
/// the content of the file `signing`, a line feed, and a private key.
pub(super) fn keys(bytes: &[u8]) {
    static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a temporary folder"));
    let (name, pem) = bytes.split_at(bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len()));
    let write = |file: &str, bytes: &[u8]| fs::write(FOLDER.path().join(file), bytes).expect("a temporary file");
    write("signing", name);
    write("any.pem", pem.get(1..).unwrap_or_default());
    if let Ok(keyring) = folder::load(FOLDER.path()) {
        let named = std::str::from_utf8(name).map(str::trim).ok();
        assert_eq!(keyring.signing_kid(), named, "the signing key is not the one that the folder names");
    }
}

/// A configuration is refused with an error text, or all of its limits are within their bounds.
pub(super) fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let settings = Settings::from_toml(text, Path::new("licet.toml"));
    match settings.and_then(|settings| settings.resolve(Path::new("/nonexistent"))) {
        Ok(config) => {
            let limits = config.limits;
            assert!((1..=1024).contains(&limits.batch_max));
            assert!((1..=64 << 20).contains(&limits.batch_max_bytes));
            assert!((1..=600_000).contains(&limits.reply_timeout_ms));
            assert!((1..=86_400).contains(&limits.sweep_interval_s));
            assert!(limits.shutdown_timeout_s <= 86_400);
            assert!((1..=128).contains(&config.terms.issuer.chars().count()));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A record of a terminal is refused, or is unchanged after it is written and read again.
pub(super) fn terminal(bytes: &[u8]) {
    fn record<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
        let Ok(record) = serde_json::from_slice::<T>(bytes) else { return };
        // A time outside the years 0 to 9999 cannot be read, so every record that was read can be
        // written.
        let json = serde_json::to_value(&record).expect("a record that was read can be written");
        let again: T = serde_json::from_value(json.clone()).expect("a record that Licet wrote can be read");
        assert_eq!(serde_json::to_value(&again).expect("JSON"), json);
    }
    record::<Certificate>(bytes);
    record::<License>(bytes);
    record::<Return>(bytes);
}
