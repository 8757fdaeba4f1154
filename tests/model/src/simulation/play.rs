//! One run: what happens next is drawn by lot, until nothing is left to happen.

use std::{cell::RefCell, path::Path, sync::Arc};

use ed25519_dalek::SigningKey;
use licet_common::{
    clock::Clock,
    config::{Limits, Terms},
    gate::Verdict,
    runtime::Machine,
    signing::Keyring,
    store::Store,
    transport::Transport,
};
use licet_schema::{
    Request, Timestamp,
    entity::{
        account, certificate, collection, content, entry, license, license_return, payout, pending_reception,
        privilege, purchase, settlement, unmatched_settlement,
    },
    topology,
};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use sea_orm::EntityTrait;

use super::{
    super::{chance::history, invariants, script::Step, shop},
    Lie, Tally,
    cast::{Cast, Waits},
    dice::Dice,
    fault::{Fault, named, often},
    judge::Judge,
    upstream::{Sent, Upstream},
};
use crate::audit::audit;

/// Copies of each worker.
const COPIES: usize = 2;
/// The most messages of one history.
const STEPS_MAX: usize = 40;
/// The most faults of one run.
const FAULTS_MAX: usize = 40;
/// Refusals for no reason in one run: fewer than there are attempts, so that nothing may become a
/// dead letter.
const REFUSED_MAX: usize = topology::WAITS.len();
/// A run that goes on for longer goes round in circles.
const CHOICES_MAX: usize = 200_000;
const START_MS: i64 = 1_700_000_000_000;

/// What is to be played.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) lie: Option<Lie>,
    /// Whether the lie is told, or else the same odds are played honestly.
    pub(super) told: bool,
    pub(super) script: Vec<Step>,
    pub(super) faults_max: usize,
}

/// A run that kept every promise.
pub(super) struct Played {
    pub(super) tally: Tally,
    pub(super) story: Vec<String>,
}

/// A run that did not.
#[derive(Clone, Debug)]
pub(super) struct Broken {
    pub(super) why: String,
    pub(super) story: Vec<String>,
}

impl Plan {
    /// The plan of a seed.
    pub(super) fn of(seed: u64, lie: Option<Lie>, told: bool) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        let scenes = history().new_tree(&mut runner).map(|tree| tree.current()).unwrap_or_default();
        let script = scenes.into_iter().flatten().take(STEPS_MAX).collect();
        Self { seed, lie, told, script, faults_max: FAULTS_MAX }
    }

    /// Plays it, on threads of its own.
    pub(super) fn play(&self) -> Result<Played, Broken> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let story = RefCell::new(Vec::new());
        let played = runtime.map_err(|error| error.to_string()).and_then(|runtime| {
            runtime.block_on(async {
                let mut stage = Stage::new(self, &story).await?;
                stage.play().await?;
                Ok(stage.tally())
            })
        });
        let story = story.into_inner();
        match played {
            Ok(tally) => Ok(Played { tally, story }),
            Err(why) => Err(Broken { why, story }),
        }
    }
}

/// What happens next.
#[derive(Clone, Debug)]
enum Choice {
    /// An actor takes its step.
    Step(usize),
    /// An actor that is down comes up.
    Start(usize),
    /// One of the actors is told to stop.
    Stop,
    /// The upstreams do what comes next in the history.
    Send,
    /// A message comes again.
    SendAgain,
    /// The first message of a wait queue has waited long enough.
    Expire(usize),
    /// The first message of this queue comes after the others.
    Postpone(String),
    /// The broker drops every connection.
    Cut,
}

struct Stage<'a> {
    plan: &'a Plan,
    dice: Dice,
    cast: Cast,
    judge: Judge,
    upstream: Upstream,
    transport: Transport,
    store: Store,
    clock: Clock,
    /// Who is in a transaction: SQLite has one.
    holder: Option<usize>,
    next: usize,
    faults: usize,
    /// Of them those that befall no step: every connection cut, a worker told to stop.
    uproars: usize,
    refused: usize,
    calm: bool,
    recomputing: Vec<bool>,
    tally: Tally,
    story: &'a RefCell<Vec<String>>,
    _folder: tempfile::TempDir,
}

