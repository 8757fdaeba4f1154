//! The state of one purchase during its lifecycle.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use licet_schema::{
    Code, ExternalId, Name, Output, Request, Timestamp,
    entity::{account, certificate, certificate_record, refund, settlement, unmatched_settlement},
    message::{
        self, CertificatePresented, ContentPut, ContentVersion, Ending, Instruction, LicenseDeletion, LicenseReturned,
        Privilege, ReturnPolicy, SettlementOutcome, SettlementReinstatement, SettlementReversal, SweepDue, SweepKind,
    },
    vocabulary::Grants,
};
use licet_workers::fixture::{
    Bought, HOUR_MS, completion, external, failure, license_receipt, license_return, name, purchase, receipt,
    reinstatement, reissue, reversal, song, usd,
};
use uuid::Uuid;

use crate::{response::Response, test_system::TestSystem};

const USER: &str = "alice";

/// A message about the purchase. Numbers identify members and terminals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Message {
    Receipt,
    MemberReceipt(usize),
    Completion,
    /// A completion with a wrong amount, with the id of the correct completion.
    WrongAmount,
    /// Another one.
    OtherAmount,
    Failure,
    Reversal,
    /// A refund without an amount that names another purchase.
    ReversalOfOther,
    /// A refund under this number, of this amount in minor units.
    Refund(u8, i64),
    /// A refund under this number, of a member.
    MemberRefund(u8, usize),
    /// The reinstatement of the refund with this number, or of the reversal.
    Reinstatement(Option<u8>),
    ReinstatementOfAll,
    LicenseRequest(usize, usize),
    LicenseReceipt(usize, usize),
    Return(usize, Privilege),
    Deletion(usize),
    Reissue(usize),
    /// Moves the clock to this number of hours after the purchase.
    Hours(i64),
    Sweep(SweepKind),
}

use Message::{
    Completion, Deletion, Failure, Hours, LicenseReceipt, LicenseRequest, MemberReceipt, MemberRefund, OtherAmount,
    Receipt, Refund, Reinstatement, ReinstatementOfAll, Reissue, Return, Reversal, ReversalOfOther, Sweep, WrongAmount,
};

/// A purchase and the messages about it.
pub(super) struct Lifecycle {
    pub(super) items: usize,
    pub(super) grants: i64,
    /// Whether points pay for part of the price.
    pub(super) points: bool,
    pub(super) messages: Vec<Message>,
}

/// The delivery of a message: a request, or a change of the time.
#[allow(clippy::large_enum_variant, reason = "a test creates only a few of them")]
pub(super) enum Delivery {
    Message(Request),
    Time(i64),
}

/// The purchase after some deliveries.
#[derive(Clone)]
pub(super) struct State {
    pub(super) system: TestSystem,
    bought: Bought,
    began_at: i64,
    /// The latest token of each certificate.
    latest_tokens: Vec<String>,
    /// The first license token for each member and terminal.
    licenses: BTreeMap<(usize, usize), String>,
    returns: BTreeMap<usize, Uuid>,
    observed: Observed,
    /// A digest of everything that later deliveries depend on.
    pub(super) digest: u64,
}

/// The events so far.
#[derive(Clone, Debug, Default)]
struct Observed {
    instructed: usize,
    accepted: usize,
    /// The payment was registered before the receipt.
    paid_first: bool,
    granted: BTreeMap<Uuid, i64>,
}

impl State {
    pub(super) fn new(lifecycle: &Lifecycle) -> Self {
        let mut system = TestSystem::new();
        system.send(1, Request::ContentPut(song_version(2, lifecycle.grants)));
        system.send(2, Request::ContentPut(song_version(1, lifecycle.grants)));
        if lifecycle.points {
            earn_points(&mut system);
        }
        let mut request = purchase(lifecycle.items, if lifecycle.points { 40 } else { 0 });
        if let Request::PurchaseRequest(body) = &mut request {
            body.items.iter_mut().for_each(|item| item.version = Some(song_version(1, 1).version));
        }
        let bought = bought(system.send(20, request));
        let (began_at, latest_tokens, observed) = (system.fixture.now_ms, bought.tokens.clone(), Observed::default());
        let (licenses, returns) = (BTreeMap::new(), BTreeMap::new());
        let mut state = Self { system, bought, began_at, latest_tokens, licenses, returns, observed, digest: 0 };
        state.digest = state.compute_digest();
        state.clone().complete();
        state
    }

