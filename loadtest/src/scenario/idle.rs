//! `idle`: memory per waiting client before and after a burst, and the CPU of all of them together.

use std::time::Duration;

use super::{conclude, cpu_us_per, drain_deliveries, expected_deliveries, report, set_deliveries, settle};
use crate::fleet::{Fleet, Samples};
use crate::measured::{MEASURED, OTHERS};
use crate::options::Idle;
use crate::publisher::Schedule;
use crate::report::Report;
use crate::worker::Order;

pub(super) fn run(options: &Idle) -> Result<Report, String> {
    if options.server.pid.is_none() {
        return Err("idle measures the server's process: --pid is needed".into());
    }
    let mut fleet = Fleet::start(&options.server, options.clients + 1)?;
    let before = fleet.samples()?;
    fleet.enter("connect");
    fleet.connect_all(MEASURED, options.clients)?;
    let ready = fleet.samples()?;
    settle(&mut fleet)?;
    let connected = fleet.samples()?;
    if options.stalled {
        stall_one(&mut fleet)?;
    }
    settle(&mut fleet)?;

    fleet.enter("idle");
    let idle_start = fleet.samples()?;
    fleet.pass(Duration::from_secs(options.seconds))?;
    let idle_end = fleet.samples()?;

    fleet.enter("burst");
    let counters = fleet.view().counters;
    let burst = Schedule {
        interval_ns: 0,
        ..fleet.schedule(1, options.burst_events)
    };
    let expected = expected_deliveries(&options.server, options.clients, options.burst_events);
    fleet.publish(burst)?;
    let target = counters.groups[MEASURED].events + expected;
    drain_deliveries(&mut fleet, target, Duration::from_secs(60))?;
    let counters = fleet.view().counters.since(&counters);
    settle(&mut fleet)?;
    let after = fleet.samples()?;
    let latencies = fleet.leave();

    let clients = options.clients as u64;
    let setup = [
        ("clients", clients),
        ("seconds", options.seconds),
        ("burst_events", options.burst_events),
        ("stalled", u64::from(options.stalled)),
    ];
    let mut report = report("idle", &fleet, &setup);
    report.set_latency("latency_ms", &latencies.events_us[MEASURED]);
    set_deliveries(&mut report, &counters, Some(expected));
    report.set("server_cpu_us_per_connection", cpu_us_per(&before, &ready, clients));
    report.set("rss_bytes", after.server.as_ref().map(|sample| sample.rss_bytes as f64));
    for (key, samples) in [
        ("anonymous_before_bytes", &before),
        ("anonymous_connected_bytes", &connected),
        ("anonymous_after_burst_bytes", &after),
    ] {
        report.set(key, anonymous(samples));
    }
    report.set("bytes_per_connection", per_connection(&before, &connected, clients));
    report.set(
        "bytes_per_connection_after_burst",
        per_connection(&before, &after, clients),
    );
    let idle = idle_start.server.as_ref().zip(idle_end.server.as_ref());
    report.set("idle_cores", idle.map(|(start, end)| end.cores_since(start)));
    conclude(report, fleet, (&idle_start, &after))
}

fn anonymous(samples: &Samples) -> Option<f64> {
    samples.server.as_ref().map(|sample| sample.anonymous_bytes as f64)
}

fn per_connection(before: &Samples, after: &Samples, clients: u64) -> Option<f64> {
    let (before, after) = anonymous(before).zip(anonymous(after))?;
    Some((after - before) / clients.max(1) as f64)
}

/// Adds a client that stops reading, on a channel of its own, and sends it more than its socket can hold.
fn stall_one(fleet: &mut Fleet<'_>) -> Result<(), String> {
    let wanted = fleet.view().counters.sum(|group| group.ready) + 1;
    let own = fleet.server.channels;
    let name = fleet.channel(own);
    fleet.connect(OTHERS, 1, Duration::ZERO, |_| vec![name.clone()])?;
    fleet.await_live(wanted, Duration::from_secs(10))?;
    fleet.tell_all(|| Order::Stall(OTHERS))?;
    flood(fleet, 1000)
}

/// Publishes large events to the channel of the stalled clients.
pub(super) fn flood(fleet: &mut Fleet<'_>, events: u64) -> Result<(), String> {
    let flood = Schedule {
        interval_ns: 0,
        data_bytes: 16 * 1024,
        first_channel: fleet.server.channels,
        channels: 1,
        ..fleet.schedule(1, events)
    };
    fleet.publish(flood)
}
