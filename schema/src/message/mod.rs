//! The messages that Licet receives ([`Request`]) and sends ([`Output`]).
//!
//! Each submodule covers one subject. It contains the requests, replies and events about this
//! subject, and the checks of the requests. This module re-exports all submodules.
//!
//! The routing key of a message is its type, which is the string next to each variant of the two
//! enums. A field that is named by a noun alone (`certificate`, `license`) always contains an id. A
//! token is always in a field whose name ends in `_token`.
//!
//! This module defines only message bodies. The rules of the workers define the effect of a
//! message.

mod certificate;
mod content;
mod license;
mod points;
mod public;
mod purchase;
mod query;
mod refused;
mod returns;
mod settlement;
mod sweep;

pub use certificate::*;
pub use content::*;
pub use license::*;
pub use points::*;
pub use purchase::*;
pub use query::*;
pub use refused::*;
pub use returns::*;
pub use settlement::*;
pub use sweep::*;

use crate::{
    encoding::{self, DecodeError, EncodeError},
    vocabulary::InvalidValue,
};

/// Declares the message types of one direction.
///
/// Expands to an enum with `KINDS`, `kind`, `encode` and `decode`. It has one variant for each
/// message type, which contains the body.
macro_rules! messages {
    ($(#[$meta:meta])* pub enum $name:ident { $( $variant:ident($body:ty) = $kind:literal, )* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum $name { $( #[doc = concat!("`", $kind, "`")] $variant($body), )* }

        impl $name {
            /// All message types in this direction.
            pub const KINDS: &'static [&'static str] = &[$($kind,)*];

            /// The message type, which is also the routing key.
            pub fn kind(&self) -> &'static str {
                match self { $( Self::$variant(_) => $kind, )* }
            }

            /// Encodes the body as JSON.
            ///
            /// # Errors
            /// The body contains a time outside the years 0 to 9999.
            pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
                match self { $( Self::$variant(body) => encoding::encode(body), )* }
            }

            /// Decodes a JSON body of the message type `kind`.
            ///
            /// # Errors
            /// The type does not exist in this direction, or the body is not valid for this type.
            pub fn decode(kind: &str, body: &[u8]) -> Result<Self, DecodeError> {
                match kind {
                    $( $kind => encoding::decode(body).map(Self::$variant), )*
                    _ => Err(DecodeError::UnknownType { kind: kind.to_owned() }),
                }
            }
        }
    };
}

messages! {
    /// A message that Licet receives.
    pub enum Request {
        ContentPut(ContentPut) = "content.put",
        PurchaseRequest(PurchaseRequest) = "purchase.request",
        CertificateCheck(CertificatePresented) = "certificate.check",
        CertificateReceipt(CertificatePresented) = "certificate.receipt",
        SettlementCompletion(SettlementCompletion) = "settlement.completion",
        SettlementFailure(SettlementFailure) = "settlement.failure",
        SettlementReversal(SettlementReversal) = "settlement.reversal",
        SettlementReinstatement(SettlementReinstatement) = "settlement.reinstatement",
        SettlementAssignment(SettlementAssignment) = "settlement.assignment",
        PayoutCompletion(PayoutCompletion) = "payout.completion",
        PayoutFailure(PayoutFailure) = "payout.failure",
        LicenseRequest(LicenseRequest) = "license.request",
        LicenseReceipt(LicenseReceipt) = "license.receipt",
        LicenseReturn(LicenseReturn) = "license.return",
        LicenseDeletion(LicenseDeletion) = "license.deletion",
        CertificateReissue(CertificateReissue) = "certificate.reissue",
        HoldingsQuery(HoldingsQuery) = "holdings.query",
        StatusQuery(StatusQuery) = "status.query",
        SweepDue(SweepDue) = "sweep.due",
    }
}

