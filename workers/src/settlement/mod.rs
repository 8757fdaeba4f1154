//! The settlement worker registers what payment providers report.
//!
//! In: `settlement.completion`. Out: `settlement.registered`. Guarantees: a settlement pays for exactly
//! one certificate or container, in full, once. It may arrive before the receipt; then nothing more is
//! charged. Money that matches no purchase, or whose amount differs, is refused. It is nevertheless
//! recorded and announced as `settlement.unmatched`: it is never dropped.
//!
//! In: `settlement.failure`, `settlement.reversal`. Out: `settlement.registered`. A failure ends the
//! purchase. A reversal revokes what was paid for, and takes back the points that returns brought. It may
//! arrive before its completion, which is then registered as reversed.
//!
//! In: `payout.completion`. Out: `payout.registered`. The money of a buy-back was paid out.
//!
//! Locks the certificates (all members of a container; for a reversal also those that upgrades of
//! its licenses created), then the settlements registered before, then the points accounts.

mod completion;
mod load;
mod payout;
mod rules;
mod setback;
#[cfg(test)]
mod setback_tests;
#[cfg(test)]
mod tests;

use licet_common::{
    decision::{Context, Decision, RuleError},
    runtime::Worker,
    signing::Keyring,
    store::{Source, StoreError},
};
use licet_schema::{
    Code, ExternalId, Name, Refusal, Request,
    message::{PayoutCompletion, SettlementCompletion, SettlementSetback},
};
use uuid::Uuid;

use crate::domain::{
    Tables,
    certificates::{OWN_PROVIDER, Subject},
    refusals::not_handled,
};

/// The settlement worker.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settlement;

/// A report of a provider. A report about a purchase includes the purchase that it names.
#[derive(Debug)]
pub enum Input {
    /// A provider was paid.
    Completion(Subject, SettlementCompletion),
    /// The payment failed.
    Failure(Subject, SettlementSetback),
    /// The payment was reversed.
    Reversal(Subject, SettlementSetback),
    /// A provider paid out.
    Payout(PayoutCompletion),
}

impl Input {
    /// The purchase that a settlement names.
    fn subject(&self) -> Option<Subject> {
        match self {
            Self::Completion(subject, _) | Self::Failure(subject, _) | Self::Reversal(subject, _) => Some(*subject),
            Self::Payout(_) => None,
        }
    }

    /// The settlement's provider and id.
    fn settlement(&self) -> Option<(&Name, &ExternalId)> {
        match self {
            Self::Completion(_, body) => Some((&body.provider, &body.settlement)),
            Self::Failure(_, body) | Self::Reversal(_, body) => Some((&body.provider, &body.settlement)),
            Self::Payout(_) => None,
        }
    }

    fn provider(&self) -> &Name {
        match self {
            Self::Completion(_, body) => &body.provider,
            Self::Failure(_, body) | Self::Reversal(_, body) => &body.provider,
            Self::Payout(body) => &body.provider,
        }
    }
}

impl Worker for Settlement {
    const NAME: &'static str = "settlement";
    const HANDLES: &'static [&'static str] =
        &["settlement.completion", "settlement.failure", "settlement.reversal", "payout.completion"];

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
            Request::PayoutCompletion(body) => Input::Payout(body),
            other => return Err(not_handled(Self::NAME, &other)),
        };
        if input.provider().as_str() == OWN_PROVIDER {
            return Err(Refusal::new(Code::Forbidden, format!("the provider name {OWN_PROVIDER:?} is reserved")));
        }
        Ok(input)
    }

    fn subject(&self, input: &Input) -> Option<Uuid> {
        input.subject().map(Subject::id)
    }

    async fn load<S: Source>(&self, source: &S, inputs: &[&Input]) -> Result<Tables, StoreError> {
        load::load(source, inputs).await
    }

    fn decide(&self, context: &Context<'_>, tables: &mut Tables, input: &Input) -> Result<Decision, RuleError> {
        match input {
            Input::Completion(subject, body) => Ok(completion::decide(context, tables, *subject, body)?),
            Input::Failure(subject, body) => setback::failure(context, tables, *subject, body),
            Input::Reversal(subject, body) => setback::reversal(context, tables, *subject, body),
            Input::Payout(body) => payout::decide(context, tables, body),
        }
    }
}
