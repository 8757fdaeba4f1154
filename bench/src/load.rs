//! The upstream of a measurement: lifecycles of five messages (with `--returns` six), each sent when
//! the one before it is answered. It does no more than that needs, since it shares the machine with
//! what it measures: one task receives, one publishes, and no token is verified.
//!
//! In a closed loop a new lifecycle begins when one ends, so that as many are always on their way. In
//! an open one they begin by a schedule, whatever becomes of the others, and their time counts from
//! the scheduled instant: what the system makes wait is in the figure.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use licet_client::{
    Lost, Transport,
    schema::{
        ExternalId, Format, Name, Request,
        message::{
            CertificatePresented, Item, LicenseReceipt, LicenseRequest, LicenseReturn, Privilege, PurchaseRequest,
            SettlementCompletion,
        },
        topology,
    },
};
use licet_common::transport::{Delivery, Outcome, Outgoing, Properties, Publisher};
use licet_workers::program::Failure;
use serde::Deserialize;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{
    cpu::{Cpu, Meter},
    goods::{CONTENT, price, unfit},
    partitions,
};

/// What is asked, in this order; the last one only with `--returns`.
pub(super) const STAGES: [&str; 6] = [
    "purchase.request",
    "certificate.receipt",
    "settlement.completion",
    "license.request",
    "license.receipt",
    "license.return",
];

/// How long an answer may take before the measurement is given up.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often lifecycles are begun by the schedule.
const TICK: Duration = Duration::from_millis(1);

/// How lifecycles begin.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pace {
    /// So many are always on their way.
    Closed(usize),
    /// So many begin in a second.
    Open(f64),
}

/// How a load is driven.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// How lifecycles begin.
    pub(super) pace: Pace,
    /// Not measured.
    pub(super) warm_up: Duration,
    /// Measured.
    pub(super) measured: Duration,
    /// Whether the license is given back at the end.
    pub(super) returns: bool,
    /// Whether message ids are random (UUIDv4), or ordered by time (UUIDv7) as the client's are.
    pub(super) random_ids: bool,
    /// Whether messages go to queues that share them by their user.
    pub(super) partitioned: bool,
}

/// What was measured.
pub(super) struct Measured {
    /// How long it was measured.
    pub(super) elapsed: Duration,
    /// Lifecycles that ended meanwhile.
    pub(super) lifecycles: u64,
    /// Microseconds from request to reply, by stage.
    pub(super) stages: Vec<Histogram<u64>>,
    /// Microseconds of whole lifecycles, those of a schedule from their scheduled instant.
    pub(super) whole: Histogram<u64>,
    /// What processes used of the processors meanwhile.
    pub(super) cpu: Cpu,
}

/// A lifecycle on its way.
struct Life {
    /// When it began, or should have.
    since: Instant,
    /// When its last message was sent.
    asked: Instant,
    stage: usize,
    user: Name,
    certificate: Uuid,
    token: String,
}

/// Drives a load to its end: every lifecycle that was begun is finished.
///
/// # Errors
/// The broker is away; or an answer is another than a lifecycle has at its place, or does not come.
pub(super) async fn drive(transport: &Transport, plan: Plan, meter: &Meter) -> Result<Measured, Failure> {
    let instructed = tokio::spawn(take_instructions(transport.clone()));
    let (reply_to, mut replies) = transport.subscribe(&[]).await?;
    let (sender, outgoing) = mpsc::unbounded_channel();
    let publishing = tokio::spawn(publish(transport.publisher().await?, outgoing));
    let mut load = Load::new(plan, reply_to, sender);
    let mut ticks = tokio::time::interval(TICK);
    let mut before = None;
    load.begin_due()?;
    let cpu = loop {
        tokio::select! {
            deliveries = replies.receive(1024, usize::MAX) => {
                for delivery in deliveries? {
                    load.answered(&delivery)?;
                }
            }
            _ = ticks.tick() => load.begin_due()?,
        }
        let now = Instant::now();
        if before.is_none() && now >= load.measured_from {
            load.measured_from = now;
            before = Some(meter.read());
        }
        if let (Some(start), true) = (&before, now >= load.until) {
            break meter.read().since(start);
        }
        if publishing.is_finished() {
            return Err(Failure::Work("the broker did not take a message of the load".into()));
        }
    };
    let elapsed = load.measured_from.elapsed();
    load.ending = true;
    let lifecycles = load.ended;
    if lifecycles == 0 && !plan.measured.is_zero() {
        return Err(Failure::Work("no lifecycle ended in the measured time: measure longer (--seconds)".into()));
    }
    let rest = async {
        while !load.waiting.is_empty() {
            for delivery in replies.receive(1024, usize::MAX).await? {
                load.answered(&delivery)?;
            }
        }
        Ok::<_, Failure>(())
    };
    tokio::time::timeout(PATIENCE, rest)
        .await
        .map_err(|_| Failure::Work("lifecycles of the load were not finished in a minute".into()))??;
    let Load { stages, whole, sender, .. } = load;
    drop(sender);
    let _ = publishing.await;
    replies.close().await;
    instructed.abort();
    Ok(Measured { elapsed, lifecycles, stages, whole, cpu })
}

