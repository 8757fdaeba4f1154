//! The settlement worker takes in what payment providers say: the part of the license generating
//! means that registers account settlement completion, with the number of times a license can be
//! granted, with the certificate it pays for.
//!
//! In: `settlement.completion`. Out: `settlement.registered`. Promised: a settlement pays for
//! exactly one certificate or container, whole, once; it may come before the reception notice, and
//! then nothing more is charged. Money that matches nothing, or not in amount, is refused to the
//! provider, and all the same kept and announced as `settlement.unmatched`: never dropped.
//!
//! In: `settlement.failure`, `settlement.reversal`. Out: `settlement.registered`. A failure ends
//! what it was for. A reversal revokes what was paid for, and takes back the points that came of
//! it; it may overtake its completion, which is then registered as reversed.
//!
//! In: `payout.completion`. Out: `payout.registered`. The money of a buy-back was paid out.
//!
//! Locks the certificates (all members, for a container; for a reversal those, too, that upgrades
//! made of its licenses), then the settlements told before, then the points accounts.

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
    decision::{Context, Decision, Tables},
    runtime::Worker,
    signing::Keyring,
    store::{StoreError, Transaction},
};
use licet_schema::{
    ExternalId, Name, Refusal, Request,
    message::{PayoutCompletion, SettlementCompletion, SettlementSetback},
};
use uuid::Uuid;

use crate::held::Subject;

/// The settlement worker.
#[derive(Debug)]
pub struct Settlement;

/// What it decides about.
#[derive(Debug)]
pub enum Input {
    /// A provider was paid.
    Completion(SettlementCompletion),
    /// The payment failed.
    Failure(SettlementSetback),
    /// The payment was taken back.
    Reversal(SettlementSetback),
    /// A provider paid out.
    Payout(PayoutCompletion),
}

impl Input {
    /// The purchase that a settlement names.
    fn subject(&self) -> Option<Subject> {
        match self {
            Self::Completion(told) => Some(rules::subject(told.certificate, told.container)),
            Self::Failure(told) | Self::Reversal(told) => Some(rules::subject(told.certificate, told.container)),
            Self::Payout(_) => None,
        }
    }

    /// The settlement's provider and id.
    fn settlement(&self) -> Option<(&Name, &ExternalId)> {
        match self {
            Self::Completion(told) => Some((&told.provider, &told.settlement)),
            Self::Failure(told) | Self::Reversal(told) => Some((&told.provider, &told.settlement)),
            Self::Payout(_) => None,
        }
    }
}

impl Worker for Settlement {
    type Input = Input;

    fn name(&self) -> &'static str {
        "settlement"
    }

    fn read(&self, _: &Keyring, request: Request) -> Result<Input, Refusal> {
        let input = match request {
            Request::SettlementCompletion(told) => Input::Completion(told),
            Request::SettlementFailure(told) => Input::Failure(told),
            Request::SettlementReversal(told) => Input::Reversal(told),
            Request::PayoutCompletion(told) => Input::Payout(told),
            other => return Err(crate::program::not_handled(self.name(), &other)),
        };
        rules::check(&input)?;
        Ok(input)
    }

    fn subject(&self, input: &Input) -> Option<Uuid> {
        input.subject().map(Subject::id)
    }

    async fn load(&self, connection: &Transaction, inputs: &[&Input]) -> Result<Tables, StoreError> {
        load::load(connection, inputs).await
    }

    fn decide(&self, context: &Context<'_>, tables: &mut Tables, input: &Input) -> Result<Decision, Refusal> {
        match input {
            Input::Completion(told) => Ok(completion::decide(context, tables, told)),
            Input::Failure(told) => setback::failure(context, tables, told),
            Input::Reversal(told) => setback::reversal(context, tables, told),
            Input::Payout(told) => payout::decide(context, tables, told),
        }
    }
}
