//! The channels of tenants in the file.

use super::*;
use crate::auth::{Revocation, Revocations, RevokedTokens};
use tickgate_protocol::channel::Tenant;

const NAME: &str = "grid.g.order";

fn start(directory: &tempfile::TempDir, tenants: &[&str]) -> Run {
    let settings = Settings {
        tenants: TenantNames::new(tenants.iter().map(|&name| name.into()).collect()),
        ..settings(directory)
    };
    Run::start_for(settings, hub::Settings::default(), at(0, 1000))
}

fn of(tenant: usize) -> Channel {
    channel(NAME).in_tenant(Tenant::new(tenant).expect("few"))
}

fn kept(run: &Run, tenant: usize, since: Since) -> Option<Vec<String>> {
    let events = run.read_of(&of(tenant), since, at(0, 1000))?;
    Some(events.into_iter().map(|(data, _)| data).collect())
}

#[test]
fn a_tenant_with_another_number_gets_its_own_channels_and_ids() {
    let directory = tempfile::tempdir().expect("a directory");
    let run = start(&directory, &["one", "two"]);
    let id = |name: &str| Some(EventId::new(Some(name), &channel(NAME), b"id"));
    run.publish_on(of(0), "\"default\"", None, at(0, 1000));
    run.publish_on(of(1), "\"one\"", id("one"), at(0, 1000));
    run.publish_on(of(2), "\"two\"", None, at(0, 1000));
    run.snapshot.close(&run.hub, at(0, 1000)).expect("closed");

    let run = start(&directory, &["two", "one"]);
    let all = [0, 1, 2].map(|tenant| kept(&run, tenant, Since::After(0)));
    let texts = ["\"default\"", "\"two\"", "\"one\""];
    assert_eq!(all, texts.map(|text| Some(vec![text.to_owned()])));
    assert!(run.loaded.unknown_tenants.is_empty());
    let duplicate = |tenant, name| run.publish_on(of(tenant), "1", id(name), at(0, 1000)).duplicate;
    assert!(!duplicate(1, "two"), "the number of the tenant that had the id");
    assert!(duplicate(2, "one"));
}

#[test]
fn the_channels_of_a_renamed_tenant_are_told_dropped_and_given_to_nobody() {
    let directory = tempfile::tempdir().expect("a directory");
    let run = start(&directory, &["old"]);
    let first = run.publish_on(of(1), "1", None, at(0, 1000)).offset.expect("a history");
    run.publish_on(of(1), "2", None, at(0, 1000));
    run.publish_on(of(0), "0", None, at(0, 1000));
    run.snapshot.close(&run.hub, at(0, 1000)).expect("closed");

    let run = start(&directory, &["new"]);
    assert_eq!(run.loaded.unknown_tenants, [("old".into(), 1)].into());
    assert_eq!(kept(&run, 0, Since::After(0)), Some(vec!["0".to_owned()]));
    assert_eq!(kept(&run, 1, Since::Newest { above: 0 }), Some(Vec::new()));
    run.snapshot.close(&run.hub, at(0, 1000)).expect("closed");

    // What was dropped is gone, and a client that comes back is told so.
    let run = start(&directory, &["old"]);
    assert!(run.loaded.unknown_tenants.is_empty());
    assert_eq!(kept(&run, 1, Since::After(first)), None, "the second event is missing");
}

fn revoked(index: usize, user: &str, issued_before_ms: u64) -> Revocation {
    Revocation {
        tenant: Tenant::new(index).expect("few"),
        tokens: RevokedTokens::OfUser {
            user: user.into(),
            issued_before_ms,
        },
        until_unix_ms: 60_000,
    }
}

/// Starts a run, and returns what was revoked in an earlier one.
fn start_with_revocations(directory: &tempfile::TempDir, tenants: &[&str]) -> (Run, Arc<Revocations>) {
    let mut run = start(directory, tenants);
    // The content is taken out by the load, which a real start does behind this.
    run.snapshot = {
        drop(run.snapshot);
        Snapshot::open(Settings {
            tenants: TenantNames::new(tenants.iter().map(|&name| name.into()).collect()),
            ..settings(directory)
        })
        .expect("opened")
    };
    let revocations = Arc::<Revocations>::default();
    run.snapshot.keep_revocations(Arc::clone(&revocations), at(0, 1000));
    (run, revocations)
}

#[test]
fn revoked_tokens_survive_a_kill_by_the_names_of_their_tenants() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut run, revocations) = start_with_revocations(&directory, &["one", "two"]);
    let all = [revoked(0, "4", 10), revoked(1, "4", 20), revoked(2, "4", 30)];
    for revocation in &all {
        revocations.add(revocation.clone(), 1000).expect("room");
    }
    run.snapshot.save(&run.hub, at(0, 1000)).expect("written");
    // The process is killed: the file is not closed.
    drop(run);
    let found = check(&settings(&directory).path).expect("whole").contents.revocations;
    assert_eq!(found, 3);
    let (mut run, revocations) = start_with_revocations(&directory, &["two"]);
    assert_eq!(revocations.list(None, 1000), [revoked(0, "4", 10), revoked(1, "4", 30)]);
    // What is over, or of a tenant that is gone, leaves the file.
    run.snapshot.save(&run.hub, at(0, 1000)).expect("written");
    assert_eq!(revocations.list(None, 60_000), []);
    run.snapshot.close(&run.hub, at(0, 60_000)).expect("closed");
    let (_, revocations) = start_with_revocations(&directory, &["one", "two"]);
    assert!(revocations.is_empty());
}
