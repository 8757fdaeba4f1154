//! The in-process broker. It implements the parts of AMQP that Licet uses (exchanges, queues,
//! redelivery, confirms, returns, message expiry, dead letters) and is protected by one lock.
//!
//! In a simulation, each worker has a handle with a fault injector, which decides the outcome of
//! each call. The simulation itself releases the messages of wait queues.
//!
//! Deliberately absent: persistence, limits on prefetch and queue length, and the header `x-death`.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use licet_schema::topology::{Argument, DEFAULT, ExchangeKind, Topology};
use tokio::sync::Notify;

use super::{Delivery, Lost, Outcome, Outgoing, Properties};
#[cfg(feature = "simulation")]
use crate::fault_injection::FaultInjector;
use crate::fault_injection::{self, Faults, Step};

/// A handle to the broker. Clones share the broker.
#[derive(Clone, Debug, Default)]
pub(super) struct Broker {
    state: Arc<Mutex<State>>,
    faults: Faults,
}

#[derive(Debug, Default)]
struct State {
    /// Whether wait queues release a message only when [`Broker::expire`] is called.
    manual_expiry: bool,
    exchanges: HashMap<String, Exchange>,
    queues: HashMap<String, Queue>,
    /// The number of temporary queues created so far.
    temporary: u64,
}

#[derive(Debug)]
struct Exchange {
    kind: ExchangeKind,
    /// (routing key, queue)
    bindings: Vec<(String, String)>,
}

#[derive(Debug, Default)]
struct Queue {
    ready: VecDeque<Stored>,
    arrived: Arc<Notify>,
    /// The time that a message stays in the queue, and the exchange that it is then published to.
    expiry: Option<(Duration, String)>,
    /// The exchange and routing key that rejected messages are published with.
    dead_letters: Option<(String, String)>,
}

#[derive(Clone, Debug)]
struct Stored {
    message: Arc<Outgoing>,
    redeliveries: u32,
}

impl Broker {
    /// A broker whose wait queues release a message only when [`Broker::expire`] is called.
    #[cfg(feature = "simulation")]
    pub(super) fn with_manual_expiry() -> Self {
        let broker = Self::default();
        broker.lock().manual_expiry = true;
        broker
    }

    /// The same broker, for a worker whose faults are decided by `injector`.
    #[cfg(feature = "simulation")]
    pub(super) fn with_faults(&self, injector: Arc<dyn FaultInjector>) -> Self {
        Self { state: self.state.clone(), faults: Faults::of(injector) }
    }

    pub(super) fn apply(&self, topology: &Topology) {
        let mut state = self.lock();
        for exchange in &topology.exchanges {
            let new = Exchange { kind: exchange.kind, bindings: Vec::new() };
            state.exchanges.entry(exchange.name.clone()).or_insert(new);
        }
        for queue in &topology.queues {
            let argument = |name| queue.arguments.iter().find(|(key, _)| *key == name).map(|(_, value)| value);
            let expiry = match (argument("x-message-ttl"), argument("x-dead-letter-exchange")) {
                (Some(Argument::Number(ttl_ms)), Some(Argument::Text(exchange))) => {
                    Some((Duration::from_millis(ttl_ms.unsigned_abs()), exchange.clone()))
                }
                _ => None,
            };
            let dead_letters = match (argument("x-dead-letter-exchange"), argument("x-dead-letter-routing-key")) {
                (Some(Argument::Text(exchange)), Some(Argument::Text(key))) => Some((exchange.clone(), key.clone())),
                _ => None,
            };
            let new = || Queue { expiry, dead_letters, ..Queue::default() };
            state.queues.entry(queue.name.clone()).or_insert_with(new);
        }
        for binding in &topology.bindings {
            state.bind(&binding.exchange, &binding.key, &binding.queue);
        }
        for binding in &topology.obsolete {
            state.unbind(|exchange, key, queue| {
                (exchange, key, queue) == (&*binding.exchange, &*binding.key, &*binding.queue)
            });
        }
    }

