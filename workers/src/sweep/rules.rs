//! What ends by its deadline.

use std::collections::BTreeSet;

use licet_common::decision::{Context, Decision, Tables};
use licet_schema::{
    Output, Timestamp,
    entity::{LicenseState, ReturnState, license_return},
    message::{ContentStatus, SweepDue, SweepKind},
};

use crate::{
    effects::Effects,
    held::{Subject, members, overdue},
    returns::Case,
};

/// Ends what is overdue among the rows at hand.
pub(super) fn sweep(context: &Context<'_>, tables: &mut Tables, due: &SweepDue) -> Decision {
    let before = due.before.min(context.now);
    let mut effects = Effects::default();
    let ended = match due.kind {
        SweepKind::Reception | SweepKind::Certificate => certificates(context, tables, &mut effects, due.kind, before),
        SweepKind::Return => returns(context, tables, &mut effects, before),
    };
    // Only while it gets on: what others hold is left to the next tick.
    if ended > 0 && tables.more {
        effects.tell(Output::SweepDue(SweepDue { before, ..due.clone() }));
    }
    effects.into(context, tables, Decision::nothing())
}

/// Ends overdue certificates, by purchase; says how many purchases.
fn certificates(
    context: &Context<'_>,
    tables: &mut Tables,
    effects: &mut Effects,
    kind: SweepKind,
    before: Timestamp,
) -> usize {
    let subjects: BTreeSet<_> = tables.certificates.iter().map(|row| Subject::of(row.id, row.container)).collect();
    let mut ended = 0;
    for subject in subjects {
        let members = members(tables, subject);
        let late = match kind {
            SweepKind::Reception => {
                tables.pending_receptions.get(&subject.id()).is_some_and(|row| is_before(row.due_at, before))
            }
            _ => members.iter().any(|row| is_before(Some(row.expires_at), before)),
        };
        if !late {
            continue;
        }
        // Unpaid ones end whole, paid ones each by itself.
        let groups = if members.iter().any(|row| row.settled_at.is_some()) {
            members.chunks(1).collect::<Vec<_>>()
        } else {
            vec![members.as_slice()]
        };
        for group in groups {
            if let Some(ending) = overdue(group, context.now) {
                let ids: Vec<_> = group.iter().map(|row| row.id).collect();
                effects.end(context, tables, subject, &ids, ending);
                ended += 1;
            }
        }
    }
    ended
}

fn is_before(deadline: Option<i64>, before: Timestamp) -> bool {
    deadline.is_some_and(|deadline| deadline < before.as_millis())
}

/// Gives licenses of late returns back; says how many.
fn returns(context: &Context<'_>, tables: &mut Tables, effects: &mut Effects, before: Timestamp) -> usize {
    let late = |row: &&license_return::Model| {
        row.state == ReturnState::Opened
            && is_before(Some(row.delete_by), before)
            && context.now.as_millis() > row.delete_by
    };
    let late: Vec<_> = tables.returns.iter().filter(late).cloned().collect();
    let mut lapsed = 0;
    for open in late {
        let license = tables.licenses.get(&open.license).cloned();
        let Some(case) = license.and_then(|license| Case::of(tables, license).ok()) else { continue };
        if let Some(row) = tables.returns.change(&open.id) {
            row.state = ReturnState::Lapsed;
            row.closed_at = Some(context.now.as_millis());
        }
        if let Some(license) = tables.licenses.change(&open.license) {
            license.state = LicenseState::Granted;
        }
        effects.tell(Output::ReturnLapsed(case.told(&open, "granted", ContentStatus::Live)));
        effects.mention(case.subject());
        lapsed += 1;
    }
    lapsed
}
