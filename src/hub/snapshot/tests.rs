//! Saving and restoring a hub: after a drain, after a crash, and with other classes.

mod damage;
mod earlier;
mod files;
mod sessions;
mod tenants;
mod tombstones;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::event::{EventId, NewEvent, PublishOptions};
use crate::hub::{self, PageLimit, Receipt, Since, Wakes};
use tickgate_protocol::channel::{Channel, Class, Classes, Pattern};

const LIMIT: PageLimit = PageLimit {
    events: usize::MAX,
    bytes: usize::MAX,
};

fn at(mono_ms: u64, unix_ms: u64) -> Now {
    Now { mono_ms, unix_ms }
}

fn settings(directory: &tempfile::TempDir) -> Settings {
    Settings {
        path: directory.path().join("state"),
        interval: Duration::from_secs(1),
        dedup_window_ms: 300_000,
        tenants: TenantNames::default(),
    }
}

fn channel(name: &str) -> Channel {
    Channel::parse(name).expect("valid")
}

/// One run of a gateway, with its snapshot opened and restored.
struct Run {
    hub: Arc<Hub>,
    inbox: hub::Inbox,
    snapshot: Snapshot,
    loaded: Loaded,
}

impl Run {
    fn start(directory: &tempfile::TempDir, classes: Classes, now: Now) -> Self {
        let settings = hub::Settings {
            classes: Arc::new(classes),
            ..hub::Settings::default()
        };
        Self::start_with(directory, settings, now)
    }

    fn start_with(directory: &tempfile::TempDir, hub_settings: hub::Settings, now: Now) -> Self {
        Self::start_for(settings(directory), hub_settings, now)
    }

    fn start_for(settings: Settings, hub_settings: hub::Settings, now: Now) -> Self {
        let mut snapshot = Snapshot::open(settings).expect("opened");
        let hub_settings = hub::Settings {
            epoch: Some(snapshot.epoch()),
            ..hub_settings
        };
        let (hub, mut inboxes) = Hub::new(hub_settings, 1, |_, _| Bytes::new());
        let loaded = snapshot.load(&hub, now);
        Self {
            hub,
            inbox: inboxes.remove(0),
            snapshot,
            loaded,
        }
    }

    fn publish(&self, name: &str, data: &str, id: Option<&str>, now: Now) -> Receipt {
        self.publish_on(
            channel(name),
            data,
            id.map(|id| EventId::new(None, &channel(name), id.as_bytes())),
            now,
        )
    }

    fn publish_on(&self, channel: Channel, data: &str, id: Option<EventId>, now: Now) -> Receipt {
        let new = NewEvent {
            channel,
            name: "n".into(),
            data: data.to_owned().into(),
            timestamp_ms: 7,
            options: PublishOptions {
                id,
                ..PublishOptions::default()
            },
        };
        let credit = self
            .hub
            .credit_now(tickgate_protocol::channel::Tenant::DEFAULT, 0)
            .expect("free");
        self.hub.publish(new, now, credit, &mut Wakes::default())
    }

    /// Reads a channel: data and offset of each event; `None` if the read is overtaken.
    fn read(&self, name: &str, since: Since, now: Now) -> Option<Vec<(String, Option<u64>)>> {
        self.read_of(&channel(name), since, now)
    }

    fn read_of(&self, channel: &Channel, since: Since, now: Now) -> Option<Vec<(String, Option<u64>)>> {
        let page = self.hub.read(channel, since, LIMIT, now, &mut |_| ());
        let event =
            |event: &Arc<crate::event::Event>| (String::from_utf8_lossy(&event.data).into_owned(), event.offset);
        (!page.overtaken).then(|| page.events.iter().map(event).collect())
    }
}

const ORDER: &str = "grid.a.order";
const PRICES: &str = "strategy.s.prices";
const KILL: &str = "system.kill_switch";

