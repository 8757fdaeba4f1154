//! Fault tests: real services are killed and the network fails while a steady load runs.
//!
//! Each test starts its own broker and database (`crate::nodes`), the worker programs as processes,
//! and proxies between them that can fail (`crate::proxy`). A client that shares no code with Licet
//! (`load`) records every message that it sent and received (`ledger`). Each fault must leave
//! evidence that it happened. At the end, every accepted request has a reply, every repeated
//! request has the same reply byte for byte, there is no dead letter, and the audit passes.
//!
//! `LICET_TEST_SEED` repeats the choices of a run, but not its timing. `LICET_TEST_SOAK_S` sets the
//! number of seconds for which the soak test injects faults.

mod cluster;
mod drain;
mod fixture;
mod ledger;
mod load;
mod network;
mod pressure;
mod random;
mod services;
mod set_up;
mod soak;
mod storm;
mod upgrade;
mod wire;
mod workers;