    fn compute_digest(&self) -> u64 {
        let known = (&self.observed, &self.latest_tokens, &self.licenses, &self.returns);
        let mut hasher = DefaultHasher::new();
        format!("{known:?} {}", self.system.state()).hash(&mut hasher);
        hasher.finish()
    }

    /// The delivery of a message, if the token or id that it needs exists.
    pub(super) fn delivery(&self, message: Message) -> Option<Delivery> {
        let bought = &self.bought;
        Some(Delivery::Message(match message {
            Receipt => receipt(bought),
            MemberReceipt(member) => Request::CertificateReceipt(CertificatePresented {
                certificate_token: Some(bought.tokens[member].clone()),
                container_token: None,
            }),
            Completion => completion(bought, "pay-1", bought.amount),
            WrongAmount => completion(bought, "pay-1", usd(1)),
            OtherAmount => completion(bought, "pay-1", usd(2)),
            ReversalOfOther => Request::SettlementReversal(SettlementReversal {
                certificate: Some(Uuid::from_u128(99)),
                container: None,
                refund: Some(external("re-other")),
                ..reversal(bought, "pay-1")
            }),
            Failure => Request::SettlementFailure(failure(bought, "pay-1")),
            Reversal => Request::SettlementReversal(reversal(bought, "pay-1")),
            Refund(number, amount) => {
                let (refund, amount) = (Some(refund_id(number)), Some(usd(amount)));
                Request::SettlementReversal(SettlementReversal { refund, amount, ..reversal(bought, "pay-1") })
            }
            MemberRefund(number, member) => Request::SettlementReversal(SettlementReversal {
                certificate: Some(bought.certificates[member]),
                container: None,
                refund: Some(refund_id(number)),
                ..reversal(bought, "pay-1")
            }),
            Reinstatement(number) => Request::SettlementReinstatement(SettlementReinstatement {
                refund: Some(number.map_or_else(|| external("pay-1"), refund_id)),
                ..reinstatement(bought, "pay-1")
            }),
            ReinstatementOfAll => Request::SettlementReinstatement(reinstatement(bought, "pay-1")),
            LicenseRequest(member, terminal) => license_request(&bought.tokens[member], terminal),
            LicenseReceipt(member, terminal) => license_receipt(self.licenses.get(&(member, terminal))?),
            Return(member, privilege) => license_return(self.licenses.get(&(member, 0))?, USER, privilege, false),
            Deletion(member) => {
                Request::LicenseDeletion(LicenseDeletion { license_return: *self.returns.get(&member)? })
            }
            Reissue(member) => reissue(bought.certificates[member], None),
            Sweep(kind) => {
                let before = Timestamp::from_millis(self.system.fixture.now_ms);
                Request::SweepDue(SweepDue { kind, before })
            }
            Hours(hours) => return Some(Delivery::Time(self.began_at + hours * HOUR_MS)),
        }))
    }

    pub(super) fn deliver(&mut self, message: Message, id: u128, delivery: Delivery) {
        match delivery {
            Delivery::Time(now) => self.system.fixture.now_ms = self.system.fixture.now_ms.max(now),
            Delivery::Message(request) => {
                let reply = self.send(id, request).reply;
                self.record(message, reply);
            }
        }
        self.digest = self.compute_digest();
    }

