//! The rare cases of the demo, which few of the real purchases include: all four privileges, a
//! payment with points, a reissue, a reversal, a partial refund, a won dispute, a lapse and an
//! expiry. The last two move the clock ahead.

use std::time::Duration;

use licet_client::{
    Client, Events, Keyring, Transport,
    schema::{
        Count, ExternalId, InvalidValue, Money, Name, Output, Request, Seconds, Text, Version,
        message::{
            CertificatePresented, CertificateReissue, CertificateReissued, CertificateRetired, ContentPut,
            ContentVersion, Ending, Item, LicenseDeletion, LicenseReceipt, LicenseRequest, LicenseReturn,
            LicenseReturned, Privilege, PrivilegeGranted, PurchaseRequest, ReturnPolicy, SettlementRegistered,
            SettlementReinstatement, SettlementReversal,
        },
        money::Currency,
        vocabulary::Grants,
    },
    verify,
};
use licet_common::clock::Clock;
use uuid::Uuid;

use crate::driver::{DriveError, license_token_of, purchase_of, unexpected};

/// The timeout for an event. After it, the demo fails.
const EVENT_TIMEOUT: Duration = Duration::from_secs(60);
const HOUR_MS: i64 = 3_600_000;
/// The lifetime of a certificate: 30 days.
const TTL_S: i64 = 30 * 86_400;
const ALBUM: &str = "album";
const PRICE_MINOR: i64 = 1500;
const POINTS: i64 = 150;

/// The result of a scene.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Scene {
    /// The name of the scene, in one or two words.
    pub(crate) name: &'static str,
    /// A sentence that describes the scene.
    pub(crate) shown: String,
    /// The purchase whose history shows the scene.
    pub(crate) purchase: Uuid,
}

/// Runs the scenes one after the other.
pub(crate) struct Scenes {
    client: Client,
    events: Events,
    received: Vec<Output>,
    keyring: Keyring,
    clock: Clock,
}

/// A purchase of a scene.
struct Bought {
    user: Name,
    purchase: Uuid,
    container: Option<String>,
    tokens: Vec<String>,
    certificates: Vec<Uuid>,
}

impl Bought {
    fn token(&self, index: usize) -> Result<&str, DriveError> {
        self.tokens.get(index).map(String::as_str).ok_or(missing("certificate_token"))
    }

    fn certificate(&self, index: usize) -> Result<Uuid, DriveError> {
        self.certificates.get(index).copied().ok_or(missing("certificate"))
    }
}

impl Scenes {
    /// Subscribes to all events and prepares the scenes.
    pub(crate) async fn new(
        transport: &Transport,
        client: Client,
        keyring: Keyring,
        clock: Clock,
    ) -> Result<Self, DriveError> {
        let events = Events::subscribe(transport, &["#"]).await?;
        Ok(Self { client, events, received: Vec::new(), keyring, clock })
    }

    /// Plays all scenes.
    pub(crate) async fn play(mut self) -> Result<Vec<Scene>, DriveError> {
        self.put(2, None).await?;
        self.put(1, Some(ContentVersion { content: Name::try_from(ALBUM)?, version: version(2)? })).await?;
        Ok(vec![
            self.four_privileges().await?,
            self.points_spent().await?,
            self.reissue().await?,
            self.reversal().await?,
            self.partial_refund().await?,
            self.won_dispute().await?,
            self.lapse().await?,
            self.expiry().await?,
        ])
    }

    async fn four_privileges(&mut self) -> Result<Scene, DriveError> {
        let bought = self.paid("ada", 4, 0).await?;
        let mut granted: Vec<PrivilegeGranted> = Vec::new();
        let privileges = [Privilege::Points, Privilege::Upgrade, Privilege::Buyback, Privilege::Collection];
        for (index, privilege) in privileges.into_iter().enumerate() {
            let license = self.licensed(bought.token(index)?).await?;
            let deleted = privilege == Privilege::Points;
            granted.push(self.give_back(&bought.user, license, privilege, deleted).await?.privilege);
        }
        self.wait_for("payout.registered", |event| matches!(event, Output::PayoutRegistered(_))).await?;
        let incomplete = |missing| DriveError::Incomplete { reply: "license.returned", missing };
        let upgrade = granted.iter().find_map(|privilege| privilege.certificate_token.as_deref());
        self.licensed(upgrade.ok_or(incomplete("certificate_token"))?).await?;
        let points = granted.iter().find_map(|privilege| privilege.points).ok_or(incomplete("points"))?;
        let amount = granted.iter().find_map(|privilege| privilege.amount).ok_or(incomplete("amount"))?;
        let shown = format!(
            "ada bought four albums and returned them for {points} points, an upgrade to version 2, {amount} and a \
             collection record"
        );
        Ok(Scene { name: "returns", shown, purchase: bought.purchase })
    }

