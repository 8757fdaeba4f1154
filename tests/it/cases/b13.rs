//! Case B13: a valid token of a license that was returned or revoked.

use licet_client::{Verified, verify};
use licet_schema::{
    Output, Request, Text,
    message::{CertificateReissue, LicenseState, SettlementReversal, StatusQuery},
};
use uuid::Uuid;

use crate::system::{
    Bought, TestSystem, completion, license_receipt, license_request, license_return, on_both, outcome,
};

on_both!(case_b13_a_status_query_tells_whether_a_genuine_license_was_returned_or_revoked);

async fn state(system: &TestSystem, license: Uuid) -> LicenseState {
    let query = StatusQuery {
        certificate: None,
        container: None,
        license: Some(license),
        license_return: None,
        reference: None,
        settlement: None,
    };
    let reply = system.ask(&Request::StatusQuery(query)).await;
    let Output::StatusListed(listed) = reply else { panic!("{reply:?}") };
    let status = listed.license.expect("the query names a license");
    assert_eq!(status.license, license);
    status.state
}

/// Requests a license. Returns its id and its token.
async fn licensed(system: &TestSystem, bought: &Bought, terminal: &str) -> (Uuid, String) {
    let reply = system.ask(&license_request(&bought.tokens[0], terminal)).await;
    let Output::LicenseIssued(issued) = reply else { panic!("{reply:?}") };
    (issued.license, issued.license_token.expect("a token"))
}

async fn case_b13_a_status_query_tells_whether_a_genuine_license_was_returned_or_revoked(mut system: TestSystem) {
    system.start_workers();
    system.put_song(3).await;
    let bought = system.ready("alice", 1).await;
    let (returned, revoked, superseded) = (
        licensed(&system, &bought, "a").await,
        licensed(&system, &bought, "b").await,
        licensed(&system, &bought, "c").await,
    );
    assert_eq!(state(&system, returned.0).await, LicenseState::Outstanding);
    for (_, token) in [&returned, &revoked] {
        assert_eq!(outcome(&system.ask(&license_receipt(token)).await), "license.granted");
    }
    assert_eq!(outcome(&system.ask(&license_return(&returned.1, "alice", false)).await), "return.opened");
    assert_eq!(state(&system, returned.0).await, LicenseState::Granted, "the return may still lapse");
    system.resources.clock.advance_ms(86_400_001);
    assert_eq!(outcome(&system.ask(&license_return(&returned.1, "alice", true)).await), "license.returned");
    let reason = Text::try_from("terminal lost").expect("a text");
    let reissue = CertificateReissue { certificate: bought.certificates[0], reason: reason.clone(), granted: None };
    assert_eq!(outcome(&system.ask(&Request::CertificateReissue(reissue)).await), "certificate.reissued");
    let Request::SettlementCompletion(paid) = completion(&bought) else { unreachable!() };
    let reversal = SettlementReversal {
        certificate: paid.certificate,
        container: paid.container,
        settlement: paid.settlement,
        provider: paid.provider,
        reason,
        refund: None,
        amount: None,
    };
    assert_eq!(outcome(&system.ask(&Request::SettlementReversal(reversal)).await), "settlement.registered");
    for ((id, token), expected) in [
        (&returned, LicenseState::Returned),
        (&revoked, LicenseState::Revoked),
        (&superseded, LicenseState::Superseded),
    ] {
        assert!(matches!(verify(token, system.keyring()), Ok(Verified::License(_))), "the token stays genuine");
        assert_eq!(state(&system, *id).await, expected);
    }
    system.finish().await;
}
