//! The fixture of rule tests: all workers on one in-memory store, with a clock that tests control.
//!
//! A request is processed as in the runtime, but without a broker and a database. The worker of the
//! request reads it, loads rows with the worker's own `load` and decides, and the fixture stores
//! the changed rows. A rule therefore sees exactly the rows that its worker loads, and a defect
//! fails the test.

use ed25519_dalek::SigningKey;
use futures_util::FutureExt;
use licet_common::{
    config::Terms,
    decision::{Context, Decision, RuleError},
    fixture::MemoryStore,
    rows::{Defect, RowSet, Rows, TableVisitor},
    runtime::Worker,
    signing::Keyring,
};
use licet_schema::{
    Code, Count, ExternalId, Money, Name, Output, Refusal, Request, Seconds, Text, Timestamp, Version,
    entity::{Keyed, account},
    message::{
        CertificatePresented, CertificateReissue, ContentPut, ContentVersion, Item, LicenseReceipt, LicenseRequest,
        LicenseReturn, Privilege, PurchaseRequest, ReturnPolicy, SettlementCompletion, SettlementFailure,
        SettlementReinstatement, SettlementReversal, SweepDue, SweepKind,
    },
    money::Currency,
    vocabulary::Grants,
};
use sea_orm::ModelTrait;
use uuid::Uuid;

use crate::{
    catalog::Catalog, domain::Tables, license::License, purchase::Purchase, query::Query, reception::Reception,
    registry, reissue::Reissue, returns::Returns, settlement::Settlement, sweep::Sweep,
};

/// An hour in milliseconds.
pub const HOUR_MS: i64 = 3_600_000;

/// The rows, the time and the keys that a test uses.
#[derive(Clone)]
pub struct Fixture {
    /// The rows of all tables.
    pub store: MemoryStore,
    /// The keys that sign and verify tokens.
    pub keyring: Keyring,
    /// The settings that rules use.
    pub terms: Terms,
    /// The broker user who sends the messages, if known.
    pub sender: Option<&'static str>,
    /// The time, in Unix milliseconds.
    pub now_ms: i64,
    /// The number of messages sent so far. The id of a message is its number.
    pub messages: u128,
    /// The decision about the last message. `None` if the message was malformed.
    pub last: Option<Decision>,
}

/// The result of a purchase.
#[derive(Clone, Debug)]
pub struct Bought {
    /// The ids of the certificates, in the order of the items.
    pub certificates: Vec<Uuid>,
    /// The tokens of the certificates, in the same order.
    pub tokens: Vec<String>,
    /// The container's id, if there are several items.
    pub container: Option<Uuid>,
    /// The container's token, if there are several items.
    pub container_token: Option<String>,
    /// The amount due.
    pub amount: Money,
}

/// Checks that a worker changed no row.
struct Unchanged;

impl TableVisitor for Unchanged {
    fn table<E: Keyed>(&mut self, rows: &Rows<E>)
    where
        E::Model: ModelTrait<Entity = E>,
    {
        let unchanged = rows.added().is_empty() && rows.changed().is_empty() && rows.removed().is_empty();
        assert!(unchanged, "a refusal must not change a row");
    }
}

impl Default for Fixture {
    fn default() -> Self {
        Self::new()
    }
}

impl Fixture {
    /// Creates a fixture with an empty store.
    pub fn new() -> Self {
        Self {
            store: MemoryStore::default(),
            keyring: Keyring::new(SigningKey::from_bytes(&[7; 32]), []),
            terms: Terms::default(),
            sender: Some("storefront"),
            now_ms: 1_700_000_000_000,
            messages: 0,
            last: None,
        }
    }

    /// Creates a fixture in which the content `song` is registered: 10.00 USD, 3 grants, 40 points
    /// for a return.
    pub fn with_song() -> Self {
        let mut fixture = Self::new();
        fixture.ask(Request::ContentPut(song()));
        fixture
    }

    /// Sends a request of any type and returns the reply.
    ///
    /// # Panics
    /// The request has no reply, or a rule found a defect.
    pub fn ask(&mut self, request: Request) -> Output {
        if let Err(invalid) = request.check() {
            self.last = None;
            let refused = Decision::refused(&Refusal::new(Code::Malformed, invalid.to_string()), request.kind());
            return refused.reply.expect("a refusal is a reply");
        }
        self.send(request).expect("a request has a reply")
    }

    /// Sends a message and returns its reply, if it has one.
    ///
    /// # Panics
    /// A rule found a defect.
    pub fn send(&mut self, request: Request) -> Option<Output> {
        self.try_send(request).unwrap_or_else(|defect| panic!("{defect}"))
    }

