//! The program `licet`: prepares, runs and inspects Licet, and acts as an upstream system or a terminal.
//!
//! `commands` has one file for each command. Beside it is what several commands share:
//!
//! | module | what is in it |
//! |---|---|
//! | `cdnow` | real purchases as input |
//! | `driver` | an upstream system that runs purchases from request to license |
//! | `scenes` | the rare cases of the demo |
//! | `report` | the results of a run and of an audit, for people and for programs |
//! | `timeline` | histories for people |
//! | `jwks` | published keys |
//! | `ask` | one request from an operator |

mod ask;
mod cdnow;
mod commands;
mod driver;
mod jwks;
mod report;
mod scenes;
mod timeline;

use std::process::ExitCode;

use clap::Parser;

/// Sells, grants, takes back and reissues licenses over a message queue.
#[derive(Parser)]
#[command(name = "licet", version)]
struct Program {
    #[command(subcommand)]
    command: commands::Command,
}

fn main() -> ExitCode {
    match Program::parse().command.run() {
        Ok(code) => code,
        Err(failure) => failure.exit(),
    }
}
