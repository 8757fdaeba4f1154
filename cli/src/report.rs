//! What a person reads after a run, and what a program reads.

use std::{fmt::Write as _, io::Write as _};

use licet_workers::{
    audit::{Report, Violation},
    story::Story,
};
use serde_json::json;

use crate::driver::Measured;

/// Says it on standard output. Whoever reads has gone (`licet show … | head`): so do we.
pub(crate) fn tell(text: impl std::fmt::Display) {
    if writeln!(std::io::stdout(), "{text}").is_err() {
        std::process::exit(0);
    }
}

/// The summary, for people.
pub(crate) fn summary(measured: &Measured) -> String {
    let seconds = measured.elapsed.as_secs_f64();
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{} certificates in {} purchases ({} of them containers) lived their whole life in {seconds:.1} s: {:.0} lifecycles/s.",
        measured.lifecycles,
        measured.purchases,
        measured.containers,
        measured.lifecycles as f64 / seconds
    );
    let _ = writeln!(
        text,
        "{} were paid; {} licenses came back for {} points; {} tokens verified offline.\n",
        dollars(measured.paid_minor),
        measured.returned,
        measured.points,
        measured.tokens_verified
    );
    let _ = writeln!(text, "  {:<16} {:>10} {:>10}", "", "p50", "p99");
    for (stage, histogram) in &measured.stages {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        let _ = writeln!(text, "  {stage:<16} {:>7.1} ms {:>7.1} ms", at(0.5), at(0.99));
    }
    text
}

/// A purchase's story as a timeline.
pub(crate) fn timeline(story: &Story) -> String {
    let mut text = format!("Purchase {} by {}\n", story.purchase, story.user);
    for certificate in &story.certificates {
        let _ = writeln!(text, "  certificate {certificate}");
    }
    let began = story.chapters.first().map_or(0, |chapter| chapter.at.as_millis());
    for chapter in &story.chapters {
        let refused = chapter.code.as_ref().map(|code| format!("  refused: {code}")).unwrap_or_default();
        let _ = writeln!(text, "  {:>11}  {}{refused}", elapsed(chapter.at.as_millis() - began), chapter.kind);
        for event in &chapter.events {
            let _ = writeln!(text, "               → {event}");
        }
    }
    text
}

fn elapsed(millis: i64) -> String {
    match millis {
        ..600_000 => format!("+{millis} ms"),
        600_000..172_800_000 => format!("+{} h", millis / 3_600_000),
        _ => format!("+{} days", millis / 86_400_000),
    }
}

/// The auditor's verdict.
pub(crate) fn verdict(report: &Report) -> String {
    if report.violations.is_empty() {
        return format!(
            "The auditor is content: {} checks of the tables hold, and so does what {} journal rows tell.\n",
            report.checks, report.journal_rows
        );
    }
    let mut text = format!("The auditor found {} invariants broken:\n", report.violations.len());
    for Violation { invariant, what, places } in &report.violations {
        let _ = writeln!(text, "  invariant {invariant}: {what}: {}", places.join(", "));
    }
    text
}

/// All of a run as one JSON object.
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

fn dollars(minor: u64) -> String {
    format!("{}.{:02} USD", minor / 100, minor % 100)
}

/// The most memory this process has held, where the operating system says (Linux).
pub(crate) fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}
