//! The upstream: drives real purchases through whatever workers run behind a transport, as a
//! storefront, terminals and their users would. Demo and replay are this and a report.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt, TryStreamExt, stream};
use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use licet_client::{
    Client, Events, Keyring, Transport,
    schema::{
        Count, ExternalId, Money, Name, Output, Request, Seconds, Text, Version,
        message::{
            CertificatePresented, ContentPut, Instruction, Item, LicenseReceipt, LicenseRequest, LicenseReturn,
            Privilege, PurchaseRequest, ReturnPolicy,
        },
        money::Currency,
        vocabulary::{Grants, Unfit},
    },
    verify,
};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::cdnow::{self, Purchase};

/// How long a terminal waits to hear of its settlement before it asks for the license all the same.
const SETTLEMENT_PATIENCE: Duration = Duration::from_secs(10);
/// How often it asks while the answer is that it is not paid for.
const SETTLEMENT_ATTEMPTS: u32 = 12;
/// A year.
const CERTIFICATE_TTL_S: i64 = 365 * 86_400;

/// Why a purchase did not live its whole life.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DriveError {
    /// The client's.
    #[error(transparent)]
    Client(#[from] licet_client::ClientError),
    /// The broker's.
    #[error(transparent)]
    Lost(#[from] licet_client::Lost),
    /// Another answer than the life of a purchase has at this place.
    #[error("{asked} was answered with {answer}")]
    Unexpected {
        /// What was asked.
        asked: &'static str,
        /// What came.
        answer: String,
    },
    /// A token does not verify.
    #[error("a {kind} token does not verify offline: {cause}")]
    Token {
        /// Of which kind.
        kind: &'static str,
        /// Why.
        cause: String,
    },
    /// The data cannot be a message.
    #[error("the data does not fit: {0}")]
    Unfit(#[from] Unfit),
}

/// Latencies by stage, and counts.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) elapsed: Duration,
    pub(crate) lifecycles: u64,
    pub(crate) purchases: u64,
    pub(crate) containers: u64,
    pub(crate) returned: u64,
    pub(crate) points: u64,
    pub(crate) tokens_verified: u64,
    pub(crate) paid_minor: u64,
    /// Microseconds, by stage; the last is the whole lifecycle.
    pub(crate) stages: Vec<(&'static str, Histogram<u64>)>,
    /// A purchase worth telling of: a container with a return.
    pub(crate) example: Option<Uuid>,
}

const STAGES: [&str; 6] = ["purchase", "receipt", "settlement", "license", "license receipt", "lifecycle"];

/// Drives purchases, `in_flight` of them at a time.
pub(crate) struct Driver {
    client: Client,
    keyring: Keyring,
    settled: Settled,
    stages: Mutex<Vec<Histogram<u64>>>,
    counts: Counts,
    example: Mutex<Option<Uuid>>,
    progress: ProgressBar,
    /// Tells the users and contents of one run from another's.
    run: String,
}

#[derive(Default)]
struct Counts {
    lifecycles: AtomicU64,
    purchases: AtomicU64,
    containers: AtomicU64,
    returned: AtomicU64,
    points: AtomicU64,
    tokens: AtomicU64,
    paid_minor: AtomicU64,
}

impl Driver {
    /// A driver that verifies every token against `keyring`.
    pub(crate) fn new(client: Client, keyring: Keyring, progress: ProgressBar) -> Self {
        let stages = STAGES.iter().map(|_| histogram()).collect();
        Self {
            client,
            keyring,
            settled: Settled::default(),
            stages: Mutex::new(stages),
            counts: Counts::default(),
            example: Mutex::default(),
            progress,
            run: Uuid::now_v7().simple().to_string()[..12].to_owned(),
        }
    }

    /// Puts a content for each price, then lets every purchase live its whole life.
    ///
    /// # Errors
    /// The first purchase that does not.
    pub(crate) async fn drive(
        &self,
        transport: &Transport,
        purchases: &[Purchase],
        in_flight: usize,
    ) -> Result<Measured, DriveError> {
        let stop = CancellationToken::new();
        let listening = tokio::spawn(self.settled.clone().listen(transport.clone(), stop.clone()));
        let driven = self.drive_all(purchases, in_flight).await;
        stop.cancel();
        let _ = listening.await;
        Ok(self.measured(driven?))
    }

    async fn drive_all(&self, purchases: &[Purchase], in_flight: usize) -> Result<Duration, DriveError> {
        let prices = cdnow::prices(purchases);
        stream::iter(prices).map(|cents| self.put(cents)).buffer_unordered(in_flight).try_collect::<()>().await?;
        let began = Instant::now();
        let lives = stream::iter(purchases.iter().enumerate()).map(|(index, purchase)| self.live(index, purchase));
        lives.buffer_unordered(in_flight).try_collect::<()>().await?;
        Ok(began.elapsed())
    }

    async fn put(&self, cents: i64) -> Result<(), DriveError> {
        let content = Request::ContentPut(ContentPut {
            content: content_of(cents)?,
            version: Version::try_from(1i64)?,
            title: Text::try_from(format!("A CD for {}.{:02} USD", cents / 100, cents % 100))?,
            price: usd(cents)?,
            grants: Grants::try_from(1i64)?,
            certificate_ttl_s: Seconds::try_from(CERTIFICATE_TTL_S)?,
            receipt_ttl_s: None,
            successor: None,
            return_policy: ReturnPolicy {
                points: Some(Count::try_from(cents / 10)?),
                upgrade: None,
                buyback: None,
                collection: None,
            },
            media: None,
        });
        match self.client.ask(&content).await? {
            Output::ContentRegistered(_) => Ok(()),
            other => Err(unexpected("content.put", &other)),
        }
    }

    /// One purchase from its request to its last license, and every tenth back again.
    async fn live(&self, index: usize, purchase: &Purchase) -> Result<(), DriveError> {
        let began = Instant::now();
        let bought = self.buy(index, purchase).await?;
        self.acknowledge(&bought).await?;
        let lives = bought.certificates.iter().enumerate().map(|(item, token)| {
            let returned = (index + item) % 10 == 9;
            self.license(began, &bought, token, item, returned)
        });
        stream::iter(lives).buffer_unordered(16).try_collect::<()>().await?;
        if purchase.cents.len() > 1 && (index + 1) % 10 == 9 {
            self.example.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(bought.subject);
        }
        Ok(())
    }

    async fn buy(&self, index: usize, purchase: &Purchase) -> Result<Bought, DriveError> {
        let user = Name::try_from(format!("customer-{}", purchase.customer))?;
        let items = purchase.cents.iter().map(|cents| Ok(Item { content: content_of(*cents)?, version: None }));
        let request = Request::PurchaseRequest(PurchaseRequest {
            user: user.clone(),
            items: items.collect::<Result<_, Unfit>>()?,
            points: None,
            reference: Some(ExternalId::try_from(format!("order-{}-{index}", self.run))?),
        });
        let answer = self.timed(0, self.client.ask(&request)).await?;
        let Output::CertificateIssued(issued) = answer else { return Err(unexpected("purchase.request", &answer)) };
        let certificates: Vec<_> = issued.certificates.iter().filter_map(|one| one.certificate_token.clone()).collect();
        for token in certificates.iter().chain(&issued.container_token) {
            self.verify("certificate", token)?;
        }
        add(&self.counts.purchases, 1);
        add(&self.counts.containers, u64::from(issued.container.is_some()));
        add(&self.counts.paid_minor, issued.amount.amount_minor.into());
        let first = issued.certificates.first().map(|one| one.certificate).unwrap_or_default();
        Ok(Bought { user, subject: issued.container.unwrap_or(first), container: issued.container_token, certificates })
    }

    /// Acknowledges what arrived, and waits until it is paid for.
    async fn acknowledge(&self, bought: &Bought) -> Result<(), DriveError> {
        let settled = self.settled.expect(bought.subject);
        let receipt = Request::CertificateReceipt(CertificatePresented {
            certificate_token: if bought.container.is_some() { None } else { bought.certificates.first().cloned() },
            container_token: bought.container.clone(),
        });
        let answer = self.timed(1, self.client.ask(&receipt)).await?;
        let Output::CertificateAccepted(accepted) = answer else {
            return Err(unexpected("certificate.receipt", &answer));
        };
        if accepted.settlement == Instruction::Instructed {
            // Whether it was heard or not, the license request is what tells.
            let began = Instant::now();
            let _ = tokio::time::timeout(SETTLEMENT_PATIENCE, settled).await;
            self.record(2, began.elapsed());
        }
        Ok(())
    }

    /// One certificate's license, delivered; and given back, if it is one of those.
    async fn license(
        &self,
        began: Instant,
        bought: &Bought,
        certificate: &str,
        item: usize,
        returned: bool,
    ) -> Result<(), DriveError> {
        let request = Request::LicenseRequest(LicenseRequest {
            certificate_token: certificate.to_owned(),
            terminal: Some(Name::try_from(format!("player-{item}"))?),
        });
        let license = self.timed(3, self.license_token(&request)).await?;
        self.verify("license", &license)?;
        let receipt = Request::LicenseReceipt(LicenseReceipt { license_token: license.clone() });
        let answer = self.timed(4, self.client.ask(&receipt)).await?;
        let Output::LicenseGranted(_) = answer else { return Err(unexpected("license.receipt", &answer)) };
        self.record(5, began.elapsed());
        add(&self.counts.lifecycles, 1);
        self.progress.inc(1);
        if returned { self.give_back(bought, license).await } else { Ok(()) }
    }

    async fn license_token(&self, request: &Request) -> Result<String, DriveError> {
        let mut answer = self.client.ask(request).await?;
        for _ in 0..SETTLEMENT_ATTEMPTS {
            match &answer {
                Output::RequestRefused(refused) if refused.code.as_str() == "not_settled" => {
                    tokio::time::sleep(SETTLEMENT_PATIENCE / 20).await;
                    answer = self.client.ask(request).await?;
                }
                _ => break,
            }
        }
        match answer {
            Output::LicenseIssued(issued) => issued
                .license_token
                .ok_or(DriveError::Unexpected { asked: "license.request", answer: "no token".into() }),
            other => Err(unexpected("license.request", &other)),
        }
    }

    async fn give_back(&self, bought: &Bought, license_token: String) -> Result<(), DriveError> {
        let request = Request::LicenseReturn(LicenseReturn {
            license_token,
            user: bought.user.clone(),
            privilege: Privilege::Points,
            deleted: true,
        });
        match self.client.ask(&request).await? {
            Output::LicenseReturned(returned) => {
                add(&self.counts.returned, 1);
                add(&self.counts.points, returned.privilege.points.map_or(0, u64::from));
                Ok(())
            }
            other => Err(unexpected("license.return", &other)),
        }
    }

    fn verify(&self, kind: &'static str, token: &str) -> Result<(), DriveError> {
        verify(token, &self.keyring).map_err(|error| DriveError::Token { kind, cause: error.to_string() })?;
        add(&self.counts.tokens, 1);
        Ok(())
    }

    async fn timed<T, E>(&self, stage: usize, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let began = Instant::now();
        let result = work.await;
        self.record(stage, began.elapsed());
        result
    }

    fn record(&self, stage: usize, elapsed: Duration) {
        let mut stages = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stage) = stages.get_mut(stage) {
            stage.saturating_record(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX));
        }
    }

    fn measured(&self, elapsed: Duration) -> Measured {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let stages = self.stages.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Measured {
            elapsed,
            lifecycles: read(&self.counts.lifecycles),
            purchases: read(&self.counts.purchases),
            containers: read(&self.counts.containers),
            returned: read(&self.counts.returned),
            points: read(&self.counts.points),
            tokens_verified: read(&self.counts.tokens),
            paid_minor: read(&self.counts.paid_minor),
            stages: STAGES.into_iter().zip(stages).collect(),
            example: *self.example.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

struct Bought {
    user: Name,
    subject: Uuid,
    container: Option<String>,
    certificates: Vec<String>,
}

/// Who waits to hear that a purchase is paid for.
#[derive(Clone, Default)]
struct Settled(Arc<Mutex<HashMap<Uuid, oneshot::Sender<()>>>>);

impl Settled {
    fn expect(&self, subject: Uuid) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(subject, sender);
        receiver
    }

    /// Listens until `stop`, with a new subscription whenever one is lost.
    async fn listen(self, transport: Transport, stop: CancellationToken) {
        let listening = async {
            loop {
                if let Ok(mut events) = Events::subscribe(&transport, &["settlement.registered"]).await {
                    while let Ok(event) = events.next().await {
                        self.hear(&event);
                    }
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = listening => {}
        }
    }

    fn hear(&self, event: &Output) {
        if let Output::SettlementRegistered(registered) = event {
            let subject = registered.container.or(registered.certificate).unwrap_or_default();
            if let Some(waiting) = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&subject) {
                let _ = waiting.send(());
            }
        }
    }
}

fn content_of(cents: i64) -> Result<Name, Unfit> {
    Name::try_from(format!("cd-{cents}"))
}

fn usd(cents: i64) -> Result<Money, Unfit> {
    Money::new(cents, Currency::try_from("USD")?)
}

pub(crate) fn unexpected(asked: &'static str, answer: &Output) -> DriveError {
    let answer = match answer {
        Output::RequestRefused(refused) => format!("{}: {}", refused.code, refused.detail),
        other => other.kind().to_owned(),
    };
    DriveError::Unexpected { asked, answer }
}

fn add(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Ordering::Relaxed);
}

/// One microsecond to ten minutes, to three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).unwrap_or_else(|_| unreachable!("constant bounds"))
}
