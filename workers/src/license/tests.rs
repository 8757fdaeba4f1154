use licet_schema::Output;
use licet_schema::{Count, entity::certificate};

use crate::fixture::{Fixture, HOUR_MS, altered, check, license_receipt, license_request, outcome};

#[test]
fn outcomes_of_license_request() {
    check(&[
        (
            "received and settled",
            |fixture| {
                let bought = fixture.ready(1);
                fixture.ask(license_request(&bought.tokens[0], "player"))
            },
            "license.issued",
        ),
        (
            "a certificate of a container",
            |fixture| {
                let bought = fixture.ready(2);
                fixture.ask(license_request(&bought.tokens[1], "player"))
            },
            "license.issued",
        ),
        (
            "reception not acknowledged yet",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.settle(&bought, "pay-1");
                fixture.ask(license_request(&bought.tokens[0], "player"))
            },
            "not_received",
        ),
        (
            "not paid for yet",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.receive(&bought);
                fixture.ask(license_request(&bought.tokens[0], "player"))
            },
            "not_settled",
        ),
        (
            "reception not acknowledged in time",
            |fixture| {
                let bought = fixture.buy(1);
                fixture.later(25 * HOUR_MS).ask(license_request(&bought.tokens[0], "player"))
            },
            "lapsed",
        ),
        (
            "expired",
            |fixture| {
                let bought = fixture.ready(1);
                fixture.later(31 * 24 * HOUR_MS).ask(license_request(&bought.tokens[0], "player"))
            },
            "expired",
        ),
        (
            "after its last license was granted",
            |fixture| {
                let bought = fixture.ready(1);
                for terminal in ["a", "b", "c"] {
                    let token = fixture.license(&bought, terminal).expect("a license");
                    fixture.ask(license_receipt(&token));
                }
                fixture.ask(license_request(&bought.tokens[0], "d"))
            },
            "exhausted",
        ),
        (
            "while all its licenses are outstanding",
            |fixture| {
                let bought = fixture.ready(1);
                for terminal in ["a", "b", "c"] {
                    fixture.license(&bought, terminal).expect("a license");
                }
                fixture.ask(license_request(&bought.tokens[0], "d"))
            },
            "exhausted",
        ),
        (
            "an altered certificate",
            |fixture| {
                let bought = fixture.ready(1);
                fixture.ask(license_request(&altered(&bought.tokens[0]), "player"))
            },
            "altered",
        ),
        (
            "a certificate that does not exist",
            |fixture| {
                let bought = Fixture::with_song().later(1).ready(1);
                fixture.ask(license_request(&bought.tokens[0], "player"))
            },
            "unknown_certificate",
        ),
        (
            "a certificate of an earlier generation",
            |fixture| {
                let bought = fixture.ready(1);
                let second = Count::try_from(2i64).expect("a count");
                fixture.store.change::<certificate::Entity>(&bought.certificates[0], |row| row.generation = second);
                fixture.ask(license_request(&bought.tokens[0], "player"))
            },
            "superseded",
        ),
        (
            "a certificate that another key signed",
            |fixture| {
                let mut other = Fixture::with_song();
                other.keyring =
                    licet_common::signing::Keyring::new(ed25519_dalek::SigningKey::from_bytes(&[8; 32]), []);
                let bought = other.ready(1);
                fixture.ask(license_request(&bought.tokens[0], "player"))
            },
            "untrusted_key",
        ),
    ]);
}

#[test]
fn a_terminal_gets_the_same_license_until_it_acknowledges_it() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.ready(1);
    for terminal in ["", "player"] {
        let first = fixture.license(&bought, terminal).expect("a license");
        let second = fixture.license(&bought, terminal).expect("a license");
        assert_eq!(first, second);
        assert!(fixture.events().is_empty(), "a repetition has no event");
    }
    let other = fixture.license(&bought, "other").expect("a license");
    fixture.ask(license_receipt(&other));
    assert_eq!(
        outcome(&fixture.ask(license_request(&bought.tokens[0], "other"))),
        "exhausted",
        "all three licenses have been issued"
    );
}

#[test]
fn sixty_terminals_get_three_licenses() {
    let mut fixture = Fixture::with_song();
    let bought = fixture.ready(1);
    let issued = (0..60).filter(|terminal| fixture.license(&bought, &format!("player-{terminal}")).is_ok()).count();
    assert_eq!(issued, 3);
    match fixture.ask(license_request(&bought.tokens[0], "player-0")) {
        Output::LicenseIssued(again) => assert_eq!(again.remaining.get(), 0),
        other => panic!("{other:?}"),
    }
}
