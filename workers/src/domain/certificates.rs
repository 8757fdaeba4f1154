//! Rules about purchases and their certificates: members, deadlines, amounts due, settlement and
//! endings.

use licet_common::{
    decision::{Context, RuleError},
    rows::Defect,
};
use licet_schema::{
    Count, ExternalId, Money, Name, Output, Timestamp,
    entity::{Digest, certificate, certificate_record, pending_reception, reference},
    message::{CertificateRetired, Ending},
    token::CertificateClaims,
};
use uuid::Uuid;

use super::{
    count, points,
    refusals::{superseded, unknown_certificate},
    tables::Tables,
};

/// The reserved provider name for settlements without a payment provider: purchases paid with
/// points, free purchases, and upgrades.
pub(crate) const OWN_PROVIDER: &str = "licet";

/// [`OWN_PROVIDER`] as a name.
pub(crate) fn own_provider() -> Result<Name, Defect> {
    Name::try_from(OWN_PROVIDER).map_err(|invalid| Defect::violated("the reserved provider name is valid", invalid))
}

/// The id of a settlement under the name [`OWN_PROVIDER`].
pub(crate) fn own_settlement(id: Uuid) -> Result<ExternalId, Defect> {
    ExternalId::try_from(id.to_string()).map_err(|_| Defect::violated("a UUID is an external id", id))
}

/// A purchase, identified by its container or by its only certificate.
///
/// The two kinds are looked up separately. Otherwise a message could give a certificate's id as a
/// container's id, and match that certificate if it is loaded for the same batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// One certificate.
    Certificate(Uuid),
    /// All members of a container.
    Container(Uuid),
}

impl Subject {
    /// The id.
    pub fn id(self) -> Uuid {
        match self {
            Self::Certificate(id) | Self::Container(id) => id,
        }
    }

    /// The purchase of a certificate: its container, or itself.
    pub(crate) fn of(certificate: Uuid, container: Option<Uuid>) -> Self {
        container.map_or(Self::Certificate(certificate), Self::Container)
    }

    /// The purchase named by two optional fields, if exactly one of them is present.
    pub(crate) fn of_either(certificate: Option<Uuid>, container: Option<Uuid>) -> Option<Self> {
        match (certificate, container) {
            (Some(certificate), None) => Some(Self::Certificate(certificate)),
            (None, Some(container)) => Some(Self::Container(container)),
            (None, None) | (Some(_), Some(_)) => None,
        }
    }

    /// The purchase of a row that has a column for either kind of id.
    pub(crate) fn of_columns(
        certificate: Option<Uuid>,
        container: Option<Uuid>,
        row: &impl ToString,
    ) -> Result<Self, Defect> {
        Self::of_either(certificate, container)
            .ok_or_else(|| Defect::violated("a settlement names a certificate or a container", row.to_string()))
    }

    /// The purchase that was made with a reference.
    pub(crate) fn of_row(row: &reference::Model) -> Self {
        if row.container { Self::Container(row.purchase) } else { Self::Certificate(row.purchase) }
    }

    /// The certificate's id, if the purchase is a single certificate.
    pub(crate) fn certificate(self) -> Option<Uuid> {
        if let Self::Certificate(id) = self { Some(id) } else { None }
    }

    /// The container's id, if the purchase is a container.
    pub(crate) fn container(self) -> Option<Uuid> {
        if let Self::Container(id) = self { Some(id) } else { None }
    }
}

/// The id of the purchase that a certificate belongs to: the container's id, or the certificate's
/// own.
pub(crate) fn subject_of(certificate: Uuid, container: Option<Uuid>) -> Uuid {
    container.unwrap_or(certificate)
}

/// The live certificates of a purchase.
pub(crate) fn members(tables: &Tables, subject: Subject) -> Result<Vec<certificate::Model>, Defect> {
    Ok(match subject {
        Subject::Certificate(id) => tables.certificates.get(&id)?.cloned().into_iter().collect(),
        Subject::Container(id) => tables.live_in(id)?.into_iter().cloned().collect(),
    })
}

/// The ended certificates of a purchase.
pub(crate) fn ended_members(tables: &Tables, subject: Subject) -> Result<Vec<&certificate_record::Model>, Defect> {
    match subject {
        Subject::Certificate(id) => Ok(tables.ended(id)?.into_iter().collect()),
        Subject::Container(id) => tables.ended_in(id),
    }
}

/// The first item of a list that is never empty.
pub(crate) fn first<T>(of: &[T], subject: impl ToString) -> Result<&T, Defect> {
    of.first().ok_or_else(|| Defect::violated("a purchase has at least one certificate", subject))
}

