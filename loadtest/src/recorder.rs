//! Records the run second by second, for the report and for the progress line in the terminal.
//!
//! Invariant: Every latency is in exactly one row of the series and in exactly one phase.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::measured::{Counters, Lap, MEASURED, Measured};
use crate::process::{self, Sample};
use crate::report::{Mark, QUANTILES, Series, quantile_ms};

const INTERVAL: Duration = Duration::from_secs(1);

/// The sum of what all workers have measured so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub(crate) counters: Counters,
    /// When the last event arrived, in nanoseconds since the start.
    pub(crate) last_arrival_ns: u64,
    pub(crate) late_ns_max: u64,
    pub(crate) is_published: bool,
}

/// The counters and process samples of one moment.
struct Reading {
    at: Instant,
    counters: Counters,
    server: Option<Sample>,
    tool: Sample,
}

pub(crate) struct Recorder {
    workers: Vec<Arc<Measured>>,
    pid: Option<u32>,
    epoch: Instant,
    shows_progress: bool,
    last: Reading,
    row: Lap,
    phase: Lap,
    spare: Lap,
    phase_name: &'static str,
    series: Series,
}

impl Recorder {
    pub(crate) fn new(workers: Vec<Arc<Measured>>, pid: Option<u32>, epoch: Instant) -> Result<Self, String> {
        Ok(Self {
            last: reading(&workers, pid)?,
            workers,
            pid,
            epoch,
            shows_progress: std::io::stderr().is_terminal(),
            row: Lap::new(),
            phase: Lap::new(),
            spare: Lap::new(),
            phase_name: "",
            series: Series::default(),
        })
    }

    pub(crate) fn view(&self) -> View {
        view(&self.workers)
    }

    /// Writes a row if a second has passed.
    pub(crate) fn tick(&mut self) -> Result<(), String> {
        if self.last.at.elapsed() >= INTERVAL {
            self.collect();
            self.write_row()?;
        }
        Ok(())
    }

    /// Begins a phase and returns the latencies of the previous one.
    pub(crate) fn enter(&mut self, name: &'static str) -> Lap {
        self.phase_name = name;
        let at_s = self.epoch.elapsed().as_secs_f64();
        let label = name.into();
        self.series.marks.push(Mark { at_s, label });
        self.leave()
    }

    /// Ends the last phase and returns its latencies.
    pub(crate) fn leave(&mut self) -> Lap {
        self.collect();
        std::mem::replace(&mut self.phase, Lap::new())
    }

    /// Returns the whole series. The unfinished second is included if it is long enough to be meaningful.
    pub(crate) fn finish(mut self) -> Series {
        if self.last.at.elapsed() >= INTERVAL / 4 {
            self.collect();
            // If the server has ended, only the last row is missing; the report is written anyway.
            let _ = self.write_row();
        }
        if self.shows_progress {
            eprint!("\r\x1b[K");
        }
        // Remove the columns that this scenario does not use.
        let columns = &mut self.series.columns;
        columns.retain(|_, values| values.iter().flatten().any(|value| *value != 0.0));
        self.series
    }

    fn collect(&mut self) {
        for worker in &self.workers {
            worker.take_lap(&mut self.spare);
            self.row.add(&self.spare);
            self.phase.add(&self.spare);
            self.spare.reset();
        }
    }

    fn write_row(&mut self) -> Result<(), String> {
        let now = reading(&self.workers, self.pid)?;
        let seconds = (now.at - self.last.at).as_secs_f64();
        let between = now.counters.since(&self.last.counters);
        let mut row = BTreeMap::new();
        let deliveries = between.sum(|group| group.events);
        row.insert("deliveries_per_s".to_owned(), Some(deliveries as f64 / seconds));
        row.insert(
            "published_per_s".into(),
            Some(between.requests.published as f64 / seconds),
        );
        row.insert(
            "requests_per_s".into(),
            Some(between.requests.answered as f64 / seconds),
        );
        row.insert("missing".into(), Some(between.sum(|group| group.missing) as f64));
        row.insert("clients_live".into(), Some(now.counters.live() as f64));
        quantiles("latency_ms", &self.row.events_us[MEASURED], &mut row);
        quantiles("request_ms", &self.row.requests_us, &mut row);
        row.insert(
            "tool_busiest_thread".into(),
            Some(now.tool.busiest_since(&self.last.tool)),
        );
        if let Some((before, after)) = self.last.server.as_ref().zip(now.server.as_ref()) {
            let cores = after.cores_since(before);
            row.insert("server_cores".into(), Some(cores));
            let per_delivery = (deliveries > 0).then(|| cores * seconds * 1e6 / deliveries as f64);
            row.insert("server_cpu_us_per_delivery".into(), per_delivery);
            row.insert("server_rss_bytes".into(), Some(after.rss_bytes as f64));
            row.insert("server_anonymous_bytes".into(), Some(after.anonymous_bytes as f64));
        }
        self.show_progress(&row);
        self.series.at_s.push((now.at - self.epoch).as_secs_f64());
        for (key, value) in row {
            // Four decimals suffice for readers and keep the file of a long run small.
            let value = value.map(|value| (value * 1e4).round() / 1e4);
            self.series.columns.entry(key).or_default().push(value);
        }
        self.row.reset();
        self.last = now;
        Ok(())
    }