impl<'a> Stage<'a> {
    async fn new(plan: &'a Plan, story: &'a RefCell<Vec<String>>) -> Result<Self, String> {
        let transport = Transport::simulated();
        transport.apply(&topology::topology()).await.map_err(|error| error.to_string())?;
        // In memory where there is such a folder: nothing here is to survive the machine.
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let folder = folder.map_err(|error| error.to_string())?;
        let url = format!("sqlite:{}", folder.path().join("licet.db").display());
        let store = Store::open(&url.into(), 1).await.map_err(|error| error.to_string())?;
        store.migrate().await.map_err(|error| error.to_string())?;
        let clock = Clock::manual(Timestamp::from_millis(START_MS));
        let machine = Machine {
            transport: transport.clone(),
            store: store.clone(),
            keyring: Arc::new(Keyring::new(SigningKey::from_bytes(&[7; 32]), [])),
            clock: clock.clone(),
            terms: Arc::new(Terms::default()),
            // The play alone ends anybody's patience.
            limits: Limits { shutdown_timeout_s: 3600, ..Limits::default() },
            senders: Arc::default(),
        };
        let cast = Cast::new(machine, COPIES);
        let recomputing = vec![false; cast.actors.len()];
        let upstream = Upstream::new(transport.clone()).await?;
        Ok(Self {
            plan,
            dice: Dice::new(plan.seed),
            cast,
            judge: Judge::default(),
            upstream,
            transport,
            store,
            clock,
            holder: None,
            next: 0,
            faults: 0,
            uproars: 0,
            refused: 0,
            calm: false,
            recomputing,
            tally: Tally::default(),
            story,
            _folder: folder,
        })
    }

    async fn play(&mut self) -> Result<(), String> {
        for number in 0..shop::CONTENTS.len() {
            self.send(Request::ContentPut(shop::content(number, 0))).await?;
        }
        self.until_rest().await?;
        self.tell("-- calm: no more faults, everybody comes up again".into());
        self.calm = true;
        self.until_rest().await?;
        self.judge.at_rest(&self.upstream.sent)?;
        self.tell("-- everything is asked for once more".into());
        self.judge.ask_again();
        for sent in self.upstream.sent.clone() {
            self.send_again(&sent).await?;
        }
        self.until_rest().await?;
        self.judge.at_rest(&self.upstream.sent)?;
        self.judge.answered()?;
        self.no_dead_letters().await?;
        self.books().await
    }

    fn tell(&self, line: String) {
        self.story.borrow_mut().push(line);
    }

    async fn send(&mut self, request: Request) -> Result<(), String> {
        let sent = self.upstream.send(request).await?;
        self.tell(format!("{} sends {sent}", self.clock.now().as_millis()));
        Ok(())
    }

    async fn send_again(&mut self, sent: &Sent) -> Result<(), String> {
        let told = self.upstream.publish(sent).await?;
        self.tally.resent += 1;
        self.tell(format!("{} sends again {told}", self.clock.now().as_millis()));
        Ok(())
    }

    /// Until nothing is left to happen.
    async fn until_rest(&mut self) -> Result<(), String> {
        for _ in 0..CHOICES_MAX {
            let choices = self.choices().await?;
            let Some(choice) = self.dice.weighted(&choices) else { return Ok(()) };
            self.take(choice).await?;
            for (reply, delivery) in self.upstream.hear().await? {
                self.judge.compare(reply, &delivery)?;
            }
        }
        Err("nobody ever comes to rest".into())
    }

