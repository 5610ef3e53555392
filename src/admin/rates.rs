//! Rates over the last five to ten seconds, from totals read every five seconds.

use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;

use super::Admin;

/// Between two readings.
pub(super) const EVERY: Duration = Duration::from_secs(5);

/// Totals at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) mono_ms: u64,
    pub(super) connections: u64,
    pub(super) messages_in: u64,
    pub(super) messages_out: u64,
    pub(super) events: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
}

/// Per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct PerSecond {
    connections: f64,
    messages_in: f64,
    messages_out: f64,
    events_published: f64,
    bytes_in: f64,
    bytes_out: f64,
}

/// The last two readings, the older one first.
#[derive(Debug, Default)]
pub(super) struct Rates(Mutex<(Totals, Totals)>);

impl Rates {
    pub(super) fn sample(&self, now: Totals) {
        let mut samples = self.0.lock();
        *samples = (samples.1, now);
    }

    /// The rates since the older reading.
    pub(super) fn since(&self, now: Totals) -> PerSecond {
        let before = self.0.lock().0;
        let elapsed_ms = now.mono_ms.saturating_sub(before.mono_ms).max(1);
        let rate = |now: u64, before: u64| {
            // A tenth is fine enough to read.
            let tenths = u128::from(now.saturating_sub(before)) * 10_000 / u128::from(elapsed_ms);
            u32::try_from(tenths).map_or(f64::from(u32::MAX), f64::from) / 10.0
        };
        PerSecond {
            connections: rate(now.connections, before.connections),
            messages_in: rate(now.messages_in, before.messages_in),
            messages_out: rate(now.messages_out, before.messages_out),
            events_published: rate(now.events, before.events),
            bytes_in: rate(now.bytes_in, before.bytes_in),
            bytes_out: rate(now.bytes_out, before.bytes_out),
        }
    }
}

impl Admin {
    /// The totals of now.
    pub(super) fn totals(&self) -> Totals {
        let mut totals = Totals {
            mono_ms: self.clock.now().mono_ms,
            events: self.hub.stats().events,
            ..Totals::default()
        };
        for shard in &self.shards {
            let stats = shard.stats();
            totals.connections += stats.connections_total.get();
            totals.messages_in += stats.messages_in.get();
            totals.messages_out += stats.messages_out.get();
            totals.bytes_in += stats.bytes_in.get();
            totals.bytes_out += stats.bytes_out.get();
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_since_the_older_reading() {
        let rates = Rates::default();
        let at = |mono_ms, messages_in| Totals {
            mono_ms,
            messages_in,
            ..Totals::default()
        };
        rates.sample(at(5_000, 100));
        rates.sample(at(10_000, 200));
        assert_eq!(rates.since(at(12_500, 250)).messages_in, 20.0);
        assert_eq!(
            rates.since(at(5_000, 50)).messages_in,
            0.0,
            "never negative, never divided by zero"
        );
    }
}
