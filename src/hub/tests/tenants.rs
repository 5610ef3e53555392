//! Two tenants that use the same names.

use super::*;
use crate::hub::publishers::Quota;
use tickgate_protocol::channel::{History, Overflow, Tenant};

fn tenant(index: usize) -> Tenant {
    Tenant::new(index).expect("few")
}

fn hub_of(tenants: Vec<Quota>) -> (Arc<Hub>, Vec<Inbox>) {
    let class = Class {
        cache_last: true,
        history: Some(History {
            size: 10,
            ttl_ms: 60_000,
        }),
        overflow: Overflow::Disconnect,
        ..Class::default()
    };
    let classes = || Classes::new(vec![(pattern("kept.*"), class.clone())]);
    let settings = Settings {
        classes: Arc::new(classes().with_tenants(vec![classes(); tenants.len()])),
        tenants,
        ..Settings::default()
    };
    Hub::new(settings, 1, NO_FRAME)
}

fn publish(hub: &Hub, index: usize, name: &str, data: &str) -> Receipt {
    let mut event = event(name, 0);
    event.channel = event.channel.in_tenant(tenant(index));
    event.data = data.to_owned().into();
    let credit = hub.credit_now(tenant(index), data.len()).expect("free");
    hub.publish(event, Now::default(), credit, &mut Wakes::default())
}

#[test]
fn neither_events_nor_state_nor_scans_cross_from_one_tenant_to_another() {
    let (hub, mut inboxes) = hub_of(vec![Quota::default(); 2]);
    let inbox = &mut inboxes[0];
    for wide in ["*", "kept.*", "*.a", "kept.a"] {
        inbox.join(&pattern(wide).in_tenant(tenant(1)));
    }
    assert!(publish(&hub, 2, "kept.a", "2").unwanted && publish(&hub, 0, "kept.a", "0").unwanted);
    assert!(inbox.is_empty());
    assert!(!publish(&hub, 1, "kept.a", "1").unwanted);
    assert_eq!(inbox.pop().expect("its own").event.data, "1");

    for index in 0..3 {
        let channel = channel("kept.a").in_tenant(tenant(index));
        let page = hub.read(
            &channel,
            Since::After(0),
            PageLimit { events: 9, bytes: 99 },
            Now::default(),
            &mut |_| (),
        );
        let data: Vec<_> = page.events.iter().map(|event| event.data.clone()).collect();
        assert_eq!(data, [index.to_string()]);
        let mut scan = Scan::new(vec![pattern("*").in_tenant(tenant(index))], Vec::new());
        let mut seen = Vec::new();
        while !scan.is_complete() {
            inbox.scan(&mut scan, usize::MAX, Now::default(), &mut |view| {
                seen.push(view.channel.clone())
            });
        }
        assert_eq!(seen, [channel]);
    }
    let metrics = hub.metrics();
    assert_eq!(
        (metrics.events, metrics.tenant_events[1], metrics.tenant_events[2]),
        (3, 1, 1)
    );
}

#[test]
fn a_tenant_above_its_total_loses_its_own_channels_while_there_is_room() {
    let quota = Quota { channels: 3, bytes: 0 };
    let (hub, _inboxes) = hub_of(vec![quota, Quota::default()]);
    for n in 0..10 {
        for index in 0..3 {
            publish(&hub, index, &format!("kept.c{n}"), "1");
        }
    }
    let has = |index: usize, n: usize| {
        let channel = channel(&format!("kept.c{n}")).in_tenant(tenant(index));
        hub.last(&channel, Now::default()).is_some()
    };
    for index in [0, 2] {
        assert!((0..10).all(|n| has(index, n)), "tenant {index}");
    }
    assert_eq!((0..10).filter(|n| has(1, *n)).count(), 3);
    let metrics = hub.metrics();
    assert_eq!((metrics.channels, metrics.evicted_by_quota), (23, 7));
}
