//! The reference model: what Licet answers, written from the specification alone.
//!
//! It shares nothing with the rules but the vocabulary, and keeps its knowledge otherwise: nothing is
//! ever deleted, counts are counted anew each time, and what is said of a purchase stands once. Ids
//! and tokens are Licet's to make: the model takes them from the reply at hand ([`Made`]), believes
//! nothing else of it, and insists that an id is new.

mod granting;
mod made;
mod returning;
mod settling;
mod telling;

use std::{
    collections::{BTreeMap, HashMap},
    rc::Rc,
};

use licet_schema::{
    Code, Count, ExternalId, Money, Name, Output, Request, Timestamp, Version,
    message::{
        CertificateRetired, ContentPut, ContentRegistered, Ending, PointsChanged, Privilege, PrivilegeGranted,
        RequestRefused, SettlementOutcome, SweepDue, SweepKind,
    },
    money::Currency,
    vocabulary::Grants,
};
use uuid::Uuid;

use super::world::Heard;
use made::Made;
pub(super) use made::{Stands, Token};

/// How long reception and deletion may take where nothing else is said.
const DAY_MS: i64 = 86_400_000;
/// The provider's name that Licet keeps for itself.
const LICET: &str = "licet";

/// Everything that Licet was told so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    now: i64,
    made: Made,
    quiet: bool,
    events: Vec<Output>,
    /// What each token that anybody holds stands for.
    pub(super) tokens: HashMap<String, Token>,
    sold: BTreeMap<(Name, Version), Rc<ContentPut>>,
    pub(super) purchases: BTreeMap<Uuid, Purchase>,
    pub(super) certificates: BTreeMap<Uuid, Certificate>,
    pub(super) licenses: BTreeMap<Uuid, License>,
    pub(super) returns: BTreeMap<Uuid, Return>,
    settlements: BTreeMap<(Name, ExternalId), Settlement>,
    pub(super) unmatched: Vec<Unmatched>,
    payouts: BTreeMap<(Name, ExternalId), (Uuid, Money)>,
    /// The balance of every account, Licet's own included.
    pub(super) ledger: BTreeMap<String, i64>,
}

/// What was bought together: one certificate, or a container of several.
#[derive(Clone, Debug)]
pub(super) struct Purchase {
    pub(super) user: Name,
    pub(super) members: Vec<Uuid>,
    pub(super) container: bool,
    reference: Option<ExternalId>,
    bought_at: i64,
    pub(super) receipt_due_at: i64,
    /// What paid for it, whole.
    pub(super) settlement: Option<(Name, ExternalId)>,
}

#[derive(Clone, Debug)]
pub(super) struct Certificate {
    pub(super) purchase: Uuid,
    pub(super) terms: Rc<ContentPut>,
    pub(super) price: Money,
    pub(super) points: i64,
    generation: i64,
    pub(super) expires_at: i64,
    pub(super) received: bool,
    grants: i64,
    pub(super) ended: Option<Ending>,
}

#[derive(Clone, Debug)]
pub(super) struct License {
    pub(super) certificate: Uuid,
    terminal: Option<Name>,
    token: String,
    pub(super) state: LicenseState,
    granted_at: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LicenseState {
    Outstanding,
    Granted,
    Returning,
    Returned,
    Revoked,
}

#[derive(Clone, Debug)]
pub(super) struct Return {
    license: Uuid,
    privilege: Privilege,
    pub(super) state: ReturnState,
    pub(super) delete_by: i64,
    /// What it brought, once completed.
    pub(super) brought: Option<PrivilegeGranted>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReturnState {
    Opened,
    Completed,
    Lapsed,
}

/// The purchase that a settlement names, by either kind of id.
type Named = (Option<Uuid>, Option<Uuid>);

#[derive(Clone, Debug)]
struct Settlement {
    named: Named,
    outcome: SettlementOutcome,
    /// None while only a failure or a reversal was told.
    amount: Option<Money>,
    grants: Option<Grants>,
}

/// Money that is kept because it matches nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unmatched {
    pub(super) key: (Name, ExternalId),
    pub(super) amount: Money,
}

impl Model {
    /// What is answered and told to this request at this time. `actual` is the answer that was
    /// given: ids and tokens are taken from it.
    pub(super) fn hear(&mut self, now: i64, id: Uuid, request: &Request, actual: Option<&Output>) -> Heard {
        (self.now, self.quiet, self.made) = (now, false, Made::of(actual));
        let points = self.points_of_all();
        let reply = match self.decide(request) {
            Ok(reply) => reply,
            Err(code) => Some(refused(code, request)),
        };
        let mut events = std::mem::take(&mut self.events);
        events.extend(self.changes(&points, id));
        if !self.quiet {
            events.extend(reply.as_ref().and_then(Output::public));
        }
        Heard { reply, events }
    }

