//! Tests of complete systems, in one binary.
//!
//! Tests that can run on the in-process broker and SQLite do. The same test functions run again on
//! RabbitMQ and PostgreSQL, where they are ignored unless `tests/run.sh` has started both.

mod architecture;
mod audit;
mod bad_input;
mod bench;
mod bounds;
mod broker;
mod claims;
mod contracts;
mod dead;
mod events;
mod failures;
mod faults;
mod flows;
mod intake;
mod nodes;
mod operations;
mod overdue;
mod processes;
mod programs;
mod protocol;
mod proxy;
mod runtime;
mod simulation;
mod system;
mod terminal;
