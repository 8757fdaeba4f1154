//! Settlements: payments for purchases, and payouts for buy-backs.

use uuid::Uuid;

use crate::{
    body::{bodies, words},
    money::Money,
    refusal::Code,
    vocabulary::{ExternalId, Grants, InvalidValue, Name, Provider, Text},
};

bodies! {
    /// `settlement.completion`: the payment provider received the payment for a purchase. The body
    /// names exactly one of `certificate` and `container`.
    pub struct SettlementCompletion {
        /// The certificate that was paid for, if it was bought without a container.
        pub certificate: Option<Uuid>,
        /// The container that was paid for, if several certificates were bought together.
        pub container: Option<Uuid>,
        /// The provider's id of the settlement.
        pub settlement: ExternalId,
        /// The payment provider.
        pub provider: Name,
        /// The amount paid.
        pub amount: Money,
        /// The number of licenses that each certificate grants. If absent, the number defined by
        /// the content.
        pub grants: Option<Grants>,
    }

    /// `settlement.failure`: the payment failed. The body names exactly one of `certificate` and
    /// `container`.
    pub struct SettlementFailure {
        /// The certificate, if it was bought without a container.
        pub certificate: Option<Uuid>,
        /// The container, if several certificates were bought together.
        pub container: Option<Uuid>,
        /// The provider's id of the settlement.
        pub settlement: ExternalId,
        /// The payment provider.
        pub provider: Name,
        /// A human-readable reason.
        pub reason: Text,
    }

    /// `settlement.reversal`: the payment was refunded or charged back, in full or in part. The
    /// body names exactly one of `certificate` and `container`.
    pub struct SettlementReversal {
        /// The certificate, if it was bought without a container. Or a member of the container that
        /// the settlement paid for: then this member alone is refunded and revoked.
        pub certificate: Option<Uuid>,
        /// The container, if several certificates were bought together.
        pub container: Option<Uuid>,
        /// The provider's id of the settlement.
        pub settlement: ExternalId,
        /// The payment provider.
        pub provider: Name,
        /// The provider's id of the refund. If absent, the settlement's id.
        pub refund: Option<ExternalId>,
        /// The amount refunded. If absent, what was paid for the named member, or everything that
        /// is not refunded yet.
        pub amount: Option<Money>,
        /// A human-readable reason.
        pub reason: Text,
    }

    /// `settlement.reinstatement`: a reversal was undone, for example because a dispute was won.
    /// The body names exactly one of `certificate` and `container`.
    pub struct SettlementReinstatement {
        /// The certificate that the reversal named.
        pub certificate: Option<Uuid>,
        /// The container that the reversal named.
        pub container: Option<Uuid>,
        /// The provider's id of the settlement.
        pub settlement: ExternalId,
        /// The payment provider.
        pub provider: Name,
        /// The provider's id of the refund that was undone. If absent, all refunds of the
        /// settlement that are registered so far.
        pub refund: Option<ExternalId>,
        /// A human-readable reason.
        pub reason: Text,
    }

    /// `settlement.assignment`: an operator decides that an unmatched payment pays for a purchase.
    /// The body names exactly one of `certificate` and `container`.
    pub struct SettlementAssignment {
        /// The certificate to pay for, if it was bought without a container.
        pub certificate: Option<Uuid>,
        /// The container to pay for, if several certificates were bought together.
        pub container: Option<Uuid>,
        /// The provider's id of the settlement.
        pub settlement: ExternalId,
        /// The payment provider.
        pub provider: Name,
        /// The amount of the payment. Needed only if several payments with this id are unmatched.
        pub amount: Option<Money>,
    }

    /// `settlement.registered`: reply and event. A settlement message was recorded. The body names
    /// exactly one of `certificate` and `container`.
    pub struct SettlementRegistered {
        /// The certificate, if it was bought without a container, or the refunded member.
        pub certificate: Option<Uuid>,
        /// The container, if several certificates were bought together.
        pub container: Option<Uuid>,
        /// The provider's id of the settlement.
        pub settlement: ExternalId,
        /// The outcome that was recorded.
        pub outcome: SettlementOutcome,
        /// The number of licenses that each certificate grants.
        pub grants: Option<Grants>,
        /// The sum of the refunds so far. Absent if the payment has no refunds.
        pub refunded: Option<Money>,
        /// Whether the outcome had already been recorded.
        pub repeated: bool,
        /// The order number of the upstream system.
        pub reference: Option<ExternalId>,
    }

    /// `settlement.instructed`: event. Instructs the payment provider to charge the user. The body
    /// names exactly one of `certificate` and `container`.
    pub struct SettlementInstructed {
        /// The certificate, if it was bought without a container.
        pub certificate: Option<Uuid>,
        /// The container, if several certificates were bought together.
        pub container: Option<Uuid>,
        /// The user to charge.
        pub user: Name,
        /// The amount to charge.
        pub amount: Money,
        /// The order number of the upstream system.
        pub reference: Option<ExternalId>,
    }

    /// `settlement.unmatched`: event. Money matches no purchase: a payment, or a refund of more than
    /// was paid. Licet keeps a record of the money until an operator assigns or refunds it.
    pub struct SettlementUnmatched {
        /// Whether the money came in or went out.
        pub kind: UnmatchedKind,
        /// The provider's id of the settlement.
        pub settlement: ExternalId,
        /// The provider's id of the refund. Absent for a payment.
        pub refund: Option<ExternalId>,
        /// The payment provider.
        pub provider: Name,
        /// The certificate that the settlement message named.
        pub certificate: Option<Uuid>,
        /// The container that the settlement message named.
        pub container: Option<Uuid>,
        /// The amount paid or refunded.
        pub amount: Option<Money>,
        /// The reason the money matches no purchase.
        pub reason: Code,
    }

    /// `payout.completion`: the payment provider paid out the money for a buy-back.
    pub struct PayoutCompletion {
        /// The return that the payout belongs to.
        pub license_return: Uuid,
        /// The provider's id of the payout.
        pub payout: ExternalId,
        /// The payment provider.
        pub provider: Name,
        /// The amount paid out.
        pub amount: Money,
    }

    /// `payout.failure`: a payout failed, or was sent back by the user's bank. A payout that failed
    /// can never succeed.
    pub struct PayoutFailure {
        /// The return that the payout belongs to.
        pub license_return: Uuid,
        /// The provider's id of the payout.
        pub payout: ExternalId,
        /// The payment provider.
        pub provider: Name,
        /// A human-readable reason.
        pub reason: Text,
    }

    /// `payout.registered`: reply and event. A payout message was recorded.
    pub struct PayoutRegistered {
        /// The return that the payout belongs to.
        pub license_return: Uuid,
        /// The provider's id of the payout.
        pub payout: ExternalId,
        /// The outcome that was recorded.
        pub outcome: PayoutOutcome,
        /// Whether the outcome had already been recorded.
        pub repeated: bool,
    }

    /// `payout.instructed`: event. Instructs the payment provider to pay the user.
    pub struct PayoutInstructed {
        /// The return that the payout belongs to.
        pub license_return: Uuid,
        /// The user to pay.
        pub user: Name,
        /// The amount to pay.
        pub amount: Money,
    }
}