    fn decide(&mut self, request: &Request) -> Result<Option<Output>, Code> {
        if request.check().is_err() {
            return Err(Code::Malformed);
        }
        match request {
            Request::ContentPut(body) => Ok(self.put(body)),
            Request::PurchaseRequest(body) => self.buy(body),
            Request::CertificateCheck(body) => self.check(body),
            Request::CertificateReceipt(body) => self.receive(body),
            Request::SettlementCompletion(body) => self.complete(body),
            Request::SettlementFailure(body) => self.fail(body),
            Request::SettlementReversal(body) => self.reverse(body),
            Request::PayoutCompletion(body) => self.pay_out(body),
            Request::LicenseRequest(body) => self.license(body),
            Request::LicenseReceipt(body) => self.confirm(body),
            Request::LicenseReturn(body) => self.give_back(body),
            Request::LicenseDeletion(body) => self.delete(body),
            Request::CertificateReissue(body) => self.reissue(body),
            Request::HoldingsQuery(body) => Ok(self.holdings(body)),
            Request::StatusQuery(body) => self.status(body),
            Request::SweepDue(body) => {
                self.sweep(body);
                return Ok(None);
            }
        }
        .map(Some)
    }

    fn put(&mut self, body: &ContentPut) -> Output {
        let key = (body.content.clone(), body.version);
        self.quiet = self.sold.get(&key).is_some_and(|terms| **terms == *body);
        self.sold.insert(key, Rc::new(body.clone()));
        Output::ContentRegistered(ContentRegistered { content: body.content.clone(), version: body.version })
    }

    /// Ends everything whose deadline has passed.
    fn sweep(&mut self, body: &SweepDue) {
        let before = body.before.as_millis().min(self.now);
        match body.kind {
            SweepKind::Reception => {
                for id in self.purchases.keys().copied().collect::<Vec<_>>() {
                    let unpaid = self.purchases[&id].settlement.is_none() && self.waits(id);
                    if unpaid && self.purchases[&id].receipt_due_at < before {
                        self.end_overdue(self.purchases[&id].members[0]);
                    }
                }
            }
            SweepKind::Certificate => {
                for id in self.certificates.keys().copied().collect::<Vec<_>>() {
                    if self.lives(id) && self.certificates[&id].expires_at < before {
                        self.purchase_of(id).members.clone().into_iter().for_each(|id| self.end_overdue(id));
                    }
                }
            }
            SweepKind::Return => {
                for id in self.returns.keys().copied().collect::<Vec<_>>() {
                    if self.returns[&id].state == ReturnState::Opened && self.returns[&id].delete_by < before {
                        self.lapse(id);
                    }
                }
            }
        }
    }

    /// Ends a live certificate whose time is over: alone if it is paid for, else with its purchase.
    fn end_overdue(&mut self, id: Uuid) {
        let Some(ending) = self.overdue(id).filter(|_| self.lives(id)) else { return };
        let purchase = self.certificates[&id].purchase;
        match self.purchases[&purchase].settlement {
            Some(_) => self.end(id, ending),
            None => self.end_unpaid(purchase, ending),
        }
    }

    fn end(&mut self, id: Uuid, ending: Ending) {
        self.certificate(id).ended = Some(ending);
        self.events.push(Output::CertificateRetired(CertificateRetired { certificate: id, reason: ending }));
    }

    /// Ends a purchase that nobody paid for. Points that were held for it go back.
    fn end_unpaid(&mut self, purchase: Uuid, ending: Ending) {
        let user = self.purchases[&purchase].user.clone();
        for id in self.purchases[&purchase].members.clone() {
            self.end(id, ending);
            self.credit("licet:held", &user, self.certificates[&id].points);
        }
    }

    fn lives(&self, id: Uuid) -> bool {
        self.certificates[&id].ended.is_none()
    }

    /// Whether a live certificate of the purchase waits for its reception.
    pub(super) fn waits(&self, purchase: Uuid) -> bool {
        self.purchases[&purchase].members.iter().any(|id| self.lives(*id) && !self.certificates[id].received)
    }

    /// How a certificate is over at this time.
    pub(super) fn ending_at(&mut self, now: i64, id: Uuid) -> Option<Ending> {
        self.now = now;
        self.over(id)
    }

