//! The auditor finds violations in the rows of certificates, both of certificates that were bought
//! alone and of those in a container.

use licet_operator::audit::audit;
use sea_orm::ConnectionTrait;

use crate::system::{TestSystem, on_both};

on_both!(the_auditor_finds_violations_in_single_certificates_and_in_containers);

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
