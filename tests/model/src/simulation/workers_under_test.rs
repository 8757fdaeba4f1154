//! The workers under test: copies of every worker, each of which takes its next step only when the
//! simulation allows it.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use licet_common::{
    fault_injection::{FaultInjector, Outcome, Step},
    runtime::{Resources, Worker, run},
};
use licet_workers::{
    catalog::Catalog, license::License, purchase::Purchase, query::Query, reception::Reception, registry,
    reissue::Reissue, returns::Returns, settlement::Settlement, sweep::Sweep,
};
use sea_orm::Value;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::recorded::{Decided, Recorded};

/// A worker that sends no report for this long is considered to hang.
const HANG_TIMEOUT: Duration = Duration::from_secs(60);

/// After this number of yields of the single thread, every worker has reacted to a stop signal.
const YIELDS_TO_REACT: usize = 4;

/// A step that a worker is about to take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PendingStep {
    Connect,
    Consume,
    Receive,
    /// Publishes a message with this routing key.
    Publish(String),
    Ack,
    Ping,
    Begin,
    /// Runs a statement: its text, and the ids among its values.
    Statement(String, Vec<Uuid>),
    Commit,
    Sleep,
}

impl PendingStep {
    fn of(step: &Step<'_>) -> Self {
        match step {
            Step::Connect => Self::Connect,
            Step::Consume(_) => Self::Consume,
            Step::Receive(_) => Self::Receive,
            Step::Publish(key) => Self::Publish((*key).to_owned()),
            Step::Ack => Self::Ack,
            Step::Ping => Self::Ping,
            Step::Begin => Self::Begin,
            Step::Statement(statement) => {
                let values = statement.values.iter().flat_map(|values| &values.0);
                let ids = values.filter_map(|value| if let Value::Uuid(Some(id)) = value { Some(**id) } else { None });
                Self::Statement(statement.sql.clone(), ids.collect())
            }
            Step::Commit => Self::Commit,
            Step::Sleep(_) => Self::Sleep,
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Consume => "consume",
            Self::Receive => "receive",
            Self::Publish(_) => "publish",
            Self::Ack => "acknowledge",
            Self::Ping => "ping",
            Self::Begin => "begin",
            Self::Statement(..) => "statement",
            Self::Commit => "commit",
            Self::Sleep => "sleep",
        }
    }
}

/// A report of a worker to the simulation.
#[derive(Debug)]
pub(super) enum Report {
    /// The worker is about to take this step, and waits for the outcome.
    Pending(PendingStep, oneshot::Sender<Outcome>),
    /// A rule decided a message.
    Decided(Box<Decided>),
    /// A rule found a defect.
    Defect(String),
    /// The worker ended, by a panic or after its stop signal.
    Ended { panicked: bool },
}

/// Asks the simulation for the outcome of each step of one worker.
#[derive(Debug)]
struct StepInjector {
    copy: usize,
    reports: mpsc::UnboundedSender<(usize, Report)>,
}

impl FaultInjector for StepInjector {
    fn outcome<'a>(&'a self, step: Step<'a>) -> BoxFuture<'a, Outcome> {
        let (sender, outcome) = oneshot::channel();
        let _ = self.reports.send((self.copy, Report::Pending(PendingStep::of(&step), sender)));
        // Without an answer, the worker is about to be dropped.
        Box::pin(async { outcome.await.unwrap_or(Outcome::Fail) })
    }
}

/// A copy of a worker.
pub(super) struct WorkerCopy {
    pub(super) worker: &'static str,
    /// The next step of the copy, or `None` if the copy is not running.
    pub(super) pending: Option<PendingStep>,
    answer: Option<oneshot::Sender<Outcome>>,
    running: Option<JoinHandle<()>>,
    stop: CancellationToken,
    /// The decisions in the current transaction of the copy.
    pub(super) uncommitted: Vec<Decided>,
    /// Whether the broker dropped the publishing connection of the copy.
    pub(super) publisher_cut: bool,
    /// Whether the broker dropped the consuming connection of the copy.
    pub(super) consumer_cut: bool,
}

/// All copies of all workers.
pub(super) struct WorkersUnderTest {
    pub(super) copies: Vec<WorkerCopy>,
    resources: Resources,
    reports: mpsc::UnboundedSender<(usize, Report)>,
    received: mpsc::UnboundedReceiver<(usize, Report)>,
}

impl WorkersUnderTest {
    /// Creates this number of copies of each worker. None of them is running yet.
    pub(super) fn new(resources: Resources, copies: usize) -> Self {
        let (reports, received) = mpsc::unbounded_channel();
        let names = registry::names().flat_map(|name| std::iter::repeat_n(name, copies));
        let copies = names.map(|worker| WorkerCopy {
            worker,
            pending: None,
            answer: None,
            running: None,
            stop: CancellationToken::new(),
            uncommitted: Vec::new(),
            publisher_cut: false,
            consumer_cut: false,
        });
        Self { copies: copies.collect(), resources, reports, received }
    }

