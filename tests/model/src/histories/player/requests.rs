//! Builds the message of each step from the known ids and tokens.

use licet_schema::{
    Code, Count, ExternalId, Money, Name, Request, Timestamp,
    message::{
        CertificatePresented, CertificateReissue, Item, LicenseDeletion, LicenseReceipt, LicenseRequest, LicenseReturn,
        PayoutCompletion, PayoutFailure, Privilege, PurchaseRequest, SettlementAssignment, SettlementCompletion,
        SettlementFailure, SettlementReinstatement, SettlementReversal, SweepDue,
    },
    vocabulary::Grants,
};
use licet_workers::fixture::{altered, name};
use uuid::Uuid;

use super::{
    super::{
        contents::{content, count, eur, name_and_version, usd},
        foreign_tokens::ForeignTokens,
        script::{Amount, Choice, Flaw, Payment, Pick, Points, StatusBy, Step, Target, Wait},
    },
    Player, holdings, status, user,
};
use crate::model::{Certificate, Token};

/// An id that no object has.
const UNKNOWN: Uuid = Uuid::from_u128(42);

impl Player {
    pub(crate) fn request(&mut self, step: &Step) -> Request {
        match step {
            Step::PutContent { content: number, variant } => Request::ContentPut(content(*number, *variant)),
            Step::Buy { user, items, points, reference } => Request::PurchaseRequest(PurchaseRequest {
                user: super::user(*user),
                items: items.iter().map(item).collect(),
                points: self.offered(*user, *points),
                reference: (*reference > 0).then(|| external(format!("order-{reference}"))),
            }),
            Step::Check { of, whole, flaw } => Request::CertificateCheck(self.presented(*of, *whole, *flaw)),
            Step::Receive { of, whole, flaw } => Request::CertificateReceipt(self.presented(*of, *whole, *flaw)),
            Step::Complete { payment, amount, grants } => self.completion(payment, *amount, *grants),
            Step::Fail(payment) => self.failure(payment),
            Step::Reverse { payment, amount, refund } => self.reversal(payment, *amount, *refund),
            Step::Reinstate { payment, refund } => self.reinstatement(payment, *refund),
            Step::Assign { payment, to, amount } => self.assignment(*payment, *to, *amount),
            Step::RequestLicense { of, terminal, flaw } => Request::LicenseRequest(LicenseRequest {
                certificate_token: self.certificate_token(*of, *flaw),
                terminal: [None, Some("phone"), Some("player")][*terminal].map(name),
            }),
            Step::ConfirmLicense { of, flaw } => {
                Request::LicenseReceipt(LicenseReceipt { license_token: self.license_token(*of, *flaw) })
            }
            Step::Return { of, as_user, choice, deleted, flaw } => Request::LicenseReturn(LicenseReturn {
                license_token: self.license_token(*of, *flaw),
                user: as_user.map_or_else(|| self.holder(*of), user),
                privilege: self.chosen(*of, *choice),
                deleted: *deleted,
            }),
            Step::ConfirmDeletion { of, known } => {
                Request::LicenseDeletion(LicenseDeletion { license_return: self.license_return(*of, *known) })
            }
            Step::PayOut { of, known, id_of, attempt, amount, provider: by } => {
                let (license_return, payout) = self.payout(*of, *known, *id_of, *attempt);
                let due = self.system.model.amount_owed(license_return).unwrap_or_else(|| usd(9));
                let (amount, provider) = (varied(due, due.amount_minor.get(), *amount), provider(*by));
                Request::PayoutCompletion(PayoutCompletion { license_return, payout, provider, amount })
            }
            Step::FailPayout { of, known, id_of, attempt, provider: by } => {
                let (license_return, payout) = self.payout(*of, *known, *id_of, *attempt);
                let reason = "the account is closed".try_into().expect("a text");
                Request::PayoutFailure(PayoutFailure { license_return, payout, provider: provider(*by), reason })
            }
            Step::Reissue { of, known, granted } => Request::CertificateReissue(CertificateReissue {
                certificate: of.of(&self.certificates).copied().filter(|_| *known).unwrap_or(UNKNOWN),
                reason: "the terminal was lost".try_into().expect("a text"),
                granted: granted.map(count),
            }),
            Step::Sweep { kind, before } => {
                let before = Timestamp::from_millis(self.time(*before, false));
                Request::SweepDue(SweepDue { kind: *kind, before })
            }
            Step::Holdings { user, after, limit } => {
                let after = after.and_then(|after| after.of(&self.licenses)).map(|(id, _)| *id);
                holdings(*user, after, *limit)
            }
            Step::Status(by) => self.status(*by),
            Step::Wait(_) | Step::RequireUniqueReferences | Step::SendAgain { .. } => {
                unreachable!("these steps have no message of their own")
            }
        }
    }

