//! One run, which makes random choices until nothing is left to do.

use std::{cell::RefCell, path::Path, sync::Arc};

use ed25519_dalek::SigningKey;
use licet_common::{
    clock::Clock,
    config::{Limits, Terms},
    fault_injection::Outcome,
    runtime::Resources,
    signing::Keyring,
    store::{Store, TOOL_TIMEOUT},
    transport::Transport,
};
use licet_operator::audit::audit;
use licet_schema::{Request, Timestamp, topology};
use licet_workers::registry;
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use super::{
    Metrics, Mutant,
    fault::{self, Fault},
    oracle::Oracle,
    random::Random,
    rows,
    upstream::{Sent, Upstream},
    workers_under_test::{PendingStep, WorkersUnderTest},
};
use crate::{
    histories::{contents, generator::history, script::Step},
    invariants,
};

/// The number of copies of each worker.
const COPIES: usize = 2;
/// The maximum number of steps of one history.
const STEPS_MAX: usize = 40;
/// The maximum number of faults of one run.
const FAULTS_MAX: usize = 40;
/// The maximum number of refused statements and commits in one run. It is lower than the number of
/// attempts, so that no message becomes a dead letter.
const REFUSED_MAX: usize = topology::WAITS.len();
/// A run with more choices is considered endless.
const CHOICES_MAX: usize = 200_000;
const START_MS: i64 = 1_700_000_000_000;

/// The plan of a run.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) mutant: Option<Mutant>,
    /// Whether the mutant is active. If not, only its faults are injected.
    pub(super) mutated: bool,
    pub(super) script: Vec<Step>,
    pub(super) faults_max: usize,
}

/// A run that violated no guarantee.
pub(super) struct Run {
    pub(super) metrics: Metrics,
    pub(super) trace: Vec<String>,
}

/// The violation of a guarantee.
#[derive(Clone, Debug)]
pub(super) struct Violation {
    pub(super) reason: String,
    pub(super) trace: Vec<String>,
}

impl Plan {
    /// The plan of a seed.
    pub(super) fn of(seed: u64, mutant: Option<Mutant>, mutated: bool) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        let sequences = history().new_tree(&mut runner).expect("a history can be generated").current();
        let script = sequences.into_iter().flatten().take(STEPS_MAX).collect();
        Self { seed, mutant, mutated, script, faults_max: FAULTS_MAX }
    }

    /// Plays the plan in its own runtime.
    pub(super) fn play(&self) -> Result<Run, Violation> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let trace = RefCell::new(Vec::new());
        let played = runtime.map_err(|error| error.to_string()).and_then(|runtime| {
            runtime.block_on(async {
                let mut simulation = Simulation::new(self, &trace).await?;
                simulation.play().await?;
                Ok(simulation.metrics())
            })
        });
        let trace = trace.into_inner();
        match played {
            Ok(metrics) => Ok(Run { metrics, trace }),
            Err(reason) => Err(Violation { reason, trace }),
        }
    }
}

/// The next event of a run.
#[derive(Clone, Debug)]
enum Choice {
    /// A worker copy takes its pending step.
    Step(usize),
    /// A worker copy starts.
    Start(usize),
    /// One of the running copies receives the signal to stop.
    Stop,
    /// The upstream systems play the next step of the history.
    Send,
    /// A message is sent again.
    SendAgain,
    /// The first message of a wait queue expires.
    Expire(usize),
    /// The first message of this queue is moved behind the others.
    Postpone(String),
    /// The broker drops all connections.
    DropConnections,
}

struct Simulation<'a> {
    plan: &'a Plan,
    random: Random,
    workers: WorkersUnderTest,
    oracle: Oracle,
    upstream: Upstream,
    transport: Transport,
    store: Store,
    clock: Clock,
    /// The copy that is in a transaction. SQLite allows one transaction at a time.
    in_transaction: Option<usize>,
    /// The next step of the history.
    next: usize,
    faults: usize,
    /// The number of these faults that do not concern a single step: dropped connections and
    /// stopped workers.
    disturbances: usize,
    refused: usize,
    /// Whether no more faults are injected.
    fault_free: bool,
    recomputing: Vec<bool>,
    metrics: Metrics,
    trace: &'a RefCell<Vec<String>>,
    _folder: tempfile::TempDir,
}

