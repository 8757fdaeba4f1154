//! From a purchase to certificates that are held and acknowledged.

use licet_schema::{
    Money, Output, Request,
    message::{CertificatePresented, Instruction, PurchaseRequest},
};
use serde::Serialize;
use uuid::Uuid;

use super::{
    Terminal, TerminalError, check, is_ending,
    records::{Asked, Certificate, Container, Standing},
    store::StoreError,
};

/// A purchase whose certificates are held here and acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bought {
    /// The certificates, one for each item.
    pub certificates: Vec<Uuid>,
    /// Their container, if there are several.
    pub container: Option<Uuid>,
    /// What is charged.
    pub amount: Money,
    /// Whether the payment provider was told to charge it.
    pub settlement: Instruction,
}

impl Terminal {
    /// Buys: asks, verifies what comes, keeps it, and then acknowledges it. If an earlier run asked
    /// for just this and did not see the answer, that purchase is completed and no other made.
    ///
    /// # Errors
    /// It is refused, or there is no answer, or what comes does not verify.
    pub async fn buy(&mut self, purchase: PurchaseRequest) -> Result<Bought, TerminalError> {
        let fresh = Asked::new(None, &Request::PurchaseRequest(purchase.clone()))?;
        let same = |asked: &Asked| (&asked.kind, &asked.body) == (&fresh.kind, &fresh.body);
        let asked = match self.store.all()?.into_iter().find(same) {
            Some(earlier) => earlier,
            None => {
                self.store.put(&fresh)?;
                fresh
            }
        };
        self.complete_purchase(&asked, &purchase).await
    }

    /// Asks for a purchase that is written down, keeps what comes, and acknowledges it. The request
    /// is taken off last, so that whoever buys the same again before that completes this purchase.
    /// A crash before leads here again: what is kept stays as it stands.
    pub(super) async fn complete_purchase(
        &mut self,
        asked: &Asked,
        purchase: &PurchaseRequest,
    ) -> Result<Bought, TerminalError> {
        let answer = self.ask(asked).await?;
        let Output::CertificateIssued(issued) = answer else {
            return Err(TerminalError::unexpected(&asked.kind, &answer));
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
            self.store.remove::<Asked>(asked.about)?;
        }
        bought
    }

    /// Tells that a certificate, and all that came with it, is held here. A crash afterwards leads
    /// here again for those that are not marked yet: the notice is then a repeated one.
    pub(super) async fn acknowledge(&mut self, certificate: Certificate) -> Result<Bought, TerminalError> {
        let members = self.came_with(&certificate)?;
        let container = match certificate.claims.container {
            Some(id) => self.store.get::<Container>(id)?,
            None => None,
        };
        let container_token = container.map(|container| container.container_token);
        let certificate_token = container_token.is_none().then_some(certificate.certificate_token);
        let notice = Request::CertificateReceipt(CertificatePresented { certificate_token, container_token });
        let answer = self.tell(&notice).await;
        if let Some(code) = answer.as_ref().err().and_then(TerminalError::refusal).filter(|code| is_ending(*code)) {
            self.mark(&members, Standing::Ended(code))?;
        }
        match answer? {
            Output::CertificateAccepted(accepted) => {
                self.mark(&members, Standing::Received)?;
                Ok(Bought {
                    certificates: accepted.certificates,
                    container: accepted.container,
                    amount: accepted.amount,
                    settlement: accepted.settlement,
                })
            }
            other => Err(TerminalError::unexpected(notice.kind(), &other)),
        }
    }

    /// One certificate of each purchase whose reception is still to be acknowledged.
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

    fn came_with(&self, certificate: &Certificate) -> Result<Vec<Certificate>, StoreError> {
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
