//! `licet dead`: lists, shows, replays or discards dead letters.

use std::{process::ExitCode, time::Duration};

use clap::{Args, Subcommand, builder::PossibleValuesParser};
use licet_common::{
    clock::Clock,
    config::{
        CommandSettings,
        groups::{BROKER, LOG},
    },
    program::{Failure, block_on, configure, stop_signal},
    runtime::Trust,
    transport::Transport,
};
use licet_operator::dead_letters::{Action, Body, Details, Filter, Letter, Replayer, Scan, Scanned};
use licet_schema::Timestamp;
use licet_workers::registry;
use serde_json::{Value, json};

use super::LOG_OF_TOOLS;
use crate::report;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// List dead letters, one line each
    List {
        #[command(flatten)]
        selection: Selection,
    },
    /// Show dead letters in full, with their bodies
    Show {
        /// The message_ids of the letters [default: all that the filters select]
        #[arg(value_name = "MESSAGE_ID")]
        ids: Vec<String>,
        #[command(flatten)]
        selection: Selection,
    },
    /// Send dead letters back to their workers for another series of attempts
    Replay {
        /// The message_ids of the letters
        #[arg(value_name = "MESSAGE_ID")]
        ids: Vec<String>,
        #[command(flatten)]
        selection: Selection,
        /// The maximum number of letters per second
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        rate: u32,
    },
    /// Delete dead letters
    Discard {
        /// The message_ids of the letters
        #[arg(value_name = "MESSAGE_ID")]
        ids: Vec<String>,
        #[command(flatten)]
        selection: Selection,
        /// Confirm: a deleted letter cannot be restored
        #[arg(long)]
        yes: bool,
    },
}

/// The filters that select letters.
#[derive(Args)]
pub(crate) struct Selection {
    /// Only letters of this worker
    #[arg(long, value_name = "WORKER", value_parser = PossibleValuesParser::new(registry::names()))]
    queue: Option<String>,
    /// Only letters whose reason contains this text
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Only letters whose last failure is at least this long ago: 90s, 15m, 2h, 7d
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    older_than: Option<Duration>,
    /// Only letters whose last failure is at most this long ago
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    newer_than: Option<Duration>,
    /// The maximum number of letters to examine, over all queues
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    limit: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: CommandSettings<{ BROKER | LOG }>,
}

impl Selection {
    fn filter(&self, ids: &[String]) -> Filter {
        let now = Clock::System.now();
        let ago = |age: Duration| {
            let age_ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
            Timestamp::from_millis(now.as_millis().saturating_sub(age_ms))
        };
        Filter {
            ids: ids.to_vec(),
            worker: self.queue.clone(),
            reason: self.reason.clone(),
            before: self.older_than.map(ago),
            after: self.newer_than.map(ago),
        }
    }

    /// The filter of a command that replays or deletes letters. At least one condition is required,
    /// because a command without conditions is probably a mistake.
    fn explicit_filter(&self, ids: &[String]) -> Result<Filter, Failure> {
        let filter = self.filter(ids);
        if filter.is_open() {
            return Err(Failure::Usage(
                "no letters are selected: give message_ids, or select letters with --queue, --reason, --older-than \
                 or --newer-than; `licet dead list` lists them"
                    .into(),
            ));
        }
        Ok(filter)
    }
}

pub(crate) fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::List { selection } => scan(&selection, &selection.filter(&[]), Operation::List),
        Command::Show { ids, selection } => scan(&selection, &selection.filter(&ids), Operation::Show),
        Command::Replay { ids, selection, rate } => {
            scan(&selection, &selection.explicit_filter(&ids)?, Operation::Replay { rate })
        }
        Command::Discard { ids, selection, yes } => {
            let filter = selection.explicit_filter(&ids)?;
            if !yes {
                return Err(Failure::Usage(
                    "a discarded letter cannot be restored: check it with `licet dead show`, then add --yes".into(),
                ));
            }
            scan(&selection, &filter, Operation::Discard)
        }
    }
}

/// The operation on each selected letter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    List,
    Show,
    Replay { rate: u32 },
    Discard,
}

