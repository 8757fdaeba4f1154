//! Licet's contract: the definitions that all programs and all releases must agree on.
//!
//! - [`message`]: the messages and their bodies; [`encoding`]: their JSON encoding.
//! - [`vocabulary`], [`money`] and [`timestamp`]: the checked types used in bodies.
//! - [`refusal`]: the codes of refused requests.
//! - [`token`]: the claims of signed tokens.
//! - [`topology`]: exchanges, queues, bindings and headers.
//! - With the feature `database`: the tables (`entity`) and their migrations (`migration`).
//!
//! Deliberately absent: I/O (except for migration statements), clocks, randomness, and the rules of
//! the workers.

mod body;

pub mod encoding;
pub mod message;
pub mod money;
pub mod refusal;
pub mod timestamp;
pub mod token;
pub mod topology;
pub mod vocabulary;

#[cfg(feature = "database")]
pub mod entity;
#[cfg(feature = "database")]
pub mod migration;

pub use encoding::{DecodeError, EncodeError};
pub use message::{Output, Request};
pub use money::Money;
pub use refusal::{Code, Refusal};
pub use timestamp::Timestamp;
pub use vocabulary::{Count, ExternalId, InvalidValue, Name, Seconds, Text, Version};
