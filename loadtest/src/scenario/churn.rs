//! `churn`: clients unsubscribe and subscribe while events are published.

use std::time::Duration;

use super::storm::set_ratio;
use super::{conclude, cpu_us_per, drain_deliveries, expected_deliveries, report, set_deliveries};
use crate::fleet::Fleet;
use crate::measured::{MEASURED, OTHERS};
use crate::options::Churn;
use crate::report::Report;
use crate::requests::Kind;

pub(super) fn run(options: &Churn) -> Result<Report, String> {
    let mut fleet = Fleet::start(&options.server, options.clients + options.others)?;
    if fleet.adapter.unsubscribe.is_empty() {
        return Err(format!("adapter {} has no unsubscribe message", options.server.adapter));
    }
    fleet.enter("connect");
    fleet.connect_all(MEASURED, options.others)?;
    fleet.connect_all(OTHERS, options.clients)?;
    fleet.enter("without");
    let (counters, start) = (fleet.view().counters, fleet.samples()?);
    fleet.begin_publishing(fleet.schedule(options.rate, u64::MAX))?;
    fleet.pass(Duration::from_secs(options.seconds.div_ceil(2)))?;
    let without = fleet.enter("churn");
    let before = fleet.samples()?;
    fleet.request(Kind::Toggle, OTHERS, options.requests_per_second, options.seconds)?;
    fleet.pass(Duration::from_secs(options.seconds))?;
    let asked = options.requests_per_second * options.seconds;
    fleet.drain(asked, Duration::from_secs(30), |view| view.counters.requests.answered)?;
    let after = fleet.samples()?;
    fleet.end_publishing()?;
    let published = fleet.view().counters.since(&counters).requests.published;
    let expected = expected_deliveries(&options.server, options.others, published);
    let target = counters.groups[MEASURED].events + expected;
    drain_deliveries(&mut fleet, target, Duration::from_secs(30))?;
    let end = fleet.samples()?;
    let counters = fleet.view().counters.since(&counters);
    let with = fleet.leave();

    let setup = [
        ("clients", options.clients as u64),
        ("others", options.others as u64),
        ("requests_per_second", options.requests_per_second),
        ("rate", options.rate),
        ("seconds", options.seconds),
    ];
    let mut report = report("churn", &fleet, &setup);
    report.set_latency("request_ms", &with.requests_us);
    report.set_latency("baseline_ms", &without.events_us[MEASURED]);
    report.set_latency("latency_ms", &with.events_us[MEASURED]);
    set_ratio(&mut report);
    set_deliveries(&mut report, &counters, Some(expected));
    let churning = &counters.groups[OTHERS];
    report.set("missing", (counters.groups[MEASURED].missing + churning.missing) as f64);
    report.set(
        "out_of_order",
        (counters.groups[MEASURED].out_of_order + churning.out_of_order) as f64,
    );
    report.set("clients_ended", counters.sum(|group| group.ended) as f64);
    super::commands::set_requests(&mut report, &counters.requests, asked, options.seconds);
    report.set(
        "server_cpu_us_per_request",
        cpu_us_per(&before, &after, counters.requests.answered),
    );
    conclude(report, fleet, (&start, &end))
}
