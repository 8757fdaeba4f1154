//! Payments that match no purchase, and refunds that do not match their payment. Payments stay open
//! in the table `unmatched_settlement` until an operator assigns or refunds them. Only open rows
//! are read.
//!
//! [`list`], [`find`] and [`is_one_of_several`] read the table. [`refunded`] returns the sum of the
//! refunds that the provider has already reported for a payment. [`assign`] and [`refund()`] create
//! the messages that resolve a payment. The settlement worker decides them like any other message,
//! and removes the row or records the refund in it.

use futures_util::future::BoxFuture;
use licet_common::store::{Store, StoreError};
use licet_schema::{
    Count, ExternalId, Money, Request, Text,
    entity::{refund, unmatched_settlement},
    message::{SettlementAssignment, SettlementOutcome, SettlementReversal, UnmatchedKind},
};
use sea_orm::{ColumnTrait, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder};
use uuid::Uuid;

/// Unmatched money.
pub type Unmatched = unmatched_settlement::Model;

/// A purchase to which a payment can be assigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purchase {
    /// A certificate that was bought alone.
    Certificate(Uuid),
    /// A container.
    Container(Uuid),
}

/// An error while unmatched payments are read.
#[derive(Debug, thiserror::Error)]
pub enum UnmatchedError {
    /// The database did not respond, or it rejected the query.
    #[error("the unmatched payments cannot be read: {source}")]
    Store {
        /// The underlying error.
        #[from]
        source: StoreError,
    },
    /// No unmatched payment has this id.
    #[error("there is no unmatched payment {id}: `licet unmatched list` shows them with their ids")]
    NotFound {
        /// The id.
        id: Uuid,
    },
    /// The money went out, so it can be neither assigned nor refunded.
    #[error(
        "{id} is a refund, not a payment: ask the provider why it refunded more than was paid, or for another \
         purchase. A settlement.reinstatement with the refund's id removes it from the list"
    )]
    IsRefund {
        /// The id.
        id: Uuid,
    },
}

/// All unmatched money, oldest first.
///
/// # Errors
/// The database is unavailable.
pub fn list(store: &Store) -> BoxFuture<'_, Result<Vec<Unmatched>, UnmatchedError>> {
    Box::pin(async move {
        let open = unmatched_settlement::Entity::find().filter(unmatched_settlement::Column::RefundedBy.is_null());
        let oldest_first = open.order_by_asc(unmatched_settlement::Column::RecordedAt);
        Ok(oldest_first.all(&store.pool()).await.map_err(StoreError::from)?)
    })
}

/// The unmatched payment with this id.
///
/// # Errors
/// There is none, it is a refund, or the database is unavailable.
pub fn find(store: &Store, id: Uuid) -> BoxFuture<'_, Result<Unmatched, UnmatchedError>> {
    Box::pin(async move {
        let open =
            unmatched_settlement::Entity::find_by_id(id).filter(unmatched_settlement::Column::RefundedBy.is_null());
        let found = open.one(&store.pool()).await.map_err(StoreError::from)?;
        let found = found.ok_or(UnmatchedError::NotFound { id })?;
        match found.kind {
            UnmatchedKind::Payment => Ok(found),
            UnmatchedKind::Refund => Err(UnmatchedError::IsRefund { id }),
        }
    })
}

/// The amount of a payment.
pub fn amount(payment: &Unmatched) -> Money {
    Money { amount_minor: payment.amount_minor, currency: payment.currency }
}

/// The sum of the refunds, in the currency of this payment, that the provider reported under its
/// settlement id and that wait for a payment to count for. They may be refunds of a part of this
/// payment. `None` if there are none.
///
/// # Errors
/// The database is unavailable.
pub fn refunded<'a>(store: &'a Store, payment: &'a Unmatched) -> BoxFuture<'a, Result<Option<Money>, UnmatchedError>> {
    Box::pin(async move {
        if payment.kind == UnmatchedKind::Refund {
            return Ok(None);
        }
        let waiting = refund::Entity::find()
            .filter(refund::Column::Provider.eq(payment.provider.clone()))
            .filter(refund::Column::Settlement.eq(payment.settlement.clone()))
            .filter(refund::Column::Outcome.eq(SettlementOutcome::Pending))
            .filter(refund::Column::Currency.eq(payment.currency));
        let waiting = waiting.all(&store.pool()).await.map_err(StoreError::from)?;
        let amounts = waiting.iter().filter_map(|one| one.amount_minor);
        // A sum beyond the greatest amount is a fault of the provider, and must not hide the list.
        let sum = amounts.reduce(|sum, amount| sum.checked_add(amount).unwrap_or(Count::MAX));
        Ok(sum.map(|amount_minor| Money { amount_minor, currency: payment.currency }))
    })
}

