//! The operator's tool: prepares, runs, watches and tries out Licet.

mod bench;
mod cdnow;
mod dead;
mod demo;
mod desk;
mod driver;
mod inspect;
mod prepare;
mod replay;
mod report;
mod scenes;
mod serve;
mod terminal;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use licet_client::Charges;
use licet_common::config::Settings;
use licet_workers::program::Failure;

#[derive(Parser)]
#[command(name = "licet", version, about = "Sells, grants, takes back and reissues licenses over a message queue.")]
struct Arguments {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Play the whole life of real purchases, in this process alone, and audit the result
    Demo(demo::Arguments),
    /// Run several workers (all, if none is named) in one process
    Serve {
        /// Which workers
        workers: Vec<String>,
    },
    /// Create or update the tables of the database
    Migrate,
    /// Prepare or check the broker
    #[command(subcommand)]
    Topology(prepare::Topology),
    /// Create or publish signing keys
    #[command(subcommand)]
    Keys(prepare::Keys),
    /// Play a payment provider, for trials
    Provider {
        /// Decline every charge instead of being paid
        #[arg(long)]
        decline: bool,
    },
    /// Restore a certificate that was lost, in its next generation
    Reissue(desk::Reissue),
    /// Deal with money that matches no purchase
    #[command(subcommand)]
    Unmatched(desk::Unmatched),
    /// Look at dead letters, send them back, or throw them away
    #[command(subcommand)]
    Dead(dead::Dead),
    /// Be the upstream: drive the purchases of a file through running workers
    Replay(replay::Arguments),
    /// Play a client terminal: buy, fetch, give back
    Terminal(terminal::Arguments),
    /// Tell the story of a purchase, certificate, license, return or user
    Show(inspect::Show),
    /// Verify a token offline
    Verify(inspect::Verify),
    /// Measure how fast it is, against workers that only answer
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Check the invariants of the database
    Audit {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(code) => code,
        Err(failure) => failure.exit(),
    }
}

fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    // What ends by itself tells its result; only trouble is worth a line besides.
    let log =
        if matches!(arguments.command, Command::Serve { .. } | Command::Provider { .. }) { "info" } else { "warn" };
    let config = licet_workers::program::configure(arguments.settings, log)?;
    let done = |()| ExitCode::SUCCESS;
    match arguments.command {
        Command::Demo(arguments) => demo::demo(&config, &arguments),
        Command::Serve { workers } => serve::serve(&config, &workers).map(done),
        Command::Migrate => prepare::migrate(&config).map(done),
        Command::Topology(command) => prepare::topology(&config, &command),
        Command::Keys(command) => prepare::keys(&config, &command).map(done),
        Command::Provider { decline } => {
            let charges = if decline { Charges::Fail } else { Charges::Succeed };
            serve::provider(&config, charges).map(done)
        }
        Command::Reissue(arguments) => desk::reissue(&config, &arguments),
        Command::Unmatched(command) => desk::unmatched(&config, &command),
        Command::Dead(command) => dead::dead(&config, &command),
        Command::Replay(arguments) => replay::replay(&config, &arguments),
        Command::Terminal(arguments) => terminal::terminal(&config, &arguments),
        Command::Show(arguments) => inspect::show(&config, &arguments),
        Command::Verify(arguments) => inspect::verify(&arguments),
        Command::Bench(command) => bench::bench(&config, &command),
        Command::Audit { json } => inspect::audit(&config, json),
    }
}