    /// Records the tokens and ids that later messages need.
    fn record(&mut self, message: Message, reply: Option<Output>) {
        match (message, reply) {
            (LicenseRequest(member, terminal), Some(Output::LicenseIssued(issued))) => {
                self.licenses.entry((member, terminal)).or_insert(issued.license_token.expect("a token"));
            }
            (Return(member, _), Some(Output::ReturnOpened(opened))) => {
                self.returns.entry(member).or_insert(opened.license_return);
            }
            (Reissue(member), Some(Output::CertificateReissued(reissued))) => {
                self.latest_tokens[member] = reissued.certificate_token.expect("a token");
            }
            _ => {}
        }
    }

    fn send(&mut self, id: u128, request: Request) -> Response {
        let response = self.system.send(id, request);
        response.events.iter().for_each(|event| self.observed.record(event));
        assert!(self.observed.instructed <= 1, "the payment was instructed twice");
        response
    }

    /// Checks that, from this state, the right messages lead to a granted license of each
    /// certificate.
    pub(super) fn complete(mut self) {
        for (member, certificate) in self.bought.certificates.clone().into_iter().enumerate() {
            let id = 10_000 * (member as u128 + 1);
            if self.observed.granted.contains_key(&certificate) || !self.revive(id, member, certificate) {
                continue;
            }
            self.send(id + 1, self.receipt());
            if self.settlement(certificate).is_none() {
                // After a failure or a reversal, another payment is needed.
                let reversed = self.system.log().any(|(request, _)| matches!(request.kind(), "settlement.reversal"));
                let payment = if reversed { "pay-2" } else { "pay-1" };
                self.send(id + 2, completion(&self.bought, payment, self.bought.amount));
            }
            // A terminal that already has a license receives it again.
            let terminal = self.licenses.keys().find(|(one, _)| *one == member).map_or(0, |(_, terminal)| *terminal);
            let response = self.send(id + 3, license_request(&self.latest_tokens[member], terminal));
            let Some(Output::LicenseIssued(issued)) = response.reply else { panic!("no license: {response:?}") };
            self.send(id + 4, license_receipt(&issued.license_token.expect("a token")));
            assert_eq!(self.observed.granted.get(&certificate), Some(&1), "each certificate has one grant");
            let charged = self.observed.instructed + usize::from(self.observed.paid_first);
            assert_eq!(charged, 1, "the user is charged once: {:?}", self.observed);
        }
    }

    /// The state of money and rights, without what is allowed to depend on the order: times, why
    /// money is unmatched, and payments that arrived again after their reversal.
    pub(super) fn money_and_rights(&self) -> String {
        let store = &self.system.fixture.store;
        let mut text = String::new();
        for row in store.rows::<certificate_record::Entity>() {
            let settled = store.get::<certificate::Entity>(&row.id).is_some_and(|live| live.settled_at.is_some());
            text += &format!("{} {:?} {} {settled}\n", row.id, row.ended, row.reinstated);
        }
        for row in store.rows::<settlement::Entity>() {
            let amount = row.amount_minor.map(|amount| amount.get());
            text += &format!("{} {} {amount:?} {}\n", row.provider_reference, row.outcome, row.refunded_minor);
        }
        for row in store.rows::<refund::Entity>() {
            let undone = row.outcome == SettlementOutcome::Reinstated;
            text += &format!("{} {:?} {undone}\n", row.refund, row.counted_minor);
        }
        for row in store.rows::<account::Entity>() {
            text += &format!("{} {}\n", row.name, row.balance);
        }
        let unmatched = store.rows::<unmatched_settlement::Entity>().filter(|row| row.reason != Code::Reversed);
        let mut unmatched: Vec<_> = unmatched
            .map(|row| format!("unmatched {} {} {:?}\n", row.kind, row.amount_minor, row.refunded_by))
            .collect();
        unmatched.sort();
        text += &unmatched.concat();
        text
    }

