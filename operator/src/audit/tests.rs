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
