//! Audits of databases with few rows. The system tests audit databases that workers have written.

use licet_schema::{
    Count, Money, Output, Timestamp,
    message::{CertificateIssued, CertificateRetired, Ending, IssuedCertificate},
    money::Currency,
};

use super::*;
use crate::fixture::{Database, journal_row};

fn retired(certificate: Uuid) -> Output {
    Output::CertificateRetired(CertificateRetired { certificate, reason: Ending::Expired })
}

#[tokio::test]
async fn an_empty_database_passes_every_check() {
    let database = Database::new().await;
    let report = audit(&database.store).await.expect("a report");
    assert_eq!((report.checks, report.journal_rows), (CHECKS.len(), 0));
    assert_eq!(report.violations, []);
}

#[tokio::test]
async fn a_certificate_in_the_journal_without_a_record_is_a_violation_that_names_it() {
    let database = Database::new().await;
    let certificate = Uuid::from_u128(7);
    let issued = CertificateIssued {
        certificates: vec![IssuedCertificate { certificate, certificate_token: None }],
        container: None,
        container_token: None,
        amount: Money::new(1, Currency::try_from("USD").expect("a code")).expect("an amount"),
        points_held: Count::ZERO,
        receipt_due_at: Timestamp::from_millis(0),
        expires_at: Timestamp::from_millis(0),
        reference: None,
    };
    database
        .put(journal_row(Uuid::from_u128(1), Some(certificate), 0, &[(false, Output::CertificateIssued(issued))]))
        .await;
    let report = audit(&database.store).await.expect("a report");
    let found: Vec<_> = report.violations.iter().map(|one| (one.what.as_str(), one.places.concat())).collect();
    assert_eq!(report.journal_rows, 1);
    assert!(found.contains(&("a certificate was issued but has no record", certificate.to_string())), "{found:?}");
}

#[tokio::test]
async fn an_event_that_cannot_be_decoded_stops_the_audit() {
    let database = Database::new().await;
    let mut row = journal_row(Uuid::from_u128(1), Some(Uuid::from_u128(7)), 0, &[(false, retired(Uuid::from_u128(7)))]);
    let mut outputs = licet_common::runtime::outputs_of(&row).expect("outputs");
    outputs[0].kind = "certificate.vanished".into();
    row.outputs = postcard::to_stdvec(&outputs).expect("bytes");
    database.put(row).await;
    let error = audit(&database.store).await.expect_err("an unknown event");
    assert!(matches!(&error, AuditError::Event { kind, .. } if kind == "certificate.vanished"), "{error}");
}

#[tokio::test]
async fn altered_outputs_of_a_journal_row_stop_the_audit() {
    let database = Database::new().await;
    let mut row = journal_row(Uuid::from_u128(1), Some(Uuid::from_u128(7)), 0, &[(false, retired(Uuid::from_u128(7)))]);
    row.outputs.push(0);
    database.put(row).await;
    let error = audit(&database.store).await.expect_err("altered outputs");
    assert!(matches!(&error, AuditError::Journal { .. }), "{error}");
}

#[tokio::test]
async fn a_payout_whose_amount_or_state_was_changed_is_a_violation() {
    use licet_schema::{
        ExternalId, Name,
        entity::{PayoutState, payout, privilege},
        message::Privilege,
    };
    let database = Database::new().await;
    let (id, currency) = (Uuid::from_u128(1), Currency::try_from("USD").expect("a code"));
    let minor = |minor: i64| Count::try_from(minor).ok();
    let granted = privilege::Model {
        id,
        user: Name::try_from("alice").expect("a name"),
        kind: Privilege::Buyback,
        points: None,
        certificate: None,
        amount_minor: minor(300),
        currency: Some(currency),
    };
    database.put(granted).await;
    for (text, license_return, state, amount) in [
        ("right", id, PayoutState::Completed, 300),
        ("less", id, PayoutState::Completed, 299),
        ("other", id, PayoutState::Mismatched, 299),
        ("same", id, PayoutState::Mismatched, 300),
        ("failed", id, PayoutState::Failed, 300),
        ("unknown", Uuid::from_u128(2), PayoutState::Mismatched, 1),
    ] {
        let row = payout::Model {
            provider: Name::try_from("bank").expect("a name"),
            payout: ExternalId::try_from(text).expect("an id"),
            license_return,
            state,
            amount_minor: minor(amount),
            currency: Some(currency),
            sequence: Count::ONE,
            reason: None,
            registered_at: Timestamp::from_millis(0),
            cause: Uuid::from_u128(3),
        };
        database.put(row).await;
    }
    let report = audit(&database.store).await.expect("a report");
    let found = report.violations.iter().filter(|one| one.invariant == 4 && one.what.contains("payout"));
    let found: Vec<_> = found.map(|one| (one.invariant, one.places.join(","))).collect();
    let expected = [(4, "unknown"), (4, "less"), (4, "same"), (4, "failed")];
    assert_eq!(found, expected.map(|(invariant, place)| (invariant, place.to_owned())));
}
