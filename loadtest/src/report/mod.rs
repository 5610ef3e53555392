//! The report of one run: as JSON for programs, as text and as a page for people.

mod chart;
mod compare;
mod figure;
mod format;
mod page;
mod text;
mod verdict;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

pub(crate) use compare::compare;
pub(crate) use figure::QUANTILES;
pub(crate) use verdict::Effort;

/// The format's version. It changes when readers of an older version could misunderstand a report.
const VERSION: u32 = 1;
const SCHEMA: &str = "tickgate-loadtest";

/// Rows of a series in a file. A longer run has fewer rows than seconds, so that the report of a day is not larger than
/// that of an hour.
const ROWS_MAX: usize = 3600;

/// All results of one run. docs/loadtest.md describes each member.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Report {
    pub(crate) schema: String,
    pub(crate) version: u32,
    pub(crate) scenario: String,
    /// The name given to the server.
    pub(crate) name: String,
    pub(crate) adapter: String,
    pub(crate) started_unix_ms: u64,
    /// The options of the run.
    pub(crate) setup: BTreeMap<String, u64>,
    pub(crate) figures: BTreeMap<String, f64>,
    /// Latencies by the prefix of their figures.
    pub(crate) distributions: BTreeMap<String, Vec<Point>>,
    pub(crate) series: Series,
    /// Whether the server or the tool was the bottleneck.
    pub(crate) verdict: String,
    pub(crate) first_error: Option<String>,
}

/// One point of a distribution: the share `quantile` of the latencies is at most `ms`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Point {
    pub(crate) quantile: f64,
    pub(crate) ms: f64,
}

/// The time series of the run, one row per second; in a file at most [`ROWS_MAX`] rows.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Series {
    /// Ends of the intervals, in seconds since the start.
    pub(crate) at_s: Vec<f64>,
    /// Each column is as long as `at_s`; `null` where there was nothing to measure.
    pub(crate) columns: BTreeMap<String, Vec<Option<f64>>>,
    /// When each phase of the run began.
    pub(crate) marks: Vec<Mark>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Mark {
    pub(crate) at_s: f64,
    pub(crate) label: String,
}

impl Series {
    /// The series with at most `rows_max` rows, each of as many seconds. Losses are added up. Of everything else the worst
    /// second stays: the lowest rate and number of clients, the largest latency, load and size.
    fn bounded(&self, rows_max: usize) -> Self {
        let seconds = self.at_s.len().div_ceil(rows_max).max(1);
        let worst = |key: &str, values: &[Option<f64>]| {
            let values = values.iter().flatten().copied();
            match key {
                "missing" => values.reduce(|sum, value| sum + value),
                "deliveries_per_s" | "published_per_s" | "requests_per_s" | "clients_live" => values.reduce(f64::min),
                _ => values.reduce(f64::max),
            }
        };
        let column = |(key, values): (&String, &Vec<Option<f64>>)| {
            let rows = values.chunks(seconds).map(|values| worst(key, values));
            (key.clone(), rows.collect())
        };
        Self {
            at_s: self.at_s.chunks(seconds).map(|row| row[row.len() - 1]).collect(),
            columns: self.columns.iter().map(column).collect(),
            marks: self.marks.clone(),
        }
    }
}

impl Report {
    pub(crate) fn new(scenario: &str, name: &str, adapter: &str, started_unix_ms: u64, setup: &[(&str, u64)]) -> Self {
        Self {
            schema: SCHEMA.into(),
            version: VERSION,
            scenario: scenario.into(),
            name: name.into(),
            adapter: adapter.into(),
            started_unix_ms,
            setup: setup.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect(),
            figures: BTreeMap::new(),
            distributions: BTreeMap::new(),
            series: Series::default(),
            verdict: String::new(),
            first_error: None,
        }
    }

    /// Sets a figure. A value that could not be measured is left out.
    pub(crate) fn set(&mut self, key: &str, value: impl Into<Option<f64>>) {
        debug_assert!(figure::is_known(key), "{key} is not listed in report::figure");
        if let Some(value) = value.into().filter(|value: &f64| value.is_finite()) {
            self.figures.insert(key.into(), value);
        }
    }

    pub(crate) fn set_counts<const N: usize>(&mut self, counts: [(&str, u64); N]) {
        counts.into_iter().for_each(|(key, count)| self.set(key, count as f64));
    }

