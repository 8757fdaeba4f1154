//! One transaction for a batch: journal, locks, rules, rows, commit.
//!
//! What a crash means here: before the commit nothing has happened, after it everything has. A
//! commit whose answer was lost is unknown; the session is given up, the broker delivers again,
//! and the journal tells which it was.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use licet_schema::{
    Code, Output, Refusal, Timestamp,
    entity::{Keyed, journal, mention},
    message::RequestRefused,
};
use sea_orm::{ConnectionTrait, ModelTrait};
use uuid::Uuid;

use super::{
    Machine, Worker,
    compute::{Broken, computed, weight},
    intake::Work,
    stored::{self, StoredOutput},
};
use crate::{
    decision::{Context, Decision, Rows, Tables},
    store::{
        StoreError, Transaction, Writes,
        rows::{self, Lock},
    },
};

/// How often a batch that others were in the way of begins again before it is taken apart.
const CONTENTIONS_MAX: u32 = 20;

/// What became of a message.
pub(super) enum Settled<I> {
    /// It was decided, now or before: these are its outputs.
    Decided(Work<I>, Arc<Vec<StoredOutput>>),
    /// It alone cannot be decided, for this reason.
    Failed(Work<I>, Setback),
}

/// Why a batch was not decided.
#[derive(Debug, thiserror::Error)]
pub(super) enum Setback {
    /// The database's word.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A defect of a rule, or a row that cannot be.
    #[error("a rule panicked: {0}")]
    Panicked(String),
}

/// Whether ids are looked up in the journal before a batch is decided. Most messages are new, and where one is not,
/// the journal's key refuses the batch: then it is decided again with a look. Where that finds what bore no sign of
/// being known, the batches that come after it are looked up too, since whoever repeats messages repeats many.
#[derive(Debug, Default)]
pub(super) struct Lookout(AtomicU32);

/// For how many batches.
const LOOKS: u32 = 256;

impl Lookout {
    /// Whether to look for this batch. `doubtful`: one of its messages may be known.
    fn looks_up(&self, doubtful: bool) -> bool {
        let alarmed = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        alarmed.is_ok() || doubtful
    }

    fn alarm(&self) {
        self.0.store(LOOKS, Ordering::Relaxed);
    }
}

/// Settles a batch. A message that fails takes only itself down: the batch is halved until it is
/// alone.
///
/// # Errors
/// The database is away; nothing is known of the batch.
pub(super) fn settle<'a, W: Worker>(
    worker: &'a Arc<W>,
    machine: &'a Machine,
    lookout: &'a Lookout,
    work: Vec<Work<W::Input>>,
) -> BoxFuture<'a, Result<Vec<Settled<W::Input>>, String>> {
    Box::pin(async move {
        if work.is_empty() {
            return Ok(Vec::new());
        }
        let work = Arc::new(work);
        let setback = match attempts(worker, machine, lookout, &work).await {
            Ok(outputs) => {
                let work = unshared(work);
                return Ok(work
                    .into_iter()
                    .zip(outputs)
                    .map(|(work, outputs)| Settled::Decided(work, outputs))
                    .collect());
            }
            Err(Setback::Store(StoreError::Away(cause))) => return Err(format!("the database is away: {cause}")),
            Err(setback) => setback,
        };
        let mut first = unshared(work);
        if first.len() == 1 {
            return Ok(first.pop().map(|work| Settled::Failed(work, setback)).into_iter().collect());
        }
        let second = first.split_off(first.len() / 2);
        let mut settled = settle(worker, machine, lookout, first).await?;
        settled.extend(settle(worker, machine, lookout, second).await?);
        Ok(settled)
    })
}

/// The fold has returned, so that nobody else holds the batch any more.
fn unshared<I>(work: Arc<Vec<Work<I>>>) -> Vec<Work<I>> {
    Arc::into_inner(work).unwrap_or_else(|| unreachable!("the fold over the batch has ended"))
}

