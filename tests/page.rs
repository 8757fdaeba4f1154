//! The figures of the last run, written into `docs/RELIABILITY.md`.
//!
//! The page is prose with places for figures, each between `<!-- figures: SUITE -->` and
//! `<!-- end -->`; only what stands between is written. A suite that has not run says so there.

use std::{fmt::Write as _, fs, io, path::PathBuf};

use licet_common::clock::Clock;
use serde_json::{Map, Value};

use crate::figures;

const BEGIN: &str = "<!-- figures: ";
const END: &str = "<!-- end -->";

fn page() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/RELIABILITY.md")
}

/// Writes the figures that are there into the page.
///
/// # Errors
/// A file cannot be read or written, or a place for figures does not end.
pub fn write() -> io::Result<()> {
    let old = fs::read_to_string(page())?;
    let mut new = String::with_capacity(old.len());
    let mut rest = old.as_str();
    while let Some((before, from)) = rest.split_once(BEGIN) {
        let unended = || io::Error::other(format!("a place for figures has no {END}"));
        let (suite, from) = from.split_once(" -->").ok_or_else(unended)?;
        let (_, after) = from.split_once(END).ok_or_else(unended)?;
        let _ = write!(new, "{before}{BEGIN}{suite} -->\n{}{END}", told(suite)?);
        rest = after;
    }
    fs::write(page(), new + rest)
}

/// What is told in the place of a suite.
fn told(suite: &str) -> io::Result<String> {
    let found = found(suite)?;
    if found.is_empty() {
        return Ok("This suite did not run.\n".into());
    }
    Ok(match suite {
        "run" => run(&found),
        "faults" => faults(&found),
        "simulation" => simulation(&found),
        _ => found.iter().map(|(_, figures)| lines(figures)).collect(),
    })
}

/// The figures of a suite's files, by their names: `faults` has `faults-broker`, `faults-network`, …
fn found(suite: &str) -> io::Result<Vec<(String, Value)>> {
    let wanted = if suite == "run" { "faults" } else { suite };
    let mut found = Vec::new();
    for file in fs::read_dir(figures::folder())? {
        let path = file?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let ours = name == wanted || name.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('-'));
        if ours && path.extension().is_some_and(|extension| extension == "json") {
            found.push((name, serde_json::from_str(&fs::read_to_string(&path)?)?));
        }
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(found)
}

/// When, and on what.
fn run(found: &[(String, Value)]) -> String {
    let of = |key: &str| found.iter().find_map(|(_, figures)| figures[key].as_str()).unwrap_or("unknown").to_owned();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (rabbitmq, postgresql, now) = (of("rabbitmq"), of("postgresql"), Clock::System.now());
    format!("Last run: {now}, RabbitMQ {rabbitmq}, PostgreSQL {postgresql}, {cores} processors.\n")
}

/// A row for each kind of fault, and sums.
fn faults(found: &[(String, Value)]) -> String {
    let mut told = "| fault | injected | recovery, median | longest | shown by |\n|---|---|---|---|---|\n".to_owned();
    let no_faults = Map::new();
    for (_, figures) in found {
        for (kind, fault) in figures["faults"].as_object().unwrap_or(&no_faults) {
            let recovery = |which: &str| fault["recovery_ms"][which].as_u64().map(|ms| format!("{ms} ms"));
            let _ = writeln!(
                told,
                "| {} | {} | {} | {} | {} |",
                kind.replace('_', " "),
                fault["injected"],
                recovery("p50").unwrap_or_default(),
                recovery("max").unwrap_or_default(),
                fault["shown_by"].as_str().unwrap_or_default(),
            );
        }
    }
    let sum = |key: &str| found.iter().filter_map(|(_, figures)| figures[key].as_u64()).sum::<u64>();
    let _ = writeln!(
        told,
        "\nIn all: {} requests accepted by the broker, {} replies heard, {} of them compared with one heard before, \
         {} requests sent again, {} events, {} events heard again and compared, {} publishes refused and tried again, \
         {} good messages among the dead letters.",
        sum("accepted"),
        sum("replies"),
        sum("compared"),
        sum("resent"),
        sum("events"),
        sum("events_again"),
        sum("nacks"),
        sum("dead_letters"),
    );
    told
}

/// The sums, and a row for each step of the loop.
fn simulation(found: &[(String, Value)]) -> String {
    let mut told = String::new();
    for (_, figures) in found {
        let mut plain = figures.as_object().cloned().unwrap_or_default();
        plain.remove("faults");
        told += &lines(&plain.into());
        told += "\n| fault | injected |\n|---|---|\n";
        for (fault, times) in figures["faults"].as_object().into_iter().flatten() {
            let _ = writeln!(told, "| {fault} | {times} |");
        }
    }
    told
}

/// A line for each figure, named by the path to it.
fn lines(figures: &Value) -> String {
    fn tell(path: &str, value: &Value, told: &mut String) {
        match value {
            Value::Object(inner) => {
                for (key, value) in inner {
                    let key = key.replace('_', " ");
                    tell(&if path.is_empty() { key } else { format!("{path}, {key}") }, value, told);
                }
            }
            Value::String(text) => drop(writeln!(told, "- {path}: {text}")),
            other => drop(writeln!(told, "- {path}: {other}")),
        }
    }
    let mut told = String::new();
    tell("", figures, &mut told);
    told
}
