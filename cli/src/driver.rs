//! An upstream system for `licet demo` and `licet replay`. It takes real purchases from request to
//! license, as a storefront, its users and their terminals do, and measures the duration of each
//! step.

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
use indicatif::{ProgressBar, ProgressStyle};
use licet_client::{
    Client, Events, Keyring, Transport,
    schema::{
        Code, Count, ExternalId, InvalidValue, Money, Name, Output, Request, Seconds, Text, Version,
        message::{
            CertificateIssued, CertificatePresented, ContentPut, Instruction, Item, LicenseIssued, LicenseReceipt,
            LicenseRequest, LicenseReturn, Privilege, PurchaseRequest, ReturnPolicy,
        },
        money::Currency,
        vocabulary::Grants,
    },
    verify,
};
use licet_common::signing::TokenError;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::cdnow::{self, Purchase};

/// The timeout for the event of a settlement. After it, the terminal requests the license anyway.
const SETTLEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// The number of times that the terminal requests the license again while the purchase is not paid
/// for.
const SETTLEMENT_ATTEMPTS: u32 = 12;
/// The pause between these requests.
const SETTLEMENT_PAUSE: Duration = Duration::from_millis(500);
/// The lifetime of a certificate: a year.
const CERTIFICATE_TTL_S: i64 = 365 * 86_400;

/// An error that prevented a purchase from completing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DriveError {
    /// A request received no reply.
    #[error(transparent)]
    Client(#[from] licet_client::ClientError),
    /// The broker is unavailable.
    #[error(transparent)]
    Lost(#[from] licet_client::Lost),
    /// A request was refused, or its reply has an unexpected type.
    #[error("unexpected reply to {request}: {reply}")]
    UnexpectedReply {
        /// The type of the request.
        request: &'static str,
        /// The reply.
        reply: String,
    },
    /// The payment provider confirmed nothing.
    #[error(
        "no payment for a certificate was reported within {} s: check that a payment provider takes its \
         instructions, such as `licet provider`, and its log", timeout.as_secs()
    )]
    NotPaid {
        /// The timeout.
        timeout: Duration,
    },
    /// An event did not arrive in time.
    #[error("the event {awaited} did not arrive within {} s: check the log of the workers", timeout.as_secs())]
    NoEvent {
        /// The event.
        awaited: &'static str,
        /// The timeout.
        timeout: Duration,
    },
    /// A reply lacks a value that replies of its type contain.
    #[error("the reply {reply} contains no {missing}")]
    Incomplete {
        /// The type of the reply.
        reply: &'static str,
        /// The missing value.
        missing: &'static str,
    },
    /// A token is not valid.
    #[error("the token of a {kind} is not valid: {source}")]
    Token {
        /// The kind of token.
        kind: &'static str,
        /// The error of the token.
        source: TokenError,
    },
    /// The purchase data contains an invalid value.
    #[error("the purchase data is not valid: {0}")]
    Invalid(#[from] InvalidValue),
}

/// The latencies of each step, and totals.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) elapsed: Duration,
    /// Certificates that were used for a license.
    pub(crate) lifecycles: u64,
    pub(crate) purchases: u64,
    /// Purchases with several certificates.
    pub(crate) containers: u64,
    /// Licenses returned.
    pub(crate) returned: u64,
    /// Points received for the returned licenses.
    pub(crate) points: u64,
    pub(crate) tokens_verified: u64,
    /// The sum of the prices, in US cents.
    pub(crate) paid_minor: u64,
    /// The latencies of each step, in microseconds. The last entry is the whole lifecycle.
    pub(crate) stages: Vec<(&'static str, Histogram<u64>)>,
    /// A purchase with several certificates and a return, to show its history.
    pub(crate) example: Option<Uuid>,
}

const STAGES: [&str; 6] = ["purchase", "receipt", "settlement", "license", "license receipt", "lifecycle"];

