//! Writes the figures of the last test run into `docs/reliability.md`.
//!
//! Input: the JSON files in [`figures::folder`], and the page. The markers `<!-- figures: SUITE
//! -->` and `<!-- end -->` enclose each section with figures. Only the text between these markers
//! is replaced. If a suite did not run, the text says so.

use std::{fmt::Write as _, fs, io, path::PathBuf};

use licet_common::clock::Clock;
use serde_json::{Map, Value};

use crate::figures;

const BEGIN: &str = "<!-- figures: ";
const END: &str = "<!-- end -->";

fn page() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/reliability.md")
}

/// Replaces the text between all markers of the page.
///
/// # Errors
/// A file cannot be read or written, or a marker has no end.
pub fn write() -> io::Result<()> {
    let old = fs::read_to_string(page())?;
    let mut new = String::with_capacity(old.len());
    let mut rest = old.as_str();
    while let Some((before, from)) = rest.split_once(BEGIN) {
        let no_end = || io::Error::other(format!("docs/reliability.md has a marker {BEGIN:?} without {END:?}"));
        let (suite, from) = from.split_once(" -->").ok_or_else(no_end)?;
        let (_, after) = from.split_once(END).ok_or_else(no_end)?;
        let _ = write!(new, "{before}{BEGIN}{suite} -->\n{}{END}", text_of(suite)?);
        rest = after;
    }
    fs::write(page(), new + rest)
}

/// The text between the markers of a suite.
fn text_of(suite: &str) -> io::Result<String> {
    let recorded = recorded(suite)?;
    if recorded.is_empty() {
        return Ok("This suite did not run.\n".into());
    }
    Ok(match suite {
        "run" => run(&recorded),
        "faults" => faults(&recorded),
        "simulation" => simulation(&recorded),
        _ => recorded.iter().map(|(_, figures)| lines(figures)).collect(),
    })
}

/// The figures that a suite recorded, by file name. A suite can have several files: `faults` has
/// `faults-network`, `faults-services` and others.
fn recorded(suite: &str) -> io::Result<Vec<(String, Value)>> {
    let wanted = if suite == "run" { "faults" } else { suite };
    let mut recorded = Vec::new();
    for file in fs::read_dir(figures::folder())? {
        let path = file?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let matches = name == wanted || name.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('-'));
        if matches && path.extension().is_some_and(|extension| extension == "json") {
            recorded.push((name, serde_json::from_str(&fs::read_to_string(&path)?)?));
        }
    }
    recorded.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(recorded)
}

/// The time of the report, the versions of the servers and the number of processors.
fn run(recorded: &[(String, Value)]) -> String {
    let version =
        |key: &str| recorded.iter().find_map(|(_, figures)| figures[key].as_str()).unwrap_or("unknown").to_owned();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let (rabbitmq, postgresql, now) = (version("rabbitmq"), version("postgresql"), Clock::System.now());
    format!("Last run: {now}, RabbitMQ {rabbitmq}, PostgreSQL {postgresql}, {processors} processors.\n")
}

/// One row for each kind of fault, and totals.
fn faults(recorded: &[(String, Value)]) -> String {
    let mut text =
        "| fault | injected | median recovery | longest recovery | evidence |\n|---|---|---|---|---|\n".to_owned();
    let no_faults = Map::new();
    for (_, figures) in recorded {
        for (kind, fault) in figures["faults"].as_object().unwrap_or(&no_faults) {
            let recovery = |key: &str| fault["recovery_ms"][key].as_u64().map(|ms| format!("{ms} ms"));
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} |",
                kind.replace('_', " "),
                fault["injected"],
                recovery("p50").unwrap_or_default(),
                recovery("max").unwrap_or_default(),
                fault["shown_by"].as_str().unwrap_or_default(),
            );
        }
    }
    let total = |key: &str| recorded.iter().filter_map(|(_, figures)| figures[key].as_u64()).sum::<u64>();
    let _ = writeln!(
        text,
        "\nTotal: {} requests accepted by the broker, {} replies received, {} of them compared with an earlier reply, \
         {} requests sent again, {} events, {} repeated events compared, {} publishes rejected and retried, \
         {} valid messages among the dead letters.",
        total("accepted"),
        total("replies"),
        total("compared"),
        total("resent"),
        total("events"),
        total("events_again"),
        total("nacks"),
        total("dead_letters"),
    );
    text
}

/// The totals, and one row for each kind of injected fault.
fn simulation(recorded: &[(String, Value)]) -> String {
    let mut text = String::new();
    for (_, figures) in recorded {
        let mut totals = figures.as_object().cloned().unwrap_or_default();
        totals.remove("faults");
        text += &lines(&totals.into());
        text += "\n| fault | injected |\n|---|---|\n";
        for (fault, count) in figures["faults"].as_object().into_iter().flatten() {
            let _ = writeln!(text, "| {fault} | {count} |");
        }
    }
    text
}

/// One line for each figure, with the path to it as its name.
fn lines(figures: &Value) -> String {
    fn append(path: &str, value: &Value, text: &mut String) {
        match value {
            Value::Object(inner) => {
                for (key, value) in inner {
                    let key = key.replace('_', " ");
                    append(&if path.is_empty() { key } else { format!("{path}, {key}") }, value, text);
                }
            }
            Value::String(string) => drop(writeln!(text, "- {path}: {string}")),
            other => drop(writeln!(text, "- {path}: {other}")),
        }
    }
    let mut text = String::new();
    append("", figures, &mut text);
    text
}