impl<'a> Simulation<'a> {
    async fn new(plan: &'a Plan, trace: &'a RefCell<Vec<String>>) -> Result<Self, String> {
        let transport = Transport::simulated();
        transport.apply(&registry::topology()).await.map_err(|error| error.to_string())?;
        // Use a file system in memory if possible, because the database need not survive the run.
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let folder = folder.map_err(|error| error.to_string())?;
        let url = format!("sqlite:{}", folder.path().join("licet.db").display());
        let store = Store::create(&url.into(), 1, TOOL_TIMEOUT).await.map_err(|error| error.to_string())?;
        store.migrate().await.map_err(|error| error.to_string())?;
        let clock = Clock::manual(Timestamp::from_millis(START_MS));
        let unique_reference = plan.script.iter().any(|step| matches!(step, Step::RequireUniqueReferences));
        let resources = Resources {
            transport: transport.clone(),
            store: store.clone(),
            keyring: Arc::new(Keyring::new(SigningKey::from_bytes(&[7; 32]), [])),
            clock: clock.clone(),
            terms: Arc::new(Terms { unique_reference, ..Terms::default() }),
            // Only the simulation decides when a worker ends.
            limits: Limits { shutdown_timeout_s: 3600, ..Limits::default() },
            senders: Arc::default(),
        };
        let workers = WorkersUnderTest::new(resources, COPIES);
        let recomputing = vec![false; workers.copies.len()];
        let mut upstream = Upstream::new(transport.clone()).await?;
        upstream.player.system.model.unique_reference = unique_reference;
        Ok(Self {
            plan,
            random: Random::new(plan.seed),
            workers,
            oracle: Oracle::default(),
            upstream,
            transport,
            store,
            clock,
            in_transaction: None,
            next: 0,
            faults: 0,
            disturbances: 0,
            refused: 0,
            fault_free: false,
            recomputing,
            metrics: Metrics::default(),
            trace,
            _folder: folder,
        })
    }

    async fn play(&mut self) -> Result<(), String> {
        for number in 0..contents::CONTENTS.len() {
            self.send(Request::ContentPut(contents::content(number, 0))).await?;
        }
        self.until_idle().await?;
        self.log("-- no more faults, all workers start again".into());
        self.fault_free = true;
        self.until_idle().await?;
        self.oracle.check_complete(&self.upstream.sent)?;
        self.log("-- every message is sent again".into());
        self.oracle.forget_published();
        for sent in self.upstream.sent.clone() {
            self.send_again(&sent).await?;
        }
        self.until_idle().await?;
        self.oracle.check_complete(&self.upstream.sent)?;
        self.oracle.check_answered()?;
        self.check_dead_letters().await?;
        self.check_rows().await
    }

    fn log(&self, line: String) {
        self.trace.borrow_mut().push(line);
    }

    async fn send(&mut self, request: Request) -> Result<(), String> {
        let sent = self.upstream.send(request).await?;
        self.log(format!("{} sent {sent}", self.clock.now().as_millis()));
        Ok(())
    }

    async fn send_again(&mut self, sent: &Sent) -> Result<(), String> {
        let sent = self.upstream.publish(sent).await?;
        self.metrics.resent += 1;
        self.log(format!("{} sent again {sent}", self.clock.now().as_millis()));
        Ok(())
    }

    /// Makes random choices until nothing is left to do.
    async fn until_idle(&mut self) -> Result<(), String> {
        for _ in 0..CHOICES_MAX {
            let choices = self.choices().await?;
            let Some(choice) = self.random.weighted(&choices) else { return Ok(()) };
            self.take(choice).await?;
            for (source, delivery) in self.upstream.receive().await? {
                self.oracle.check_delivery(source, &delivery)?;
            }
        }
        Err(format!("the run does not terminate within {CHOICES_MAX} choices"))
    }

    /// The possible choices and their weights.
    async fn choices(&self) -> Result<Vec<(usize, Choice)>, String> {
        let mut choices = Vec::new();
        for (index, copy) in self.workers.copies.iter().enumerate() {
            let can_proceed = match &copy.pending {
                None => {
                    choices.push((if self.fault_free { 20 } else { 2 }, Choice::Start(index)));
                    continue;
                }
                Some(PendingStep::Receive) => {
                    self.depth(&topology::work_queue(copy.worker)).await? > 0 || copy.consumer_cut
                }
                // The copy in a transaction has the only connection.
                Some(PendingStep::Begin | PendingStep::Ping) => self.in_transaction.is_none(),
                Some(_) => true,
            };
            if can_proceed {
                choices.push((20, Choice::Step(index)));
            }
        }
        for (index, wait) in topology::WAITS.iter().enumerate() {
            if self.depth(&wait.queue()).await? > 0 {
                choices.push((2, Choice::Expire(index)));
            }
        }
        if self.fault_free {
            return Ok(choices);
        }
        for worker in registry::names() {
            let queue = topology::work_queue(worker);
            if self.plan.faults_max > 0 && self.depth(&queue).await? > 1 {
                choices.push((1, Choice::Postpone(queue)));
            }
        }
        if self.next < self.plan.script.len() {
            choices.push((10, Choice::Send));
            choices.push((1, Choice::SendAgain));
        } else if choices.is_empty() {
            return Ok(choices);
        }
        if self.disturbances < self.plan.faults_max / 4 && self.plan.mutant.is_none() {
            choices.push((1, Choice::DropConnections));
            choices.push((1, Choice::Stop));
        }
        Ok(choices)
    }

