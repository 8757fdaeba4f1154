//! The scenes of the demonstration that the bulk of purchases does not have: all four privileges,
//! points spent, a reissue, a reversal, a lapse and an expiry, on a clock that is moved.

use std::time::Duration;

use licet_client::{
    Client, Events, Keyring, Lost, Transport,
    schema::{
        Count, ExternalId, Money, Name, Output, Request, Seconds, Text, Version,
        message::{
            CertificatePresented, CertificateReissue, CertificateReissued, CertificateRetired, ContentPut,
            ContentVersion, Ending, Item, LicenseDeletion, LicenseReceipt, LicenseRequest, LicenseReturn,
            LicenseReturned, Privilege, PurchaseRequest, ReturnPolicy, SettlementSetback,
        },
        money::Currency,
        vocabulary::{Grants, Unfit},
    },
    verify,
};
use licet_common::clock::Clock;
use uuid::Uuid;

use crate::driver::{DriveError, unexpected};

/// Whatever is waited for has happened by then, or the demonstration fails.
const PATIENCE: Duration = Duration::from_secs(60);
const HOUR_MS: i64 = 3_600_000;
/// How long a certificate of the scenes lives.
const TTL_S: i64 = 30 * 86_400;
const ALBUM: &str = "album";
const PRICE_MINOR: i64 = 1500;
const POINTS: i64 = 150;

/// What a scene showed.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Scene {
    /// In a word.
    pub(crate) name: &'static str,
    /// In a sentence.
    pub(crate) shown: String,
    /// The purchase that it was about, whose story tells it.
    pub(crate) purchase: Uuid,
}

/// Plays the scenes, one after the other.
pub(crate) struct Stage {
    client: Client,
    events: Events,
    heard: Vec<Output>,
    keyring: Keyring,
    clock: Clock,
}

/// A purchase of the scenes.
struct Bought {
    user: Name,
    purchase: Uuid,
    container: Option<String>,
    tokens: Vec<String>,
    certificates: Vec<Uuid>,
}

impl Stage {
    /// Listens to everything from here on.
    pub(crate) async fn new(
        transport: &Transport,
        client: Client,
        keyring: Keyring,
        clock: Clock,
    ) -> Result<Self, DriveError> {
        let events = Events::subscribe(transport, &["#"]).await?;
        Ok(Self { client, events, heard: Vec::new(), keyring, clock })
    }

    /// Plays all of them.
    pub(crate) async fn play(mut self) -> Result<Vec<Scene>, DriveError> {
        self.put(2, None).await?;
        self.put(1, Some(ContentVersion { content: Name::try_from(ALBUM)?, version: version(2)? })).await?;
        Ok(vec![
            self.four_privileges().await?,
            self.points_spent().await?,
            self.reissue().await?,
            self.reversal().await?,
            self.lapse().await?,
            self.expiry().await?,
        ])
    }

    async fn four_privileges(&mut self) -> Result<Scene, DriveError> {
        let bought = self.paid("ada", 4, 0).await?;
        let mut brought = Vec::new();
        let wishes = [Privilege::Points, Privilege::Upgrade, Privilege::Buyback, Privilege::Collection];
        for (index, wish) in wishes.into_iter().enumerate() {
            let license = self.licensed(&bought.tokens[index]).await?;
            brought.push(self.give_back(&bought.user, license, wish, wish == Privilege::Points).await?.privilege);
        }
        self.hear(|event| matches!(event, Output::PayoutRegistered(_))).await?;
        let upgrade = brought.iter().find_map(|privilege| privilege.certificate_token.clone());
        self.licensed(&upgrade.unwrap_or_default()).await?;
        let points = brought.iter().find_map(|privilege| privilege.points).map_or(0, u64::from);
        let amount = brought.iter().find_map(|privilege| privilege.amount).map_or(0, |money| money.amount_minor.get());
        let shown = format!(
            "a container of four was returned for {points} points, an upgrade (licensed in version 2), {} paid out, and a collection record",
            dollars(amount)
        );
        Ok(Scene { name: "returns", shown, purchase: bought.purchase })
    }