#[test]
fn a_run_after_a_drain_continues_where_the_last_one_ended() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = Run::start(&directory, Classes::default(), at(10, 1_000_000));
    assert_eq!(first.loaded, Loaded::default());
    let epoch = first.hub.epoch();
    let one = first.publish(ORDER, "1", Some("x"), at(10, 1_000_000));
    for (name, data) in [
        (ORDER, "2"),
        (PRICES, r#"[{"code":"b","n":1},{"code":"a","n":1}]"#),
        (PRICES, r#"[{"code":"a","n":2}]"#),
        (KILL, "9"),
    ] {
        first.publish(name, data, None, at(20, 1_000_010));
    }
    let now = at(30, 1_000_020);
    let before = first.read(ORDER, Since::After(0), now);
    first.snapshot.close(&first.hub, now).expect("written");

    // Ten minutes later, on a new monotonic clock.
    let now = at(0, 1_600_020);
    let second = Run::start(&directory, Classes::default(), now);
    assert_eq!(
        second.loaded,
        Loaded {
            channels: 3,
            events: 3,
            ..Loaded::default()
        }
    );
    assert_eq!(second.hub.epoch(), epoch);
    assert_eq!(second.read(ORDER, Since::After(0), now), before);
    let last = |name| {
        second.read(name, Since::Newest { above: 0 }, now).expect("there")[0]
            .0
            .clone()
    };
    assert_eq!(last(PRICES), r#"[{"code":"b","n":1},{"code":"a","n":2}]"#);
    assert_eq!(last(KILL), "9");
    let again = second.publish(ORDER, "1", Some("x"), now);
    assert!(!again.duplicate, "the window is over");
    assert!(again.offset > one.offset && again.epoch == one.epoch);
    // The event had one hour at 1,000,010, and has 50 minutes left.
    let (then, later) = (at(2_999_000, 0), at(3_001_000, 0));
    assert!(second.read(ORDER, Since::After(0), then).is_some());
    assert!(second.read(ORDER, Since::After(0), later).is_none());
}

#[test]
fn an_id_outlives_a_restart_within_its_window() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = Run::start(&directory, Classes::default(), at(0, 1000));
    let one = first.publish(ORDER, "1", Some("x"), at(0, 1000));
    first.publish("plain.channel", "1", Some("y"), at(0, 1000));
    first.snapshot.close(&first.hub, at(0, 1000)).expect("written");
    let second = Run::start(&directory, Classes::default(), at(0, 2000));
    let again = second.publish(ORDER, "1", Some("x"), at(0, 2000));
    assert_eq!((again.duplicate, again.offset), (true, one.offset));
    assert!(second.publish("plain.channel", "1", Some("y"), at(0, 2000)).duplicate);
}

#[test]
fn a_run_after_a_kill_begins_a_new_epoch_and_accepts_no_position_of_the_old_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut first = Run::start(&directory, Classes::default(), at(0, 1000));
    let epoch = first.hub.epoch();
    first.publish(ORDER, "1", None, at(0, 1000));
    first.publish(KILL, "1", None, at(0, 1000));
    first.snapshot.save(&first.hub, at(0, 1000)).expect("written");
    let lost = first.publish(ORDER, "lost", None, at(0, 1000)).offset;
    drop(first); // killed: neither saved nor closed

    for kill in 0..3 {
        let second = Run::start(&directory, Classes::default(), at(0, 2000));
        assert!(second.loaded.was_open, "{kill}");
        assert_ne!(second.hub.epoch(), epoch);
        // The known events are still available, but the history does not claim to be complete.
        let mut covers_beginning = None;
        second
            .hub
            .read(&channel(ORDER), Since::After(0), LIMIT, at(0, 2000), &mut |view| {
                covers_beginning = Some((view.covers(0), view.floor));
            });
        let (covers, floor) = covers_beginning.expect("a view");
        assert!(!covers);
        let kept = second.read(ORDER, Since::After(floor), at(0, 2000)).expect("there");
        assert_eq!(kept.iter().map(|(data, _)| &**data).collect::<Vec<_>>(), ["1"]);
        assert_eq!(
            second
                .read(KILL, Since::Newest { above: 0 }, at(0, 2000))
                .expect("there")
                .len(),
            1
        );
        // A channel that is not in the file may have had events that were lost.
        let mut covers = true;
        second.hub.read(
            &channel("grid.new.order"),
            Since::After(0),
            LIMIT,
            at(0, 2000),
            &mut |view| {
                covers = view.covers(0);
            },
        );
        assert!(!covers);
        drop(second);
    }
    let third = Run::start(&directory, Classes::default(), at(0, 3000));
    assert!(
        third.publish(ORDER, "2", None, at(0, 3000)).offset >= lost,
        "versions only grow"
    );
    third.snapshot.close(&third.hub, at(0, 3000)).expect("written");
    let fourth = Run::start(&directory, Classes::default(), at(0, 3000));
    assert!(!fourth.loaded.was_open);
}