fn scan(selection: &Selection, filter: &Filter, operation: Operation) -> Result<ExitCode, Failure> {
    let config = configure(selection.settings.clone(), LOG_OF_TOOLS)?;
    let transport = Transport::rabbit(&config.amqp_url()?)?;
    let trust = Trust::new(transport.user(), config.senders.clone().into());
    block_on(async {
        let stop = stop_signal()?;
        let mut replayer = match operation {
            Operation::Replay { rate } => Some(Replayer::connect(&transport, rate).await.map_err(Failure::work)?),
            Operation::List | Operation::Show | Operation::Discard => None,
        };
        let (mut count, mut listed) = (0, Vec::new());
        let visit = async |letter: &Letter| {
            let action = match &mut replayer {
                Some(replayer) => replayer.replay(letter).await?,
                None if operation == Operation::Discard => Action::Remove,
                None => Action::Keep,
            };
            count += 1;
            match (selection.json, operation) {
                (true, Operation::Show) => listed.push(in_full(letter)),
                (true, _) => listed.push(json!(letter.details)),
                (false, Operation::Show) => report::print(page(letter)),
                (false, _) => report::print(line(&letter.details)),
            }
            Ok(action)
        };
        let scan = Scan { transport: &transport, trust: &trust, filter, limit: selection.limit, stop: &stop };
        let scanned = scan.run(visit).await;
        if let Some(replayer) = replayer {
            replayer.close().await;
        }
        if selection.json {
            // Printed after an error too, because it lists the letters that were processed before.
            let Scanned { examined, beyond_limit, .. } = scanned.as_ref().copied().unwrap_or_default();
            report::print(json!({"letters": listed, "looked_at": examined, "beyond_limit": beyond_limit}));
        }
        let scanned = scanned.map_err(Failure::work)?;
        if !selection.json {
            report::print(summary(scanned, count, operation));
        }
        if count == 0 && !filter.ids.is_empty() {
            return Err(Failure::Work(format!(
                "none of the {} examined letters has such a message_id: `licet dead list` lists the letters",
                scanned.examined
            )));
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn summary(scanned: Scanned, count: u32, operation: Operation) -> String {
    let Scanned { examined, beyond_limit, .. } = scanned;
    let done = match operation {
        Operation::List | Operation::Show => format!("{count} of {examined} dead letters"),
        Operation::Replay { .. } => format!("{count} of {examined} dead letters were sent back to their workers"),
        Operation::Discard => format!("{count} of {examined} dead letters were deleted"),
    };
    match beyond_limit {
        0 => format!("{done}."),
        _ => format!("{done}. Letters not examined: {beyond_limit} (increase --limit)."),
    }
}

fn line(details: &Details) -> String {
    let age = details.failed_at.map_or_else(|| "?".into(), age);
    let id = details.message_id.as_deref().unwrap_or("-");
    let attempts = if details.attempts == 1 { "1 attempt".into() } else { format!("{} attempts", details.attempts) };
    printable(&format!("{}  {id}  {}  {age}  {attempts}  {}", details.queue, details.kind, details.reason))
}

fn page(letter: &Letter) -> String {
    let mut text = String::new();
    for (name, value) in json!(letter.details).as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        text += &printable(&format!("{name:<16}  {value}"));
        text.push('\n');
    }
    let of_sender = letter.headers().iter().filter(|(name, _)| !name.starts_with("licet-"));
    for (name, value) in of_sender {
        text += &printable(&format!("header {name}: {value}"));
        text.push('\n');
    }
    let (name, body) = match letter.body() {
        Body::Request(value) => ("body", format!("{value:#}")),
        Body::Text(body) => ("body, not a valid request", body),
        Body::Hex(body) => ("body, not text, in hexadecimal digits", body),
    };
    let body: Vec<_> = body.lines().map(printable).collect();
    text + &format!("{name}:\n{}\n", body.join("\n"))
}

fn in_full(letter: &Letter) -> Value {
    let mut value = json!(letter.details);
    value["headers"] = json!(letter.headers());
    value["body"] = json!(letter.body());
    value
}

/// Replaces control characters, which could manipulate the terminal. The text comes from unknown
/// senders.
fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

/// The time since `at`, in the largest unit that gives a whole number above zero.
fn age(at: Timestamp) -> String {
    let seconds = (Clock::System.now().as_millis() - at.as_millis()).max(0) / 1000;
    let unit = UNITS.iter().rev().find(|(_, length_s)| seconds >= *length_s).unwrap_or(&UNITS[0]);
    format!("{}{}", seconds / unit.1, unit.0)
}

const UNITS: [(char, i64); 4] = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];

/// A whole number with a unit: `90s`, `15m`, `2h`, `7d`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "write a whole number and s, m, h or d, such as 15m".to_owned();
    let (_, length_s) = UNITS.into_iter().find(|(unit, _)| text.ends_with(*unit)).ok_or_else(wrong)?;
    let count: u32 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    Ok(Duration::from_secs(u64::from(count) * length_s.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_whole_number_with_a_unit() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("2h", 7200), ("7d", 604_800)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "s", "15", "1.5h", "-1d", "15 m", "soon"] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn control_characters_of_a_sender_never_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[2J\nb"), "a\u{fffd}[2J\u{fffd}b");
    }
}