/// Takes purchases from request to license.
pub(crate) struct Driver {
    client: Client,
    keyring: Keyring,
    settled: Settled,
    stages: Mutex<Vec<Histogram<u64>>>,
    counts: Counts,
    example: Mutex<Option<Uuid>>,
    progress: ProgressBar,
    /// Distinguishes the order numbers of different runs.
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
    /// Creates a driver that verifies every token with `keyring`.
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

    /// Registers a content item for each price, then completes every purchase, `in_flight` of them
    /// at a time.
    ///
    /// # Errors
    /// A purchase was not completed.
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
        let completed =
            stream::iter(purchases.iter().enumerate()).map(|(index, purchase)| self.complete(index, purchase));
        completed.buffer_unordered(in_flight).try_collect::<()>().await?;
        Ok(began.elapsed())
    }

    /// Registers the content of this price.
    async fn put(&self, cents: i64) -> Result<(), DriveError> {
        let content = Request::ContentPut(ContentPut {
            content: content_of(cents)?,
            version: Version::try_from(1i64)?,
            title: Text::try_from(format!("A CD for {}", usd(cents)?))?,
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

    /// Completes one purchase, from its request to its last license. Every tenth license is
    /// returned.
    async fn complete(&self, index: usize, purchase: &Purchase) -> Result<(), DriveError> {
        let began = Instant::now();
        let bought = self.buy(index, purchase).await?;
        self.acknowledge(&bought).await?;
        let licenses = bought.certificates.iter().enumerate().map(|(item, token)| {
            let returned = (index + item) % 10 == 9;
            self.license(began, &bought, token, item, returned)
        });
        stream::iter(licenses).buffer_unordered(16).try_collect::<()>().await?;
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
            items: items.collect::<Result<_, InvalidValue>>()?,
            points: None,
            reference: Some(ExternalId::try_from(format!("order-{}-{index}", self.run))?),
        });
        let reply = self.timed(0, self.client.ask(&request)).await?;
        let Output::CertificateIssued(issued) = reply else { return Err(unexpected("purchase.request", &reply)) };
        let certificates: Vec<_> = issued.certificates.iter().filter_map(|one| one.certificate_token.clone()).collect();
        for token in certificates.iter().chain(&issued.container_token) {
            self.verify("certificate", token)?;
        }
        add(&self.counts.purchases, 1);
        add(&self.counts.containers, u64::from(issued.container.is_some()));
        add(&self.counts.paid_minor, issued.amount.amount_minor.into());
        let subject = purchase_of(&issued)?;
        Ok(Bought { user, subject, container: issued.container_token, certificates })
    }

    /// Acknowledges receipt of the certificates, and waits for their settlement.
    async fn acknowledge(&self, bought: &Bought) -> Result<(), DriveError> {
        let settled = self.settled.expect(bought.subject);
        let receipt = Request::CertificateReceipt(CertificatePresented {
            certificate_token: if bought.container.is_some() { None } else { bought.certificates.first().cloned() },
            container_token: bought.container.clone(),
        });
        let reply = self.timed(1, self.client.ask(&receipt)).await?;
        let Output::CertificateAccepted(accepted) = reply else {
            return Err(unexpected("certificate.receipt", &reply));
        };
        if accepted.settlement == Instruction::Instructed {
            // The event can be lost, so a timeout is not an error. The reply to the license request
            // decides.
            let began = Instant::now();
            let _ = tokio::time::timeout(SETTLEMENT_TIMEOUT, settled).await;
            self.record(2, began.elapsed());
        }
        Ok(())
    }

    /// Requests the license of one certificate and acknowledges it. Returns it if `returned` is
    /// set.
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
        let reply = self.timed(4, self.client.ask(&receipt)).await?;
        let Output::LicenseGranted(_) = reply else { return Err(unexpected("license.receipt", &reply)) };
        self.record(5, began.elapsed());
        add(&self.counts.lifecycles, 1);
        self.progress.inc(1);
        if returned { self.give_back(bought, license).await } else { Ok(()) }
    }

    async fn license_token(&self, request: &Request) -> Result<String, DriveError> {
        let mut reply = self.client.ask(request).await?;
        for _ in 0..SETTLEMENT_ATTEMPTS {
            match &reply {
                Output::RequestRefused(refused) if refused.code == Code::NotSettled => {
                    tokio::time::sleep(SETTLEMENT_PAUSE).await;
                    reply = self.client.ask(request).await?;
                }
                _ => break,
            }
        }
        match reply {
            Output::LicenseIssued(issued) => license_token_of(issued),
            Output::RequestRefused(refused) if refused.code == Code::NotSettled => {
                Err(DriveError::NotPaid { timeout: SETTLEMENT_PAUSE * SETTLEMENT_ATTEMPTS })
            }
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
        verify(token, &self.keyring).map_err(|source| DriveError::Token { kind, source })?;
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
    /// The id of the purchase.
    subject: Uuid,
    /// The token of the container, if there is one.
    container: Option<String>,
    /// The tokens of the certificates.
    certificates: Vec<String>,
}

/// The purchases that wait for the event of their settlement.
#[derive(Clone, Default)]
struct Settled(Arc<Mutex<HashMap<Uuid, oneshot::Sender<()>>>>);

impl Settled {
    fn expect(&self, subject: Uuid) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(subject, sender);
        receiver
    }

    /// Receives events until `stop`. Subscribes again if the connection is lost.
    async fn listen(self, transport: Transport, stop: CancellationToken) {
        let listening = async {
            loop {
                if let Ok(mut events) = Events::subscribe(&transport, &["settlement.registered"]).await {
                    while let Ok(event) = events.next().await {
                        self.receive(&event);
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

    fn receive(&self, event: &Output) {
        let Output::SettlementRegistered(registered) = event else { return };
        let Some(subject) = registered.container.or(registered.certificate) else { return };
        if let Some(waiting) = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&subject) {
            let _ = waiting.send(());
        }
    }
}

fn content_of(cents: i64) -> Result<Name, InvalidValue> {
    Name::try_from(format!("cd-{cents}"))
}

fn usd(cents: i64) -> Result<Money, InvalidValue> {
    Money::new(cents, Currency::try_from("USD")?)
}

/// The error for an unexpected reply.
pub(crate) fn unexpected(request: &'static str, reply: &Output) -> DriveError {
    let reply = match reply {
        Output::RequestRefused(refused) => format!("refused as {}: {}", refused.code, refused.detail),
        other => other.kind().to_owned(),
    };
    DriveError::UnexpectedReply { request, reply }
}

/// The id of a purchase: the id of its container or of its only certificate.
pub(crate) fn purchase_of(issued: &CertificateIssued) -> Result<Uuid, DriveError> {
    let first = issued.certificates.first().map(|one| one.certificate);
    issued.container.or(first).ok_or(DriveError::Incomplete { reply: "certificate.issued", missing: "certificate" })
}

/// The token in a reply to a license request.
pub(crate) fn license_token_of(issued: LicenseIssued) -> Result<String, DriveError> {
    issued.license_token.ok_or(DriveError::Incomplete { reply: "license.issued", missing: "license_token" })
}

/// A progress bar on standard error that counts licenses. It is hidden if a program reads the
/// output.
pub(crate) fn progress(purchases: &[Purchase], hidden: bool) -> ProgressBar {
    if hidden {
        return ProgressBar::hidden();
    }
    let certificates: usize = purchases.iter().map(|purchase| purchase.cents.len()).sum();
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} licenses granted, {per_sec}, {eta} left");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(certificates as u64).with_style(style)
}

fn add(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Ordering::Relaxed);
}

/// A histogram from one microsecond to ten minutes, with three significant digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).unwrap_or_else(|_| unreachable!("constant bounds"))
}