/// The ending in the record of an ended certificate.
pub(crate) fn ending_of(record: &certificate_record::Model) -> Result<Ending, Defect> {
    record.ended.ok_or_else(|| Defect::violated("a certificate without a live row has ended", record.id))
}

/// Whether, and how, the deadlines of certificates that were bought together have ended them at
/// `now`, even if no sweep has recorded it yet. Unpaid certificates end together, at the earliest
/// of their deadlines. Paid certificates end one by one, so the result is an ending only if all of
/// them are overdue.
pub(crate) fn overdue(certificates: &[certificate::Model], now: Timestamp) -> Option<Ending> {
    if certificates.iter().any(|row| row.settled_at.is_some()) {
        return certificates.iter().all(|row| now > row.expires_at).then_some(Ending::Expired);
    }
    let expiry = certificates.iter().map(|row| row.expires_at).min()?;
    let unreceived = certificates.iter().filter(|row| row.received_at.is_none());
    let receipt = unreceived.map(|row| row.receipt_due_at).min().filter(|due| *due <= expiry);
    match receipt {
        Some(due) if now > due => Some(Ending::Lapsed),
        _ => (now > expiry).then_some(Ending::Expired),
    }
}

/// The ending of a purchase, if it has ended. It comes from the records if no certificate of the
/// purchase is live, and from the deadlines otherwise.
pub(crate) fn over(
    live: &[certificate::Model],
    ended: &[&certificate_record::Model],
    now: Timestamp,
) -> Result<Option<Ending>, Defect> {
    match (live, ended) {
        ([], [first, ..]) => ending_of(first).map(Some),
        _ => Ok(overdue(live, now)),
    }
}

/// Whether a purchase ended without a payment. A purchase whose payment was reversed counts as
/// paid.
pub(crate) fn ended_unpaid(tables: &Tables, subject: Subject, now: Timestamp) -> Result<bool, Defect> {
    let (live, ended) = (members(tables, subject)?, ended_members(tables, subject)?);
    let paid = live.iter().any(|row| row.settled_at.is_some()) || ended.iter().any(|row| row.settlement.is_some());
    Ok(!paid && matches!(over(&live, &ended, now)?, Some(Ending::Lapsed | Ending::Expired | Ending::Declined)))
}

/// The number of licenses that a certificate still permits.
pub(crate) fn remaining(row: &certificate::Model) -> Result<Count, Defect> {
    let used = row.granted.checked_add(row.outstanding);
    used.and_then(|used| row.grants.checked_sub(used))
        .ok_or_else(|| Defect::violated("granted and outstanding licenses are at most the grants", row.id))
}

/// The amount due for certificates that were bought together: their prices minus the points held
/// for them.
pub(crate) fn due(context: &Context<'_>, certificates: &[certificate::Model]) -> Result<Money, Defect> {
    let amounts = certificates.iter().map(|row| (row.amount_minor, row.points));
    let currency = first(certificates, context.message_id)?.currency;
    Ok(Money { amount_minor: sum_due(context, amounts)?, currency })
}

/// The sum of the prices minus the points.
pub(crate) fn sum_due(context: &Context<'_>, amounts: impl Iterator<Item = (Count, Count)>) -> Result<Count, Defect> {
    let sum = amounts.map(|(amount, points)| amount.get() - points.get()).sum();
    count(sum, "points pay at most the price, and an amount is at most 2^53-1", context)
}

/// Ends a certificate: removes its row and writes the ending into its record.
pub(crate) fn retire(tables: &mut Tables, id: Uuid, ending: Ending, now: Timestamp) -> Result<Output, Defect> {
    let row = tables.certificates.remove(&id)?;
    let record = tables.records.change(&id)?;
    record.received_at = row.received_at;
    record.settlement = row.settlement;
    record.provider = row.provider;
    record.settled_at = row.settled_at;
    record.grants = Some(row.grants);
    record.granted = row.granted;
    record.generation = row.generation;
    record.ended = Some(ending);
    record.ended_at = Some(now);
    // A late payment makes an unpaid certificate live again as it was.
    if row.settled_at.is_none() {
        record.token_digest = Some(row.token_digest);
        record.issued_at = Some(row.issued_at);
        record.receipt_due_at = Some(row.receipt_due_at);
        record.expires_at = Some(row.expires_at);
    }
    Ok(Output::CertificateRetired(CertificateRetired { certificate: id, reason: ending }))
}

/// Makes a certificate that ended unpaid live again, in the same generation.
pub(crate) fn restore(tables: &mut Tables, id: Uuid) -> Result<certificate::Model, Defect> {
    let record = tables.records.change(&id)?;
    let kept = || Defect::violated("the record of a certificate that ended unpaid keeps its token and deadlines", id);
    let row = certificate::Model {
        issued_at: record.issued_at.ok_or_else(kept)?,
        receipt_due_at: record.receipt_due_at.ok_or_else(kept)?,
        expires_at: record.expires_at.ok_or_else(kept)?,
        ..revived(record, record.token_digest.ok_or_else(kept)?)?
    };
    make_live(record, row.generation);
    tables.certificates.insert(row.clone())?;
    Ok(row)
}

