//! Who plays a history: sends the messages of its steps ([`requests`]), and keeps what it is told.

mod requests;

use std::collections::BTreeMap;

use licet_schema::{
    ExternalId, Name, Output, Request,
    message::{HoldingsQuery, StatusQuery},
};
use uuid::Uuid;

use super::{
    script::Step,
    shop::{CONTENTS, content, count},
    strangers::Strangers,
    world::World,
};
use crate::testing::name;

/// The second of them is left for later, so that some upgrades lead nowhere at first.
const SOLD_LATER: usize = 2;

/// A world, and all that its users, terminals and providers know.
pub(super) struct Player {
    pub(super) world: World,
    messages: Vec<(u128, Request)>,
    purchases: Vec<Uuid>,
    certificates: Vec<Uuid>,
    /// The latest token of each certificate and container.
    latest: BTreeMap<Uuid, String>,
    certificate_tokens: Vec<String>,
    licenses: Vec<(Uuid, String)>,
    returns: Vec<Uuid>,
    settlements: Vec<ExternalId>,
    foreign: Strangers,
    untrusted: Strangers,
}

impl Player {
    pub(super) fn new() -> Self {
        let mut world = World::new();
        let foreign = Strangers::foreign(&mut world.model);
        let untrusted = Strangers::untrusted(&mut world.model);
        Self {
            world,
            foreign,
            untrusted,
            messages: Vec::new(),
            purchases: Vec::new(),
            certificates: Vec::new(),
            latest: BTreeMap::new(),
            certificate_tokens: Vec::new(),
            licenses: Vec::new(),
            returns: Vec::new(),
            settlements: Vec::new(),
        }
    }

    pub(super) fn open_shop(&mut self) -> Result<(), String> {
        let first = (0..CONTENTS.len()).filter(|number| *number != SOLD_LATER);
        first.map(|number| Request::ContentPut(content(number, 0))).try_for_each(|put| self.send(put))
    }

    pub(super) fn step(&mut self, step: &Step) -> Result<(), String> {
        if let Step::Again { of, same_id } = step {
            return match of.of(&self.messages).cloned() {
                Some((id, request)) if *same_id => self.world.deliver(id, &request).map(|_| ()),
                Some((_, request)) => self.send(request),
                None => Ok(()),
            };
        }
        match step {
            Step::Wait(wait) => self.world.stage.now_ms = self.time(*wait, true),
            _ => {
                let request = self.request(step);
                self.send(request)?;
            }
        }
        Ok(())
    }

    /// At the end every certificate and every user is asked about.
    pub(super) fn ask_for_everything(&mut self) -> Result<(), String> {
        let users = (0..3).map(|number| holdings(number, None, None));
        let certificates = self.certificates.iter().map(|id| status(|query| query.certificate = Some(*id)));
        let all: Vec<_> = users.chain(certificates).collect();
        all.into_iter().try_for_each(|request| self.send(request))
    }

    /// Sends a message under a new id.
    fn send(&mut self, request: Request) -> Result<(), String> {
        let id = self.messages.len() as u128 + 1;
        let heard = self.world.deliver(id, &request)?;
        self.messages.push((id, request));
        heard.reply.iter().for_each(|reply| self.learn(reply));
        Ok(())
    }

    pub(super) fn learn(&mut self, reply: &Output) {
        match reply {
            Output::CertificateIssued(body) => {
                for one in &body.certificates {
                    self.hold(one.certificate, one.certificate_token.as_ref());
                }
                if let Some((id, token)) = body.container.zip(body.container_token.clone()) {
                    self.latest.insert(id, token);
                }
                self.purchases.push(body.container.unwrap_or(body.certificates[0].certificate));
            }
            Output::CertificateReissued(body) => self.hold(body.certificate, body.certificate_token.as_ref()),
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
                    self.hold(id, body.privilege.certificate_token.as_ref());
                    self.purchases.push(id);
                }
            }
            _ => {}
        }
    }

    fn hold(&mut self, id: Uuid, token: Option<&String>) {
        let token = token.cloned().unwrap_or_default();
        if !self.certificates.contains(&id) {
            self.certificates.push(id);
        }
        self.certificate_tokens.push(token.clone());
        self.latest.insert(id, token);
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
