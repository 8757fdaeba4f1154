//! A steady load from a client that shares only the wire contract with Licet. It uses lapin and
//! hand-written JSON. Its users buy, acknowledge and pay for certificates, request and acknowledge
//! licenses, and return some of them. The client sends a request again with the same id and bytes
//! if no reply arrives. It also repeats old messages at random and compares the replies. Some
//! purchases are not sent again after the broker has confirmed them. If the broker or Licet loses
//! such a purchase, the test fails.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    ledger::{Comparison, Entry, Ledger, Records, expected, json as parse},
    random::Random,
    wire::{self, Sender},
};

/// The number of lifecycles that run at the same time.
const LIFECYCLES: usize = 8;
/// After this time without a reply, a message is sent again.
const RESEND_AFTER: Duration = Duration::from_secs(2);
/// The timeout of a request, with all repetitions.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The running load. See the module documentation.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) upstream: Arc<Upstream>,
    running: JoinSet<()>,
    connections: JoinSet<()>,
    stop: CancellationToken,
}

/// The client, shared by all tasks of the load.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) ledger: Arc<Ledger>,
    sender: Arc<Sender>,
    random: Mutex<Random>,
}

impl Load {
    /// Starts the load on these nodes of one broker.
    pub(crate) async fn start(urls: Vec<String>, seed: u64) -> Self {
        wire::declare(&urls).await;
        let ledger = Arc::new(Ledger::default());
        let mut connections = JoinSet::new();
        connections.spawn(wire::consume(urls.clone(), ledger.clone()));
        let (sender, publishing) = Sender::new(urls, ledger.clone());
        connections.spawn(publishing);
        let upstream = Arc::new(Upstream { ledger, sender, random: Mutex::new(Random::new(seed)) });
        upstream.ask("content.put", song()).await;
        let (mut running, stop) = (JoinSet::new(), CancellationToken::new());
        for number in 0..LIFECYCLES {
            running.spawn(run_lifecycles(upstream.clone(), number, stop.clone()));
        }
        running.spawn(repeat_messages(upstream.clone(), stop.clone()));
        running.spawn(send_once(upstream.clone(), stop.clone()));
        Self { upstream, running, connections, stop }
    }

    /// Waits until replies to `more` further messages of lifecycles have been received.
    pub(crate) async fn wait_for_replies(&self, more: usize) {
        let has_reply = |entry: &&Entry| !entry.once && !entry.replies.is_empty();
        let count = |records: &Records| records.entries.values().filter(has_reply).count();
        let before = count(&self.upstream.ledger.lock());
        let received = self.upstream.ledger.wait_until(TIMEOUT, |records| count(records) >= before + more).await;
        assert!(received, "{more} more replies did not arrive within {TIMEOUT:?}");
    }

    /// Measures the time from now until the first reply to a new request.
    pub(crate) async fn recovery(&self) -> Duration {
        let began = Instant::now();
        self.upstream.ask_every("purchase.request", purchase("prober", 1), Duration::from_millis(250)).await;
        began.elapsed()
    }

    /// Stops the lifecycles after their current requests, repeats every message once, and closes
    /// the connections.
    pub(crate) async fn finish(&mut self) -> Arc<Ledger> {
        self.stop.cancel();
        while let Some(ended) = self.running.join_next().await {
            ended.expect("no task of the load panicked");
        }
        let ledger = self.upstream.ledger.clone();
        ledger.wait_until(TIMEOUT, |records| records.lost() == 0).await;
        let lost = ledger.lock().lost();
        assert_eq!(lost, 0, "messages that the broker confirmed are lost");
        let all = ledger.lock().order.clone();
        for chunk in all.chunks(100) {
            let before: Vec<_> = {
                let records = ledger.lock();
                chunk.iter().map(|id| records.entries[id].replies.len()).collect()
            };
            let deadline = Instant::now() + TIMEOUT;
            loop {
                let missing: Vec<Uuid> = {
                    let records = ledger.lock();
                    let pairs =
                        chunk.iter().zip(&before).filter(|(id, before)| records.entries[id].replies.len() <= **before);
                    pairs.map(|(id, _)| *id).collect()
                };
                if missing.is_empty() {
                    break;
                }
                assert!(Instant::now() < deadline, "{} repeated messages have no second reply", missing.len());
                let connection = missing.iter().map(|id| self.upstream.sender.send(*id)).max().unwrap_or_default();
                let all_replied = |records: &Records| {
                    chunk.iter().zip(&before).all(|(id, before)| records.entries[id].replies.len() > *before)
                };
                if !ledger.wait_until(RESEND_AFTER * 2, all_replied).await {
                    self.upstream.sender.reconnect(connection);
                }
            }
        }
        ledger.wait_until(RESEND_AFTER * 5, Records::has_all_events).await;
        self.connections.shutdown().await;
        ledger
    }
}

/// Compares the records of a whole run, and fails with the violated guarantees.
pub(crate) fn compare(ledger: &Ledger) -> Comparison {
    ledger.lock().compare().unwrap_or_else(|violations| {
        panic!("{} violations:\n{}", violations.len(), violations[..violations.len().min(10)].join("\n"))
    })
}

impl Upstream {
    /// Sends a request repeatedly until a reply arrives.
    pub(crate) async fn ask(&self, kind: &'static str, body: Value) -> Value {
        self.ask_every(kind, body, RESEND_AFTER).await
    }