struct Load {
    plan: Plan,
    reply_to: String,
    sender: mpsc::UnboundedSender<Outgoing>,
    waiting: HashMap<Uuid, Life>,
    began: Instant,
    measured_from: Instant,
    until: Instant,
    ending: bool,
    begun: u64,
    ended: u64,
    run: String,
    stages: Vec<Histogram<u64>>,
    whole: Histogram<u64>,
}

impl Load {
    fn new(plan: Plan, reply_to: String, sender: mpsc::UnboundedSender<Outgoing>) -> Self {
        let began = Instant::now();
        let measured_from = began + plan.warm_up;
        Self {
            plan,
            reply_to,
            sender,
            waiting: HashMap::new(),
            began,
            measured_from,
            until: measured_from + plan.measured,
            ending: false,
            begun: 0,
            ended: 0,
            run: Uuid::now_v7().simple().to_string()[..12].to_owned(),
            stages: STAGES.iter().map(|_| histogram()).collect(),
            whole: histogram(),
        }
    }

    fn begin_due(&mut self) -> Result<(), Failure> {
        match self.plan.pace {
            Pace::Closed(in_flight) => {
                while self.begun < in_flight as u64 {
                    self.begin(Instant::now())?;
                }
            }
            Pace::Open(per_s) => loop {
                let due = self.began + Duration::from_secs_f64(self.begun as f64 / per_s);
                if due > Instant::now() || due >= self.until {
                    break;
                }
                self.begin(due)?;
            },
        }
        Ok(())
    }

    fn begin(&mut self, since: Instant) -> Result<(), Failure> {
        self.begun += 1;
        let user = unfit(Name::try_from(format!("customer-{}-{}", self.run, self.begun % 100_000)))?;
        let life = Life { since, asked: since, stage: 0, user, certificate: Uuid::nil(), token: String::new() };
        self.ask(life)
    }

    fn ask(&mut self, mut life: Life) -> Result<(), Failure> {
        let id = if self.plan.random_ids { Uuid::new_v4() } else { Uuid::now_v7() };
        let request = request(&life, &self.run)?;
        let kind = request.kind();
        let body = request.encode(Format::Json).map_err(|error| Failure::Work(error.to_string()))?;
        let mut headers = BTreeMap::new();
        if self.plan.partitioned {
            headers.insert(partitions::HEADER_USER.to_owned(), life.user.to_string());
        }
        let message = Outgoing {
            exchange: if self.plan.partitioned { partitions::IN } else { topology::IN }.to_owned(),
            routing_key: kind.to_owned(),
            mandatory: true,
            properties: Properties {
                message_id: Some(id.to_string()),
                kind: Some(kind.to_owned()),
                content_type: Some(Format::Json.content_type().to_owned()),
                reply_to: Some(self.reply_to.clone()),
                headers,
                ..Properties::default()
            },
            body: body.into(),
        };
        life.asked = Instant::now();
        self.waiting.insert(id, life);
        self.sender.send(message).map_err(|_| Failure::Work("the broker is away".into()))
    }

    fn answered(&mut self, delivery: &Delivery) -> Result<(), Failure> {
        let id = delivery.properties.correlation_id.as_deref().and_then(|id| Uuid::parse_str(id).ok());
        let Some(mut life) = id.and_then(|id| self.waiting.remove(&id)) else { return Ok(()) };
        let now = Instant::now();
        // By a schedule, what had begun in time counts however late it ends.
        let counts = match self.plan.pace {
            Pace::Open(_) => life.since >= self.measured_from,
            Pace::Closed(_) => now >= self.measured_from && !self.ending,
        };
        if counts {
            record(self.stages.get_mut(life.stage), now - life.asked);
        }
        learn(&mut life, delivery)?;
        life.stage += 1;
        if life.stage < if self.plan.returns { 6 } else { 5 } {
            return self.ask(life);
        }
        self.finished(&life, now)
    }

