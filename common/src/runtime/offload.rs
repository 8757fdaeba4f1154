//! Chooses the thread for CPU-bound work: decoding, rules and signatures.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Work of at most this weight runs on the calling thread. It takes about a millisecond, which is
/// as long as it takes to wake another thread.
const INLINE_WEIGHT_MAX: usize = 16;
/// Each time a body grows by this number of bytes, its weight increases by one, because the body
/// may contain many items to sign.
const WEIGHT_UNIT_BYTES: usize = 256;

/// The weight of reading or deciding a message with this body.
pub(super) fn weight(body: &[u8]) -> usize {
    1 + body.len() / WEIGHT_UNIT_BYTES
}

/// The reason work has no result.
#[derive(Debug)]
pub(super) enum OffloadError {
    /// The work panicked with this message.
    Panicked(String),
    /// The program is stopping, and its threads have ended.
    Stopping,
}

/// Runs work on the calling thread if its weight is small, and on a blocking thread otherwise.
///
/// # Errors
/// The work panicked, or the program is stopping.
pub(super) async fn offload<T: Send + 'static>(
    weight: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, OffloadError> {
    if weight <= INLINE_WEIGHT_MAX {
        return catch_unwind(AssertUnwindSafe(work))
            .map_err(|panic| OffloadError::Panicked(panic_text(&*panic).to_owned()));
    }
    tokio::task::spawn_blocking(work).await.map_err(|error| match error.try_into_panic() {
        Ok(panic) => OffloadError::Panicked(panic_text(&*panic).to_owned()),
        Err(_) => OffloadError::Stopping,
    })
}

/// The message of a panic.
pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn after_shutdown<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, OffloadError> {
        let runtime = tokio::runtime::Runtime::new().expect("threads");
        let handle = runtime.handle().clone();
        runtime.shutdown_background();
        let _entered = handle.enter();
        offload(INLINE_WEIGHT_MAX + 1, work).now_or_never().expect("it is refused at once")
    }

    #[test]
    fn a_stopping_program_is_reported_as_that_and_not_as_an_outage() {
        assert!(matches!(after_shutdown(|| 7), Err(OffloadError::Stopping)));
    }

    #[tokio::test]
    async fn a_panic_is_reported_with_its_message_on_both_threads() {
        for weight in [1, INLINE_WEIGHT_MAX + 1] {
            let outcome = offload(weight, || -> u8 { panic!("seven") }).await;
            assert!(matches!(&outcome, Err(OffloadError::Panicked(text)) if text == "seven"), "{outcome:?}");
            assert!(matches!(offload(weight, || 7).await, Ok(7)));
        }
    }
}