words! {
    /// The outcome of a settlement message.
    pub enum SettlementOutcome {
        /// The payment was received.
        Completed = "completed",
        /// The payment failed.
        Failed = "failed",
        /// What the refund is for was revoked: the purchase, or a member of it.
        Reversed = "reversed",
        /// The refund was counted and revoked nothing.
        Refunded = "refunded",
        /// The message arrived before the message that it refers to, and is kept until then.
        Pending = "pending",
        /// The reversal was undone. What it revoked comes back by `certificate.reissue`.
        Reinstated = "reinstated",
    }

    /// Whether unmatched money came in or went out.
    pub enum UnmatchedKind {
        /// A payment that pays for nothing.
        Payment = "payment",
        /// A refund of more than was paid.
        Refund = "refund",
    }

    /// The outcome of a payout.
    pub enum PayoutOutcome {
        /// The money was paid out.
        Completed = "completed",
        /// The payout failed.
        Failed = "failed",
        /// The payout failed, but its completion has not been reported yet.
        Pending = "pending",
    }
}

impl SettlementCompletion {
    /// Checks the provider, and that the body names exactly one purchase.
    ///
    /// # Errors
    /// The provider is not a [`Provider`], or the body names both a certificate and a container, or
    /// neither, or the nil UUID.
    pub fn check(&self) -> Result<(), InvalidValue> {
        check_provider(&self.provider)?;
        check_one_purchase(self.certificate, self.container)
    }
}

impl SettlementFailure {
    /// Checks that the body names exactly one purchase.
    ///
    /// # Errors
    /// The provider is not a [`Provider`], or the body does not name exactly one purchase.
    pub fn check(&self) -> Result<(), InvalidValue> {
        check_provider(&self.provider)?;
        check_one_purchase(self.certificate, self.container)
    }
}

impl SettlementReversal {
    /// Checks that the body names exactly one purchase.
    ///
    /// # Errors
    /// The provider is not a [`Provider`], or the body does not name exactly one purchase.
    pub fn check(&self) -> Result<(), InvalidValue> {
        check_provider(&self.provider)?;
        check_one_purchase(self.certificate, self.container)
    }
}

impl SettlementReinstatement {
    /// Checks that the body names exactly one purchase.
    ///
    /// # Errors
    /// The provider is not a [`Provider`], or the body does not name exactly one purchase.
    pub fn check(&self) -> Result<(), InvalidValue> {
        check_provider(&self.provider)?;
        check_one_purchase(self.certificate, self.container)
    }
}

impl SettlementAssignment {
    /// Checks that the body names exactly one purchase.
    ///
    /// # Errors
    /// The provider is not a [`Provider`], or the body does not name exactly one purchase.
    pub fn check(&self) -> Result<(), InvalidValue> {
        check_provider(&self.provider)?;
        check_one_purchase(self.certificate, self.container)
    }
}

impl PayoutCompletion {
    /// Checks the provider.
    ///
    /// # Errors
    /// The provider is not a [`Provider`].
    pub fn check(&self) -> Result<(), InvalidValue> {
        check_provider(&self.provider)
    }
}

impl PayoutFailure {
    /// Checks the provider.
    ///
    /// # Errors
    /// The provider is not a [`Provider`].
    pub fn check(&self) -> Result<(), InvalidValue> {
        check_provider(&self.provider)
    }
}

/// Checks that a provider is a [`Provider`]. The fields and columns of providers have the type
/// [`Name`], because `licet` itself is a provider in them.
fn check_provider(provider: &Name) -> Result<(), InvalidValue> {
    Provider::try_from(provider.as_str()).map(|_| ())
}

fn check_one_purchase(certificate: Option<Uuid>, container: Option<Uuid>) -> Result<(), InvalidValue> {
    match (certificate, container) {
        // Licet never issues the nil UUID. In the array parameters of an SQL statement, it
        // represents NULL.
        (Some(id), _) | (None, Some(id)) if id.is_nil() => {
            Err(InvalidValue("the nil UUID is not the id of a certificate or container".into()))
        }
        (Some(_), None) | (None, Some(_)) => Ok(()),
        (Some(_), Some(_)) | (None, None) => Err(InvalidValue("name exactly one of certificate and container".into())),
    }
}
