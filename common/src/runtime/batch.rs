//! Processes a batch in one transaction: journal lookup, locks, rules, writes and commit.
//!
//! A crash before the commit has no effect. After the commit, all changes are durable. If the
//! response to a commit is lost, its outcome is unknown. The session then ends, the broker
//! redelivers the messages, and the journal shows whether the commit took effect.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;
use licet_schema::{
    Code, Output, Refusal, Timestamp,
    entity::{Digest, Keyed, journal, mention},
    message::RequestRefused,
};
use sea_orm::{ConnectionTrait, ModelTrait};
use tracing::debug;
use uuid::Uuid;

use super::{
    Resources,
    duplicate_check::DuplicateCheck,
    intake::Work,
    journal::{self as stored, JournalError, StoredOutput},
    offload::{OffloadError, offload, weight},
    worker::{AnyRows, AnyWorker},
};
use crate::{
    decision::{Context, Decision, RuleError},
    fingerprint::Changes,
    rows::{Defect, Rows, TableVisitor},
    store::{Lock, Source, StoreError, Transaction, Writes, clock_difference},
};

/// The number of times a batch is restarted because of a conflict with another transaction before
/// it is split.
const CONTENTIONS_MAX: u32 = 20;

/// The result for one message.
pub(super) enum Settled {
    /// The message was decided, now or earlier. Contains its outputs.
    Decided(Work, Arc<Vec<StoredOutput>>),
    /// The message cannot be decided, even in a batch of its own.
    Failed(Work, MessageError),
}

/// The reason a message cannot be decided.
#[derive(Debug, thiserror::Error)]
pub(super) enum MessageError {
    /// The database rejected the message, or there were too many conflicts with other transactions.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The journal row of a message that was decided earlier is damaged.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A rule found a defect of the program.
    #[error("a rule found a defect: {0}")]
    Defect(#[from] Defect),
    /// A rule panicked.
    #[error("a rule panicked: {0}")]
    Panicked(String),
}

impl MessageError {
    /// Whether the program is at fault.
    pub(super) fn is_defect(&self) -> bool {
        matches!(self, Self::Defect(_) | Self::Panicked(_))
    }
}

/// The reason a batch was not settled, although no message is the cause.
#[derive(Debug, thiserror::Error)]
pub(super) enum BatchError {
    /// The database is unavailable, or it cannot be used as it is set up. The outcome of the batch
    /// is unknown.
    #[error(transparent)]
    Unavailable(StoreError),
    /// The program is stopping.
    #[error("the program is stopping")]
    Stopping,
}

/// The reason an attempt to process a batch failed.
enum AttemptError {
    Message(MessageError),
    Batch(BatchError),
}

impl From<StoreError> for AttemptError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable { .. } | StoreError::Misconfigured { .. } => {
                Self::Batch(BatchError::Unavailable(error))
            }
            StoreError::Contended { .. } | StoreError::Rejected { .. } => Self::Message(error.into()),
        }
    }
}

impl From<Defect> for AttemptError {
    fn from(defect: Defect) -> Self {
        Self::Message(defect.into())
    }
}

impl From<JournalError> for AttemptError {
    fn from(error: JournalError) -> Self {
        Self::Message(error.into())
    }
}

/// Settles a batch. A message that cannot be decided does not affect other messages, because the
/// batch is split in half until that message is in a batch of its own.
///
/// A table that was changed by hand also makes the database reject data. The setup of the database
/// is therefore checked before the first split, and again before a message counts as failed.
///
/// # Errors
/// See [`BatchError`]. No message may be acknowledged.
pub(super) async fn settle(
    worker: &Arc<dyn AnyWorker>,
    resources: &Resources,
    duplicate_check: &DuplicateCheck,
    work: Vec<Work>,
) -> Result<Vec<Settled>, BatchError> {
    settle_or_split(worker, resources, duplicate_check, work, false).await
}

