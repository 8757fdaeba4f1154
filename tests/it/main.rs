//! Tests of complete systems, in one binary.
//!
//! Tests run on the in-process broker and SQLite where possible. The same test functions also run
//! on RabbitMQ and PostgreSQL. These variants are ignored by default. `tests/run.sh` starts both
//! services and includes them.

mod architecture;
mod audit;
mod bad_input;
mod bench;
mod bounds;
mod broker;
mod cases;
mod claims;
mod contracts;
mod dead;
mod events;
mod failures;
mod faults;
mod flows;
mod guide;
mod installation;
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
mod tampering;
mod terminal;
