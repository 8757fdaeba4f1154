//! Where work that computes is done: decoding, rules, signatures.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::batch::panic_text;

/// So few messages are read or decided where they are: in less than a millisecond. Another thread would take
/// about as long to wake.
const HERE_MAX: usize = 8;

/// Why work has no result.
pub(super) enum Broken {
    /// It panicked, with this text.
    Panicked(String),
    /// The program is ending, and there are no threads any more.
    Ending,
}

/// Does what these messages need, here if they are few, else off the async threads.
///
/// # Errors
/// It panicked, or the program is ending.
pub(super) async fn computed<T: Send + 'static>(
    messages: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Broken> {
    if messages <= HERE_MAX {
        return catch_unwind(AssertUnwindSafe(work)).map_err(|panic| Broken::Panicked(panic_text(&*panic).to_owned()));
    }
    tokio::task::spawn_blocking(work).await.map_err(|error| match error.try_into_panic() {
        Ok(panic) => Broken::Panicked(panic_text(&*panic).to_owned()),
        Err(_) => Broken::Ending,
    })
}