    pub(super) fn missing(&self, topology: &Topology) -> Vec<String> {
        let state = self.lock();
        let exchanges = topology.exchanges.iter().filter(|one| !state.exchanges.contains_key(&one.name));
        let queues = topology.queues.iter().filter(|one| !state.queues.contains_key(&one.name));
        let exchanges = exchanges.map(|one| format!("exchange {}", one.name));
        exchanges.chain(queues.map(|one| format!("queue {}", one.name))).collect()
    }

    pub(super) async fn connect(&self) -> Result<Self, Lost> {
        match self.faults.outcome(Step::Connect).await {
            fault_injection::Outcome::Proceed => Ok(self.clone()),
            _ => Err(injected_loss()),
        }
    }

    pub(super) async fn consume(&self, queue: &str) -> Result<Consumer, Lost> {
        match self.faults.outcome(Step::Consume(queue)).await {
            fault_injection::Outcome::Proceed => self.consumer(queue),
            _ => Err(injected_loss()),
        }
    }

    fn consumer(&self, queue: &str) -> Result<Consumer, Lost> {
        let arrived = self.lock().queue(queue)?.arrived.clone();
        Ok(Consumer {
            broker: self.clone(),
            queue: queue.to_owned(),
            arrived,
            temporary: false,
            stopped: false,
            unacknowledged: Mutex::default(),
            next_tag: 1,
        })
    }

    pub(super) fn subscribe(&self, bindings: &[(&str, &str)]) -> Result<(String, Consumer), Lost> {
        let name = {
            let mut state = self.lock();
            state.temporary += 1;
            let name = format!("temporary.{}", state.temporary);
            state.queues.insert(name.clone(), Queue::default());
            for (exchange, key) in bindings {
                state.bind(exchange, key, &name);
            }
            name
        };
        let mut consumer = self.consumer(&name)?;
        consumer.temporary = true;
        Ok((name, consumer))
    }

    #[cfg(feature = "simulation")]
    pub(super) fn remove_queue(&self, name: &str) {
        let mut state = self.lock();
        state.queues.remove(name);
        state.unbind(|_, _, queue| queue == name);
    }

    #[cfg(feature = "simulation")]
    pub(super) fn remove_exchange(&self, name: &str) {
        self.lock().exchanges.remove(name);
    }

    pub(super) fn depth(&self, queue: &str) -> Result<u32, Lost> {
        let depth = self.lock().queue(queue)?.ready.len();
        Ok(u32::try_from(depth).unwrap_or(u32::MAX))
    }

    /// The number of consumers. Each consumer has a reference to the notification of the queue, and
    /// so does the queue itself.
    pub(super) fn consumers(&self, queue: &str) -> Result<u32, Lost> {
        let references = Arc::strong_count(&self.lock().queue(queue)?.arrived);
        Ok(u32::try_from(references - 1).unwrap_or(u32::MAX))
    }

    pub(super) async fn publish(&self, message: &Outgoing) -> Result<Outcome, Lost> {
        match self.faults.outcome(Step::Publish(&message.routing_key)).await {
            fault_injection::Outcome::Fail => Err(injected_loss()),
            fault_injection::Outcome::FailAfterEffect => {
                self.enqueue(message);
                Err(injected_loss())
            }
            fault_injection::Outcome::NoAnswer => {
                self.enqueue(message);
                Ok(Outcome::Unconfirmed)
            }
            fault_injection::Outcome::NoEffectNoAnswer => Ok(Outcome::Unconfirmed),
            fault_injection::Outcome::Refuse => Ok(Outcome::Refused),
            fault_injection::Outcome::Pretend => Ok(Outcome::Confirmed),
            _ => Ok(self.enqueue(message)),
        }
    }

