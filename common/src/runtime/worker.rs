//! The definition of a worker, and the form in which the loop runs it.

use std::{any::Any, future::Future};

use futures_util::future::BoxFuture;
use licet_schema::{Refusal, Request};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Resources;
use crate::{
    config::{Groups, Terms},
    decision::{Context, Decision, RuleError},
    fingerprint::Changes,
    rows::RowSet,
    signing::Keyring,
    store::{Source, StoreError, Transaction, Writes},
};

/// A worker: the messages that it handles, the rows that it needs for them, and the rules that
/// decide them.
pub trait Worker: Send + Sync + 'static {
    /// The worker's name. Its queue is `licet.<name>`.
    const NAME: &'static str;

    /// The message types that are routed to the worker.
    const HANDLES: &'static [&'static str];

    /// Whether the worker changes anything. A worker that only reads writes no journal rows, takes
    /// no locks, and decides a repeated message again.
    const CHANGES: bool = true;

    /// Whether the worker pauses after each batch for as long as the batch took. This is for
    /// background work, which must leave the processor and the disk to requests whose senders are
    /// waiting.
    const PAUSES: bool = false;

    /// Whether the worker ends objects whose deadline has passed. It decides nothing while its
    /// clock differs from the clock of the database by more than 60 s.
    const ENDS_BY_CLOCK: bool = false;

    /// The maximum number of messages in one transaction. `None` means the configured number.
    const BATCH_MAX: Option<u16> = None;

    /// The groups of settings that the worker uses in addition to the groups that every worker
    /// uses.
    const SETTINGS: Groups = 0;

    /// The input of the rules, which is read from a request.
    type Input: Send + Sync + 'static;

    /// The tables that the worker reads and writes.
    type Rows: RowSet;

    /// Applies the operator's terms to the worker, once before it starts.
    #[must_use]
    fn with_terms(self, _terms: &Terms) -> Self
    where
        Self: Sized,
    {
        self
    }

    /// Reads a request and its tokens. This function is pure. It may run on a blocking thread.
    ///
    /// # Errors
    /// A refusal that does not depend on the database.
    fn read(&self, keyring: &Keyring, request: Request) -> Result<Self::Input, Refusal>;

    /// The subject that an input claims to belong to. A refusal is recorded in the history of this
    /// subject if the sender has proved that the subject is theirs.
    fn subject(&self, _input: &Self::Input) -> Option<Uuid> {
        None
    }

    /// Locks and reads the rows that these inputs need, with one query for each table.
    ///
    /// # Errors
    /// The database returns an error.
    fn load<S: Source>(
        &self,
        source: &S,
        inputs: &[&Self::Input],
    ) -> impl Future<Output = Result<Self::Rows, StoreError>> + Send;

    /// Decides one input, based on rows that include the changes of earlier decisions in the batch.
    /// This function is pure. It makes all checks before the first change, so a refusal leaves the
    /// rows unchanged.
    ///
    /// # Errors
    /// A refusal, which becomes the reply, or a defect of the program.
    fn decide(&self, context: &Context<'_>, rows: &mut Self::Rows, input: &Self::Input) -> Result<Decision, RuleError>;

    /// A task that the program runs in parallel with the loop until `stop` is cancelled, such as a
    /// timer that publishes messages.
    fn run_beside(_resources: &Resources, _stop: &CancellationToken) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// An input of any worker.
pub(super) type AnyInput = Box<dyn Any + Send + Sync>;

/// The rows of any worker.
pub(super) trait AnyRows: Send {
    fn write(&self, writes: &mut Writes);
    fn note_changes(&self, changes: &mut Changes);
    fn as_any(&mut self) -> &mut dyn Any;
}

impl<R: RowSet> AnyRows for R {
    fn write(&self, writes: &mut Writes) {
        self.visit(writes);
    }

    fn note_changes(&self, changes: &mut Changes) {
        self.visit(changes);
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

/// A [`Worker`] as a trait object, so that the loop is compiled only once and not for each worker.
pub(super) trait AnyWorker: Send + Sync {
    fn name(&self) -> &'static str;
    fn changes(&self) -> bool;
    fn pauses(&self) -> bool;
    fn ends_by_clock(&self) -> bool;
    fn batch_max(&self) -> Option<u16>;
    fn read(&self, keyring: &Keyring, request: Request) -> Result<AnyInput, Refusal>;
    fn subject(&self, input: &AnyInput) -> Option<Uuid>;
    fn load<'a>(
        &'a self,
        transaction: &'a Transaction,
        inputs: &'a [&'a AnyInput],
    ) -> BoxFuture<'a, Result<Box<dyn AnyRows>, StoreError>>;
    fn no_rows(&self) -> Box<dyn AnyRows>;
    fn decide(&self, context: &Context<'_>, rows: &mut dyn AnyRows, input: &AnyInput) -> Result<Decision, RuleError>;
}

impl<W: Worker> AnyWorker for W {
    fn name(&self) -> &'static str {
        W::NAME
    }

    fn changes(&self) -> bool {
        W::CHANGES
    }

    fn pauses(&self) -> bool {
        W::PAUSES
    }

    fn ends_by_clock(&self) -> bool {
        W::ENDS_BY_CLOCK
    }

    fn batch_max(&self) -> Option<u16> {
        W::BATCH_MAX
    }

    fn read(&self, keyring: &Keyring, request: Request) -> Result<AnyInput, Refusal> {
        Worker::read(self, keyring, request).map(|input| Box::new(input) as AnyInput)
    }

    fn subject(&self, input: &AnyInput) -> Option<Uuid> {
        Worker::subject(self, own::<W>(input))
    }

    fn load<'a>(
        &'a self,
        transaction: &'a Transaction,
        inputs: &'a [&'a AnyInput],
    ) -> BoxFuture<'a, Result<Box<dyn AnyRows>, StoreError>> {
        Box::pin(async move {
            let inputs: Vec<_> = inputs.iter().map(|input| own::<W>(input)).collect();
            let rows = Worker::load(self, transaction, &inputs).await?;
            Ok(Box::new(rows) as Box<dyn AnyRows>)
        })
    }

    fn no_rows(&self) -> Box<dyn AnyRows> {
        Box::new(W::Rows::default())
    }

    fn decide(&self, context: &Context<'_>, rows: &mut dyn AnyRows, input: &AnyInput) -> Result<Decision, RuleError> {
        let Some(rows) = rows.as_any().downcast_mut::<W::Rows>() else {
            unreachable!("a worker receives the rows that it loaded itself")
        };
        Worker::decide(self, context, rows, own::<W>(input))
    }
}

fn own<W: Worker>(input: &AnyInput) -> &W::Input {
    let Some(input) = (**input).downcast_ref() else {
        unreachable!("a worker receives the inputs that it read itself")
    };
    input
}
