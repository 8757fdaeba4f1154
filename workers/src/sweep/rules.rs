//! Rules of `sweep.due`.

use std::collections::BTreeSet;

use licet_common::{
    decision::{Context, Decision},
    rows::Defect,
};
use licet_schema::{
    Output, Timestamp,
    entity::{ReturnState, license_return},
    message::{SweepDue, SweepKind},
};

use crate::domain::{
    Tables,
    certificates::{Subject, members, overdue},
    effects::Effects,
    returns::ReturnCase,
};

/// Ends the overdue certificates or returns among the loaded rows.
pub(super) fn sweep(context: &Context<'_>, tables: &mut Tables, due: &SweepDue) -> Result<Decision, Defect> {
    let before = due.before.min(context.now);
    let mut effects = Effects::default();
    let ended = match due.kind {
        SweepKind::Reception | SweepKind::Certificate => certificates(context, tables, &mut effects, due.kind, before)?,
        SweepKind::Return => returns(context, tables, &mut effects, before)?,
    };
    // Continue only if this sweep ended something. Rows that other transactions have locked are
    // left to the next tick.
    if ended > 0 && tables.more {
        effects.add_event(Output::SweepDue(SweepDue { before, ..due.clone() }));
    }
    effects.into(context, tables, Decision::nothing())
}

/// Ends overdue certificates, one purchase at a time. Returns the number of groups that ended.
fn certificates(
    context: &Context<'_>,
    tables: &mut Tables,
    effects: &mut Effects,
    kind: SweepKind,
    before: Timestamp,
) -> Result<usize, Defect> {
    let subjects: BTreeSet<_> = tables.certificates.iter().map(|row| Subject::of(row.id, row.container)).collect();
    let mut ended = 0;
    for subject in subjects {
        let members = members(tables, subject)?;
        let late = match kind {
            SweepKind::Reception => {
                let pending = tables.pending_receptions.get(&subject.id())?;
                pending.and_then(|row| row.due_at).is_some_and(|due| due < before)
            }
            SweepKind::Certificate | SweepKind::Return => members.iter().any(|row| row.expires_at < before),
        };
        if !late {
            continue;
        }
        // Unpaid certificates of a purchase end together, paid ones one by one.
        let groups = if members.iter().any(|row| row.settled_at.is_some()) {
            members.chunks(1).collect::<Vec<_>>()
        } else {
            vec![members.as_slice()]
        };
        for group in groups {
            if let Some(ending) = overdue(group, context.now) {
                let ids: Vec<_> = group.iter().map(|row| row.id).collect();
                effects.end(context, tables, subject, &ids, ending)?;
                ended += 1;
            }
        }
    }
    Ok(ended)
}

/// Lapses late returns, which makes their licenses live again. Returns the number of lapsed
/// returns.
fn returns(
    context: &Context<'_>,
    tables: &mut Tables,
    effects: &mut Effects,
    before: Timestamp,
) -> Result<usize, Defect> {
    let late = |row: &&license_return::Model| {
        row.state == ReturnState::Opened && row.delete_by < before && context.now > row.delete_by
    };
    let late: Vec<_> = tables.returns.iter().filter(late).cloned().collect();
    for open in &late {
        let license = tables.licenses.require(&open.license)?.clone();
        let case = ReturnCase::of(tables, license)?;
        effects.add_event(case.lapse(context, tables, open)?);
        effects.mention(case.subject());
    }
    Ok(late.len())
}