    /// The time of a step, relative to the clock or to a future (or past) deadline. Pick 0 is the
    /// nearest deadline.
    pub(crate) fn time(&self, wait: Wait, future: bool) -> i64 {
        let (now, model) = (self.system.fixture.now_ms, &self.system.model);
        match wait {
            Wait::Seconds(seconds) => now + seconds * 1000,
            Wait::Deadline(pick, offset_ms) => {
                let due = model.purchases.values().map(|one| one.receipt_due_at);
                let expiries = model.certificates.values().map(|one| one.expires_at);
                let deletions = model.returns.values().map(|one| one.delete_by);
                let mut deadlines: Vec<_> =
                    due.chain(expiries).chain(deletions).filter(|at| (*at >= now) == future).collect();
                deadlines.sort_by_key(|at| std::cmp::Reverse((at - now).abs()));
                pick.of(&deadlines).copied().unwrap_or(now) + offset_ms
            }
        }
    }

    // Tokens.

    fn flawed(
        &mut self,
        token: Option<String>,
        flaw: Flaw,
        kind: fn(&ForeignTokens) -> &String,
        other: String,
    ) -> String {
        let foreign = kind(&self.trusted).clone();
        let Some(token) = token else { return foreign };
        match flaw {
            Flaw::None | Flaw::Old => token,
            Flaw::Foreign => foreign,
            Flaw::Untrusted => kind(&self.untrusted).clone(),
            Flaw::OtherKind => other,
            Flaw::Garbage => "garbage".into(),
            Flaw::Altered => {
                let changed = altered(&token);
                let subject = self.system.model.tokens[&token].subject.clone();
                let fault = Some(Code::Altered);
                self.system.model.tokens.insert(changed.clone(), Token { subject, fault });
                changed
            }
        }
    }

    fn certificate_token(&mut self, of: Pick, flaw: Flaw) -> String {
        let latest = |token: &&String| self.latest_tokens.values().any(|latest| latest == *token);
        let old: Vec<_> = self.certificate_tokens.iter().filter(|token| !latest(token)).cloned().collect();
        let token = match flaw {
            Flaw::Old if !old.is_empty() => of.of(&old).cloned(),
            _ => of.of(&self.certificates).map(|id| self.latest_tokens[id].clone()),
        };
        let other = self.trusted.license.clone();
        self.flawed(token, flaw, |tokens| &tokens.certificate, other)
    }

    fn license_token(&mut self, of: Pick, flaw: Flaw) -> String {
        let token = of.of(&self.licenses).map(|(_, token)| token.clone());
        let other = self.trusted.container.clone();
        self.flawed(token, flaw, |tokens| &tokens.license, other)
    }

    /// The token of a purchase, or of one of its certificates.
    fn presented(&mut self, of: Pick, whole: bool, flaw: Flaw) -> CertificatePresented {
        let purchase = of.of(&self.purchases).copied().filter(|_| whole);
        let container = purchase.filter(|id| self.system.model.purchases[id].container);
        let (mut certificate_token, mut container_token) = (None, None);
        match (purchase, container) {
            (_, Some(id)) => {
                let token = self.latest_tokens.get(&id).cloned();
                let other = self.trusted.certificate.clone();
                container_token = Some(self.flawed(token, flaw, |tokens| &tokens.container, other));
            }
            (Some(id), None) => {
                let token = self.latest_tokens.get(&id).cloned();
                let other = self.trusted.container.clone();
                certificate_token = Some(self.flawed(token, flaw, |tokens| &tokens.certificate, other));
            }
            (None, None) => certificate_token = Some(self.certificate_token(of, flaw)),
        }
        CertificatePresented { certificate_token, container_token }
    }

    fn holder(&self, of: Pick) -> Name {
        let model = &self.system.model;
        let holder = of.of(&self.licenses).map(|(id, _)| model.licenses[id].certificate);
        let holder = holder.map(|id| model.purchases[&model.certificates[&id].purchase].user.clone());
        holder.unwrap_or_else(|| user(0))
    }

    fn chosen(&self, of: Pick, choice: Choice) -> Privilege {
        match choice {
            Choice::Any(privilege) => privilege,
            Choice::Offered(number) => {
                let model = &self.system.model;
                let offers = of.of(&self.licenses).map(|(id, _)| model.offers(&model.licenses[id])).unwrap_or_default();
                offers.get(number % offers.len().max(1)).copied().unwrap_or(Privilege::Points)
            }
        }
    }

