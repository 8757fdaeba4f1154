//! What refunds revoke, and what comes back when they are undone.

use licet_schema::message::{Ending, PrivilegeGranted, Revocation};
use uuid::Uuid;

use super::{Key, RefundState};
use crate::model::{License, LicenseState, Model};

impl Model {
    /// Revokes what the refunds of a payment cover, and reinstates what they no longer cover.
    /// `at_some_time` is true if everything would have been refunded if nothing had been undone first.
    /// Returns whether something was revoked. Points that were earned are debited before points that
    /// were spent are credited.
    pub(super) fn follow_refunds(&mut self, key: &Key, at_some_time: bool) -> bool {
        let known = self.settlements[key].clone();
        let Some(purchase) = self.find_purchase(known.ids) else { return false };
        let bought = self.purchases[&purchase].clone();
        let named = known.refunds.values().filter(|one| matches!(one.state, RefundState::Counts(_)));
        let named: Vec<_> = named.filter_map(|one| known.member(one.ids)).collect();
        let (mut revoked, mut reinstated) = (Vec::new(), Vec::new());
        for id in bought.members {
            let one = &self.certificates[&id];
            let reversed = one.ended == Some(Ending::Reversed) && !one.reinstated;
            let covered = known.all_refunded() || named.contains(&id);
            if !reversed && (covered || at_some_time) {
                revoked.push(id);
            }
            if !covered && (reversed || at_some_time) {
                reinstated.push(id);
            }
        }
        let (mut earned, mut spent) = (0, 0);
        revoked.iter().for_each(|id| self.reverse_certificate(*id, &mut earned, &mut spent));
        self.debit(&bought.user, earned);
        self.credit("licet:spent", &bought.user, spent);
        let (mut earned, mut spent) = (0, 0);
        reinstated.iter().for_each(|id| self.reinstate_certificate(*id, &mut earned, &mut spent));
        self.credit("licet:issued", &bought.user, earned);
        let taken = spent.min(self.points(&bought.user));
        self.transfer(&format!("points:{}", bought.user), "licet:spent", taken);
        self.transfer("licet:owed", &format!("debt:{}", bought.user), spent - taken);
        self.transfer("licet:issued", "licet:spent", spent - taken);
        !revoked.is_empty()
    }

    fn reverse_certificate(&mut self, certificate: Uuid, earned: &mut i64, spent: &mut i64) {
        if self.is_live(certificate) {
            self.end(certificate, Ending::Reversed);
        }
        let one = self.certificate_mut(certificate);
        (one.ended, one.reinstated) = (Some(Ending::Reversed), false);
        *spent += one.points;
        let licenses: Vec<_> = self.licenses.iter().filter(|(_, one)| one.certificate == certificate).collect();
        for (id, state) in licenses.into_iter().map(|(id, one)| (*id, one.state)).collect::<Vec<_>>() {
            match state {
                LicenseState::Outstanding | LicenseState::Granted | LicenseState::Returning => {
                    self.revoke(id, Revocation::Reversed);
                }
                LicenseState::Returned => {
                    let granted = self.privilege_of(id);
                    *earned += granted.points.map_or(0, |points| points.get());
                    if let Some(upgrade) = granted.certificate {
                        self.reverse_certificate(upgrade, earned, spent);
                    }
                }
                LicenseState::Revoked => {}
            }
        }
    }

    fn reinstate_certificate(&mut self, certificate: Uuid, earned: &mut i64, spent: &mut i64) {
        let one = self.certificate_mut(certificate);
        one.reinstated = true;
        *spent += one.points;
        let returned = |one: &&License| one.certificate == certificate && one.state == LicenseState::Returned;
        let returned: Vec<_> = self.licenses.iter().filter(|(_, one)| returned(one)).map(|(id, _)| *id).collect();
        for id in returned {
            let granted = self.privilege_of(id);
            *earned += granted.points.map_or(0, |points| points.get());
            if let Some(upgrade) = granted.certificate {
                self.reinstate_certificate(upgrade, earned, spent);
            }
        }
    }

    fn privilege_of(&self, license: Uuid) -> PrivilegeGranted {
        let mut of = self.returns.values().filter(|one| one.license == license);
        of.find_map(|one| one.granted.clone()).expect("a completed return has a privilege")
    }
}
