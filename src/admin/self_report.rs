//! The pulse: every five seconds the gateway tells how it is.
//!
//! Invariant: `system.health` belongs to the backends; the gateway fills in only while none has published it within
//! [`BACKEND_HEALTH_MS`]. Its own figures go to `system.gateway.<node>` whatever backends do.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval};

use crate::admin::statistics::{Rates, Sample, Snapshot};
use crate::broker::Broker;
use crate::event::NewEvent;
use crate::event::PublishOptions;
use crate::hub::Receipt;
use crate::metrics::ShardSample;
use crate::time::{Clock, Now};
use tickgate_protocol::channel::{Channel, ChannelError};
use tickgate_protocol::disconnect::Disconnect;

/// Between two beats, in milliseconds.
pub const INTERVAL_MS: u64 = 5_000;

/// A backend that published `system.health` within so many milliseconds is trusted to go on: three beats.
pub const BACKEND_HEALTH_MS: u64 = 3 * INTERVAL_MS;

const HEALTH: &str = "system.health";

/// Passes everything on to a broker and remembers when a backend last published `system.health`.
pub struct HealthWatch {
    broker: Arc<dyn Broker>,
    clock: Clock,
    // Monotonic milliseconds, plus one; 0: never.
    seen: AtomicU64,
}

impl HealthWatch {
    /// In front of this broker. All backends must publish through it, and the gateway itself must not.
    #[must_use]
    pub fn new(broker: Arc<dyn Broker>, clock: Clock) -> Self {
        Self {
            broker,
            clock,
            seen: AtomicU64::new(0),
        }
    }

    fn note(&self, event: &NewEvent) {
        if event.channel.as_str() == HEALTH {
            self.seen.store(self.clock.now().mono_ms + 1, Relaxed);
        }
    }

    /// When a backend last published it, in monotonic milliseconds.
    fn last_seen_ms(&self) -> Option<u64> {
        self.seen.load(Relaxed).checked_sub(1)
    }
}

impl Broker for HealthWatch {
    fn publish(&self, events: Vec<NewEvent>) -> Pin<Box<dyn Future<Output = Vec<Receipt>> + Send + '_>> {
        events.iter().for_each(|event| self.note(event));
        self.broker.publish(events)
    }

    fn try_publish(&self, shard: u16, event: NewEvent, now: Now) -> Result<Receipt, NewEvent> {
        self.note(&event);
        self.broker.try_publish(shard, event, now)
    }

    fn is_ready(&self) -> bool {
        self.broker.is_ready()
    }
}

/// Publishes the gateway's health and figures.
pub struct Pulse {
    figures: Arc<Sample>,
    watch: Arc<HealthWatch>,
    health: Channel,
    own: Channel,
    node: Box<str>,
    status: Box<dyn Fn() -> &'static str + Send + Sync>,
}

/// `data` of `system.health`.
#[derive(Serialize)]
struct Health {
    status: &'static str,
    uptime_s: u64,
    connections: i64,
    subscriptions: i64,
    events_per_s: f64,
    deliveries_per_s: f64,
}

/// `data` of `system.gateway.<node>`: counts are since the start, rates of the last five seconds.
#[derive(Serialize)]
struct Update<'a> {
    node: &'a str,
    version: &'static str,
    status: &'static str,
    uptime_s: u64,
    events: u64,
    events_unwanted: u64,
    events_per_s: f64,
    credits: usize,
    credits_lent: usize,
    cpu: f64,
    cpu_s: f64,
    rss_bytes: u64,
    total: Load,
    endings: BTreeMap<u16, u64>,
    shards: Vec<Load>,
}

/// What one shard, or all of them, hold and do.
#[derive(Serialize)]
struct Load {
    connections: i64,
    connections_total: u64,
    connections_per_s: f64,
    subscriptions: i64,
    messages_in: u64,
    messages_in_per_s: f64,
    messages_out: u64,
    messages_out_per_s: f64,
    deliveries: u64,
    deliveries_per_s: f64,
    bytes_in: u64,
    bytes_in_per_s: f64,
    bytes_out: u64,
    bytes_out_per_s: f64,
    dropped: u64,
    dropped_per_s: f64,
    rate_limited: u64,
    inbox: i64,
    pending_frames: i64,
    pending_bytes: i64,
    sends: u64,
    turns: u64,
    cpu: f64,
}

impl Pulse {
    /// For this node. `status` is what `system.health` says: `ok`, or what is wrong. The error is the node's name's.
    pub fn new(
        node: &str,
        figures: Arc<Sample>,
        watch: Arc<HealthWatch>,
        status: impl Fn() -> &'static str + Send + Sync + 'static,
    ) -> Result<Self, ChannelError> {
        if node.contains('.') {
            return Err(ChannelError::BadCharacter);
        }
        Ok(Self {
            figures,
            watch,
            health: Channel::parse(HEALTH)?,
            own: Channel::parse(&format!("system.gateway.{node}"))?,
            node: node.into(),
            status: Box::new(status),
        })
    }

