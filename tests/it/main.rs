//! Whole systems under test, in one binary.
//!
//! Everything that can run on the embedded transport and SQLite does; the same test functions run
//! again on RabbitMQ and PostgreSQL, where they are ignored unless `tests/run.sh` has started both.

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
mod proxy;
mod runtime;
mod simulation;
mod terminal;
mod world;
