//! One purchase in the middle of its life.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use licet_schema::{
    ExternalId, Name, Output, Request, Timestamp,
    message::{
        CertificatePresented, ContentPut, ContentVersion, Ending, Instruction, LicenseDeletion, LicenseRequest,
        LicenseReturned, Privilege, ReturnPolicy, SettlementOutcome, SweepDue, SweepKind,
    },
    vocabulary::Grants,
};
use uuid::Uuid;

use super::super::world::{Heard, World};
use crate::testing::{
    Bought, HOUR_MS, completion, license_receipt, license_return, name, purchase, receipt, reissue, setback, song, usd,
};

const USER: &str = "alice";

/// A message of a purchase's life. Members and terminals go by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Message {
    Receipt,
    MemberReceipt(usize),
    Completion,
    /// A completion of another amount than is due, under the id of the right one.
    Mistake,
    Failure,
    Reversal,
    Request(usize, usize),
    LicenseReceipt(usize, usize),
    Return(usize, Privilege),
    Deletion(usize),
    Reissue(usize),
    /// The clock, so many hours after the purchase.
    Hours(i64),
    Sweep(SweepKind),
}

use Message::{
    Completion, Deletion, Failure, Hours, LicenseReceipt, MemberReceipt, Mistake, Receipt, Reissue, Request as Ask,
    Return, Reversal, Sweep,
};

/// What is bought, and which messages come of it.
pub(super) struct Life {
    pub(super) items: usize,
    pub(super) grants: i64,
    /// Whether points pay for some of it.
    pub(super) points: bool,
    pub(super) messages: Vec<Message>,
}

/// What a message is: a request, or time that passes.
#[allow(clippy::large_enum_variant, reason = "a few of them in a test")]
pub(super) enum Delivery {
    Message(Request),
    Time(i64),
}

/// A purchase in the middle of its life.
#[derive(Clone)]
pub(super) struct Play {
    pub(super) world: World,
    bought: Bought,
    began_at: i64,
    /// Each certificate's latest token.
    latest: Vec<String>,
    /// The first license of each request.
    licenses: BTreeMap<(usize, usize), String>,
    returns: BTreeMap<usize, Uuid>,
    tally: Tally,
    /// A digest of all that what follows depends on.
    pub(super) state: u64,
}

/// What everybody heard so far.
#[derive(Clone, Debug, Default)]
struct Tally {
    instructed: usize,
    accepted: usize,
    /// The payment came before the reception.
    paid_first: bool,
    granted: BTreeMap<Uuid, i64>,
}

impl Play {
    pub(super) fn new(life: &Life) -> Self {
        let mut world = World::new();
        world.tell(1, Request::ContentPut(record(2, life.grants)));
        world.tell(2, Request::ContentPut(record(1, life.grants)));
        if life.points {
            earn_points(&mut world);
        }
        let mut request = purchase(life.items, if life.points { 40 } else { 0 });
        if let Request::PurchaseRequest(body) = &mut request {
            body.items.iter_mut().for_each(|item| item.version = Some(record(1, 1).version));
        }
        let bought = bought(world.tell(20, request));
        let (began_at, latest, tally) = (world.stage.now_ms, bought.tokens.clone(), Tally::default());
        let (licenses, returns) = (BTreeMap::new(), BTreeMap::new());
        let mut play = Self { world, bought, began_at, latest, licenses, returns, tally, state: 0 };
        play.state = play.digest();
        play.clone().finish();
        play
    }

    fn digest(&self) -> u64 {
        let known = (&self.tally, &self.latest, &self.licenses, &self.returns);
        let mut hasher = DefaultHasher::new();
        format!("{known:?} {}", self.world.state()).hash(&mut hasher);
        hasher.finish()
    }

    /// The message, if what it carries exists.
    pub(super) fn delivery(&self, message: Message) -> Option<Delivery> {
        let bought = &self.bought;
        Some(Delivery::Message(match message {
            Receipt => receipt(bought),
            MemberReceipt(member) => Request::CertificateReceipt(CertificatePresented {
                certificate_token: Some(bought.tokens[member].clone()),
                container_token: None,
            }),
            Completion => completion(bought, "pay-1", bought.amount),
            Mistake => completion(bought, "pay-1", usd(1)),
            Failure => Request::SettlementFailure(setback(bought, "pay-1")),
            Reversal => Request::SettlementReversal(setback(bought, "pay-1")),
            Ask(member, terminal) => license_request(&bought.tokens[member], terminal),
            LicenseReceipt(member, terminal) => license_receipt(self.licenses.get(&(member, terminal))?),
            Return(member, privilege) => license_return(self.licenses.get(&(member, 0))?, USER, privilege, false),
            Deletion(member) => {
                Request::LicenseDeletion(LicenseDeletion { license_return: *self.returns.get(&member)? })
            }
            Reissue(member) => reissue(bought.certificates[member], None),
            Sweep(kind) => {
                let before = Timestamp::from_millis(self.world.stage.now_ms);
                Request::SweepDue(SweepDue { kind, before })
            }
            Hours(hours) => return Some(Delivery::Time(self.began_at + hours * HOUR_MS)),
        }))
    }

    pub(super) fn deliver(&mut self, message: Message, id: u128, delivery: Delivery) {
        match delivery {
            Delivery::Time(now) => self.world.stage.now_ms = self.world.stage.now_ms.max(now),
            Delivery::Message(request) => {
                let reply = self.tell(id, request).reply;
                self.take_note(message, reply);
            }
        }
        self.state = self.digest();
    }

