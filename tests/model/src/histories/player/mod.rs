//! Plays a history: sends the message of each step ([`requests`]), and records the ids and tokens
//! in the replies.

mod requests;

use std::collections::BTreeMap;

use licet_schema::{
    ExternalId, Name, Output, Request,
    message::{HoldingsQuery, StatusQuery},
};
use licet_workers::fixture::name;
use uuid::Uuid;

use super::{
    contents::{CONTENTS, content, count},
    foreign_tokens::ForeignTokens,
    script::Step,
};
use crate::test_system::TestSystem;

/// This content item is registered later, so that some upgrades have no successor at first.
const REGISTERED_LATER: usize = 2;

/// A test system, and the ids and tokens that its users, terminals and providers know.
pub(crate) struct Player {
    pub(crate) system: TestSystem,
    messages: Vec<(u128, Request)>,
    purchases: Vec<Uuid>,
    certificates: Vec<Uuid>,
    /// The latest token of each certificate and container.
    latest_tokens: BTreeMap<Uuid, String>,
    certificate_tokens: Vec<String>,
    licenses: Vec<(Uuid, String)>,
    returns: Vec<Uuid>,
    settlements: Vec<ExternalId>,
    trusted: ForeignTokens,
    untrusted: ForeignTokens,
}

impl Player {
    pub(crate) fn new() -> Self {
        let mut system = TestSystem::new();
        let trusted = ForeignTokens::trusted(&mut system.model);
        let untrusted = ForeignTokens::untrusted(&mut system.model);
        Self {
            system,
            trusted,
            untrusted,
            messages: Vec::new(),
            purchases: Vec::new(),
            certificates: Vec::new(),
            latest_tokens: BTreeMap::new(),
            certificate_tokens: Vec::new(),
            licenses: Vec::new(),
            returns: Vec::new(),
            settlements: Vec::new(),
        }
    }

    pub(crate) fn register_contents(&mut self) -> Result<(), String> {
        let first = (0..CONTENTS.len()).filter(|number| *number != REGISTERED_LATER);
        first.map(|number| Request::ContentPut(content(number, 0))).try_for_each(|put| self.send(put))
    }

    pub(crate) fn step(&mut self, step: &Step) -> Result<(), String> {
        if let Step::SendAgain { of, same_id } = step {
            return match of.of(&self.messages).cloned() {
                Some((id, request)) if *same_id => self.system.deliver(id, &request).map(|_| ()),
                Some((_, request)) => self.send(request),
                None => Ok(()),
            };
        }
        match step {
            Step::Wait(wait) => self.system.fixture.now_ms = self.time(*wait, true),
            Step::RequireUniqueReferences => {
                self.system.fixture.terms.unique_reference = true;
                self.system.model.unique_reference = true;
            }
            _ => {
                let request = self.request(step);
                self.send(request)?;
            }
        }
        Ok(())
    }

    /// Queries every user and every certificate.
    pub(crate) fn query_everything(&mut self) -> Result<(), String> {
        let users = (0..3).map(|number| holdings(number, None, None));
        let certificates = self.certificates.iter().map(|id| status(|query| query.certificate = Some(*id)));
        let all: Vec<_> = users.chain(certificates).collect();
        all.into_iter().try_for_each(|request| self.send(request))
    }

    /// Sends a message under a new id.
    fn send(&mut self, request: Request) -> Result<(), String> {
        let id = self.messages.len() as u128 + 1;
        let response = self.system.deliver(id, &request)?;
        self.messages.push((id, request));
        response.reply.iter().for_each(|reply| self.record(reply));
        Ok(())
    }

    /// Records the ids and tokens in a reply.
    pub(crate) fn record(&mut self, reply: &Output) {
        match reply {
            Output::CertificateIssued(body) => {
                for one in &body.certificates {
                    self.record_certificate(one.certificate, one.certificate_token.as_ref());
                }
                if let Some((id, token)) = body.container.zip(body.container_token.clone()) {
                    self.latest_tokens.insert(id, token);
                }
                self.purchases.push(body.container.unwrap_or(body.certificates[0].certificate));
            }
            Output::CertificateReissued(body) => {
                self.record_certificate(body.certificate, body.certificate_token.as_ref())
            }
            Output::LicenseIssued(body) => {
                let one = (body.license, body.license_token.clone().unwrap_or_default());
                if !self.licenses.contains(&one) {
                    self.licenses.push(one);
                }
            }
            Output::ReturnOpened(body) => self.returns.push(body.license_return),
            Output::LicenseReturned(body) if !body.repeated => {
                if !self.returns.contains(&body.license_return) {
                    self.returns.push(body.license_return);
                }
                if let Some(id) = body.privilege.certificate {
                    self.record_certificate(id, body.privilege.certificate_token.as_ref());
                    self.purchases.push(id);
                }
            }
            _ => {}
        }
    }

    fn record_certificate(&mut self, id: Uuid, token: Option<&String>) {
        let token = token.cloned().unwrap_or_default();
        if !self.certificates.contains(&id) {
            self.certificates.push(id);
        }
        self.certificate_tokens.push(token.clone());
        self.latest_tokens.insert(id, token);
    }
}

fn user(number: usize) -> Name {
    name(["alice", "bob", "carol", "nobody"][number])
}

fn holdings(number: usize, after: Option<Uuid>, limit: Option<i64>) -> Request {
    Request::HoldingsQuery(HoldingsQuery { user: user(number), after, limit: limit.map(count) })
}

fn status(ask: impl FnOnce(&mut StatusQuery)) -> Request {
    let mut query = StatusQuery {
        certificate: None,
        container: None,
        license: None,
        license_return: None,
        reference: None,
        settlement: None,
    };
    ask(&mut query);
    Request::StatusQuery(query)
}
