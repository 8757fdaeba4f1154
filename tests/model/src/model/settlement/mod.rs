//! What the model knows about settlements. The submodules contain payments, refunds, revocations, and
//! unmatched money.

mod payment;
mod refund;
mod revocation;
mod unmatched;

use std::collections::BTreeMap;

use licet_schema::{
    Code, ExternalId, Money, Name, Output,
    message::{SettlementOutcome, SettlementRegistered},
    vocabulary::Grants,
};
use uuid::Uuid;

use super::{LICET, Model, PurchaseIds, money};

type Key = (Name, ExternalId);

/// What is known about a provider's settlement.
#[derive(Clone, Debug, Default)]
pub(super) struct Settlement {
    pub(super) ids: PurchaseIds,
    /// The purchase that the provider named, if an operator assigned the payment to another one.
    reported: Option<PurchaseIds>,
    failed: bool,
    /// The amount, once the payment was received.
    paid: Option<Money>,
    grants: Option<Grants>,
    refunds: BTreeMap<ExternalId, Refund>,
    /// Reinstatements that wait for their refund, with the purchase that they name.
    kept: Vec<(Option<ExternalId>, PurchaseIds)>,
}

#[derive(Clone, Debug)]
struct Refund {
    ids: PurchaseIds,
    amount: Option<Money>,
    state: RefundState,
    /// What it counted for before it was undone, if it counted.
    undone: Option<Option<i64>>,
    /// The money that paid for nothing and that it returned before it was undone.
    undone_return: Option<Money>,
    revoked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RefundState {
    /// The payment has not arrived.
    Kept,
    /// It counts for this part of the payment, or for all that is left.
    Counts(Option<i64>),
    /// It returned money that paid for nothing.
    Returned(Money),
    Undone,
}

impl Refund {
    fn outcome(&self) -> SettlementOutcome {
        match self.state {
            RefundState::Kept => SettlementOutcome::Pending,
            RefundState::Undone => SettlementOutcome::Reinstated,
            RefundState::Counts(_) if self.revoked => SettlementOutcome::Reversed,
            RefundState::Counts(_) | RefundState::Returned(_) => SettlementOutcome::Refunded,
        }
    }

    /// The part that it counts or counted for. `None` if it was never applied to the payment.
    fn applied(&self) -> Option<Option<i64>> {
        match self.state {
            RefundState::Counts(part) => Some(part),
            RefundState::Undone => self.undone,
            RefundState::Kept | RefundState::Returned(_) => None,
        }
    }

    fn stands(&self) -> bool {
        matches!(self.state, RefundState::Counts(_) | RefundState::Returned(_))
    }
}

impl Settlement {
    /// The settlement of a purchase for which nothing is due.
    pub(super) fn free(ids: PurchaseIds, nothing: Money) -> Self {
        Self { ids, paid: Some(nothing), ..Self::default() }
    }

    /// Whether a message that names this purchase can be about this settlement.
    fn is_for(&self, ids: PurchaseIds) -> bool {
        self.ids == ids || self.reported == Some(ids)
    }

    /// Whether two messages that name these purchases mean the same one.
    fn are_same(&self, one: PurchaseIds, other: PurchaseIds) -> bool {
        one == other || (self.is_for(one) && self.is_for(other))
    }

    /// The member of the container that a refund names.
    fn member(&self, ids: PurchaseIds) -> Option<Uuid> {
        ids.0.filter(|_| self.ids.1.is_some() && !self.is_for(ids))
    }

    /// The sum of the amounts that count.
    fn counted(&self) -> i64 {
        let counted = self.refunds.values().filter_map(|one| match one.state {
            RefundState::Counts(part) => part,
            _ => None,
        });
        counted.sum()
    }

    fn all_refunded(&self) -> bool {
        let rest = self.refunds.values().any(|one| one.state == RefundState::Counts(None));
        rest || self.reached(self.counted())
    }

    /// Whether all refunds but `without`, undone ones included, add up to the payment. Of several
    /// refunds of one member, the greatest counts.
    fn added_up(&self, without: Option<&ExternalId>) -> bool {
        let mut sums: BTreeMap<(Option<Uuid>, Option<&ExternalId>), i64> = BTreeMap::new();
        for (id, one) in self.refunds.iter().filter(|(id, _)| Some(*id) != without) {
            let Some(part) = one.applied() else { continue };
            let Some(part) = part else { return true };
            let member = self.member(one.ids);
            let key = (member, member.is_none().then_some(id));
            let greatest = sums.get(&key).copied().unwrap_or(0).max(part);
            sums.insert(key, greatest);
        }
        self.reached(sums.values().sum())
    }

    fn reached(&self, sum: i64) -> bool {
        self.paid.is_some_and(|paid| paid.amount_minor.get() > 0 && sum >= paid.amount_minor.get())
    }

    /// Whether this refund, which arrived after the reinstatement of all refunds, may have been sent
    /// before it: together, the refunds do not exceed the payment.
    fn fits(&self, id: &ExternalId) -> bool {
        let others = self.refunds.iter().filter(|(other, _)| *other != id).filter_map(|(_, one)| one.applied());
        let others: Vec<_> = others.collect();
        match self.refunds[id].state {
            RefundState::Counts(Some(part)) => {
                let sum = others.iter().flatten().sum::<i64>() + part;
                self.paid.is_some_and(|paid| sum <= paid.amount_minor.get())
            }
            RefundState::Counts(None) => !others.contains(&None),
            _ => true,
        }
    }

    /// What is refunded of the payment, if there are any refunds but kept ones.
    pub(super) fn refunded_of_payment(&self) -> Option<Money> {
        let paid = self.paid.filter(|_| !self.refunds.values().all(|one| one.state == RefundState::Kept))?;
        Some(if self.all_refunded() { paid } else { money(self.counted(), paid.currency) })
    }

    /// The sum of all refunds, including those of unmatched money, if there are any but kept ones.
    fn refunded(&self) -> Option<Money> {
        let mut returned = self.refunds.values().filter_map(|one| match one.state {
            RefundState::Returned(amount) => Some(amount),
            _ => None,
        });
        let start = self.refunded_of_payment().or_else(|| returned.next())?;
        let same = returned.filter(|one| one.currency == start.currency).map(|one| one.amount_minor.get());
        Some(money(start.amount_minor.get() + same.sum::<i64>(), start.currency))
    }
}

impl Model {
    /// The purchase with these ids, if its kind matches. A member of a container is not a purchase.
    fn find_purchase(&self, (certificate, container): PurchaseIds) -> Option<Uuid> {
        let id = certificate.or(container)?;
        self.purchases.get(&id).filter(|one| one.container == container.is_some()).map(|_| id)
    }

    pub(in crate::model) fn registered(
        &self,
        (certificate, container): PurchaseIds,
        key: &Key,
        outcome: SettlementOutcome,
        repeated: bool,
    ) -> Output {
        let purchase = match certificate {
            Some(id) => self.certificates.get(&id).map(|one| one.purchase),
            None => self.find_purchase((None, container)),
        };
        let known = self.settlements.get(key);
        Output::SettlementRegistered(SettlementRegistered {
            certificate,
            container,
            settlement: key.1.clone(),
            outcome,
            grants: known.and_then(|one| one.grants),
            refunded: known.and_then(Settlement::refunded),
            repeated,
            reference: purchase.and_then(|id| self.purchases[&id].reference.clone()),
        })
    }
}

/// The provider name `licet` is reserved.
pub(super) fn refuse_licet(provider: &Name) -> Result<(), Code> {
    if provider.as_str() == LICET { Err(Code::Forbidden) } else { Ok(()) }
}
