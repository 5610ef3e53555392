//! The gateway's statistics: one reading of every counter, and the rates of the last whole window.
//!
//! Invariant: counting threads do no extra work for a reading. It takes only the locks of the hub's sixteen stripes, one
//! at a time.
//!
//! The self-report ends a window every five seconds. The admin API and `/metrics` read at any time.

mod history;
mod process;

use std::sync::Arc;

use parking_lot::Mutex;

use crate::hub::{Hub, HubMetrics};
use crate::metrics::ShardSample;
use crate::shard::mailbox::ShardHandle;
use crate::time::Now;
use tickgate_protocol::channel::{Tenant, TenantNames};
use tickgate_protocol::disconnect::Disconnect;

pub use history::{Point, TenantPoint};
pub use process::Process;

use history::History;

/// Reads the statistics of one gateway.
pub struct Statistics {
    hub: Arc<Hub>,
    shards: Vec<ShardHandle>,
    // How many tenants have points of their own.
    tenants: usize,
    started: Now,
    window: Mutex<Window>,
}

struct Window {
    begins: Totals,
    rates: Rates,
    shard_rates: Vec<Rates>,
    tenants: Vec<TenantPoint>,
    history: History,
}

/// One reading of every counter.
#[derive(Clone, Debug, Default)]
struct Totals {
    mono_ms: u64,
    hub: HubMetrics,
    process: Process,
    total: ShardSample,
    shards: Vec<ShardSample>,
}

/// One reading of a gateway's statistics.
#[derive(Clone, Debug, Default)]
pub struct GatewaySample {
    /// Milliseconds since the start.
    pub uptime_ms: u64,
    /// The hub.
    pub hub: HubMetrics,
    /// The process.
    pub process: Process,
    /// The sum over all shards.
    pub total: ShardSample,
    /// Each shard.
    pub shards: Vec<ShardSample>,
    /// The rates of the last whole window.
    pub rates: Rates,
    /// The rates of each shard. Their `events` are 0, since only the hub counts published events.
    pub shard_rates: Vec<Rates>,
    /// The last whole window of each tenant, by its number; empty without `[[tenant]]`.
    pub tenants: Vec<TenantPoint>,
}

/// What a tenant has had since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TenantTotals {
    /// Connections now.
    pub connections: i64,
    /// Patterns that they hold.
    pub subscriptions: i64,
    /// Connections that ended, by [`Disconnect`] in the order of [`Disconnect::ALL`].
    pub endings: [u64; Disconnect::ALL.len()],
    /// Events published on its channels.
    pub events: u64,
    /// Its events put into outboxes.
    pub deliveries: u64,
}

impl TenantTotals {
    /// Of all but connections, the default tenant has what no other one has.
    fn of(tenant: Tenant, hub: &HubMetrics, total: &ShardSample) -> Self {
        let of = |all: u64, of_others: &[u64]| {
            if tenant.is_default() {
                all.saturating_sub(of_others.iter().sum())
            } else {
                of_others[tenant.index()]
            }
        };
        let endings = |ending: usize| {
            let of_others = total.tenant_endings.map(|endings| endings[ending]);
            of(total.endings[ending], &of_others)
        };
        let subscriptions = total.tenant_subscriptions;
        Self {
            connections: total.tenant_connections[tenant.index()],
            subscriptions: if tenant.is_default() {
                total.subscriptions - subscriptions.iter().sum::<i64>()
            } else {
                subscriptions[tenant.index()]
            },
            endings: std::array::from_fn(endings),
            events: of(hub.events, &hub.tenant_events),
            deliveries: of(total.deliveries, &total.tenant_deliveries),
        }
    }
}

impl GatewaySample {
    /// What a tenant has had since the start.
    #[must_use]
    pub fn tenant(&self, tenant: Tenant) -> TenantTotals {
        TenantTotals::of(tenant, &self.hub, &self.total)
    }
}

/// Rates per second over one window. They are 0 until the first window has passed.
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

impl Statistics {
    /// Creates the statistics of these shards, their hub, and the tenants with these names. The first window begins at `now`.
    #[must_use]
    pub fn new(hub: Arc<Hub>, shards: Vec<ShardHandle>, tenants: &TenantNames, now: Now) -> Self {
        let mut statistics = Self {
            hub,
            shards,
            tenants: if tenants.is_empty() { 0 } else { tenants.tables() },
            started: now,
            window: Mutex::new(Window {
                begins: Totals::default(),
                rates: Rates::default(),
                shard_rates: Vec::new(),
                tenants: Vec::new(),
                history: History::default(),
            }),
        };
        let begins = statistics.totals(now, Process::read());
        let window = statistics.window.get_mut();
        window.shard_rates = vec![Rates::default(); begins.shards.len()];
        window.tenants = vec![TenantPoint::default(); statistics.tenants];
        window.begins = begins;
        statistics
    }