/// Settles a batch. `checked` states whether the setup was checked because a larger batch failed.
fn settle_or_split<'a>(
    worker: &'a Arc<dyn AnyWorker>,
    resources: &'a Resources,
    duplicate_check: &'a DuplicateCheck,
    work: Vec<Work>,
    checked: bool,
) -> BoxFuture<'a, Result<Vec<Settled>, BatchError>> {
    Box::pin(async move {
        if work.is_empty() {
            return Ok(Vec::new());
        }
        let work = Arc::new(work);
        let mut repeated = false;
        let error = loop {
            let error = match attempts(worker, resources, duplicate_check, &work).await {
                Ok(outputs) => {
                    let settled = unshared(work).into_iter().zip(outputs);
                    return Ok(settled.map(|(work, outputs)| Settled::Decided(work, outputs)).collect());
                }
                Err(AttemptError::Batch(error)) => return Err(error),
                Err(AttemptError::Message(error)) => error,
            };
            let is_single = work.len() == 1;
            if !matches!(error, MessageError::Store(_)) || (checked && !is_single) {
                break error;
            }
            check_set_up(worker, resources).await?;
            // The setup may have been corrected since the attempt, so a single message is tried once more.
            if !is_single || repeated {
                break error;
            }
            repeated = true;
        };
        let mut first = unshared(work);
        if first.len() == 1 {
            return Ok(first.pop().map(|work| Settled::Failed(work, error)).into_iter().collect());
        }
        let second = first.split_off(first.len() / 2);
        let mut settled = settle_or_split(worker, resources, duplicate_check, first, true).await?;
        settled.extend(settle_or_split(worker, resources, duplicate_check, second, true).await?);
        Ok(settled)
    })
}

/// Checks that the database is set up as this worker needs it.
async fn check_set_up(worker: &Arc<dyn AnyWorker>, resources: &Resources) -> Result<(), BatchError> {
    let checking = resources.store.problems(worker.changes());
    let problems = tokio::time::timeout(resources.limits.database_timeout(), checking).await;
    let problems = problems.unwrap_or_else(|_| Err(StoreError::silent())).map_err(BatchError::Unavailable)?;
    if problems.is_empty() { Ok(()) } else { Err(BatchError::Unavailable(StoreError::misconfigured(&problems))) }
}

/// Takes the batch out of its `Arc`. The fold has returned, so there is no other reference.
fn unshared(work: Arc<Vec<Work>>) -> Vec<Work> {
    Arc::into_inner(work).unwrap_or_else(|| unreachable!("the fold over the batch has ended"))
}

async fn attempts(
    worker: &Arc<dyn AnyWorker>,
    resources: &Resources,
    duplicate_check: &DuplicateCheck,
    work: &Arc<Vec<Work>>,
) -> Result<Vec<Arc<Vec<StoredOutput>>>, AttemptError> {
    let mut looks_up = duplicate_check.looks_up(work.iter().any(Work::may_be_duplicate));
    let mut contentions = 0;
    loop {
        let attempted = attempt(worker, resources, duplicate_check, work, looks_up);
        let attempted = tokio::time::timeout(resources.limits.database_timeout(), attempted).await;
        match attempted.unwrap_or_else(|_| Err(StoreError::silent().into())) {
            Err(AttemptError::Message(MessageError::Store(StoreError::Contended { .. }))) if !looks_up => {
                looks_up = true;
            }
            Err(AttemptError::Message(MessageError::Store(StoreError::Contended { .. })))
                if contentions < CONTENTIONS_MAX =>
            {
                contentions += 1;
                resources.clock.sleep(jitter(contentions)).await;
            }
            // Another transaction holds its locks for a long time, such as a change of the tables.
            Err(AttemptError::Message(MessageError::Store(error))) if !error.may_blame_a_message() => {
                return Err(AttemptError::Batch(BatchError::Unavailable(error)));
            }
            outcome => return outcome,
        }
    }
}

/// A random pause, so that two conflicting transactions do not conflict again. Its upper bound
/// increases from 2 ms to 64 ms.
fn jitter(contentions: u32) -> Duration {
    let most_us = 1000_u128 << contentions.min(6);
    let random = Uuid::new_v4().as_u128() % most_us;
    Duration::from_micros(u64::try_from(random).unwrap_or(u64::MAX))
}

