//! Fault injection: a simulation decides the outcome of each step that a worker takes outside its
//! own memory.
//!
//! The in-process broker, the store and the clock query their `Faults` before each step. Without
//! the feature `simulation`, `Faults` is empty and every step proceeds, so release binaries contain
//! no injector. An injector may delay its outcome, which lets a simulation run one step of one
//! worker at a time.

#![cfg_attr(
    not(feature = "simulation"),
    allow(unreachable_pub, reason = "the module is public only with the feature `simulation`")
)]

use std::time::Duration;
#[cfg(feature = "simulation")]
use std::{fmt::Debug, sync::Arc};

#[cfg(feature = "simulation")]
use futures_util::future::BoxFuture;

/// The step that a worker takes next.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "simulation"), allow(dead_code, reason = "only an injector reads a step"))]
pub enum Step<'a> {
    /// Connect for publishing.
    Connect,
    /// Connect to consume this queue.
    Consume(&'a str),
    /// Receive messages from this queue, or wait until there are some.
    Receive(&'a str),
    /// Publish a message with this routing key and wait for its confirmation.
    Publish(&'a str),
    /// Acknowledge deliveries.
    Ack,
    /// Check that the database responds.
    Ping,
    /// Begin a transaction.
    Begin,
    /// Execute a statement in a transaction.
    #[cfg(feature = "database")]
    Statement(&'a sea_orm::Statement),
    /// Commit a transaction.
    Commit,
    /// Sleep for this time.
    Sleep(Duration),
}

/// The outcome of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "simulation"), allow(dead_code, reason = "without an injector every step proceeds"))]
pub enum Outcome {
    /// The step takes effect and succeeds.
    Proceed,
    /// The step has no effect, because the connection is lost before it.
    Fail,
    /// The step takes effect, but the connection is lost before the response.
    FailAfterEffect,
    /// The step has no effect, because the service refuses it (a full queue, a rejected statement
    /// or commit).
    Refuse,
    /// The step has no effect because of a conflict with another transaction. Used only for
    /// commits.
    Contend,
    /// The step takes effect, and there is no response. Used only for publishing.
    NoAnswer,
    /// The step has no effect, and there is no response. Used only for publishing.
    NoEffectNoAnswer,
    /// The step has no effect but reports success. A mutant uses this to skip a step of the loop.
    /// If the step begins a transaction, each statement then takes effect on its own. If the step
    /// receives deliveries, they count as acknowledged.
    Pretend,
    /// This statement is executed instead. Used only for mutants.
    Replace(String),
}

/// Decides the outcome of steps.
#[cfg(feature = "simulation")]
pub trait FaultInjector: Debug + Send + Sync {
    /// Decides the outcome of a step. The step waits for the decision.
    fn outcome<'a>(&'a self, step: Step<'a>) -> BoxFuture<'a, Outcome>;
}

/// The fault injector of one worker's resources, if there is one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults(#[cfg(feature = "simulation")] Option<Arc<dyn FaultInjector>>);

impl Faults {
    /// Faults whose outcomes `injector` decides.
    #[cfg(feature = "simulation")]
    pub(crate) fn of(injector: Arc<dyn FaultInjector>) -> Self {
        Self(Some(injector))
    }

    /// Decides the outcome of a step.
    #[cfg_attr(not(feature = "simulation"), allow(clippy::unused_async, reason = "only an injector waits"))]
    pub(crate) async fn outcome(&self, _step: Step<'_>) -> Outcome {
        #[cfg(feature = "simulation")]
        if let Some(injector) = &self.0 {
            return injector.outcome(_step).await;
        }
        Outcome::Proceed
    }
}