    async fn choices(&self) -> Result<Vec<(usize, Choice)>, String> {
        let mut choices = Vec::new();
        for (index, actor) in self.cast.actors.iter().enumerate() {
            let may = match &actor.waits {
                None => {
                    choices.push((if self.calm { 20 } else { 2 }, Choice::Start(index)));
                    continue;
                }
                Some(Waits::Receive) => {
                    self.depth(&topology::work_queue(actor.worker)).await? > 0 || actor.cut_consuming
                }
                // The one connection is with whoever is in a transaction.
                Some(Waits::Begin | Waits::Ping) => self.holder.is_none(),
                Some(_) => true,
            };
            if may {
                choices.push((20, Choice::Step(index)));
            }
        }
        for (index, wait) in topology::WAITS.iter().enumerate() {
            if self.depth(&wait.queue()).await? > 0 {
                choices.push((2, Choice::Expire(index)));
            }
        }
        if self.calm {
            return Ok(choices);
        }
        for worker in topology::WORKERS {
            let queue = topology::work_queue(worker.name);
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
        if self.uproars < self.plan.faults_max / 4 && self.plan.lie.is_none() {
            choices.push((1, Choice::Cut));
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
                let batch_max = self.dice.pick(&[1, 2, 3, 8]).unwrap_or(1);
                self.tell(format!("{} starts, batches of {batch_max}", self.name(index)));
                self.cast.start(index, batch_max).await
            }
            Choice::Stop => {
                let actors = self.cast.actors.iter().enumerate();
                let up: Vec<_> = actors.filter(|(_, actor)| actor.waits.is_some()).map(|(index, _)| index).collect();
                let Some(index) = self.dice.pick(&up) else { return Ok(()) };
                self.uproars += 1;
                if self.cast.stop(index).await? {
                    self.count("a worker is told to stop".into());
                    self.tell(format!("{} is told to stop", self.name(index)));
                }
                Ok(())
            }
            Choice::Send => {
                let step = self.plan.script[self.next].clone();
                self.next += 1;
                let sent = self.upstream.step(&step).await?;
                let now_ms = self.upstream.player.world.stage.now_ms;
                self.clock.advance_ms(now_ms - self.clock.now().as_millis());
                let told = sent.map_or("waits".into(), |sent| format!("sends {sent}"));
                self.tell(format!("{now_ms} {told}"));
                Ok(())
            }
            Choice::SendAgain => match self.dice.pick(&self.upstream.sent) {
                Some(sent) => self.send_again(&sent).await,
                None => Ok(()),
            },
            Choice::Expire(index) => {
                self.tell(format!("{} lets one go", topology::WAITS[index].queue()));
                self.transport.expire(&topology::WAITS[index].queue());
                Ok(())
            }
            Choice::Postpone(queue) => {
                *self.tally.faults.entry("a message is overtaken".into()).or_default() += 1;
                self.tell(format!("the first message of {queue} is overtaken"));
                self.transport.postpone(&queue);
                Ok(())
            }
            Choice::Cut => {
                self.uproars += 1;
                self.count("the broker drops every connection".into());
                self.tell("the broker drops every connection".into());
                for actor in self.cast.actors.iter_mut().filter(|actor| actor.waits.is_some()) {
                    (actor.cut_publishing, actor.cut_consuming) = (true, true);
                }
                Ok(())
            }
        }
    }

    fn name(&self, index: usize) -> String {
        format!("{} #{index}", self.cast.actors[index].worker)
    }

    fn count(&mut self, fault: String) {
        self.faults += 1;
        *self.tally.faults.entry(fault).or_default() += 1;
    }

    /// An actor takes its step, or what becomes of it.
    async fn step(&mut self, index: usize) -> Result<(), String> {
        let Some(waits) = self.cast.actors[index].waits.clone() else { return Ok(()) };
        self.tally.steps += 1;
        let (mut verdict, fault) = self.lot(index, &waits);
        if let Some(fault) = fault {
            self.count(named(waits.name(), fault));
            self.tell(format!("{} {}", self.name(index), named(waits.name(), fault)));
        }
        if fault == Some(Fault::Killed) {
            self.cast.kill(index).await;
            self.left(index);
            return Ok(());
        }
        if verdict == Verdict::Happens
            && let Some(lie) = self.plan.lie.filter(|_| self.plan.told)
        {
            let known = |id: &uuid::Uuid| self.judge.knows(id);
            verdict = lie.verdict(&waits, known, &mut self.recomputing[index]).unwrap_or(verdict);
        }
        let committed = waits == Waits::Commit && matches!(verdict, Verdict::Happens | Verdict::FailsAfter);
        if waits == Waits::Begin && verdict == Verdict::Happens {
            self.holder = Some(index);
            self.cast.actors[index].pending.clear();
        }
        if committed {
            // What was decided stands from here on, whoever hears of it.
            self.stands(index)?;
        } else if !matches!(verdict, Verdict::Happens | Verdict::Instead(_)) {
            self.cast.actors[index].pending.clear();
        }
        self.cast.go_on(index, verdict).await?;
        let next = self.cast.actors[index].waits.clone();
        if !matches!(next, Some(Waits::Statement(..) | Waits::Commit)) {
            self.left(index);
            if matches!(next, Some(Waits::Publish(_) | Waits::Ack)) {
                // Looked at, or found nothing to do: no commit, and yet decided.
                self.stands(index)?;
            }
            self.cast.actors[index].pending.clear();
        }
        if committed {
            self.audit().await?;
        }
        if fault == Some(Fault::KilledAfter) {
            self.cast.kill(index).await;
            self.left(index);
        }
        Ok(())
    }

