//! What programs for operators share: reading the state of a Licet system and acting on what needs a
//! person.
//!
//! | module | what is in it |
//! |---|---|
//! | [`audit`] | checks the invariants of a database |
//! | [`history`] | what happened to a purchase, certificate, license, return or user |
//! | [`dead_letters`] | lists, replays and removes dead letters |
//! | [`unmatched`] | payments that match no purchase |
//!
//! Nothing here prints, reads arguments, or changes a table: every change is a message to a worker.

pub mod audit;
pub mod dead_letters;
pub mod history;
pub mod unmatched;

#[cfg(test)]
mod fixture;