/// The row of an ended certificate, from its record. Its times are those of the purchase.
pub(crate) fn revived(record: &certificate_record::Model, token_digest: Digest) -> Result<certificate::Model, Defect> {
    let grants = record
        .grants
        .ok_or_else(|| Defect::violated("the record of an ended certificate has its grants", record.id))?;
    Ok(certificate::Model {
        id: record.id,
        container: record.container,
        user: record.user.clone(),
        content: record.content.clone(),
        version: record.version,
        revision: record.revision,
        amount_minor: record.amount_minor,
        currency: record.currency,
        points: record.points,
        reference: record.reference.clone(),
        generation: record.generation,
        token_digest,
        issued_at: record.purchased_at,
        receipt_due_at: record.purchased_at,
        expires_at: record.purchased_at,
        received_at: record.received_at,
        settlement: record.settlement.clone(),
        provider: record.provider.clone(),
        settled_at: record.settled_at,
        grants,
        granted: record.granted,
        outstanding: Count::ZERO,
    })
}

/// Clears what the record of an ended certificate says about its end.
pub(crate) fn make_live(record: &mut certificate_record::Model, generation: Count) {
    *record = certificate_record::Model {
        generation,
        received_at: None,
        settlement: None,
        provider: None,
        settled_at: None,
        grants: None,
        granted: Count::ZERO,
        ended: None,
        ended_at: None,
        reinstated: false,
        token_digest: None,
        issued_at: None,
        receipt_due_at: None,
        expires_at: None,
        ..record.clone()
    };
}

/// Creates or updates the pending reception of a certificate that is not received yet, with the
/// digest of the new token.
pub(crate) fn wait_for_reception(tables: &mut Tables, row: &certificate::Model) -> Result<(), Defect> {
    let subject = Subject::of(row.id, row.container);
    let alone = row.container.is_none();
    if tables.pending_receptions.get(&subject.id())?.is_none() {
        return tables.pending_receptions.insert(pending_reception::Model {
            id: subject.id(),
            container: !alone,
            user: row.user.clone(),
            // The container's token is still valid, but its digest is unknown here, so only its
            // signature can be checked.
            token_digest: alone.then_some(row.token_digest),
            due_at: row.settled_at.is_none().then_some(row.receipt_due_at),
        });
    }
    if alone {
        tables.pending_receptions.change(&subject.id())?.token_digest = Some(row.token_digest);
    }
    Ok(())
}

/// Settles certificates that were bought together. The points held for them become spent, and their
/// pending reception no longer has a deadline.
pub(crate) fn settle(
    context: &Context<'_>,
    tables: &mut Tables,
    certificates: &[certificate::Model],
    provider: &Name,
    settlement: &ExternalId,
    grants: Option<Count>,
) -> Result<(), Defect> {
    let held: i64 = certificates.iter().map(|row| row.points.get()).sum();
    for member in certificates {
        let row = tables.certificates.change(&member.id)?;
        row.provider = Some(provider.clone());
        row.settlement = Some(settlement.clone());
        row.settled_at = Some(context.now);
        row.grants = grants.unwrap_or(row.grants);
    }
    points::transfer(context, tables, points::HELD, points::SPENT, held)?;
    let any = first(certificates, context.message_id)?;
    let subject = subject_of(any.id, any.container);
    if tables.pending_receptions.get(&subject)?.is_some() {
        // The receipt of a paid certificate may be acknowledged until the certificate expires.
        // Without a deadline here, a reception sweep finds only purchases that it will end.
        tables.pending_receptions.change(&subject)?.due_at = None;
    }
    Ok(())
}

/// The claims of a certificate's token for this generation.
pub(crate) fn claims(
    context: &Context<'_>,
    record: &certificate_record::Model,
    generation: Count,
    expires_at: Timestamp,
) -> CertificateClaims {
    CertificateClaims {
        iss: context.terms.issuer.clone(),
        jti: record.id,
        sub: record.user.clone(),
        content: record.content.clone(),
        version: record.version,
        generation: generation.get(),
        iat: context.now.as_seconds(),
        exp: expires_at.as_seconds(),
        container: record.container,
    }
}

