//! A stage for rules: all workers' pure rules over one set of rows, with a clock that tests move.
//! There is no database here: what a rule is given is what an earlier rule left.

use ed25519_dalek::SigningKey;
use licet_common::{
    config::Terms,
    decision::{Context, Decision, Tables},
    runtime::Worker,
    signing::Keyring,
};
use licet_schema::{
    Code, Count, ExternalId, Money, Name, Output, Refusal, Request, Seconds, Text, Timestamp, Version,
    entity::account,
    message::{
        CertificatePresented, CertificateReissue, ContentPut, ContentVersion, Item, LicenseReceipt, LicenseRequest,
        LicenseReturn, Privilege, PurchaseRequest, ReturnPolicy, SettlementCompletion, SettlementSetback, SweepDue,
        SweepKind,
    },
    money::Currency,
    topology,
    vocabulary::Grants,
};
use uuid::Uuid;

use crate::{
    catalog::Catalog, license::License, purchase::Purchase, query::Query, reception::Reception, reissue::Reissue,
    returns::Returns, settlement::Settlement, sweep::Sweep,
};

pub(crate) const HOUR_MS: i64 = 3_600_000;

/// Rows, time and keys.
pub(crate) struct Stage {
    pub(crate) tables: Tables,
    pub(crate) keyring: Keyring,
    pub(crate) terms: Terms,
    pub(crate) now_ms: i64,
    pub(crate) messages: u128,
    /// What the last message was decided to be, events and all.
    pub(crate) last: Option<Decision>,
}

/// What a purchase gave.
#[derive(Clone, Debug)]
pub(crate) struct Bought {
    pub(crate) certificates: Vec<Uuid>,
    pub(crate) tokens: Vec<String>,
    pub(crate) container: Option<Uuid>,
    pub(crate) container_token: Option<String>,
    pub(crate) amount: Money,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self {
            tables: Tables::default(),
            keyring: Keyring::new(SigningKey::from_bytes(&[7; 32]), []),
            terms: Terms::default(),
            now_ms: 1_700_000_000_000,
            messages: 0,
            last: None,
        }
    }

    /// A stage on which the content `song` is sold for 10.00 USD with 3 grants, and 40 points for a return.
    pub(crate) fn with_song() -> Self {
        let mut stage = Self::new();
        stage.ask(Request::ContentPut(song()));
        stage
    }

    /// Decides a message of any type, as its worker would.
    pub(crate) fn ask(&mut self, request: Request) -> Output {
        if let Err(unfit) = request.check() {
            self.last = None;
            let refused = Decision::refused(&Refusal::new(Code::Malformed, unfit.to_string()), request.kind());
            return refused.reply.expect("a refusal is an answer");
        }
        self.tell(request).expect("whoever asks is answered")
    }

    /// Decides a message that may have no answer.
    pub(crate) fn tell(&mut self, request: Request) -> Option<Output> {
        let worker = topology::WORKERS.iter().find(|worker| worker.handles.contains(&request.kind()));
        match worker.expect("every type has a worker").name {
            "catalog" => self.decide(&Catalog, request),
            "purchase" => self.decide(&Purchase, request),
            "reception" => self.decide(&Reception, request),
            "settlement" => self.decide(&Settlement, request),
            "license" => self.decide(&License, request),
            "return" => self.decide(&Returns, request),
            "reissue" => self.decide(&Reissue, request),
            "sweep" => self.decide(&Sweep, request),
            "query" => self.decide(&Query, request),
            other => panic!("the stage has no {other} worker"),
        }
    }

    /// Sweeps everything of this kind that is overdue; says what came of it.
    pub(crate) fn sweep(&mut self, kind: SweepKind) -> Vec<&'static str> {
        let before = Timestamp::from_millis(self.now_ms);
        assert_eq!(self.tell(Request::SweepDue(SweepDue { kind, before })), None, "a clock is not answered");
        self.events()
    }

    fn decide<W: Worker>(&mut self, worker: &W, request: Request) -> Option<Output> {
        self.messages += 1;
        let kind = request.kind();
        let context = Context {
            now: Timestamp::from_millis(self.now_ms),
            keyring: &self.keyring,
            terms: &self.terms,
            message_id: Uuid::from_u128(self.messages),
        };
        let decision =
            worker.read(&self.keyring, request).and_then(|input| worker.decide(&context, &mut self.tables, &input));
        let decision = decision.unwrap_or_else(|refusal| Decision::refused(&refusal, kind));
        self.last = Some(decision.clone());
        decision.reply
    }

    /// The types of the events that the last message caused.
    pub(crate) fn events(&self) -> Vec<&'static str> {
        let Some(last) = &self.last else { return Vec::new() };
        let public = last.reply.as_ref().filter(|_| last.announced).and_then(Output::public);
        public.iter().map(Output::kind).chain(last.events.iter().map(Output::kind)).collect()
    }

    pub(crate) fn later(&mut self, by_ms: i64) -> &mut Self {
        self.now_ms += by_ms;
        self
    }

    pub(crate) fn buy(&mut self, count: usize) -> Bought {
        let answer = self.ask(purchase(count, 0));
        self.bought(answer)
    }

    fn bought(&self, answer: Output) -> Bought {
        match answer {
            Output::CertificateIssued(issued) => Bought {
                certificates: issued.certificates.iter().map(|one| one.certificate).collect(),
                tokens: issued.certificates.into_iter().filter_map(|one| one.certificate_token).collect(),
                container: issued.container,
                container_token: issued.container_token,
                amount: issued.amount,
            },
            other => panic!("a purchase was answered with {other:?}"),
        }
    }

    pub(crate) fn buy_with_points(&mut self, count: usize, points: i64) -> Bought {
        let answer = self.ask(purchase(count, points));
        self.bought(answer)
    }

    /// Gives a user points without a history.
    pub(crate) fn rich(&mut self, user: &str, points: i64) {
        self.tables.accounts.add(account::Model { name: crate::points::account(user), balance: points });
    }

    /// A license of a certificate of its own, paid for and given back for points.
    pub(crate) fn granted_and_returned(&mut self, user: &str) {
        let bought = self.buy(1);
        self.receive(&bought);
        self.settle(&bought, &format!("pay-{}", bought.certificates[0]));
        let license = self.license(&bought, "player").expect("a license");
        self.ask(license_receipt(&license));
        self.ask(license_return(&license, user, Privilege::Points, true));
    }

    pub(crate) fn receive(&mut self, bought: &Bought) -> Output {
        self.ask(receipt(bought))
    }

    pub(crate) fn settle(&mut self, bought: &Bought, id: &str) -> Output {
        self.ask(completion(bought, id, bought.amount))
    }

    /// Bought, received and settled.
    pub(crate) fn ready(&mut self, count: usize) -> Bought {
        let bought = self.buy(count);
        self.receive(&bought);
        self.settle(&bought, "pay-1");
        bought
    }

    pub(crate) fn license(&mut self, bought: &Bought, terminal: &str) -> Result<String, Box<Output>> {
        match self.ask(license_request(&bought.tokens[0], terminal)) {
            Output::LicenseIssued(issued) => Ok(issued.license_token.expect("a reply has its token")),
            other => Err(Box::new(other)),
        }
    }

    /// A granted license of a certificate of its own.
    pub(crate) fn granted(&mut self, terminal: &str) -> String {
        let bought = self.ready(1);
        let token = self.license(&bought, terminal).expect("a license");
        self.ask(license_receipt(&token));
        token
    }
}

