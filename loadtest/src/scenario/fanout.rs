//! `fanout`: subscribed clients and events at a fixed rate. `soak`: the same for a long time. `market`: the same with many
//! channels.

use std::time::Duration;

use super::{conclude, cpu_us_per, drain_deliveries, expected_deliveries, process_cpu_us_per, report, set_deliveries};
use crate::fleet::{Fleet, Samples};
use crate::measured::MEASURED;
use crate::options::Fanout;
use crate::report::{Report, Series};

/// A phase in which events were published.
struct Phase {
    /// Time from the moment the last event was due to the last arrival.
    behind: Duration,
    /// Samples of the moment at which all events were published.
    due: Samples,
}

pub(super) fn run(scenario: &str, options: &Fanout) -> Result<Report, String> {
    let mut fleet = Fleet::start(&options.server, options.clients)?;
    let before = fleet.samples()?;
    fleet.enter("connect");
    let connecting = std::time::Instant::now();
    fleet.connect_all(MEASURED, options.clients)?;
    let (connected, connected_ms) = (fleet.samples()?, connecting.elapsed().as_secs_f64() * 1e3);
    fleet.enter("warm-up");
    publish_and_drain(&mut fleet, options, options.rate * options.warmup_seconds)?;

    fleet.enter("measured");
    let measured_from_s = fleet.epoch.elapsed().as_secs_f64();
    let (counters, start) = (fleet.view().counters, fleet.samples()?);
    let events = options.rate * options.seconds;
    let phase = publish_and_drain(&mut fleet, options, events)?;
    let end = fleet.samples()?;
    let counters = fleet.view().counters.since(&counters);
    let latencies = fleet.leave();

    let setup = [
        ("clients", options.clients as u64),
        ("rate", options.rate),
        ("seconds", options.seconds),
    ];
    let mut report = report(scenario, &fleet, &setup);
    report.set_latency("latency_ms", &latencies.events_us[MEASURED]);
    let offered = expected_deliveries(&options.server, options.clients, events);
    let has_rate = options.server.max_rate.is_some();
    set_deliveries(&mut report, &counters, Some(offered).filter(|_| !has_rate));
    if has_rate {
        let replaced = report.figures.remove("missing");
        report.set("conflated", replaced);
    }
    let delivered = counters.groups[MEASURED].events;
    report.set("deliveries_per_s", delivered as f64 / options.seconds.max(1) as f64);
    let bytes = counters.groups[MEASURED].bytes;
    report.set("received_bytes", bytes as f64);
    report.set("bytes_per_delivery", bytes as f64 / delivered as f64);
    report.set("behind_ms", phase.behind.as_secs_f64() * 1e3);
    report.set("connected_ms", connected_ms);
    report.set(
        "server_cpu_us_per_connection",
        cpu_us_per(&before, &connected, options.clients as u64),
    );
    report.set("server_cpu_us_per_delivery", cpu_us_per(&start, &end, delivered));
    let anonymous = |samples: &Samples| samples.server.as_ref().map(|sample| sample.anonymous_bytes as f64);
    let grown = anonymous(&connected)
        .zip(anonymous(&before))
        .map(|(after, before)| after - before);
    report.set(
        "bytes_per_connection",
        grown.map(|bytes| bytes / options.clients as f64),
    );
    report.set("server_cpu_us_per_update", cpu_us_per(&start, &end, offered));
    let proxy = start.proxy.as_ref().zip(end.proxy.as_ref());
    report.set(
        "proxy_cpu_us_per_delivery",
        proxy.and_then(|(start, end)| process_cpu_us_per(start, end, delivered)),
    );
    report.set("rss_bytes", end.server.as_ref().map(|sample| sample.rss_bytes as f64));
    let mut report = conclude(report, fleet, (&start, &phase.due))?;
    set_course(&mut report, measured_from_s);
    Ok(report)
}

fn publish_and_drain(fleet: &mut Fleet<'_>, options: &Fanout, events: u64) -> Result<Phase, String> {
    let schedule = fleet.schedule(options.rate, events);
    let last_due = schedule.start + Duration::from_nanos(schedule.interval_ns * events.saturating_sub(1));
    let target =
        fleet.view().counters.groups[MEASURED].events + expected_deliveries(&options.server, options.clients, events);
    fleet.publish(schedule)?;
    let due = fleet.samples()?;
    let limit = Duration::from_secs(options.drain_seconds);
    drain_deliveries(fleet, target, limit)?;
    let arrived = fleet.epoch + Duration::from_nanos(fleet.view().last_arrival_ns);
    Ok(Phase {
        behind: arrived.saturating_duration_since(last_due),
        due,
    })
}

/// Adds what the series says about a steady state: the worst second, and whether memory grows.
fn set_course(report: &mut Report, from_s: f64) {
    let column = |series: &Series, key: &str| -> Vec<(f64, f64)> {
        let values = series.columns.get(key).cloned().unwrap_or_default();
        let both = series.at_s.iter().zip(values);
        both.filter_map(|(at, value)| Some((*at, value?)))
            .filter(|(at, _)| *at > from_s)
            .collect()
    };
    let p99 = column(&report.series, "latency_ms_p99");
    let rss = column(&report.series, "server_rss_bytes");
    let largest = |values: &[(f64, f64)]| values.iter().map(|(_, value)| *value).reduce(f64::max);
    let (worst, most) = (largest(&p99), largest(&rss));
    report.set("worst_second_p99_ms", worst);
    report.set("rss_max_bytes", most);
    // A slope over a few seconds is not meaningful per hour.
    if rss.len() >= 60 {
        report.set("rss_growth_bytes_per_hour", slope(&rss[rss.len() / 2..]) * 3600.0);
    }
}

/// The slope of the values, by least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len().max(1) as f64;
    let (sum_x, sum_y) = points
        .iter()
        .fold((0.0, 0.0), |(sum_x, sum_y), (x, y)| (sum_x + x, sum_y + y));
    let (mean_x, mean_y) = (sum_x / count, sum_y / count);
    let (along, across) = points.iter().fold((0.0, 0.0), |(along, across), (x, y)| {
        (
            along + (x - mean_x) * (y - mean_y),
            across + (x - mean_x) * (x - mean_x),
        )
    });
    if across > 0.0 { along / across } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_distinguished_from_noise() {
        let grows: Vec<_> = (0..100)
            .map(|x| (f64::from(x), 5.0 + 2.0 * f64::from(x) + f64::from(x % 2)))
            .collect();
        assert!((slope(&grows) - 2.0).abs() < 0.01);
        let flat: Vec<_> = (0..100).map(|x| (f64::from(x), f64::from(x % 2))).collect();
        assert!(slope(&flat).abs() < 0.01);
        assert_eq!(slope(&[(1.0, 1.0)]), 0.0);
    }
}
