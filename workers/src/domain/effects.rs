//! Consequences of ending certificates and revoking licenses, apart from the changed rows: events,
//! changes of points, and further purchases that are affected. They are collected while a message
//! is decided, and then added to its decision.

use std::collections::BTreeSet;

use licet_common::{
    decision::{Context, Decision},
    rows::Defect,
};
use licet_schema::{
    Output,
    entity::{LicenseState, ReturnState, license},
    message::{Ending, LicenseRevoked, Revocation},
};
use uuid::Uuid;

use super::{
    certificates::{Subject, members, retire},
    points,
    tables::Tables,
};

/// The effects collected for one message.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    events: Vec<Output>,
    points: points::Changes,
    mentions: BTreeSet<Uuid>,
}

impl Effects {
    /// Adds an event.
    pub(crate) fn add_event(&mut self, event: Output) {
        self.events.push(event);
    }

    /// Adds a purchase that the message changed or created.
    pub(crate) fn mention(&mut self, subject: Uuid) {
        self.mentions.insert(subject);
    }

    /// The changes to users' points.
    pub(crate) fn points(&mut self) -> &mut points::Changes {
        &mut self.points
    }

    /// Adds the collected effects to a decision.
    pub(crate) fn into(
        self,
        context: &Context<'_>,
        tables: &Tables,
        mut decision: Decision,
    ) -> Result<Decision, Defect> {
        decision.mentions.extend(self.mentions);
        Ok(decision.with_events(self.events).with_events(self.points.events(context, tables)?))
    }

    /// Ends live certificates of one purchase. All live members of the purchase must be loaded.
    /// Points held for the certificates are returned to the user. The pending reception is deleted
    /// with the last certificate that waits for it.
    pub(crate) fn end(
        &mut self,
        context: &Context<'_>,
        tables: &mut Tables,
        subject: Subject,
        certificates: &[Uuid],
        ending: Ending,
    ) -> Result<(), Defect> {
        for id in certificates {
            let row = tables.certificates.require(id)?.clone();
            if row.settled_at.is_none() && row.points.get() > 0 {
                points::credit(context, tables, &mut self.points, points::HELD, &row.user, row.points.get())?;
            }
            self.events.push(retire(tables, *id, ending, context.now)?);
        }
        let nobody_waits = members(tables, subject)?.iter().all(|row| row.received_at.is_some());
        if nobody_waits && tables.pending_receptions.get(&subject.id())?.is_some() {
            tables.pending_receptions.remove(&subject.id())?;
        }
        self.mention(subject.id());
        Ok(())
    }

    /// Revokes a license, and lapses its open return if it has one. The caller updates the counts
    /// of the certificate.
    pub(crate) fn revoke(
        &mut self,
        context: &Context<'_>,
        tables: &mut Tables,
        license: &license::Model,
        reason: Revocation,
    ) -> Result<(), Defect> {
        let row = tables.licenses.change(&license.id)?;
        row.state = LicenseState::Revoked;
        row.revocation = Some(reason);
        let returns = tables.returns_of_certificate(license.certificate)?;
        let open = returns.iter().find(|one| one.license == license.id && one.state == ReturnState::Opened);
        if let Some(id) = open.map(|open| open.id) {
            let row = tables.returns.change(&id)?;
            row.state = ReturnState::Lapsed;
            row.closed_at = Some(context.now);
        }
        self.add_event(Output::LicenseRevoked(LicenseRevoked {
            license: license.id,
            certificate: license.certificate,
            reason,
        }));
        Ok(())
    }
}