    /// Whether the certificate is live, or becomes live by a payment or a reissue. A payment revives
    /// it if it was declined or lapsed, and a reissue if it expired and was paid for.
    fn revive(&mut self, id: u128, member: usize, certificate: Uuid) -> bool {
        let now = self.system.fixture.now_ms;
        let ending = self.system.model.ending_at(now, certificate);
        if matches!(ending, Some(Ending::Declined | Ending::Lapsed)) && self.settlement(certificate).is_none() {
            self.send(id + 5, completion(&self.bought, "pay-3", self.bought.amount));
        }
        let Some(ending) = self.system.model.ending_at(now, certificate) else { return true };
        let paid = self.settlement(certificate).is_some();
        let reissued = self.send(id, reissue(certificate, None)).reply;
        let live = matches!(reissued, Some(Output::CertificateReissued(_)));
        assert_eq!(
            live,
            ending == Ending::Expired && paid,
            "the certificate is {ending:?}, and the reply to the reissue is {reissued:?}"
        );
        self.record(Reissue(member), reissued);
        live
    }

    fn settlement(&self, certificate: Uuid) -> Option<&(Name, ExternalId)> {
        let model = &self.system.model;
        model.purchases[&model.certificates[&certificate].purchase].settlement.as_ref()
    }

    /// The receipt of the purchase, with the container's token or the certificate's latest token.
    fn receipt(&self) -> Request {
        let tokens = if self.bought.container.is_some() { &self.bought.tokens } else { &self.latest_tokens };
        receipt(&Bought { tokens: tokens.clone(), ..self.bought.clone() })
    }
}

impl Observed {
    fn record(&mut self, event: &Output) {
        match event {
            Output::SettlementInstructed(_) => self.instructed += 1,
            Output::CertificateAccepted(body) => {
                self.accepted += 1;
                let paid = self.paid_first || body.settlement == Instruction::Instructed;
                assert!(paid, "a purchase that is neither paid for nor free is charged");
            }
            Output::SettlementRegistered(body) if body.outcome == SettlementOutcome::Completed => {
                self.paid_first |= self.accepted == 0;
            }
            Output::LicenseGranted(body) => *self.granted.entry(body.certificate).or_default() += 1,
            _ => {}
        }
    }
}

fn refund_id(number: u8) -> ExternalId {
    external(&format!("re-{number}"))
}

/// The song in one of its two versions. The second version is the upgrade of the first.
fn song_version(number: i64, grants: i64) -> ContentPut {
    let version = |number: i64| number.try_into().expect("a version");
    let policy = ReturnPolicy { upgrade: (number == 1).then_some(true), ..song().return_policy };
    ContentPut {
        version: version(number),
        grants: Grants::try_from(grants).expect("a number of grants"),
        successor: (number == 1).then(|| ContentVersion { content: name("song"), version: version(2) }),
        return_policy: policy,
        ..song()
    }
}

/// Makes another purchase and returns its license for points.
fn earn_points(system: &mut TestSystem) {
    let other = bought(system.send(3, purchase(1, 0)));
    system.send(4, receipt(&other));
    system.send(5, completion(&other, "pay-0", usd(1000)));
    let Some(Output::LicenseIssued(issued)) = system.send(6, license_request(&other.tokens[0], 0)).reply else {
        panic!("no license")
    };
    let token = issued.license_token.expect("a token");
    system.send(7, license_receipt(&token));
    let returned = system.send(8, license_return(&token, USER, Privilege::Points, true)).reply;
    assert!(matches!(returned, Some(Output::LicenseReturned(LicenseReturned { repeated: false, .. }))));
}

fn license_request(token: &str, terminal: usize) -> Request {
    let terminal = [None, Some(name("player"))][terminal].clone();
    Request::LicenseRequest(message::LicenseRequest { certificate_token: token.to_owned(), terminal })
}

fn bought(response: Response) -> Bought {
    let Some(Output::CertificateIssued(issued)) = response.reply else { panic!("not issued: {response:?}") };
    let held = issued.points_held.get();
    Bought {
        certificates: issued.certificates.iter().map(|one| one.certificate).collect(),
        tokens: issued.certificates.into_iter().filter_map(|one| one.certificate_token).collect(),
        container: issued.container,
        container_token: issued.container_token,
        amount: usd(issued.amount.amount_minor.get() - held),
    }
}
