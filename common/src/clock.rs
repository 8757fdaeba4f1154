//! The one place that asks what time it is, and that lets it pass. Rules never do: time is passed in.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use licet_schema::Timestamp;

use crate::gate::{Gate, Step};

/// Where `now` comes from.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The operating system.
    System,
    /// A value that a test moves.
    Manual(Arc<AtomicI64>),
    /// The operating system's, ahead by as many milliseconds as a demonstration has moved it.
    Ahead(Arc<AtomicI64>),
    /// A value that a simulation moves, whose gate says when whoever sleeps wakes.
    Simulated(Arc<AtomicI64>, Arc<dyn Gate>),
}

impl Clock {
    /// A clock that stands at `start` until it is moved.
    pub fn manual(start: Timestamp) -> Self {
        Self::Manual(Arc::new(AtomicI64::new(start.as_millis())))
    }

    /// The time, in whole milliseconds.
    pub fn now(&self) -> Timestamp {
        let millis = match self {
            Self::System => system_ms(),
            Self::Manual(millis) | Self::Simulated(millis, _) => millis.load(Ordering::SeqCst),
            Self::Ahead(by_ms) => system_ms().saturating_add(by_ms.load(Ordering::SeqCst)),
        };
        Timestamp::from_millis(millis)
    }

    /// The operating system's clock, which can be moved ahead.
    pub fn ahead() -> Self {
        Self::Ahead(Arc::default())
    }

    /// Moves a clock forward; the system's own cannot be moved.
    pub fn advance_ms(&self, by_ms: i64) {
        match self {
            Self::System => {}
            Self::Manual(millis) | Self::Ahead(millis) | Self::Simulated(millis, _) => {
                millis.fetch_add(by_ms, Ordering::SeqCst);
            }
        }
    }

    /// Lets time pass.
    pub async fn sleep(&self, time: Duration) {
        match self {
            Self::System | Self::Manual(_) | Self::Ahead(_) => tokio::time::sleep(time).await,
            Self::Simulated(_, gate) => drop(gate.pass(Step::Sleep(time)).await),
        }
    }

    /// The same time for a worker of a simulation, whose sleeping its own gate decides.
    #[must_use]
    pub fn gated(&self, gate: Arc<dyn Gate>) -> Self {
        match self {
            Self::Manual(millis) | Self::Simulated(millis, _) => Self::Simulated(millis.clone(), gate),
            Self::System | Self::Ahead(_) => self.clone(),
        }
    }
}

fn system_ms() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}
