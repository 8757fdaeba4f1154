//! The reference model, which predicts the response to every message from the specification alone.
//!
//! The model shares no code with the rules except the vocabulary, and it stores its state
//! differently: it deletes nothing, derives every count when it needs it, and stores facts about a
//! purchase once. It cannot predict ids and tokens, so it takes them from the actual reply
//! ([`Issued`]). It takes nothing else from that reply, and it checks that each id is new.

mod issued;
mod license;
mod payout;
mod purchase;
mod query;
mod reception;
mod reissue;
mod returns;
mod settlement;

use std::{
    collections::{BTreeMap, HashMap},
    rc::Rc,
};

use licet_schema::{
    Code, Count, ExternalId, Money, Name, Output, Request, Timestamp, Version,
    message::{
        CertificateRetired, ContentPut, ContentRegistered, Ending, PointsChanged, Privilege, PrivilegeGranted,
        RequestRefused, Revocation, SweepDue, SweepKind,
    },
    money::Currency,
    vocabulary::Grants,
};
use uuid::Uuid;

use crate::response::Response;
use issued::Issued;
pub(crate) use issued::{Token, TokenSubject};
use payout::Payout;
use settlement::Settlement;

/// The default time limit for acknowledging receipt and for reporting a deletion.
const DAY_MS: i64 = 86_400_000;
/// The currency in which a point is worth one minor unit.
const POINTS_CURRENCY: &str = "USD";
/// The provider name that is reserved for Licet.
const LICET: &str = "licet";

/// The state after all messages so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    now: i64,
    /// The id of the current message.
    message: Uuid,
    issued: Issued,
    /// Whether the reply to the current message has no event of its own.
    unannounced: bool,
    events: Vec<Output>,
    /// Every token that a sender can present.
    pub(crate) tokens: HashMap<String, Token>,
    contents: BTreeMap<(Name, Version), Rc<ContentPut>>,
    /// Whether a reference can be used for only one purchase, unless that one ended unpaid.
    pub(crate) unique_reference: bool,
    /// The purchases with each reference, oldest first.
    references: BTreeMap<ExternalId, Vec<Uuid>>,
    pub(crate) purchases: BTreeMap<Uuid, Purchase>,
    pub(crate) certificates: BTreeMap<Uuid, Certificate>,
    pub(crate) licenses: BTreeMap<Uuid, License>,
    pub(crate) returns: BTreeMap<Uuid, Return>,
    settlements: BTreeMap<(Name, ExternalId), Settlement>,
    /// The open unmatched money.
    pub(crate) unmatched: Vec<Unmatched>,
    /// The unmatched payments that a refund returned, with its id.
    pub(crate) returned: Vec<(Unmatched, ExternalId)>,
    pub(crate) payouts: BTreeMap<(Name, ExternalId), Payout>,
    /// The payouts with the amount owed, in the order in which they were reported.
    paid_out: Vec<(Name, ExternalId)>,
    /// The balance of every account, including Licet's own accounts.
    pub(crate) ledger: BTreeMap<String, i64>,
}

