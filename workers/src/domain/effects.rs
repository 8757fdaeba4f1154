//! What ending certificates and revoking licenses brings about besides the rows: gathered in the
//! course of one message, and told at its end.

use std::collections::BTreeSet;

use licet_common::decision::{Context, Decision, Tables};
use licet_schema::{
    Output,
    entity::{Ending, LicenseState, ReturnState, license},
    message::{LicenseRevoked, Revocation},
};
use uuid::Uuid;

use crate::{
    held::{Subject, members, retire},
    points,
};

/// Gathered effects.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    events: Vec<Output>,
    points: points::Changes,
    purchases: BTreeSet<Uuid>,
}

impl Effects {
    /// Something happened.
    pub(crate) fn tell(&mut self, event: Output) {
        self.events.push(event);
    }

    /// A purchase was changed or made.
    pub(crate) fn mention(&mut self, purchase: Uuid) {
        self.purchases.insert(purchase);
    }

    /// Where changes to users' points are kept.
    pub(crate) fn points(&mut self) -> &mut points::Changes {
        &mut self.points
    }

    /// Adds all of it to a decision.
    pub(crate) fn into(self, context: &Context<'_>, tables: &Tables, mut decision: Decision) -> Decision {
        decision.mentions.extend(self.purchases);
        decision.with_all(self.events).with_all(self.points.events(context, tables))
    }

    /// Ends live certificates of one purchase, of which all live members must be at hand. Points
    /// that were held for them go back; with the last that waits for it goes the pending reception.
    pub(crate) fn end(
        &mut self,
        context: &Context<'_>,
        tables: &mut Tables,
        subject: Subject,
        certificates: &[Uuid],
        ending: Ending,
    ) {
        for id in certificates {
            let Some(row) = tables.certificates.get(id).cloned() else { continue };
            if row.settled_at.is_none() && row.points > 0 {
                points::credit(context, tables, &mut self.points, points::HELD, &row.user, row.points);
            }
            self.events.extend(retire(tables, *id, ending, context.now));
        }
        if members(tables, subject).iter().all(|row| row.received_at.is_some()) {
            tables.pending_receptions.remove(&subject.id());
        }
        self.mention(subject.id());
    }

    /// Revokes a license. An open return of it is over. The counts are the caller's.
    pub(crate) fn revoke(
        &mut self,
        context: &Context<'_>,
        tables: &mut Tables,
        license: &license::Model,
        why: Revocation,
    ) {
        if let Some(row) = tables.licenses.change(&license.id) {
            row.state = LicenseState::Revoked;
        }
        let open = tables.returns.iter().find(|one| one.license == license.id && one.state == ReturnState::Opened);
        let open = open.map(|one| one.id);
        if let Some(row) = open.and_then(|id| tables.returns.change(&id)) {
            row.state = ReturnState::Lapsed;
            row.closed_at = Some(context.now.as_millis());
        }
        self.tell(Output::LicenseRevoked(LicenseRevoked {
            license: license.id,
            certificate: license.certificate,
            reason: why,
        }));
    }
}
