//! Tests of histories that are read from a database.

use licet_schema::{
    Count, ExternalId, Refusal,
    entity::{LicenseState, license},
    message::{CertificateRetired, LicenseGranted},
    money::Currency,
};

use super::*;
use crate::fixture::{Database, journal_row};

async fn found(database: &Database, id: impl ToString) -> Vec<Uuid> {
    let histories = histories(&database.store, &id.to_string()).await.expect("histories");
    histories.iter().map(|history| history.purchase).collect()
}

fn id(number: u128) -> Uuid {
    Uuid::from_u128((0x0198_0a5d_ac96_774b << 64) + number)
}

fn record(certificate: Uuid, container: Option<Uuid>, user: &str) -> certificate_record::Model {
    certificate_record::Model {
        id: certificate,
        container,
        user: Name::try_from(user).expect("a name"),
        content: Name::try_from("album").expect("a name"),
        version: Version::try_from(2i64).expect("a version"),
        revision: 1,
        amount_minor: Count::try_from(1287i64).expect("an amount"),
        currency: Currency::try_from("USD").expect("a code"),
        points: Count::ZERO,
        reference: None,
        purchased_at: Timestamp::from_millis(0),
        generation: Count::ONE,
        received_at: None,
        settlement: Some(ExternalId::try_from("pay-1").expect("an id")),
        provider: None,
        settled_at: None,
        grants: None,
        granted: Count::ONE,
        ended: Some(Ending::Exhausted),
        ended_at: None,
        reinstated: false,
        token_digest: None,
        issued_at: None,
        receipt_due_at: None,
        expires_at: None,
    }
}

fn license(license: Uuid, certificate: Uuid) -> license::Model {
    license::Model {
        id: license,
        certificate,
        user: Name::try_from("ada").expect("a name"),
        content: Name::try_from("album").expect("a name"),
        version: Version::try_from(2i64).expect("a version"),
        terminal: None,
        token: String::new(),
        state: LicenseState::Granted,
        revocation: None,
        issued_at: Timestamp::from_millis(0),
        granted_at: None,
    }
}

fn retired(certificate: Uuid) -> Output {
    Output::CertificateRetired(CertificateRetired { certificate, reason: Ending::Expired })
}

#[tokio::test]
async fn a_purchase_is_found_by_every_id_in_it_by_the_end_of_an_id_and_by_its_user() {
    let database = Database::new().await;
    let (container, first, second, bought) = (id(0xaaaa_0000_0001), id(0xbbbb_0000_0002), id(3), id(4));
    database.put(record(first, Some(container), "ada")).await;
    database.put(record(second, Some(container), "ada")).await;
    database.put(license(bought, first)).await;
    database.put(record(id(5), None, "grace")).await;
    for known in [container, first, second, bought] {
        assert_eq!(found(&database, known).await, [container], "{known}");
        assert_eq!(found(&database, known.simple()).await, [container], "without hyphens");
        assert_eq!(found(&database, short_id(known)).await, [container], "{}", short_id(known));
    }
    assert_eq!(found(&database, "ada").await, [container]);
    assert_eq!(found(&database, "grace").await, [id(5)]);
    for unknown in ["bob", "0000ffff", &id(6).to_string()] {
        assert!(found(&database, unknown).await.is_empty(), "{unknown}");
    }
}

#[tokio::test]
async fn an_ambiguous_end_of_an_id_is_an_error_that_asks_for_more_characters() {
    let database = Database::new().await;
    database.put(record(id(0xaaaa_0000_0007), None, "ada")).await;
    database.put(record(id(0xbbbb_0000_0007), None, "ada")).await;
    let error = histories(&database.store, "00000007").await.expect_err("two purchases");
    assert!(matches!(error, HistoryError::Ambiguous { count: 2, .. }), "{error}");
    assert_eq!(found(&database, "bbbb00000007").await, [id(0xbbbb_0000_0007)]);
}

#[tokio::test]
async fn a_user_whose_name_looks_like_an_id_is_found_by_it() {
    let database = Database::new().await;
    let user = id(8).to_string();
    database.put(record(id(9), None, &user)).await;
    assert_eq!(found(&database, &user).await, [id(9)]);
    database.put(record(id(10), None, "deadbeef")).await;
    assert_eq!(found(&database, "deadbeef").await, [id(10)]);
}

#[tokio::test]
async fn a_history_has_the_messages_about_a_purchase_in_order_and_only_its_own_events() {
    let database = Database::new().await;
    let (purchase, other) = (id(1), id(2));
    database.put(record(purchase, None, "ada")).await;
    database.put(record(other, None, "bob")).await;
    let refusal = Refusal::new(licet_schema::Code::Superseded, "use the newest certificate");
    let refused = Output::RequestRefused(RequestRefused {
        code: refusal.code,
        detail: refusal.detail,
        message_type: "license.request".into(),
    });
    let granted = Output::LicenseGranted(LicenseGranted {
        license: id(3),
        certificate: purchase,
        granted: Count::ONE,
        remaining: Count::ZERO,
        repeated: false,
    });
    // A sweep that ended both purchases.
    let sweep = journal_row(id(102), None, 2_000, &[(false, retired(other)), (false, retired(purchase))]);
    database.put(sweep).await;
    database.put(mention::Model { subject: purchase, journal: id(102) }).await;
    database.put(journal_row(id(103), Some(purchase), 3_000, &[(true, refused)])).await;
    database.put(journal_row(id(101), Some(purchase), 1_000, &[(true, granted.clone()), (false, granted)])).await;
    database.put(journal_row(id(104), Some(other), 4_000, &[(false, retired(other))])).await;

    let histories = histories(&database.store, &purchase.to_string()).await.expect("histories");
    let [History { user, certificates, entries, .. }] = histories.as_slice() else { panic!("one purchase") };
    assert_eq!(user.as_str(), "ada");
    let about = format!("(album, version 2) for 12.87 USD, certificate {purchase}, ended: all its grants are used");
    assert_eq!(certificates.iter().map(Certificate::to_string).collect::<Vec<_>>(), [about]);
    let ids: Vec<_> = entries.iter().map(|entry| entry.message_id).collect();
    assert_eq!(ids, [id(101), id(102), id(103)]);
    assert_eq!(entries[0].events.len(), 1, "the reply is not an event");
    assert_eq!(entries[1].events, [retired(purchase)], "the other certificate is left out");
    let (code, detail) = (entries[2].code.as_deref(), entries[2].detail.as_deref());
    assert_eq!((code, detail), (Some("superseded"), Some("use the newest certificate")));

    let json = serde_json::to_value(&histories[0]).expect("JSON");
    assert_eq!(json["entries"][1]["events"][0], sentence(&retired(purchase)));
    assert_eq!(json["entries"][0]["type"], "license.receipt");
}
