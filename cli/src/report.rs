//! Writes the results of a run and of an audit to standard output, for people and for programs.

use std::{fmt::Write as _, io::Write as _, sync::OnceLock};

use licet_operator::audit::{Report, Violation, Warning};
use licet_schema::vocabulary::escaped;
use serde_json::json;

use crate::driver::Measured;

/// The error of the first write to standard output that failed. Nothing more is written after it.
static FAILED_WRITE: OnceLock<std::io::Error> = OnceLock::new();

/// Prints a text to standard output. If this fails, the command continues, because its exit code
/// must not depend on its output: see [`write_error`].
///
/// Every command prints through this function. Names, texts and reasons come from other systems, so
/// it escapes the characters with which they could manipulate a terminal or hide something.
pub(crate) fn print(text: impl std::fmt::Display) {
    if FAILED_WRITE.get().is_some() {
        return;
    }
    let text = text.to_string();
    let written = writeln!(std::io::stdout(), "{}", escaped(&text)).and_then(|()| std::io::stdout().flush());
    if let Err(error) = written {
        let _ = FAILED_WRITE.set(error);
    }
}

/// The reason the output is incomplete. A reader who has closed the pipe (`licet show … | head`) is
/// not an error.
pub(crate) fn write_error() -> Option<&'static std::io::Error> {
    FAILED_WRITE.get().filter(|error| error.kind() != std::io::ErrorKind::BrokenPipe)
}

/// The summary of a run, for people.
pub(crate) fn summary(measured: &Measured) -> String {
    let seconds = measured.elapsed.as_secs_f64();
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{} certificates of {} purchases ({} with several certificates) were bought, paid for and used for a license \
         in {seconds:.1} s: {:.0} lifecycles/s.",
        measured.lifecycles,
        measured.purchases,
        measured.containers,
        measured.lifecycles as f64 / seconds
    );
    let _ = writeln!(
        text,
        "The users paid {} and returned {} licenses for {} points. {} tokens were verified offline.\n",
        dollars(measured.paid_minor),
        measured.returned,
        measured.points,
        measured.tokens_verified
    );
    let _ = writeln!(text, "  {:<16} {:>10} {:>10}", "latency", "p50", "p99");
    for (stage, histogram) in &measured.stages {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        let _ = writeln!(text, "  {stage:<16} {:>7.1} ms {:>7.1} ms", at(0.5), at(0.99));
    }
    text
}

/// The result of an audit, for people.
pub(crate) fn verdict(report: &Report) -> String {
    let mut text = if report.violations.is_empty() {
        format!(
            "The audit passed: {} checks of the tables passed, and the tables agree with {} journal rows.\n",
            report.checks, report.journal_rows
        )
    } else {
        format!("The audit failed. Violations found: {}\n", report.violations.len())
    };
    for Violation { invariant, what, places } in &report.violations {
        let _ = writeln!(text, "  invariant {invariant}: {what}: {}", places.join(", "));
    }
    for Warning { what, count, oldest, places } in &report.warnings {
        let _ = writeln!(text, "Warning: {what}: {count}, the oldest since {oldest}: {}", places.join(", "));
    }
    text
}

/// The results of a run, as one JSON object.
pub(crate) fn json(measured: &Measured, peak_memory_bytes: Option<u64>, audit: Option<&Report>) -> serde_json::Value {
    let stages: serde_json::Map<_, _> = measured
        .stages
        .iter()
        .map(|(stage, histogram)| {
            let at = |quantile| histogram.value_at_quantile(quantile);
            (
                stage.replace(' ', "_"),
                json!({"p50_us": at(0.5), "p99_us": at(0.99), "p999_us": at(0.999), "count": histogram.len()}),
            )
        })
        .collect();
    json!({
        "lifecycles": measured.lifecycles,
        "lifecycles_per_s": measured.lifecycles as f64 / measured.elapsed.as_secs_f64(),
        "elapsed_ms": measured.elapsed.as_millis() as u64,
        "purchases": measured.purchases,
        "containers": measured.containers,
        "returned": measured.returned,
        "points": measured.points,
        "paid_minor": measured.paid_minor,
        "tokens_verified": measured.tokens_verified,
        "stages": stages,
        "peak_memory_bytes": peak_memory_bytes,
        "audit": audit,
    })
}

/// Formats a sum of prices in US cents. The sum can exceed the range of `Money`.
fn dollars(minor: u64) -> String {
    format!("{}.{:02} USD", minor / 100, minor % 100)
}

/// The peak memory of this process, if the operating system reports it (Linux).
pub(crate) fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_verdict_names_each_violation_with_its_places() {
        let mut report = Report { checks: 3, journal_rows: 7, violations: Vec::new(), warnings: Vec::new() };
        assert!(verdict(&report).starts_with("The audit passed: 3 checks"));
        let places = vec!["a".into(), "b".into()];
        report.violations.push(Violation { invariant: 5, what: "points do not sum to zero".into(), places });
        let failed = verdict(&report);
        assert!(failed.starts_with("The audit failed. Violations found: 1\n"), "{failed}");
        assert!(failed.contains("invariant 5: points do not sum to zero: a, b"), "{failed}");
    }

    #[test]
    fn a_verdict_lists_warnings_even_if_the_audit_passed() {
        let oldest = licet_schema::Timestamp::from_millis(0);
        let waiting = Warning { what: "buy-backs".into(), count: 2, oldest, places: vec!["a".into(), "b".into()] };
        let report = Report { checks: 3, journal_rows: 7, violations: Vec::new(), warnings: vec![waiting] };
        let text = verdict(&report);
        assert!(text.starts_with("The audit passed: 3 checks"), "{text}");
        assert!(text.ends_with("Warning: buy-backs: 2, the oldest since 1970-01-01T00:00:00Z: a, b\n"), "{text}");
    }

    #[test]
    fn every_command_prints_through_this_module_which_escapes_special_characters() {
        let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
        let mut printing = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder of the sources") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let source = std::fs::read_to_string(&path).expect("a source file");
                let is_print = |line: &str| {
                    (line.contains("stdout()") || line.contains("println!(\"")) && !line.contains("escaped(")
                };
                if !path.ends_with("src/report.rs") && source.lines().any(is_print) {
                    printing.push(path);
                }
            }
        }
        assert!(printing.is_empty(), "these files print without escaping: {printing:?}");
    }

    #[test]
    fn sums_of_cents_print_in_dollars() {
        assert_eq!(dollars(1287), "12.87 USD");
        assert_eq!(dollars(5), "0.05 USD");
    }
}
