//! What completion, failure and reversal share: whom they speak of, and how they are answered.

use licet_common::decision::{Decision, Tables};
use licet_schema::{
    Code, ExternalId, Name, Output, Refusal,
    entity::{Outcome, certificate, purchase, settlement},
    message::{SettlementOutcome, SettlementRegistered},
    vocabulary::Grants,
};
use uuid::Uuid;

use super::Input;
use crate::{
    held::{OWN_PROVIDER, Subject, ended_members, members},
    values::external,
};

/// Refuses whoever pretends to be Licet.
pub(super) fn check(input: &Input) -> Result<(), Refusal> {
    let provider = match input {
        Input::Completion(told) => &told.provider,
        Input::Failure(told) | Input::Reversal(told) => &told.provider,
        Input::Payout(told) => &told.provider,
    };
    if provider.as_str() == OWN_PROVIDER {
        return Err(Refusal::new(Code::Forbidden, format!("the provider name {OWN_PROVIDER:?} is reserved")));
    }
    Ok(())
}

/// The purchase of which one of both is named.
pub(super) fn subject(certificate: Option<Uuid>, container: Option<Uuid>) -> Subject {
    match (container, certificate) {
        (Some(container), _) => Subject::Container(container),
        (None, certificate) => Subject::Certificate(certificate.unwrap_or_default()),
    }
}

/// The registered settlement of this id.
pub(super) fn known<'a>(tables: &'a Tables, provider: &Name, id: &ExternalId) -> Option<&'a settlement::Model> {
    tables.settlements.get(&(provider.to_string(), id.to_string()))
}

/// The certificates that a settlement may be for, live and ended.
pub(super) struct Purchase<'a> {
    pub(super) live: Vec<certificate::Model>,
    pub(super) ended: Vec<&'a purchase::Model>,
}

impl<'a> Purchase<'a> {
    /// Finds them.
    ///
    /// # Errors
    /// There are none, or a member of a container was named alone.
    pub(super) fn of(tables: &'a Tables, subject: Subject) -> Result<Self, Refusal> {
        let (live, ended) = (members(tables, subject), ended_members(tables, subject));
        if live.is_empty() && ended.is_empty() {
            return Err(Refusal::new(
                Code::UnknownCertificate,
                "there is no such certificate or container, and never was",
            ));
        }
        let container = live.first().map_or_else(|| ended.first().and_then(|row| row.container), |row| row.container);
        match (container, subject) {
            (Some(container), Subject::Certificate(_)) => Err(Refusal::new(
                Code::UnknownCertificate,
                format!("the certificate was bought in a container: settle the container {container}"),
            )),
            _ => Ok(Self { live, ended }),
        }
    }

    /// Whether it is paid for.
    pub(super) fn is_settled(&self) -> bool {
        self.live.iter().any(|row| row.settled_at.is_some()) || self.ended.iter().any(|row| row.settlement.is_some())
    }
}

/// The refusal of what is paid for already.
pub(super) fn already_settled(how: &str) -> Refusal {
    Refusal::new(Code::AlreadySettled, format!("it is paid for already, {how}"))
}

/// The answer to all three: what stands now.
pub(super) fn registered(tables: &Tables, row: &settlement::Model, repeated: bool) -> Decision {
    let subject = subject(row.certificate, row.container);
    let reference = members(tables, subject).first().map(|row| row.reference.clone());
    let reference =
        reference.unwrap_or_else(|| ended_members(tables, subject).first().and_then(|row| row.reference.clone()));
    Decision::new(Output::SettlementRegistered(SettlementRegistered {
        certificate: row.certificate,
        container: row.container,
        settlement: external(&row.settlement),
        outcome: match row.outcome {
            Outcome::Completed => SettlementOutcome::Completed,
            Outcome::Failed => SettlementOutcome::Failed,
            Outcome::Reversed => SettlementOutcome::Reversed,
        },
        grants: row.grants.and_then(|grants| Grants::try_from(grants).ok()),
        repeated,
        reference: reference.as_deref().map(external),
    }))
    .about(subject.id())
}
