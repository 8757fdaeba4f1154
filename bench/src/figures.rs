//! The report: the runs, the ratios between them, and the medians of the rounds.

use std::{collections::BTreeMap, fmt::Write as _};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{
    Common,
    load::{Measured, STAGES},
};

/// The results of a measurement.
#[derive(Serialize)]
pub(super) struct Report {
    /// The mode.
    pub(super) mode: &'static str,
    /// The options.
    pub(super) options: Common,
    /// The machine, and the versions and settings of the servers.
    pub(super) machine: BTreeMap<String, String>,
    /// Every run, in order.
    pub(super) runs: Vec<Run>,
    /// The ratios between runs.
    pub(super) ratios: Vec<Ratio>,
}

/// One run.
#[derive(Clone, Serialize)]
pub(super) struct Run {
    /// The number of the round, from 1.
    pub(super) round: u16,
    /// The measured system: `full`, `ceiling` and so on.
    pub(super) what: String,
    /// The load: `peak`, `schedule` (a fixed rate) or `alone` (one lifecycle at a time).
    pub(super) load: &'static str,
    /// The number of lifecycles that ended during the measurement.
    pub(super) lifecycles: u64,
    /// The duration of the measurement, in seconds.
    pub(super) seconds: f64,
    /// Lifecycles per second.
    pub(super) lifecycles_per_s: f64,
    /// Processor milliseconds per lifecycle, by part.
    pub(super) cpu_ms: BTreeMap<&'static str, f64>,
    /// The time from request to reply, by message type, and of all requests (`any`).
    pub(super) requests: BTreeMap<&'static str, Latency>,
    /// The time of a whole lifecycle. At a fixed rate, it counts from the scheduled time.
    pub(super) lifecycle: Latency,
    /// The peak resident memory of each worker, in MB.
    pub(super) resident_mb: BTreeMap<String, f64>,
}

/// A distribution of times, in microseconds.
#[derive(Clone, Serialize)]
pub(super) struct Latency {
    pub(super) count: u64,
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
    pub(super) p999_us: u64,
}

/// A ratio or another figure of each round, with a target if one is defined.
#[derive(Clone, Serialize)]
pub(super) struct Ratio {
    /// The compared figures, for example `full / ceiling, CPU per lifecycle`.
    pub(super) name: String,
    /// The figure of each round.
    pub(super) rounds: Vec<f64>,
    /// The median of the rounds.
    pub(super) median: f64,
    /// The target of the median, if there is one.
    pub(super) target: Option<Target>,
    /// Whether the median meets the target.
    pub(super) met: Option<bool>,
}

/// A limit for a ratio.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Ratio {
    /// Computes the median of the rounds, and compares it with the target.
    pub(super) fn new(name: impl Into<String>, rounds: Vec<f64>, target: Option<Target>) -> Self {
        let median = median(&rounds);
        let met = target.map(|target| match target {
            Target::AtLeast(least) => median >= least,
            Target::AtMost(most) => median <= most,
        });
        Self { name: name.into(), rounds, median, target, met }
    }

    fn verdict(&self) -> String {
        let met = if self.met == Some(true) { "met" } else { "MISSED" };
        match self.target {
            Some(Target::AtLeast(least)) => format!(", at least {least}: {met}"),
            Some(Target::AtMost(most)) => format!(", at most {most}: {met}"),
            None => String::new(),
        }
    }
}

impl Latency {
    pub(super) fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self { count: histogram.len(), p50_us: at(0.5), p99_us: at(0.99), p999_us: at(0.999) }
    }
}

impl Run {
    pub(super) fn of(round: u16, what: &str, load: &'static str, measured: &Measured) -> Self {
        let (seconds, count) = (measured.elapsed.as_secs_f64(), measured.lifecycles.max(1) as f64);
        let of_each = |used: &std::time::Duration| used.as_secs_f64() * 1000.0 / count;
        let requested = STAGES.into_iter().zip(&measured.stages).filter(|(_, times)| !times.is_empty());
        let mut any = super::load::histogram();
        measured.stages.iter().for_each(|stage| {
            let _ = any.add(stage);
        });
        let mut requests: BTreeMap<_, _> = requested.map(|(stage, times)| (stage, Latency::of(times))).collect();
        requests.insert("any", Latency::of(&any));
        Self {
            round,
            what: what.to_owned(),
            load,
            lifecycles: measured.lifecycles,
            seconds,
            lifecycles_per_s: measured.lifecycles as f64 / seconds,
            cpu_ms: measured.cpu.0.iter().map(|(part, used)| (*part, of_each(used))).collect(),
            requests,
            lifecycle: Latency::of(&measured.whole),
            resident_mb: BTreeMap::new(),
        }
    }

    pub(super) fn cpu_ms_of_all(&self) -> f64 {
        self.cpu_ms.values().sum()
    }
}

/// The median: the middle value, or the mean of the two middle values.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let (low, high) = (sorted.len().saturating_sub(1) / 2, sorted.len() / 2);
    match (sorted.get(low), sorted.get(high)) {
        (Some(low), Some(high)) => (low + high) / 2.0,
        _ => f64::NAN,
    }
}

impl Report {
    /// The report as text.
    pub(super) fn table(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.machine {
            let _ = writeln!(text, "{name}: {value}");
        }
        let _ = writeln!(
            text,
            "\n{:<5} {:<21} {:<9} {:>12}  {:>9} {:>9} {:>9}  CPU ms per lifecycle",
            "round", "what", "load", "lifecycles/s", "p50 ms", "p99 ms", "p99.9 ms"
        );
        for run in &self.runs {
            let ms = |us: u64| us as f64 / 1000.0;
            let latency = if run.load == "alone" { &run.requests["any"] } else { &run.lifecycle };
            let parts: Vec<_> = run.cpu_ms.iter().map(|(part, ms)| format!("{part} {ms:.3}")).collect();
            let _ = writeln!(
                text,
                "{:<5} {:<21} {:<9} {:>12.0}  {:>9.1} {:>9.1} {:>9.1}  {:.3} ({})",
                run.round,
                run.what,
                run.load,
                run.lifecycles_per_s,
                ms(latency.p50_us),
                ms(latency.p99_us),
                ms(latency.p999_us),
                run.cpu_ms_of_all(),
                parts.join(", ")
            );
        }
        let _ = writeln!(text);
        for ratio in &self.ratios {
            let rounds: Vec<_> = ratio.rounds.iter().map(|round| format!("{round:.2}")).collect();
            let (name, median, verdict) = (&ratio.name, ratio.median, ratio.verdict());
            let _ = writeln!(text, "{name}: {median:.2} (rounds: {}){verdict}", rounds.join(", "));
        }
        let resident = self.runs.iter().flat_map(|run| &run.resident_mb);
        if let Some((worker, mb)) = resident.max_by(|one, other| one.1.total_cmp(other.1)) {
            let _ = writeln!(text, "Peak memory of a worker: {mb:.1} MB ({worker})");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_value_or_the_mean_of_the_two_middle_values() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_target_is_compared_with_the_median() {
        let met = |rounds: &[f64], target| Ratio::new("one", rounds.to_vec(), target).met;
        assert_eq!(met(&[0.7, 0.9, 0.8], Some(Target::AtLeast(0.8))), Some(true));
        assert_eq!(met(&[3.0, 3.2], Some(Target::AtMost(3.0))), Some(false));
        assert_eq!(met(&[3.0], None), None);
    }
}
