//! `commands`: commands at a fixed rate, which the server passes to a backend.

use std::time::Duration;

use super::{conclude, cpu_us_per, report};
use crate::backend::Backend;
use crate::fleet::Fleet;
use crate::measured::{MEASURED, Requests};
use crate::options::Commands;
use crate::report::Report;
use crate::requests::Kind;

pub(super) fn run(options: &Commands) -> Result<Report, String> {
    let backend = match options.backend.as_str() {
        "none" => None,
        address => Some(Backend::start(address)?),
    };
    if let Some(backend) = &backend {
        eprintln!(
            "backend on {}: the server must route load.echo to it",
            backend.address()
        );
    }
    let mut fleet = Fleet::start(&options.server, options.clients)?;
    if fleet.adapter.command.is_empty() {
        return Err(format!("adapter {} has no command", options.server.adapter));
    }
    fleet.enter("connect");
    fleet.connect_all(MEASURED, options.clients)?;
    fleet.enter("measured");
    let (counters, start) = (fleet.view().counters, fleet.samples()?);
    fleet.request(Kind::Command, MEASURED, options.requests_per_second, options.seconds)?;
    fleet.pass(Duration::from_secs(options.seconds))?;
    let asked = options.requests_per_second * options.seconds;
    fleet.drain(asked, Duration::from_secs(30), |view| view.counters.requests.answered)?;
    let end = fleet.samples()?;
    let counters = fleet.view().counters.since(&counters);
    let with = fleet.leave();

    let setup = [
        ("clients", options.clients as u64),
        ("requests_per_second", options.requests_per_second),
        ("seconds", options.seconds),
    ];
    let mut report = report("commands", &fleet, &setup);
    report.set_latency("request_ms", &with.requests_us);
    set_requests(&mut report, &counters.requests, asked, options.seconds);
    report.set("backend_answered", backend.map(|backend| backend.answered() as f64));
    report.set("clients_ended", counters.groups[MEASURED].ended as f64);
    report.set(
        "server_cpu_us_per_request",
        cpu_us_per(&start, &end, counters.requests.answered),
    );
    report.set("rss_bytes", end.server.as_ref().map(|sample| sample.rss_bytes as f64));
    conclude(report, fleet, (&start, &end))
}

pub(super) fn set_requests(report: &mut Report, requests: &Requests, asked: u64, seconds: u64) {
    report.set_counts([
        ("requests_sent", requests.sent),
        ("requests_answered", requests.answered),
        ("requests_unanswered", asked.saturating_sub(requests.answered)),
        ("requests_failed", requests.failed),
        ("errors", requests.errors),
    ]);
    report.set("requests_per_s", requests.answered as f64 / seconds.max(1) as f64);
}