    /// Keeps the tokens and ids that later messages carry.
    fn take_note(&mut self, message: Message, reply: Option<Output>) {
        match (message, reply) {
            (Ask(member, terminal), Some(Output::LicenseIssued(issued))) => {
                self.licenses.entry((member, terminal)).or_insert(issued.license_token.expect("a token"));
            }
            (Return(member, _), Some(Output::ReturnOpened(opened))) => {
                self.returns.entry(member).or_insert(opened.license_return);
            }
            (Reissue(member), Some(Output::CertificateReissued(reissued))) => {
                self.latest[member] = reissued.certificate_token.expect("a token");
            }
            _ => {}
        }
    }

    fn tell(&mut self, id: u128, request: Request) -> Heard {
        let heard = self.world.tell(id, request);
        heard.events.iter().for_each(|event| self.tally.hear(event));
        assert!(self.tally.instructed <= 1, "the payment was instructed twice");
        heard
    }

    /// From here, the right messages lead to a granted license of each certificate.
    pub(super) fn finish(mut self) {
        for (member, certificate) in self.bought.certificates.clone().into_iter().enumerate() {
            let id = 10_000 * (member as u128 + 1);
            if self.tally.granted.contains_key(&certificate) || !self.lives(id, member, certificate) {
                continue;
            }
            self.tell(id + 1, self.receipt());
            if self.settlement(certificate).is_none() {
                // What failed, or was taken back, is paid for by another payment.
                let again = self.world.heard().any(|(request, _)| matches!(request.kind(), "settlement.reversal"));
                let payment = if again { "pay-2" } else { "pay-1" };
                self.tell(id + 2, completion(&self.bought, payment, self.bought.amount));
            }
            // A terminal that was sent one already gets it again.
            let sent = self.licenses.keys().find(|(one, _)| *one == member).map_or(0, |(_, terminal)| *terminal);
            let asked = self.tell(id + 3, license_request(&self.latest[member], sent));
            let Some(Output::LicenseIssued(issued)) = asked.reply else { panic!("no license: {asked:?}") };
            self.tell(id + 4, license_receipt(&issued.license_token.expect("a token")));
            assert_eq!(self.tally.granted.get(&certificate), Some(&1), "no grant");
            let charged = self.tally.instructed + usize::from(self.tally.paid_first);
            assert_eq!(charged, 1, "charged once: {:?}", self.tally);
        }
    }

    /// Whether it lives, or lives again by a reissue: it does if it was paid for and not taken back.
    fn lives(&mut self, id: u128, member: usize, certificate: Uuid) -> bool {
        let Some(ending) = self.world.model.ending_at(self.world.stage.now_ms, certificate) else { return true };
        let paid = self.settlement(certificate).is_some();
        let reissued = self.tell(id, reissue(certificate, None)).reply;
        let lives = matches!(reissued, Some(Output::CertificateReissued(_)));
        assert_eq!(lives, ending == Ending::Expired && paid, "{ending:?}, and reissued: {reissued:?}");
        self.take_note(Reissue(member), reissued);
        lives
    }

    fn settlement(&self, certificate: Uuid) -> Option<&(Name, ExternalId)> {
        let model = &self.world.model;
        model.purchases[&model.certificates[&certificate].purchase].settlement.as_ref()
    }

    /// The notice of the purchase: by its container, or by the certificate as it is now.
    fn receipt(&self) -> Request {
        let tokens = if self.bought.container.is_some() { &self.bought.tokens } else { &self.latest };
        receipt(&Bought { tokens: tokens.clone(), ..self.bought.clone() })
    }
}

impl Tally {
    fn hear(&mut self, event: &Output) {
        match event {
            Output::SettlementInstructed(_) => self.instructed += 1,
            Output::CertificateAccepted(body) => {
                self.accepted += 1;
                let paid = self.paid_first || body.settlement == Instruction::Instructed;
                assert!(paid, "what is neither paid nor free is charged");
            }
            Output::SettlementRegistered(body) if body.outcome == SettlementOutcome::Completed => {
                self.paid_first |= self.accepted == 0;
            }
            Output::LicenseGranted(body) => *self.granted.entry(body.certificate).or_default() += 1,
            _ => {}
        }
    }
}

/// A record in two versions, of which the second is the first one's upgrade.
fn record(number: i64, grants: i64) -> ContentPut {
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

/// Another purchase, whose license comes back for points.
fn earn_points(world: &mut World) {
    let other = bought(world.tell(3, purchase(1, 0)));
    world.tell(4, receipt(&other));
    world.tell(5, completion(&other, "pay-0", usd(1000)));
    let Some(Output::LicenseIssued(issued)) = world.tell(6, license_request(&other.tokens[0], 0)).reply else {
        panic!("no license")
    };
    let token = issued.license_token.expect("a token");
    world.tell(7, license_receipt(&token));
    let returned = world.tell(8, license_return(&token, USER, Privilege::Points, true)).reply;
    assert!(matches!(returned, Some(Output::LicenseReturned(LicenseReturned { repeated: false, .. }))));
}

fn license_request(token: &str, terminal: usize) -> Request {
    let terminal = [None, Some(name("player"))][terminal].clone();
    Request::LicenseRequest(LicenseRequest { certificate_token: token.to_owned(), terminal })
}

fn bought(heard: Heard) -> Bought {
    let Some(Output::CertificateIssued(issued)) = heard.reply else { panic!("not issued: {heard:?}") };
    let held = issued.points_held.get();
    Bought {
        certificates: issued.certificates.iter().map(|one| one.certificate).collect(),
        tokens: issued.certificates.into_iter().filter_map(|one| one.certificate_token).collect(),
        container: issued.container,
        container_token: issued.container_token,
        amount: usd(issued.amount.amount_minor.get() - held),
    }
}
