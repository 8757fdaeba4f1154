//! The delays after which a failed message is tried again.

/// The delays between attempts. The first entry applies after the first failure. Each delay has its
/// own queue, because in a queue with mixed delays the first message would delay all messages
/// behind it. The delay of an existing queue cannot change, so a new delay needs a new name.
pub const WAITS: &[Wait] = &[
    Wait { name: "1s", delay_ms: 1_000 },
    Wait { name: "10s", delay_ms: 10_000 },
    Wait { name: "1m", delay_ms: 60_000 },
    Wait { name: "10m", delay_ms: 600_000 },
];

/// A delay before another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The last part of the name of the wait queue and its exchange.
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
