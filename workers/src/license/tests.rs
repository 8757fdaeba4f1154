use licet_schema::Output;

use crate::testing::{HOUR_MS, Stage, altered, check, license_receipt, license_request, verdict};

#[test]
fn verdicts_on_license_request() {
    check(&[
        (
            "received and settled",
            |stage| {
                let bought = stage.ready(1);
                stage.ask(license_request(&bought.tokens[0], "player"))
            },
            "license.issued",
        ),
        (
            "a member of a container",
            |stage| {
                let bought = stage.ready(2);
                stage.ask(license_request(&bought.tokens[1], "player"))
            },
            "license.issued",
        ),
        (
            "not acknowledged yet",
            |stage| {
                let bought = stage.buy(1);
                stage.settle(&bought, "pay-1");
                stage.ask(license_request(&bought.tokens[0], "player"))
            },
            "not_received",
        ),
        (
            "not paid for yet",
            |stage| {
                let bought = stage.buy(1);
                stage.receive(&bought);
                stage.ask(license_request(&bought.tokens[0], "player"))
            },
            "not_settled",
        ),
        (
            "not acknowledged in time",
            |stage| {
                let bought = stage.buy(1);
                stage.later(25 * HOUR_MS).ask(license_request(&bought.tokens[0], "player"))
            },
            "lapsed",
        ),
        (
            "after its time",
            |stage| {
                let bought = stage.ready(1);
                stage.later(31 * 24 * HOUR_MS).ask(license_request(&bought.tokens[0], "player"))
            },
            "expired",
        ),
        (
            "after its last grant",
            |stage| {
                let bought = stage.ready(1);
                for terminal in ["a", "b", "c"] {
                    let token = stage.license(&bought, terminal).expect("a license");
                    stage.ask(license_receipt(&token));
                }
                stage.ask(license_request(&bought.tokens[0], "d"))
            },
            "exhausted",
        ),
        (
            "while all its grants are under way",
            |stage| {
                let bought = stage.ready(1);
                for terminal in ["a", "b", "c"] {
                    stage.license(&bought, terminal).expect("a license");
                }
                stage.ask(license_request(&bought.tokens[0], "d"))
            },
            "exhausted",
        ),
        (
            "an altered certificate",
            |stage| {
                let bought = stage.ready(1);
                stage.ask(license_request(&altered(&bought.tokens[0]), "player"))
            },
            "altered",
        ),
        (
            "a certificate that never was here",
            |stage| {
                let bought = Stage::with_song().later(1).ready(1);
                stage.ask(license_request(&bought.tokens[0], "player"))
            },
            "unknown_certificate",
        ),
        (
            "a certificate of an earlier generation",
            |stage| {
                let bought = stage.ready(1);
                stage.tables.certificates.change(&bought.certificates[0]).expect("it is live").generation = 2;
                stage.ask(license_request(&bought.tokens[0], "player"))
            },
            "superseded",
        ),
        (
            "a certificate under a foreign key",
            |stage| {
                let mut other = Stage::with_song();
                other.keyring =
                    licet_common::signing::Keyring::new(ed25519_dalek::SigningKey::from_bytes(&[8; 32]), []);
                let bought = other.ready(1);
                stage.ask(license_request(&bought.tokens[0], "player"))
            },
            "untrusted_key",
        ),
    ]);
}

#[test]
fn the_same_terminal_gets_the_same_license_until_it_has_confirmed() {
    let mut stage = Stage::with_song();
    let bought = stage.ready(1);
    for terminal in ["", "player"] {
        let first = stage.license(&bought, terminal).expect("a license");
        let second = stage.license(&bought, terminal).expect("a license");
        assert_eq!(first, second);
        assert!(stage.events().is_empty(), "a repeat causes no event");
    }
    let other = stage.license(&bought, "other").expect("a license");
    stage.ask(license_receipt(&other));
    assert_eq!(verdict(&stage.ask(license_request(&bought.tokens[0], "other"))), "exhausted", "all three are issued");
}

#[test]
fn sixty_terminals_get_three_licenses() {
    let mut stage = Stage::with_song();
    let bought = stage.ready(1);
    let issued = (0..60).filter(|terminal| stage.license(&bought, &format!("player-{terminal}")).is_ok()).count();
    assert_eq!(issued, 3);
    match stage.ask(license_request(&bought.tokens[0], "player-0")) {
        Output::LicenseIssued(again) => assert_eq!(again.remaining.get(), 0),
        other => panic!("{other:?}"),
    }
}
