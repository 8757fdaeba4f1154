//! Draws a report as a chart: lifecycles per second and processor time of every run at peak load,
//! and latencies of lifecycles. The SVG text is written directly, because three groups of bars need
//! no plotting library.

use std::fmt::Write as _;

use super::figures::{Report, Run};

const WIDTH: f64 = 900.0;
const LEFT: f64 = 190.0;
const RIGHT: f64 = 90.0;
const ROW: f64 = 22.0;
const BAR: f64 = 14.0;
const GAP: f64 = 56.0;

const PARTS: [(&str, &str); 4] =
    [("broker", "#d97706"), ("database", "#2563eb"), ("workers", "#16a34a"), ("driver", "#9ca3af")];
const QUANTILES: [(&str, &str); 3] = [("p50", "#16a34a"), ("p99", "#d97706"), ("p99.9", "#dc2626")];

/// Draws a report as SVG text.
pub(super) fn svg(report: &Report) -> String {
    let mut chart = Chart { body: String::new(), y: 30.0 };
    chart.heading(&format!("licet-bench {}", report.mode), 18);
    for ratio in &report.ratios {
        chart.line(&format!("{}: {:.2}", ratio.name, ratio.median));
    }
    let peak: Vec<&Run> = report.runs.iter().filter(|run| run.load == "peak").collect();
    chart.speeds(&peak);
    chart.processors(&peak);
    let timed = |run: &&Run| run.lifecycle.count > 0 && run.load != "alone";
    chart.latencies(&report.runs.iter().filter(timed).collect::<Vec<_>>());
    let height = chart.y + 20.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{}</svg>\n",
        chart.body
    )
}

struct Chart {
    body: String,
    /// The vertical position of the next line.
    y: f64,
}

impl Chart {
    fn speeds(&mut self, runs: &[&Run]) {
        self.section("Lifecycles per second at peak load");
        let most = runs.iter().map(|run| run.lifecycles_per_s).fold(1.0, f64::max);
        for run in runs {
            let color = if run.what.starts_with("ceiling") || run.what == "crypto" { "#9ca3af" } else { "#2563eb" };
            self.label(run);
            self.bar(LEFT, scaled(run.lifecycles_per_s, most), color);
            self.value(LEFT + scaled(run.lifecycles_per_s, most), &format!("{:.0}", run.lifecycles_per_s));
            self.y += ROW;
        }
    }

    fn processors(&mut self, runs: &[&Run]) {
        self.section("Processor milliseconds per lifecycle at peak load");
        self.legend(&PARTS);
        let most = runs.iter().map(|run| run.cpu_ms_of_all()).fold(f64::MIN_POSITIVE, f64::max);
        for run in runs {
            self.label(run);
            let mut x = LEFT;
            for (part, color) in PARTS {
                let width = scaled(run.cpu_ms.get(part).copied().unwrap_or(0.0), most);
                self.bar(x, width, color);
                x += width;
            }
            self.value(x, &format!("{:.3}", run.cpu_ms_of_all()));
            self.y += ROW;
        }
    }

    fn latencies(&mut self, runs: &[&Run]) {
        self.section("Milliseconds of a whole lifecycle (logarithmic; at a fixed rate: from the scheduled time)");
        self.legend(&QUANTILES);
        // From 0.1 ms to 10 s.
        let place = |us: u64| LEFT + (us.max(100) as f64 / 100.0).log10() / 5.0 * (WIDTH - LEFT - RIGHT);
        let top = self.y;
        for run in runs {
            self.label(run);
            let quantiles = [run.lifecycle.p50_us, run.lifecycle.p99_us, run.lifecycle.p999_us];
            for (us, (_, color)) in quantiles.into_iter().zip(QUANTILES) {
                let (x, y) = (place(us), self.y - 4.0);
                let _ = writeln!(self.body, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{color}\"/>");
            }
            self.y += ROW;
        }
        for (us, name) in [(100, "0.1"), (1_000, "1"), (10_000, "10"), (100_000, "100"), (1_000_000, "1000")] {
            let (x, bottom) = (place(us), self.y - 12.0);
            let _ = writeln!(
                self.body,
                "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\" stroke=\"#e5e7eb\"/>",
                top - 12.0
            );
            self.text(x, self.y, "middle", 11, name);
        }
        self.y += ROW;
    }

    fn section(&mut self, title: &str) {
        self.y += GAP - ROW;
        self.heading(title, 14);
    }

    fn heading(&mut self, title: &str, size: u8) {
        self.text(20.0, self.y, "start", size, title);
        self.y += ROW + 4.0;
    }

    fn line(&mut self, text: &str) {
        self.text(20.0, self.y, "start", 12, text);
        self.y += ROW - 4.0;
    }

    fn legend(&mut self, names: &[(&str, &str)]) {
        for (index, (name, color)) in names.iter().enumerate() {
            let x = LEFT + index as f64 * 100.0;
            self.bar(x, BAR, color);
            self.text(x + BAR + 5.0, self.y, "start", 12, name);
        }
        self.y += ROW;
    }

    fn label(&mut self, run: &Run) {
        let text = format!("{} {} ({})", run.what, run.load, run.round);
        self.text(LEFT - 10.0, self.y, "end", 12, &text);
    }

    fn bar(&mut self, x: f64, width: f64, color: &str) {
        let y = self.y - BAR + 3.0;
        let _ = writeln!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{color}\"/>"
        );
    }

    fn value(&mut self, x: f64, text: &str) {
        self.text(x + 6.0, self.y, "start", 12, text);
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, size: u8, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        let _ = writeln!(
            self.body,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\">{text}</text>"
        );
    }
}

fn scaled(value: f64, most: f64) -> f64 {
    value / most * (WIDTH - LEFT - RIGHT)
}