    /// Ends the window and begins the next one.
    pub fn tick(&self, now: Now) {
        self.tick_with(now, Process::read());
    }

    /// What happened in the windows behind a time of the last hour, in Unix milliseconds; oldest first.
    #[must_use]
    pub fn history(&self, since_unix_ms: u64) -> Vec<Point> {
        self.window.lock().history.since(since_unix_ms)
    }

    fn tick_with(&self, now: Now, process: Process) {
        let ends = self.totals(now, process);
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
        let shard_rates: Vec<_> = pairs.map(|(from, to)| Rates::between(from, to, elapsed_ms)).collect();
        let tenants = (0..self.tenants).filter_map(Tenant::new);
        let tenants: Vec<_> = tenants
            .map(|tenant| TenantPoint::between(tenant, begins, &ends, elapsed_ms))
            .collect();
        let point = Point::between(begins, &ends, (rates, &shard_rates), &tenants, now.unix_ms);
        window.history.push(point);
        window.shard_rates = shard_rates;
        window.tenants = tenants;
        window.rates = rates;
        window.begins = ends;
    }

    /// Reads every counter as it is now. The rates are those of the last whole window.
    #[must_use]
    pub fn read(&self, now: Now) -> GatewaySample {
        let totals = self.totals(now, Process::read());
        let window = self.window.lock();
        GatewaySample {
            uptime_ms: now.mono_ms.saturating_sub(self.started.mono_ms),
            hub: totals.hub,
            process: totals.process,
            total: totals.total,
            shards: totals.shards,
            rates: window.rates,
            shard_rates: window.shard_rates.clone(),
            tenants: window.tenants.clone(),
        }
    }

    fn totals(&self, now: Now, process: Process) -> Totals {
        let shards: Vec<ShardSample> = self.shards.iter().map(|shard| shard.metrics().read()).collect();
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
            deliveries: rate(|shard| shard.deliveries),
            messages_in: rate(|shard| shard.messages_in),
            messages_out: rate(|shard| shard.messages_out),
            bytes_in: rate(|shard| shard.bytes_in),
            bytes_out: rate(|shard| shard.bytes_out),
            connections: rate(|shard| shard.connections_total),
            dropped: rate(|shard| shard.dropped),
            cpu: rate(|shard| shard.cpu_us) / 1e6,
        }
    }
}

impl TenantPoint {
    #[expect(clippy::cast_possible_truncation, reason = "a chart needs no more")]
    fn between(tenant: Tenant, begins: &Totals, ends: &Totals, elapsed_ms: u64) -> Self {
        let of = |totals: &Totals| TenantTotals::of(tenant, &totals.hub, &totals.total);
        let (from, to) = (of(begins), of(ends));
        Self {
            connections: u32::try_from(to.connections).unwrap_or(0),
            events: per_second(from.events, to.events, elapsed_ms) as f32,
            deliveries: per_second(from.deliveries, to.deliveries, elapsed_ms) as f32,
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a rate needs no more than the precision of a double"
)]
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

    struct Rig {
        statistics: Statistics,
        hub: Arc<Hub>,
        inboxes: Vec<crate::hub::Inbox>,
        shards: Vec<Arc<ShardMetrics>>,
        now: Now,
    }

