//! `slow`: clients that stop reading, among healthy clients that must not be affected.

use std::time::Duration;

use super::idle::flood;
use super::storm::set_ratio;
use super::{conclude, cpu_us_per, drain_deliveries, expected_deliveries, report, set_deliveries};
use crate::fleet::Fleet;
use crate::measured::{MEASURED, OTHERS};
use crate::options::Slow;
use crate::report::Report;
use crate::worker::Order;

pub(super) fn run(options: &Slow) -> Result<Report, String> {
    let mut fleet = Fleet::start(&options.server, options.clients + options.stalled)?;
    fleet.enter("connect");
    fleet.connect_all(MEASURED, options.clients)?;
    connect_stalled(&mut fleet, options.stalled)?;
    fleet.enter("without");
    let counters = fleet.view().counters;
    let measure = |fleet: &mut Fleet<'_>| fleet.publish(fleet.schedule(options.rate, options.rate * options.seconds));
    measure(&mut fleet)?;
    let without = fleet.enter("stalling");
    // First fill the buffers of the kernel and of the server for the stalled readers.
    fleet.tell_all(|| Order::Stall(OTHERS))?;
    flood(&mut fleet, 1000)?;
    fleet.enter("with");
    let start = fleet.samples()?;
    measure(&mut fleet)?;
    let end = fleet.samples()?;
    let published = 2 * options.rate * options.seconds;
    let expected = expected_deliveries(&options.server, options.clients, published);
    let target = counters.groups[MEASURED].events + expected;
    drain_deliveries(&mut fleet, target, Duration::from_secs(30))?;
    let with = fleet.enter("reading again");
    let before = fleet.view().counters;
    fleet.tell_all(|| Order::Resume(OTHERS))?;
    let seen = |view: &crate::recorder::View| view.counters.groups[OTHERS].events + view.counters.groups[OTHERS].ended;
    fleet.drain(u64::MAX, Duration::from_secs(30), seen)?;
    let read = fleet.view().counters.since(&before).groups[OTHERS];
    let counters = fleet.view().counters.since(&counters);

    let setup = [
        ("clients", options.clients as u64),
        ("stalled", options.stalled as u64),
        ("rate", options.rate),
        ("seconds", options.seconds),
    ];
    let mut report = report("slow", &fleet, &setup);
    report.set_latency("baseline_ms", &without.events_us[MEASURED]);
    report.set_latency("latency_ms", &with.events_us[MEASURED]);
    set_ratio(&mut report);
    set_deliveries(&mut report, &counters, Some(expected));
    report.set_counts([
        ("stalled_ended", read.ended),
        ("stalled_missing", read.missing),
        ("stalled_told_dropped", read.told_dropped),
    ]);
    let half = expected_deliveries(&options.server, options.clients, published / 2);
    report.set("server_cpu_us_per_delivery", cpu_us_per(&start, &end, half));
    report.set("rss_bytes", end.server.as_ref().map(|sample| sample.rss_bytes as f64));
    conclude(report, fleet, (&start, &end))
}

/// Subscribes each stalled client to a channel of the healthy ones and to the channel that will fill its socket.
fn connect_stalled(fleet: &mut Fleet<'_>, count: usize) -> Result<(), String> {
    let wanted = fleet.view().counters.sum(|group| group.ready) + count as u64;
    let channels = fleet.server.channels;
    let names: Vec<_> = (0..=channels).map(|index| fleet.channel(index)).collect();
    fleet.connect(OTHERS, count, Duration::ZERO, |index| {
        let shared = index % channels as usize;
        vec![names[shared].clone(), names[channels as usize].clone()]
    })?;
    fleet.await_live(wanted, Duration::from_secs(60))
}
