//! Where work that computes is done: decoding, rules, signatures.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::batch::panic_text;

/// Work of at most this weight is done where it is: in about a millisecond. Another thread would take about
/// as long to wake.
const HERE_MAX: usize = 16;
/// A body of so many bytes weighs as much as a message does by itself: it may hold many items to be signed.
const UNIT_BYTES: usize = 256;

/// What reading or deciding a message with such a body weighs.
pub(super) fn weight(body: &[u8]) -> usize {
    1 + body.len() / UNIT_BYTES
}

/// Why work has no result.
pub(super) enum Broken {
    /// It panicked, with this text.
    Panicked(String),
    /// The program is ending, and there are no threads any more.
    Ending,
}

/// Does work, here if it is light, else off the async threads.
///
/// # Errors
/// It panicked, or the program is ending.
pub(super) async fn computed<T: Send + 'static>(
    weight: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Broken> {
    if weight <= HERE_MAX {
        return catch_unwind(AssertUnwindSafe(work)).map_err(|panic| Broken::Panicked(panic_text(&*panic).to_owned()));
    }
    tokio::task::spawn_blocking(work).await.map_err(|error| match error.try_into_panic() {
        Ok(panic) => Broken::Panicked(panic_text(&*panic).to_owned()),
        Err(_) => Broken::Ending,
    })
}