messages! {
    /// A message that Licet sends: a reply, an event, or both.
    pub enum Output {
        ContentRegistered(ContentRegistered) = "content.registered",
        CertificateIssued(CertificateIssued) = "certificate.issued",
        CertificateChecked(CertificateChecked) = "certificate.checked",
        CertificateAccepted(CertificateAccepted) = "certificate.accepted",
        SettlementRegistered(SettlementRegistered) = "settlement.registered",
        LicenseIssued(LicenseIssued) = "license.issued",
        LicenseGranted(LicenseGranted) = "license.granted",
        ReturnOpened(ReturnOpened) = "return.opened",
        LicenseReturned(LicenseReturned) = "license.returned",
        CertificateReissued(CertificateReissued) = "certificate.reissued",
        PayoutRegistered(PayoutRegistered) = "payout.registered",
        HoldingsListed(HoldingsListed) = "holdings.listed",
        StatusListed(StatusListed) = "status.listed",
        RequestRefused(RequestRefused) = "request.refused",
        SettlementInstructed(SettlementInstructed) = "settlement.instructed",
        CertificateRetired(CertificateRetired) = "certificate.retired",
        CertificateRestored(CertificateRestored) = "certificate.restored",
        PointsChanged(PointsChanged) = "points.changed",
        ContentDeleted(ContentDeleted) = "content.deleted",
        SettlementUnmatched(SettlementUnmatched) = "settlement.unmatched",
        ReturnLapsed(ReturnOpened) = "return.lapsed",
        LicenseRevoked(LicenseRevoked) = "license.revoked",
        PayoutInstructed(PayoutInstructed) = "payout.instructed",
        SweepDue(SweepDue) = "sweep.due",
    }
}

impl Request {
    /// The message types that the table `[senders]` permits only by their full name. A provider with
    /// the entry `settlement.*` must not decide what unmatched money pays for.
    pub const FOR_OPERATORS: &[&str] = &["settlement.assignment"];

    /// Decodes a JSON body of the message type `kind` and checks it with [`Request::check`].
    ///
    /// # Errors
    /// The body cannot be decoded or is inconsistent.
    pub fn read(kind: &str, body: &[u8]) -> Result<Self, DecodeError> {
        let request = Self::decode(kind, body)?;
        request.check().map_err(|source| DecodeError::Inconsistent { source })?;
        Ok(request)
    }

