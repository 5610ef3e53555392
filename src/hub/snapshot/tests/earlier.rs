//! Files that earlier versions wrote.

use super::*;

/// Written with layout 1, by a hub with room for three channels, at the Unix time 1,000,020 ms. In its order of events:
/// `grid.gone.order` (evicted), two events of [`ORDER`] (the first with the id `x`), two of [`PRICES`], one of [`KILL`].
const LAYOUT_1: &[u8] = include_bytes!("../../../../tests/data/snapshot-layout-1");

fn restored(now: Now) -> (tempfile::TempDir, Run) {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(settings(&directory).path, LAYOUT_1).expect("written");
    let run = Run::start(&directory, Classes::default(), now);
    (directory, run)
}

fn assert_is_as_written(run: &Run, now: Now) {
    let text = |events: &[(&str, Option<u64>)]| {
        let owned = events.iter().map(|(data, offset)| ((*data).to_owned(), *offset));
        Some(owned.collect::<Vec<_>>())
    };
    assert_eq!(run.hub.epoch(), Epoch(0xfe20_7d4b_ce45_8047));
    let history = run.read(ORDER, Since::After(0), now);
    assert_eq!(history, text(&[("{\"n\":1}", Some(2)), ("{\"n\":2}", Some(3))]));
    let newest = Since::Newest { above: 0 };
    let prices = "[{\"code\":\"b\",\"n\":1},{\"code\":\"a\",\"n\":2}]";
    assert_eq!(run.read(PRICES, newest, now), text(&[(prices, None)]));
    assert_eq!(run.read(KILL, newest, now), text(&[("9", Some(6))]));
}

#[test]
fn a_file_of_layout_1_is_read_and_converted_by_the_first_save() {
    let now = at(0, 1_000_100);
    let (directory, mut run) = restored(now);
    let loaded = Loaded {
        channels: 3,
        events: 3,
        ..Loaded::default()
    };
    assert_eq!(run.loaded, loaded);
    assert_is_as_written(&run, now);
    assert!(run.publish(ORDER, "1", Some("x"), now).duplicate);
    let path = settings(&directory).path;
    run.snapshot.save(&run.hub, now).expect("converted");
    run.snapshot.close(&run.hub, now).expect("written");
    let found = check(&path).expect("whole");
    assert_eq!((found.layout, found.open), (LAYOUT, false));
    assert_eq!((found.contents.channels, found.contents.evicted_names), (3, 1));
    let again = Run::start(&directory, Classes::default(), now);
    assert_eq!(again.loaded, loaded);
    assert_is_as_written(&again, now);
    assert!(again.publish(ORDER, "1", Some("x"), now).duplicate);
}

#[test]
fn a_file_of_layout_1_that_a_killed_run_opened_is_still_read() {
    let now = at(0, 1_000_100);
    let (directory, run) = restored(now);
    drop(run); // killed before its first save
    let second = Run::start(&directory, Classes::default(), now);
    assert!(second.loaded.was_open && second.loaded.channels == 3);
    let last = second.read(KILL, Since::Newest { above: 0 }, now).expect("there");
    assert_eq!(last, [("9".to_owned(), Some(7))], "in the new epoch");
}

#[test]
fn a_damaged_file_of_layout_1_is_refused_and_cannot_be_repaired() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = settings(&directory).path;
    let mut bytes = LAYOUT_1.to_vec();
    let needle = b"{\"n\":2}";
    let at = bytes
        .windows(needle.len())
        .position(|window| window == needle)
        .expect("there");
    bytes[at + 5] = b'3';
    std::fs::write(&path, &bytes).expect("written");
    // The page's checksum, which the database does not check by itself.
    assert!(matches!(Snapshot::open(settings(&directory)), Err(Error::Damaged(_))));
    assert!(matches!(repair(&path), Err(Error::Hopeless(_))));
    assert!(std::fs::read(&path).expect("read") == bytes);
}
