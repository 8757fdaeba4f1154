//! What a test run measured, kept for `docs/RELIABILITY.md`: one JSON file for each suite.

use std::{fs, io, path::PathBuf};

/// Where figures are kept: `LICET_TEST_FIGURES`, or else `target/figures`.
pub fn folder() -> PathBuf {
    let default = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/figures");
    std::env::var_os("LICET_TEST_FIGURES").map_or_else(default, PathBuf::from)
}

/// Keeps the figures of a suite under its name, instead of those of the run before.
///
/// # Errors
/// The file cannot be written.
pub fn record(suite: &str, figures: &serde_json::Value) -> io::Result<()> {
    fs::create_dir_all(folder())?;
    // Renamed into place, so that a reader never sees half of it.
    let (whole, part) = (folder().join(format!("{suite}.json")), folder().join(format!("{suite}.json.part")));
    fs::write(&part, format!("{figures:#}\n"))?;
    fs::rename(part, whole)
}