    /// How a certificate is over: by its ending, or by a deadline that nobody swept yet.
    fn over(&self, id: Uuid) -> Option<Ending> {
        self.certificates[&id].ended.or_else(|| self.overdue(id))
    }

    /// How the deadlines judge a live certificate. Unpaid, it goes with its purchase, at the earliest
    /// deadline; paid, by itself.
    fn overdue(&self, id: Uuid) -> Option<Ending> {
        let one = &self.certificates[&id];
        let purchase = &self.purchases[&one.purchase];
        if purchase.settlement.is_some() {
            return (self.now > one.expires_at).then_some(Ending::Expired);
        }
        let expiry = purchase.members.iter().map(|id| self.certificates[id].expires_at).min().unwrap_or_default();
        let due = purchase.receipt_due_at;
        match !one.received && due <= expiry && self.now > due {
            true => Some(Ending::Lapsed),
            false => (self.now > expiry).then_some(Ending::Expired),
        }
    }

    fn counted(&self, certificate: Uuid, states: &[LicenseState]) -> i64 {
        let of = self.licenses.values().filter(|one| one.certificate == certificate && states.contains(&one.state));
        of.count() as i64
    }

    /// Confirmed deliveries: also those given back, not those revoked.
    fn granted(&self, certificate: Uuid) -> i64 {
        self.counted(certificate, &[LicenseState::Granted, LicenseState::Returning, LicenseState::Returned])
    }

    /// How many more licenses it permits.
    fn remaining(&self, certificate: Uuid) -> i64 {
        let outstanding = self.counted(certificate, &[LicenseState::Outstanding]);
        self.certificates[&certificate].grants - self.granted(certificate) - outstanding
    }

    fn certificate(&mut self, id: Uuid) -> &mut Certificate {
        self.certificates.get_mut(&id).expect("the certificate is known")
    }

    fn purchase_of(&self, certificate: Uuid) -> &Purchase {
        &self.purchases[&self.certificates[&certificate].purchase]
    }

    // Points.

    /// What an account holds.
    pub(super) fn balance(&self, account: &str) -> i64 {
        self.ledger.get(account).copied().unwrap_or_default()
    }

    fn points(&self, user: &Name) -> i64 {
        self.balance(&format!("points:{user}"))
    }

    fn book(&mut self, from: &str, to: &str, points: i64) {
        *self.ledger.entry(from.to_owned()).or_default() -= points;
        *self.ledger.entry(to.to_owned()).or_default() += points;
    }

    /// Points come to a user; they repay what is owed first.
    fn credit(&mut self, from: &str, user: &Name, points: i64) {
        let debt = format!("debt:{user}");
        let repaid = points.min(self.balance(&debt));
        self.book(from, "licet:issued", repaid);
        self.book(&debt, "licet:owed", repaid);
        self.book(from, &format!("points:{user}"), points - repaid);
    }

    /// Points are taken from a user; what is not there is owed.
    fn debit(&mut self, user: &Name, points: i64) {
        let taken = points.min(self.points(user));
        self.book(&format!("points:{user}"), "licet:issued", taken);
        self.book("licet:owed", &format!("debt:{user}"), points - taken);
    }

    fn points_of_all(&self) -> BTreeMap<Name, i64> {
        self.purchases.values().map(|one| (one.user.clone(), self.points(&one.user))).collect()
    }

    /// One net change for each user.
    fn changes(&self, before: &BTreeMap<Name, i64>, cause: Uuid) -> Vec<Output> {
        let change = |(user, now): (Name, i64)| {
            let delta = now - before.get(&user).copied().unwrap_or_default();
            let changed = PointsChanged { user, delta, balance: count(now), cause };
            (delta != 0).then_some(Output::PointsChanged(changed))
        };
        self.points_of_all().into_iter().filter_map(change).collect()
    }
}

/// The code with which an ending answers.
fn refusal(ending: Ending) -> Code {
    match ending {
        Ending::Granted => Code::Exhausted,
        Ending::Lapsed => Code::Lapsed,
        Ending::Expired => Code::Expired,
        Ending::Declined => Code::Declined,
        Ending::Reversed => Code::Reversed,
    }
}

fn refused(code: Code, request: &Request) -> Output {
    let (detail, message_type) = (String::new(), request.kind().to_owned());
    Output::RequestRefused(RequestRefused { code, detail, message_type })
}

fn count(number: i64) -> Count {
    Count::try_from(number).expect("the model counts from zero")
}

fn money(amount_minor: i64, currency: Currency) -> Money {
    Money { amount_minor: count(amount_minor), currency }
}

fn time(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}