#[test]
fn state_that_a_class_no_longer_keeps_does_not_come_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let run = |classes: Vec<(&str, Class)>| {
        let pattern = |text: &str| Pattern::parse(text).expect("valid");
        let classes = classes
            .into_iter()
            .map(|(text, class)| (pattern(text), class))
            .collect();
        Run::start(&directory, Classes::new(classes), at(0, 1000))
    };
    let first = run(vec![]);
    let offset = first.publish(ORDER, "1", None, at(0, 1000)).offset.expect("history");
    first.publish(PRICES, r#"[{"code":"b"}]"#, None, at(0, 1000));
    first.snapshot.close(&first.hub, at(0, 1000)).expect("written");

    let by_symbol = Class {
        cache_last: true,
        record_key: Some("symbol".into()),
        ..Class::default()
    };
    let second = run(vec![("grid.*", Class::default()), ("strategy.*", by_symbol)]);
    let prices = second.read(PRICES, Since::Newest { above: 0 }, at(0, 1000));
    assert_eq!(prices, Some(vec![]), "a part must not be taken for the whole value");
    second.publish(ORDER, "missed", None, at(0, 1000));
    second.snapshot.close(&second.hub, at(0, 1000)).expect("written");

    let third = run(vec![]);
    assert_eq!(
        third.read(ORDER, Since::After(offset - 1), at(0, 1000)),
        None,
        "there is a gap"
    );
}

#[test]
fn invalid_files_and_files_in_use_are_refused_and_not_changed() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = settings(&directory).path;
    std::fs::write(&path, "not a snapshot, but a file that may be needed").expect("written");
    let before = std::fs::read(&path).expect("read");
    assert!(Snapshot::open(settings(&directory)).is_err());
    assert_eq!(std::fs::read(&path).expect("read"), before);
    std::fs::remove_file(&path).expect("removed");

    let open = Snapshot::open(settings(&directory)).expect("opened");
    assert!(Snapshot::open(settings(&directory)).is_err(), "the file is locked");
    drop(open);

    // Half of the file, as after a full disk.
    let run = Run::start(&directory, Classes::default(), at(0, 0));
    for n in 0..2000 {
        run.publish(ORDER, &n.to_string(), None, at(0, 0));
    }
    run.snapshot.close(&run.hub, at(0, 0)).expect("written");
    let whole = std::fs::read(&path).expect("read");
    std::fs::write(&path, &whole[..whole.len() / 2]).expect("written");
    assert!(Snapshot::open(settings(&directory)).is_err());
}

