//! The driver. It runs lifecycles of five messages (six with `--returns`). Each message is sent
//! after the reply to the previous one.
//!
//! The driver shares the machine with the measured system, so it does as little as possible: one
//! task receives, one publishes, and no token is verified. The driver of `licet demo` verifies
//! every token. On shared cores, its own work would dominate the result.
//!
//! In a closed loop, a new lifecycle begins when another ends, so the number of lifecycles in
//! flight is constant. At a fixed rate, lifecycles begin independently of each other, and their
//! time counts from the scheduled start. The result therefore includes the time that they wait for
//! the system.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use licet_client::{
    Lost, Transport,
    schema::{
        ExternalId, Name, Request,
        encoding::CONTENT_TYPE,
        message::{
            CertificatePresented, Item, LicenseReceipt, LicenseRequest, LicenseReturn, Privilege, PurchaseRequest,
            SettlementCompletion,
        },
        topology,
    },
};
use licet_common::{
    program::Failure,
    transport::{Delivery, Outcome, Outgoing, Properties, Publisher},
};
use serde::Deserialize;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{
    content::{CONTENT, price, valid},
    cpu::{Cpu, Meter},
    partitions,
};

/// The requests of a lifecycle, in order. The last one is sent only with `--returns`.
pub(super) const STAGES: [&str; 6] = [
    "purchase.request",
    "certificate.receipt",
    "settlement.completion",
    "license.request",
    "license.receipt",
    "license.return",
];

/// The timeout for a confirm, and for the lifecycles that are in flight at the end.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The interval at which scheduled lifecycles are started.
const TICK: Duration = Duration::from_millis(1);

/// The schedule on which lifecycles begin.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pace {
    /// A new lifecycle begins when another ends, so this many are in flight.
    Closed(usize),
    /// This many lifecycles begin each second.
    Open(f64),
}

/// The parameters of a load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// The schedule on which lifecycles begin.
    pub(super) pace: Pace,
    /// The duration of the load before the measurement.
    pub(super) warm_up: Duration,
    /// The duration of the measurement.
    pub(super) measured: Duration,
    /// Whether each lifecycle ends with a return.
    pub(super) returns: bool,
    /// Whether message ids are random (UUIDv4). Otherwise they are ordered by time (UUIDv7), like
    /// those of the client library.
    pub(super) random_ids: bool,
    /// Whether messages go to partitioned queues.
    pub(super) partitioned: bool,
}

/// The figures of a run.
pub(super) struct Measured {
    /// The duration of the measurement.
    pub(super) elapsed: Duration,
    /// The number of lifecycles that ended during the measurement.
    pub(super) lifecycles: u64,
    /// The times from request to reply, in microseconds, by stage.
    pub(super) stages: Vec<Histogram<u64>>,
    /// The times of whole lifecycles, in microseconds. At a fixed rate, they count from the
    /// scheduled start.
    pub(super) whole: Histogram<u64>,
    /// The processor time that was used during the measurement.
    pub(super) cpu: Cpu,
}

/// A lifecycle in flight.
struct Lifecycle {
    /// The time at which the lifecycle began. At a fixed rate, its scheduled start.
    since: Instant,
    /// The time at which its latest request was sent.
    requested: Instant,
    stage: usize,
    user: Name,
    certificate: Uuid,
    token: String,
}

/// Runs a load, and finishes all lifecycles that have begun.
///
/// # Errors
/// The broker is unavailable, or a reply is missing or unexpected.
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
                    load.received(&delivery)?;
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
            return Err(Failure::Work("the broker did not confirm a message of the load".into()));
        }
    };
    let elapsed = load.measured_from.elapsed();
    load.ending = true;
    let lifecycles = load.ended;
    if lifecycles == 0 && !plan.measured.is_zero() {
        return Err(Failure::Work("no lifecycle ended during the measurement: measure longer (--seconds)".into()));
    }
    let rest = async {
        while !load.waiting.is_empty() {
            for delivery in replies.receive(1024, usize::MAX).await? {
                load.received(&delivery)?;
            }
        }
        Ok::<_, Failure>(())
    };
    tokio::time::timeout(TIMEOUT, rest)
        .await
        .map_err(|_| Failure::Work("some lifecycles of the load did not end within a minute".into()))??;
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
    waiting: HashMap<Uuid, Lifecycle>,
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
        let user = valid(Name::try_from(format!("customer-{}-{}", self.run, self.begun % 100_000)))?;
        let lifecycle =
            Lifecycle { since, requested: since, stage: 0, user, certificate: Uuid::nil(), token: String::new() };
        self.send_next(lifecycle)
    }

    fn send_next(&mut self, mut lifecycle: Lifecycle) -> Result<(), Failure> {
        let id = if self.plan.random_ids { Uuid::new_v4() } else { Uuid::now_v7() };
        let request = request(&lifecycle, &self.run)?;
        let kind = request.kind();
        let body = request.encode().map_err(Failure::work)?;
        let mut headers = BTreeMap::new();
        if self.plan.partitioned {
            headers.insert(partitions::HEADER_USER.to_owned(), lifecycle.user.to_string());
        }
        let message = Outgoing {
            exchange: if self.plan.partitioned { partitions::IN } else { topology::IN }.to_owned(),
            routing_key: kind.to_owned(),
            mandatory: true,
            properties: Properties {
                message_id: Some(id.to_string()),
                kind: Some(kind.to_owned()),
                content_type: Some(CONTENT_TYPE.to_owned()),
                reply_to: Some(self.reply_to.clone()),
                headers,
                ..Properties::default()
            },
            body: body.into(),
        };
        lifecycle.requested = Instant::now();
        self.waiting.insert(id, lifecycle);
        self.sender.send(message).map_err(|_| Failure::Work("the broker is unavailable".into()))
    }

    fn received(&mut self, delivery: &Delivery) -> Result<(), Failure> {
        let id = delivery.properties.correlation_id.as_deref().and_then(|id| Uuid::parse_str(id).ok());
        let Some(mut lifecycle) = id.and_then(|id| self.waiting.remove(&id)) else { return Ok(()) };
        let now = Instant::now();
        // At a fixed rate, a lifecycle that began during the measurement counts even if it ends
        // later.
        let counts = match self.plan.pace {
            Pace::Open(_) => lifecycle.since >= self.measured_from,
            Pace::Closed(_) => now >= self.measured_from && !self.ending,
        };
        if counts {
            record(self.stages.get_mut(lifecycle.stage), now - lifecycle.requested);
        }
        read_reply(&mut lifecycle, delivery)?;
        lifecycle.stage += 1;
        let stages = if self.plan.returns { STAGES.len() } else { STAGES.len() - 1 };
        if lifecycle.stage < stages {
            return self.send_next(lifecycle);
        }
        self.finished(&lifecycle, now)
    }

    fn finished(&mut self, lifecycle: &Lifecycle, now: Instant) -> Result<(), Failure> {
        let in_time = now >= self.measured_from && !self.ending;
        self.ended += u64::from(in_time);
        match self.plan.pace {
            Pace::Open(_) if lifecycle.since >= self.measured_from => {
                record(Some(&mut self.whole), now - lifecycle.since)
            }
            Pace::Closed(_) if in_time => {
                record(Some(&mut self.whole), now - lifecycle.since);
                return self.begin(now);
            }
            Pace::Closed(_) if !self.ending => return self.begin(now),
            _ => {}
        }
        Ok(())
    }
}