    /// Sets a distribution and its quantiles. An empty distribution is left out.
    pub(crate) fn set_latency(&mut self, prefix: &str, latencies_us: &Histogram<u64>) {
        if latencies_us.is_empty() {
            return;
        }
        for (label, quantile) in QUANTILES {
            self.set(&format!("{prefix}_{label}"), quantile_ms(latencies_us, quantile));
        }
        self.distributions.insert(prefix.into(), distribution(latencies_us));
    }

    fn read(path: &Path) -> Result<Self, String> {
        let failed = |error: String| format!("{}: {error}", path.display());
        let text = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
        let value: serde_json::Value = serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))?;
        if value["schema"] != SCHEMA || value["version"] != VERSION {
            return Err(failed(format!("not a report of {SCHEMA}, version {VERSION}")));
        }
        let report: Self = serde_json::from_value(value).map_err(|error| failed(error.to_string()))?;
        Ok(report.escaped())
    }

    /// The report with all its texts escaped, for people: a file, an option or a server may have named them.
    fn escaped(mut self) -> Self {
        let line = |text: &str| tickgate_escape::line(text).into_owned();
        let mark = |mark: Mark| Mark {
            label: line(&mark.label),
            ..mark
        };
        self.scenario = line(&self.scenario);
        self.name = line(&self.name);
        self.adapter = line(&self.adapter);
        self.setup = self.setup.into_iter().map(|(key, value)| (line(&key), value)).collect();
        self.series.marks = self.series.marks.into_iter().map(mark).collect();
        self.verdict = line(&self.verdict);
        self.first_error = self.first_error.as_deref().map(line);
        self
    }

    /// Prints the text and writes the given files.
    pub(crate) fn write(&self, json: Option<&Path>, html: Option<&Path>) -> Result<(), String> {
        let bounded = Self {
            series: self.series.bounded(ROWS_MAX),
            ..self.clone()
        };
        if let Some(path) = json {
            let body = serde_json::to_string(&bounded).map_err(|error| error.to_string())?;
            write_file(path, &(body + "\n"))?;
        }
        let shown = bounded.escaped();
        if let Some(path) = html {
            write_file(path, &page::page(&shown))?;
        }
        print(&text::text(&shown))
    }
}

/// Prints to standard output. It is not an error if the reader has closed the pipe, as `| head` does.
fn print(text: &str) -> Result<(), String> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.to_string()),
        _ => Ok(()),
    }
}