#[test]
fn records_that_were_merged_by_another_key_do_not_come_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let run = |key: &str| {
        let class = Class {
            cache_last: true,
            overflow: tickgate_protocol::channel::Overflow::Conflate,
            record_key: Some(key.into()),
            ..Class::default()
        };
        let classes = vec![(Pattern::parse("strategy.*").expect("valid"), class)];
        Run::start(&directory, Classes::new(classes), at(0, 1000))
    };
    let first = run("code");
    first.publish(PRICES, r#"[{"code":"old"}]"#, None, at(0, 1000));
    first.snapshot.close(&first.hub, at(0, 1000)).expect("written");
    let second = run("symbol");
    second.publish(PRICES, r#"[{"symbol":"new"}]"#, None, at(0, 1000));
    second.snapshot.close(&second.hub, at(0, 1000)).expect("written");
    let third = run("symbol");
    let value = third.read(PRICES, Since::Newest { above: 0 }, at(0, 1000));
    assert_eq!(value, Some(vec![(r#"[{"symbol":"new"}]"#.to_owned(), None)]));
}

#[test]
fn a_run_that_was_killed_before_its_first_save_leaves_floors() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = Run::start(&directory, Classes::default(), at(0, 1000));
    first.publish(ORDER, "lost", None, at(0, 1000));
    drop(first);
    let second = Run::start(&directory, Classes::default(), at(0, 1000));
    assert!(second.loaded.was_open);
    assert_eq!(second.read(ORDER, Since::After(0), at(0, 1000)), None);
}

/// A disk that can become full.
#[derive(Debug, Default)]
struct Full {
    inner: redb::backends::InMemoryBackend,
    is_full: Arc<AtomicBool>,
}

impl Full {
    fn check(&self) -> Result<(), std::io::Error> {
        let is_full = self.is_full.load(Ordering::Relaxed);
        if is_full {
            Err(std::io::ErrorKind::StorageFull.into())
        } else {
            Ok(())
        }
    }
}

impl redb::StorageBackend for Full {
    fn len(&self) -> Result<u64, std::io::Error> {
        self.inner.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        self.inner.read(offset, out)
    }
    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        self.check()?;
        self.inner.set_len(len)
    }
    fn sync_data(&self) -> Result<(), std::io::Error> {
        self.check()?;
        self.inner.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        self.check()?;
        self.inner.write(offset, data)
    }
}

#[test]
fn after_an_error_the_file_is_opened_again_and_everything_is_saved() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut first = Run::start(&directory, Classes::default(), at(0, 1000));
    let epoch = first.hub.epoch();
    let disk = Full::default();
    let is_full = Arc::clone(&disk.is_full);
    let database = Database::builder().create_with_backend(disk);
    let store = first.snapshot.store.as_mut().expect("open");
    store.database = database.expect("in memory");
    first.publish(KILL, "1", Some("x"), at(0, 1000));
    is_full.store(true, Ordering::Relaxed);
    assert!(first.snapshot.save(&first.hub, at(0, 1000)).is_err());
    first.publish(ORDER, "2", None, at(0, 1000));
    first.snapshot.save(&first.hub, at(0, 1000)).expect("opened again");
    first.snapshot.close(&first.hub, at(0, 1000)).expect("written");
    let second = Run::start(&directory, Classes::default(), at(0, 1000));
    assert_eq!((second.loaded.channels, second.hub.epoch()), (2, epoch));
    assert!(second.publish(KILL, "1", Some("x"), at(0, 1000)).duplicate);
}

#[derive(Clone, Debug)]
enum Step {
    Publish(u8, u8),
    Pass(u64),
    Save,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0u8..6, 0u8..4).prop_map(|(channel, value)| Step::Publish(channel, value)),
        1 => (0u64..2_000_000).prop_map(Step::Pass),
        2 => Just(Step::Save),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    // The model is a hub that is never restarted.
    #[test]
    fn a_hub_that_restarts_at_any_time_agrees_with_one_that_never_restarts(steps in prop::collection::vec(step(), 1..40)) {
        let directory = tempfile::tempdir().expect("a directory");
        let mut run = Run::start(&directory, Classes::default(), at(0, 0));
        let (model, _) = Hub::new(hub::Settings::default(), 1, |_, _| Bytes::new());
        let (mut unix_ms, mut began_ms) = (0, 0);
        let names = ["grid.a.order", "grid.b.order", "strategy.s.prices", "system.kill_switch", "user.1.pnl", "a.b"];
        for step in steps {
            let (now, model_now) = (at(unix_ms - began_ms, unix_ms), at(unix_ms, unix_ms));
            match step {
                Step::Publish(channel, value) => {
                    let name = names[usize::from(channel)];
                    let data = format!("[{{\"code\":\"c{value}\",\"at\":{unix_ms}}}]");
                    let receipt = run.publish(name, &data, None, now);
                    let new = NewEvent {
                        channel: self::channel(name), name: "n".into(), data: data.into(), timestamp_ms: 7, options: PublishOptions::default(),
                    };
                    let credit = model.credit_now(tickgate_protocol::channel::Tenant::DEFAULT, 0).expect("free");
                    let expected = model.publish(new, model_now, credit, &mut Wakes::default());
                    prop_assert_eq!(receipt.offset, expected.offset);
                }
                Step::Pass(ms) => unix_ms += ms,
                Step::Save => run.snapshot.save(&run.hub, now).expect("written"),
                Step::Restart => {
                    run.snapshot.close(&run.hub, now).expect("written");
                    began_ms = unix_ms;
                    run = Run::start(&directory, Classes::default(), at(0, unix_ms));
                    prop_assert!(!run.loaded.was_open);
                }
            }
            let (now, model_now) = (at(unix_ms - began_ms, unix_ms), at(unix_ms, unix_ms));
            for name in names {
                // Without a history, the floor matters only to clients of the same run.
                let has_history = run.hub.class_of(&self::channel(name)).history.is_some();
                let floor = |floor: u64| if has_history { floor } else { 0 };
                for since in [Since::Newest { above: 0 }, Since::After(0), Since::After(3)] {
                    let mut views = Vec::new();
                    let page = run.hub.read(&self::channel(name), since, LIMIT, now, &mut |view| {
                        views.push((view.latest, floor(view.floor), view.head, view.has_last));
                    });
                    let expected = model.read(&self::channel(name), since, LIMIT, model_now, &mut |view| {
                        views.push((view.latest, floor(view.floor), view.head, view.has_last));
                    });
                    prop_assert!(views.len() < 2 || views[0] == views[1], "{} {:?}: {:?}", name, since, views);
                    let content = |page: &hub::Page| {
                        let events: Vec<_> = page.events.iter().map(|event| (event.data.clone(), event.offset)).collect();
                        (events, page.overtaken, page.last)
                    };
                    prop_assert_eq!(content(&page), content(&expected), "{} {:?}", name, since);
                }
            }
        }
    }
}