    /// Checks the constraints that the types of individual fields cannot express.
    ///
    /// # Errors
    /// Fields contradict each other, or a list is too short or too long.
    pub fn check(&self) -> Result<(), InvalidValue> {
        match self {
            Self::ContentPut(body) => body.check(),
            Self::PurchaseRequest(body) => body.check(),
            Self::CertificateCheck(body) | Self::CertificateReceipt(body) => body.check(),
            Self::SettlementCompletion(body) => body.check(),
            Self::SettlementFailure(body) => body.check(),
            Self::SettlementReversal(body) => body.check(),
            Self::SettlementReinstatement(body) => body.check(),
            Self::SettlementAssignment(body) => body.check(),
            Self::PayoutCompletion(body) => body.check(),
            Self::PayoutFailure(body) => body.check(),
            Self::HoldingsQuery(body) => body.check(),
            Self::StatusQuery(body) => body.check(),
            Self::LicenseRequest(_)
            | Self::LicenseReceipt(_)
            | Self::LicenseReturn(_)
            | Self::LicenseDeletion(_)
            | Self::CertificateReissue(_)
            | Self::SweepDue(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
    const NIL: &str = "00000000-0000-0000-0000-000000000000";

    fn read(kind: &str, body: &Value) -> Result<Request, DecodeError> {
        Request::read(kind, body.to_string().as_bytes())
    }

    /// Returns `body` with the fields of `change`. The value `null` removes a field.
    fn with(body: &Value, change: Value) -> Value {
        let mut changed = body.clone();
        for (field, value) in change.as_object().expect("an object") {
            changed[field] = value.clone();
        }
        changed
    }

    /// Asserts that `body` is consistent, and that each of `changes` makes it inconsistent.
    fn only_consistent_as_it_is(kind: &str, body: &Value, changes: &[Value]) {
        assert!(read(kind, body).is_ok(), "{kind} {body}: {:?}", read(kind, body));
        for change in changes {
            let result = read(kind, &with(body, change.clone()));
            assert!(matches!(result, Err(DecodeError::Inconsistent { .. })), "{kind} with {change}: {result:?}");
        }
    }

    #[test]
    fn an_unknown_type_is_refused_as_malformed() {
        let error = read("purchase.requested", &json!({})).expect_err("no such type");
        assert_eq!(error.code(), crate::Code::Malformed);
        assert!(matches!(error, DecodeError::UnknownType { kind } if kind == "purchase.requested"));
    }

    #[test]
    fn the_fields_of_a_request_must_not_contradict_each_other() {
        let money = json!({"amount_minor": 1177, "currency": "USD"});
        let content = json!({
            "content": "song", "version": 1, "title": "A song", "price": money, "grants": 3,
            "certificate_ttl_s": 86400, "successor": {"content": "song", "version": 2},
            "return_policy": {"upgrade": true},
            "media": {"uri": "file:///song.flac", "sha256": "aB".repeat(32), "bytes": 12}
        });
        only_consistent_as_it_is(
            "content.put",
            &content,
            &[
                json!({"return_policy": {"points": 1178}}),
                json!({"return_policy": {"buyback": {"amount_minor": 1178, "currency": "USD"}}}),
                json!({"return_policy": {"buyback": {"amount_minor": 1177, "currency": "EUR"}}}),
                json!({"price": {"amount_minor": 0, "currency": "USD"}, "return_policy": {"points": 1}}),
                json!({"successor": null}),
                json!({"successor": {"content": "song", "version": 1}}),
                json!({"media": {"uri": "a", "sha256": "ab".repeat(31), "bytes": 1}}),
                json!({"media": {"uri": "a", "sha256": "g".repeat(64), "bytes": 1}}),
            ],
        );
        let everything = json!({"points": 1177, "buyback": money});
        only_consistent_as_it_is("content.put", &with(&content, json!({"return_policy": everything})), &[]);
        let items = |count| vec![json!({"content": "song"}); count];
        for count in [1, ITEMS_MAX] {
            only_consistent_as_it_is(
                "purchase.request",
                &json!({"user": "alice", "items": items(count)}),
                &[json!({"items": []}), json!({"items": items(ITEMS_MAX + 1)})],
            );
        }
        for kind in ["certificate.check", "certificate.receipt"] {
            let body = json!({"certificate_token": "a.b.c"});
            only_consistent_as_it_is(
                kind,
                &body,
                &[json!({"certificate_token": null}), json!({"container_token": "a"})],
            );
        }
        let setback = json!({"certificate": ID, "settlement": "pay-1", "provider": "bank", "reason": "declined"});
        let completion = json!({"certificate": ID, "settlement": "pay-1", "provider": "bank", "amount": money});
        let purchases = [json!({"certificate": null}), json!({"container": ID}), json!({"certificate": NIL})];
        only_consistent_as_it_is("settlement.completion", &completion, &purchases);
        only_consistent_as_it_is("settlement.failure", &setback, &purchases);
        only_consistent_as_it_is("settlement.reversal", &setback, &purchases);
        let refund = with(&setback, json!({"amount": money, "refund": "re-1"}));
        only_consistent_as_it_is("settlement.reversal", &refund, &purchases);
        let reinstatement = with(&setback, json!({"refund": "re-1"}));
        only_consistent_as_it_is("settlement.reinstatement", &reinstatement, &purchases);
        let assignment = json!({"certificate": ID, "settlement": "pay-1", "provider": "bank"});
        only_consistent_as_it_is("settlement.assignment", &assignment, &purchases);
        only_consistent_as_it_is("settlement.assignment", &with(&assignment, json!({"amount": money})), &purchases);
        let payout = json!({"license_return": ID, "payout": "out-1", "provider": "bank", "amount": money});
        let providers = ["Bank", "my bank", "-bank", "b\u{e4}nk"].map(|name| json!({"provider": name}));
        only_consistent_as_it_is("settlement.completion", &completion, &providers);
        only_consistent_as_it_is("settlement.failure", &setback, &providers);
        only_consistent_as_it_is("settlement.reversal", &setback, &providers);
        only_consistent_as_it_is("settlement.reinstatement", &setback, &providers);
        only_consistent_as_it_is("settlement.assignment", &assignment, &providers);
        only_consistent_as_it_is("payout.completion", &payout, &providers);
        let failure = json!({"license_return": ID, "payout": "out-1", "provider": "bank", "reason": "closed"});
        only_consistent_as_it_is("payout.failure", &failure, &providers);
        let limits = [json!({"limit": 0}), json!({"limit": PAGE_MAX + 1})];
        only_consistent_as_it_is("holdings.query", &json!({"user": "alice"}), &limits);
        only_consistent_as_it_is("holdings.query", &json!({"user": "alice", "limit": PAGE_MAX}), &limits);
        for field in ["certificate", "container", "license", "license_return", "reference", "settlement"] {
            let other = if field == "reference" { "settlement" } else { "reference" };
            only_consistent_as_it_is("status.query", &json!({field: ID}), &[json!({field: null}), json!({other: "x"})]);
        }
    }
}