    /// Prints the progress line over the previous one.
    fn show_progress(&self, row: &BTreeMap<String, Option<f64>>) {
        if !self.shows_progress {
            return;
        }
        let of = |key: &str| row.get(key).copied().flatten();
        let mut line = format!("{:>5.0} s  {}", self.epoch.elapsed().as_secs_f64(), self.phase_name);
        for (key, factor, unit) in [
            ("clients_live", 1.0, "live"),
            ("deliveries_per_s", 1.0, "deliveries/s"),
            ("requests_per_s", 1.0, "requests/s"),
            ("latency_ms_p50", 1.0, "ms p50"),
            ("latency_ms_p99", 1.0, "ms p99"),
            ("request_ms_p99", 1.0, "ms p99 of requests"),
            ("server_cores", 100.0, "% server"),
            ("server_rss_bytes", 1.0 / 1_048_576.0, "MiB"),
            ("tool_busiest_thread", 100.0, "% tool"),
        ] {
            if let Some(value) = of(key).filter(|value| *value > 0.0) {
                let value = value * factor;
                line.push_str(&if value < 100.0 {
                    format!("  {value:.1} {unit}")
                } else {
                    format!("  {value:.0} {unit}")
                });
            }
        }
        eprint!("\r\x1b[K{line}");
        let _ = std::io::stderr().flush();
    }
}

fn quantiles(prefix: &str, latencies_us: &Histogram<u64>, row: &mut BTreeMap<String, Option<f64>>) {
    for (label, quantile) in QUANTILES {
        let value = (!latencies_us.is_empty()).then(|| quantile_ms(latencies_us, quantile));
        row.insert(format!("{prefix}_{label}"), value);
    }
}

fn view(workers: &[Arc<Measured>]) -> View {
    let mut view = View {
        counters: Counters::default(),
        last_arrival_ns: 0,
        late_ns_max: 0,
        is_published: true,
    };
    for worker in workers {
        let measured = worker.lock();
        view.counters.add(&measured.counters);
        view.last_arrival_ns = view.last_arrival_ns.max(measured.last_arrival_ns);
        view.late_ns_max = view.late_ns_max.max(measured.late_ns_max);
        view.is_published &= measured.is_published;
    }
    view
}

fn reading(workers: &[Arc<Measured>], pid: Option<u32>) -> Result<Reading, String> {
    Ok(Reading {
        at: Instant::now(),
        counters: view(workers).counters,
        server: pid.map(process::sample).transpose()?,
        tool: process::sample(std::process::id())?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_is_in_one_phase_and_the_row_of_its_second() {
        let worker = Arc::new(Measured::new());
        let mut recorder = Recorder::new(vec![Arc::clone(&worker)], Some(std::process::id()), Instant::now()).unwrap();
        let record = |us| worker.lock().lap.events_us[MEASURED].record(us).unwrap();
        record(1000);
        let before = recorder.enter("measured");
        record(3000);
        worker.lock().counters.groups[MEASURED].events = 2;
        recorder.collect();
        recorder.write_row().unwrap();
        let measured = recorder.leave();
        assert_eq!(
            (before.events_us[MEASURED].len(), measured.events_us[MEASURED].len()),
            (1, 1)
        );
        recorder.collect();
        recorder.write_row().unwrap();
        let series = recorder.finish();
        assert_eq!(series.at_s.len(), 2);
        let max = &series.columns["latency_ms_max"];
        assert!((max[0].unwrap() - 3.0).abs() < 0.01 && max[1].is_none(), "{max:?}");
        assert!(series.columns["server_rss_bytes"].iter().all(Option::is_some));
        assert!(!series.columns.contains_key("requests_per_s"), "an unused column");
        assert_eq!(series.marks.len(), 1);
    }
}