    async fn points_spent(&mut self) -> Result<Scene, DriveError> {
        let bought = self.paid("ada", 1, POINTS).await?;
        self.licensed(bought.token(0)?).await?;
        let shown =
            format!("ada bought an album for {} and paid part of the price with {POINTS} points", usd(PRICE_MINOR)?);
        Ok(Scene { name: "points", shown, purchase: bought.purchase })
    }

    async fn reissue(&mut self) -> Result<Scene, DriveError> {
        let bought = self.paid("grace", 1, 0).await?;
        self.licensed(bought.token(0)?).await?;
        let reissue = Request::CertificateReissue(CertificateReissue {
            certificate: bought.certificate(0)?,
            reason: Text::try_from("the terminal was lost")?,
            granted: Some(Count::ZERO),
        });
        let reply = self.client.ask(&reissue).await?;
        let Output::CertificateReissued(CertificateReissued { certificate_token: Some(token), .. }) = reply else {
            return Err(unexpected("certificate.reissue", &reply));
        };
        let old = self.client.ask(&license_request(bought.token(0)?)?).await?;
        let Output::RequestRefused(refused) = old else { return Err(unexpected("license.request", &old)) };
        self.licensed(&token).await?;
        let shown = format!(
            "grace lost a terminal with its license; the certificate was reissued and permitted a license again; its \
             old token was refused as {}",
            refused.code
        );
        Ok(Scene { name: "reissue", shown, purchase: bought.purchase })
    }

    async fn reversal(&mut self) -> Result<Scene, DriveError> {
        let bought = self.paid("edsger", 2, 0).await?;
        let returned = self.licensed(bought.token(0)?).await?;
        self.give_back(&bought.user, returned, Privilege::Points, true).await?;
        self.licensed(bought.token(1)?).await?;
        let spent = self.paid("edsger", 1, POINTS).await?;
        self.licensed(spent.token(0)?).await?;
        self.refund(&bought, "chargeback", None).await?;
        self.wait_for("license.revoked", |event| matches!(event, Output::LicenseRevoked(_))).await?;
        let shown = format!(
            "edsger had a payment charged back; the license was revoked, and the {POINTS} points that edsger had \
             received for another and spent became a debt"
        );
        Ok(Scene { name: "reversal", shown, purchase: bought.purchase })
    }

    async fn partial_refund(&mut self) -> Result<Scene, DriveError> {
        let bought = self.paid("frances", 2, 0).await?;
        self.licensed(bought.token(0)?).await?;
        let part = Money::new(300, Currency::try_from("USD")?)?;
        let part = self.refund(&bought, "goodwill", Some(part)).await?;
        let member =
            SettlementReversal { certificate: Some(bought.certificate(0)?), container: None, ..reversal(&bought)? };
        let all = self.refunded(SettlementReversal { refund: Some(ExternalId::try_from("member")?), ..member }).await?;
        self.licensed(bought.token(1)?).await?;
        let shown = format!(
            "frances was refunded {part} of a payment for two albums and kept both; then one album was refunded too and \
             revoked alone: {all} in all"
        );
        Ok(Scene { name: "partial refund", shown, purchase: bought.purchase })
    }

    async fn won_dispute(&mut self) -> Result<Scene, DriveError> {
        let bought = self.paid("katherine", 1, 0).await?;
        self.licensed(bought.token(0)?).await?;
        self.refund(&bought, "dispute", None).await?;
        let SettlementReversal { certificate, container, settlement, provider, .. } = reversal(&bought)?;
        let (refund, reason) = (Some(ExternalId::try_from("dispute")?), Text::try_from("the dispute was won")?);
        let won = SettlementReinstatement { certificate, container, settlement, provider, refund, reason };
        let reply = self.client.ask(&Request::SettlementReinstatement(won)).await?;
        let Output::SettlementRegistered(_) = reply else { return Err(unexpected("settlement.reinstatement", &reply)) };
        let reason = Text::try_from("the dispute was won")?;
        let reissue = CertificateReissue { certificate: bought.certificate(0)?, reason, granted: None };
        let reply = self.client.ask(&Request::CertificateReissue(reissue)).await?;
        let Output::CertificateReissued(CertificateReissued { certificate_token: Some(token), .. }) = reply else {
            return Err(unexpected("certificate.reissue", &reply));
        };
        self.licensed(&token).await?;
        let shown = "katherine's bank took a payment back, and the license was revoked; the dispute was won, and a \
                     reissue brought the certificate back with all its licenses"
            .to_owned();
        Ok(Scene { name: "won dispute", shown, purchase: bought.purchase })
    }

