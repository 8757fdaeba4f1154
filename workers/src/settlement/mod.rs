//! The settlement worker registers the reports of payment providers.
//!
//! In: `settlement.completion`. Out: `settlement.registered`. Guarantees: a settlement pays for
//! exactly one certificate or container, in full and once. If the settlement arrives before the
//! receipt, nothing more is charged. A payment that matches no purchase or has the wrong amount is
//! refused, but it is never lost: it is recorded, and announced as `settlement.unmatched`.
//!
//! In: `settlement.failure`, `settlement.reversal`, `settlement.reinstatement`. Out:
//! `settlement.registered`. A failure declines the purchase; a later payment makes it live again. A
//! reversal refunds a payment in full or in part. It ends the certificates that it refunds, revokes
//! their licenses, and takes back the points that were granted for returns. A reinstatement undoes
//! a reversal. A reversal or reinstatement that arrives too early is kept until it can be applied,
//! so the same messages have the same result in every order.
//!
//! In: `settlement.assignment`. Out: `settlement.registered`. An operator decides that an unmatched
//! payment pays for a purchase, even if the purchase has ended without being paid for.
//!
//! In: `payout.completion`, `payout.failure`. Out: `payout.registered`. The amount of a buy-back
//! was paid out, or its payout failed. A failure is final, even if it arrives before its
//! completion. Every payout is recorded, even if its completion is refused, because the money has
//! left the provider.
//!
//! The worker locks the certificates, then the settlements with the same ids that are already
//! registered, then the points accounts. It locks all members of a container. For a reversal, it
//! also locks the certificates that upgrades of the licenses created.

mod assignment;
#[cfg(test)]
mod assignment_tests;
mod completion;
mod failure;
#[cfg(test)]
mod failure_tests;
mod load;
mod payout;
mod payout_load;
#[cfg(test)]
mod payout_tests;
mod refund;
#[cfg(test)]
mod refund_tests;
mod reinstatement;
mod revocation;
mod rules;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod unmatched_tests;

use licet_common::{
    decision::{Context, Decision, RuleError},
    runtime::Worker,
    signing::Keyring,
    store::{Source, StoreError},
};
use licet_schema::{
    Code, ExternalId, Name, Refusal, Request,
    message::{
        PayoutCompletion, PayoutFailure, SettlementAssignment, SettlementCompletion, SettlementFailure,
        SettlementReinstatement, SettlementReversal,
    },
};
use uuid::Uuid;

use crate::domain::{
    Tables,
    certificates::{OWN_PROVIDER, Subject},
    refusals::not_handled,
};
use rules::Named;

/// The settlement worker.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settlement;

/// A report of a payment provider, with the purchase that it names, if any.
#[derive(Debug)]
pub enum Input {
    /// A payment was completed.
    Completion(Subject, SettlementCompletion),
    /// A payment failed.
    Failure(Subject, SettlementFailure),
    /// A payment was refunded or charged back.
    Reversal(Subject, SettlementReversal),
    /// A reversal was undone.
    Reinstatement(Subject, SettlementReinstatement),
    /// An operator assigned an unmatched payment to a purchase.
    Assignment(Subject, SettlementAssignment),
    /// The amount of a buy-back was paid out, or its payout failed.
    Payout(PayoutReport),
}

/// A report about a payout.
#[derive(Debug)]
pub enum PayoutReport {
    /// The amount was paid out.
    Completion(PayoutCompletion),
    /// The payout failed.
    Failure(PayoutFailure),
}

impl PayoutReport {
    fn license_return(&self) -> Uuid {
        match self {
            Self::Completion(body) => body.license_return,
            Self::Failure(body) => body.license_return,
        }
    }

    /// The key of the payout.
    fn key(&self) -> (Name, ExternalId) {
        match self {
            Self::Completion(body) => (body.provider.clone(), body.payout.clone()),
            Self::Failure(body) => (body.provider.clone(), body.payout.clone()),
        }
    }

    fn provider(&self) -> &Name {
        match self {
            Self::Completion(body) => &body.provider,
            Self::Failure(body) => &body.provider,
        }
    }
}

