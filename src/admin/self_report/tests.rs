use serde_json::Value;

use super::*;
use crate::broker::Embedded;
use crate::broker::lease::Contender;
use crate::hub::{Hub, Inbox, Settings};
use crate::metrics::ShardMetrics;
use crate::shard::mailbox::ConnectionId;
use crate::shard::mailbox::mailbox;
use tickgate_protocol::channel::Pattern;

#[test]
fn the_load_of_an_idle_gateway_is_not_rounded_to_nothing() {
    assert_eq!(rounded_cores(0.003_14), 0.0031);
    assert_eq!(rounded_cores(1.999_99), 2.0);
}

struct Rig {
    report: SelfReport,
    watch: Arc<HealthWatch>,
    metrics: Arc<ShardMetrics>,
    inbox: Inbox,
    now: Now,
}

fn rig() -> Rig {
    rig_with(&[])
}

fn rig_with(tenants: &[&str]) -> Rig {
    rig_of(tenants, |watch| watch)
}

fn rig_of(tenants: &[&str], change: impl FnOnce(HealthWatch) -> HealthWatch) -> Rig {
    let tenants = TenantNames::new(tenants.iter().map(|name| (*name).into()).collect());
    let (hub, mut inboxes) = Hub::new(Settings::default(), 1, |_, _| Bytes::new());
    let inbox = inboxes.remove(0);
    let metrics: Arc<ShardMetrics> = Arc::default();
    let handle = mailbox(inbox.doorbell().clone(), metrics.clone()).0;
    let clock = Clock::start();
    let now = clock.now();
    let statistics = Arc::new(Statistics::new(hub.clone(), vec![handle], &tenants, now));
    let watch = HealthWatch::new(Arc::new(Embedded::new(hub, clock)), HealthSeen::new(clock));
    let watch = Arc::new(change(watch));
    let report = SelfReport::new("edge-1", &tenants, statistics, watch.clone(), || "ok").expect("a segment");
    Rig {
        report,
        watch,
        metrics,
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

fn all((health, own): (Vec<NewEvent>, Vec<NewEvent>)) -> Vec<NewEvent> {
    health.into_iter().chain(own).collect()
}

fn channels(events: &[NewEvent]) -> Vec<&str> {
    events.iter().map(|event| event.channel.as_str()).collect()
}

fn data(event: &NewEvent) -> Value {
    serde_json::from_slice(&event.data).expect("JSON")
}

#[test]
fn a_report_has_the_health_and_the_statistics() {
    let Rig {
        report, metrics, now, ..
    } = rig();
    metrics.connections.add(3);
    metrics.deliveries.bump(1_000);
    metrics.ended(Tenant::DEFAULT, Disconnect::HeartbeatTimeout);
    let events = all(report.report(now.after_ms(INTERVAL_MS)));
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
fn the_gateway_leaves_health_to_a_backend_that_publishes_it() {
    let Rig { report, watch, now, .. } = rig();
    watch.seen.at[0].store(now.mono_ms + 1, Relaxed);
    for (later, own_only) in [(0, true), (BACKEND_HEALTH_MS - 1, true), (BACKEND_HEALTH_MS, false)] {
        let events = all(report.report(now.after_ms(later)));
        assert_eq!(channels(&events) == ["system.gateway.edge-1"], own_only, "{later}");
    }
}

#[test]
fn each_tenant_has_a_health_of_its_own_unless_its_backends_publish_it() {
    let Rig {
        report,
        watch,
        metrics,
        now,
        ..
    } = rig_with(&["one", "two"]);
    metrics.connections.add(5);
    metrics.tenant_connections[2].add(4);
    metrics.subscriptions.set(9);
    metrics.tenant_subscriptions[2].set(7);
    let (one, two) = (Tenant::new(1).expect("few"), Tenant::new(2).expect("few"));
    let health = |events: &[NewEvent]| {
        let health = events.iter().filter(|event| event.channel.as_str() == HEALTH);
        health
            .map(|event| {
                let health = data(event);
                let counts = [&health["connections"], &health["subscriptions"]].map(Value::as_i64);
                (event.channel.tenant(), counts)
            })
            .collect::<Vec<_>>()
    };
    let counts = |tenant, connections, subscriptions| (tenant, [Some(connections), Some(subscriptions)]);
    let events = all(report.report(now.after_ms(INTERVAL_MS)));
    let expected = [counts(Tenant::DEFAULT, 0, 2), counts(one, 0, 0), counts(two, 4, 7)];
    assert_eq!(health(&events), expected);
    watch.note(&NewEvent {
        channel: backend_health().channel.in_tenant(one),
        ..backend_health()
    });
    let events = all(report.report(now.after_ms(2 * INTERVAL_MS)));
    let expected = [counts(Tenant::DEFAULT, 0, 2), counts(two, 4, 7)];
    assert_eq!(health(&events), expected);
}

#[test]
fn backends_are_noticed_by_both_ways_of_publishing_and_the_self_report_is_not() {
    let Rig { watch, mut inbox, .. } = rig();
    inbox.join(&Pattern::parse("system.*").expect("valid"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    runtime.block_on(watch.broker.publish(vec![backend_health()]));
    assert_eq!(watch.last_seen_ms(Tenant::DEFAULT), None);
    let from = Origin {
        connection: ConnectionId {
            shard: 0,
            slot: 0,
            generation: 0,
        },
        request: 0,
    };
    let submitted = watch.try_publish(from, backend_health(), Now::default());
    assert!(matches!(submitted, Submitted::Done(_)));
    assert!(watch.last_seen_ms(Tenant::DEFAULT).is_some());
    watch.seen.at[0].store(0, Relaxed);
    runtime.block_on(watch.publish(vec![backend_health()]));
    assert!(watch.last_seen_ms(Tenant::DEFAULT).is_some() && watch.is_ready());
    assert_eq!(inbox.len(), 3);
}

/// Lets a report run on virtual time.
fn run_for_three_intervals(report: SelfReport) -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let running = tokio::spawn(report.run());
        tokio::time::sleep(Duration::from_millis(3 * INTERVAL_MS + 1)).await;
        running.abort();
    });
    runtime
}

#[test]
fn a_report_is_published_every_five_seconds() {
    let Rig { report, mut inbox, .. } = rig();
    inbox.join(&Pattern::parse("system.gateway.*").expect("valid"));
    run_for_three_intervals(report);
    assert_eq!(inbox.len(), 3);
}

#[test]
fn of_several_gateways_only_the_one_with_the_duties_reports_the_health() {
    let (_contender, duties) = Contender::new();
    let rig = rig_of(&[], |watch| watch.among_others(duties));
    let (report, mut inbox) = (rig.report, rig.inbox);
    inbox.join(&Pattern::parse("system.*").expect("valid"));
    let runtime = run_for_three_intervals(report);
    let mut channels = Vec::new();
    while let Some(popped) = inbox.pop() {
        channels.push(popped.event.channel.as_str().to_owned());
    }
    assert_eq!(channels, ["system.gateway.edge-1"; 3]);
    // Backends are noticed when the broker has applied what they published.
    runtime.block_on(rig.watch.publish(vec![backend_health()]));
    assert_eq!(rig.watch.last_seen_ms(Tenant::DEFAULT), None);
}

#[test]
fn a_node_name_must_be_one_segment() {
    let Rig { watch, report, .. } = rig();
    for bad in ["", "a.b", "*", "a b", ".x"] {
        assert!(
            SelfReport::new(
                bad,
                &TenantNames::default(),
                report.statistics.clone(),
                watch.clone(),
                || "ok"
            )
            .is_err(),
            "{bad:?}"
        );
    }
}