/// Whether other unmatched payments have the same provider and settlement as this one.
///
/// # Errors
/// The database is unavailable.
pub fn is_one_of_several<'a>(store: &'a Store, payment: &'a Unmatched) -> BoxFuture<'a, Result<bool, UnmatchedError>> {
    Box::pin(async move {
        let same = unmatched_settlement::Entity::find()
            .filter(unmatched_settlement::Column::RefundedBy.is_null())
            .filter(unmatched_settlement::Column::Kind.eq(payment.kind))
            .filter(unmatched_settlement::Column::Provider.eq(payment.provider.clone()))
            .filter(unmatched_settlement::Column::Settlement.eq(payment.settlement.clone()));
        Ok(same.count(&store.pool()).await.map_err(StoreError::from)? > 1)
    })
}

/// The request that assigns this payment to a purchase. The purchase must be unpaid, and exactly
/// this amount must be due. The request names the amount only if the payment is one of several with
/// its id.
pub fn assign(payment: &Unmatched, is_one_of_several: bool, to: Purchase) -> Request {
    let (certificate, container) = match to {
        Purchase::Certificate(id) => (Some(id), None),
        Purchase::Container(id) => (None, Some(id)),
    };
    Request::SettlementAssignment(SettlementAssignment {
        certificate,
        container,
        settlement: payment.settlement.clone(),
        provider: payment.provider.clone(),
        amount: is_one_of_several.then(|| amount(payment)),
    })
}

/// The request that records that this payment was refunded through its provider.
pub fn refund(payment: &Unmatched, reason: Text) -> Request {
    Request::SettlementReversal(SettlementReversal {
        certificate: payment.certificate,
        container: payment.container,
        settlement: payment.settlement.clone(),
        provider: payment.provider.clone(),
        // Another refund of the same settlement may be registered under the settlement's id.
        refund: ExternalId::try_from(format!("unmatched-{}", payment.id)).ok(),
        amount: Some(amount(payment)),
        reason,
    })
}

#[cfg(test)]
mod tests {
    use licet_schema::{Code, Count, Name, Timestamp, money::Currency};

    use super::*;

    fn payment() -> Unmatched {
        Unmatched {
            id: Uuid::from_u128(1),
            kind: UnmatchedKind::Payment,
            refund: None,
            provider: Name::try_from("bank").expect("a name"),
            settlement: ExternalId::try_from("pay-1").expect("an id"),
            certificate: Some(Uuid::from_u128(2)),
            container: None,
            amount_minor: Count::try_from(1287i64).expect("an amount"),
            currency: Currency::try_from("USD").expect("a code"),
            grants: None,
            reason: Code::AlreadySettled,
            recorded_at: Timestamp::from_millis(0),
            refunded_by: None,
        }
    }

    #[test]
    fn an_assignment_names_the_payment_and_the_chosen_purchase_and_the_amount_only_if_there_are_several() {
        let container = Uuid::from_u128(3);
        let Request::SettlementAssignment(assignment) = assign(&payment(), true, Purchase::Container(container)) else {
            panic!("an assignment is a settlement.assignment");
        };
        assert_eq!((assignment.certificate, assignment.container), (None, Some(container)));
        assert_eq!((assignment.settlement.as_str(), assignment.provider.as_str()), ("pay-1", "bank"));
        assert_eq!(assignment.amount, Some(amount(&payment())));
        assert!(Request::SettlementAssignment(assignment).check().is_ok());
        let alone = assign(&payment(), false, Purchase::Certificate(Uuid::from_u128(4)));
        assert!(alone.check().is_ok(), "{alone:?}");
        let Request::SettlementAssignment(alone) = alone else { panic!("{alone:?}") };
        assert_eq!(alone.amount, None);
    }

    #[test]
    fn a_refund_reverses_the_same_payment_for_the_purchase_that_it_named() {
        let reason = Text::try_from("paid twice").expect("a text");
        let request = refund(&payment(), reason);
        assert!(request.check().is_ok(), "{request:?}");
        let Request::SettlementReversal(reversal) = request else { panic!("a refund is a settlement.reversal") };
        assert_eq!((reversal.certificate, reversal.container), (Some(Uuid::from_u128(2)), None));
        assert_eq!(reversal.amount, Some(amount(&payment())), "one of several amounts under this id");
    }
}
