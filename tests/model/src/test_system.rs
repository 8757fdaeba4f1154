//! A test system that runs the rules and the reference model side by side, with a small journal.
//!
//! Every message is decided by the rules and predicted by the model, and the rows are checked.
//! There is no broker, no database and no runtime. A message that is delivered again under its own
//! id gets the response in the journal; under another id it is decided again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    rc::Rc,
};

use licet_common::{
    fixture::MemoryStore,
    rows::{RowSet, Rows, TableVisitor},
};
use licet_schema::{
    Code, Count, ExternalId, Name, Output, Request,
    entity::{Keyed, PayoutState, entry, payout, pending_reception, refund, settlement, unmatched_settlement},
    message::SettlementOutcome,
    money::Currency,
};
use licet_workers::{
    domain::Tables,
    fixture::{Fixture, outcome},
};
use sea_orm::ModelTrait;
use uuid::Uuid;

use crate::{invariants, model::Model, response::Response};

/// Rules, model and journal, with all responses so far.
#[derive(Clone)]
pub(crate) struct TestSystem {
    pub(crate) fixture: Fixture,
    pub(crate) model: Model,
    journal: BTreeMap<u128, Rc<Entry>>,
    /// The settlements that a provider has reported as completed and has not reversed since.
    paid: BTreeSet<(Name, ExternalId)>,
    /// Every message that was decided.
    log: Vec<Rc<Entry>>,
}

/// A decided message.
struct Entry {
    now: i64,
    id: u128,
    request: Request,
    response: Response,
}

impl TestSystem {
    pub(crate) fn new() -> Self {
        let (journal, paid) = (BTreeMap::new(), BTreeSet::new());
        Self { fixture: Fixture::new(), model: Model::default(), journal, paid, log: Vec::new() }
    }

