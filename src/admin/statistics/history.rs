//! The load of the last hour: one point for each window of the statistics.
//!
//! Invariant: at most [`POINTS_MAX`] points are kept, so the memory is bounded, about half a megabyte with 64 shards, and
//! 300 KiB more with 31 tenants.

use std::collections::VecDeque;

use super::{Rates, Totals};

/// An hour of windows of five seconds.
pub(super) const POINTS_MAX: usize = 720;

/// What happened in one window, and how things stood at its end.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Point {
    /// The end of the window, in Unix milliseconds.
    pub unix_ms: u64,
    /// Rates per second.
    pub rates: Rates,
    /// Connections.
    pub connections: i64,
    /// Connections that ended.
    pub ended: u64,
    /// Messages refused because they came too fast.
    pub rate_limited: u64,
    /// Events in the shards' inboxes.
    pub inbox: i64,
    /// Frames in outboxes.
    pub pending_frames: i64,
    /// Bytes in outboxes.
    pub pending_bytes: i64,
    /// The part of the hub's credits that is lent, 0 to 1.
    pub credits_lent: f64,
    /// Memory of the process, in bytes.
    pub rss_bytes: u64,
    /// The median time from the publication of an event to its flush, in milliseconds; `None`: no event was sampled.
    pub latency_p50_ms: Option<f64>,
    /// The time that 99 % of them did not exceed.
    pub latency_p99_ms: Option<f64>,
    /// CPU cores that each shard used.
    pub shard_cpu: Box<[f32]>,
    /// Each tenant, by its number; empty without `[[tenant]]`.
    pub tenants: Box<[TenantPoint]>,
}

/// What a tenant did in one window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TenantPoint {
    /// Connections at its end.
    pub connections: u32,
    /// Events published per second.
    pub events: f32,
    /// Events put into outboxes per second.
    pub deliveries: f32,
}

/// The points, oldest first.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<Point>);

impl History {
    pub(super) fn push(&mut self, point: Point) {
        if self.0.len() == POINTS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(point);
    }

    /// The points behind a time, in Unix milliseconds.
    pub(super) fn since(&self, unix_ms: u64) -> Vec<Point> {
        let behind = self.0.iter().filter(|point| point.unix_ms > unix_ms);
        behind.cloned().collect()
    }
}

impl Point {
    #[expect(clippy::cast_precision_loss, reason = "a part of a whole needs no more")]
    #[expect(clippy::cast_possible_truncation, reason = "a number of cores needs no more")]
    pub(super) fn between(
        begins: &Totals,
        ends: &Totals,
        (rates, shard_rates): (Rates, &[Rates]),
        tenants: &[TenantPoint],
        unix_ms: u64,
    ) -> Self {
        let ended = |totals: &Totals| totals.total.endings.iter().sum::<u64>();
        let latency = |part| ends.total.latency.quantile_ms(&begins.total.latency, part);
        Self {
            unix_ms,
            rates,
            connections: ends.total.connections,
            ended: ended(ends).saturating_sub(ended(begins)),
            rate_limited: ends.total.rate_limited.saturating_sub(begins.total.rate_limited),
            inbox: ends.total.inbox,
            pending_frames: ends.total.pending_frames,
            pending_bytes: ends.total.pending_bytes,
            credits_lent: ends.hub.credits_lent as f64 / ends.hub.credits.max(1) as f64,
            rss_bytes: ends.process.rss_bytes,
            latency_p50_ms: latency(0.5),
            latency_p99_ms: latency(0.99),
            shard_cpu: shard_rates.iter().map(|rates| rates.cpu as f32).collect(),
            tenants: tenants.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_is_kept_and_no_more() {
        let mut history = History::default();
        for n in 1..=POINTS_MAX as u64 + 10 {
            history.push(Point {
                unix_ms: n * 5_000,
                ..Point::default()
            });
        }
        let all = history.since(0);
        assert_eq!((all.len(), all[0].unix_ms), (POINTS_MAX, 55_000));
        let newest = all[POINTS_MAX - 1].unix_ms;
        assert_eq!(history.since(newest - 5_000), all[POINTS_MAX - 1..]);
        assert!(history.since(newest).is_empty());
    }
}
