//! `storm`: many clients connect at once, as after a restart, while others go on receiving.

use std::time::{Duration, Instant};

use super::{conclude, cpu_us_per, drain_deliveries, expected_deliveries, report, set_deliveries};
use crate::fleet::Fleet;
use crate::measured::{MEASURED, OTHERS};
use crate::options::Storm;
use crate::report::Report;

/// Maximum duration of a storm.
const LIMIT: Duration = Duration::from_secs(300);

pub(super) fn run(options: &Storm) -> Result<Report, String> {
    let mut fleet = Fleet::start(&options.server, options.clients + options.others)?;
    fleet.enter("connect");
    fleet.connect_all(MEASURED, options.others)?;
    let seconds = Duration::from_secs(options.seconds);
    fleet.enter("without");
    let (counters, start) = (fleet.view().counters, fleet.samples()?);
    if options.others > 0 {
        fleet.begin_publishing(fleet.schedule(options.rate, u64::MAX))?;
        fleet.pass(seconds)?;
    }
    let without = fleet.enter("storm");
    let (before, storming) = (fleet.samples()?, Instant::now());
    let first_ms = connect_storm(&mut fleet, options.clients)?;
    let live = fleet.samples()?;
    let mut again_ms = None;
    for _ in 1..options.rounds {
        fleet.disconnect(OTHERS)?;
        // Give the server time to end these connections, or they would overlap with the next round's.
        fleet.pass(Duration::from_secs(1))?;
        again_ms = Some(connect_storm(&mut fleet, options.clients)?);
    }
    if options.others > 0 {
        fleet.pass(seconds.saturating_sub(storming.elapsed()))?;
        fleet.end_publishing()?;
    }
    let end = fleet.samples()?;
    let published = fleet.view().counters.since(&counters).requests.published;
    let expected = expected_deliveries(&options.server, options.others, published);
    let target = counters.groups[MEASURED].events + expected;
    drain_deliveries(&mut fleet, target, Duration::from_secs(30))?;
    let counters = fleet.view().counters.since(&counters);
    let with = fleet.leave();

    let setup = [
        ("clients", options.clients as u64),
        ("others", options.others as u64),
        ("rate", options.rate),
        ("rounds", u64::from(options.rounds)),
        ("connect_window", options.server.connect_window as u64),
    ];
    let mut report = report("storm", &fleet, &setup);
    report.set_latency("live_ms", &with.live_us[OTHERS]);
    report.set("all_live_ms", first_ms);
    report.set("again_live_ms", again_ms);
    report.set("live_per_s", options.clients as f64 / first_ms.max(1e-3) * 1e3);
    report.set(
        "server_cpu_us_per_connection",
        cpu_us_per(&before, &live, options.clients as u64),
    );
    report.set("rss_bytes", end.server.as_ref().map(|sample| sample.rss_bytes as f64));
    if options.others > 0 {
        report.set_latency("baseline_ms", &without.events_us[MEASURED]);
        report.set_latency("latency_ms", &with.events_us[MEASURED]);
        set_ratio(&mut report);
        set_deliveries(&mut report, &counters, Some(expected));
    }
    conclude(report, fleet, (&start, &end))
}

/// Connects all clients at once, on a channel without events. Returns the milliseconds until the last one is live.
fn connect_storm(fleet: &mut Fleet<'_>, clients: usize) -> Result<f64, String> {
    let wanted = fleet.view().counters.sum(|group| group.ready) + clients as u64;
    let name = fleet.channel(fleet.server.channels);
    let start = Instant::now();
    fleet.connect(OTHERS, clients, Duration::ZERO, |_| vec![name.clone()])?;
    fleet.await_live(wanted, LIMIT)?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// Sets the p99 with the disturbance as a multiple of the p99 without it.
pub(super) fn set_ratio(report: &mut Report) {
    let (without, with) = (
        report.figures.get("baseline_ms_p99"),
        report.figures.get("latency_ms_p99"),
    );
    let ratio = without.zip(with).map(|(without, with)| with / without);
    report.set("p99_ratio", ratio);
}