    // Money.

    fn offered(&self, user: usize, points: Points) -> Option<Count> {
        let all = self.system.model.balance(&format!("points:{}", super::user(user)));
        let offered = match points {
            Points::None => 0,
            Points::Few(points) if all > 0 => points,
            Points::Few(_) => 0,
            Points::All => all,
            Points::TooMany => all + 1,
        };
        (offered > 0).then(|| count(offered))
    }

    /// The certificate and container in a settlement message.
    fn target(&self, payment: &Payment) -> (Option<Uuid>, Option<Uuid>) {
        let purchase = payment.of.of(&self.purchases).copied().unwrap_or(UNKNOWN);
        let bought = self.system.model.purchases.get(&purchase);
        let container = bought.is_some_and(|one| one.container);
        match payment.target {
            Target::Whole if container => (None, Some(purchase)),
            Target::Whole => (Some(purchase), None),
            Target::OtherKind if container => (Some(purchase), None),
            Target::OtherKind => (None, Some(purchase)),
            Target::Member => (bought.map(|one| one.members[0]).or(Some(UNKNOWN)), None),
            Target::Unknown => (Some(UNKNOWN), None),
        }
    }

    /// The provider's id of the settlement of a purchase, or of the payout of a return.
    fn payment_id(&mut self, kind: &str, of: Pick, attempt: usize, known: usize) -> ExternalId {
        let number = of.of(&(0..known).collect::<Vec<_>>()).copied().unwrap_or_default();
        let id = external(format!("{kind}-{number}-{attempt}"));
        if !self.settlements.contains(&id) {
            self.settlements.push(id.clone());
        }
        id
    }

    fn completion(&mut self, payment: &Payment, amount: Amount, grants: Option<i64>) -> Request {
        let of = payment.id_of.unwrap_or(payment.of);
        let settlement = self.payment_id("pay", of, payment.attempt, self.purchases.len());
        let (certificate, container) = self.target(payment);
        let provider = provider(payment.provider);
        let grants = grants.and_then(|grants| Grants::try_from(grants).ok());
        let amount = self.amount(payment.of, amount);
        let body = SettlementCompletion { certificate, container, settlement, provider, amount, grants };
        Request::SettlementCompletion(body)
    }

    fn amount(&self, of: Pick, amount: Amount) -> Money {
        let model = &self.system.model;
        let Some(bought) = of.of(&self.purchases).map(|id| &model.purchases[id]) else { return usd(1) };
        let currency = model.certificates[&bought.members[0]].price.currency;
        let sum = |value: fn(&Certificate) -> i64| -> i64 {
            bought.members.iter().map(|id| value(&model.certificates[id])).sum()
        };
        let price = sum(|one| one.price.amount_minor.get());
        let due = price - sum(|one| one.points);
        varied(Money { amount_minor: count(due), currency }, price, amount)
    }

    /// The ids in a settlement message: certificate, container, settlement and provider.
    fn settlement_ids(&mut self, payment: &Payment) -> (Option<Uuid>, Option<Uuid>, ExternalId, Name) {
        let of = payment.id_of.unwrap_or(payment.of);
        let settlement = self.payment_id("pay", of, payment.attempt, self.purchases.len());
        let (certificate, container) = self.target(payment);
        (certificate, container, settlement, provider(payment.provider))
    }

    fn failure(&mut self, payment: &Payment) -> Request {
        let (certificate, container, settlement, provider) = self.settlement_ids(payment);
        let reason = "the card was stolen".try_into().expect("a text");
        Request::SettlementFailure(SettlementFailure { certificate, container, settlement, provider, reason })
    }

    fn reversal(&mut self, payment: &Payment, amount: Option<Amount>, refund: Option<usize>) -> Request {
        let (certificate, container, settlement, provider) = self.settlement_ids(payment);
        let (refund, amount) = (refund_id(&settlement, refund), amount.map(|amount| self.amount(payment.of, amount)));
        let reason = "the card was stolen".try_into().expect("a text");
        let body = SettlementReversal { certificate, container, settlement, provider, refund, amount, reason };
        Request::SettlementReversal(body)
    }

    fn reinstatement(&mut self, payment: &Payment, refund: Option<usize>) -> Request {
        let (certificate, container, settlement, provider) = self.settlement_ids(payment);
        let refund = refund_id(&settlement, refund);
        let reason = "the dispute was won".try_into().expect("a text");
        let body = SettlementReinstatement { certificate, container, settlement, provider, refund, reason };
        Request::SettlementReinstatement(body)
    }

