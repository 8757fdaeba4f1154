//! The commands, one file each. Each file contains the arguments of the command, with the settings
//! that it uses, and a function `run`.

mod audit;
mod check;
mod config;
mod dead;
mod demo;
mod keys;
mod migrate;
mod payouts;
mod provider;
mod reissue;
mod replay;
mod resend;
mod serve;
mod show;
mod terminal;
mod topology;
mod unmatched;
mod verify;

use std::process::ExitCode;

use clap::Subcommand;
use licet_common::program::Failure;

/// The default log filter of commands that run until they are stopped.
const LOG_OF_SERVICES: &str = "info";
/// The default log filter of commands that print a result.
const LOG_OF_TOOLS: &str = "warn";

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run real purchases and rare cases in one process, and audit the result
    Demo(demo::Arguments),
    /// Run workers in one process
    Serve(serve::Arguments),
    /// Create or update the tables of the database
    Migrate(migrate::Arguments),
    /// Check a running installation, and list what is wrong; exit code 1 if there is a problem
    Check(check::Arguments),
    /// Show the configuration
    #[command(subcommand)]
    Config(config::Command),
    /// Prepare or check the broker
    #[command(subcommand)]
    Topology(topology::Command),
    /// Create, export or retire signing keys
    #[command(subcommand)]
    Keys(keys::Command),
    /// Run a payment provider for trials
    Provider(provider::Arguments),
    /// Replace a lost certificate with its next generation
    Reissue(reissue::Arguments),
    /// List, assign or refund payments that match no purchase
    #[command(subcommand)]
    Unmatched(unmatched::Command),
    /// List the payouts for buy-backs, or instruct one again
    #[command(subcommand)]
    Payouts(payouts::Command),
    /// List, show, replay or discard dead letters
    #[command(subcommand)]
    Dead(dead::Command),
    /// Publish instructions and other events from the journal again
    Resend(resend::Arguments),
    /// Send the purchases in a file to running workers, as an upstream system does
    Replay(replay::Arguments),
    /// Act as a client terminal: buy certificates, fetch licenses, return licenses
    Terminal(terminal::Arguments),
    /// Show the history of a purchase, certificate, license, return or user
    Show(show::Arguments),
    /// Verify a token offline
    Verify(verify::Arguments),
    /// Check the invariants of the database
    Audit(audit::Arguments),
}

impl Command {
    /// Runs the command.
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Self::Demo(arguments) => demo::run(arguments),
            Self::Serve(arguments) => serve::run(arguments),
            Self::Migrate(arguments) => migrate::run(arguments),
            Self::Check(arguments) => check::run(arguments),
            Self::Config(command) => config::run(command),
            Self::Topology(command) => topology::run(command),
            Self::Keys(command) => keys::run(command),
            Self::Provider(arguments) => provider::run(arguments),
            Self::Reissue(arguments) => reissue::run(arguments),
            Self::Unmatched(command) => unmatched::run(command),
            Self::Payouts(command) => payouts::run(command),
            Self::Dead(command) => dead::run(command),
            Self::Resend(arguments) => resend::run(arguments),
            Self::Replay(arguments) => replay::run(arguments),
            Self::Terminal(arguments) => terminal::run(arguments),
            Self::Show(arguments) => show::run(arguments),
            Self::Verify(arguments) => verify::run(&arguments),
            Self::Audit(arguments) => audit::run(arguments),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clap::CommandFactory;
    use licet_common::config::{
        Groups, Settings,
        groups::{ALL, BROKER, DATABASE, ENGINE, KEYS, LOG, MANAGEMENT, TERMS, WORKER},
    };

    use crate::Program;

    /// The settings of every command without subcommands.
    const SETTINGS: [(&str, Groups); 30] = [
        ("demo", TERMS | ENGINE | LOG),
        ("serve", WORKER),
        ("migrate", DATABASE | LOG),
        ("topology apply", BROKER | LOG),
        ("topology check", BROKER | MANAGEMENT | LOG),
        ("check", BROKER | MANAGEMENT | DATABASE | KEYS | LOG),
        ("config check", ALL),
        ("topology policies", BROKER | LOG),
        ("keys new", KEYS | LOG),
        ("keys export", KEYS | LOG),
        ("keys retire", DATABASE | LOG),
        ("provider", BROKER | LOG),
        ("reissue", BROKER | LOG),
        ("unmatched list", DATABASE | LOG),
        ("unmatched assign", BROKER | DATABASE | LOG),
        ("unmatched refund", BROKER | DATABASE | LOG),
        ("payouts list", DATABASE | LOG),
        ("payouts instruct", BROKER | DATABASE | LOG),
        ("resend", BROKER | DATABASE | LOG),
        ("dead list", BROKER | LOG),
        ("dead show", BROKER | LOG),
        ("dead replay", BROKER | LOG),
        ("dead discard", BROKER | LOG),
        ("replay", BROKER | KEYS | LOG),
        ("terminal buy", BROKER | KEYS | LOG),
        ("terminal fetch", BROKER | KEYS | LOG),
        ("terminal return", BROKER | KEYS | LOG),
        ("show", DATABASE | LOG),
        ("verify", 0),
        ("audit", DATABASE | LOG),
    ];

    fn leaves(command: &clap::Command, path: &str, found: &mut BTreeMap<String, clap::Command>) {
        for one in command.get_subcommands().filter(|one| one.get_name() != "help") {
            let path = format!("{path} {}", one.get_name()).trim().to_owned();
            if one.has_subcommands() {
                leaves(one, &path, found);
            } else {
                found.insert(path, one.clone());
            }
        }
    }

    #[test]
    fn a_commands_help_lists_exactly_the_settings_that_it_uses_under_their_own_heading() {
        let mut program = Program::command();
        program.build();
        let mut found = BTreeMap::new();
        leaves(&program, "", &mut found);
        let mut expected: BTreeMap<_, _> = SETTINGS.iter().copied().collect();
        expected.insert("terminal list", 0);
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (path, command) in found {
            let in_help: Vec<_> = command
                .get_arguments()
                .filter(|argument| argument.get_help_heading() == Some("Settings"))
                .map(|argument| argument.get_id().to_string())
                .collect();
            let used = Settings::args(expected[path.as_str()]);
            let used: Vec<_> = used.map(|argument| argument.get_id().to_string()).collect();
            assert_eq!(in_help, used, "licet {path}");
        }
    }

    #[test]
    fn the_arguments_of_every_command_are_consistent() {
        Program::command().debug_assert();
    }
}