/// The record of a new certificate.
pub(crate) fn record(row: &certificate::Model) -> certificate_record::Model {
    certificate_record::Model {
        id: row.id,
        container: row.container,
        user: row.user.clone(),
        content: row.content.clone(),
        version: row.version,
        revision: row.revision,
        amount_minor: row.amount_minor,
        currency: row.currency,
        points: row.points,
        reference: row.reference.clone(),
        purchased_at: row.issued_at,
        generation: row.generation,
        received_at: None,
        settlement: None,
        provider: None,
        settled_at: None,
        grants: None,
        granted: Count::ZERO,
        ended: None,
        ended_at: None,
        reinstated: false,
        token_digest: None,
        issued_at: None,
        receipt_due_at: None,
        expires_at: None,
    }
}

/// Checks that a token has its certificate's current generation. `current` is `None` if the
/// certificate does not exist.
pub(crate) fn check_generation(current: Option<Count>, presented: i64) -> Result<(), RuleError> {
    match current {
        None => Err(unknown_certificate().into()),
        Some(current) if current.get() != presented => Err(superseded().into()),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use licet_common::{decision::RuleError, runtime::Worker};
    use licet_schema::{
        Request,
        entity::{certificate, certificate_record, license},
        message::Privilege,
    };

    use super::*;
    use crate::{
        fixture::{Fixture, license_receipt, license_request, license_return},
        license::License,
    };

    #[test]
    fn a_rule_that_reads_a_row_that_was_not_loaded_finds_a_defect_and_not_a_missing_row() {
        let mut fixture = Fixture::with_song();
        let bought = fixture.ready(1);
        let request = license_request(&bought.tokens[0], "player");
        let input = License.read(&fixture.keyring, request).expect("a request for a license");
        let context = Context {
            now: Timestamp::from_millis(fixture.now_ms),
            keyring: &fixture.keyring,
            terms: &fixture.terms,
            message_id: Uuid::from_u128(1),
            message_digest: [0; 32],
            sender: None,
        };
        let decided = License.decide(&context, &mut Tables::default(), &input);
        let defect = decided.expect_err("nothing was loaded");
        assert!(matches!(&defect, RuleError::Defect(Defect::NotLoaded { table, .. }) if table == "certificate"));
    }

    #[test]
    fn counts_that_contradict_each_other_are_a_defect_and_not_a_refusal() {
        let mut fixture = Fixture::with_song();
        let bought = fixture.ready(1);
        let id = bought.certificates[0];
        let nine = Count::try_from(9i64).expect("a count");
        fixture.store.change::<certificate::Entity>(&id, |row| row.granted = nine);
        let defect = fixture.try_send(license_request(&bought.tokens[0], "player")).expect_err("9 of 3 granted");
        let expected = Defect::violated("granted and outstanding licenses are at most the grants", id);
        assert_eq!(defect, expected);
    }

    #[test]
    fn a_license_without_a_settlement_is_a_defect_and_not_a_refusal() {
        let mut fixture = Fixture::with_song();
        let bought = fixture.ready(1);
        let token = fixture.license(&bought, "player").expect("a license");
        fixture.ask(license_receipt(&token));
        fixture.store.change::<certificate::Entity>(&bought.certificates[0], |row| row.settlement = None);
        let returned = fixture.try_send(license_return(&token, "alice", Privilege::Points, true));
        let license = fixture.store.rows::<license::Entity>().next().expect("the license still exists").id;
        assert_eq!(returned, Err(Defect::violated("every license has a settlement", license)));
    }

    #[test]
    fn a_receipt_of_a_license_whose_certificate_has_no_record_is_a_defect_and_changes_nothing() {
        let mut fixture = Fixture::with_song();
        let bought = fixture.ready(1);
        let token = fixture.license(&bought, "player").expect("a license");
        let id = bought.certificates[0];
        fixture.store.delete::<certificate::Entity>(&id);
        fixture.store.delete::<certificate_record::Entity>(&id);
        let defect = fixture.try_send(license_receipt(&token)).expect_err("the certificate has no record");
        assert!(matches!(defect, Defect::RowMissing { .. }), "{defect}");
        let outstanding = licet_schema::entity::LicenseState::Outstanding;
        assert!(fixture.store.rows::<license::Entity>().all(|row| row.state == outstanding));
    }

    #[test]
    fn an_ended_certificate_whose_record_says_live_is_a_defect() {
        let mut fixture = Fixture::with_song();
        let bought = fixture.ready(1);
        fixture.store.delete::<certificate::Entity>(&bought.certificates[0]);
        let query = Request::StatusQuery(licet_schema::message::StatusQuery {
            certificate: Some(bought.certificates[0]),
            container: None,
            license: None,
            license_return: None,
            reference: None,
            settlement: None,
        });
        let expected = Defect::violated("a certificate without a live row has ended", bought.certificates[0]);
        assert_eq!(fixture.try_send(query), Err(expected));
    }
}