async fn attempts<W: Worker>(
    worker: &Arc<W>,
    machine: &Machine,
    lookout: &Lookout,
    work: &Arc<Vec<Work<W::Input>>>,
) -> Result<Vec<Arc<Vec<StoredOutput>>>, Setback> {
    let mut looks = lookout.looks_up(work.iter().any(Work::may_be_known));
    let mut contentions = 0;
    loop {
        let attempted = attempt(worker, machine, lookout, work, looks);
        let attempted = tokio::time::timeout(machine.limits.database_timeout(), attempted).await;
        match attempted.unwrap_or_else(|_| Err(StoreError::Away("it does not answer".into()).into())) {
            Err(Setback::Store(StoreError::Contended(_))) if !looks => looks = true,
            Err(Setback::Store(StoreError::Contended(_))) if contentions < CONTENTIONS_MAX => {
                contentions += 1;
                machine.clock.sleep(jitter(contentions)).await;
            }
            outcome => return outcome,
        }
    }
}

/// A pause that grows and that two who met will not share: up to 2 ms, 4 ms, … 64 ms.
fn jitter(contentions: u32) -> Duration {
    let most_us = 1000_u64 << contentions.min(6);
    let random = u64::from_le_bytes(*Uuid::new_v4().as_bytes().first_chunk().unwrap_or(&[0; 8]));
    Duration::from_micros(random % most_us)
}

async fn attempt<W: Worker>(
    worker: &Arc<W>,
    machine: &Machine,
    lookout: &Lookout,
    work: &Arc<Vec<Work<W::Input>>>,
    looks: bool,
) -> Result<Vec<Arc<Vec<StoredOutput>>>, Setback> {
    if !worker.changes() {
        let view = machine.store.snapshot().await?;
        let folded = decide(worker, machine, work, (0..work.len()).collect(), &view).await?;
        let answer = |index| folded.outputs.get(&index).cloned().unwrap_or_default();
        return Ok((0..work.len()).map(answer).collect());
    }
    let transaction = machine.store.begin().await?;
    let known = if looks { journaled(&transaction, work).await? } else { HashMap::new() };
    if work.iter().any(|work| !work.may_be_known() && known.contains_key(&work.id)) {
        lookout.alarm();
    }
    let folded = decide(worker, machine, work, fresh(work, &known), &transaction).await?;
    // What leaves no row is not told by the journal's key.
    let untold = !looks && folded.outputs.len() > folded.journal.len();
    if untold && !journaled(&transaction, work).await?.is_empty() {
        return Err(StoreError::Contended("it was decided before".into()).into());
    }
    if !folded.journal.is_empty() {
        let mut writes = Writes::new(transaction.get_database_backend());
        writes.insert::<journal::Entity>(&folded.journal.iter().collect::<Vec<_>>());
        writes.insert::<mention::Entity>(&folded.mentions.iter().collect::<Vec<_>>());
        write(&mut writes, &folded.tables);
        writes.run(&transaction).await?;
        transaction.commit().await?;
    }
    Ok(answers(work, &known, &folded)?)
}

/// Loads what these messages of the batch need, and decides them.
async fn decide<W: Worker>(
    worker: &Arc<W>,
    machine: &Machine,
    work: &Arc<Vec<Work<W::Input>>>,
    indices: Vec<usize>,
    transaction: &Transaction,
) -> Result<Folded, Setback> {
    let inputs: Vec<_> = indices.iter().filter_map(|&index| work[index].input.as_ref().ok()).collect();
    let tables = if inputs.is_empty() { Tables::default() } else { worker.load(transaction, &inputs).await? };
    // After the locks: whoever held them first has the earlier time.
    fold(worker, machine, work, indices, tables, machine.clock.now()).await
}

/// What the journal knows of these ids.
async fn journaled<I>(
    transaction: &Transaction,
    work: &[Work<I>],
) -> Result<HashMap<Uuid, journal::Model>, StoreError> {
    let ids = work.iter().map(|work| vec![work.id.into()]).collect();
    let found = rows::select::<journal::Entity>(transaction, &[journal::Column::Id], ids, Lock::None).await?;
    Ok(found.into_iter().map(|row| (row.id, row)).collect())
}