    async fn points_spent(&mut self) -> Result<Scene, DriveError> {
        let bought = self.paid("ada", 1, POINTS).await?;
        self.licensed(&bought.tokens[0]).await?;
        let shown =
            format!("{POINTS} points paid a part of an album for {}, and the provider the rest", dollars(PRICE_MINOR));
        Ok(Scene { name: "points", shown, purchase: bought.purchase })
    }

    async fn reissue(&mut self) -> Result<Scene, DriveError> {
        let bought = self.paid("grace", 1, 0).await?;
        self.licensed(&bought.tokens[0]).await?;
        let reissue = Request::CertificateReissue(CertificateReissue {
            certificate: bought.certificates[0],
            reason: Text::try_from("the terminal was lost")?,
            granted: Some(Count::try_from(0i64)?),
        });
        let answer = self.client.ask(&reissue).await?;
        let Output::CertificateReissued(CertificateReissued { certificate_token: Some(token), generation, .. }) =
            answer
        else {
            return Err(unexpected("certificate.reissue", &answer));
        };
        let old = self.client.ask(&license_request(&bought.tokens[0])?).await?;
        let Output::RequestRefused(refused) = old else { return Err(unexpected("license.request", &old)) };
        self.licensed(&token).await?;
        let shown = format!(
            "a used-up certificate was reissued in generation {generation} and licensed again; its old token is {}",
            refused.code
        );
        Ok(Scene { name: "reissue", shown, purchase: bought.purchase })
    }

    async fn reversal(&mut self) -> Result<Scene, DriveError> {
        let bought = self.paid("edsger", 2, 0).await?;
        let returned = self.licensed(&bought.tokens[0]).await?;
        self.give_back(&bought.user, returned, Privilege::Points, true).await?;
        self.licensed(&bought.tokens[1]).await?;
        let spent = self.paid("edsger", 1, POINTS).await?;
        self.licensed(&spent.tokens[0]).await?;
        let reversal = Request::SettlementReversal(SettlementSetback {
            certificate: None,
            container: Some(bought.purchase),
            settlement: ExternalId::try_from(format!("charge-{}", bought.purchase))?,
            provider: Name::try_from("trial")?,
            reason: Text::try_from("chargeback")?,
            amount: None,
        });
        let answer = self.client.ask(&reversal).await?;
        let Output::SettlementRegistered(_) = answer else { return Err(unexpected("settlement.reversal", &answer)) };
        self.hear(|event| matches!(event, Output::LicenseRevoked(_))).await?;
        let shown = format!(
            "a payment was taken back: its license is revoked, and the {POINTS} points it had brought, spent meanwhile, are a debt"
        );
        Ok(Scene { name: "reversal", shown, purchase: bought.purchase })
    }

    async fn lapse(&mut self) -> Result<Scene, DriveError> {
        let bought = self.buy("tony", 2, 0).await?;
        self.clock.advance_ms(25 * HOUR_MS);
        self.ended(bought.certificates[1], Ending::Lapsed).await?;
        let shown = "nobody acknowledged a container; a day later the sweep ended it".to_owned();
        Ok(Scene { name: "lapse", shown, purchase: bought.purchase })
    }

    async fn expiry(&mut self) -> Result<Scene, DriveError> {
        let bought = self.paid("barbara", 1, 0).await?;
        self.clock.advance_ms(TTL_S * 1000 + HOUR_MS);
        self.ended(bought.certificates[0], Ending::Expired).await?;
        let shown = "a certificate that was paid for and never used expired, a month later".to_owned();
        Ok(Scene { name: "expiry", shown, purchase: bought.purchase })
    }

