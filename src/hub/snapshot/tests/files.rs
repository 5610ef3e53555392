//! The file itself: created, locked, replaced, checked, repaired and set aside.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

#[test]
fn a_new_file_appears_when_it_is_complete() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = settings(&directory).path;
    // What is left of a start that was killed.
    std::fs::write(file::beside(&path, "new"), "unfinished").expect("written");
    let snapshot = Snapshot::open(settings(&directory)).expect("created");
    assert!(snapshot.is_new() && path.exists() && !file::beside(&path, "new").exists());
    drop(snapshot);
    assert!(!Snapshot::open(settings(&directory)).expect("there").is_new());
}

#[test]
fn only_the_user_of_the_gateway_may_read_a_new_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let snapshot = Snapshot::open(settings(&directory)).expect("created");
    let mode = std::fs::metadata(snapshot.path()).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn the_command_line_touches_no_file_in_use() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = settings(&directory).path;
    assert!(matches!(check(&path), Err(Error::Missing)));
    let open = Snapshot::open(settings(&directory)).expect("created");
    assert!(matches!(check(&path), Err(Error::InUse)));
    assert!(matches!(repair(&path), Err(Error::InUse)));
    assert!(matches!(drop_file(&path), Err(Error::InUse)));
    drop(open);
    assert!(check(&path).expect("whole").open);
    assert!(matches!(repair(&path), Ok(Repaired::Whole(_))));
    let first = drop_file(&path).expect("set aside");
    assert_eq!(first, file::beside(&path, "dropped"));
    std::fs::write(&path, "").expect("written");
    assert_eq!(drop_file(&path).expect("set aside"), file::beside(&path, "dropped.2"));
    assert!(!path.exists());
}

#[test]
fn a_file_that_somebody_removed_is_noticed_and_written_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut run = Run::start(&directory, Classes::default(), at(0, 1000));
    run.publish(KILL, "1", None, at(0, 1000));
    run.snapshot.save(&run.hub, at(0, 1000)).expect("written");
    std::fs::remove_file(settings(&directory).path).expect("removed");
    let written = run.snapshot.save(&run.hub, at(0, 1000));
    assert!(matches!(written, Err(Error::Replaced)), "{written:?}");
    run.snapshot.save(&run.hub, at(0, 1000)).expect("in a new file");
    let epoch = run.hub.epoch();
    run.snapshot.close(&run.hub, at(0, 1000)).expect("complete");
    let second = Run::start(&directory, Classes::default(), at(0, 1000));
    assert_eq!((second.hub.epoch(), second.loaded.channels), (epoch, 1));
}

#[test]
fn the_thread_counts_failing_writes_and_its_end_tells_of_the_last_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let run = Run::start(&directory, Classes::default(), at(0, 1000));
    // No write ever succeeds: the file has become a folder.
    std::fs::remove_file(settings(&directory).path).expect("removed");
    std::fs::create_dir(settings(&directory).path).expect("made");
    let writer = SnapshotWriter::start(run.snapshot, run.hub, crate::time::Clock::start()).expect("started");
    let metrics = Arc::clone(writer.metrics());
    assert!(!metrics.is_failing());
    assert!(writer.end(LastRecords::default()).is_err());
    assert!(metrics.is_failing());
    let sample = metrics.read();
    assert_eq!((sample.failures, sample.writes), (1, 0));

    let directory = tempfile::tempdir().expect("a directory");
    let run = Run::start(&directory, Classes::default(), at(0, 1000));
    let writer = SnapshotWriter::start(run.snapshot, run.hub, crate::time::Clock::start()).expect("started");
    let metrics = Arc::clone(writer.metrics());
    writer.end(LastRecords::default()).expect("complete");
    let sample = metrics.read();
    assert!(!metrics.is_failing() && sample.writes == 1 && sample.written > 0);
}
