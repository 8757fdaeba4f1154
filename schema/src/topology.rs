//! The broker's exchanges, queues and bindings, written down once, as data.
//!
//! `licet topology apply` declares them; workers declare them passively and say what is missing.
//! What correctness needs stands in queue arguments; limits that operators tune are policies.
//!
//! Architecture invariant: data only. Who speaks AMQP reads this.

/// Where clients publish; the routing key is the message type.
pub const IN: &str = "licet.in";
/// Where Licet publishes events; the routing key is the message type.
pub const EVENTS: &str = "licet.events";
/// Where wait queues return their messages, by the work queue's name.
pub const RETRY: &str = "licet.retry";
/// The default exchange: its routing key is a queue's name.
pub const DEFAULT: &str = "";
/// What payment providers are to do. An instruction is given once, so it must wait for them.
pub const INSTRUCTED: &str = "licet.instructed";

/// Every name that is ours begins so. A `reply_to` must not: it would write with our rights.
pub const RESERVED_PREFIX: &str = "licet.";

/// Header of what Licet sends: the message_id of the input that caused it.
pub const HEADER_CAUSE: &str = "licet-cause";
/// Header of a dead letter: why, which is what its last attempt failed with.
pub const HEADER_REASON: &str = "licet-reason";
/// Header of a copy: how many attempts were made.
pub const HEADER_ATTEMPT: &str = "licet-attempt";
/// Header of a copy: who sent the original, since a copy cannot carry its `user_id`.
pub const HEADER_SENDER: &str = "licet-sender";
/// Header of a copy: the routing key under which the original came, which is its type.
pub const HEADER_ROUTING_KEY: &str = "licet-routing-key";
/// Header of a copy: what the first attempt failed with.
pub const HEADER_FIRST_FAILURE: &str = "licet-first-failure";
/// Header of a copy: when the first attempt failed (RFC 3339).
pub const HEADER_FIRST_FAILED_AT: &str = "licet-first-failed-at";
/// Header of a dead letter: when the last attempt failed (RFC 3339).
pub const HEADER_FAILED_AT: &str = "licet-failed-at";
/// Header of a dead letter: the broker user whose word alone the sender's name is. Empty if it
/// came without one.
pub const HEADER_CLAIMED_BY: &str = "licet-claimed-by";

/// `app_id` of what Licet sends.
pub const APP_ID: &str = "licet";

/// The most bytes of a message's body. A larger one is refused unread, whatever the broker lets in;
/// a broker of ours lets none in (`max_message_size`).
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// A delivery that was redelivered this often is suspect and processed alone.
pub const SUSPECT_DELIVERIES: u32 = 3;

/// How often a quorum queue redelivers before it dead-letters by itself. High, because one crash of
/// a worker charges every message that it had in hand; and not so high that a message which no
/// client library can read blocks its queue for long.
pub const DELIVERY_LIMIT: i64 = 200;

/// The same for queues that have nowhere to dead-letter to: looking at a dead letter, or a payment
/// provider that gives an instruction back, must never use it up.
pub const DELIVERY_UNLIMITED: i64 = 1_000_000_000;

/// A worker: its name, which is also its queue's (`licet.<name>`), and the types it handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Worker {
    /// Its name.
    pub name: &'static str,
    /// The message types it handles.
    pub handles: &'static [&'static str],
}

/// Every worker. A new one is a line here and a line in the workers' registry.
pub const WORKERS: &[Worker] = &[
    Worker { name: "catalog", handles: &["content.put"] },
    Worker { name: "purchase", handles: &["purchase.request", "certificate.check"] },
    Worker { name: "reception", handles: &["certificate.receipt", "license.receipt"] },
    Worker {
        name: "settlement",
        handles: &["settlement.completion", "settlement.failure", "settlement.reversal", "payout.completion"],
    },
    Worker { name: "license", handles: &["license.request"] },
    Worker { name: "return", handles: &["license.return", "license.deletion"] },
    Worker { name: "reissue", handles: &["certificate.reissue"] },
    Worker { name: "sweep", handles: &["sweep.due"] },
    Worker { name: "query", handles: &["holdings.query", "status.query"] },
];

