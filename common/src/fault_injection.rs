//! Gates: where a simulation decides what becomes of each step that a worker takes outside itself.
//!
//! The broker in this process ([`crate::transport`]), the database ([`crate::store`]) and the clock
//! ask their gate, if they have one, before each call. In a program they have none, and nothing
//! here runs. A gate may hold the caller as long as it likes: so one worker steps at a time.

use std::{fmt::Debug, time::Duration};

use futures_util::future::BoxFuture;

/// A step that a worker is about to take.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// Connect, to publish.
    Connect,
    /// Connect, to consume this queue.
    Consume(&'a str),
    /// Take what is in this queue, or wait until something is.
    Receive(&'a str),
    /// Publish a message under this routing key and wait for its confirmation.
    Publish(&'a str),
    /// Acknowledge.
    Ack,
    /// Ask whether the database answers.
    Ping,
    /// Begin a transaction.
    Begin,
    /// Execute a statement in it.
    #[cfg(feature = "database")]
    Statement(&'a sea_orm::Statement),
    /// Commit it.
    Commit,
    /// Sleep.
    Sleep(Duration),
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It happens, and the caller is told so.
    Happens,
    /// It does not happen: the service went away before.
    Fails,
    /// It happens, but the service goes away before it says so.
    FailsAfter,
    /// It does not happen: the service says no. A full queue, a statement or a commit that is refused.
    Refused,
    /// It does not happen for somebody else is in the way. Commits only.
    Contended,
    /// It happens, and the service never says so. Publishing only.
    Unanswered,
    /// It does not happen, and the service says nothing. Publishing only.
    Unheard,
    /// It does not happen, and the caller is told that it did: a lie, by which a test sees what
    /// the loop's steps are for. A transaction that is not begun takes effect statement by
    /// statement; a delivery that is pretended needs no acknowledgement.
    Pretended,
    /// This statement happens instead: a lie too.
    Instead(String),
}

/// Who decides.
pub trait Gate: Debug + Send + Sync {
    /// What becomes of this step; the step waits for it.
    fn pass<'a>(&'a self, step: Step<'a>) -> BoxFuture<'a, Verdict>;
}