async fn attempt(
    worker: &Arc<dyn AnyWorker>,
    resources: &Resources,
    duplicate_check: &DuplicateCheck,
    work: &Arc<Vec<Work>>,
    looks_up: bool,
) -> Result<Vec<Arc<Vec<StoredOutput>>>, AttemptError> {
    if !worker.changes() {
        let view = resources.store.snapshot().await?;
        let folded = decide(worker, resources, work, (0..work.len()).collect(), &view).await?;
        let answer = |(index, work): (usize, &Work)| {
            let outputs = folded.outputs.get(&index).cloned();
            outputs.ok_or_else(|| Defect::violated("every message of a batch is answered", work.id).into())
        };
        return work.iter().enumerate().map(answer).collect();
    }
    let transaction = resources.store.begin().await?;
    let known = if looks_up { journaled(&transaction, work).await? } else { HashMap::new() };
    if work.iter().any(|work| !work.may_be_duplicate() && known.contains_key(&work.id)) {
        duplicate_check.found_unsuspected();
    }
    let fresh = fresh(work, &known);
    let mut folded = if worker.ends_by_clock() && clock_differs(worker, resources, &transaction).await? {
        Folded::without_effect(worker, &fresh, resources.clock.now())
    } else {
        decide(worker, resources, work, fresh, &transaction).await?
    };
    // The key of the journal does not detect duplicates of messages that add no journal row.
    let unkeyed = !looks_up && folded.outputs.len() > folded.journal.len();
    if unkeyed && !journaled(&transaction, work).await?.is_empty() {
        return Err(StoreError::contended("a message of the batch was decided before").into());
    }
    if !folded.journal.is_empty() {
        let mut writes = Writes::new(transaction.get_database_backend());
        stored::insert(&transaction, &mut writes, &mut folded.journal).await?;
        writes.insert::<mention::Entity>(&folded.mentions.iter().collect::<Vec<_>>());
        folded.rows.write(&mut writes);
        writes.run(&transaction).await?;
        transaction.commit().await?;
    }
    answers(work, &known, &folded)
}

/// Whether the clock differs so much from the clock of the database that nothing may be ended.
async fn clock_differs(
    worker: &Arc<dyn AnyWorker>,
    resources: &Resources,
    transaction: &Transaction,
) -> Result<bool, StoreError> {
    let difference = clock_difference(transaction, &resources.clock).await?;
    if let Some(difference) = difference {
        debug!(worker = worker.name(), "nothing is decided: {difference}");
    }
    Ok(difference.is_some())
}

/// Loads the rows that these messages of the batch need, and decides the messages.
async fn decide(
    worker: &Arc<dyn AnyWorker>,
    resources: &Resources,
    work: &Arc<Vec<Work>>,
    indices: Vec<usize>,
    transaction: &Transaction,
) -> Result<Folded, AttemptError> {
    let inputs: Vec<_> = indices.iter().filter_map(|&index| work[index].input.as_ref().ok()).collect();
    let rows = if inputs.is_empty() { worker.no_rows() } else { worker.load(transaction, &inputs).await? };
    // Read the time after acquiring the locks. Of two conflicting batches, the first to acquire the
    // locks then has the earlier time.
    fold(worker, resources, work, indices, rows, resources.clock.now()).await
}

/// The journal rows of these messages.
async fn journaled(transaction: &Transaction, work: &[Work]) -> Result<HashMap<Uuid, journal::Model>, StoreError> {
    let ids = work.iter().map(|work| vec![work.id.into()]).collect();
    let found = transaction.select::<journal::Entity>(&[journal::Column::Id], ids, Lock::None).await?;
    Ok(found.into_iter().map(|row| (row.id, row)).collect())
}

/// The indices of the messages to decide. These messages can be decided and are not in the journal.
/// If several messages have the same id, only the first is included.
fn fresh(work: &[Work], known: &HashMap<Uuid, journal::Model>) -> Vec<usize> {
    let mut seen = HashSet::new();
    let decidable = work.iter().enumerate().filter(|(_, work)| work.decidable);
    let first = decidable.filter(|(_, work)| seen.insert(work.id) && !known.contains_key(&work.id));
    first.map(|(index, _)| index).collect()
}

/// A decided batch, before it is written.
struct Folded {
    now: Timestamp,
    rows: Box<dyn AnyRows>,
    journal: Vec<journal::Model>,
    mentions: Vec<mention::Model>,
    /// The outputs, by index of the message in the batch.
    outputs: HashMap<usize, Arc<Vec<StoredOutput>>>,
}

