//! The auditor finds what is wrong, for what was bought alone and for what was bought together.

use licet_workers::audit::audit;
use sea_orm::ConnectionTrait;

use crate::world::{World, on_both};

on_both!(what_does_not_hold_between_certificates_and_containers_is_found);

/// A change to rows behind the workers' back, how it is undone, and what the auditor says of it.
struct Damage {
    change: &'static str,
    undo: &'static str,
    /// Which rows: of what was bought alone, and of a container.
    places: [&'static str; 2],
    said: &'static str,
}

const DAMAGES: [Damage; 5] = [
    Damage {
        change: "UPDATE settlement SET amount_minor = amount_minor + 1",
        undo: "UPDATE settlement SET amount_minor = amount_minor - 1",
        places: ["certificate IS NOT NULL", "container IS NOT NULL"],
        said: "a settlement whose amount is not what was due",
    },
    Damage {
        change: "UPDATE settlement SET currency = 'EUR'",
        undo: "UPDATE settlement SET currency = 'USD'",
        places: ["certificate IS NOT NULL", "container IS NOT NULL"],
        said: "a settlement in another currency than what it pays for",
    },
    Damage {
        change: "UPDATE certificate SET settlement = settlement || '!'",
        undo: "UPDATE certificate SET settlement = rtrim(settlement, '!')",
        places: ["settled_at IS NOT NULL AND container IS NULL", "settled_at IS NOT NULL AND container IS NOT NULL"],
        said: "a settlement that its certificate does not know",
    },
    Damage {
        change: "UPDATE certificate SET received_at = 1",
        undo: "UPDATE certificate SET received_at = NULL",
        places: ["settled_at IS NULL AND container IS NULL", "settled_at IS NULL AND container IS NOT NULL"],
        said: "a pending reception without a live certificate that waits for it",
    },
    Damage {
        change: "UPDATE certificate SET settlement = 'early'",
        undo: "UPDATE certificate SET settlement = NULL",
        places: ["settled_at IS NULL AND container IS NULL", "settled_at IS NULL AND container IS NOT NULL"],
        said: "a pending reception that may lapse although it is paid for, or may not although it is not",
    },
];

async fn what_does_not_hold_between_certificates_and_containers_is_found(mut world: World) {
    world.put_song_with_workers().await;
    for count in [1, 2] {
        world.ready("alice", count).await;
        world.buy("bob", count).await;
    }
    let store = &world.machine.store;
    for Damage { change, undo, places, said } in DAMAGES {
        for place in places {
            let rows = store.reader().execute_unprepared(&format!("{change} WHERE {place}")).await.expect("a change");
            assert!(rows.rows_affected() > 0, "{change} WHERE {place}");
            let report = audit(store).await.expect("the auditor can read");
            let found = report.violations.iter().any(|violation| violation.what == said);
            assert!(found, "{change} WHERE {place}: {:#?}", report.violations);
            store.reader().execute_unprepared(&format!("{undo} WHERE {place}")).await.expect("it is undone");
        }
    }
    world.finish().await;
}