    fn finished(&mut self, life: &Life, now: Instant) -> Result<(), Failure> {
        let in_time = now >= self.measured_from && !self.ending;
        self.ended += u64::from(in_time);
        match self.plan.pace {
            Pace::Open(_) if life.since >= self.measured_from => record(Some(&mut self.whole), now - life.since),
            Pace::Closed(_) if in_time => {
                record(Some(&mut self.whole), now - life.since);
                return self.begin(now);
            }
            Pace::Closed(_) if !self.ending => return self.begin(now),
            _ => {}
        }
        Ok(())
    }
}

/// What a lifecycle asks at its stage.
fn request(life: &Life, run: &str) -> Result<Request, Failure> {
    let token = || life.token.clone();
    Ok(match life.stage {
        0 => Request::PurchaseRequest(PurchaseRequest {
            user: life.user.clone(),
            items: vec![Item { content: unfit(Name::try_from(CONTENT))?, version: None }],
            points: None,
            reference: Some(unfit(ExternalId::try_from(format!("order-{run}")))?),
        }),
        1 => Request::CertificateReceipt(CertificatePresented {
            certificate_token: Some(token()),
            container_token: None,
        }),
        2 => Request::SettlementCompletion(SettlementCompletion {
            certificate: Some(life.certificate),
            container: None,
            settlement: unfit(ExternalId::try_from(format!("charge-{}", life.certificate)))?,
            provider: unfit(Name::try_from("bench"))?,
            amount: price()?,
            grants: None,
        }),
        3 => Request::LicenseRequest(LicenseRequest {
            certificate_token: token(),
            terminal: Some(unfit(Name::try_from("player"))?),
        }),
        4 => Request::LicenseReceipt(LicenseReceipt { license_token: token() }),
        _ => Request::LicenseReturn(LicenseReturn {
            license_token: token(),
            user: life.user.clone(),
            privilege: Privilege::Points,
            deleted: true,
        }),
    })
}

#[derive(Deserialize)]
struct Issued {
    certificates: Vec<IssuedOne>,
}

#[derive(Deserialize)]
struct IssuedOne {
    certificate: Uuid,
    certificate_token: String,
}

#[derive(Deserialize)]
struct Licensed {
    license_token: String,
}

/// Takes out of an answer what the next message needs.
fn learn(life: &mut Life, delivery: &Delivery) -> Result<(), Failure> {
    let kind = delivery.properties.kind.as_deref().unwrap_or_default();
    let unexpected = || {
        let asked = STAGES.get(life.stage).copied().unwrap_or_default();
        let answer = String::from_utf8_lossy(&delivery.body).into_owned();
        Failure::Work(format!("{asked} was answered with {kind}: {answer}"))
    };
    match (life.stage, kind) {
        (0, "certificate.issued") => {
            let mut issued: Issued = serde_json::from_slice(&delivery.body).map_err(|_| unexpected())?;
            let one = issued.certificates.pop().ok_or_else(unexpected)?;
            (life.certificate, life.token) = (one.certificate, one.certificate_token);
        }
        (3, "license.issued") => {
            let licensed: Licensed = serde_json::from_slice(&delivery.body).map_err(|_| unexpected())?;
            life.token = licensed.license_token;
        }
        (1, "certificate.accepted")
        | (2, "settlement.registered")
        | (4, "license.granted")
        | (5, "license.returned") => {}
        _ => return Err(unexpected()),
    }
    Ok(())
}

/// Publishes what there is, and then what came meanwhile, until nobody sends any more.
async fn publish(publisher: Publisher, mut outgoing: mpsc::UnboundedReceiver<Outgoing>) -> Result<(), Lost> {
    let mut messages = Vec::new();
    while outgoing.recv_many(&mut messages, 256).await > 0 {
        let outcomes = publisher.publish(&messages, PATIENCE).await?;
        if let Some(outcome) = outcomes.iter().find(|outcome| **outcome != Outcome::Confirmed) {
            return Err(Lost(format!("a message of the load was {outcome:?}")));
        }
        messages.clear();
    }
    publisher.close().await;
    Ok(())
}

/// The payment provider's part of the queues: it is told, and the load itself settles.
async fn take_instructions(transport: Transport) -> Result<(), Lost> {
    let mut consumer = transport.consume(topology::INSTRUCTED, 2048).await?;
    loop {
        if let Some(last) = consumer.receive(1024, usize::MAX).await?.last() {
            consumer.ack_through(last.tag).await?;
        }
    }
}

fn record(histogram: Option<&mut Histogram<u64>>, elapsed: Duration) {
    if let Some(histogram) = histogram {
        histogram.saturating_record(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX));
    }
}

/// One microsecond to ten minutes, to three digits.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).unwrap_or_else(|_| unreachable!("constant bounds"))
}
