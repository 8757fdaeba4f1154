//! Logging to standard error.
//!
//! Logs report changes of state, not messages. The history of a message is in the journal
//! (`licet show`).

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging with `filter`, in the syntax of tracing's `EnvFilter` (for example `info`).
///
/// # Errors
/// The filter is not valid. The text names the setting and the invalid part.
pub fn start(filter: &str) -> Result<(), String> {
    // lapin logs every returned reply with its body. The runtime counts returned replies instead.
    let directives = format!("{filter},lapin=off,sqlx=error");
    let filter = EnvFilter::try_new(directives).map_err(|error| format!("LICET_LOG is not a log filter: {error}"))?;
    // https://no-color.org
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colours = std::io::stderr().is_terminal() && !no_colour;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(colours)
        .finish();
    // A second start in one process (in tests) keeps the first subscriber.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(())
}
