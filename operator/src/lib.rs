//! The library for operator programs. It reads the state of a Licet system, and handles dead
//! letters, unmatched payments and failed payouts, which need a decision by a person.
//!
//! | module | content |
//! |---|---|
//! | [`audit`] | checks the invariants of a database |
//! | [`installation`] | checks the broker, the database, the keys and the workers |
//! | [`history`] | shows the history of a purchase, certificate, license, return or user |
//! | [`dead_letters`] | lists, replays and removes dead letters |
//! | [`resend`] | publishes outputs from the journal again |
//! | [`unmatched`] | lists, assigns and refunds payments that match no purchase |
//! | [`payouts`] | lists payouts for buy-backs, and instructs them again |
//!
//! The library does not print, read arguments or change tables. Every change is a message to a
//! worker. An instruction that is sent again is a message to a payment provider.

pub mod audit;
pub mod dead_letters;
pub mod history;
pub mod installation;
pub mod payouts;
pub mod resend;
pub mod unmatched;

#[cfg(test)]
mod fixture;
