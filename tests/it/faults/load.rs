//! A steady load from an upstream system that shares nothing with Licet but the wire: lapin, and
//! JSON by hand. It buys, acknowledges, pays, requests licenses, acknowledges those, and gives some
//! back; asks again with the same id and bytes when no answer comes; and all the while repeats
//! messages of long ago, to hear the same answer again. Some purchases it sends once and never again,
//! so that nothing but Licet and its broker stands for them once they are confirmed.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    chance::Chance,
    ledger::{Compared, Entry, Ledger, Pages, expected, json as read},
    wire::{self, Line},
};

/// Lives that are lived at once.
const LIVES: usize = 8;
/// After this long without an answer a message is sent again.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// Whatever was asked must have been answered by then.
const PATIENCE: Duration = Duration::from_secs(120);

/// See the module.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) upstream: Arc<Upstream>,
    running: JoinSet<()>,
    listening: JoinSet<()>,
    stop: CancellationToken,
}

/// What all lives of the load share.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) ledger: Arc<Ledger>,
    line: Arc<Line>,
    chance: Mutex<Chance>,
}

impl Load {
    /// Begins, on these nodes of one broker.
    pub(crate) async fn start(urls: Vec<String>, seed: u64) -> Self {
        wire::declare(&urls).await;
        let ledger = Arc::new(Ledger::default());
        let mut listening = JoinSet::new();
        listening.spawn(wire::listen(urls.clone(), ledger.clone()));
        let (line, publishing) = Line::open(urls, ledger.clone());
        listening.spawn(publishing);
        let upstream = Arc::new(Upstream { ledger, line, chance: Mutex::new(Chance::new(seed)) });
        upstream.ask("content.put", song()).await;
        let (mut running, stop) = (JoinSet::new(), CancellationToken::new());
        for life in 0..LIVES {
            running.spawn(lives(upstream.clone(), life, stop.clone()));
        }
        running.spawn(repeats(upstream.clone(), stop.clone()));
        running.spawn(once(upstream.clone(), stop.clone()));
        Self { upstream, running, listening, stop }
    }

    /// Waits until so many more messages of whole lives were answered.
    pub(crate) async fn answered(&self, more: usize) {
        let in_lives = |entry: &&Entry| !entry.once && !entry.replies.is_empty();
        let count = |pages: &Pages| pages.entries.values().filter(in_lives).count();
        let before = count(&self.upstream.ledger.open());
        let came = self.upstream.ledger.until(PATIENCE, |pages| count(pages) >= before + more).await;
        assert!(came, "{more} more answers in {PATIENCE:?}");
    }

    /// From now until the first answer to a request sent from now on.
    pub(crate) async fn recovery(&self) -> Duration {
        let began = Instant::now();
        self.upstream.ask_every("purchase.request", purchase("prober", 1), Duration::from_millis(250)).await;
        began.elapsed()
    }

    /// Ends the lives after what they are asking, repeats every message once, and compares.
    pub(crate) async fn finish(mut self) -> Arc<Ledger> {
        self.stop.cancel();
        while let Some(ended) = self.running.join_next().await {
            ended.expect("no life ended badly");
        }
        let ledger = self.upstream.ledger.clone();
        ledger.until(PATIENCE, |pages| pages.lost() == 0).await;
        let lost = ledger.open().lost();
        assert_eq!(lost, 0, "messages that the broker had confirmed are lost");
        let asked = ledger.open().order.clone();
        for portion in asked.chunks(100) {
            let had: Vec<_> = {
                let pages = ledger.open();
                portion.iter().map(|id| pages.entries[id].replies.len()).collect()
            };
            let deadline = Instant::now() + PATIENCE;
            loop {
                let missing: Vec<Uuid> = {
                    let pages = ledger.open();
                    let pairs = portion.iter().zip(&had).filter(|(id, had)| pages.entries[id].replies.len() <= **had);
                    pairs.map(|(id, _)| *id).collect()
                };
                if missing.is_empty() {
                    break;
                }
                assert!(Instant::now() < deadline, "{} repeated messages are not answered again", missing.len());
                let sent = missing.iter().map(|id| self.upstream.line.send(*id)).max().unwrap_or_default();
                let again =
                    |pages: &Pages| portion.iter().zip(&had).all(|(id, had)| pages.entries[id].replies.len() > *had);
                if !ledger.until(ASK_AGAIN * 2, again).await {
                    self.upstream.line.renew(sent);
                }
            }
        }
        ledger.until(ASK_AGAIN * 5, Pages::all_told).await;
        self.listening.shutdown().await;
        ledger
    }
}

/// Compares a whole run, and fails with what does not hold.
pub(crate) fn compared(ledger: &Ledger) -> Compared {
    ledger.open().compare().unwrap_or_else(|wrong| {
        panic!("{} things do not hold:\n{}", wrong.len(), wrong[..wrong.len().min(10)].join("\n"))
    })
}

impl Upstream {
    /// Asks until it is answered.
    pub(crate) async fn ask(&self, kind: &'static str, body: Value) -> Value {
        self.ask_every(kind, body, ASK_AGAIN).await
    }

