//! The exchanges, queues, bindings, headers and policies of the broker, as data.
//!
//! Input: the list of workers ([`WorkerQueue`]). Outputs: the default [`Policy`] list, and the
//! [`Topology`], which `licet topology apply` declares and workers check when they start.
//!
//! Properties that are required for correctness are queue arguments. Limits that operators tune are
//! policies, because a policy can be changed later and an argument cannot.
//!
//! Deliberately absent: I/O. The transport reads this data.

use std::fmt;

mod policies;
mod retry_delays;

use crate::message::Request;

pub use policies::{Policy, policies};
pub use retry_delays::{WAITS, Wait};

/// The exchange that clients publish requests to. The routing key is the message type.
pub const IN: &str = "licet.in";
/// The exchange that Licet publishes events to. The routing key is the message type.
pub const EVENTS: &str = "licet.events";
/// The exchange that wait queues return their messages to. The routing key is the work queue's
/// name.
pub const RETRY: &str = "licet.retry";
/// The default exchange. The routing key is a queue's name.
pub const DEFAULT: &str = "";
/// The queue of instructions for payment providers. It stores each instruction until a provider
/// consumes it. It has no bindings: see [`queue_of`].
pub const INSTRUCTED: &str = "licet.instructed";
/// The message types that instruct a payment provider.
const INSTRUCTIONS: [&str; 2] = ["settlement.instructed", "payout.instructed"];

/// The prefix of the names of Licet's exchanges and queues. A `reply_to` must not begin with this
/// prefix. Otherwise, Licet would publish the reply to one of its own queues, with its own
/// permissions.
pub const RESERVED_PREFIX: &str = "licet.";

/// Header of every output: the `message_id` of the message that caused the output.
pub const HEADER_CAUSE: &str = "licet-cause";
/// Header of a dead letter: why the last attempt failed.
pub const HEADER_REASON: &str = "licet-reason";
/// Header of a delayed message or a dead letter: how many attempts were made.
pub const HEADER_ATTEMPT: &str = "licet-attempt";
/// Header of a delayed message, a dead letter or a replay: the broker user who sent the original
/// message. A copy cannot have the `user_id` of the original.
pub const HEADER_SENDER: &str = "licet-sender";
/// Header of a delayed message, a dead letter or a replay: the routing key of the original message,
/// which is its type.
pub const HEADER_ROUTING_KEY: &str = "licet-routing-key";
/// Header of a delayed message or a dead letter: why the first attempt failed.
pub const HEADER_FIRST_FAILURE: &str = "licet-first-failure";
/// Header of a delayed message or a dead letter: when the first attempt failed (RFC 3339).
pub const HEADER_FIRST_FAILED_AT: &str = "licet-first-failed-at";
/// Header of a dead letter: when the last attempt failed (RFC 3339).
pub const HEADER_FAILED_AT: &str = "licet-failed-at";
/// Header of a dead letter: the untrusted broker user who named the sender. Empty if the message
/// had no `user_id`.
pub const HEADER_CLAIMED_BY: &str = "licet-claimed-by";

/// The `app_id` of every output.
pub const APP_ID: &str = "licet";

/// The maximum size of a message body, in bytes. A larger message becomes a dead letter without
/// being decoded. With the supplied broker configuration (`max_message_size`), the broker rejects
/// it first.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// A delivery that was redelivered at least this many times is processed in a batch of its own,
/// because it may be the cause of worker crashes.
pub const SUSPECT_DELIVERIES: u32 = 3;

/// The delivery limit of work queues. The limit is high, because a crash of a worker increases the
/// delivery count of every message that the worker had prefetched. There is a limit, because a
/// message that no client library can parse must eventually leave its queue.
pub const DELIVERY_LIMIT: i64 = 200;

/// The delivery limit of the other queues, which is effectively no limit. RabbitMQ 4.x drops a
/// message after 20 deliveries unless the queue sets a limit, and some versions count browsing a
/// dead letter as a delivery.
pub const DELIVERY_UNLIMITED: i64 = 1_000_000_000;

/// The name and the message types of a worker, from which the topology is built. The registry in
/// the crate `licet-workers` lists all workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerQueue {
    /// The worker's name. Its queues are `licet.<name>` and `licet.dead.<name>`.
    pub name: &'static str,
    /// The message types that are routed to the worker.
    pub handles: &'static [&'static str],
}

/// The exchange that messages of this type are published to. Requests go to [`IN`], even if a
/// worker publishes them. All other messages are events.
pub fn exchange_of(kind: &str) -> &'static str {
    if Request::KINDS.contains(&kind) { IN } else { EVENTS }
}

/// The queue that must store every output of this type, if there is one. Such an output is published
/// to this queue through the default exchange, so that no missing binding can lose it, and to its
/// exchange like any other output.
pub fn queue_of(kind: &str) -> Option<&'static str> {
    INSTRUCTIONS.contains(&kind).then_some(INSTRUCTED)
}