impl Folded {
    /// The result for messages that have no effect and no outputs.
    fn without_effect(worker: &Arc<dyn AnyWorker>, indices: &[usize], now: Timestamp) -> Self {
        let outputs = indices.iter().map(|&index| (index, Arc::default())).collect();
        Self { now, rows: worker.no_rows(), journal: Vec::new(), mentions: Vec::new(), outputs }
    }
}

/// Applies the rules to the messages in order, including signatures.
async fn fold(
    worker: &Arc<dyn AnyWorker>,
    resources: &Resources,
    work: &Arc<Vec<Work>>,
    indices: Vec<usize>,
    mut rows: Box<dyn AnyRows>,
    now: Timestamp,
) -> Result<Folded, AttemptError> {
    let (worker, work) = (worker.clone(), work.clone());
    let (keyring, terms) = (resources.keyring.clone(), resources.terms.clone());
    let weight = indices.iter().map(|&index| weight(&work[index].delivery.body)).sum();
    let folding = move || -> Result<Folded, Defect> {
        let mut journal = Vec::with_capacity(indices.len());
        let mut mentions = Vec::new();
        let mut outputs = HashMap::with_capacity(indices.len());
        for index in indices {
            let work = &work[index];
            let (message_id, message_digest) = (work.id, work.digest);
            let sender = work.origin.sender.as_deref();
            let context = Context { now, keyring: &keyring, terms: &terms, message_id, message_digest, sender };
            let decided = match &work.input {
                Ok(input) => worker.decide(&context, &mut *rows, input),
                Err(refusal) => Err(refusal.clone().into()),
            };
            let decision = match decided {
                Ok(decision) => decision,
                Err(RuleError::Refused(refusal)) if !refusal.code.is_recorded() => {
                    outputs.insert(index, Arc::new(vec![unjournaled(work, now, refusal)?]));
                    continue;
                }
                Err(RuleError::Refused(refusal)) => refused(&*worker, work, &refusal),
                Err(RuleError::Defect(defect)) => return Err(defect),
            };
            let made = stored::outputs_of_decision(work.id, now, &decision)?;
            // A decision without outputs had no effect.
            if !made.is_empty() {
                let position = i64::try_from(journal.len()).unwrap_or(i64::MAX);
                journal.push(journal_row(work, &decision, now, position, stored::outputs_to_bytes(&made)?));
                let others = decision.mentions.iter().filter(|mentioned| Some(**mentioned) != decision.subject);
                mentions.extend(others.map(|&subject| mention::Model { subject, journal: work.id }));
            }
            outputs.insert(index, Arc::new(made));
        }
        journal.sort_unstable_by_key(|row| row.id);
        note_changes(&*rows, &mut journal, &mentions)?;
        Ok(Folded { now, rows, journal, mentions, outputs })
    };
    match offload(weight, folding).await {
        Ok(folded) => Ok(folded?),
        Err(OffloadError::Panicked(text)) => Err(AttemptError::Message(MessageError::Panicked(text))),
        Err(OffloadError::Stopping) => Err(AttemptError::Batch(BatchError::Stopping)),
    }
}

/// Stores in the first journal row of a batch how the batch changes the fingerprints of rows.
fn note_changes(rows: &dyn AnyRows, journal: &mut [journal::Model], mentions: &[mention::Model]) -> Result<(), Defect> {
    let mut changes = Changes::default();
    rows.note_changes(&mut changes);
    changes.add_inserted::<journal::Entity>(journal);
    changes.add_inserted::<mention::Entity>(mentions);
    if let Some(first) = journal.first_mut() {
        first.changes = Some(changes.to_bytes()?);
    }
    Ok(())
}

/// Creates the decision for a refusal. The refusal belongs to the history of its subject only if
/// the sender had already proved that the subject is theirs.
fn refused(worker: &dyn AnyWorker, work: &Work, refusal: &Refusal) -> Decision {
    let decision = Decision::refused(refusal, &work.origin.kind);
    let proved = work.input.as_ref().ok().filter(|_| !refusal.code.is_unproven());
    Decision { subject: proved.and_then(|input| worker.subject(input)), ..decision }
}

