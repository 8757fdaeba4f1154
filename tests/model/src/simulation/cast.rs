//! The cast: copies of every worker, each of which waits at its gate until it is told to go on.

use std::{future::Future, panic::AssertUnwindSafe, pin::Pin, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use licet_common::{
    gate::{Gate, Step, Verdict},
    runtime::{Machine, Worker, run},
};
use licet_schema::topology;
use sea_orm::Value;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::watched::{Decided, Watched};
use crate::{
    catalog::Catalog, license::License, purchase::Purchase, query::Query, reception::Reception, reissue::Reissue,
    returns::Returns, settlement::Settlement, sweep::Sweep,
};

/// A worker that says nothing for so long hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Turns of the one thread after which whoever hears a word has heard it.
const TURNS_TO_HEAR: usize = 4;

/// A step that a worker waits to take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    Connect,
    Consume,
    Receive,
    /// Under this routing key.
    Publish(String),
    Ack,
    Ping,
    Begin,
    /// This text, with these ids among its values.
    Statement(String, Vec<Uuid>),
    Commit,
    Sleep,
}

impl Waits {
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

/// What an actor tells.
#[derive(Debug)]
pub(super) enum Told {
    /// It is about to take this step.
    Waits(Waits, oneshot::Sender<Verdict>),
    /// A rule decided a message.
    Decided(Box<Decided>),
    /// It has ended, by a panic or because it was told to.
    Ended { panicked: bool },
}

/// The gate of one actor.
#[derive(Debug)]
struct Door {
    actor: usize,
    tell: mpsc::UnboundedSender<(usize, Told)>,
}

impl Gate for Door {
    fn pass<'a>(&'a self, step: Step<'a>) -> BoxFuture<'a, Verdict> {
        let (answer, answered) = oneshot::channel();
        let _ = self.tell.send((self.actor, Told::Waits(Waits::of(&step), answer)));
        // Whoever is not answered any more is about to be dropped.
        Box::pin(async { answered.await.unwrap_or(Verdict::Fails) })
    }
}

/// A copy of a worker.
pub(super) struct Actor {
    pub(super) worker: &'static str,
    /// What it waits for; none if it is down.
    pub(super) waits: Option<Waits>,
    answer: Option<oneshot::Sender<Verdict>>,
    running: Option<JoinHandle<()>>,
    stop: CancellationToken,
    /// What it decided in the transaction that it is in.
    pub(super) pending: Vec<Decided>,
    /// The broker has cut the connection by which it publishes.
    pub(super) cut_publishing: bool,
    /// The broker has cut the connection by which it consumes.
    pub(super) cut_consuming: bool,
}

/// All copies.
pub(super) struct Cast {
    pub(super) actors: Vec<Actor>,
    machine: Machine,
    tell: mpsc::UnboundedSender<(usize, Told)>,
    told: mpsc::UnboundedReceiver<(usize, Told)>,
}

impl Cast {
    /// So many copies of each worker, all down.
    pub(super) fn new(machine: Machine, copies: usize) -> Self {
        let (tell, told) = mpsc::unbounded_channel();
        let names = topology::WORKERS.iter().flat_map(|worker| std::iter::repeat_n(worker.name, copies));
        let actors = names.map(|worker| Actor {
            worker,
            waits: None,
            answer: None,
            running: None,
            stop: CancellationToken::new(),
            pending: Vec::new(),
            cut_publishing: false,
            cut_consuming: false,
        });
        Self { actors: actors.collect(), machine, tell, told }
    }

    /// Starts one that is down, with batches of at most this size.
    pub(super) async fn start(&mut self, index: usize, batch_max: u16) -> Result<(), String> {
        let gate: Arc<dyn Gate> = Arc::new(Door { actor: index, tell: self.tell.clone() });
        let mut machine = Machine {
            transport: self.machine.transport.gated(gate.clone()),
            store: self.machine.store.gated(gate.clone()),
            clock: self.machine.clock.gated(gate),
            ..self.machine.clone()
        };
        machine.limits.batch_max = batch_max;
        let (tell, stop) = (self.tell.clone(), CancellationToken::new());
        let actor = &mut self.actors[index];
        (actor.stop, actor.cut_publishing, actor.cut_consuming) = (stop.clone(), false, false);
        let playing = part(actor.worker, index, machine, &tell, stop);
        actor.running = Some(tokio::spawn(async move {
            let panicked = AssertUnwindSafe(playing).catch_unwind().await.is_err();
            let _ = tell.send((index, Told::Ended { panicked }));
        }));
        self.until_it_waits(index).await
    }