    /// Beats until it is dropped; the first time one interval after the start.
    pub async fn run(self) {
        let mut beats = interval(Duration::from_millis(INTERVAL_MS));
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        beats.tick().await; // the first is immediate
        loop {
            beats.tick().await;
            let events = self.beat(self.watch.clock.now());
            // Past the watch: what the gateway says of itself is not a backend's.
            self.watch.broker.publish(events).await;
        }
    }

    /// Ends the window of the figures and gives what there is to tell.
    fn beat(&self, now: Now) -> Vec<NewEvent> {
        self.figures.tick(now);
        let snapshot = self.figures.snapshot(now);
        let status = (self.status)();
        let event = |channel: &Channel, data: Option<Bytes>| {
            data.map(|data| NewEvent {
                channel: channel.clone(),
                name: "update".into(),
                data,
                timestamp_ms: now.unix_ms,
                options: PublishOptions::default(),
            })
        };
        let mut events = Vec::with_capacity(2);
        let backend_speaks = |seen: u64| now.mono_ms.saturating_sub(seen) < BACKEND_HEALTH_MS;
        if !self.watch.last_seen_ms().is_some_and(backend_speaks) {
            events.extend(event(&self.health, json(&Health::of(&snapshot, status))));
        }
        events.extend(event(&self.own, json(&Update::of(&self.node, &snapshot, status))));
        events
    }
}

/// Structs of numbers and texts are always JSON; were one not, it would be told in the log, not sent.
fn json(value: &impl Serialize) -> Option<Bytes> {
    let written = serde_json::to_vec(value);
    let told = written.inspect_err(|error| tracing::error!(%error, "the pulse's figures are no JSON"));
    told.ok().map(Bytes::from)
}

/// Whole hundredths: nobody reads more of a rate.
fn rounded(rate: f64) -> f64 {
    (rate * 100.0).round() / 100.0
}

impl Health {
    fn of(snapshot: &Snapshot, status: &'static str) -> Self {
        Self {
            status,
            uptime_s: snapshot.uptime_ms / 1000,
            connections: snapshot.total.connections,
            subscriptions: snapshot.total.subscriptions,
            events_per_s: rounded(snapshot.rates.events),
            deliveries_per_s: rounded(snapshot.rates.deliveries),
        }
    }
}

impl<'a> Update<'a> {
    fn of(node: &'a str, snapshot: &Snapshot, status: &'static str) -> Self {
        let shards = snapshot.shards.iter().zip(&snapshot.shard_rates);
        let endings = Disconnect::ALL.iter().zip(snapshot.total.endings);
        Self {
            node,
            version: env!("CARGO_PKG_VERSION"),
            status,
            uptime_s: snapshot.uptime_ms / 1000,
            events: snapshot.hub.events,
            events_unwanted: snapshot.hub.unwanted,
            events_per_s: rounded(snapshot.rates.events),
            credits: snapshot.hub.credits,
            credits_lent: snapshot.hub.credits_lent,
            cpu: rounded(snapshot.rates.cpu),
            cpu_s: rounded(Duration::from_micros(snapshot.process.cpu_us).as_secs_f64()),
            rss_bytes: snapshot.process.rss_bytes,
            total: Load::of(&snapshot.total, &snapshot.rates),
            endings: endings
                .filter(|(_, times)| *times > 0)
                .map(|(ending, times)| (ending.code(), times))
                .collect(),
            shards: shards.map(|(figures, rates)| Load::of(figures, rates)).collect(),
        }
    }
}

