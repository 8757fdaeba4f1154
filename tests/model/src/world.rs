//! Where messages are delivered: the rules on their stage, the model beside them, a small journal in
//! front. Every message is held against both judges.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use licet_common::decision::Tables;
use licet_schema::{ExternalId, Name, Output, Request, entity::Outcome};
use uuid::Uuid;

use super::{invariants, model::Model};
use crate::testing::{Stage, verdict};

/// What a message brought about: the reply, and what everybody heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) reply: Option<Output>,
    pub(super) events: Vec<Output>,
}

/// Rules, model and journal, with all that was told so far.
pub(super) struct World {
    pub(super) stage: Stage,
    pub(super) model: Model,
    journal: BTreeMap<u128, Rc<Entry>>,
    /// The settlements that a provider reported as completed.
    paid: BTreeSet<(Name, ExternalId)>,
    /// Every message that met the rules.
    log: Vec<Rc<Entry>>,
}

/// A message that met the rules: when, and what it brought about.
struct Entry {
    now: i64,
    id: u128,
    request: Request,
    heard: Heard,
}

impl Clone for World {
    fn clone(&self) -> Self {
        let stage = Stage {
            tables: self.stage.tables.clone(),
            keyring: self.stage.keyring.clone(),
            terms: self.stage.terms.clone(),
            now_ms: self.stage.now_ms,
            messages: self.stage.messages,
            last: self.stage.last.clone(),
        };
        let (model, journal) = (self.model.clone(), self.journal.clone());
        Self { stage, model, journal, paid: self.paid.clone(), log: self.log.clone() }
    }
}

impl World {
    pub(super) fn new() -> Self {
        let (journal, paid) = (BTreeMap::new(), BTreeSet::new());
        Self { stage: Stage::new(), model: Model::default(), journal, paid, log: Vec::new() }
    }

    /// Delivers a message that is expected to be sound.
    pub(super) fn tell(&mut self, id: u128, request: Request) -> Heard {
        self.deliver(id, &request).unwrap_or_else(|wrong| panic!("{wrong}"))
    }

    /// Delivers a message.
    ///
    /// # Errors
    /// The rules answered otherwise than the model, or left rows that break an invariant.
    pub(super) fn deliver(&mut self, id: u128, request: &Request) -> Result<Heard, String> {
        if let Some(known) = self.journal.get(&id) {
            assert_eq!(known.request, *request, "the histories give no id to two messages");
            return Ok(known.heard.clone());
        }
        let before = self.stage.tables.clone();
        let heard = self.decide(id, request);
        let now = self.stage.now_ms;
        let expected = normal(self.model.hear(now, Uuid::from_u128(id), request, heard.reply.as_ref()));
        let entry = Rc::new(Entry { now, id, request: request.clone(), heard: heard.clone() });
        self.log.push(Rc::clone(&entry));
        self.count_money(request, &heard);
        if expected != heard {
            return Err(
                self.wrong(request, &format!("the model expects\n  {expected:#?}\nand the rules say\n  {heard:#?}"))
            );
        }
        let mut broken = invariants::broken(&self.stage.tables);
        broken.extend(invariants::changed_without_right(&before, &self.stage.tables));
        broken.extend(self.lost_money());
        broken.extend(self.let_go(&before, request, &heard));
        broken.extend(self.other_books());
        if !broken.is_empty() {
            return Err(self.wrong(request, &broken.join("\n")));
        }
        if is_journaled(request, &heard) {
            self.journal.insert(id, entry);
        }
        Ok(heard)
    }

    /// All that the answers to what comes depend on.
    pub(super) fn state(&self) -> String {
        format!("{} {:?} {:?}", self.stage.now_ms, self.paid, self.stage.tables)
    }

    /// Takes a message out of the journal, if it is there.
    pub(super) fn forget(&mut self, id: u128) {
        self.journal.remove(&id);
    }

    /// Delivers everything once more under its own id.
    pub(super) fn repeat_all(&mut self) {
        for known in self.journal.values().cloned().collect::<Vec<_>>() {
            assert_eq!(self.deliver(known.id, &known.request).as_ref(), Ok(&known.heard));
        }
    }

    /// The rules' word.
    fn decide(&mut self, id: u128, request: &Request) -> Heard {
        self.stage.messages = id - 1;
        let reply = match request.check() {
            Ok(()) => self.stage.tell(request.clone()),
            Err(_) => Some(self.stage.ask(request.clone())),
        };
        let mut events = Vec::new();
        if let Some(last) = &self.stage.last {
            events.extend(reply.as_ref().filter(|_| last.announced).and_then(Output::public));
            events.extend(last.events.iter().cloned());
        }
        normal(Heard { reply, events })
    }

    /// What a provider told as paid, and not as taken back since.
    fn count_money(&mut self, request: &Request, heard: &Heard) {
        match (request, &heard.reply) {
            (Request::SettlementCompletion(body), _) if body.provider.as_str() != "licet" => {
                self.paid.insert((body.provider.clone(), body.settlement.clone()));
            }
            (Request::SettlementReversal(body), Some(Output::SettlementRegistered(reply))) if !reply.repeated => {
                self.paid.remove(&(body.provider.clone(), body.settlement.clone()));
            }
            _ => {}
        }
    }

