//! Records the figures of a test run for `docs/reliability.md`, in one JSON file for each suite.

use std::{fs, io, path::PathBuf, time::Duration};

use licet_model::simulation::Metrics;
use serde_json::{Value, json};

/// The folder for recorded figures: `LICET_TEST_FIGURES`, or `target/figures`.
pub fn folder() -> PathBuf {
    let default = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/figures");
    std::env::var_os("LICET_TEST_FIGURES").map_or_else(default, PathBuf::from)
}

/// Records the figures of a suite. They replace those of its previous run.
///
/// # Errors
/// The file cannot be written.
pub fn record(suite: &str, figures: &Value) -> io::Result<()> {
    fs::create_dir_all(folder())?;
    // The file is written in full before it is renamed, so that a reader never sees a partial file.
    let (complete, partial) = (folder().join(format!("{suite}.json")), folder().join(format!("{suite}.json.part")));
    fs::write(&partial, format!("{figures:#}\n"))?;
    fs::rename(partial, complete)
}

/// The figures of simulated runs. `seed` is the first seed. `duration` is the total time of all
/// runs.
pub fn of_simulation(metrics: &Metrics, seed: u64, duration: Duration) -> Value {
    let Metrics { runs, steps, messages, resent, decided, compared, audits, faults } = metrics;
    json!({
        "seed": seed,
        "seeds": runs,
        "seconds": duration.as_secs(),
        "steps": steps,
        "messages": messages,
        "resent": resent,
        "decided": decided,
        "compared": compared,
        "audits": audits,
        "faults": faults,
    })
}
