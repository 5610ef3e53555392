//! The gateway's own figures: one reading of every counter, and the rates of the last five seconds.
//!
//! Invariant: figures are only read from what the counted threads write anyway; reading them costs those threads
//! nothing but the hub's sixteen locks, one at a time.
//!
//! The pulse ticks the window; the admin API and `/metrics` read snapshots whenever they like.

mod process;

use std::sync::Arc;

use parking_lot::Mutex;

use crate::hub::{Hub, HubMetrics};
use crate::metrics::ShardSample;
use crate::shard::mailbox::ShardHandle;
use crate::time::Now;

pub use process::Process;

/// Reads the figures of one gateway.
pub struct Sample {
    hub: Arc<Hub>,
    shards: Vec<ShardHandle>,
    started: Now,
    window: Mutex<Window>,
}

struct Window {
    begins: Totals,
    rates: Rates,
    shard_rates: Vec<Rates>,
}

/// Every counter, at one time.
#[derive(Clone, Debug, Default)]
struct Totals {
    mono_ms: u64,
    hub: HubMetrics,
    process: Process,
    total: ShardSample,
    shards: Vec<ShardSample>,
}

/// What a gateway does and holds.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Since the start, in milliseconds.
    pub uptime_ms: u64,
    /// The hub.
    pub hub: HubMetrics,
    /// The process.
    pub process: Process,
    /// All shards together.
    pub total: ShardSample,
    /// Each shard.
    pub shards: Vec<ShardSample>,
    /// Of the last whole window.
    pub rates: Rates,
    /// The same, of each shard. The hub's own rate stands only in the total.
    pub shard_rates: Vec<Rates>,
}

/// Per second, over one window; zeros until the first one has passed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Events published.
    pub events: f64,
    /// Events put into outboxes.
    pub deliveries: f64,
    /// Data messages received.
    pub messages_in: f64,
    /// Messages written.
    pub messages_out: f64,
    /// Bytes read.
    pub bytes_in: f64,
    /// Bytes written.
    pub bytes_out: f64,
    /// Connections adopted.
    pub connections: f64,
    /// Events dropped.
    pub dropped: f64,
    /// CPU cores used, by the process or by the shard's thread.
    pub cpu: f64,
}

impl Sample {
    /// For these shards and their hub, started now.
    #[must_use]
    pub fn new(hub: Arc<Hub>, shards: Vec<ShardHandle>, now: Now) -> Self {
        let mut figures = Self {
            hub,
            shards,
            started: now,
            window: Mutex::new(Window {
                begins: Totals::default(),
                rates: Rates::default(),
                shard_rates: Vec::new(),
            }),
        };
        let begins = figures.read(now, Process::read());
        let window = figures.window.get_mut();
        window.shard_rates = vec![Rates::default(); begins.shards.len()];
        window.begins = begins;
        figures
    }

    /// Ends the window and begins the next one.
    pub fn tick(&self, now: Now) {
        self.tick_with(now, Process::read());
    }

    fn tick_with(&self, now: Now, process: Process) {
        let ends = self.read(now, process);
        let mut window = self.window.lock();
        let elapsed_ms = ends.mono_ms.saturating_sub(window.begins.mono_ms);
        if elapsed_ms == 0 {
            return;
        }
        let begins = &window.begins;
        let mut rates = Rates::between(&begins.total, &ends.total, elapsed_ms);
        rates.events = per_second(begins.hub.events, ends.hub.events, elapsed_ms);
        rates.cpu = per_second(begins.process.cpu_us, ends.process.cpu_us, elapsed_ms) / 1e6;
        let pairs = begins.shards.iter().zip(&ends.shards);
        window.shard_rates = pairs.map(|(from, to)| Rates::between(from, to, elapsed_ms)).collect();
        window.rates = rates;
        window.begins = ends;
    }

    /// Everything as it is now, with the rates of the last whole window.
    #[must_use]
    pub fn snapshot(&self, now: Now) -> Snapshot {
        let read = self.read(now, Process::read());
        let window = self.window.lock();
        Snapshot {
            uptime_ms: now.mono_ms.saturating_sub(self.started.mono_ms),
            hub: read.hub,
            process: read.process,
            total: read.total,
            shards: read.shards,
            rates: window.rates,
            shard_rates: window.shard_rates.clone(),
        }
    }

    fn read(&self, now: Now, process: Process) -> Totals {
        let shards: Vec<ShardSample> = self.shards.iter().map(|shard| shard.stats().read()).collect();
        let mut total = ShardSample::default();
        for shard in &shards {
            total.add(shard);
        }
        Totals {
            mono_ms: now.mono_ms,
            hub: self.hub.metrics(),
            process,
            total,
            shards,
        }
    }
}

