//! Code that completion, failure and reversal share: finding the purchase, and the reply.

use licet_common::{
    decision::{Decision, RuleError},
    rows::Defect,
};
use licet_schema::{
    Code, ExternalId, Name, Output, Refusal,
    entity::{certificate, certificate_record, settlement},
    message::SettlementRegistered,
};

use crate::domain::{
    Tables,
    certificates::{Subject, ended_members, members},
    refusals::refuse,
};

/// The settlement that was registered under this id, if any.
pub(super) fn registered_before(
    tables: &Tables,
    provider: &Name,
    id: &ExternalId,
) -> Result<Option<settlement::Model>, Defect> {
    Ok(tables.settlements.get(&(provider.clone(), id.clone()))?.cloned())
}

/// Whether a registered settlement names this purchase.
pub(super) fn is_for(row: &settlement::Model, subject: Subject) -> bool {
    (row.certificate, row.container) == (subject.certificate(), subject.container())
}

/// The live and the ended certificates of the purchase that a report names.
pub(super) struct Purchase<'a> {
    pub(super) live: Vec<certificate::Model>,
    pub(super) ended: Vec<&'a certificate_record::Model>,
}

impl<'a> Purchase<'a> {
    /// Finds the certificates.
    ///
    /// # Errors
    /// There are none, or the report names a single member of a container.
    pub(super) fn of(tables: &'a Tables, subject: Subject) -> Result<Self, RuleError> {
        let (live, ended) = (members(tables, subject)?, ended_members(tables, subject)?);
        if live.is_empty() && ended.is_empty() {
            return refuse(Code::UnknownCertificate, "no certificate or container with this id was ever issued");
        }
        let container = live.first().map_or_else(|| ended.first().and_then(|row| row.container), |row| row.container);
        match (container, subject) {
            (Some(container), Subject::Certificate(_)) => refuse(
                Code::UnknownCertificate,
                format!("the certificate was bought in a container: settle the container {container}"),
            ),
            _ => Ok(Self { live, ended }),
        }
    }

    /// Whether the purchase is paid for.
    pub(super) fn is_settled(&self) -> bool {
        self.live.iter().any(|row| row.settled_at.is_some()) || self.ended.iter().any(|row| row.settlement.is_some())
    }
}

/// The refusal of a report about a purchase that is already paid for.
pub(super) fn already_settled(how: &str) -> Refusal {
    Refusal::new(Code::AlreadySettled, format!("the purchase is already paid for {how}"))
}

/// The reply to all three: the outcome that is registered now.
pub(super) fn registered(
    tables: &Tables,
    subject: Subject,
    row: &settlement::Model,
    repeated: bool,
) -> Result<Decision, Defect> {
    let reference = match members(tables, subject)?.first() {
        Some(live) => live.reference.clone(),
        None => ended_members(tables, subject)?.first().and_then(|record| record.reference.clone()),
    };
    Ok(Decision::new(Output::SettlementRegistered(SettlementRegistered {
        certificate: subject.certificate(),
        container: subject.container(),
        settlement: row.provider_reference.clone(),
        outcome: row.outcome,
        grants: row.grants,
        repeated,
        reference,
    }))
    .about(subject.id()))
}