/// The verdict in one word: a refusal's code, or else the reply's type, with a star for a repeat.
pub(crate) fn verdict(output: &Output) -> String {
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

/// A sentence, what happens, and the verdict on the last of it.
type Row = (&'static str, fn(&mut Stage) -> Output, &'static str);

/// Checks a table of verdicts.
pub(crate) fn check(table: &[Row]) {
    for (sentence, play, expected) in table {
        let mut stage = Stage::with_song();
        let output = play(&mut stage);
        assert_eq!(verdict(&output), *expected, "{sentence}: {output:?}");
    }
}

pub(crate) fn name(text: &str) -> Name {
    Name::try_from(text).expect("a name")
}

pub(crate) fn usd(minor: i64) -> Money {
    Money::new(minor, Currency::try_from("USD").expect("a currency")).expect("an amount")
}

pub(crate) fn song() -> ContentPut {
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

/// What an upgrade of the generous song gives.
pub(crate) fn sequel() -> ContentPut {
    ContentPut { content: name("sequel"), grants: grants(5), ..song() }
}

/// The song with everything on offer for its return.
pub(crate) fn generous_song() -> ContentPut {
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

pub(crate) fn purchase(count: usize, points: i64) -> Request {
    Request::PurchaseRequest(PurchaseRequest {
        user: name("alice"),
        items: vec![Item { content: name("song"), version: None }; count],
        points: Count::try_from(points).ok().filter(|points| points.get() > 0),
        reference: ExternalId::try_from("order-1").ok(),
    })
}

pub(crate) fn receipt(bought: &Bought) -> Request {
    Request::CertificateReceipt(presented(bought))
}

pub(crate) fn presented(bought: &Bought) -> CertificatePresented {
    let alone = bought.container_token.is_none();
    CertificatePresented {
        certificate_token: alone.then(|| bought.tokens[0].clone()),
        container_token: bought.container_token.clone(),
    }
}

pub(crate) fn completion(bought: &Bought, id: &str, amount: Money) -> Request {
    Request::SettlementCompletion(SettlementCompletion {
        certificate: bought.container.is_none().then(|| bought.certificates[0]),
        container: bought.container,
        settlement: ExternalId::try_from(id).expect("an id"),
        provider: name("bank"),
        amount,
        grants: None,
    })
}

pub(crate) fn setback(bought: &Bought, id: &str) -> SettlementSetback {
    SettlementSetback {
        certificate: bought.container.is_none().then(|| bought.certificates[0]),
        container: bought.container,
        settlement: ExternalId::try_from(id).expect("an id"),
        provider: name("bank"),
        reason: Text::try_from("as the bank says").expect("a text"),
        amount: None,
    }
}

pub(crate) fn reissue(certificate: Uuid, granted: Option<i64>) -> Request {
    Request::CertificateReissue(CertificateReissue {
        certificate,
        reason: Text::try_from("the terminal was lost").expect("a text"),
        granted: granted.and_then(|granted| Count::try_from(granted).ok()),
    })
}

pub(crate) fn license_request(certificate_token: &str, terminal: &str) -> Request {
    Request::LicenseRequest(LicenseRequest {
        certificate_token: certificate_token.to_owned(),
        terminal: Name::try_from(terminal).ok(),
    })
}

pub(crate) fn license_receipt(license_token: &str) -> Request {
    Request::LicenseReceipt(LicenseReceipt { license_token: license_token.to_owned() })
}

pub(crate) fn license_return(license_token: &str, user: &str, privilege: Privilege, deleted: bool) -> Request {
    Request::LicenseReturn(LicenseReturn {
        license_token: license_token.to_owned(),
        user: name(user),
        privilege,
        deleted,
    })
}

/// The token with one character of its signature changed.
pub(crate) fn altered(token: &str) -> String {
    let at = token.len() - 10;
    let other = if &token[at..=at] == "A" { "B" } else { "A" };
    format!("{}{other}{}", &token[..at], &token[at + 1..])
}
