//! The scenarios: the steps of each, and what it measures.

mod churn;
mod commands;
mod fanout;
mod idle;
mod slow;
mod storm;

use std::time::Duration;

use crate::fleet::{Fleet, Samples, channels_of};
use crate::measured::{Counters, MEASURED, OTHERS};
use crate::options::{Command, Options, Server};
use crate::process::Sample;
use crate::report::{Effort, Report};

/// Runs the command of the command line and writes the report.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    let (report, server) = match &options.command {
        Command::Fanout(options) => (fanout::run("fanout", options)?, &options.server),
        Command::Market(options) => (fanout::run("market", &options.fanout())?, &options.server),
        Command::Soak(options) => (fanout::run("soak", options)?, &options.server),
        Command::Idle(options) => (idle::run(options)?, &options.server),
        Command::Storm(options) => (storm::run(options)?, &options.server),
        Command::Churn(options) => (churn::run(options)?, &options.server),
        Command::Commands(options) => (commands::run(options)?, &options.server),
        Command::Slow(options) => (slow::run(options)?, &options.server),
        Command::Compare(options) => {
            return crate::report::compare(&options.base, &options.other, options.html.as_deref());
        }
        Command::Adapter { name } => {
            let built_in = crate::adapter::BUILT_IN.iter().find(|(built_in, _)| built_in == name);
            let (_, text) = built_in.ok_or_else(|| format!("{name}: no such adapter is built in"))?;
            print!("{text}");
            return Ok(());
        }
    };
    report.write(server.json.as_deref(), server.html.as_deref())
}

/// A report with the setup of the run.
fn report(scenario: &str, fleet: &Fleet<'_>, setup: &[(&str, u64)]) -> Report {
    let Server { name, adapter, .. } = fleet.server;
    let mut report = Report::new(scenario, name, adapter, fleet.started_unix_ms, setup);
    let more = [
        ("channels", fleet.server.channels),
        ("subscriptions", fleet.server.subscriptions),
        ("compression", u64::from(fleet.server.compression)),
        ("data_bytes", fleet.server.data_bytes as u64),
        ("users", fleet.users() as u64),
        ("tool_threads", fleet.workers() as u64),
    ];
    report.setup.extend(more.map(|(key, value)| (key.to_owned(), value)));
    report
}

/// The common end of all scenarios: errors, the series, and whether the tool was the bottleneck.
fn conclude(mut report: Report, fleet: Fleet<'_>, during: (&Samples, &Samples)) -> Result<Report, String> {
    let (start, end) = during;
    let server = start.server.as_ref().zip(end.server.as_ref());
    report.set("server_cores", server.map(|(start, end)| end.cores_since(start)));
    let proxy = start.proxy.as_ref().zip(end.proxy.as_ref());
    report.set("proxy_cores", proxy.map(|(start, end)| end.cores_since(start)));
    report.set("server_waited", server.map(|(start, end)| end.waited_since(start)));
    let effort = Effort {
        tool: (&start.tool, &end.tool),
        server,
        late_ms_max: fleet.view().late_ns_max as f64 / 1e6,
    };
    effort.judge(&mut report);
    report.set("clients_live", fleet.view().counters.live() as f64);
    report.first_error = fleet.first_error();
    report.series = fleet.finish()?;
    Ok(report)
}

/// Sets the deliveries of the measured clients, counted between two readings.
fn set_deliveries(report: &mut Report, counters: &Counters, expected: Option<u64>) {
    let [measured, others] = [&counters.groups[MEASURED], &counters.groups[OTHERS]];
    report.set_counts([
        ("deliveries", measured.events),
        ("missing", measured.missing),
        ("out_of_order", measured.out_of_order),
        ("told_dropped", measured.told_dropped),
        ("clients_ended", measured.ended),
        ("errors", counters.requests.errors),
    ]);
    report.set("deliveries_expected", expected.map(|expected| expected as f64));
    if others.events > 0 {
        report.set("stray", (others.stray + measured.stray) as f64);
    }
}

/// Server CPU between two moments, divided by `count`.
fn cpu_us_per(start: &Samples, end: &Samples, count: u64) -> Option<f64> {
    process_cpu_us_per(start.server.as_ref()?, end.server.as_ref()?, count)
}

fn process_cpu_us_per(start: &Sample, end: &Sample, count: u64) -> Option<f64> {
    (count > 0).then(|| (end.cpu.saturating_sub(start.cpu)).as_secs_f64() * 1e6 / count as f64)
}

/// The number of deliveries when each client gets all events of its channels, and `events` are distributed over the channels
/// in rotation.
fn expected_deliveries(server: &Server, clients: usize, events: u64) -> u64 {
    if server.pattern.is_some() {
        return events * clients as u64;
    }
    let channels = server.channels;
    let events_of = |index: usize| events / channels + u64::from((index as u64) < events % channels);
    let subscribed = (0..clients).flat_map(|client| channels_of(server, client));
    subscribed.map(events_of).sum()
}

/// Waits until the measured clients have received `target` events in all, or no more arrive.
fn drain_deliveries(fleet: &mut Fleet<'_>, target: u64, limit: Duration) -> Result<(), String> {
    fleet.drain(target, limit, |view| view.counters.groups[MEASURED].events)
}

/// Gives allocators and timers time to return memory.
fn settle(fleet: &mut Fleet<'_>) -> Result<(), String> {
    fleet.pass(Duration::from_secs(2))
}