/// The delays after which a message is tried again: the first after the first, and so on.
pub const WAITS: &[Wait] = &[
    Wait { name: "1s", delay_ms: 1_000 },
    Wait { name: "10s", delay_ms: 10_000 },
    Wait { name: "1m", delay_ms: 60_000 },
    Wait { name: "10m", delay_ms: 600_000 },
];

/// One delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The last part of its queue's and exchange's name.
    pub name: &'static str,
    /// Milliseconds that a message stays.
    pub delay_ms: i64,
}

impl Wait {
    /// The name of its queue and of the fanout exchange before it.
    pub fn queue(&self) -> String {
        format!("licet.wait.{}", self.name)
    }
}

/// Where a message of this type is published: what a worker handles goes to it, even if it comes
/// from another worker; everything else is an event.
pub fn exchange_of(kind: &str) -> &'static str {
    if WORKERS.iter().any(|worker| worker.handles.contains(&kind)) { IN } else { EVENTS }
}

/// Whether what is published so comes to a queue that Licet itself reads. There it says which
/// broker user published it.
pub fn is_read_by_licet(exchange: &str, routing_key: &str) -> bool {
    match exchange {
        DEFAULT => routing_key.starts_with(RESERVED_PREFIX),
        IN | RETRY => true,
        other => WAITS.iter().any(|wait| wait.queue() == other),
    }
}

/// The work queue of a worker.
pub fn work_queue(worker: &str) -> String {
    format!("licet.{worker}")
}

/// The queue of a worker's dead letters.
pub fn dead_queue(worker: &str) -> String {
    format!("licet.dead.{worker}")
}

/// How an exchange routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExchangeKind {
    /// By patterns over the routing key.
    Topic,
    /// By the routing key.
    Direct,
    /// To every bound queue.
    Fanout,
}

impl ExchangeKind {
    /// The name in AMQP.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::Direct => "direct",
            Self::Fanout => "fanout",
        }
    }
}

/// A durable exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Its name.
    pub name: String,
    /// How it routes.
    pub kind: ExchangeKind,
}

/// The value of a queue argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
}

/// A durable quorum queue with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// Its arguments, `x-queue-type` among them.
    pub arguments: Vec<(&'static str, Argument)>,
}

/// A binding of a queue to an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The exchange.
    pub exchange: String,
    /// The queue.
    pub queue: String,
    /// The routing key.
    pub key: String,
}

/// The whole topology, in the order in which it can be declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Exchanges.
    pub exchanges: Vec<Exchange>,
    /// Queues.
    pub queues: Vec<Queue>,
    /// Bindings.
    pub bindings: Vec<Binding>,
}

/// The topology of this release.
pub fn topology() -> Topology {
    let mut exchanges = vec![
        exchange(IN, ExchangeKind::Topic),
        exchange(EVENTS, ExchangeKind::Topic),
        exchange(RETRY, ExchangeKind::Direct),
    ];
    let mut queues = vec![quorum(INSTRUCTED, DELIVERY_UNLIMITED, vec![])];
    let mut bindings =
        vec![binding(EVENTS, INSTRUCTED, "settlement.instructed"), binding(EVENTS, INSTRUCTED, "payout.instructed")];
    for worker in WORKERS {
        let (work, dead) = (work_queue(worker.name), dead_queue(worker.name));
        queues.push(quorum(&work, DELIVERY_LIMIT, dead_lettered(DEFAULT, Some(&dead))));
        queues.push(quorum(&dead, DELIVERY_UNLIMITED, vec![]));
        bindings.push(binding(RETRY, &work, &work));
        bindings.extend(worker.handles.iter().map(|kind| binding(IN, &work, kind)));
    }
    for wait in WAITS {
        exchanges.push(exchange(&wait.queue(), ExchangeKind::Fanout));
        let mut arguments = dead_lettered(RETRY, None);
        arguments.push(("x-message-ttl", Argument::Number(wait.delay_ms)));
        queues.push(quorum(&wait.queue(), DELIVERY_UNLIMITED, arguments));
        bindings.push(binding(&wait.queue(), &wait.queue(), ""));
    }
    Topology { exchanges, queues, bindings }
}

