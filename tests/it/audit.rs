//! The auditor finds violations in the rows of certificates, both of certificates that were bought
//! alone and of those in a container.

use licet_operator::audit::audit;
use licet_schema::{
    Output, Request,
    message::{ContentPut, LicenseReturn, Privilege, ReturnPolicy, SettlementCompletion},
};
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};

use crate::{
    programs::run,
    system::{TestSystem, completion, license_receipt, license_request, name, on_both, outcome, song, usd},
};

on_both!(
    the_auditor_finds_violations_in_single_certificates_and_in_containers,
    open_payouts_and_unmatched_money_are_warnings_and_a_manual_change_is_a_violation,
);

/// A change that no worker makes to rows, the statement that undoes it, and the violation that the
/// auditor reports.
struct Damage {
    change: &'static str,
    undo: &'static str,
    /// Two conditions: one selects the rows of a certificate bought alone, the other those of a
    /// container.
    rows: [&'static str; 2],
    reported: &'static str,
}

const DAMAGES: [Damage; 5] = [
    Damage {
        change: "UPDATE settlement SET amount_minor = amount_minor + 1",
        undo: "UPDATE settlement SET amount_minor = amount_minor - 1",
        rows: ["certificate IS NOT NULL", "container IS NOT NULL"],
        reported: "a settlement whose amount differs from the amount due",
    },
    Damage {
        change: "UPDATE settlement SET currency = 'EUR'",
        undo: "UPDATE settlement SET currency = 'USD'",
        rows: ["certificate IS NOT NULL", "container IS NOT NULL"],
        reported: "a settlement whose currency differs from that of its purchase",
    },
    Damage {
        change: "UPDATE certificate SET settlement = settlement || '!'",
        undo: "UPDATE certificate SET settlement = rtrim(settlement, '!')",
        rows: ["settled_at IS NOT NULL AND container IS NULL", "settled_at IS NOT NULL AND container IS NOT NULL"],
        reported: "a settlement that its certificate does not name",
    },
    Damage {
        change: "UPDATE certificate SET received_at = 1",
        undo: "UPDATE certificate SET received_at = NULL",
        rows: ["settled_at IS NULL AND container IS NULL", "settled_at IS NULL AND container IS NOT NULL"],
        reported: "a pending reception without a live certificate that waits for it",
    },
    Damage {
        change: "UPDATE certificate SET settlement = 'early'",
        undo: "UPDATE certificate SET settlement = NULL",
        rows: ["settled_at IS NULL AND container IS NULL", "settled_at IS NULL AND container IS NOT NULL"],
        reported: "a pending reception with a deadline for a paid purchase, or without one for an unpaid purchase",
    },
];

async fn the_auditor_finds_violations_in_single_certificates_and_in_containers(mut system: TestSystem) {
    system.put_song_with_workers().await;
    for count in [1, 2] {
        system.ready("alice", count).await;
        system.buy("bob", count).await;
    }
    let store = &system.resources.store;
    for Damage { change, undo, rows, reported } in DAMAGES {
        for condition in rows {
            let statement = format!("{change} WHERE {condition}");
            let changed = store.pool().execute_unprepared(&statement).await.expect("a change");
            assert!(changed.rows_affected() > 0, "{statement}");
            let report = audit(store).await.expect("the auditor can read");
            let found = report.violations.iter().any(|violation| violation.what == reported);
            assert!(found, "{statement}: {:#?}", report.violations);
            store.pool().execute_unprepared(&format!("{undo} WHERE {condition}")).await.expect("the change is undone");
        }
    }
    system.finish().await;
}

async fn open_payouts_and_unmatched_money_are_warnings_and_a_manual_change_is_a_violation(mut system: TestSystem) {
    system.start_workers();
    let policy = ReturnPolicy { buyback: Some(usd(300)), ..song(1).return_policy };
    system.ask(&Request::ContentPut(ContentPut { return_policy: policy, ..song(1) })).await;
    let bought = system.ready("alice", 1).await;
    let reply = system.ask(&license_request(&bought.tokens[0], "player")).await;
    let Output::LicenseIssued(issued) = reply else { panic!("{reply:?}") };
    let license_token = issued.license_token.expect("a token");
    system.ask(&license_receipt(&license_token)).await;
    let (user, privilege, deleted) = (name("alice"), Privilege::Buyback, true);
    let request = Request::LicenseReturn(LicenseReturn { license_token, user, privilege, deleted });
    let reply = system.ask(&request).await;
    let Output::LicenseReturned(returned) = reply else { panic!("{reply:?}") };
    let Request::SettlementCompletion(paid) = completion(&system.buy("bob", 1).await) else { unreachable!() };
    let wrong = Request::SettlementCompletion(SettlementCompletion { amount: usd(1), ..paid });
    let unmatched = system.process(&wrong).await;
    assert_eq!(outcome(&unmatched.reply), "amount_mismatch");
    system.stop_workers().await;

    let url = system.database_url.clone();
    let url = url.unwrap_or_else(|| format!("sqlite:{}", system.folder.path().join("licet.db").display()));
    let change = "UPDATE content SET return_buyback_minor = 999";
    let undo = "UPDATE content SET return_buyback_minor = 300";
    system.resources.store.pool().execute_unprepared(change).await.expect("a change");
    let found = audit(&system.resources.store).await.expect("the auditor can read").violations;
    assert_eq!(
        found.iter().map(|one| &*one.what).collect::<Vec<_>>(),
        ["a row of content that differs from what messages wrote"]
    );
    system.resources.store.pool().execute_unprepared(undo).await.expect("the change is undone");
    // Close the store, because only one process may use an SQLite file.
    let TestSystem { folder, resources, .. } = system;
    drop(resources);
    let licet = |arguments: &[&str]| {
        let arguments = [&["audit"][..], arguments].concat();
        run("licet", &arguments, &[("LICET_DATABASE_URL", &url)], folder.path())
    };
    // The clock of the test's workers is set to 2023.
    let output = licet(&["--json"]);
    assert_eq!(output.status.code(), Some(0), "warnings do not change the exit code: {output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(report["violations"], json!([]));
    let warnings = report["warnings"].as_array().expect("a list");
    let places: Vec<_> = warnings.iter().map(|one| (&one["count"], &one["places"])).collect();
    let expected = [json!([returned.license_return]), json!([unmatched.id])];
    assert_eq!(places, [(&json!(1), &expected[0]), (&json!(1), &expected[1])], "{report}");
    assert!(warnings.iter().all(|one| one["oldest"] == json!("2023-11-14T22:13:20Z")), "{report}");
    let text = String::from_utf8(licet(&[]).stdout).expect("text");
    assert!(text.contains("The audit passed") && text.contains("Warning: unmatched money"), "{text}");
    let text = String::from_utf8(licet(&["--warn-older-than", "18000d"]).stdout).expect("text");
    assert!(text.contains("The audit passed") && !text.contains("Warning"), "{text}");
}