/// The messages to decide: whose sender may send them, not in the journal, and each id once (its
/// first bearer decides it).
fn fresh<I>(work: &[Work<I>], known: &HashMap<Uuid, journal::Model>) -> Vec<usize> {
    let mut seen = std::collections::HashSet::new();
    let permitted = work.iter().enumerate().filter(|(_, work)| work.permitted);
    let first = permitted.filter(|(_, work)| seen.insert(work.id) && !known.contains_key(&work.id));
    first.map(|(index, _)| index).collect()
}

/// A decided batch, before it is written.
struct Folded {
    now: Timestamp,
    tables: Tables,
    journal: Vec<journal::Model>,
    mentions: Vec<mention::Model>,
    /// By the message's place in the batch.
    outputs: HashMap<usize, Arc<Vec<StoredOutput>>>,
}

/// The fold over the batch: rules and signatures.
async fn fold<W: Worker>(
    worker: &Arc<W>,
    machine: &Machine,
    work: &Arc<Vec<Work<W::Input>>>,
    indices: Vec<usize>,
    mut tables: Tables,
    now: Timestamp,
) -> Result<Folded, Setback> {
    let (worker, work) = (worker.clone(), work.clone());
    let (keyring, terms) = (machine.keyring.clone(), machine.terms.clone());
    let weight = indices.iter().map(|&index| weight(&work[index].delivery.body)).sum();
    let folding = move || {
        let mut journal = Vec::with_capacity(indices.len());
        let mut mentions = Vec::new();
        let mut outputs = HashMap::with_capacity(indices.len());
        for index in indices {
            let work = &work[index];
            let context = Context { now, keyring: &keyring, terms: &terms, message_id: work.id };
            let decided = work.input.as_ref().map_err(Refusal::clone);
            let decided = decided.and_then(|input| worker.decide(&context, &mut tables, input));
            let decision = decided.unwrap_or_else(|refusal| refused(&*worker, work, &refusal));
            let made = stored::of_decision(work.id, work.format, now, &decision)?;
            // What has nothing to say has done nothing.
            if !made.is_empty() {
                journal.push(journal_row(work, &decision, now, stored::outputs_to_bytes(&made)?));
                let others = decision.mentions.iter().filter(|purchase| Some(**purchase) != decision.subject);
                mentions.extend(others.map(|&subject| mention::Model { subject, journal: work.id }));
            }
            outputs.insert(index, Arc::new(made));
        }
        journal.sort_unstable_by_key(|row| row.id);
        Ok(Folded { now, tables, journal, mentions, outputs })
    };
    match computed(weight, folding).await {
        Ok(folded) => Ok(folded.map_err(StoreError::Refused)?),
        Err(Broken::Panicked(text)) => Err(Setback::Panicked(text)),
        // No message is to blame.
        Err(Broken::Ending) => Err(StoreError::Away("the program is ending".into()).into()),
    }
}

/// A refusal, in the story of its purchase if it came after the proof that it belongs there.
fn refused<W: Worker>(worker: &W, work: &Work<W::Input>, refusal: &Refusal) -> Decision {
    let decision = Decision::refused(refusal, &work.past.kind);
    let unproven = matches!(
        refusal.code,
        Code::Altered | Code::UntrustedKey | Code::Malformed | Code::UnknownCertificate | Code::UnknownLicense
    );
    let subject = work.input.as_ref().ok().filter(|_| !unproven).and_then(|input| worker.subject(input));
    Decision { subject, ..decision }
}

pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a word")
}

fn journal_row<I>(work: &Work<I>, decision: &Decision, now: Timestamp, outputs: Vec<u8>) -> journal::Model {
    let code = match &decision.reply {
        Some(Output::RequestRefused(refused)) => Some(refused.code.to_string()),
        _ => None,
    };
    journal::Model {
        id: work.id,
        kind: work.past.kind.clone(),
        sender: work.past.sender.clone(),
        digest: work.digest.to_vec(),
        subject: decision.subject,
        code,
        decided_at: now.as_millis(),
        outputs,
    }
}