fn write_file(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

pub(crate) fn quantile_ms(latencies_us: &Histogram<u64>, quantile: f64) -> f64 {
    let us = if quantile < 1.0 {
        latencies_us.value_at_quantile(quantile)
    } else {
        latencies_us.max()
    };
    us as f64 / 1e3
}

/// The distribution from the shortest to the longest latency. Each step leaves three quarters of the rest, so points
/// are denser towards the end.
fn distribution(latencies_us: &Histogram<u64>) -> Vec<Point> {
    let mut points = vec![Point {
        quantile: 0.0,
        ms: latencies_us.min() as f64 / 1e3,
    }];
    let mut left = 1.0;
    while left * latencies_us.len() as f64 > 1.0 && points.len() < 80 {
        left *= 0.75;
        // Eight decimals, so that reading a file gives the same number.
        let quantile = ((1.0 - left) * 1e8_f64).round() / 1e8;
        points.push(Point {
            quantile,
            ms: quantile_ms(latencies_us, quantile),
        });
    }
    points.push(Point {
        quantile: 1.0,
        ms: quantile_ms(latencies_us, 1.0),
    });
    points
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A report with a value in every part.
    pub(crate) fn example(name: &str, factor: f64) -> Report {
        let mut latencies_us = crate::measured::histogram();
        (1..=1000).for_each(|us| latencies_us.record((us as f64 * 10.0 * factor) as u64).unwrap());
        let mut report = Report::new(
            "fanout",
            name,
            "tickgate",
            1_700_000_000_000,
            &[("clients", 10), ("rate", 5)],
        );
        report.set_latency("latency_ms", &latencies_us);
        report.set_counts([("deliveries", 1000), ("missing", 0)]);
        report.set("server_cpu_us_per_delivery", 2.0 * factor);
        report.set("rss_bytes", 5e6);
        report.series.at_s = vec![1.0, 2.0, 3.0];
        for (key, values) in [
            ("latency_ms_p50", [Some(5.0), None, Some(5.5)]),
            ("latency_ms_p99", [Some(9.0), None, Some(9.5)]),
            ("deliveries_per_s", [Some(300.0), Some(0.0), Some(700.0)]),
            ("server_rss_bytes", [Some(4e6), Some(5e6), Some(5e6)]),
        ] {
            report.series.columns.insert(key.into(), values.to_vec());
        }
        report.series.marks.push(Mark {
            at_s: 1.0,
            label: "measured <from here>".into(),
        });
        report.verdict = "not the bottleneck".into();
        report
    }

    #[test]
    fn a_report_is_read_back_unchanged_and_other_files_are_refused() {
        let path = std::env::temp_dir().join(format!("tickgate-loadtest-report-{}.json", std::process::id()));
        let report = example("a", 1.0);
        report.write(Some(&path), None).unwrap();
        let read = Report::read(&path).unwrap();
        assert_eq!(
            (read.figures, read.distributions),
            (report.figures, report.distributions)
        );
        assert_eq!(read.series.columns, report.series.columns);
        std::fs::write(&path, r#"{"schema":"tickgate-loadtest","version":2}"#).unwrap();
        assert!(Report::read(&path).unwrap_err().contains("version 1"));
        std::fs::remove_file(&path).unwrap();
        assert!(Report::read(&path).is_err());
    }

    #[test]
    fn the_series_of_a_long_run_keeps_its_worst_seconds_and_all_losses() {
        let seconds = 10_000;
        let mut series = Series {
            at_s: (1..=seconds).map(f64::from).collect(),
            ..Series::default()
        };
        let mut column = |key: &str, usual: f64, at: usize, value: Option<f64>| {
            let mut values = vec![Some(usual); seconds as usize];
            values[at] = value;
            series.columns.insert(key.into(), values);
        };
        column("latency_ms_p99", 5.0, 7_001, Some(900.0));
        column("deliveries_per_s", 1000.0, 4_444, Some(3.0));
        column("missing", 1.0, 0, None);
        let bounded = series.bounded(3600);
        assert_eq!((bounded.at_s.len(), bounded.at_s.last()), (3334, Some(&10_000.0)));
        assert!(bounded.columns.values().all(|values| values.len() == 3334));
        let all = |key: &str| bounded.columns[key].iter().flatten().copied();
        assert!(all("latency_ms_p99").any(|value| value == 900.0));
        assert!(all("deliveries_per_s").any(|value| value == 3.0));
        assert_eq!(all("missing").sum::<f64>(), 9_999.0);
        // A short run keeps every second.
        assert_eq!(series.bounded(10_000).columns, series.columns);
    }

    #[test]
    fn texts_from_elsewhere_act_on_neither_a_terminal_nor_a_page() {
        let forged = "a\n  verdict forged\u{1b}[2J\u{202e}";
        let path = std::env::temp_dir().join(format!("tickgate-loadtest-forged-{}.json", std::process::id()));
        let mut report = Report {
            adapter: forged.into(),
            verdict: forged.into(),
            first_error: Some(forged.into()),
            ..example(forged, 1.0)
        };
        report.setup.insert(forged.into(), 1);
        report.series.marks[0].label = forged.into();
        report.write(Some(&path), None).unwrap();
        let read = Report::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        for shown in [text::text(&read), page::page(&read), text::text(&report.escaped())] {
            let is_unsafe = |character: char| character != '\n' && tickgate_escape::is_unsafe(character);
            assert!(!shown.contains(is_unsafe), "{shown:?}");
            assert!(!shown.contains("\n  verdict forged"), "{shown}");
        }
    }

    #[test]
    fn a_distribution_rises_and_ends_with_the_longest_latency() {
        let points = &example("a", 1.0).distributions["latency_ms"];
        assert_eq!(points.first().unwrap().quantile, 0.0);
        assert_eq!(points.last().unwrap().quantile, 1.0);
        assert!(
            points.is_sorted_by(|a, b| a.quantile < b.quantile && a.ms <= b.ms),
            "{points:?}"
        );
        assert!(points.iter().any(|point| point.quantile > 0.998));
    }
}
