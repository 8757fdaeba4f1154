//! Logs: to standard error, one line for each change of state and none for each message.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging under `filter` (the syntax of tracing's `EnvFilter`, such as `info`).
///
/// # Errors
/// The filter cannot be read. The text says which part.
pub fn start(filter: &str) -> Result<(), String> {
    // lapin warns of every returned reply, with its body; the runtime counts them instead.
    let quiet = format!("{filter},lapin=off,sqlx=error,sea_orm_migration=warn");
    let filter = EnvFilter::try_new(quiet).map_err(|error| format!("LICET_LOG is not a log filter: {error}"))?;
    let colours = std::io::stderr().is_terminal();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(colours)
        .finish();
    // A second start in one process (tests) keeps the first.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(())
}