impl Input {
    /// The purchase and the settlement that the report names. Reports of payouts name none.
    fn named(&self) -> Option<Named<'_>> {
        match self {
            Self::Completion(subject, body) => Some(named(*subject, &body.provider, &body.settlement)),
            Self::Failure(subject, body) => Some(named(*subject, &body.provider, &body.settlement)),
            Self::Reversal(subject, body) => Some(named(*subject, &body.provider, &body.settlement)),
            Self::Reinstatement(subject, body) => Some(named(*subject, &body.provider, &body.settlement)),
            Self::Assignment(subject, body) => Some(named(*subject, &body.provider, &body.settlement)),
            Self::Payout(_) => None,
        }
    }

    /// Whether the message may end paid certificates or make them live again: a reversal, a
    /// reinstatement, or an assignment. After an assignment, a reversal in the same batch may name
    /// the purchase that the provider named, and revoke the one to which the payment was assigned.
    fn changes_paid_certificates(&self) -> bool {
        matches!(self, Self::Reversal(..) | Self::Reinstatement(..) | Self::Assignment(..))
    }

    fn provider(&self) -> &Name {
        match self {
            Self::Completion(_, body) => &body.provider,
            Self::Failure(_, body) => &body.provider,
            Self::Reversal(_, body) => &body.provider,
            Self::Reinstatement(_, body) => &body.provider,
            Self::Assignment(_, body) => &body.provider,
            Self::Payout(report) => report.provider(),
        }
    }
}

impl Worker for Settlement {
    const NAME: &'static str = "settlement";
    const HANDLES: &'static [&'static str] = &[
        "settlement.completion",
        "settlement.failure",
        "settlement.reversal",
        "settlement.reinstatement",
        "settlement.assignment",
        "payout.completion",
        "payout.failure",
    ];

    type Input = Input;
    type Rows = Tables;

    fn read(&self, _: &Keyring, request: Request) -> Result<Input, Refusal> {
        let subject = |certificate, container| {
            Subject::of_either(certificate, container)
                .ok_or_else(|| Refusal::new(Code::Malformed, "name exactly one of certificate and container"))
        };
        let input = match request {
            Request::SettlementCompletion(body) => Input::Completion(subject(body.certificate, body.container)?, body),
            Request::SettlementFailure(body) => Input::Failure(subject(body.certificate, body.container)?, body),
            Request::SettlementReversal(body) => Input::Reversal(subject(body.certificate, body.container)?, body),
            Request::SettlementReinstatement(body) => {
                Input::Reinstatement(subject(body.certificate, body.container)?, body)
            }
            Request::SettlementAssignment(body) => Input::Assignment(subject(body.certificate, body.container)?, body),
            Request::PayoutCompletion(body) => Input::Payout(PayoutReport::Completion(body)),
            Request::PayoutFailure(body) => Input::Payout(PayoutReport::Failure(body)),
            other => return Err(not_handled(Self::NAME, &other)),
        };
        if input.provider().as_str() == OWN_PROVIDER {
            return Err(Refusal::new(Code::Forbidden, format!("the provider name {OWN_PROVIDER:?} is reserved")));
        }
        Ok(input)
    }

    fn subject(&self, input: &Input) -> Option<Uuid> {
        input.named().map(|named| named.subject.id())
    }

    async fn load<S: Source>(&self, source: &S, inputs: &[&Input]) -> Result<Tables, StoreError> {
        load::load(source, inputs).await
    }

    fn decide(&self, context: &Context<'_>, tables: &mut Tables, input: &Input) -> Result<Decision, RuleError> {
        match input {
            Input::Completion(subject, body) => {
                let named = named(*subject, &body.provider, &body.settlement);
                Ok(completion::decide(context, tables, named, body)?)
            }
            Input::Failure(subject, body) => {
                failure::decide(context, tables, named(*subject, &body.provider, &body.settlement))
            }
            Input::Reversal(subject, body) => {
                refund::decide(context, tables, named(*subject, &body.provider, &body.settlement), body)
            }
            Input::Reinstatement(subject, body) => {
                reinstatement::decide(context, tables, named(*subject, &body.provider, &body.settlement), body)
            }
            Input::Assignment(subject, body) => {
                assignment::decide(context, tables, named(*subject, &body.provider, &body.settlement), body)
            }
            Input::Payout(PayoutReport::Completion(body)) => payout::completion(context, tables, body),
            Input::Payout(PayoutReport::Failure(body)) => payout::failure(context, tables, body),
        }
    }
}

fn named<'a>(subject: Subject, provider: &'a Name, settlement: &'a ExternalId) -> Named<'a> {
    Named { subject, provider, settlement }
}
