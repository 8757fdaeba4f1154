//! The clock, through which programs read the current time and sleep. Rules do neither: the runtime
//! passes them the time.

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

/// The source of the time.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The operating system's clock.
    System,
    /// The operating system's clock, moved ahead by a number of milliseconds. Used by
    /// demonstrations.
    Ahead(Arc<AtomicI64>),
    /// A value that a test advances.
    #[cfg(feature = "simulation")]
    Manual(Arc<AtomicI64>),
    /// A value that a simulation advances. The fault injector decides when sleeping tasks wake.
    #[cfg(feature = "simulation")]
    Simulated(Arc<AtomicI64>, Arc<dyn FaultInjector>),
}

impl Clock {
    /// The operating system's clock, which can be moved ahead.
    pub fn ahead() -> Self {
        Self::Ahead(Arc::default())
    }

    /// A clock that stays at `start` until it is advanced.
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

    /// Whether the clock follows the operating system's clock, so that a difference from another
    /// machine's clock is an error.
    #[cfg(feature = "database")]
    pub(crate) fn is_real(&self) -> bool {
        matches!(self, Self::System | Self::Ahead(_))
    }

    /// Advances the clock. The operating system's own clock is never changed.
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

    /// Sleeps for `time`.
    pub async fn sleep(&self, time: Duration) {
        match self {
            #[cfg(feature = "simulation")]
            Self::Simulated(_, injector) => drop(injector.outcome(Step::Sleep(time)).await),
            _ => tokio::time::sleep(time).await,
        }
    }

    /// The same clock for a worker in a simulation. `injector` decides when the worker wakes.
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
