//! The program `licet`: prepares, runs and inspects Licet, and acts as an upstream system or a
//! terminal.
//!
//! `commands` contains one file for each command. The other modules are shared by several commands:
//!
//! | module | content |
//! |---|---|
//! | `cdnow` | reads real purchases as input |
//! | `driver` | an upstream system that runs purchases from request to license |
//! | `scenes` | the rare cases of the demo |
//! | `report` | the results of a run and of an audit, for people and for programs |
//! | `timeline` | prints histories for people |
//! | `jwks` | reads published keys |
//! | `ask` | sends one request for an operator |

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
use licet_common::program::Failure;

/// Sells, grants, takes back and reissues licenses over a message queue.
#[derive(Parser)]
#[command(name = "licet", version)]
struct Program {
    #[command(subcommand)]
    command: commands::Command,
}

fn main() -> ExitCode {
    let code = match Program::parse().command.run() {
        Ok(code) => code,
        Err(failure) => return failure.exit(),
    };
    match report::write_error() {
        // A command that failed keeps its own exit code.
        Some(error) if code == ExitCode::SUCCESS => {
            Failure::Work(format!("the output could not be written: {error}")).exit()
        }
        _ => code,
    }
}