/// What became of the rows, by table and kind of change.
fn write(writes: &mut Writes, tables: &Tables) {
    table(writes, &tables.contents);
    table(writes, &tables.settlements);
    table(writes, &tables.purchases);
    table(writes, &tables.certificates);
    table(writes, &tables.pending_receptions);
    table(writes, &tables.licenses);
    table(writes, &tables.returns);
    table(writes, &tables.collections);
    table(writes, &tables.privileges);
    table(writes, &tables.payouts);
    table(writes, &tables.accounts);
    table(writes, &tables.entries);
    table(writes, &tables.unmatched_settlements);
}

fn table<E: Keyed>(writes: &mut Writes, rows: &Rows<E>)
where
    E::Model: ModelTrait<Entity = E>,
{
    let (removed, changed, added) = (rows.removed(), rows.changed(), rows.added());
    let makes_room = !removed.is_empty() || !changed.is_empty();
    writes.delete::<E>(removed.into_iter().map(E::key_values).collect());
    writes.update::<E>(&changed);
    // What is added may take a place, under a unique index, that is left so.
    if makes_room && !added.is_empty() {
        writes.then();
    }
    writes.insert::<E>(&added);
}

/// The outputs for each message of the batch: its own, or those of the first bearer of its id if
/// it is the same message, or `conflict` if it is another. Whoever may not send it gets only what
/// was decided for them before.
fn answers<I>(
    work: &[Work<I>],
    known: &HashMap<Uuid, journal::Model>,
    folded: &Folded,
) -> Result<Vec<Arc<Vec<StoredOutput>>>, StoreError> {
    let digests: HashMap<Uuid, &[u8]> =
        known.values().chain(&folded.journal).map(|row| (row.id, row.digest.as_slice())).collect();
    let decided: HashMap<Uuid, &Arc<Vec<StoredOutput>>> =
        folded.outputs.iter().map(|(&index, outputs)| (work[index].id, outputs)).collect();
    let answer = |work: &Work<I>| {
        let digest = digests.get(&work.id);
        let stands = digest.is_some_and(|digest| *digest == work.digest);
        if let (false, Err(refusal)) = (work.permitted || stands, &work.input) {
            return Ok(Arc::new(vec![unjournaled(work, "reply:request.refused", folded.now, refusal.clone())]));
        }
        if digest.is_some() && !stands {
            return Ok(Arc::new(vec![unjournaled(work, "reply:request.refused:conflict", folded.now, conflict())]));
        }
        if let Some(outputs) = decided.get(&work.id) {
            return Ok(Arc::clone(outputs));
        }
        let outputs = known.get(&work.id).map(stored::outputs_of).transpose().map_err(StoreError::Refused)?;
        Ok(Arc::new(outputs.unwrap_or_default()))
    };
    work.iter().map(answer).collect()
}

fn conflict() -> Refusal {
    let detail = "this message_id was used before, for another message: give each message its own";
    Refusal::new(Code::Conflict, detail)
}

/// A refusal that leaves no row: its id is another message's, or its sender a stranger.
fn unjournaled<I>(work: &Work<I>, name: &str, now: Timestamp, refusal: Refusal) -> StoredOutput {
    let Refusal { code, detail } = refusal;
    let refused = Output::RequestRefused(RequestRefused { code, detail, message_type: work.past.kind.clone() });
    stored::refusal(work.id, name, work.format, now, &refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_looked_up_where_one_may_be_known_and_for_a_while_after_one_was() {
        let lookout = Lookout::default();
        assert!(!lookout.looks_up(false));
        assert!(lookout.looks_up(true));
        assert!(!lookout.looks_up(false), "one that came again says nothing of others");
        lookout.alarm();
        assert!((0..LOOKS).all(|_| lookout.looks_up(false)));
        assert!(!lookout.looks_up(false));
    }
}
