//! `licet dead`: dead letters, looked at, sent back or thrown away.

use std::{process::ExitCode, time::Duration};

use clap::{Args, Subcommand, builder::PossibleValuesParser};
use licet_common::{clock::Clock, config::Config, runtime::Trust, transport::Transport};
use licet_schema::{Timestamp, topology::WORKERS};
use licet_workers::{
    dead::{Body, Fate, Filter, Letter, Look, Looked, Replayer, Told},
    program::{Failure, block_on, stop_signal},
};
use serde_json::{Value, json};

use crate::report;

/// `licet dead …`
#[derive(Subcommand)]
pub(crate) enum Dead {
    /// List dead letters, a line for each
    List {
        #[command(flatten)]
        which: Which,
    },
    /// Show dead letters with all they tell, and their bodies
    Show {
        /// Their message_ids; all that the filters allow, if none is named
        ids: Vec<String>,
        #[command(flatten)]
        which: Which,
    },
    /// Send dead letters back to their worker, for another series of attempts
    Replay {
        /// Their message_ids
        ids: Vec<String>,
        #[command(flatten)]
        which: Which,
        /// Letters a second
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        rate: u32,
    },
    /// Throw dead letters away, for good
    Discard {
        /// Their message_ids
        ids: Vec<String>,
        #[command(flatten)]
        which: Which,
        /// Do it
        #[arg(long)]
        yes: bool,
    },
}

/// Which letters are meant.
#[derive(Args)]
pub(crate) struct Which {
    /// Only those of this worker
    #[arg(long, value_name = "WORKER", value_parser = PossibleValuesParser::new(WORKERS.iter().map(|worker| worker.name)))]
    queue: Option<String>,
    /// Only those whose reason contains this
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Only those that failed last so long ago: 90s, 15m, 2h, 7d
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    older_than: Option<Duration>,
    /// Only those that failed last since then
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    newer_than: Option<Duration>,
    /// Look at no more letters than this, over all queues
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    limit: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Which {
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

    /// What changes anything needs to be told which letters are meant.
    fn some(&self, ids: &[String]) -> Result<Filter, Failure> {
        let filter = self.filter(ids);
        if filter.is_open() {
            let which = "name the letters by their message_ids, or choose them with --queue, --reason, --older-than or --newer-than";
            return Err(Failure::Usage(format!("no letter is named: {which}. `licet dead list` shows what is there")));
        }
        Ok(filter)
    }
}

pub(crate) fn dead(config: &Config, command: &Dead) -> Result<ExitCode, Failure> {
    match command {
        Dead::List { which } => look(config, which, &which.filter(&[]), Act::List),
        Dead::Show { ids, which } => look(config, which, &which.filter(ids), Act::Show),
        Dead::Replay { ids, which, rate } => look(config, which, &which.some(ids)?, Act::Replay { rate: *rate }),
        Dead::Discard { ids, which, yes } => {
            let filter = which.some(ids)?;
            if !yes {
                let what = "what is discarded is gone for good: look at it with `licet dead show`, then say --yes";
                return Err(Failure::Usage(what.into()));
            }
            look(config, which, &filter, Act::Discard)
        }
    }
}

/// What is done with each letter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Act {
    List,
    Show,
    Replay { rate: u32 },
    Discard,
}