    /// Reports a refund of a purchase. Returns the sum of its refunds.
    async fn refund(&self, bought: &Bought, id: &str, amount: Option<Money>) -> Result<Money, DriveError> {
        self.refunded(SettlementReversal { refund: Some(ExternalId::try_from(id)?), amount, ..reversal(bought)? }).await
    }

    async fn refunded(&self, refund: SettlementReversal) -> Result<Money, DriveError> {
        let reply = self.client.ask(&Request::SettlementReversal(refund)).await?;
        match reply {
            Output::SettlementRegistered(SettlementRegistered { refunded: Some(sum), .. }) => Ok(sum),
            _ => Err(unexpected("settlement.reversal", &reply)),
        }
    }

    async fn lapse(&mut self) -> Result<Scene, DriveError> {
        let bought = self.buy("tony", 2, 0).await?;
        self.clock.advance_ms(25 * HOUR_MS);
        self.ended(bought.certificate(1)?, Ending::Lapsed).await?;
        let shown = "tony's terminal never acknowledged two certificates; they ended after a day".to_owned();
        Ok(Scene { name: "lapse", shown, purchase: bought.purchase })
    }

    async fn expiry(&mut self) -> Result<Scene, DriveError> {
        let bought = self.paid("barbara", 1, 0).await?;
        self.clock.advance_ms(TTL_S * 1000 + HOUR_MS);
        self.ended(bought.certificate(0)?, Ending::Expired).await?;
        let shown = "barbara paid for a certificate and never used it; it expired after 30 days".to_owned();
        Ok(Scene { name: "expiry", shown, purchase: bought.purchase })
    }

    /// Registers a version of the album.
    async fn put(&self, number: i64, successor: Option<ContentVersion>) -> Result<(), DriveError> {
        let content = Request::ContentPut(ContentPut {
            content: Name::try_from(ALBUM)?,
            version: version(number)?,
            title: Text::try_from("An album")?,
            price: usd(PRICE_MINOR)?,
            grants: Grants::try_from(1i64)?,
            certificate_ttl_s: Seconds::try_from(TTL_S)?,
            receipt_ttl_s: Some(Seconds::try_from(86_400i64)?),
            return_policy: ReturnPolicy {
                points: Some(Count::try_from(POINTS)?),
                upgrade: Some(successor.is_some()),
                buyback: Some(usd(PRICE_MINOR / 2)?),
                collection: Some(true),
            },
            successor,
            media: None,
        });
        match self.client.ask(&content).await? {
            Output::ContentRegistered(_) => Ok(()),
            other => Err(unexpected("content.put", &other)),
        }
    }

    async fn buy(&self, user: &str, count: usize, points: i64) -> Result<Bought, DriveError> {
        let user = Name::try_from(user)?;
        let request = Request::PurchaseRequest(PurchaseRequest {
            user: user.clone(),
            items: vec![Item { content: Name::try_from(ALBUM)?, version: Some(version(1)?) }; count],
            points: (points > 0).then(|| Count::try_from(points)).transpose()?,
            reference: None,
        });
        let reply = self.client.ask(&request).await?;
        let Output::CertificateIssued(issued) = reply else { return Err(unexpected("purchase.request", &reply)) };
        let purchase = purchase_of(&issued)?;
        let certificates: Vec<_> = issued.certificates.iter().map(|one| one.certificate).collect();
        let tokens: Vec<_> = issued.certificates.into_iter().filter_map(|one| one.certificate_token).collect();
        tokens.iter().try_for_each(|token| self.verify("certificate", token))?;
        Ok(Bought { user, purchase, container: issued.container_token, tokens, certificates })
    }

