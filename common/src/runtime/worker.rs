//! What makes a worker, and the form in which the loop runs it.

use std::{any::Any, future::Future};

use futures_util::future::BoxFuture;
use licet_schema::{Refusal, Request};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Resources;
use crate::{
    config::Groups,
    decision::{Context, Decision, RuleError},
    rows::RowSet,
    signing::Keyring,
    store::{Source, StoreError, Transaction, Writes},
};

/// A worker: which messages it takes, which rows it needs for them, and what it decides.
pub trait Worker: Send + Sync + 'static {
    /// The worker's name. Its queue is `licet.<name>`.
    const NAME: &'static str;

    /// The message types that are routed to it.
    const HANDLES: &'static [&'static str];

    /// Whether it changes anything. A worker that only reads is not journaled, takes no locks, and
    /// decides a repeated message again.
    const CHANGES: bool = true;

    /// Whether it rests after each batch for as long as the batch took. For background work, which
    /// must leave processor and disk to requests whose senders are waiting.
    const RESTS: bool = false;

    /// The maximum number of messages in one transaction. None means the configured number.
    const BATCH_MAX: Option<u16> = None;

    /// The groups of settings that it uses besides those that every worker uses.
    const SETTINGS: Groups = 0;

    /// What the rules are given of a request.
    type Input: Send + Sync + 'static;

    /// The tables that it reads and writes.
    type Rows: RowSet;

    /// Reads a request and its tokens. Pure; runs outside the async threads.
    ///
    /// # Errors
    /// A refusal that needs no look at the database.
    fn read(&self, keyring: &Keyring, request: Request) -> Result<Self::Input, Refusal>;

    /// The subject that an input claims to belong to. A refusal is recorded in the history of this
    /// subject if the sender has proved that the subject is theirs.
    fn subject(&self, _input: &Self::Input) -> Option<Uuid> {
        None
    }

    /// Takes the locks and reads the rows that these inputs need, with one query for each table.
    ///
    /// # Errors
    /// The database's.
    fn load<S: Source>(
        &self,
        source: &S,
        inputs: &[&Self::Input],
    ) -> impl Future<Output = Result<Self::Rows, StoreError>> + Send;

    /// Decides one input. It sees what was decided before it in the batch. Pure. Checks come before
    /// changes: a refusal leaves the rows as they were.
    ///
    /// # Errors
    /// A refusal, which is an answer; or a defect of the program.
    fn decide(&self, context: &Context<'_>, rows: &mut Self::Rows, input: &Self::Input) -> Result<Decision, RuleError>;

    /// What the program runs beside the loop until `stop`, such as a timer that publishes messages.
    fn run_beside(_resources: &Resources, _stop: &CancellationToken) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// An input of some worker.
pub(super) type AnyInput = Box<dyn Any + Send + Sync>;

/// The rows of some worker.
pub(super) trait AnyRows: Send {
    fn write(&self, writes: &mut Writes);
    fn as_any(&mut self) -> &mut dyn Any;
}

impl<R: RowSet> AnyRows for R {
    fn write(&self, writes: &mut Writes) {
        self.visit(writes);
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

/// A [`Worker`] behind a pointer, so that the loop is compiled once and not once for each worker.
pub(super) trait AnyWorker: Send + Sync {
    fn name(&self) -> &'static str;
    fn changes(&self) -> bool;
    fn rests(&self) -> bool;
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

    fn rests(&self) -> bool {
        W::RESTS
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
            unreachable!("a worker is given the rows that it loaded itself")
        };
        Worker::decide(self, context, rows, own::<W>(input))
    }
}

fn own<W: Worker>(input: &AnyInput) -> &W::Input {
    let Some(input) = (**input).downcast_ref() else {
        unreachable!("a worker is given the inputs that it read itself")
    };
    input
}
