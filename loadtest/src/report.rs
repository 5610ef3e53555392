//! The figures, for people and for programs.

use std::fmt;
use std::path::Path;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::process::Sample;

/// Prints the text and writes the JSON.
pub(crate) fn write(report: &impl Serialize, text: &str, json: Option<&Path>) -> Result<(), String> {
    println!("{text}");
    let Some(path) = json else { return Ok(()) };
    let body = serde_json::to_string_pretty(report).map_err(|error| error.to_string())?;
    std::fs::write(path, body + "\n").map_err(|error| format!("{}: {error}", path.display()))
}

/// Publish (as due) to arrival.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct LatencyMs {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

impl LatencyMs {
    pub(crate) fn of(latencies_us: &Histogram<u64>) -> Self {
        let at = |quantile| latencies_us.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: latencies_us.max() as f64 / 1e3,
        }
    }
}

/// How busy the tool was, and whether the figures are rather its own.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Tool {
    /// CPU per thread and wall time: 1.0 is a full core.
    pub(crate) utilisation: f64,
    /// Share of the time in which one of the tool's threads was ready but other programs had the core.
    pub(crate) waited: f64,
    /// The longest time an event waited in the tool because the request before it was not answered yet.
    pub(crate) publish_late_ms_max: f64,
    /// What of the figures cannot be trusted, in words.
    pub(crate) verdict: String,
}

const BUSY: f64 = 0.9;
const LATE_MS: f64 = 50.0;

impl Tool {
    pub(crate) fn judge(
        utilisation: f64,
        waited: f64,
        publish_late_ms_max: f64,
        server: Option<(&Sample, &Sample)>,
    ) -> Self {
        let server_load = server.map(|(start, end)| end.cores_since(start) + end.waited_since(start));
        let is_busy = utilisation + waited > BUSY;
        let verdict = match server_load {
            Some(load) if is_busy && load < BUSY => {
                "THE TOOL WAS THE BOTTLENECK: latencies and backlog are its own; give it cores and --threads"
            }
            _ if is_busy => "the tool was as busy as it can be: latencies and backlog may be its own",
            _ if publish_late_ms_max > LATE_MS => {
                "not the bottleneck, but the server took events later than they were due"
            }
            _ => "not the bottleneck",
        };
        Self {
            utilisation,
            waited,
            publish_late_ms_max,
            verdict: verdict.into(),
        }
    }
}

/// The scenario `fanout`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FanoutReport {
    pub(crate) name: String,
    pub(crate) clients: usize,
    pub(crate) clients_ended: u64,
    pub(crate) first_error: Option<String>,
    pub(crate) events_per_second: u64,
    pub(crate) seconds: u64,
    pub(crate) events: u64,
    pub(crate) deliveries_expected: u64,
    pub(crate) deliveries: u64,
    /// Events that a client saw skipped by the sequence numbers.
    pub(crate) missing: u64,
    pub(crate) out_of_order: u64,
    pub(crate) latency_ms: LatencyMs,
    /// From when the last event was due to the last arrival.
    pub(crate) behind_ms: f64,
    pub(crate) server_cpu_us_per_delivery: Option<f64>,
    /// Share of the time in which one of the server's threads was ready but others had the core.
    pub(crate) server_waited: Option<f64>,
    /// Server CPU while publishing; 1.0 is a core.
    pub(crate) server_cores: Option<f64>,
    pub(crate) server_rss_bytes: Option<u64>,
    pub(crate) set_up_cpu_us: Option<f64>,
    pub(crate) tool: Tool,
}

