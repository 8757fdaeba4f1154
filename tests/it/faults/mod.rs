//! Real services, really killed, under a steady load; and what is left afterwards.
//!
//! Each test has its own broker and database (`crate::nodes`), worker programs as processes, and a
//! network between them that can fail (`crate::proxy`). An upstream system that shares no code with
//! Licet (`load`) keeps a book of all it sent and heard (`ledger`). After the faults, of which each
//! must show that it happened: the auditor is content, every accepted request has its answer, every
//! repeated one the same answer byte for byte, and there is no dead letter.
//!
//! `LICET_TEST_SEED` repeats the choices of a run (not its timing). `LICET_TEST_SOAK_S` says for how
//! long the soak injects faults.

mod chance;
mod cluster;
mod drain;
mod ledger;
mod load;
mod network;
mod pressure;
mod services;
mod soak;
mod stage;
mod storm;
mod wire;
mod workers;
