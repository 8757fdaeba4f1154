//! Purchases, from the request to stored and acknowledged certificates.

use futures_util::future::BoxFuture;
use licet_schema::{
    Money, Output, Request,
    message::{CertificatePresented, Instruction, PurchaseRequest},
};
use serde::Serialize;
use uuid::Uuid;

use super::{
    Terminal, TerminalError, check, is_ending,
    records::{Certificate, Container, PendingRequest, Standing},
    store::StoreError,
};

/// A purchase whose certificates are stored and acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bought {
    /// The certificates, one for each item.
    pub certificates: Vec<Uuid>,
    /// The container, if there are several certificates.
    pub container: Option<Uuid>,
    /// The amount to pay.
    pub amount: Money,
    /// Whether the payment provider was instructed to charge the amount.
    pub settlement: Instruction,
}

impl Terminal {
    /// Buys certificates: sends the request, verifies the certificates, stores them, and
    /// acknowledges them. If an earlier run sent an equal request but did not complete the
    /// purchase, this call completes that purchase instead of starting another.
    ///
    /// # Errors
    /// The purchase is refused, no reply arrives, or a token in the reply is not valid.
    pub fn buy(&mut self, purchase: PurchaseRequest) -> BoxFuture<'_, Result<Bought, TerminalError>> {
        Box::pin(async move {
            let new = PendingRequest::new(None, &Request::PurchaseRequest(purchase.clone()))?;
            let equal = |pending: &PendingRequest| (&pending.kind, &pending.body) == (&new.kind, &new.body);
            let pending = match self.store.all()?.into_iter().find(equal) {
                Some(earlier) => earlier,
                None => {
                    self.store.put(&new)?;
                    new
                }
            };
            self.complete_purchase(&pending, &purchase).await
        })
    }

    /// Sends a stored purchase request, stores its certificates, and acknowledges them. The request
    /// is removed last, so this function runs again after a crash. Certificates that are already
    /// stored are not overwritten.
    pub(super) async fn complete_purchase(
        &mut self,
        pending: &PendingRequest,
        purchase: &PurchaseRequest,
    ) -> Result<Bought, TerminalError> {
        let reply = self.ask(pending).await?;
        let Output::CertificateIssued(issued) = reply else {
            return Err(TerminalError::unexpected(&pending.kind, &reply));
        };
        let (certificates, container) = check::purchase(purchase, &issued, &self.keyring)?;
        if let Some(container) = &container {
            self.store.put(container)?;
        }
        for certificate in &certificates {
            if self.store.get::<Certificate>(certificate.claims.jti)?.is_none() {
                self.store.put(certificate)?;
            }
        }
        let bought = match certificates.into_iter().next() {
            Some(first) => self.acknowledge(first).await,
            None => Err(TerminalError::Mismatch { what: "purchase" }),
        };
        let answered = bought.as_ref().err().is_none_or(|error| error.refusal().is_some());
        if answered {
            self.store.remove::<PendingRequest>(pending.subject)?;
        }
        bought
    }

    /// Acknowledges receipt of a certificate and all other certificates of its purchase. After a
    /// crash, this function runs again if a certificate is not marked as received yet, which
    /// repeats the acknowledgement.
    pub(super) async fn acknowledge(&mut self, certificate: Certificate) -> Result<Bought, TerminalError> {
        let members = self.same_purchase(&certificate)?;
        let container = match certificate.claims.container {
            Some(id) => self.store.get::<Container>(id)?,
            None => None,
        };
        let container_token = container.map(|container| container.container_token);
        let certificate_token = container_token.is_none().then_some(certificate.certificate_token);
        let receipt = Request::CertificateReceipt(CertificatePresented { certificate_token, container_token });
        let reply = self.send_receipt(&receipt).await;
        if let Some(code) = reply.as_ref().err().and_then(TerminalError::refusal).filter(|code| is_ending(*code)) {
            self.mark(&members, Standing::Ended(code))?;
        }
        match reply? {
            Output::CertificateAccepted(accepted) => {
                self.mark(&members, Standing::Received)?;
                Ok(Bought {
                    certificates: accepted.certificates,
                    container: accepted.container,
                    amount: accepted.amount,
                    settlement: accepted.settlement,
                })
            }
            other => Err(TerminalError::unexpected(receipt.kind(), &other)),
        }
    }

    /// One certificate of each purchase whose receipt is not acknowledged yet.
    pub(super) fn unacknowledged(&self) -> Result<Vec<Certificate>, StoreError> {
        let mut certificates = self.store.certificates()?;
        certificates.retain(|certificate| certificate.standing == Standing::Arrived);
        let mut seen = Vec::new();
        certificates.retain(|certificate| {
            let purchase = certificate.claims.container.unwrap_or(certificate.claims.jti);
            let first = !seen.contains(&purchase);
            seen.push(purchase);
            first
        });
        Ok(certificates)
    }

    fn same_purchase(&self, certificate: &Certificate) -> Result<Vec<Certificate>, StoreError> {
        let claims = &certificate.claims;
        let together = |one: &Certificate| {
            one.claims.jti == claims.jti || (claims.container.is_some() && one.claims.container == claims.container)
        };
        Ok(self.store.certificates()?.into_iter().filter(together).collect())
    }

    fn mark(&self, members: &[Certificate], standing: Standing) -> Result<(), StoreError> {
        let mut arrived = members.iter().filter(|one| one.standing == Standing::Arrived);
        arrived.try_for_each(|one| self.store.put(&Certificate { standing, ..one.clone() }))
    }
}