    fn left(&mut self, index: usize) {
        if self.holder == Some(index) {
            self.holder = None;
        }
    }

    fn stands(&mut self, index: usize) -> Result<(), String> {
        for decided in std::mem::take(&mut self.cast.actors[index].pending) {
            let kind = decided.request.kind();
            self.tell(format!("{} decides {} {kind}", self.name(index), decided.id.as_u128()));
            self.judge.hear(&mut self.upstream.player.world.model, decided)?;
        }
        Ok(())
    }

    /// What becomes of a step, drawn by lot.
    fn lot(&mut self, index: usize, waits: &Waits) -> (Verdict, Option<Fault>) {
        let actor = &mut self.cast.actors[index];
        let cut = match waits {
            Waits::Publish(_) => std::mem::take(&mut actor.cut_publishing),
            Waits::Receive | Waits::Ack => std::mem::take(&mut actor.cut_consuming),
            _ => false,
        };
        if cut {
            return (Verdict::Fails, None);
        }
        // Where a lie is told, what shows it may come often.
        let often = if self.plan.lie.is_some() { 300 } else { often(waits) };
        if self.calm || self.faults >= self.plan.faults_max || !self.dice.permille(often) {
            return (Verdict::Happens, None);
        }
        let fits = |fault: &Fault| {
            fault.can_befall(waits.name())
                && self.plan.lie.is_none_or(|lie| lie.goes_with(waits, *fault))
                && (*fault != Fault::Refused || waits.name() == "publish" || self.refused < REFUSED_MAX)
        };
        let possible: Vec<_> = Fault::ALL.into_iter().filter(fits).collect();
        let Some(fault) = self.dice.pick(&possible) else { return (Verdict::Happens, None) };
        self.refused += usize::from(fault == Fault::Refused && waits.name() != "publish");
        let lie = self.plan.lie.filter(|_| self.plan.told);
        let verdict = lie.map_or(fault.verdict(), |lie| lie.told(fault.verdict()));
        (verdict, Some(fault))
    }

    async fn audit(&mut self) -> Result<(), String> {
        self.tally.audits += 1;
        let report = audit(&self.store).await.map_err(|error| error.to_string())?;
        if report.violations.is_empty() { Ok(()) } else { Err(format!("the auditor finds {:#?}", report.violations)) }
    }

    async fn no_dead_letters(&self) -> Result<(), String> {
        for worker in topology::WORKERS {
            let depth = self.depth(&topology::dead_queue(worker.name)).await?;
            if depth > 0 {
                return Err(format!("{} has {depth} dead letters", worker.name));
            }
        }
        Ok(())
    }

    /// The rows, as they are in the end, against the model.
    async fn books(&mut self) -> Result<(), String> {
        self.audit().await?;
        let reader = self.store.reader();
        let tables = &mut self.upstream.player.world.stage.tables;
        macro_rules! read {
            ($($rows:ident: $entity:ident),* $(,)?) => {$(
                tables.$rows.load_all($entity::Entity::find().all(&reader).await.map_err(|error| error.to_string())?);
            )*};
        }
        read!(
            contents: content, purchases: purchase, certificates: certificate, pending_receptions: pending_reception,
            licenses: license, returns: license_return, collections: collection, privileges: privilege,
            accounts: account, entries: entry, settlements: settlement,
            unmatched_settlements: unmatched_settlement, payouts: payout,
        );
        let mut broken = invariants::broken(tables);
        broken.extend(self.upstream.player.world.other_books());
        if broken.is_empty() { Ok(()) } else { Err(broken.join("\n")) }
    }

    fn tally(&self) -> Tally {
        Tally {
            runs: 1,
            messages: self.upstream.sent.len() as u64,
            decided: self.judge.decided,
            compared: self.judge.compared,
            ..self.tally.clone()
        }
    }
}