    /// Puts a message into every queue that it routes to.
    fn enqueue(&self, message: &Outgoing) -> Outcome {
        let message = Arc::new(message.clone());
        let mut state = self.lock();
        let Some(queues) = state.route(&message) else { return Outcome::Refused };
        if queues.is_empty() {
            return if message.mandatory { Outcome::Returned } else { Outcome::Confirmed };
        }
        let manual_expiry = state.manual_expiry;
        for name in queues {
            if let Some(queue) = state.queues.get_mut(&name) {
                queue.ready.push_back(Stored { message: message.clone(), redeliveries: 0 });
                queue.arrived.notify_one();
                let expiry = queue.expiry.as_ref().filter(|_| !manual_expiry);
                if let Some((ttl, _)) = expiry.cloned() {
                    self.expire_later(name, ttl);
                }
            }
        }
        Outcome::Confirmed
    }

    /// Releases the first message of a wait queue after `ttl`. All messages of the queue have the
    /// same TTL, so the first message is the next to expire.
    fn expire_later(&self, queue: String, ttl: Duration) {
        let broker = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(ttl).await;
            broker.expire(&queue);
        });
    }

    /// Moves the first message of a queue to its end.
    #[cfg(feature = "simulation")]
    pub(super) fn postpone(&self, queue: &str) {
        if let Ok(queue) = self.lock().queue(queue) {
            let first = queue.ready.pop_front();
            queue.ready.extend(first);
        }
    }

    /// Publishes the first message of a wait queue to the exchange of its expiry.
    pub(super) fn expire(&self, queue: &str) {
        let first = self.lock().queue(queue).ok().and_then(|queue| {
            let (_, exchange) = queue.expiry.clone()?;
            queue.ready.pop_front().map(|stored| (stored, exchange))
        });
        if let Some((stored, exchange)) = first {
            self.enqueue(&Outgoing { exchange, ..Outgoing::clone(&stored.message) });
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere cannot leave the queues inconsistent: every change is one push or pop.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error of a connection that fault injection closes.
fn injected_loss() -> Lost {
    Lost::Unavailable("injected fault".into())
}

impl State {
    fn queue(&mut self, name: &str) -> Result<&mut Queue, Lost> {
        self.queues.get_mut(name).ok_or_else(|| Lost::Unavailable(format!("the queue {name} does not exist")))
    }

    fn bind(&mut self, exchange: &str, key: &str, queue: &str) {
        if let Some(exchange) = self.exchanges.get_mut(exchange) {
            let binding = (key.to_owned(), queue.to_owned());
            if !exchange.bindings.contains(&binding) {
                exchange.bindings.push(binding);
            }
        }
    }

    /// Removes the bindings (exchange, routing key, queue) that match.
    fn unbind(&mut self, matches: impl Fn(&str, &str, &str) -> bool) {
        for (name, exchange) in &mut self.exchanges {
            exchange.bindings.retain(|(key, queue)| !matches(name, key, queue));
        }
    }

    /// The queues that a message routes to. `None` if its exchange does not exist.
    fn route(&self, message: &Outgoing) -> Option<Vec<String>> {
        if message.exchange == DEFAULT {
            return Some(
                self.queues
                    .contains_key(&message.routing_key)
                    .then(|| message.routing_key.clone())
                    .into_iter()
                    .collect(),
            );
        }
        let exchange = self.exchanges.get(&message.exchange)?;
        let mut queues: Vec<String> = Vec::new();
        for (key, queue) in &exchange.bindings {
            let routes = match exchange.kind {
                ExchangeKind::Fanout => true,
                ExchangeKind::Direct => *key == message.routing_key,
                ExchangeKind::Topic => matches(key, &message.routing_key),
            };
            if routes && !queues.contains(queue) {
                queues.push(queue.clone());
            }
        }
        Some(queues)
    }
}

/// Whether a topic pattern matches: `*` stands for one word, `#` for any number of words.
fn matches(pattern: &str, key: &str) -> bool {
    fn words(pattern: &[&str], key: &[&str]) -> bool {
        match pattern {
            [] => key.is_empty(),
            ["#", rest @ ..] => (0..=key.len()).any(|skipped| words(rest, &key[skipped..])),
            [word, rest @ ..] => {
                key.split_first().is_some_and(|(first, left)| (*word == "*" || word == first) && words(rest, left))
            }
        }
    }
    words(&pattern.split('.').collect::<Vec<_>>(), &key.split('.').collect::<Vec<_>>())
}

/// See [`super::Consumer`].
#[derive(Debug)]
pub(super) struct Consumer {
    broker: Broker,
    queue: String,
    arrived: Arc<Notify>,
    temporary: bool,
    stopped: bool,
    unacknowledged: Mutex<BTreeMap<u64, Stored>>,
    next_tag: u64,
}

impl Consumer {
    pub(super) async fn receive(&mut self, max: usize, max_bytes: usize) -> Result<Vec<Delivery>, Lost> {
        loop {
            if self.stopped {
                return Ok(Vec::new());
            }
            let arrived = self.arrived.clone();
            let notified = arrived.notified();
            let outcome = self.broker.faults.outcome(Step::Receive(&self.queue)).await;
            if outcome == fault_injection::Outcome::Fail {
                return Err(injected_loss());
            }
            let taken = self.take(max, max_bytes, outcome == fault_injection::Outcome::Pretend)?;
            if outcome == fault_injection::Outcome::FailAfterEffect {
                return Err(injected_loss());
            }
            if !taken.is_empty() {
                return Ok(taken);
            }
            notified.await;
        }
    }

    pub(super) fn next(&mut self) -> Result<Option<Delivery>, Lost> {
        self.take(1, usize::MAX, false).map(|mut taken| taken.pop())
    }

    fn take(&mut self, max: usize, max_bytes: usize, acknowledged: bool) -> Result<Vec<Delivery>, Lost> {
        let broker = self.broker.clone();
        let mut state = broker.lock();
        let queue = state.queue(&self.queue)?;
        let mut taken = Vec::new();
        let mut bytes = 0;
        while taken.len() < max && (taken.is_empty() || bytes < max_bytes) {
            let Some(stored) = queue.ready.pop_front() else { break };
            bytes += stored.message.body.len();
            taken.push(delivery(self.next_tag, &stored));
            if !self.temporary && !acknowledged {
                self.unacknowledged().insert(self.next_tag, stored);
            }
            self.next_tag += 1;
        }
        if !queue.ready.is_empty() {
            // Another consumer may be waiting for the same queue.
            queue.arrived.notify_one();
        }
        Ok(taken)
    }

    pub(super) fn stop(&mut self) {
        self.stopped = true;
    }

    pub(super) async fn ack_through(&self, tag: u64) -> Result<(), Lost> {
        let outcome = self.broker.faults.outcome(Step::Ack).await;
        if outcome != fault_injection::Outcome::Fail {
            let mut unacknowledged = self.unacknowledged();
            *unacknowledged = unacknowledged.split_off(&(tag + 1));
        }
        if outcome == fault_injection::Outcome::Proceed { Ok(()) } else { Err(injected_loss()) }
    }

    pub(super) fn ack(&self, tag: u64) {
        self.unacknowledged().remove(&tag);
    }

    pub(super) fn reject(&self, tag: u64) {
        let Some(stored) = self.unacknowledged().remove(&tag) else { return };
        let dead_letters = self.broker.lock().queue(&self.queue).ok().and_then(|queue| queue.dead_letters.clone());
        if let Some((exchange, routing_key)) = dead_letters {
            self.broker.enqueue(&Outgoing { exchange, routing_key, ..Outgoing::clone(&stored.message) });
        }
    }

    fn unacknowledged(&self) -> MutexGuard<'_, BTreeMap<u64, Stored>> {
        self.unacknowledged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let unacknowledged = std::mem::take(&mut *self.unacknowledged());
        let mut state = self.broker.lock();
        if self.temporary {
            state.queues.remove(&self.queue);
            state.unbind(|_, _, queue| queue == self.queue);
        } else if let Ok(queue) = state.queue(&self.queue) {
            for (_, stored) in unacknowledged.into_iter().rev() {
                queue.ready.push_front(Stored { redeliveries: stored.redeliveries + 1, ..stored });
            }
            queue.arrived.notify_one();
        }
    }
}

fn delivery(tag: u64, stored: &Stored) -> Delivery {
    let message = &stored.message;
    Delivery {
        tag,
        exchange: message.exchange.clone(),
        routing_key: message.routing_key.clone(),
        redeliveries: stored.redeliveries,
        properties: Properties::clone(&message.properties),
        // No code path reads the death of a message from a wait queue, and no other message is
        // moved.
        death: None,
        body: message.body.clone(),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use licet_schema::topology::{self, WorkerQueue, topology};

    use super::*;

    fn message(exchange: &str, key: &str, mandatory: bool) -> Outgoing {
        Outgoing {
            exchange: exchange.into(),
            routing_key: key.into(),
            mandatory,
            properties: Properties::default(),
            body: Bytes::from_static(b"body"),
        }
    }

    fn broker() -> Broker {
        let broker = Broker::default();
        broker.apply(&topology(&[WorkerQueue { name: "first", handles: &["work.due"] }]));
        broker
    }

    #[tokio::test]
    async fn unacknowledged_deliveries_are_redelivered_in_order_with_a_higher_count() {
        let broker = broker();
        for _ in 0..3 {
            assert_eq!(broker.enqueue(&message(topology::IN, "work.due", true)), Outcome::Confirmed);
        }
        let mut consumer = broker.consumer("licet.first").expect("the queue");
        let first = consumer.receive(10, 1000).await.expect("deliveries");
        assert_eq!(first.len(), 3);
        consumer.ack_through(first[0].tag).await.expect("acknowledged");
        drop(consumer);
        let mut consumer = broker.consumer("licet.first").expect("the queue");
        let again = consumer.receive(10, 1000).await.expect("deliveries");
        assert_eq!(again.iter().map(|one| one.redeliveries).collect::<Vec<_>>(), [1, 1]);
    }

    #[tokio::test]
    async fn a_mandatory_message_that_routes_to_no_queue_is_returned() {
        assert_eq!(broker().enqueue(&message(topology::IN, "no.such.type", true)), Outcome::Returned);
        assert_eq!(broker().enqueue(&message(topology::DEFAULT, "no.such.queue", true)), Outcome::Returned);
        assert_eq!(broker().enqueue(&message(topology::EVENTS, "work.done", false)), Outcome::Confirmed);
    }

    #[tokio::test]
    async fn a_message_returns_from_its_wait_queue_to_the_queue_that_its_routing_key_names() {
        let broker = broker();
        broker.enqueue(&message("licet.wait.1s", "licet.first", true));
        let mut consumer = broker.consumer("licet.first").expect("the queue");
        let back = consumer.receive(10, 1000).await.expect("deliveries");
        assert_eq!((back[0].exchange.as_str(), back[0].routing_key.as_str()), (topology::RETRY, "licet.first"));
    }

    #[test]
    fn applying_the_topology_again_removes_obsolete_bindings_and_no_others() {
        let broker = Broker::default();
        let current = topology(&[]);
        let (obsolete, own) = (current.obsolete[0].clone(), ("own.kind", "own"));
        broker.apply(&Topology { bindings: current.obsolete.clone(), obsolete: Vec::new(), ..current.clone() });
        broker.lock().queues.insert(own.1.to_owned(), Queue::default());
        broker.lock().bind(topology::EVENTS, own.0, own.1);
        let bound = |key: &str| broker.lock().route(&message(topology::EVENTS, key, true)).map(|queues| queues.len());
        assert_eq!((bound(&obsolete.key), bound(own.0)), (Some(1), Some(1)));
        broker.apply(&current);
        assert_eq!((bound(&obsolete.key), bound(own.0)), (Some(0), Some(1)));
    }

    #[test]
    fn topic_patterns_match_as_amqp_defines() {
        for (pattern, key, expected) in [
            ("a.b", "a.b", true),
            ("a.*", "a.b", true),
            ("a.*", "a.b.c", false),
            ("#", "a.b.c", true),
            ("a.#", "a", true),
            ("a.#.c", "a.b.b.c", true),
            ("a.b", "a.c", false),
        ] {
            assert_eq!(matches(pattern, key), expected, "{pattern} {key}");
        }
    }
}
