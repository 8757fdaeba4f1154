//! The clock: the one place that reads the time and that waits. Rules do neither; the time is passed to
//! them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use licet_schema::Timestamp;

#[cfg(feature = "simulation")]
use crate::fault_injection::{FaultInjector, Step};

/// Where the time comes from.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The operating system.
    System,
    /// The operating system, ahead by as many milliseconds as a demonstration has moved it.
    Ahead(Arc<AtomicI64>),
    /// A value that a test moves.
    #[cfg(feature = "simulation")]
    Manual(Arc<AtomicI64>),
    /// A value that a simulation moves, whose injector decides when sleepers wake.
    #[cfg(feature = "simulation")]
    Simulated(Arc<AtomicI64>, Arc<dyn FaultInjector>),
}

impl Clock {
    /// The operating system's clock, which can be moved ahead.
    pub fn ahead() -> Self {
        Self::Ahead(Arc::default())
    }

    /// A clock that stays at `start` until it is moved.
    #[cfg(feature = "simulation")]
    pub fn manual(start: Timestamp) -> Self {
        Self::Manual(Arc::new(AtomicI64::new(start.as_millis())))
    }

    /// The time, in whole milliseconds.
    pub fn now(&self) -> Timestamp {
        let millis = match self {
            Self::System => system_ms(),
            Self::Ahead(by_ms) => system_ms().saturating_add(by_ms.load(Ordering::SeqCst)),
            #[cfg(feature = "simulation")]
            Self::Manual(millis) | Self::Simulated(millis, _) => millis.load(Ordering::SeqCst),
        };
        Timestamp::from_millis(millis)
    }

    /// Moves the clock forward. The operating system's own clock cannot be moved.
    pub fn advance_ms(&self, by_ms: i64) {
        match self {
            Self::System => {}
            Self::Ahead(millis) => {
                millis.fetch_add(by_ms, Ordering::SeqCst);
            }
            #[cfg(feature = "simulation")]
            Self::Manual(millis) | Self::Simulated(millis, _) => {
                millis.fetch_add(by_ms, Ordering::SeqCst);
            }
        }
    }

    /// Waits.
    pub async fn sleep(&self, time: Duration) {
        match self {
            #[cfg(feature = "simulation")]
            Self::Simulated(_, injector) => drop(injector.outcome(Step::Sleep(time)).await),
            _ => tokio::time::sleep(time).await,
        }
    }

    /// The same time for a worker of a simulation, whose injector decides when it wakes.
    #[cfg(feature = "simulation")]
    #[must_use]
    pub fn with_faults(&self, injector: Arc<dyn FaultInjector>) -> Self {
        match self {
            Self::Manual(millis) | Self::Simulated(millis, _) => Self::Simulated(millis.clone(), injector),
            Self::System | Self::Ahead(_) => self.clone(),
        }
    }
}

fn system_ms() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}
