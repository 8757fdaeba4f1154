//! The ids and tokens that Licet issues. The model cannot predict them.

use licet_schema::{Code, Output, message::IssuedCertificate};
use uuid::Uuid;

/// A token that a sender can present.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) subject: TokenSubject,
    /// The reason for which the token is refused: it was altered, or its key is not trusted.
    pub(crate) fault: Option<Code>,
}

/// The object that a token identifies.
#[derive(Clone, Debug)]
pub(crate) enum TokenSubject {
    Certificate { id: Uuid, generation: i64, container: Option<Uuid> },
    Container { id: Uuid, members: Vec<Uuid> },
    License { id: Uuid },
}

/// The ids and tokens in a reply. An id that the reply does not contain is nil. In that case the
/// reply differs from the predicted one, and the comparison fails.
#[derive(Clone, Debug, Default)]
pub(super) struct Issued {
    pub(super) certificates: Vec<(Uuid, String)>,
    pub(super) container: (Uuid, String),
    pub(super) license: (Uuid, String),
    pub(super) license_return: Uuid,
}

impl Issued {
    pub(super) fn of(reply: Option<&Output>) -> Self {
        let mut issued = Self::default();
        match reply {
            Some(Output::CertificateIssued(body)) => {
                let one =
                    |one: &IssuedCertificate| (one.certificate, one.certificate_token.clone().unwrap_or_default());
                issued.certificates = body.certificates.iter().map(one).collect();
                let token = body.container_token.clone().unwrap_or_default();
                issued.container = (body.container.unwrap_or_default(), token);
            }
            Some(Output::CertificateReissued(body)) => {
                issued.certificates = vec![(body.certificate, body.certificate_token.clone().unwrap_or_default())];
            }
            Some(Output::LicenseIssued(body)) => {
                issued.license = (body.license, body.license_token.clone().unwrap_or_default());
            }
            Some(Output::ReturnOpened(body)) => issued.license_return = body.license_return,
            Some(Output::LicenseReturned(body)) => {
                issued.license_return = body.license_return;
                let upgrade = body.privilege.certificate.zip(body.privilege.certificate_token.clone());
                issued.certificates = upgrade.into_iter().collect();
            }
            _ => {}
        }
        issued
    }

    /// The certificate at this position of the reply.
    pub(super) fn certificate(&self, index: usize) -> (Uuid, String) {
        self.certificates.get(index).cloned().unwrap_or_default()
    }
}