    /// Sends a message like [`Self::send`], but returns a defect instead of panicking.
    ///
    /// # Errors
    /// A rule found a defect.
    pub fn try_send(&mut self, request: Request) -> Result<Option<Output>, Defect> {
        let worker = registry::WORKERS.iter().find(|worker| worker.handles.contains(&request.kind()));
        match worker.expect("every type has a worker").name {
            Catalog::NAME => self.decide(&Catalog, request),
            Purchase::NAME => self.decide(&Purchase::default().with_terms(&self.terms), request),
            Reception::NAME => self.decide(&Reception, request),
            Settlement::NAME => self.decide(&Settlement, request),
            License::NAME => self.decide(&License, request),
            Returns::NAME => self.decide(&Returns, request),
            Reissue::NAME => self.decide(&Reissue, request),
            Sweep::NAME => self.decide(&Sweep, request),
            Query::NAME => self.decide(&Query, request),
            other => panic!("add the {other} worker to Fixture::try_send"),
        }
    }

    /// Sends a `sweep.due` for all overdue rows of this kind. Returns the types of its events.
    pub fn sweep(&mut self, kind: SweepKind) -> Vec<&'static str> {
        let before = Timestamp::from_millis(self.now_ms);
        assert_eq!(self.send(Request::SweepDue(SweepDue { kind, before })), None, "sweep.due has no reply");
        self.events()
    }

    fn decide<W: Worker<Rows = Tables>>(&mut self, worker: &W, request: Request) -> Result<Option<Output>, Defect> {
        self.messages += 1;
        let kind = request.kind();
        let context = Context {
            now: Timestamp::from_millis(self.now_ms),
            keyring: &self.keyring,
            terms: &self.terms,
            message_id: Uuid::from_u128(self.messages),
            message_digest: [0; 32],
            sender: self.sender,
        };
        let decision = match worker.read(&self.keyring, request) {
            Err(refusal) => Decision::refused(&refusal, kind),
            Ok(input) => {
                let loaded = worker.load(&self.store, &[&input]).now_or_never();
                let mut tables =
                    loaded.expect("the in-memory store never waits").expect("the in-memory store does not fail");
                match worker.decide(&context, &mut tables, &input) {
                    Ok(decision) => {
                        tables.visit(&mut self.store);
                        decision
                    }
                    Err(RuleError::Refused(refusal)) => {
                        tables.visit(&mut Unchanged);
                        Decision::refused(&refusal, kind)
                    }
                    Err(RuleError::Defect(defect)) => return Err(defect),
                }
            }
        };
        self.last = Some(decision.clone());
        Ok(decision.reply)
    }

    /// The types of the events of the last message, starting with the public form of its reply.
    pub fn events(&self) -> Vec<&'static str> {
        let Some(last) = &self.last else { return Vec::new() };
        let public = last.reply.as_ref().filter(|_| last.announced).and_then(Output::public);
        public.iter().map(Output::kind).chain(last.events.iter().map(Output::kind)).collect()
    }

    /// Moves the clock forward, in milliseconds.
    pub fn later(&mut self, by_ms: i64) -> &mut Self {
        self.now_ms += by_ms;
        self
    }

    /// Buys `count` songs.
    pub fn buy(&mut self, count: usize) -> Bought {
        let reply = self.ask(purchase(count, 0));
        self.bought(reply)
    }

    fn bought(&self, reply: Output) -> Bought {
        match reply {
            Output::CertificateIssued(issued) => Bought {
                certificates: issued.certificates.iter().map(|one| one.certificate).collect(),
                tokens: issued.certificates.into_iter().filter_map(|one| one.certificate_token).collect(),
                container: issued.container,
                container_token: issued.container_token,
                amount: issued.amount,
            },
            other => panic!("the purchase was not accepted: {other:?}"),
        }
    }

    /// Buys `count` songs and pays with up to `points` points.
    pub fn buy_with_points(&mut self, count: usize, points: i64) -> Bought {
        let reply = self.ask(purchase(count, points));
        self.bought(reply)
    }

    /// Sets the points of a user without a ledger entry.
    pub fn give_points(&mut self, user: &str, points: i64) {
        let name = crate::domain::points::account(&name(user));
        self.store.put::<account::Entity>(account::Model { name, balance: points });
    }

    /// A user's points.
    pub fn points_of(&self, user: &str) -> i64 {
        self.balance_of(&crate::domain::points::account(&name(user)))
    }

    /// A user's debt, in points.
    pub fn debt_of(&self, user: &str) -> i64 {
        self.balance_of(&crate::domain::points::debt_account(&name(user)))
    }

    fn balance_of(&self, account: &String) -> i64 {
        self.store.get::<account::Entity>(account).map_or(0, |row| row.balance)
    }

    /// Buys a song, pays for it, gets a license and returns it for points.
    pub fn granted_and_returned(&mut self, user: &str) {
        let bought = self.buy(1);
        self.receive(&bought);
        self.settle(&bought, &format!("pay-{}", bought.certificates[0]));
        let license = self.license(&bought, "player").expect("a license");
        self.ask(license_receipt(&license));
        self.ask(license_return(&license, user, Privilege::Points, true));
    }

    /// Acknowledges receipt of a purchase.
    pub fn receive(&mut self, bought: &Bought) -> Output {
        self.ask(receipt(bought))
    }

    /// Completes the settlement `id` of a purchase with the amount due.
    pub fn settle(&mut self, bought: &Bought, id: &str) -> Output {
        self.ask(completion(bought, id, bought.amount))
    }

    /// Buys `count` songs, acknowledges their receipt and settles them with the settlement `pay-1`.
    pub fn ready(&mut self, count: usize) -> Bought {
        let bought = self.buy(count);
        self.receive(&bought);
        self.settle(&bought, "pay-1");
        bought
    }

    /// Requests a license with the first certificate of a purchase and returns the license's token.
    ///
    /// # Errors
    /// The request was refused. The error is the reply.
    pub fn license(&mut self, bought: &Bought, terminal: &str) -> Result<String, Box<Output>> {
        match self.ask(license_request(&bought.tokens[0], terminal)) {
            Output::LicenseIssued(issued) => Ok(issued.license_token.expect("a reply has the token")),
            other => Err(Box::new(other)),
        }
    }

    /// Buys a song, settles it, and returns the token of a license whose receipt is acknowledged.
    pub fn granted(&mut self, terminal: &str) -> String {
        let bought = self.ready(1);
        let token = self.license(&bought, terminal).expect("a license");
        self.ask(license_receipt(&token));
        token
    }
}