impl fmt::Display for FanoutReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LatencyMs {
            p50,
            p90,
            p99,
            p999,
            max,
        } = self.latency_ms;
        writeln!(
            f,
            "{}: {} clients, {} events/s for {} s",
            self.name, self.clients, self.events_per_second, self.seconds
        )?;
        writeln!(
            f,
            "  deliveries  {} of {} expected; {} missing, {} out of order; {} clients ended",
            self.deliveries, self.deliveries_expected, self.missing, self.out_of_order, self.clients_ended
        )?;
        if let Some(error) = &self.first_error {
            writeln!(f, "  first error {error}")?;
        }
        writeln!(
            f,
            "  latency     p50 {p50:.2}  p90 {p90:.2}  p99 {p99:.2}  p99.9 {p999:.2}  max {max:.2} ms, from due to arrival"
        )?;
        writeln!(
            f,
            "  backlog     last arrival {:.0} ms after the last event was due",
            self.behind_ms
        )?;
        if let (Some(cpu), Some(cores)) = (self.server_cpu_us_per_delivery, self.server_cores) {
            let rss = self.server_rss_bytes.unwrap_or(0) as f64 / 1048576.0;
            writeln!(
                f,
                "  server      {cpu:.2} us CPU per delivery, {:.0} % of a core ({:.0} % kept waiting for one), RSS {rss:.1} MiB",
                cores * 100.0,
                self.server_waited.unwrap_or(0.0) * 100.0
            )?;
        }
        if let Some(cpu) = self.set_up_cpu_us {
            writeln!(f, "  set-up      {cpu:.0} us server CPU per connection")?;
        }
        write!(
            f,
            "  load tool   {:.0} % of its cores ({:.0} % kept waiting), published at most {:.1} ms late: {}",
            self.tool.utilisation * 100.0,
            self.tool.waited * 100.0,
            self.tool.publish_late_ms_max,
            self.tool.verdict
        )
    }
}

/// A process's memory.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Memory {
    pub(crate) rss_bytes: u64,
    pub(crate) anonymous_bytes: u64,
}

impl Memory {
    pub(crate) fn of(sample: &Sample) -> Self {
        Self {
            rss_bytes: sample.rss_bytes,
            anonymous_bytes: sample.anonymous_bytes,
        }
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / 1048576.0;
        write!(
            f,
            "RSS {:.1} MiB, anonymous {:.1} MiB",
            mib(self.rss_bytes),
            mib(self.anonymous_bytes)
        )
    }
}

/// The scenario `idle`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct IdleReport {
    pub(crate) name: String,
    pub(crate) clients: usize,
    pub(crate) clients_ended: u64,
    pub(crate) first_error: Option<String>,
    pub(crate) set_up_cpu_us: f64,
    pub(crate) memory_before: Memory,
    pub(crate) memory_connected: Memory,
    pub(crate) memory_after_burst: Memory,
    /// Growth of anonymous memory per connection.
    pub(crate) bytes_per_connection: f64,
    pub(crate) bytes_per_connection_after_burst: f64,
    pub(crate) burst_events: u64,
    pub(crate) burst_deliveries: u64,
    pub(crate) burst_missing: u64,
    pub(crate) idle_seconds: u64,
    pub(crate) idle_cores: f64,
    pub(crate) with_stalled_client: bool,
}

impl fmt::Display for IdleReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stalled = if self.with_stalled_client {
            ", one client stalled"
        } else {
            ""
        };
        writeln!(f, "{}: {} idle subscribed clients{stalled}", self.name, self.clients)?;
        if let Some(error) = &self.first_error {
            writeln!(f, "  {} clients ended, the first: {error}", self.clients_ended)?;
        }
        writeln!(
            f,
            "  set-up      {:.0} us server CPU per connection",
            self.set_up_cpu_us
        )?;
        writeln!(f, "  before      {}", self.memory_before)?;
        let per_connection = |memory: &Memory, bytes: f64| format!("{memory}: {bytes:.0} bytes per connection");
        writeln!(
            f,
            "  connected   {}",
            per_connection(&self.memory_connected, self.bytes_per_connection)
        )?;
        writeln!(
            f,
            "  after burst {}",
            per_connection(&self.memory_after_burst, self.bytes_per_connection_after_burst)
        )?;
        writeln!(
            f,
            "  burst       {} events, {} deliveries, {} missing",
            self.burst_events, self.burst_deliveries, self.burst_missing
        )?;
        write!(
            f,
            "  idle CPU    {:.2} % of a core over {} s",
            self.idle_cores * 100.0,
            self.idle_seconds
        )
    }
}