/// The next request of a lifecycle.
fn request(lifecycle: &Lifecycle, run: &str) -> Result<Request, Failure> {
    let token = || lifecycle.token.clone();
    Ok(match lifecycle.stage {
        0 => Request::PurchaseRequest(PurchaseRequest {
            user: lifecycle.user.clone(),
            items: vec![Item { content: valid(Name::try_from(CONTENT))?, version: None }],
            points: None,
            reference: Some(valid(ExternalId::try_from(format!("order-{run}")))?),
        }),
        1 => Request::CertificateReceipt(CertificatePresented {
            certificate_token: Some(token()),
            container_token: None,
        }),
        2 => Request::SettlementCompletion(SettlementCompletion {
            certificate: Some(lifecycle.certificate),
            container: None,
            settlement: valid(ExternalId::try_from(format!("charge-{}", lifecycle.certificate)))?,
            provider: valid(Name::try_from("bench"))?,
            amount: price()?,
            grants: None,
        }),
        3 => Request::LicenseRequest(LicenseRequest {
            certificate_token: token(),
            terminal: Some(valid(Name::try_from("player"))?),
        }),
        4 => Request::LicenseReceipt(LicenseReceipt { license_token: token() }),
        _ => Request::LicenseReturn(LicenseReturn {
            license_token: token(),
            user: lifecycle.user.clone(),
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

/// Checks a reply, and stores the values that the next request needs.
fn read_reply(lifecycle: &mut Lifecycle, delivery: &Delivery) -> Result<(), Failure> {
    let kind = delivery.properties.kind.as_deref().unwrap_or("");
    let stage = lifecycle.stage;
    let unexpected = || {
        let (request, body) = (STAGES[stage], String::from_utf8_lossy(&delivery.body));
        Failure::Work(format!("the reply to {request} is {kind}: {body}"))
    };
    match (stage, kind) {
        (0, "certificate.issued") => {
            let mut issued: Issued = serde_json::from_slice(&delivery.body).map_err(|_| unexpected())?;
            let one = issued.certificates.pop().ok_or_else(unexpected)?;
            (lifecycle.certificate, lifecycle.token) = (one.certificate, one.certificate_token);
        }
        (3, "license.issued") => {
            let licensed: Licensed = serde_json::from_slice(&delivery.body).map_err(|_| unexpected())?;
            lifecycle.token = licensed.license_token;
        }
        (1, "certificate.accepted")
        | (2, "settlement.registered")
        | (4, "license.granted")
        | (5, "license.returned") => {}
        _ => return Err(unexpected()),
    }
    Ok(())
}

/// Publishes messages until the sender is dropped. All waiting messages are published together.
async fn publish(publisher: Publisher, mut outgoing: mpsc::UnboundedReceiver<Outgoing>) -> Result<(), Lost> {
    let mut messages = Vec::new();
    while outgoing.recv_many(&mut messages, 256).await > 0 {
        let outcomes = publisher.publish(&messages, TIMEOUT).await?;
        if let Some(outcome) = outcomes.iter().find(|outcome| **outcome != Outcome::Confirmed) {
            return Err(Lost::Unavailable(format!("a message of the load was {outcome:?}")));
        }
        messages.clear();
    }
    publisher.close().await;
    Ok(())
}

/// Takes the instructions to the payment provider and ignores them, because the load itself sends
/// the settlements.
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

/// A histogram from one microsecond to ten minutes, with three significant digits.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).unwrap_or_else(|_| unreachable!("constant bounds"))
}
