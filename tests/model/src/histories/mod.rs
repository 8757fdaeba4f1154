//! Random histories: sequences of messages that contain mistakes of many kinds.
//!
//! [`generator`] creates a history, which consists of [`script`] steps. [`player`] turns each step
//! into a message, with the ids and tokens that are known at that point.

pub(crate) mod contents;
mod foreign_tokens;
pub(crate) mod generator;
pub(crate) mod player;
pub(crate) mod script;
#[cfg(test)]
mod tests;
