//! The response to a message: its reply and its events.

use licet_schema::{Code, Output, Request};

/// The outputs that a message caused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) reply: Option<Output>,
    /// All events, including the public form of the reply.
    pub(crate) events: Vec<Output>,
}

impl Response {
    /// Removes the details that the specification does not determine: the text of a refusal, the
    /// order of events, and the order of certificates and privileges in a list.
    pub(crate) fn normalized(mut self) -> Self {
        for output in self.reply.iter_mut().chain(&mut self.events) {
            match output {
                Output::RequestRefused(body) => body.detail.clear(),
                Output::CertificateAccepted(body) => body.certificates.sort(),
                Output::HoldingsListed(body) => body.licenses.iter_mut().for_each(|one| one.returnable.sort()),
                _ => {}
            }
        }
        self.events.sort_by_cached_key(|event| (event.kind(), event.subject(), format!("{event:?}")));
        self
    }

    /// Whether this request leaves a row in the journal. Queries do not, and neither do sweeps that
    /// found nothing and requests whose token names a key that is not trusted.
    pub(crate) fn is_journaled(&self, request: &Request) -> bool {
        if matches!(&self.reply, Some(Output::RequestRefused(body)) if body.code == Code::UntrustedKey) {
            return false;
        }
        match request {
            Request::HoldingsQuery(_) | Request::StatusQuery(_) => false,
            Request::SweepDue(_) => !self.events.is_empty(),
            Request::ContentPut(_)
            | Request::PurchaseRequest(_)
            | Request::CertificateCheck(_)
            | Request::CertificateReceipt(_)
            | Request::CertificateReissue(_)
            | Request::SettlementCompletion(_)
            | Request::SettlementFailure(_)
            | Request::SettlementReversal(_)
            | Request::SettlementReinstatement(_)
            | Request::SettlementAssignment(_)
            | Request::PayoutCompletion(_)
            | Request::PayoutFailure(_)
            | Request::LicenseRequest(_)
            | Request::LicenseReceipt(_)
            | Request::LicenseReturn(_)
            | Request::LicenseDeletion(_) => true,
        }
    }
}
