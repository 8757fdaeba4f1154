//! What a test run measured, kept for `docs/RELIABILITY.md`: one JSON file for each suite.

use std::{fs, io, path::PathBuf, time::Duration};

use licet_workers::simulation::Tally;
use serde_json::{Value, json};

/// Where figures are kept: `LICET_TEST_FIGURES`, or else `target/figures`.
pub fn folder() -> PathBuf {
    let default = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/figures");
    std::env::var_os("LICET_TEST_FIGURES").map_or_else(default, PathBuf::from)
}

/// Keeps the figures of a suite under its name, instead of those of the run before.
///
/// # Errors
/// The file cannot be written.
pub fn record(suite: &str, figures: &Value) -> io::Result<()> {
    fs::create_dir_all(folder())?;
    // Renamed into place, so that a reader never sees half of it.
    let (whole, part) = (folder().join(format!("{suite}.json")), folder().join(format!("{suite}.json.part")));
    fs::write(&part, format!("{figures:#}\n"))?;
    fs::rename(part, whole)
}

/// What simulated runs came to; `seed` is their first.
pub fn of_simulation(tally: &Tally, seed: u64, took: Duration) -> Value {
    let Tally { runs, steps, messages, resent, decided, compared, audits, faults } = tally;
    json!({
        "seed": seed,
        "seeds": runs,
        "seconds": took.as_secs(),
        "steps": steps,
        "messages": messages,
        "resent": resent,
        "decided": decided,
        "compared": compared,
        "audits": audits,
        "faults": faults,
    })
}
