//! Licet's contracts: everything that two programs, or two releases, must agree on.
//!
//! What stands here: the message types and their two encodings ([`message`], [`mod@format`]), the
//! vocabulary they are made of ([`vocabulary`], [`money`], [`timestamp`]), the refusal codes
//! ([`refusal`]), the names on the broker ([`topology`]) and, behind the feature `database`, the
//! tables ([`entity`]) and how they come to be ([`migration`]).
//!
//! Architecture invariant: no I/O, no clock, no randomness, and nothing of any particular worker.

mod wire;

pub mod format;
pub mod message;
pub mod money;
pub mod refusal;
pub mod timestamp;
pub mod topology;
pub mod vocabulary;

#[cfg(feature = "database")]
pub mod entity;
#[cfg(feature = "database")]
pub mod migration;

pub use format::{DecodeError, Format};
pub use message::{Output, Request};
pub use money::Money;
pub use refusal::{Code, Refusal};
pub use timestamp::Timestamp;
pub use vocabulary::{Count, ExternalId, Name, Seconds, Text, Version};