/// A purchase: one certificate, or a container of several certificates.
#[derive(Clone, Debug)]
pub(crate) struct Purchase {
    pub(crate) user: Name,
    pub(crate) members: Vec<Uuid>,
    pub(crate) container: bool,
    reference: Option<ExternalId>,
    bought_at: i64,
    pub(crate) receipt_due_at: i64,
    /// The settlement that paid for the whole purchase.
    pub(crate) settlement: Option<(Name, ExternalId)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    pub(crate) purchase: Uuid,
    pub(crate) terms: Rc<ContentPut>,
    pub(crate) price: Money,
    pub(crate) points: i64,
    generation: i64,
    pub(crate) expires_at: i64,
    pub(crate) received: bool,
    grants: i64,
    pub(crate) ended: Option<Ending>,
    /// Whether the reversal that ended it was undone.
    pub(crate) reinstated: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct License {
    pub(crate) certificate: Uuid,
    terminal: Option<Name>,
    token: String,
    pub(crate) state: LicenseState,
    granted_at: Option<i64>,
    revocation: Option<Revocation>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LicenseState {
    Outstanding,
    Granted,
    Returning,
    Returned,
    Revoked,
}

#[derive(Clone, Debug)]
pub(crate) struct Return {
    license: Uuid,
    privilege: Privilege,
    pub(crate) state: ReturnState,
    pub(crate) delete_by: i64,
    /// The privilege that was given, if the return is completed.
    pub(crate) granted: Option<PrivilegeGranted>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReturnState {
    Opened,
    Completed,
    Lapsed,
}

/// The ids in a settlement message: certificate and container.
type PurchaseIds = (Option<Uuid>, Option<Uuid>);

/// Money that matches no purchase.
#[derive(Clone, Debug)]
pub(crate) struct Unmatched {
    pub(crate) key: (Name, ExternalId),
    /// The refund, if the money went out.
    pub(crate) refund: Option<ExternalId>,
    pub(crate) amount: Money,
    grants: Option<Grants>,
    pub(crate) reason: Code,
    ids: PurchaseIds,
}

impl Model {
    /// Predicts the response to this request at this time. `actual` is the actual reply, from which
    /// ids and tokens are taken.
    pub(crate) fn predict(&mut self, now: i64, id: Uuid, request: &Request, actual: Option<&Output>) -> Response {
        (self.now, self.message) = (now, id);
        (self.unannounced, self.issued) = (false, Issued::of(actual));
        let points = self.points_by_user();
        let reply = match self.decide(request) {
            Ok(reply) => reply,
            Err(code) => Some(refused(code, request)),
        };
        let mut events = std::mem::take(&mut self.events);
        events.extend(self.points_changes(&points));
        if !self.unannounced {
            events.extend(reply.as_ref().and_then(Output::public));
        }
        Response { reply, events }
    }

    fn decide(&mut self, request: &Request) -> Result<Option<Output>, Code> {
        if request.check().is_err() {
            return Err(Code::Malformed);
        }
        match request {
            Request::ContentPut(body) => self.put_content(body),
            Request::PurchaseRequest(body) => self.buy(body),
            Request::CertificateCheck(body) => self.check_certificate(body),
            Request::CertificateReceipt(body) => self.receive(body),
            Request::SettlementCompletion(body) => self.complete_settlement(body),
            Request::SettlementFailure(body) => self.fail_settlement(body),
            Request::SettlementReversal(body) => self.reverse_settlement(body),
            Request::SettlementReinstatement(body) => self.reinstate_settlement(body),
            Request::SettlementAssignment(body) => self.assign_settlement(body),
            Request::PayoutCompletion(body) => self.complete_payout(body),
            Request::PayoutFailure(body) => self.fail_payout(body),
            Request::LicenseRequest(body) => self.issue_license(body),
            Request::LicenseReceipt(body) => self.confirm_license(body),
            Request::LicenseReturn(body) => self.return_license(body),
            Request::LicenseDeletion(body) => self.confirm_deletion(body),
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

    fn put_content(&mut self, body: &ContentPut) -> Result<Output, Code> {
        if body.return_policy.points.is_some() && body.price.currency.as_str() != POINTS_CURRENCY {
            return Err(Code::Malformed);
        }
        let key = (body.content.clone(), body.version);
        self.unannounced = self.contents.get(&key).is_some_and(|terms| **terms == *body);
        self.contents.insert(key, Rc::new(body.clone()));
        Ok(Output::ContentRegistered(ContentRegistered { content: body.content.clone(), version: body.version }))
    }

    /// Ends everything whose deadline has passed.
    fn sweep(&mut self, body: &SweepDue) {
        let before = body.before.as_millis().min(self.now);
        match body.kind {
            SweepKind::Reception => {
                for id in self.purchases.keys().copied().collect::<Vec<_>>() {
                    let unpaid = self.purchases[&id].settlement.is_none() && self.awaits_reception(id);
                    if unpaid && self.purchases[&id].receipt_due_at < before {
                        self.end_overdue(self.purchases[&id].members[0]);
                    }
                }
            }
            SweepKind::Certificate => {
                for id in self.certificates.keys().copied().collect::<Vec<_>>() {
                    if self.is_live(id) && self.certificates[&id].expires_at < before {
                        self.purchase_of(id).members.clone().into_iter().for_each(|id| self.end_overdue(id));
                    }
                }
            }
            SweepKind::Return => {
                for id in self.returns.keys().copied().collect::<Vec<_>>() {
                    if self.returns[&id].state == ReturnState::Opened && self.returns[&id].delete_by < before {
                        self.lapse_return(id);
                    }
                }
            }
        }
    }

    /// Ends a live certificate whose deadline has passed. A paid certificate ends alone, an unpaid
    /// one with its whole purchase.
    fn end_overdue(&mut self, id: Uuid) {
        let Some(ending) = self.overdue_ending(id).filter(|_| self.is_live(id)) else { return };
        let purchase = self.certificates[&id].purchase;
        match self.purchases[&purchase].settlement {
            Some(_) => self.end(id, ending),
            None => self.end_unpaid(purchase, ending),
        }
    }

    fn end(&mut self, id: Uuid, ending: Ending) {
        self.certificate_mut(id).ended = Some(ending);
        self.events.push(Output::CertificateRetired(CertificateRetired { certificate: id, reason: ending }));
    }

    /// Ends an unpaid purchase. Points that were held for it are credited to the user again.
    fn end_unpaid(&mut self, purchase: Uuid, ending: Ending) {
        let user = self.purchases[&purchase].user.clone();
        for id in self.purchases[&purchase].members.clone() {
            self.end(id, ending);
            self.credit("licet:held", &user, self.certificates[&id].points);
        }
    }

    fn is_live(&self, id: Uuid) -> bool {
        self.certificates[&id].ended.is_none()
    }

    /// Whether the purchase has a live certificate that was not received yet.
    pub(crate) fn awaits_reception(&self, purchase: Uuid) -> bool {
        self.purchases[&purchase].members.iter().any(|id| self.is_live(*id) && !self.certificates[id].received)
    }

    /// The ending of a certificate at this time.
    pub(crate) fn ending_at(&mut self, now: i64, id: Uuid) -> Option<Ending> {
        self.now = now;
        self.ending(id)
    }

    /// The ending of a certificate: the recorded one, or the one caused by a deadline that no sweep
    /// has processed yet.
    fn ending(&self, id: Uuid) -> Option<Ending> {
        self.certificates[&id].ended.or_else(|| self.overdue_ending(id))
    }

    /// The ending of a live certificate by its deadlines. An unpaid certificate ends with its
    /// purchase, at the earliest deadline; a paid one ends alone.
    fn overdue_ending(&self, id: Uuid) -> Option<Ending> {
        let one = &self.certificates[&id];
        let purchase = &self.purchases[&one.purchase];
        if purchase.settlement.is_some() {
            return (self.now > one.expires_at).then_some(Ending::Expired);
        }
        let expiry = purchase.members.iter().map(|id| self.certificates[id].expires_at).min();
        let expiry = expiry.expect("a purchase has members");
        let due = purchase.receipt_due_at;
        match !one.received && due <= expiry && self.now > due {
            true => Some(Ending::Lapsed),
            false => (self.now > expiry).then_some(Ending::Expired),
        }
    }

    fn count_licenses(&self, certificate: Uuid, states: &[LicenseState]) -> i64 {
        let of = self.licenses.values().filter(|one| one.certificate == certificate && states.contains(&one.state));
        of.count() as i64
    }

    /// The number of confirmed deliveries, including returned licenses but not revoked ones.
    fn granted(&self, certificate: Uuid) -> i64 {
        self.count_licenses(certificate, &[LicenseState::Granted, LicenseState::Returning, LicenseState::Returned])
    }

    /// The number of licenses that the certificate still grants.
    fn remaining(&self, certificate: Uuid) -> i64 {
        let outstanding = self.count_licenses(certificate, &[LicenseState::Outstanding]);
        self.certificates[&certificate].grants - self.granted(certificate) - outstanding
    }

    fn certificate_mut(&mut self, id: Uuid) -> &mut Certificate {
        self.certificates.get_mut(&id).expect("the certificate is known")
    }

    fn purchase_of(&self, certificate: Uuid) -> &Purchase {
        &self.purchases[&self.certificates[&certificate].purchase]
    }

    // Points.

    /// The balance of an account.
    pub(crate) fn balance(&self, account: &str) -> i64 {
        self.ledger.get(account).copied().unwrap_or_default()
    }

    fn points(&self, user: &Name) -> i64 {
        self.balance(&format!("points:{user}"))
    }

    fn transfer(&mut self, from: &str, to: &str, points: i64) {
        *self.ledger.entry(from.to_owned()).or_default() -= points;
        *self.ledger.entry(to.to_owned()).or_default() += points;
    }

    /// Credits points to a user. They repay the user's debt first.
    fn credit(&mut self, from: &str, user: &Name, points: i64) {
        let debt = format!("debt:{user}");
        let repaid = points.min(self.balance(&debt));
        self.transfer(from, "licet:issued", repaid);
        self.transfer(&debt, "licet:owed", repaid);
        self.transfer(from, &format!("points:{user}"), points - repaid);
    }

    /// Debits points from a user. Points that the user does not have become debt.
    fn debit(&mut self, user: &Name, points: i64) {
        let debited = points.min(self.points(user));
        self.transfer(&format!("points:{user}"), "licet:issued", debited);
        self.transfer("licet:owed", &format!("debt:{user}"), points - debited);
    }

    fn points_by_user(&self) -> BTreeMap<Name, i64> {
        self.purchases.values().map(|one| (one.user.clone(), self.points(&one.user))).collect()
    }

    /// One event with the net change for each user.
    fn points_changes(&self, before: &BTreeMap<Name, i64>) -> Vec<Output> {
        let change = |(user, now): (Name, i64)| {
            let delta = now - before.get(&user).copied().unwrap_or_default();
            let changed = PointsChanged { user, delta, balance: count(now), cause: self.message };
            (delta != 0).then_some(Output::PointsChanged(changed))
        };
        self.points_by_user().into_iter().filter_map(change).collect()
    }
}

/// The refusal code for a certificate with this ending.
fn refusal(ending: Ending) -> Code {
    match ending {
        Ending::Exhausted => Code::Exhausted,
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
    Count::try_from(number).expect("counts of the model are not negative")
}

fn money(amount_minor: i64, currency: Currency) -> Money {
    Money { amount_minor: count(amount_minor), currency }
}

fn time(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}