fn look(config: &Config, which: &Which, filter: &Filter, act: Act) -> Result<ExitCode, Failure> {
    let transport = Transport::rabbit(config.amqp_url()?)?;
    let trust = Trust::new(transport.user(), config.senders.clone().into());
    block_on(async {
        let stop = stop_signal()?;
        let mut replayer = match act {
            Act::Replay { rate } => Some(Replayer::connect(&transport, rate).await?),
            Act::List | Act::Show | Act::Discard => None,
        };
        let (mut met, mut listed) = (0, Vec::new());
        let visit = async |letter: &Letter| {
            let fate = match &mut replayer {
                Some(replayer) => replayer.replay(letter).await?,
                None if act == Act::Discard => Fate::Taken,
                None => Fate::Left,
            };
            met += 1;
            match (which.json, act) {
                (true, Act::Show) => listed.push(in_full(letter)),
                (true, _) => listed.push(json!(letter.told)),
                (false, Act::Show) => report::tell(page(letter)),
                (false, _) => report::tell(line(&letter.told)),
            }
            Ok(fate)
        };
        let look = Look { transport: &transport, trust: &trust, filter, limit: which.limit, stop: &stop };
        let looked = look.through(visit).await;
        if let Some(replayer) = replayer {
            replayer.close().await;
        }
        if which.json {
            // What was done before any trouble is told all the same.
            let Looked { at, beyond, .. } = looked.as_ref().copied().unwrap_or_default();
            report::tell(json!({"letters": listed, "looked_at": at, "beyond_limit": beyond}));
        }
        let looked = looked?;
        if !which.json {
            report::tell(summary(looked, met, act));
        }
        if met == 0 && !filter.ids.is_empty() {
            let where_to_look = "`licet dead list` shows what is there";
            return Err(Failure::Work(format!("no such letter is among the {} looked at: {where_to_look}", looked.at)));
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn summary(looked: Looked, met: u32, act: Act) -> String {
    let Looked { at, beyond, .. } = looked;
    let done = match act {
        Act::List | Act::Show => format!("{met} of {at} dead letters"),
        Act::Replay { .. } => format!("{met} of {at} dead letters went back to their workers"),
        Act::Discard => format!("{met} of {at} dead letters are gone"),
    };
    match beyond {
        0 => format!("{done}."),
        _ => format!("{done}; {beyond} more were not looked at: give a higher --limit."),
    }
}

fn line(told: &Told) -> String {
    let age = told.failed_at.map_or_else(|| "?".into(), age);
    let id = told.message_id.as_deref().unwrap_or("-");
    let attempts = if told.attempts == 1 { "1 attempt".into() } else { format!("{} attempts", told.attempts) };
    plain(&format!("{}  {id}  {}  {age}  {attempts}  {}", told.queue, told.kind, told.reason))
}

fn page(letter: &Letter) -> String {
    let mut text = String::new();
    for (name, value) in json!(letter.told).as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        text += &plain(&format!("{name:<16}  {value}"));
        text.push('\n');
    }
    let own = letter.headers().iter().filter(|(name, _)| !name.starts_with("licet-"));
    for (name, value) in own {
        text += &plain(&format!("header {name}: {value}"));
        text.push('\n');
    }
    let (name, body) = match letter.body() {
        Body::Request(value) => ("body", format!("{value:#}")),
        Body::Text(body) => ("body, no sound request", body),
        Body::Hex(body) => ("body, no text, in hexadecimal digits", body),
    };
    let body: Vec<_> = body.lines().map(plain).collect();
    text + &format!("{name}:\n{}\n", body.join("\n"))
}

fn in_full(letter: &Letter) -> Value {
    let mut value = json!(letter.told);
    value["headers"] = json!(letter.headers());
    value["body"] = json!(letter.body());
    value
}

/// Without what would move a terminal's cursor: strangers have written it.
fn plain(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

/// How long ago, in its largest whole unit.
fn age(at: Timestamp) -> String {
    let seconds = (Clock::System.now().as_millis() - at.as_millis()).max(0) / 1000;
    let unit = UNITS.iter().rev().find(|(_, length_s)| seconds >= *length_s).unwrap_or(&UNITS[0]);
    format!("{}{}", seconds / unit.1, unit.0)
}

const UNITS: [(char, i64); 4] = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "write a whole number and s, m, h or d, such as 15m".to_owned();
    let (_, length_s) = UNITS.into_iter().find(|(unit, _)| text.ends_with(*unit)).ok_or_else(wrong)?;
    let count: u32 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    Ok(Duration::from_secs(u64::from(count) * length_s.unsigned_abs()))
}