/// The outcome in one word: the code of a refusal, or the type of any other reply. `*` marks a
/// reply to a repeated request.
pub fn outcome(output: &Output) -> String {
    let repeated = match output {
        Output::RequestRefused(refused) => return refused.code.to_string(),
        Output::CertificateAccepted(body) => body.repeated,
        Output::SettlementRegistered(body) => body.repeated,
        Output::LicenseGranted(body) => body.repeated,
        Output::LicenseReturned(body) => body.repeated,
        Output::PayoutRegistered(body) => body.repeated,
        _ => false,
    };
    format!("{}{}", output.kind(), if repeated { "*" } else { "" })
}

/// A description, the requests to send, and the expected [`outcome`] of the last one.
pub type Row = (&'static str, fn(&mut Fixture) -> Output, &'static str);

/// Checks a table of outcomes. Each row starts from [`Fixture::with_song`].
pub fn check(table: &[Row]) {
    for (description, send, expected) in table {
        let mut fixture = Fixture::with_song();
        let output = send(&mut fixture);
        assert_eq!(outcome(&output), *expected, "{description}: {output:?}");
    }
}

/// A name.
pub fn name(text: &str) -> Name {
    Name::try_from(text).expect("a name")
}

/// An amount in USD, in cents.
pub fn usd(minor: i64) -> Money {
    Money::new(minor, Currency::try_from("USD").expect("a currency")).expect("an amount")
}

/// The terms of the song: 10.00 USD, 3 grants, 30 days, 40 points for a return.
pub fn song() -> ContentPut {
    ContentPut {
        content: name("song"),
        version: Version::try_from(1i64).expect("a version"),
        title: Text::try_from("A song").expect("a text"),
        price: usd(1000),
        grants: Grants::try_from(3i64).expect("a count"),
        certificate_ttl_s: Seconds::try_from(30 * 86_400i64).expect("a time"),
        receipt_ttl_s: None,
        successor: None,
        return_policy: ReturnPolicy {
            points: Count::try_from(40i64).ok(),
            upgrade: None,
            buyback: None,
            collection: None,
        },
        media: None,
    }
}

/// The successor that an upgrade of [`generous_song`] grants.
pub fn sequel() -> ContentPut {
    ContentPut { content: name("sequel"), grants: grants(5), ..song() }
}

/// The song, whose return policy offers every privilege.
pub fn generous_song() -> ContentPut {
    let successor = ContentVersion { content: name("sequel"), version: Version::try_from(1i64).expect("a version") };
    ContentPut {
        successor: Some(successor),
        return_policy: ReturnPolicy {
            points: Count::try_from(40i64).ok(),
            upgrade: Some(true),
            buyback: Some(usd(300)),
            collection: Some(true),
        },
        ..song()
    }
}