    fn assignment(&mut self, payment: Pick, to: Pick, amount: Option<Amount>) -> Request {
        let payments: Vec<_> = self.system.model.unmatched.iter().filter(|one| one.refund.is_none()).collect();
        let chosen = payment.of(&payments).map(|one| (one.key.clone(), one.amount));
        let any = self.settlements.last().cloned().unwrap_or_else(|| external("pay-0-0".into()));
        let ((provider, settlement), money) = chosen.unwrap_or_else(|| ((provider(0), any), usd(1)));
        let target = Payment { of: to, target: Target::Whole, id_of: None, attempt: 0, provider: 0 };
        let (certificate, container) = self.target(&target);
        let amount = amount.map(|amount| varied(money, money.amount_minor.get(), amount));
        let body = SettlementAssignment { certificate, container, settlement, provider, amount };
        Request::SettlementAssignment(body)
    }

    fn license_return(&self, of: Pick, known: bool) -> Uuid {
        of.of(&self.returns).copied().filter(|_| known).unwrap_or(UNKNOWN)
    }

    /// The return and the payout in a payout message.
    fn payout(&mut self, of: Pick, known: bool, id_of: Option<Pick>, attempt: usize) -> (Uuid, ExternalId) {
        let model = &self.system.model;
        let buybacks: Vec<_> = self.returns.iter().copied().filter(|id| model.amount_owed(*id).is_some()).collect();
        let known = of.of(&buybacks).copied().filter(|_| known);
        let license_return = known.or(of.of(&self.returns).copied()).unwrap_or(UNKNOWN);
        (license_return, self.payment_id("out", id_of.unwrap_or(of), attempt, buybacks.len()))
    }

    // Queries.

    fn status(&self, by: StatusBy) -> Request {
        let has_container = |id: &&Uuid| self.system.model.purchases[*id].container;
        let containers: Vec<_> = self.purchases.iter().filter(has_container).copied().collect();
        let licenses: Vec<_> = self.licenses.iter().map(|(id, _)| *id).collect();
        let one_of = |pick: Pick, known: &[Uuid]| Some(pick.of(known).copied().unwrap_or(UNKNOWN));
        status(|query| match by {
            StatusBy::Certificate(pick) => query.certificate = one_of(pick, &self.certificates),
            StatusBy::Container(pick) => query.container = one_of(pick, &containers),
            StatusBy::License(pick) => query.license = one_of(pick, &licenses),
            StatusBy::Return(pick) => query.license_return = one_of(pick, &self.returns),
            StatusBy::Reference(number) => query.reference = Some(external(format!("order-{number}"))),
            StatusBy::Settlement(pick) => {
                query.settlement = Some(pick.of(&self.settlements).cloned().unwrap_or_else(|| external("none".into())));
            }
            StatusBy::Unknown(0) => query.certificate = Some(UNKNOWN),
            StatusBy::Unknown(1) => query.container = self.certificates.first().copied().or(Some(UNKNOWN)),
            StatusBy::Unknown(2) => query.license = Some(UNKNOWN),
            StatusBy::Unknown(3) => query.license_return = Some(UNKNOWN),
            StatusBy::Unknown(4) => query.settlement = Some(external("none".into())),
            StatusBy::Unknown(_) => {}
        })
    }
}

fn provider(number: usize) -> Name {
    name(["bank", "wallet", "licet"][number])
}

/// The id of a refund: the settlement's id, or another.
fn refund_id(settlement: &ExternalId, number: Option<usize>) -> Option<ExternalId> {
    number.map(|number| match number {
        0 => settlement.clone(),
        number => external(format!("re-{number}")),
    })
}

fn external(id: String) -> ExternalId {
    ExternalId::try_from(id).expect("an id")
}

fn item((number, versioned): &(usize, bool)) -> Item {
    let (content, version) = name_and_version(*number);
    Item { content, version: versioned.then_some(version) }
}

fn varied(due: Money, price: i64, amount: Amount) -> Money {
    let minor = due.amount_minor.get();
    match amount {
        Amount::Due => due,
        Amount::Price => Money { amount_minor: count(price), ..due },
        Amount::OneMore => Money { amount_minor: count(minor + 1), ..due },
        Amount::Part => Money { amount_minor: count(minor / 3), ..due },
        Amount::OtherCurrency if due.currency == usd(0).currency => eur(minor),
        Amount::OtherCurrency => usd(minor),
    }
}