    /// Buys albums, acknowledges their receipt, and waits for the payment.
    async fn paid(&mut self, user: &str, count: usize, points: i64) -> Result<Bought, DriveError> {
        let bought = self.buy(user, count, points).await?;
        let alone = bought.container.is_none();
        let receipt = Request::CertificateReceipt(CertificatePresented {
            certificate_token: bought.tokens.first().filter(|_| alone).cloned(),
            container_token: bought.container.clone(),
        });
        let reply = self.client.ask(&receipt).await?;
        let Output::CertificateAccepted(_) = reply else { return Err(unexpected("certificate.receipt", &reply)) };
        let purchase = bought.purchase;
        let is_paid = move |event: &Output| match event {
            Output::SettlementRegistered(body) => body.container.or(body.certificate) == Some(purchase),
            _ => false,
        };
        self.wait_for("settlement.registered", is_paid).await?;
        Ok(bought)
    }

    /// Requests a license with this certificate, and acknowledges its receipt. Returns its token.
    async fn licensed(&self, certificate: &str) -> Result<String, DriveError> {
        let reply = self.client.ask(&license_request(certificate)?).await?;
        let Output::LicenseIssued(issued) = reply else { return Err(unexpected("license.request", &reply)) };
        let license = license_token_of(issued)?;
        self.verify("license", &license)?;
        let receipt = Request::LicenseReceipt(LicenseReceipt { license_token: license.clone() });
        match self.client.ask(&receipt).await? {
            Output::LicenseGranted(_) => Ok(license),
            other => Err(unexpected("license.receipt", &other)),
        }
    }

    /// Returns a license, in one step if the copy is already deleted, otherwise in two steps.
    async fn give_back(
        &self,
        user: &Name,
        license_token: String,
        privilege: Privilege,
        deleted: bool,
    ) -> Result<LicenseReturned, DriveError> {
        let request = LicenseReturn { license_token, user: user.clone(), privilege, deleted };
        let mut reply = self.client.ask(&Request::LicenseReturn(request)).await?;
        if let Output::ReturnOpened(opened) = &reply {
            let deletion = LicenseDeletion { license_return: opened.license_return };
            reply = self.client.ask(&Request::LicenseDeletion(deletion)).await?;
        }
        match reply {
            Output::LicenseReturned(returned) => Ok(returned),
            other => Err(unexpected("license.return", &other)),
        }
    }

    /// Waits until a sweep has ended a certificate.
    async fn ended(&mut self, id: Uuid, ending: Ending) -> Result<(), DriveError> {
        let is_ended = move |event: &Output| match event {
            Output::CertificateRetired(CertificateRetired { certificate, reason }) => {
                (*certificate, *reason) == (id, ending)
            }
            _ => false,
        };
        self.wait_for("certificate.retired", is_ended).await
    }

    /// Waits for an event. An event that was received before counts too.
    async fn wait_for(&mut self, awaited: &'static str, is_it: impl Fn(&Output) -> bool) -> Result<(), DriveError> {
        let waiting = async {
            while !self.received.iter().any(&is_it) {
                let event = self.events.next().await?;
                self.received.push(event);
            }
            Ok(())
        };
        match tokio::time::timeout(EVENT_TIMEOUT, waiting).await {
            Ok(received) => received,
            Err(_) => Err(DriveError::NoEvent { awaited, timeout: EVENT_TIMEOUT }),
        }
    }

    fn verify(&self, kind: &'static str, token: &str) -> Result<(), DriveError> {
        verify(token, &self.keyring).map(|_| ()).map_err(|source| DriveError::Token { kind, source })
    }
}

fn missing(what: &'static str) -> DriveError {
    DriveError::Incomplete { reply: "certificate.issued", missing: what }
}

fn license_request(certificate_token: &str) -> Result<Request, InvalidValue> {
    Ok(Request::LicenseRequest(LicenseRequest {
        certificate_token: certificate_token.to_owned(),
        terminal: Some(Name::try_from("player")?),
    }))
}

fn version(number: i64) -> Result<Version, InvalidValue> {
    Version::try_from(number)
}

fn usd(minor: i64) -> Result<Money, InvalidValue> {
    Money::new(minor, Currency::try_from("USD")?)
}

/// A refund of everything that was paid for a purchase.
fn reversal(bought: &Bought) -> Result<SettlementReversal, DriveError> {
    let alone = bought.certificates.len() == 1;
    Ok(SettlementReversal {
        certificate: alone.then_some(bought.purchase),
        container: (!alone).then_some(bought.purchase),
        settlement: ExternalId::try_from(format!("charge-{}", bought.purchase))?,
        provider: Name::try_from("trial")?,
        refund: None,
        amount: None,
        reason: Text::try_from("the customer asked for it")?,
    })
}