    async fn depth(&self, queue: &str) -> Result<u32, String> {
        self.transport.depth(queue).await.map_err(|lost| lost.to_string())
    }

    async fn take(&mut self, choice: Choice) -> Result<(), String> {
        match choice {
            Choice::Step(index) => self.step(index).await,
            Choice::Start(index) => {
                let batch_max = self.random.pick(&[1, 2, 3, 8]).unwrap_or(1);
                self.log(format!("{} starts with batches of {batch_max}", self.name(index)));
                self.workers.start(index, batch_max).await
            }
            Choice::Stop => {
                let copies = self.workers.copies.iter().enumerate();
                let running: Vec<_> =
                    copies.filter(|(_, copy)| copy.pending.is_some()).map(|(index, _)| index).collect();
                let Some(index) = self.random.pick(&running) else { return Ok(()) };
                self.disturbances += 1;
                if self.workers.stop(index).await? {
                    self.count(fault::WORKER_STOPPED.into());
                    self.log(format!("{} receives the signal to stop", self.name(index)));
                }
                Ok(())
            }
            Choice::Send => {
                let step = self.plan.script[self.next].clone();
                self.next += 1;
                let sent = self.upstream.step(&step).await?;
                let now_ms = self.upstream.player.system.fixture.now_ms;
                self.clock.advance_ms(now_ms - self.clock.now().as_millis());
                let event = sent.map_or("the clock moves".into(), |sent| format!("sent {sent}"));
                self.log(format!("{now_ms} {event}"));
                Ok(())
            }
            Choice::SendAgain => match self.random.pick(&self.upstream.sent) {
                Some(sent) => self.send_again(&sent).await,
                None => Ok(()),
            },
            Choice::Expire(index) => {
                let queue = topology::WAITS[index].queue();
                self.log(format!("the first message of {queue} expires"));
                self.transport.expire(&queue);
                Ok(())
            }
            Choice::Postpone(queue) => {
                *self.metrics.faults.entry(fault::MESSAGE_REORDERED.into()).or_default() += 1;
                self.log(format!("the first message of {queue} is moved behind the others"));
                self.transport.postpone(&queue);
                Ok(())
            }
            Choice::DropConnections => {
                self.disturbances += 1;
                self.count(fault::CONNECTIONS_DROPPED.into());
                self.log(fault::CONNECTIONS_DROPPED.into());
                for copy in self.workers.copies.iter_mut().filter(|copy| copy.pending.is_some()) {
                    (copy.publisher_cut, copy.consumer_cut) = (true, true);
                }
                Ok(())
            }
        }
    }

    fn name(&self, index: usize) -> String {
        format!("{} #{index}", self.workers.copies[index].worker)
    }

    fn count(&mut self, fault: String) {
        self.faults += 1;
        *self.metrics.faults.entry(fault).or_default() += 1;
    }

