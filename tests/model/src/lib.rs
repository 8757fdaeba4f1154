//! Tests of the rules over long sequences of messages, and in every order of delivery.
//!
//! | module | contents |
//! |---|---|
//! | `model` | the reference model, which predicts the response to every message |
//! | `invariants` | checks of the rows |
//! | `test_system` | rules and model side by side: each message is decided, predicted and checked |
//! | `histories` | random histories of several users and terminals |
//! | `orders` | every order in which the messages of one purchase can be delivered |
//! | [`simulation`] | whole workers with fault injection |
//!
//! In a random history, messages are repeated, arrive late, or contain wrong tokens or wrong
//! amounts, and the clock jumps.
//!
//! Random histories and delivery orders do not use the journal, the locks and the database of the
//! runtime. The simulation uses all of them.
#![cfg_attr(not(test), allow(dead_code, reason = "the simulation does not use everything that the tests use"))]

mod histories;
mod invariants;
mod model;
#[cfg(test)]
mod orders;
mod response;
pub mod simulation;
mod test_system;