    async fn ask_every(&self, kind: &'static str, body: Value, pause: Duration) -> Value {
        let id = self.random().uuid();
        self.ledger.add(id, kind, &body, false);
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let connection = self.sender.send(id);
            let replied = self.ledger.wait_until(pause, |records| !records.entries[&id].replies.is_empty()).await;
            if replied {
                break;
            }
            assert!(Instant::now() < deadline, "{kind} {id} has no reply after {TIMEOUT:?}");
            self.sender.reconnect(connection);
        }
        parse(&self.ledger.reply(id).expect("the reply was received").body)
    }

    fn random(&self) -> MutexGuard<'_, Random> {
        self.random.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs the whole lifecycle of a purchase, or as much of it as possible before `stop`.
    async fn run_lifecycle(&self, user: &str, stop: &CancellationToken) {
        let count = 1 + self.random().below(3);
        let Some(bought) = self.step("purchase.request", purchase(user, count), stop).await else { return };
        let certificates = bought["certificates"].as_array().expect("certificates").clone();
        let (token, subject) = match bought.get("container_token") {
            Some(token) => (json!({ "container_token": token }), json!({ "container": bought["container"] })),
            None => (
                json!({ "certificate_token": certificates[0]["certificate_token"] }),
                json!({ "certificate": certificates[0]["certificate"] }),
            ),
        };
        if self.step("certificate.receipt", token, stop).await.is_none() {
            return;
        }
        let payment = payment(subject, &bought);
        if self.step("settlement.completion", payment, stop).await.is_none() {
            return;
        }
        for certificate in certificates {
            let request = json!({ "certificate_token": certificate["certificate_token"], "terminal": "player" });
            let Some(license) = self.step("license.request", request, stop).await else { return };
            let receipt = json!({ "license_token": license["license_token"] });
            if self.step("license.receipt", receipt, stop).await.is_none() {
                return;
            }
            if self.random().below(5) == 0 {
                let request = json!({
                    "license_token": license["license_token"], "user": user, "privilege": "points", "deleted": true,
                });
                if self.step("license.return", request, stop).await.is_none() {
                    return;
                }
            }
        }
    }

    /// Sends the next request of a user after a short pause. Returns `None` if the load stops or
    /// the request is refused.
    async fn step(&self, kind: &'static str, body: Value, stop: &CancellationToken) -> Option<Value> {
        let pause = self.random().ms(20, 100);
        if tokio::time::timeout(pause, stop.cancelled()).await.is_ok() {
            return None;
        }
        let reply = self.ask(kind, body).await;
        // The comparison at the end reports unexpected replies.
        if reply.get("code").is_some() {
            println!("no {}, but {reply}", expected(kind));
            return None;
        }
        Some(reply)
    }
}

async fn run_lifecycles(upstream: Arc<Upstream>, number: usize, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let user = format!("user-{}", (number + LIFECYCLES * upstream.random().below(4)) % 24);
        upstream.run_lifecycle(&user, &stop).await;
    }
}

/// Repeats old messages at random.
async fn repeat_messages(upstream: Arc<Upstream>, stop: CancellationToken) {
    loop {
        let pause = upstream.random().ms(20, 120);
        if tokio::time::timeout(pause, stop.cancelled()).await.is_ok() {
            return;
        }
        let id = {
            let records = upstream.ledger.lock();
            let index = upstream.random().below(records.order.len());
            records.order.get(index).copied().filter(|id| !records.entries[id].once)
        };
        if let Some(id) = id {
            upstream.sender.send(id);
        }
    }
}

/// Sends purchases that are not repeated after the broker has confirmed them.
async fn send_once(upstream: Arc<Upstream>, stop: CancellationToken) {
    loop {
        let pause = upstream.random().ms(40, 160);
        if tokio::time::timeout(pause, stop.cancelled()).await.is_ok() {
            return;
        }
        let id = upstream.random().uuid();
        upstream.ledger.add(id, "purchase.request", &purchase("oncer", 1), true);
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let connection = upstream.sender.send(id);
            if upstream.ledger.wait_until(RESEND_AFTER, |records| records.entries[&id].accepted).await {
                break;
            }
            assert!(Instant::now() < deadline, "the broker confirmed nothing within {TIMEOUT:?}");
            upstream.sender.reconnect(connection);
        }
    }
}

fn song() -> Value {
    json!({
        "content": "song", "version": 1, "title": "A song", "price": { "amount_minor": 1000, "currency": "USD" },
        "grants": 3, "certificate_ttl_s": 86_400, "return_policy": { "points": 40 },
    })
}

fn purchase(user: &str, count: usize) -> Value {
    json!({ "user": user, "items": vec![json!({ "content": "song" }); count] })
}

/// The settlement of a purchase. `subject` names its certificate or container.
fn payment(mut subject: Value, bought: &Value) -> Value {
    let id = subject.as_object().and_then(|fields| fields.values().next()).cloned().expect("a subject");
    subject["settlement"] = json!(format!("pay-{}", id.as_str().expect("an id")));
    subject["provider"] = json!("bank");
    subject["amount"] = bought["amount"].clone();
    subject
}

/// Buys a certificate, acknowledges its receipt and pays for it. Returns its token.
pub(crate) async fn settled_certificate(upstream: &Upstream) -> String {
    let bought = upstream.ask("purchase.request", purchase("stormer", 1)).await;
    let token = &bought["certificates"][0]["certificate_token"];
    upstream.ask("certificate.receipt", json!({ "certificate_token": token })).await;
    let subject = json!({ "certificate": bought["certificates"][0]["certificate"] });
    upstream.ask("settlement.completion", payment(subject, &bought)).await;
    token.as_str().expect("a token").to_owned()
}
