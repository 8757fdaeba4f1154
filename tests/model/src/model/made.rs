//! What Licet made, as far as the model has to be told: ids and tokens.

use licet_schema::{Code, Output};
use uuid::Uuid;

/// A token that somebody presents.
#[derive(Clone, Debug)]
pub(in crate::histories) struct Token {
    pub(in crate::histories) stands: Stands,
    /// Why nobody accepts it: somebody altered it, or its key is not trusted.
    pub(in crate::histories) fault: Option<Code>,
}

/// What a token speaks of.
#[derive(Clone, Debug)]
pub(in crate::histories) enum Stands {
    Certificate { id: Uuid, generation: i64, container: Option<Uuid> },
    Container { id: Uuid, members: Vec<Uuid> },
    License { id: Uuid },
}

/// Ids and tokens of a reply. What the reply does not have is nil: then it is not the reply that
/// the model expects, and the comparison says so.
#[derive(Clone, Debug, Default)]
pub(super) struct Made {
    pub(super) certificates: Vec<(Uuid, String)>,
    pub(super) container: (Uuid, String),
    pub(super) license: (Uuid, String),
    pub(super) license_return: Uuid,
}

impl Made {
    pub(super) fn of(reply: Option<&Output>) -> Self {
        let mut made = Self::default();
        match reply {
            Some(Output::CertificateIssued(body)) => {
                let one = |one: &licet_schema::message::IssuedCertificate| {
                    (one.certificate, one.certificate_token.clone().unwrap_or_default())
                };
                made.certificates = body.certificates.iter().map(one).collect();
                made.container = (body.container.unwrap_or_default(), body.container_token.clone().unwrap_or_default());
            }
            Some(Output::CertificateReissued(body)) => {
                made.certificates = vec![(body.certificate, body.certificate_token.clone().unwrap_or_default())];
            }
            Some(Output::LicenseIssued(body)) => {
                made.license = (body.license, body.license_token.clone().unwrap_or_default());
            }
            Some(Output::ReturnOpened(body)) => made.license_return = body.license_return,
            Some(Output::LicenseReturned(body)) => {
                made.license_return = body.license_return;
                let upgrade = body.privilege.certificate.zip(body.privilege.certificate_token.clone());
                made.certificates = upgrade.into_iter().collect();
            }
            _ => {}
        }
        made
    }

    /// The certificate at this place of the reply.
    pub(super) fn certificate(&self, index: usize) -> (Uuid, String) {
        self.certificates.get(index).cloned().unwrap_or_default()
    }
}
