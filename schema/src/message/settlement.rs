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

    /// `settlement.failure` and `settlement.reversal`: the payment failed, or was refunded or
    /// charged back. The body names exactly one of `certificate` and `container`.
    pub struct SettlementSetback {
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
        /// The amount of the reversed payment. Required if the provider reported several amounts
        /// under this settlement id. A failure has no amount.
        pub amount: Option<Money>,
    }

    /// `settlement.registered`: reply and event. A settlement message was recorded. The body names
    /// exactly one of `certificate` and `container`.
    pub struct SettlementRegistered {
        /// The certificate, if it was bought without a container.
        pub certificate: Option<Uuid>,
        /// The container, if several certificates were bought together.
        pub container: Option<Uuid>,
        /// The provider's id of the settlement.
        pub settlement: ExternalId,
        /// The outcome that was recorded.
        pub outcome: SettlementOutcome,
        /// The number of licenses that each certificate grants.
        pub grants: Option<Grants>,
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

    /// `settlement.unmatched`: event. A payment matches no purchase. Licet keeps a record of the
    /// payment until an operator assigns or refunds it.
    pub struct SettlementUnmatched {
        /// The provider's id of the settlement.
        pub settlement: ExternalId,
        /// The payment provider.
        pub provider: Name,
        /// The certificate that the settlement message named.
        pub certificate: Option<Uuid>,
        /// The container that the settlement message named.
        pub container: Option<Uuid>,
        /// The amount paid.
        pub amount: Option<Money>,
        /// The reason the payment matches no purchase.
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

    /// `payout.registered`: reply and event. A payout was recorded.
    pub struct PayoutRegistered {
        /// The return that the payout belongs to.
        pub license_return: Uuid,
        /// The provider's id of the payout.
        pub payout: ExternalId,
        /// Whether the payout had already been recorded.
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
    /// The outcome of a settlement.
    pub enum SettlementOutcome {
        /// The payment was received.
        Completed = "completed",
        /// The payment failed.
        Failed = "failed",
        /// The payment was refunded or charged back.
        Reversed = "reversed",
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

impl SettlementSetback {
    /// Checks the body of a `settlement.failure`.
    ///
    /// # Errors
    /// The provider is not a [`Provider`], or the body has an amount, or does not name exactly one
    /// purchase.
    pub fn check_failure(&self) -> Result<(), InvalidValue> {
        check_provider(&self.provider)?;
        if self.amount.is_some() {
            return Err(InvalidValue("omit amount in settlement.failure: nothing was paid".into()));
        }
        check_one_purchase(self.certificate, self.container)
    }

    /// Checks the body of a `settlement.reversal`.
    ///
    /// # Errors
    /// The provider is not a [`Provider`], or the body does not name exactly one purchase.
    pub fn check_reversal(&self) -> Result<(), InvalidValue> {
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