    /// Delivers a message.
    ///
    /// # Panics
    /// [`TestSystem::deliver`] fails.
    pub(crate) fn send(&mut self, id: u128, request: Request) -> Response {
        self.deliver(id, &request).unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// Delivers a message.
    ///
    /// # Errors
    /// The response differs from the model's prediction, the rows violate an invariant, or a rule
    /// reports a defect.
    pub(crate) fn deliver(&mut self, id: u128, request: &Request) -> Result<Response, String> {
        if let Some(known) = self.journal.get(&id) {
            assert_eq!(known.request, *request, "the tests give each message its own id");
            return Ok(known.response.clone());
        }
        let before = self.fixture.store.clone();
        let response = self.decide(id, request)?;
        let now = self.fixture.now_ms;
        let predicted = self.model.predict(now, Uuid::from_u128(id), request, response.reply.as_ref()).normalized();
        let entry = Rc::new(Entry { now, id, request: request.clone(), response: response.clone() });
        self.log.push(Rc::clone(&entry));
        self.record_payment(request, &response);
        if predicted != response {
            let difference = format!("the model predicts\n  {predicted:#?}\nthe rules respond\n  {response:#?}");
            return Err(self.failure(request, &difference));
        }
        let mut violations = invariants::violations(&self.fixture.store);
        violations.extend(invariants::forbidden_changes(&before, &self.fixture.store));
        violations.extend(self.lost_payments());
        violations.extend(self.dropped_payments(&before, request, &response));
        violations.extend(self.differences());
        if !violations.is_empty() {
            return Err(self.failure(request, &violations.join("\n")));
        }
        if response.is_journaled(request) {
            self.journal.insert(id, entry);
        }
        Ok(response)
    }

    /// Everything that later responses depend on, as text.
    pub(crate) fn state(&self) -> String {
        let mut rows = RowText { store: &self.fixture.store, text: String::new() };
        Tables::default().visit(&mut rows);
        format!("{} {:?} {}", self.fixture.now_ms, self.paid, rows.text)
    }

    /// Removes a message from the journal, if it is there.
    pub(crate) fn forget(&mut self, id: u128) {
        self.journal.remove(&id);
    }

    /// Delivers every message again under its own id.
    pub(crate) fn redeliver_all(&mut self) {
        for known in self.journal.values().cloned().collect::<Vec<_>>() {
            assert_eq!(self.deliver(known.id, &known.request).as_ref(), Ok(&known.response));
        }
    }

    /// Decides a message by the rules.
    fn decide(&mut self, id: u128, request: &Request) -> Result<Response, String> {
        self.fixture.messages = id - 1;
        let reply = match request.check() {
            Ok(()) => {
                let decided = self.fixture.try_send(request.clone());
                decided.map_err(|defect| self.failure(request, &format!("a rule reports a defect: {defect}")))?
            }
            Err(_) => Some(self.fixture.ask(request.clone())),
        };
        let mut events = Vec::new();
        if let Some(last) = &self.fixture.last {
            events.extend(reply.as_ref().filter(|_| last.announced).and_then(Output::public));
            events.extend(last.events.iter().cloned());
        }
        Ok(Response { reply, events }.normalized())
    }

    fn record_payment(&mut self, request: &Request, response: &Response) {
        match (request, &response.reply) {
            (Request::SettlementCompletion(body), _) if body.provider.as_str() != "licet" => {
                self.paid.insert((body.provider.clone(), body.settlement.clone()));
            }
            (Request::SettlementReversal(body), Some(Output::SettlementRegistered(reply)))
                if !reply.repeated && reply.outcome != SettlementOutcome::Pending =>
            {
                self.paid.remove(&(body.provider.clone(), body.settlement.clone()));
            }
            _ => {}
        }
    }

    /// Unmatched money whose row was deleted, although no settlement with its id was registered or
    /// reversed by this message.
    fn dropped_payments(&self, before: &MemoryStore, request: &Request, response: &Response) -> Vec<String> {
        let registered = match (request, &response.reply) {
            (Request::SettlementCompletion(body), Some(Output::SettlementRegistered(_))) => {
                Some((&body.provider, &body.settlement))
            }
            (Request::SettlementReversal(body), Some(Output::SettlementRegistered(_))) => {
                Some((&body.provider, &body.settlement))
            }
            (Request::SettlementReinstatement(body), Some(Output::SettlementRegistered(_))) => {
                Some((&body.provider, &body.settlement))
            }
            (Request::SettlementAssignment(body), Some(Output::SettlementRegistered(_))) => {
                Some((&body.provider, &body.settlement))
            }
            _ => None,
        };
        let after = &self.fixture.store;
        let deleted = before
            .rows::<unmatched_settlement::Entity>()
            .filter(|row| after.get::<unmatched_settlement::Entity>(&row.id).is_none());
        let dropped = deleted.filter(|row| registered != Some((&row.provider, &row.settlement)));
        dropped.map(|row| format!("the money of {}:{} was dropped", row.provider, row.settlement)).collect()
    }

    /// Payments that a provider reported and that are neither registered nor recorded as unmatched.
    fn lost_payments(&self) -> Vec<String> {
        let store = &self.fixture.store;
        let kept = |key: &&(Name, ExternalId)| {
            let row = store.get::<settlement::Entity>(key);
            row.is_some_and(|row| row.outcome != SettlementOutcome::Failed && row.amount_minor.is_some())
                || store
                    .rows::<unmatched_settlement::Entity>()
                    .any(|row| (&row.provider, &row.settlement) == (&key.0, &key.1))
                || store
                    .rows::<refund::Entity>()
                    .any(|row| row.unmatched && (&row.provider, &row.settlement) == (&key.0, &key.1))
        };
        let lost = self.paid.iter().filter(|key| !kept(key));
        lost.map(|(provider, settlement)| format!("the money of {provider}:{settlement} is lost")).collect()
    }

    /// Differences between rows and model: account balances, unmatched money, payouts and pending
    /// receptions.
    pub(crate) fn differences(&self) -> Vec<String> {
        let store = &self.fixture.store;
        let mut balances = BTreeMap::<&str, i64>::new();
        for entry in store.rows::<entry::Entity>() {
            *balances.entry(&entry.account).or_default() += entry.delta;
        }
        let accounts: BTreeSet<_> =
            balances.keys().copied().chain(self.model.ledger.keys().map(String::as_str)).collect();
        let mut differences = Vec::new();
        for account in accounts {
            let (booked, predicted) = (balances.get(account).copied().unwrap_or(0), self.model.balance(account));
            if booked != predicted {
                differences.push(format!("{account} has {booked} points, but the model predicts {predicted}"));
            }
        }
        type Key<'a> =
            (&'a Name, &'a ExternalId, &'a Option<ExternalId>, Count, Currency, Code, Option<&'a ExternalId>);
        let unmatched: BTreeSet<Key<'_>> = store
            .rows::<unmatched_settlement::Entity>()
            .map(|row| {
                let by = row.refunded_by.as_ref();
                (&row.provider, &row.settlement, &row.refund, row.amount_minor, row.currency, row.reason, by)
            })
            .collect();
        let open = self.model.unmatched.iter().map(|one| (one, None));
        let returned = self.model.returned.iter().map(|(one, refund)| (one, Some(refund)));
        let predicted = open.chain(returned).map(|(one, by)| {
            let (provider, settlement) = &one.key;
            (provider, settlement, &one.refund, one.amount.amount_minor, one.amount.currency, one.reason, by)
        });
        if unmatched != predicted.collect::<BTreeSet<_>>() {
            let predicted = (&self.model.unmatched, &self.model.returned);
            differences.push(format!("unmatched money is {unmatched:?}, but the model predicts {predicted:?}"));
        }
        let payouts: BTreeSet<_> = store.rows::<payout::Entity>().map(payout_text).collect();
        let predicted = self.model.payouts.iter().map(|((provider, id), one)| {
            let (state, amount) = self.model.payout_state(one);
            format!("{provider}:{id} of {} is {state} with {amount:?}", one.license_return)
        });
        let predicted: BTreeSet<_> = predicted.collect();
        if payouts != predicted {
            differences.push(format!("the payouts are {payouts:?}, but the model predicts {predicted:?}"));
        }
        let pending: Vec<_> = store.rows::<pending_reception::Entity>().map(|row| row.id).collect();
        let purchases = self.model.purchases.keys().copied();
        let predicted: Vec<_> = purchases.filter(|id| self.model.awaits_reception(*id)).collect();
        if pending != predicted {
            differences.push(format!("pending receptions are {pending:?}, but the model predicts {predicted:?}"));
        }
        differences
    }

    fn failure(&self, request: &Request, reason: &str) -> String {
        let lines: Vec<_> = self.log.iter().map(|entry| entry.line()).collect();
        format!("{}\nlast message:\n  {request:#?}\n{reason}", lines.join("\n"))
    }

    /// Every message that was decided, and its response.
    pub(crate) fn log(&self) -> impl ExactSizeIterator<Item = (&Request, &Response)> {
        self.log.iter().map(|entry| (&entry.request, &entry.response))
    }
}

impl Entry {
    fn line(&self) -> String {
        let Self { now, id, request, response } = self;
        let reply = response.reply.as_ref().map_or("-".into(), outcome);
        let mut events: Vec<_> = response.events.iter().map(Output::kind).collect();
        events.dedup();
        format!("{now} #{id} {} → {reply} {events:?}", request.kind())
    }
}

/// A payout without the columns that depend on the order of the messages.
fn payout_text(row: &payout::Model) -> String {
    let state = match row.state {
        PayoutState::Completed => "completed",
        PayoutState::Mismatched => "mismatched",
        PayoutState::Failed => "failed",
        PayoutState::Pending => "pending",
    };
    let amount = row.amount_minor.zip(row.currency).map(|(minor, currency)| (minor.get(), currency.to_string()));
    format!("{}:{} of {} is {state} with {amount:?}", row.provider, row.payout, row.license_return)
}

/// All rows of a store as text.
struct RowText<'a> {
    store: &'a MemoryStore,
    text: String,
}

impl TableVisitor for RowText<'_> {
    fn table<E: Keyed>(&mut self, _: &Rows<E>)
    where
        E::Model: ModelTrait<Entity = E>,
    {
        for row in self.store.rows::<E>() {
            write!(self.text, "{row:?};").expect("a String can always be written");
        }
        self.text.push('|');
    }
}
