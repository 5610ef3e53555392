//! The channels of tenants in the file.

use super::*;
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