fn grants(count: i64) -> Grants {
    Grants::try_from(count).expect("a count")
}

/// A request to buy `count` songs for the user `alice`, with up to `points` points and the
/// reference `order-1`.
pub fn purchase(count: usize, points: i64) -> Request {
    Request::PurchaseRequest(PurchaseRequest {
        user: name("alice"),
        items: vec![Item { content: name("song"), version: None }; count],
        points: Count::try_from(points).ok().filter(|points| points.get() > 0),
        reference: ExternalId::try_from("order-1").ok(),
    })
}

/// A request that acknowledges receipt of a purchase.
pub fn receipt(bought: &Bought) -> Request {
    Request::CertificateReceipt(presented(bought))
}

/// The token of a purchase: the token of its container, or of its only certificate.
pub fn presented(bought: &Bought) -> CertificatePresented {
    let alone = bought.container_token.is_none();
    CertificatePresented {
        certificate_token: alone.then(|| bought.tokens[0].clone()),
        container_token: bought.container_token.clone(),
    }
}

/// A report that a purchase was paid for, from the provider `bank`.
pub fn completion(bought: &Bought, id: &str, amount: Money) -> Request {
    Request::SettlementCompletion(SettlementCompletion {
        certificate: bought.container.is_none().then(|| bought.certificates[0]),
        container: bought.container,
        settlement: ExternalId::try_from(id).expect("an id"),
        provider: name("bank"),
        amount,
        grants: None,
    })
}

/// A report that the payment of a purchase failed, from the provider `bank`.
pub fn failure(bought: &Bought, id: &str) -> SettlementFailure {
    SettlementFailure {
        certificate: bought.container.is_none().then(|| bought.certificates[0]),
        container: bought.container,
        settlement: external(id),
        provider: name("bank"),
        reason: Text::try_from("reported by the bank").expect("a text"),
    }
}

/// A report that everything that was paid for a purchase is refunded, from the provider `bank`.
pub fn reversal(bought: &Bought, id: &str) -> SettlementReversal {
    SettlementReversal {
        certificate: bought.container.is_none().then(|| bought.certificates[0]),
        container: bought.container,
        settlement: external(id),
        provider: name("bank"),
        refund: None,
        amount: None,
        reason: Text::try_from("reported by the bank").expect("a text"),
    }
}

/// A report that all refunds of a settlement are undone, from the provider `bank`.
pub fn reinstatement(bought: &Bought, id: &str) -> SettlementReinstatement {
    SettlementReinstatement {
        certificate: bought.container.is_none().then(|| bought.certificates[0]),
        container: bought.container,
        settlement: external(id),
        provider: name("bank"),
        refund: None,
        reason: Text::try_from("the dispute was won").expect("a text"),
    }
}

/// An id of another system.
///
/// # Panics
/// The text is not an id.
pub fn external(id: &str) -> ExternalId {
    ExternalId::try_from(id).expect("an id")
}

/// A request to reissue a certificate.
pub fn reissue(certificate: Uuid, granted: Option<i64>) -> Request {
    Request::CertificateReissue(CertificateReissue {
        certificate,
        reason: Text::try_from("the terminal was lost").expect("a text"),
        granted: granted.and_then(|granted| Count::try_from(granted).ok()),
    })
}

/// A request for a license. If `terminal` is empty, the request names no terminal.
pub fn license_request(certificate_token: &str, terminal: &str) -> Request {
    Request::LicenseRequest(LicenseRequest {
        certificate_token: certificate_token.to_owned(),
        terminal: Name::try_from(terminal).ok(),
    })
}

/// A request that acknowledges receipt of a license.
pub fn license_receipt(license_token: &str) -> Request {
    Request::LicenseReceipt(LicenseReceipt { license_token: license_token.to_owned() })
}

/// A request to return a license. `deleted` states whether the terminal has deleted its copy.
pub fn license_return(license_token: &str, user: &str, privilege: Privilege, deleted: bool) -> Request {
    Request::LicenseReturn(LicenseReturn {
        license_token: license_token.to_owned(),
        user: name(user),
        privilege,
        deleted,
    })
}

/// The token with one character of its signature changed.
pub fn altered(token: &str) -> String {
    let at = token.len() - 10;
    let other = if &token[at..=at] == "A" { "B" } else { "A" };
    format!("{}{other}{}", &token[..at], &token[at + 1..])
}