    fn rig() -> Rig {
        let (hub, inboxes) = Hub::new(Settings::default(), 2, |_, _| Bytes::new());
        let shards: Vec<Arc<ShardMetrics>> = (0..2).map(|_| Arc::default()).collect();
        let handle = |(inbox, metrics): (&crate::hub::Inbox, &Arc<ShardMetrics>)| {
            mailbox(inbox.doorbell().clone(), metrics.clone()).0
        };
        let handles = inboxes.iter().zip(&shards).map(handle).collect();
        let now = Now {
            mono_ms: 77,
            unix_ms: 1_703_836_800_000,
        };
        Rig {
            statistics: Statistics::new(hub.clone(), handles, &TenantNames::new(vec!["one".into()]), now),
            hub,
            inboxes,
            shards,
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
                hub.credit_now(tickgate_protocol::channel::Tenant::DEFAULT, 0)
                    .expect("free"),
                &mut Wakes::default(),
            );
        }
    }

    #[test]
    fn rates_are_those_of_the_last_whole_window() {
        let Rig {
            statistics,
            hub,
            shards,
            now,
            ..
        } = rig();
        assert_eq!(statistics.read(now).rates, Rates::default());
        publish(&hub, 100);
        shards[0].deliveries.bump(1_000);
        shards[1].deliveries.bump(500);
        shards[1].cpu_us.bump(2_500_000);
        let cpu = statistics.window.lock().begins.process.cpu_us;
        let process = Process {
            cpu_us: cpu + 7_500_000,
            rss_bytes: 0,
        };
        statistics.tick_with(now.after_ms(5_000), process);
        // Counts in the totals at once, and in the rates with the next tick.
        shards[0].deliveries.bump(1);
        let sample = statistics.read(now.after_ms(6_000));
        assert_eq!((sample.uptime_ms, sample.total.deliveries), (6_000, 1_501));
        assert_eq!(
            (sample.rates.events, sample.rates.deliveries, sample.rates.cpu),
            (20.0, 300.0, 1.5)
        );
        let shard_rates: Vec<_> = sample
            .shard_rates
            .iter()
            .map(|rates| (rates.deliveries, rates.cpu))
            .collect();
        assert_eq!(shard_rates, [(200.0, 0.0), (100.0, 0.5)]);
        statistics.tick_with(now.after_ms(7_000), process);
        let sample = statistics.read(now.after_ms(7_000));
        assert_eq!(
            (sample.rates.events, sample.rates.deliveries, sample.rates.cpu),
            (0.0, 0.5, 0.0)
        );
    }

    #[test]
    fn each_tenant_has_its_own_part_and_the_default_one_the_rest() {
        let Rig {
            statistics,
            hub,
            shards,
            now,
            ..
        } = rig();
        publish(&hub, 10);
        shards[0].deliveries.bump(150);
        shards[0].tenant_deliveries[1].bump(100);
        shards[1].tenant_connections[1].add(7);
        shards[1].tenant_connections[0].add(2);
        shards[0].subscriptions.set(9);
        shards[0].tenant_subscriptions[1].set(4);
        let one = Tenant::new(1).expect("few");
        for (tenant, times) in [(one, 3), (Tenant::DEFAULT, 2)] {
            (0..times).for_each(|_| shards[1].ended(tenant, Disconnect::SlowConsumer));
        }
        statistics.tick(now.after_ms(5_000));
        let part = |connections, events, deliveries| TenantPoint {
            connections,
            events,
            deliveries,
        };
        let parts = [part(2, 2.0, 10.0), part(7, 0.0, 20.0)];
        let sample = statistics.read(now);
        assert_eq!(sample.tenants, parts);
        for (tenant, subscriptions, endings) in [(one, 4, 3), (Tenant::DEFAULT, 5, 2)] {
            let own = sample.tenant(tenant);
            assert_eq!(
                (own.subscriptions, own.endings.iter().sum::<u64>()),
                (subscriptions, endings)
            );
            assert_eq!(own.endings[Disconnect::SlowConsumer as usize], endings);
        }
        assert_eq!(*statistics.history(0)[0].tenants, parts);
    }

    #[test]
    fn a_second_tick_at_the_same_time_keeps_the_rates() {
        let Rig {
            statistics, hub, now, ..
        } = rig();
        publish(&hub, 5);
        statistics.tick(now.after_ms(1_000));
        statistics.tick(now.after_ms(1_000));
        assert_eq!(statistics.read(now).rates.events, 5.0);
    }

    #[test]
    fn a_reading_adds_up_the_shards_and_includes_the_queues() {
        let Rig {
            statistics,
            hub,
            mut inboxes,
            shards,
            now,
        } = rig();
        inboxes[1].join(&Pattern::parse("a.*").expect("valid"));
        publish(&hub, 3);
        for metrics in &shards {
            metrics.connections.add(5);
            metrics.ended(Tenant::DEFAULT, Disconnect::SlowConsumer);
        }
        shards[1].pending_bytes.add(-2);
        let sample = statistics.read(now);
        assert_eq!((sample.total.connections, sample.total.pending_bytes), (10, -2));
        assert_eq!(sample.total.endings[Disconnect::SlowConsumer as usize], 2);
        assert_eq!((sample.hub.events, sample.hub.credits_lent), (3, 3));
        assert_eq!(sample.shards.len(), 2);
    }
}