impl Load {
    fn of(figures: &ShardSample, rates: &Rates) -> Self {
        Self {
            connections: figures.connections,
            connections_total: figures.connections_total,
            connections_per_s: rounded(rates.connections),
            subscriptions: figures.subscriptions,
            messages_in: figures.messages_in,
            messages_in_per_s: rounded(rates.messages_in),
            messages_out: figures.messages_out,
            messages_out_per_s: rounded(rates.messages_out),
            deliveries: figures.deliveries,
            deliveries_per_s: rounded(rates.deliveries),
            bytes_in: figures.bytes_in,
            bytes_in_per_s: rounded(rates.bytes_in),
            bytes_out: figures.bytes_out,
            bytes_out_per_s: rounded(rates.bytes_out),
            dropped: figures.dropped,
            dropped_per_s: rounded(rates.dropped),
            rate_limited: figures.rate_limited,
            inbox: figures.inbox,
            pending_frames: figures.pending_frames,
            pending_bytes: figures.pending_bytes,
            sends: figures.sends,
            turns: figures.turns,
            cpu: rounded(rates.cpu),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::broker::Embedded;
    use crate::hub::{Hub, Inbox, Settings};
    use crate::metrics::ShardMetrics;
    use crate::shard::mailbox::mailbox;
    use tickgate_protocol::channel::Pattern;

    struct Rig {
        pulse: Pulse,
        watch: Arc<HealthWatch>,
        stats: Arc<ShardMetrics>,
        inbox: Inbox,
        now: Now,
    }

    fn rig() -> Rig {
        let (hub, mut inboxes) = Hub::new(Settings::default(), 1, |_, _| Bytes::new());
        let inbox = inboxes.remove(0);
        let stats: Arc<ShardMetrics> = Arc::default();
        let handle = mailbox(inbox.doorbell().clone(), stats.clone()).0;
        let clock = Clock::start();
        let now = clock.now();
        let figures = Arc::new(Sample::new(hub.clone(), vec![handle], now));
        let watch = Arc::new(HealthWatch::new(Arc::new(Embedded::new(hub, clock)), clock));
        let pulse = Pulse::new("edge-1", figures, watch.clone(), || "ok").expect("a segment");
        Rig {
            pulse,
            watch,
            stats,
            inbox,
            now,
        }
    }

    fn backend_health() -> NewEvent {
        NewEvent {
            channel: Channel::parse(HEALTH).expect("valid"),
            name: "update".into(),
            data: Bytes::from_static(br#"{"status":"fine"}"#),
            timestamp_ms: 0,
            options: PublishOptions::default(),
        }
    }

    fn channels(events: &[NewEvent]) -> Vec<&str> {
        events.iter().map(|event| event.channel.as_str()).collect()
    }

    fn data(event: &NewEvent) -> Value {
        serde_json::from_slice(&event.data).expect("JSON")
    }

    #[test]
    fn a_beat_tells_health_and_the_real_figures() {
        let Rig { pulse, stats, now, .. } = rig();
        stats.connections.add(3);
        stats.deliveries.bump(1_000);
        stats.ended(Disconnect::HeartbeatTimeout);
        let events = pulse.beat(now.after_ms(INTERVAL_MS));
        assert_eq!(channels(&events), ["system.health", "system.gateway.edge-1"]);
        assert!(
            events
                .iter()
                .all(|event| &*event.name == "update" && event.timestamp_ms == now.unix_ms + INTERVAL_MS)
        );
        let health = data(&events[0]);
        assert_eq!(
            (&health["status"], &health["uptime_s"], &health["connections"]),
            (&"ok".into(), &5.into(), &3.into())
        );
        let own = data(&events[1]);
        assert_eq!(
            (&own["node"], &own["total"]["deliveries_per_s"]),
            (&"edge-1".into(), &200.0.into())
        );
        assert_eq!(own["shards"].as_array().map(Vec::len), Some(1));
        assert_eq!(own["endings"], serde_json::json!({"4009": 1}));
        assert!(own["rss_bytes"].as_u64() > Some(0));
    }

    #[test]
    fn the_gateway_is_silent_on_health_while_a_backend_speaks() {
        let Rig { pulse, watch, now, .. } = rig();
        watch.seen.store(now.mono_ms + 1, Relaxed);
        for (later, own_only) in [(0, true), (BACKEND_HEALTH_MS - 1, true), (BACKEND_HEALTH_MS, false)] {
            let events = pulse.beat(now.after_ms(later));
            assert_eq!(channels(&events) == ["system.gateway.edge-1"], own_only, "{later}");
        }
    }

    #[test]
    fn a_backend_is_noticed_on_both_ways_in_and_the_pulse_itself_is_not() {
        let Rig { watch, mut inbox, .. } = rig();
        inbox.join(&Pattern::parse("system.*").expect("valid"));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        runtime.block_on(watch.broker.publish(vec![backend_health()]));
        assert_eq!(watch.last_seen_ms(), None);
        assert!(watch.try_publish(0, backend_health(), Now::default()).is_ok());
        assert!(watch.last_seen_ms().is_some());
        watch.seen.store(0, Relaxed);
        runtime.block_on(watch.publish(vec![backend_health()]));
        assert!(watch.last_seen_ms().is_some() && watch.is_ready());
        assert_eq!(inbox.len(), 3);
    }

    #[test]
    fn it_beats_every_five_seconds() {
        let Rig { pulse, mut inbox, .. } = rig();
        inbox.join(&Pattern::parse("system.gateway.*").expect("valid"));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let beating = tokio::spawn(pulse.run());
            tokio::time::sleep(Duration::from_millis(3 * INTERVAL_MS + 1)).await;
            beating.abort();
        });
        assert_eq!(inbox.len(), 3);
    }

    #[test]
    fn a_node_is_one_segment() {
        let Rig { watch, pulse, .. } = rig();
        for bad in ["", "a.b", "*", "a b", ".x"] {
            assert!(
                Pulse::new(bad, pulse.figures.clone(), watch.clone(), || "ok").is_err(),
                "{bad:?}"
            );
        }
    }
}
