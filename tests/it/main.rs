//! Whole systems under test, in one binary.
//!
//! Everything that can run on the embedded transport and SQLite does; the same test functions run
//! again on RabbitMQ and PostgreSQL, where they are ignored unless `tests/run.sh` has started both.

mod contracts;
mod failures;
mod flows;
mod intake;
mod processes;
mod programs;
mod runtime;
mod world;
