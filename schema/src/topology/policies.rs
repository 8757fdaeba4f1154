//! The default queue policies, which limit the lengths and sizes of queues.

use super::WorkerQueue;

/// A queue policy, which contains limits that operators tune. Unlike a queue argument, a policy can
/// be changed later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The policy's name.
    pub name: &'static str,
    /// A regular expression that matches the names of the queues.
    pub pattern: String,
    /// The maximum number of messages in the queue.
    pub max_length: i64,
    /// The maximum size of all bodies in the queue, in bytes.
    pub max_length_bytes: i64,
}

/// The default limits. A full queue rejects published messages: the publisher receives a negative
/// confirm and can try again later.
pub fn policies(workers: &[WorkerQueue]) -> Vec<Policy> {
    let policy = |name, pattern: &str, max_length, max_length_bytes| Policy {
        name,
        pattern: pattern.to_owned(),
        max_length,
        max_length_bytes,
    };
    let names: Vec<_> = workers.iter().map(|worker| worker.name).collect();
    let work = format!("^licet\\.({})$", names.join("|"));
    vec![
        policy("licet-work", &work, 2_000_000, 4 << 30),
        policy("licet-dead", "^licet\\.dead\\.", 1_000_000, 1 << 30),
        policy("licet-wait", "^licet\\.wait\\.", 1_000_000, 1 << 30),
        policy("licet-instructed", "^licet\\.instructed$", 2_000_000, 1 << 30),
    ]
}