    async fn put(&self, number: i64, successor: Option<ContentVersion>) -> Result<(), DriveError> {
        let content = Request::ContentPut(ContentPut {
            content: Name::try_from(ALBUM)?,
            version: version(number)?,
            title: Text::try_from(format!("An album, version {number}"))?,
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
        let answer = self.client.ask(&request).await?;
        let Output::CertificateIssued(issued) = answer else { return Err(unexpected("purchase.request", &answer)) };
        let certificates: Vec<_> = issued.certificates.iter().map(|one| one.certificate).collect();
        let tokens: Vec<_> = issued.certificates.into_iter().filter_map(|one| one.certificate_token).collect();
        tokens.iter().try_for_each(|token| self.verified(token))?;
        let purchase = issued.container.or(certificates.first().copied()).unwrap_or_default();
        Ok(Bought { user, purchase, container: issued.container_token, tokens, certificates })
    }

    /// Bought, received, and paid by the trial provider.
    async fn paid(&mut self, user: &str, count: usize, points: i64) -> Result<Bought, DriveError> {
        let bought = self.buy(user, count, points).await?;
        let alone = bought.container.is_none();
        let receipt = Request::CertificateReceipt(CertificatePresented {
            certificate_token: bought.tokens.first().filter(|_| alone).cloned(),
            container_token: bought.container.clone(),
        });
        let answer = self.client.ask(&receipt).await?;
        let Output::CertificateAccepted(_) = answer else { return Err(unexpected("certificate.receipt", &answer)) };
        let purchase = bought.purchase;
        self.hear(move |event| match event {
            Output::SettlementRegistered(body) => body.container.or(body.certificate) == Some(purchase),
            _ => false,
        })
        .await?;
        Ok(bought)
    }

    /// A license of this certificate, delivered.
    async fn licensed(&self, certificate: &str) -> Result<String, DriveError> {
        let answer = self.client.ask(&license_request(certificate)?).await?;
        let Output::LicenseIssued(issued) = answer else { return Err(unexpected("license.request", &answer)) };
        let license = issued.license_token.unwrap_or_default();
        self.verified(&license)?;
        let receipt = Request::LicenseReceipt(LicenseReceipt { license_token: license.clone() });
        match self.client.ask(&receipt).await? {
            Output::LicenseGranted(_) => Ok(license),
            other => Err(unexpected("license.receipt", &other)),
        }
    }

    /// Gives a license back, in one step or in two.
    async fn give_back(
        &self,
        user: &Name,
        license_token: String,
        privilege: Privilege,
        deleted: bool,
    ) -> Result<LicenseReturned, DriveError> {
        let give = LicenseReturn { license_token, user: user.clone(), privilege, deleted };
        let mut answer = self.client.ask(&Request::LicenseReturn(give)).await?;
        if let Output::ReturnOpened(opened) = &answer {
            let deletion = LicenseDeletion { license_return: opened.license_return };
            answer = self.client.ask(&Request::LicenseDeletion(deletion)).await?;
        }
        match answer {
            Output::LicenseReturned(returned) => Ok(returned),
            other => Err(unexpected("license.return", &other)),
        }
    }

    /// Waits until the sweep has ended a certificate so.
    async fn ended(&mut self, id: Uuid, ending: Ending) -> Result<(), DriveError> {
        let ended = move |event: &Output| match event {
            Output::CertificateRetired(CertificateRetired { certificate, reason }) => {
                (*certificate, *reason) == (id, ending)
            }
            _ => false,
        };
        self.hear(ended).await
    }

    /// Waits for an event, which may have been heard already.
    async fn hear(&mut self, awaited: impl Fn(&Output) -> bool) -> Result<(), DriveError> {
        let listening = async {
            while !self.heard.iter().any(&awaited) {
                let event = self.events.next().await?;
                self.heard.push(event);
            }
            Ok(())
        };
        match tokio::time::timeout(PATIENCE, listening).await {
            Ok(heard) => heard,
            Err(_) => Err(DriveError::Lost(Lost("an event of the scenes did not come in time".into()))),
        }
    }

    fn verified(&self, token: &str) -> Result<(), DriveError> {
        let verified = verify(token, &self.keyring);
        verified.map(|_| ()).map_err(|error| DriveError::Token { kind: "scene's", cause: error.to_string() })
    }
}

fn license_request(certificate_token: &str) -> Result<Request, Unfit> {
    Ok(Request::LicenseRequest(LicenseRequest {
        certificate_token: certificate_token.to_owned(),
        terminal: Some(Name::try_from("player")?),
    }))
}

fn version(number: i64) -> Result<Version, Unfit> {
    Version::try_from(number)
}

fn usd(minor: i64) -> Result<Money, Unfit> {
    Money::new(minor, Currency::try_from("USD")?)
}

fn dollars(minor: i64) -> String {
    format!("{}.{:02} USD", minor / 100, minor % 100)
}