fn exchange(name: &str, kind: ExchangeKind) -> Exchange {
    Exchange { name: name.to_owned(), kind }
}

fn binding(exchange: &str, queue: &str, key: &str) -> Binding {
    Binding { exchange: exchange.to_owned(), queue: queue.to_owned(), key: key.to_owned() }
}

fn quorum(name: &str, delivery_limit: i64, more: Vec<(&'static str, Argument)>) -> Queue {
    let mut arguments = vec![
        ("x-queue-type", Argument::Text("quorum".into())),
        ("x-overflow", Argument::Text("reject-publish".into())),
        ("x-delivery-limit", Argument::Number(delivery_limit)),
    ];
    arguments.extend(more);
    Queue { name: name.to_owned(), arguments }
}

/// Dead letters are handed on at least once: they stay until their next queue has confirmed them.
fn dead_lettered(exchange: &str, key: Option<&str>) -> Vec<(&'static str, Argument)> {
    let mut arguments = vec![
        ("x-dead-letter-exchange", Argument::Text(exchange.into())),
        ("x-dead-letter-strategy", Argument::Text("at-least-once".into())),
    ];
    arguments.extend(key.map(|key| ("x-dead-letter-routing-key", Argument::Text(key.into()))));
    arguments
}

/// A policy: limits that operators tune, kept out of the queue arguments so that they can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub name: &'static str,
    /// A regular expression over queue names.
    pub pattern: &'static str,
    /// Most messages in the queue.
    pub max_length: i64,
    /// Most bytes of bodies in the queue.
    pub max_length_bytes: i64,
}

/// The limits to begin with. A full queue refuses a publish: the upstream sees a nack and waits.
pub const POLICIES: &[Policy] = &[
    Policy {
        name: "licet-work",
        pattern: "^licet\\.(catalog|purchase|reception|settlement|license|return|reissue|sweep|query)$",
        max_length: 2_000_000,
        max_length_bytes: 4 << 30,
    },
    Policy { name: "licet-dead", pattern: "^licet\\.dead\\.", max_length: 1_000_000, max_length_bytes: 1 << 30 },
    Policy { name: "licet-wait", pattern: "^licet\\.wait\\.", max_length: 1_000_000, max_length_bytes: 1 << 30 },
    Policy {
        name: "licet-instructed",
        pattern: "^licet\\.instructed$",
        max_length: 2_000_000,
        max_length_bytes: 1 << 30,
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Request;

    #[test]
    fn every_request_type_is_handled_by_exactly_one_worker() {
        for kind in Request::KINDS {
            let handlers = WORKERS.iter().filter(|worker| worker.handles.contains(kind)).count();
            assert_eq!(handlers, 1, "{kind} has {handlers} workers");
        }
        for worker in WORKERS {
            for kind in worker.handles {
                assert!(Request::KINDS.contains(kind), "{} handles {kind}, which does not exist", worker.name);
            }
        }
    }

    #[test]
    fn every_work_queue_is_quorum_and_loses_no_dead_letter() {
        let topology = topology();
        for worker in WORKERS {
            let name = work_queue(worker.name);
            let queue = topology.queues.iter().find(|queue| queue.name == name).expect("the work queue");
            for wanted in [
                ("x-queue-type", Argument::Text("quorum".into())),
                ("x-overflow", Argument::Text("reject-publish".into())),
                ("x-dead-letter-strategy", Argument::Text("at-least-once".into())),
                ("x-dead-letter-routing-key", Argument::Text(dead_queue(worker.name))),
            ] {
                assert!(queue.arguments.contains(&wanted), "{name} lacks {wanted:?}");
            }
        }
    }
}