/// Whether a message with this exchange and routing key is routed to a queue that Licet itself
/// reads. Licet sets `user_id` on such messages.
pub fn is_read_by_licet(exchange: &str, routing_key: &str) -> bool {
    match exchange {
        DEFAULT => routing_key.starts_with(RESERVED_PREFIX) && routing_key != INSTRUCTED,
        IN | RETRY => true,
        other => WAITS.iter().any(|wait| wait.queue() == other),
    }
}

/// The name of a worker's work queue.
pub fn work_queue(worker: &str) -> String {
    format!("licet.{worker}")
}

/// The name of a worker's dead-letter queue.
pub fn dead_queue(worker: &str) -> String {
    format!("licet.dead.{worker}")
}

/// How an exchange routes messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExchangeKind {
    /// By patterns that are matched against the routing key.
    Topic,
    /// By equality of the routing key.
    Direct,
    /// To every bound queue.
    Fanout,
}

impl ExchangeKind {
    /// The AMQP name.
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
    /// The exchange's name.
    pub name: String,
    /// How the exchange routes.
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
    /// The queue's name.
    pub name: String,
    /// The queue's arguments, including `x-queue-type`.
    pub arguments: Vec<(&'static str, Argument)>,
}

/// A binding of a queue to an exchange.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Binding {
    /// The exchange.
    pub exchange: String,
    /// The queue.
    pub queue: String,
    /// The routing key.
    pub key: String,
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { exchange, queue, key } = self;
        write!(f, "binding of {queue} to {exchange}")?;
        if key.is_empty() { Ok(()) } else { write!(f, " by {key}") }
    }
}

/// A topology. Declare its exchanges first, then its queues, then its bindings. Remove its obsolete
/// bindings last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// The exchanges.
    pub exchanges: Vec<Exchange>,
    /// The queues.
    pub queues: Vec<Queue>,
    /// The bindings.
    pub bindings: Vec<Binding>,
    /// Bindings that earlier versions declared and that must not exist.
    pub obsolete: Vec<Binding>,
}

/// The topology that these workers need.
pub fn topology(workers: &[WorkerQueue]) -> Topology {
    let mut exchanges = vec![
        exchange(IN, ExchangeKind::Topic),
        exchange(EVENTS, ExchangeKind::Topic),
        exchange(RETRY, ExchangeKind::Direct),
    ];
    let mut queues = vec![quorum(INSTRUCTED, DELIVERY_UNLIMITED, vec![])];
    let mut bindings = Vec::new();
    // With these bindings, each instruction would be in the queue twice.
    let obsolete = INSTRUCTIONS.iter().map(|kind| binding(EVENTS, INSTRUCTED, kind)).collect();
    for worker in workers {
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
    Topology { exchanges, queues, bindings, obsolete }
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

/// The arguments for at-least-once dead-lettering: a message stays in its queue until the target
/// queue has confirmed it.
fn dead_lettered(exchange: &str, key: Option<&str>) -> Vec<(&'static str, Argument)> {
    let mut arguments = vec![
        ("x-dead-letter-exchange", Argument::Text(exchange.into())),
        ("x-dead-letter-strategy", Argument::Text("at-least-once".into())),
    ];
    arguments.extend(key.map(|key| ("x-dead-letter-routing-key", Argument::Text(key.into()))));
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Output;

    const WORKERS: &[WorkerQueue] = &[
        WorkerQueue { name: "first", handles: &["purchase.request"] },
        WorkerQueue { name: "second", handles: &["sweep.due"] },
    ];

    #[test]
    fn the_policy_of_work_queues_names_every_worker() {
        assert_eq!(policies(WORKERS)[0].pattern, "^licet\\.(first|second)$");
    }

    #[test]
    fn an_instruction_has_a_queue_and_no_binding_can_bring_it_there_a_second_time() {
        let topology = topology(WORKERS);
        for kind in ["settlement.instructed", "payout.instructed"] {
            assert_eq!((queue_of(kind), exchange_of(kind)), (Some(INSTRUCTED), EVENTS));
            assert!(topology.obsolete.contains(&binding(EVENTS, INSTRUCTED, kind)));
            assert!(Output::KINDS.contains(&kind));
        }
        assert_eq!(queue_of("certificate.accepted"), None);
        assert!(topology.bindings.iter().all(|binding| binding.queue != INSTRUCTED));
    }

    #[test]
    fn every_work_queue_is_a_quorum_queue_that_dead_letters_at_least_once() {
        let topology = topology(WORKERS);
        for worker in WORKERS {
            let name = work_queue(worker.name);
            let queue = topology.queues.iter().find(|queue| queue.name == name).expect("the work queue");
            for expected in [
                ("x-queue-type", Argument::Text("quorum".into())),
                ("x-overflow", Argument::Text("reject-publish".into())),
                ("x-dead-letter-strategy", Argument::Text("at-least-once".into())),
                ("x-dead-letter-routing-key", Argument::Text(dead_queue(worker.name))),
            ] {
                assert!(queue.arguments.contains(&expected), "{name} lacks {expected:?}");
            }
        }
    }
}