    /// Starts a copy that is not running, with batches of at most this size.
    pub(super) async fn start(&mut self, index: usize, batch_max: u16) -> Result<(), String> {
        let injector: Arc<dyn FaultInjector> = Arc::new(StepInjector { copy: index, reports: self.reports.clone() });
        let mut resources = Resources {
            transport: self.resources.transport.with_faults(injector.clone()),
            store: self.resources.store.with_faults(injector.clone()),
            clock: self.resources.clock.with_faults(injector),
            ..self.resources.clone()
        };
        resources.limits.batch_max = batch_max;
        let (reports, stop) = (self.reports.clone(), CancellationToken::new());
        let copy = &mut self.copies[index];
        (copy.stop, copy.publisher_cut, copy.consumer_cut) = (stop.clone(), false, false);
        let worker = worker_loop(copy.worker, index, resources, &reports, stop);
        copy.running = Some(tokio::spawn(async move {
            let panicked = AssertUnwindSafe(worker).catch_unwind().await.is_err();
            let _ = reports.send((index, Report::Ended { panicked }));
        }));
        self.until_pending(index).await
    }

    /// Gives the pending step of a copy this outcome, and waits for its next step.
    pub(super) async fn proceed(&mut self, index: usize, outcome: Outcome) -> Result<(), String> {
        let copy = &mut self.copies[index];
        let step = copy.pending.take();
        // A new connection has not been dropped.
        copy.publisher_cut &= step != Some(PendingStep::Connect);
        copy.consumer_cut &= step != Some(PendingStep::Consume);
        if let Some(answer) = copy.answer.take() {
            let _ = answer.send(outcome);
        }
        self.until_pending(index).await
    }

    /// Ends a copy immediately, as SIGKILL does.
    pub(super) async fn kill(&mut self, index: usize) {
        let copy = &mut self.copies[index];
        if let Some(running) = copy.running.take() {
            running.abort();
            let _ = running.await;
        }
        (copy.pending, copy.answer) = (None, None);
        copy.uncommitted.clear();
    }

    /// Signals a copy to stop, as SIGTERM does. Returns whether this is the first signal.
    pub(super) async fn stop(&mut self, index: usize) -> Result<bool, String> {
        let copy = &mut self.copies[index];
        if copy.stop.is_cancelled() {
            return Ok(false);
        }
        copy.stop.cancel();
        // A step that reacts to the signal is cancelled at once. Any other step stays pending.
        for _ in 0..YIELDS_TO_REACT {
            tokio::task::yield_now().await;
        }
        let copy = &mut self.copies[index];
        if copy.answer.as_ref().is_some_and(oneshot::Sender::is_closed) {
            (copy.pending, copy.answer) = (None, None);
            self.until_pending(index).await?;
        }
        Ok(true)
    }

    async fn until_pending(&mut self, index: usize) -> Result<(), String> {
        loop {
            let report = tokio::time::timeout(HANG_TIMEOUT, self.received.recv()).await;
            let name = self.copies[index].worker;
            let Ok(Some((sender, report))) = report else { return Err(format!("{name} #{index} hangs")) };
            if sender != index {
                return Err(format!("#{sender} takes a step although only #{index} may"));
            }
            let copy = &mut self.copies[index];
            match report {
                Report::Decided(decided) => copy.uncommitted.push(*decided),
                Report::Defect(defect) => return Err(format!("{name} #{index} found a defect: {defect}")),
                Report::Pending(step, answer) => {
                    (copy.pending, copy.answer) = (Some(step), Some(answer));
                    return Ok(());
                }
                Report::Ended { panicked } => {
                    (copy.pending, copy.answer, copy.running) = (None, None, None);
                    return if panicked { Err(format!("{name} #{index} panicked")) } else { Ok(()) };
                }
            }
        }
    }
}

/// The loop of a worker, until it is stopped.
fn worker_loop(
    name: &str,
    copy: usize,
    resources: Resources,
    reports: &mpsc::UnboundedSender<(usize, Report)>,
    stop: CancellationToken,
) -> BoxFuture<'static, ()> {
    let copy = Copy { copy, resources, reports: reports.clone(), stop };
    match name {
        Catalog::NAME => copy.run(Catalog),
        Purchase::NAME => copy.run(Purchase::default()),
        Reception::NAME => copy.run(Reception),
        Settlement::NAME => copy.run(Settlement),
        License::NAME => copy.run(License),
        Returns::NAME => copy.run(Returns),
        Reissue::NAME => copy.run(Reissue),
        Query::NAME => copy.run(Query),
        Sweep::NAME => copy.run(Sweep),
        other => panic!("add the {other} worker to the simulation"),
    }
}

struct Copy {
    copy: usize,
    resources: Resources,
    reports: mpsc::UnboundedSender<(usize, Report)>,
    stop: CancellationToken,
}

impl Copy {
    fn run<W: Worker>(self, worker: W) -> BoxFuture<'static, ()> {
        let Self { copy, resources, reports, stop } = self;
        Box::pin(run(Recorded { worker, copy, reports }, resources, stop))
    }
}