    /// Lets one take the step that it waits for, until it waits for the next.
    pub(super) async fn go_on(&mut self, index: usize, verdict: Verdict) -> Result<(), String> {
        let actor = &mut self.actors[index];
        let waits = actor.waits.take();
        // A new connection is not the one that was cut.
        actor.cut_publishing &= waits != Some(Waits::Connect);
        actor.cut_consuming &= waits != Some(Waits::Consume);
        if let Some(answer) = actor.answer.take() {
            let _ = answer.send(verdict);
        }
        self.until_it_waits(index).await
    }

    /// Ends one where it stands, as SIGKILL does.
    pub(super) async fn kill(&mut self, index: usize) {
        let actor = &mut self.actors[index];
        if let Some(running) = actor.running.take() {
            running.abort();
            let _ = running.await;
        }
        (actor.waits, actor.answer) = (None, None);
        actor.pending.clear();
    }

    /// Tells one to stop, as SIGTERM does. Says whether it was not told so before.
    pub(super) async fn stop(&mut self, index: usize) -> Result<bool, String> {
        let actor = &mut self.actors[index];
        if actor.stop.is_cancelled() {
            return Ok(false);
        }
        actor.stop.cancel();
        // Who waits in a place where it hears that drops its step at once; others go on at their gate.
        for _ in 0..TURNS_TO_HEAR {
            tokio::task::yield_now().await;
        }
        let actor = &mut self.actors[index];
        if actor.answer.as_ref().is_some_and(oneshot::Sender::is_closed) {
            (actor.waits, actor.answer) = (None, None);
            self.until_it_waits(index).await?;
        }
        Ok(true)
    }

    async fn until_it_waits(&mut self, index: usize) -> Result<(), String> {
        loop {
            let told = tokio::time::timeout(PATIENCE, self.told.recv()).await;
            let name = self.actors[index].worker;
            let Ok(Some((who, told))) = told else { return Err(format!("{name} #{index} hangs")) };
            if who != index {
                return Err(format!("#{who} stirs while only #{index} may"));
            }
            let actor = &mut self.actors[index];
            match told {
                Told::Decided(decided) => actor.pending.push(*decided),
                Told::Waits(waits, answer) => {
                    (actor.waits, actor.answer) = (Some(waits), Some(answer));
                    return Ok(());
                }
                Told::Ended { panicked } => {
                    (actor.waits, actor.answer, actor.running) = (None, None, None);
                    return if panicked { Err(format!("{name} #{index} panicked")) } else { Ok(()) };
                }
            }
        }
    }
}

/// What an actor does until it is stopped.
fn part(
    name: &'static str,
    actor: usize,
    machine: Machine,
    tell: &mpsc::UnboundedSender<(usize, Told)>,
    stop: CancellationToken,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    fn watched<W: Worker>(
        worker: W,
        actor: usize,
        machine: Machine,
        tell: &mpsc::UnboundedSender<(usize, Told)>,
        stop: CancellationToken,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(run(Watched { worker, actor, tell: tell.clone() }, machine, stop))
    }
    match name {
        "catalog" => watched(Catalog, actor, machine, tell, stop),
        "purchase" => watched(Purchase, actor, machine, tell, stop),
        "reception" => watched(Reception, actor, machine, tell, stop),
        "settlement" => watched(Settlement, actor, machine, tell, stop),
        "license" => watched(License, actor, machine, tell, stop),
        "return" => watched(Returns, actor, machine, tell, stop),
        "reissue" => watched(Reissue, actor, machine, tell, stop),
        "query" => watched(Query, actor, machine, tell, stop),
        // Without its clock: here time is told by the play.
        "sweep" => watched(Sweep, actor, machine, tell, stop),
        other => unreachable!("the topology has a worker {other} that nobody plays"),
    }
}
