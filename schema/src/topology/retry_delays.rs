//! The delays after which a message that failed is tried again.

/// The delays before the attempts after a failure: the first entry follows the first failure. There is one
/// queue for each delay: in a queue with mixed delays, the first message holds up the rest.
pub const WAITS: &[Wait] = &[
    Wait { name: "1s", delay_ms: 1_000 },
    Wait { name: "10s", delay_ms: 10_000 },
    Wait { name: "1m", delay_ms: 60_000 },
    Wait { name: "10m", delay_ms: 600_000 },
];

/// A delay before another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The last part of the name of its queue and exchange.
    pub name: &'static str,
    /// The delay, in milliseconds.
    pub delay_ms: i64,
}

impl Wait {
    /// The name of the wait queue, and of the fanout exchange that routes to it.
    pub fn queue(&self) -> String {
        format!("licet.wait.{}", self.name)
    }
}