/// Creates a journal row. `position` is the place of the message in its batch. The row gets its
/// final position when it is written.
fn journal_row(work: &Work, decision: &Decision, now: Timestamp, position: i64, outputs: Vec<u8>) -> journal::Model {
    let code = match &decision.reply {
        Some(Output::RequestRefused(refused)) => Some(refused.code.to_string()),
        _ => None,
    };
    journal::Model {
        id: work.id,
        kind: work.origin.kind.clone(),
        sender: work.origin.sender.clone(),
        digest: Digest(work.digest),
        subject: decision.subject,
        code,
        decided_at: now,
        position,
        outputs,
        changes: None,
    }
}

impl TableVisitor for Writes {
    fn table<E: Keyed>(&mut self, rows: &Rows<E>)
    where
        E::Model: ModelTrait<Entity = E>,
    {
        let (removed, changed, added) = (rows.removed(), rows.changed(), rows.added());
        let frees_keys = !removed.is_empty() || !changed.is_empty();
        self.delete::<E>(removed.into_iter().map(|row| E::key_values(&E::key(row))).collect());
        self.update::<E>(&changed);
        // In a unique index, an added row may take the place of a removed or changed row.
        if frees_keys && !added.is_empty() {
            self.then();
        }
        self.insert::<E>(&added);
    }
}

/// The outputs for each message of the batch. A duplicate gets the outputs of the first message
/// with its id. A different message with the same id gets `conflict`. A message that cannot be
/// decided is refused, unless it was decided earlier.
fn answers(
    work: &[Work],
    known: &HashMap<Uuid, journal::Model>,
    folded: &Folded,
) -> Result<Vec<Arc<Vec<StoredOutput>>>, AttemptError> {
    let decided_now = folded.outputs.keys().map(|&index| (work[index].id, work[index].digest));
    let digests: HashMap<Uuid, [u8; 32]> =
        known.values().map(|row| (row.id, row.digest.0)).chain(decided_now).collect();
    let decided: HashMap<Uuid, &Arc<Vec<StoredOutput>>> =
        folded.outputs.iter().map(|(&index, outputs)| (work[index].id, outputs)).collect();
    let answer = |work: &Work| -> Result<Arc<Vec<StoredOutput>>, AttemptError> {
        let digest = digests.get(&work.id);
        let same = digest.is_some_and(|digest| *digest == work.digest);
        // Permission and key are checked after the lookup in the journal, not before. A message
        // that was committed therefore keeps its outputs, even if its sender loses the permission,
        // or the worker loses the key, before the redelivery.
        if let (false, Err(refusal)) = (work.decidable || same, &work.input) {
            return Ok(Arc::new(vec![unjournaled(work, folded.now, refusal.clone())?]));
        }
        if digest.is_some() && !same {
            return Ok(Arc::new(vec![unjournaled(work, folded.now, conflict())?]));
        }
        if let Some(outputs) = decided.get(&work.id) {
            return Ok(Arc::clone(outputs));
        }
        let known = known.get(&work.id).ok_or_else(|| {
            Defect::violated("every message of a batch is in the journal or was decided just now", work.id)
        })?;
        Ok(Arc::new(stored::outputs_of(known)?))
    };
    work.iter().map(answer).collect()
}

fn conflict() -> Refusal {
    let detail = "this message_id was already used for another message: give each message its own message_id";
    Refusal::new(Code::Conflict, detail)
}

/// A refusal that adds no journal row: the message has the id of another message, its sender may
/// not send the message, or its token names a key that is not trusted.
fn unjournaled(work: &Work, now: Timestamp, refusal: Refusal) -> Result<StoredOutput, Defect> {
    let Refusal { code, detail } = refusal;
    // If the message is decided later, its own refusal has the name without a code.
    let name = match code {
        Code::Conflict | Code::UntrustedKey => format!("reply:request.refused:{code}"),
        _ => "reply:request.refused".to_owned(),
    };
    let refused = Output::RequestRefused(RequestRefused { code, detail, message_type: work.origin.kind.clone() });
    stored::reply_output(work.id, &name, now, &refused)
}
