//! Socket.IO sessions over a restart.

use super::*;
use crate::session::Suspended;

fn record(pid: &str, tenant: Tenant, epoch: Epoch) -> Record {
    let pattern = Pattern::parse("grid.*").expect("valid").in_tenant(tenant);
    Record {
        pid: pid.into(),
        tenant,
        epoch,
        until_unix_ms: 121_000,
        suspended: Suspended {
            user: Some("u1".into()),
            patterns: vec![(pattern, None)],
            window_ms: 120_000,
            subscribed_at: 7,
        },
    }
}

#[test]
fn sessions_are_kept_by_a_drain_and_forgotten_with_their_tenant_or_the_next_drain() {
    let directory = tempfile::tempdir().expect("a directory");
    let of = |names: &[&str]| Settings {
        tenants: TenantNames::new(names.iter().map(|name| (*name).into()).collect()),
        ..settings(&directory)
    };
    let run = |names: &[&str]| {
        let mut snapshot = Snapshot::open(of(names)).expect("opened");
        let hub_settings = hub::Settings {
            epoch: Some(snapshot.epoch()),
            ..hub::Settings::default()
        };
        let (hub, _) = Hub::new(hub_settings, 1, tickgate_protocol::dialect::encode_event);
        let sessions = snapshot.take_sessions();
        snapshot.load(&hub, at(0, 1000));
        (snapshot, hub, sessions)
    };
    let acme = Tenant::new(1).expect("in range");
    let (mut first, hub, before) = run(&["acme"]);
    assert_eq!(before, []);
    let sessions = vec![
        record("a", Tenant::DEFAULT, hub.epoch()),
        record("b", acme, hub.epoch()),
    ];
    first.keep_last(LastRecords {
        sessions: sessions.clone(),
        ..LastRecords::default()
    });
    first.close(&hub, at(0, 1000)).expect("complete");
    assert_eq!(check(&settings(&directory).path).expect("whole").contents.sessions, 2);

    let (second, hub, found) = run(&["acme"]);
    assert_eq!(found, sessions);
    // As if the process were killed: the file still has them, and the next run begins another epoch.
    drop((second, hub));
    let (third, hub, found) = run(&[]);
    assert_eq!(found, [record("a", Tenant::DEFAULT, sessions[0].epoch)]);
    assert_ne!(hub.epoch(), sessions[0].epoch, "so they are not restored");
    third.close(&hub, at(0, 1000)).expect("complete");
    let (_, _, found) = run(&["acme"]);
    assert_eq!(
        found,
        [],
        "those that were not taken back are written again by each drain, and only those"
    );
}