    /// Money that was kept goes with a settlement of its own id, matched or taken back, and not else.
    fn let_go(&self, before: &Tables, request: &Request, heard: &Heard) -> Vec<String> {
        let by = match (request, &heard.reply) {
            (Request::SettlementCompletion(body), Some(Output::SettlementRegistered(_))) => {
                Some((body.provider.as_str(), body.settlement.as_str()))
            }
            (Request::SettlementReversal(body), Some(Output::SettlementRegistered(_))) => {
                Some((body.provider.as_str(), body.settlement.as_str()))
            }
            _ => None,
        };
        let after = &self.stage.tables.unmatched_settlements;
        let gone = before.unmatched_settlements.iter().filter(|row| after.get(&row.id).is_none());
        let lost = gone.filter(|row| by != Some((&row.provider, &row.settlement)));
        lost.map(|row| format!("the money of {}:{} was let go", row.provider, row.settlement)).collect()
    }

    /// Every completion that a provider told is a settlement (perhaps taken back since), or is kept.
    fn lost_money(&self) -> Vec<String> {
        let tables = &self.stage.tables;
        let kept = |key: &&(Name, ExternalId)| {
            let (provider, settlement) = (key.0.to_string(), key.1.to_string());
            let row = tables.settlements.get(&(provider.clone(), settlement.clone()));
            row.is_some_and(|row| row.outcome != Outcome::Failed && row.amount_minor.is_some())
                || tables
                    .unmatched_settlements
                    .iter()
                    .any(|row| row.provider == provider && row.settlement == settlement)
        };
        let lost = self.paid.iter().filter(|key| !kept(key));
        lost.map(|(provider, settlement)| format!("the money of {provider}:{settlement} is lost")).collect()
    }

    /// Accounts, unmatched money and pending receptions are those of the model.
    pub(super) fn other_books(&self) -> Vec<String> {
        let tables = &self.stage.tables;
        let mut balances = BTreeMap::<&str, i64>::new();
        for entry in tables.entries.iter() {
            *balances.entry(&entry.account).or_default() += entry.delta;
        }
        let accounts: BTreeSet<_> =
            balances.keys().copied().chain(self.model.ledger.keys().map(String::as_str)).collect();
        let mut broken = Vec::new();
        for account in accounts {
            let (booked, expected) = (balances.get(account).copied().unwrap_or_default(), self.model.balance(account));
            if booked != expected {
                broken.push(format!("{account} has {booked} points, the model expects {expected}"));
            }
        }
        let kept: BTreeSet<_> = tables
            .unmatched_settlements
            .iter()
            .map(|row| (row.provider.clone(), row.settlement.clone(), row.amount_minor, row.currency.clone()))
            .collect();
        let expected = self.model.unmatched.iter().map(|one| {
            let (provider, settlement) = &one.key;
            let currency = one.amount.currency.to_string();
            (provider.to_string(), settlement.to_string(), one.amount.amount_minor.get(), currency)
        });
        if kept != expected.collect::<BTreeSet<_>>() {
            broken.push(format!("the money that is kept is {kept:?}, the model expects {:?}", self.model.unmatched));
        }
        let waiting: Vec<_> = tables.pending_receptions.iter().map(|row| row.id).collect();
        let expected: Vec<_> = self.model.purchases.keys().copied().filter(|id| self.model.waits(*id)).collect();
        if waiting != expected {
            broken.push(format!("pending receptions are {waiting:?}, the model expects {expected:?}"));
        }
        broken
    }

    fn wrong(&self, request: &Request, what: &str) -> String {
        let lines: Vec<_> = self.log.iter().map(|entry| line(entry)).collect();
        format!("after\n  {}\nwhich was\n  {request:#?}\n{what}", lines.join("\n  "))
    }

    /// What met the rules, and what it brought about.
    pub(super) fn heard(&self) -> impl ExactSizeIterator<Item = (&Request, &Heard)> {
        self.log.iter().map(|entry| (&entry.request, &entry.heard))
    }
}

/// Queries, and sweeps that found nothing, leave no row in the journal.
pub(super) fn is_journaled(request: &Request, heard: &Heard) -> bool {
    match request {
        Request::HoldingsQuery(_) | Request::StatusQuery(_) => false,
        Request::SweepDue(_) => !heard.events.is_empty(),
        _ => true,
    }
}

/// Without what the specification leaves open: sentences for people, the order of events, the order
/// of the certificates of a notice.
pub(super) fn normal(mut heard: Heard) -> Heard {
    for output in heard.reply.iter_mut().chain(&mut heard.events) {
        match output {
            Output::RequestRefused(body) => body.detail.clear(),
            Output::CertificateAccepted(body) => body.certificates.sort(),
            Output::HoldingsListed(body) => body.licenses.iter_mut().for_each(|one| one.returnable.sort()),
            _ => {}
        }
    }
    heard.events.sort_by_cached_key(|event| (event.kind(), event.subject(), format!("{event:?}")));
    heard
}

fn line(Entry { now, id, request, heard }: &Entry) -> String {
    let answer = heard.reply.as_ref().map_or("-".into(), verdict);
    let mut events: Vec<_> = heard.events.iter().map(Output::kind).collect();
    events.dedup();
    format!("{now} #{id} {} → {answer} {events:?}", request.kind())
}