impl Rates {
    fn between(from: &ShardSample, to: &ShardSample, elapsed_ms: u64) -> Self {
        let rate = |of: fn(&ShardSample) -> u64| per_second(of(from), of(to), elapsed_ms);
        Self {
            events: 0.0,
            deliveries: rate(|figures| figures.deliveries),
            messages_in: rate(|figures| figures.messages_in),
            messages_out: rate(|figures| figures.messages_out),
            bytes_in: rate(|figures| figures.bytes_in),
            bytes_out: rate(|figures| figures.bytes_out),
            connections: rate(|figures| figures.connections_total),
            dropped: rate(|figures| figures.dropped),
            cpu: rate(|figures| figures.cpu_us) / 1e6,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate is no count")]
fn per_second(from: u64, to: u64, elapsed_ms: u64) -> f64 {
    to.saturating_sub(from) as f64 * 1000.0 / elapsed_ms as f64
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::event::NewEvent;
    use crate::event::PublishOptions;
    use crate::hub::{Settings, Wakes};
    use crate::metrics::ShardMetrics;
    use crate::shard::mailbox::mailbox;
    use tickgate_protocol::channel::{Channel, Pattern};
    use tickgate_protocol::disconnect::Disconnect;

    struct Rig {
        figures: Sample,
        hub: Arc<Hub>,
        inboxes: Vec<crate::hub::Inbox>,
        stats: Vec<Arc<ShardMetrics>>,
        now: Now,
    }

    fn rig() -> Rig {
        let (hub, inboxes) = Hub::new(Settings::default(), 2, |_, _| Bytes::new());
        let stats: Vec<Arc<ShardMetrics>> = (0..2).map(|_| Arc::default()).collect();
        let handle = |(inbox, stats): (&crate::hub::Inbox, &Arc<ShardMetrics>)| {
            mailbox(inbox.doorbell().clone(), stats.clone()).0
        };
        let handles = inboxes.iter().zip(&stats).map(handle).collect();
        let now = Now {
            mono_ms: 77,
            unix_ms: 1_703_836_800_000,
        };
        Rig {
            figures: Sample::new(hub.clone(), handles, now),
            hub,
            inboxes,
            stats,
            now,
        }
    }

    fn publish(hub: &Hub, times: usize) {
        for _ in 0..times {
            let event = NewEvent {
                channel: Channel::parse("a.b").expect("valid"),
                name: "n".into(),
                data: Bytes::new(),
                timestamp_ms: 0,
                options: PublishOptions::default(),
            };
            hub.publish(
                event,
                Now::default(),
                hub.credit_now(0).expect("free"),
                &mut Wakes::default(),
            );
        }
    }

    #[test]
    fn rates_are_those_of_the_last_whole_window() {
        let Rig {
            figures,
            hub,
            stats,
            now,
            ..
        } = rig();
        assert_eq!(figures.snapshot(now).rates, Rates::default());
        publish(&hub, 100);
        stats[0].deliveries.bump(1_000);
        stats[1].deliveries.bump(500);
        stats[1].cpu_us.bump(2_500_000);
        let cpu = figures.window.lock().begins.process.cpu_us;
        let process = Process {
            cpu_us: cpu + 7_500_000,
            rss_bytes: 0,
        };
        figures.tick_with(now.after_ms(5_000), process);
        // What comes after the window counts in the totals at once, in the rates with the next tick.
        stats[0].deliveries.bump(1);
        let snapshot = figures.snapshot(now.after_ms(6_000));
        assert_eq!((snapshot.uptime_ms, snapshot.total.deliveries), (6_000, 1_501));
        assert_eq!(
            (snapshot.rates.events, snapshot.rates.deliveries, snapshot.rates.cpu),
            (20.0, 300.0, 1.5)
        );
        let shards: Vec<_> = snapshot
            .shard_rates
            .iter()
            .map(|rates| (rates.deliveries, rates.cpu))
            .collect();
        assert_eq!(shards, [(200.0, 0.0), (100.0, 0.5)]);
        figures.tick_with(now.after_ms(7_000), process);
        let snapshot = figures.snapshot(now.after_ms(7_000));
        assert_eq!(
            (snapshot.rates.events, snapshot.rates.deliveries, snapshot.rates.cpu),
            (0.0, 0.5, 0.0)
        );
    }

    #[test]
    fn two_ticks_at_one_time_keep_the_rates() {
        let Rig { figures, hub, now, .. } = rig();
        publish(&hub, 5);
        figures.tick(now.after_ms(1_000));
        figures.tick(now.after_ms(1_000));
        assert_eq!(figures.snapshot(now).rates.events, 5.0);
    }

    #[test]
    fn a_snapshot_adds_shards_up_and_sees_queues() {
        let Rig {
            figures,
            hub,
            mut inboxes,
            stats,
            now,
        } = rig();
        inboxes[1].join(&Pattern::parse("a.*").expect("valid"));
        publish(&hub, 3);
        for stats in &stats {
            stats.connections.add(5);
            stats.ended(Disconnect::SlowConsumer);
        }
        stats[1].pending_bytes.add(-2);
        let snapshot = figures.snapshot(now);
        assert_eq!((snapshot.total.connections, snapshot.total.pending_bytes), (10, -2));
        assert_eq!(snapshot.total.endings[Disconnect::SlowConsumer as usize], 2);
        assert_eq!((snapshot.hub.events, snapshot.hub.credits_lent), (3, 3));
        assert_eq!(snapshot.shards.len(), 2);
    }
}