    async fn ask_every(&self, kind: &'static str, body: Value, pause: Duration) -> Value {
        let id = self.chance().uuid();
        self.ledger.write(id, kind, &body, false);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let generation = self.line.send(id);
            let answered = self.ledger.until(pause, |pages| !pages.entries[&id].replies.is_empty()).await;
            if answered {
                break;
            }
            assert!(Instant::now() < deadline, "{kind} {id} is not answered in {PATIENCE:?}");
            self.line.renew(generation);
        }
        read(&self.ledger.reply(id).expect("it has come").body)
    }

    pub(crate) fn chance(&self) -> std::sync::MutexGuard<'_, Chance> {
        self.chance.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A whole life, until it is told to stop.
    pub(crate) async fn live(&self, user: &str, stop: &CancellationToken) {
        let count = 1 + self.chance().below(3);
        let Some(bought) = self.step("purchase.request", purchase(user, count), stop).await else { return };
        let certificates = bought["certificates"].as_array().expect("certificates").clone();
        let (shown, named) = match bought.get("container_token") {
            Some(token) => (json!({ "container_token": token }), json!({ "container": bought["container"] })),
            None => (
                json!({ "certificate_token": certificates[0]["certificate_token"] }),
                json!({ "certificate": certificates[0]["certificate"] }),
            ),
        };
        if self.step("certificate.receipt", shown, stop).await.is_none() {
            return;
        }
        let paid = payment(named, &bought);
        if self.step("settlement.completion", paid, stop).await.is_none() {
            return;
        }
        for certificate in certificates {
            let asked = json!({ "certificate_token": certificate["certificate_token"], "terminal": "player" });
            let Some(license) = self.step("license.request", asked, stop).await else { return };
            let shown = json!({ "license_token": license["license_token"] });
            if self.step("license.receipt", shown, stop).await.is_none() {
                return;
            }
            if self.chance().below(5) == 0 {
                let back = json!({
                    "license_token": license["license_token"], "user": user, "privilege": "points", "deleted": true,
                });
                if self.step("license.return", back, stop).await.is_none() {
                    return;
                }
            }
        }
    }

    /// The next thing that somebody does, after thinking a little; nothing, once it is over.
    async fn step(&self, kind: &'static str, body: Value, stop: &CancellationToken) -> Option<Value> {
        let pause = self.chance().ms(20, 100);
        if tokio::time::timeout(pause, stop.cancelled()).await.is_ok() {
            return None;
        }
        let answer = self.ask(kind, body).await;
        // What else came is found and told by the comparison.
        let kind = expected(kind);
        (answer.get("code").is_none()).then_some(answer).or_else(|| {
            println!("there was no {kind}");
            None
        })
    }
}

async fn lives(upstream: Arc<Upstream>, life: usize, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let user = format!("user-{}", (life + LIVES * upstream.chance().below(4)) % 24);
        upstream.live(&user, &stop).await;
    }
}

/// Sends messages of before again, at random.
async fn repeats(upstream: Arc<Upstream>, stop: CancellationToken) {
    loop {
        let pause = upstream.chance().ms(20, 120);
        if tokio::time::timeout(pause, stop.cancelled()).await.is_ok() {
            return;
        }
        let id = {
            let pages = upstream.ledger.open();
            let chosen = upstream.chance().below(pages.order.len());
            pages.order.get(chosen).copied().filter(|id| !pages.entries[id].once)
        };
        if let Some(id) = id {
            upstream.line.send(id);
        }
    }
}

/// Sends purchases that are never asked for again once the broker has confirmed them.
async fn once(upstream: Arc<Upstream>, stop: CancellationToken) {
    loop {
        let pause = upstream.chance().ms(40, 160);
        if tokio::time::timeout(pause, stop.cancelled()).await.is_ok() {
            return;
        }
        let id = upstream.chance().uuid();
        upstream.ledger.write(id, "purchase.request", &purchase("oncer", 1), true);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let generation = upstream.line.send(id);
            if upstream.ledger.until(ASK_AGAIN, |pages| pages.entries[&id].accepted).await {
                break;
            }
            assert!(Instant::now() < deadline, "the broker confirms nothing in {PATIENCE:?}");
            upstream.line.renew(generation);
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

fn payment(mut named: Value, bought: &Value) -> Value {
    let id = named.as_object().and_then(|fields| fields.values().next()).cloned().unwrap_or_default();
    named["settlement"] = json!(format!("pay-{}", id.as_str().unwrap_or_default()));
    named["provider"] = json!("bank");
    named["amount"] = bought["amount"].clone();
    named
}

/// The token of a certificate that is bought, received and paid for.
pub(crate) async fn ready(upstream: &Upstream) -> String {
    let bought = upstream.ask("purchase.request", purchase("stormer", 1)).await;
    let token = &bought["certificates"][0]["certificate_token"];
    upstream.ask("certificate.receipt", json!({ "certificate_token": token })).await;
    let named = json!({ "certificate": bought["certificates"][0]["certificate"] });
    upstream.ask("settlement.completion", payment(named, &bought)).await;
    token.as_str().expect("a token").to_owned()
}
