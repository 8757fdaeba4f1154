//! The public form of an output, and the subject that distinguishes events of the same request.

use uuid::Uuid;

use super::{CertificateReissued, LicenseIssued, Output, SweepDue};
use crate::Money;

impl Output {
    /// The id of the object that the output is about. `None` if there is no such object, as in an
    /// empty `status.listed`.
    ///
    /// If a request causes several events of the same type, each has a different subject. The
    /// message id of an event is derived from its subject.
    pub fn subject(&self) -> Option<String> {
        let subject = match self {
            Self::ContentRegistered(body) => format!("{}@{}", body.content, body.version),
            Self::CertificateIssued(body) => {
                return first(body.container, body.certificates.iter().map(|one| one.certificate));
            }
            Self::CertificateChecked(body) => return first(body.container, body.certificates.iter().copied()),
            Self::CertificateAccepted(body) => return first(body.container, body.certificates.iter().copied()),
            Self::SettlementRegistered(body) => return first(body.container, body.certificate),
            Self::LicenseIssued(body) => body.license.to_string(),
            Self::LicenseGranted(body) => body.license.to_string(),
            Self::ReturnOpened(body) | Self::ReturnLapsed(body) => body.license_return.to_string(),
            Self::LicenseReturned(body) => body.license_return.to_string(),
            Self::RequestRefused(body) => body.code.to_string(),
            Self::SettlementInstructed(body) => return first(body.container, body.certificate),
            Self::CertificateRetired(body) => body.certificate.to_string(),
            Self::CertificateRestored(body) => body.certificate.to_string(),
            Self::PointsChanged(body) => body.user.to_string(),
            Self::ContentDeleted(body) => body.license.to_string(),
            Self::SettlementUnmatched(body) => {
                let mut subject = format!("{}:{}", body.provider, body.settlement);
                subject.extend(body.refund.iter().map(|refund| format!(":{refund}")));
                // If several refunds are undone at once, several amounts of one settlement are announced.
                let amount = |amount: &Money| format!(":{}:{}", amount.amount_minor, amount.currency);
                subject.extend(body.amount.iter().map(amount));
                subject
            }
            Self::CertificateReissued(body) => body.certificate.to_string(),
            Self::PayoutRegistered(body) => body.license_return.to_string(),
            Self::HoldingsListed(body) => body.user.to_string(),
            Self::StatusListed(body) => return first(None, body.certificates.iter().map(|one| one.certificate)),
            Self::LicenseRevoked(body) => body.license.to_string(),
            Self::PayoutInstructed(body) => body.license_return.to_string(),
            Self::SweepDue(SweepDue { kind, .. }) => kind.as_str().to_owned(),
        };
        Some(subject)
    }

    /// The form of the output that is published as an event. It contains no tokens, because anyone
    /// who has a token can use it. `None` if the output is not published as an event. This applies
    /// to replies to queries and checks, refusals, repeated effects and sweep messages.
    pub fn public(&self) -> Option<Self> {
        match self {
            Self::CertificateChecked(_)
            | Self::RequestRefused(_)
            | Self::HoldingsListed(_)
            | Self::StatusListed(_)
            | Self::SweepDue(_) => None,
            Self::PayoutRegistered(body) if body.repeated => None,
            Self::CertificateAccepted(body) if body.repeated => None,
            Self::SettlementRegistered(body) if body.repeated => None,
            Self::LicenseGranted(body) if body.repeated => None,
            Self::LicenseReturned(body) if body.repeated => None,
            Self::CertificateIssued(body) => {
                let mut body = body.clone();
                body.container_token = None;
                body.certificates.iter_mut().for_each(|one| one.certificate_token = None);
                Some(Self::CertificateIssued(body))
            }
            Self::LicenseIssued(body) => {
                Some(Self::LicenseIssued(LicenseIssued { license_token: None, ..body.clone() }))
            }
            Self::LicenseReturned(body) => {
                let mut body = body.clone();
                body.privilege.certificate_token = None;
                Some(Self::LicenseReturned(body))
            }
            Self::CertificateReissued(body) => {
                Some(Self::CertificateReissued(CertificateReissued { certificate_token: None, ..body.clone() }))
            }
            Self::ContentRegistered(_)
            | Self::CertificateAccepted(_)
            | Self::SettlementRegistered(_)
            | Self::LicenseGranted(_)
            | Self::ReturnOpened(_)
            | Self::ReturnLapsed(_)
            | Self::SettlementInstructed(_)
            | Self::CertificateRetired(_)
            | Self::CertificateRestored(_)
            | Self::PointsChanged(_)
            | Self::ContentDeleted(_)
            | Self::SettlementUnmatched(_)
            | Self::PayoutRegistered(_)
            | Self::LicenseRevoked(_)
            | Self::PayoutInstructed(_) => Some(self.clone()),
        }
    }
}

/// The id of the container, or the id of the first certificate if there is no container.
fn first(container: Option<Uuid>, certificates: impl IntoIterator<Item = Uuid>) -> Option<String> {
    container.or_else(|| certificates.into_iter().next()).map(|id| id.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{CertificateIssued, IssuedCertificate, StatusListed};

    #[test]
    fn an_output_about_no_object_has_no_subject() {
        assert_eq!(Output::StatusListed(StatusListed { certificates: Vec::new(), license: None }).subject(), None);
    }

    #[test]
    fn the_subject_of_a_purchase_is_its_container_or_its_only_certificate() {
        let (container, certificate) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(first(Some(container), [certificate]), Some(container.to_string()));
        assert_eq!(first(None, [certificate]), Some(certificate.to_string()));
        assert_eq!(first(None, []), None);
    }

    #[test]
    fn unmatched_amounts_of_one_settlement_have_different_subjects() {
        let subject = |refund: &str, amount: &str| {
            let body = format!(
                r#"{{"kind": "payment", "settlement": "pay-1", "provider": "bank", {refund}"reason": "reversed",
                "certificate": "01890a5d-ac96-774b-bcce-b302099a8057", "amount": {amount}}}"#
            );
            Output::decode("settlement.unmatched", body.as_bytes()).expect("a body").subject().expect("a subject")
        };
        let subjects = std::collections::BTreeSet::from([
            subject("", r#"{"amount_minor": 900, "currency": "USD"}"#),
            subject("", r#"{"amount_minor": 901, "currency": "USD"}"#),
            subject("", r#"{"amount_minor": 900, "currency": "EUR"}"#),
            subject(r#""refund": "re-1", "#, r#"{"amount_minor": 900, "currency": "USD"}"#),
            subject(r#""refund": "re-2", "#, r#"{"amount_minor": 900, "currency": "USD"}"#),
        ]);
        assert_eq!(subjects.len(), 5, "{subjects:?}");
    }

    #[test]
    fn the_public_form_of_a_purchase_has_no_tokens() {
        let body = br#"{
            "certificates": [{"certificate": "01890a5d-ac96-774b-bcce-b302099a8057", "certificate_token": "a.b.c"}],
            "container": "01890a5d-ac96-774b-bcce-b302099a8058", "container_token": "d.e.f",
            "amount": {"amount_minor": 1177, "currency": "USD"}, "points_held": 0,
            "receipt_due_at": "2026-11-22T10:00:00Z", "expires_at": "2026-11-23T10:00:00Z"
        }"#;
        let public = Output::decode("certificate.issued", body).expect("a body").public();
        let Some(Output::CertificateIssued(CertificateIssued { certificates, container_token: None, .. })) = public
        else {
            panic!("{public:?} should have no token of the container");
        };
        assert!(matches!(&certificates[..], [IssuedCertificate { certificate_token: None, .. }]));
    }
}