    /// A copy takes its pending step, with or without a fault.
    async fn step(&mut self, index: usize) -> Result<(), String> {
        let Some(step) = self.workers.copies[index].pending.clone() else { return Ok(()) };
        self.metrics.steps += 1;
        let (mut outcome, fault) = self.draw_outcome(index, &step);
        if let Some(fault) = fault {
            let fault = fault::name(step.name(), fault);
            self.log(format!("{} {fault}", self.name(index)));
            self.count(fault);
        }
        if fault == Some(Fault::KillBefore) {
            self.workers.kill(index).await;
            self.end_transaction(index);
            return Ok(());
        }
        if outcome == Outcome::Proceed
            && let Some(mutant) = self.plan.mutant.filter(|_| self.plan.mutated)
        {
            let decided_before = |id: &uuid::Uuid| self.oracle.is_journaled(id);
            outcome = mutant.outcome(&step, decided_before, &mut self.recomputing[index]).unwrap_or(outcome);
        }
        let committed = step == PendingStep::Commit && matches!(outcome, Outcome::Proceed | Outcome::FailAfterEffect);
        if step == PendingStep::Begin && outcome == Outcome::Proceed {
            self.in_transaction = Some(index);
            self.workers.copies[index].uncommitted.clear();
        }
        if committed {
            // The decisions are final from here on, even if the worker does not learn of the
            // commit.
            self.check_decisions(index)?;
        } else if !matches!(outcome, Outcome::Proceed | Outcome::Replace(_)) {
            self.workers.copies[index].uncommitted.clear();
        }
        self.workers.proceed(index, outcome).await?;
        let next = self.workers.copies[index].pending.clone();
        if !matches!(next, Some(PendingStep::Statement(..) | PendingStep::Commit)) {
            self.end_transaction(index);
            if matches!(next, Some(PendingStep::Publish(_) | PendingStep::Ack)) {
                // These messages were decided without a commit: a query, or a sweep that found
                // nothing.
                self.check_decisions(index)?;
            }
            self.workers.copies[index].uncommitted.clear();
        }
        if committed {
            self.audit().await?;
        }
        if fault == Some(Fault::KillAfter) {
            self.workers.kill(index).await;
            self.end_transaction(index);
        }
        Ok(())
    }

    fn end_transaction(&mut self, index: usize) {
        if self.in_transaction == Some(index) {
            self.in_transaction = None;
        }
    }

    fn check_decisions(&mut self, index: usize) -> Result<(), String> {
        for decided in std::mem::take(&mut self.workers.copies[index].uncommitted) {
            let kind = decided.request.kind();
            self.log(format!("{} decided {} {kind}", self.name(index), decided.id.as_u128()));
            self.oracle.check_decision(&mut self.upstream.player.system.model, decided)?;
        }
        Ok(())
    }

    /// Draws the outcome of a step at random.
    fn draw_outcome(&mut self, index: usize, step: &PendingStep) -> (Outcome, Option<Fault>) {
        let copy = &mut self.workers.copies[index];
        let cut = match step {
            PendingStep::Publish(_) => std::mem::take(&mut copy.publisher_cut),
            PendingStep::Receive | PendingStep::Ack => std::mem::take(&mut copy.consumer_cut),
            _ => false,
        };
        if cut {
            return (Outcome::Fail, None);
        }
        // Faults that expose a mutant may occur often.
        let permille = if self.plan.mutant.is_some() { 300 } else { fault::permille(step) };
        if self.fault_free || self.faults >= self.plan.faults_max || !self.random.permille(permille) {
            return (Outcome::Proceed, None);
        }
        let is_possible = |fault: &Fault| {
            fault.applies_to(step.name())
                && self.plan.mutant.is_none_or(|mutant| mutant.is_exposed_by(step, *fault))
                && (*fault != Fault::Refuse || step.name() == "publish" || self.refused < REFUSED_MAX)
        };
        let possible: Vec<_> = Fault::ALL.into_iter().filter(is_possible).collect();
        let Some(fault) = self.random.pick(&possible) else { return (Outcome::Proceed, None) };
        self.refused += usize::from(fault == Fault::Refuse && step.name() != "publish");
        let mutant = self.plan.mutant.filter(|_| self.plan.mutated);
        let outcome = mutant.map_or(fault.outcome(), |mutant| mutant.mutated(fault.outcome()));
        (outcome, Some(fault))
    }

    async fn audit(&mut self) -> Result<(), String> {
        self.metrics.audits += 1;
        let report = audit(&self.store).await.map_err(|error| error.to_string())?;
        if report.violations.is_empty() { Ok(()) } else { Err(format!("the auditor finds {:#?}", report.violations)) }
    }

    async fn check_dead_letters(&self) -> Result<(), String> {
        for worker in registry::names() {
            let depth = self.depth(&topology::dead_queue(worker)).await?;
            if depth > 0 {
                return Err(format!("{worker} has {depth} dead letters"));
            }
        }
        Ok(())
    }

    /// Compares the rows at the end with the model, and checks the invariants.
    async fn check_rows(&mut self) -> Result<(), String> {
        self.audit().await?;
        let system = &mut self.upstream.player.system;
        system.fixture.store = rows::read_all(&self.store).await.map_err(|error| error.to_string())?;
        let mut violations = invariants::violations(&system.fixture.store);
        violations.extend(system.differences());
        if violations.is_empty() { Ok(()) } else { Err(violations.join("\n")) }
    }

    fn metrics(&self) -> Metrics {
        Metrics {
            runs: 1,
            messages: self.upstream.sent.len() as u64,
            decided: self.oracle.decided,
            compared: self.oracle.compared,
            ..self.metrics.clone()
        }
    }
}
