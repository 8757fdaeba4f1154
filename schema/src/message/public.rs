//! What everybody may hear of what Licet sends, and what tells two events of one cause apart.

use uuid::Uuid;

use super::{CertificateReissued, LicenseIssued, Output, SweepDue};

impl Output {
    /// The subject's id, which tells two events of one type and one cause apart.
    pub fn subject(&self) -> String {
        match self {
            Self::ContentRegistered(body) => format!("{}@{}", body.content, body.version),
            Self::CertificateIssued(body) => first(body.container, body.certificates.iter().map(|one| one.certificate)),
            Self::CertificateChecked(body) => first(body.container, body.certificates.iter().copied()),
            Self::CertificateAccepted(body) => first(body.container, body.certificates.iter().copied()),
            Self::SettlementRegistered(body) => first(body.container, body.certificate),
            Self::LicenseIssued(body) => body.license.to_string(),
            Self::LicenseGranted(body) => body.license.to_string(),
            Self::ReturnOpened(body) | Self::ReturnLapsed(body) => body.license_return.to_string(),
            Self::LicenseReturned(body) => body.license_return.to_string(),
            Self::RequestRefused(body) => body.code.to_string(),
            Self::SettlementInstructed(body) => first(body.container, body.certificate),
            Self::CertificateRetired(body) => body.certificate.to_string(),
            Self::PointsChanged(body) => body.user.to_string(),
            Self::ContentDeleted(body) => body.license.to_string(),
            Self::SettlementUnmatched(body) => format!("{}:{}", body.provider, body.settlement),
            Self::CertificateReissued(body) => body.certificate.to_string(),
            Self::PayoutRegistered(body) => body.license_return.to_string(),
            Self::HoldingsListed(body) => body.user.to_string(),
            Self::StatusListed(body) => first(None, body.certificates.iter().map(|one| one.certificate)),
            Self::LicenseRevoked(body) => body.license.to_string(),
            Self::PayoutInstructed(body) => body.license_return.to_string(),
            Self::SweepDue(SweepDue { kind, .. }) => kind.as_str().to_owned(),
        }
    }

    /// What everybody may hear of a reply: the reply without its tokens, since a bearer's proof
    /// goes only to its bearer. None for what is no event: queries, refusals and repeats.
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
            | Self::PointsChanged(_)
            | Self::ContentDeleted(_)
            | Self::SettlementUnmatched(_)
            | Self::PayoutRegistered(_)
            | Self::LicenseRevoked(_)
            | Self::PayoutInstructed(_) => Some(self.clone()),
        }
    }
}

fn first(container: Option<Uuid>, certificates: impl IntoIterator<Item = Uuid>) -> String {
    container.or_else(|| certificates.into_iter().next()).unwrap_or_default().to_string()
}
