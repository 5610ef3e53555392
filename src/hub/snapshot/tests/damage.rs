//! Files that were changed from outside. Seeds flip, overwrite, move and cut bytes all over a file.
//!
//! `TICKGATE_SEEDS` and `TICKGATE_SEED` work as in the simulation.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use redb::ReadableTable as _;

use super::*;

const SEEDS: u64 = 60;

fn seeds() -> std::ops::Range<u64> {
    let variable = |name| std::env::var(name).ok().and_then(|text: String| text.parse().ok());
    match variable("TICKGATE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("TICKGATE_SEEDS").unwrap_or(SEEDS),
    }
}

/// A file with channels of every class, several saves and evicted channels, and what it has: each channel as text by its
/// name, and the rest.
struct Sample {
    bytes: Vec<u8>,
    epoch: Epoch,
    channels: BTreeMap<Box<str>, String>,
    rest: String,
}

fn content_of(snapshot: &Snapshot) -> (BTreeMap<Box<str>, String>, String) {
    let content = &snapshot.content;
    let channels = content.channels.iter();
    // Of a channel, the sums of checksums are left out.
    let text = |stored: &content::Stored| {
        let mut events: Vec<_> = stored.events.iter().map(|event| format!("{event:?}")).collect();
        events.sort();
        let numbers = (stored.stripe, stored.floor, stored.latest, stored.fresh_until_ms);
        format!(
            "{numbers:?} {:?} {:?} {events:?} {:?}",
            stored.record_key, stored.last, stored.records
        )
    };
    let channels = channels.map(|(name, stored)| (name.clone(), text(stored))).collect();
    let rest = (&content.counters, &content.tombstones, &content.ids);
    (channels, format!("{rest:?}"))
}

impl Sample {
    fn make() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let hub_settings = hub::Settings {
            state: hub::StateSettings {
                channels: 280,
                ..hub::StateSettings::default()
            },
            ..hub::Settings::default()
        };
        let mut run = Run::start_with(&directory, hub_settings, at(0, 1_000_000));
        for round in 0..3u64 {
            let now = at(round, 1_000_000 + round);
            for n in 0..120 {
                let id = format!("{round}.{n}");
                run.publish(&format!("grid.g{n}.order"), &"7".repeat(1 + n * 5 % 90), Some(&id), now);
                run.publish(
                    &format!("strategy.s{n}.prices"),
                    &format!("[{{\"code\":\"c{round}\",\"n\":{n}}}]"),
                    None,
                    now,
                );
                run.publish(&format!("user.u{n}.pnl"), &n.to_string(), None, now);
            }
            run.snapshot.save(&run.hub, now).expect("written");
        }
        let epoch = run.hub.epoch();
        run.snapshot.close(&run.hub, at(9, 1_000_009)).expect("written");
        let bytes = std::fs::read(settings(&directory).path).expect("read");
        let opened = Snapshot::open(settings(&directory)).expect("whole");
        let (channels, rest) = content_of(&opened);
        assert!(channels.len() == 280 && !opened.was_open && opened.epoch() == epoch);
        assert!(opened.content.tombstones.len() > 30 && opened.content.ids.len() == 360);
        Self {
            bytes,
            epoch,
            channels,
            rest,
        }
    }

    /// The file's bytes with one change of a kind that the seed chooses.
    fn damaged(&self, seed: u64) -> Vec<u8> {
        let mut random = StdRng::seed_from_u64(seed);
        let mut bytes = self.bytes.clone();
        // The first page is small and matters most.
        let within = if seed.is_multiple_of(5) { 320 } else { bytes.len() };
        let at = random.random_range(0..within);
        let run = random.random_range(1..=64).min(bytes.len() - at);
        match seed % 8 {
            0..=2 => bytes[at] ^= 1 << random.random_range(0..8),
            3 => random.fill(&mut bytes[at..at + run]),
            4 => bytes[at..at + run].fill(0),
            5 => bytes.truncate(at),
            6 => {
                let page = |n: usize| n * 4096..(n + 1) * 4096;
                let pages = bytes.len() / 4096;
                let (from, to) = (random.random_range(0..pages), random.random_range(0..pages));
                let copy = bytes[page(from)].to_vec();
                bytes[page(to)].copy_from_slice(&copy);
            }
            _ => {
                let at = at / 4096 * 4096;
                let end = bytes.len().min(at + 4096);
                bytes[at..end].fill(0);
            }
        }
        bytes
    }
}

#[test]
fn a_changed_file_is_served_unchanged_or_refused_and_left_as_it_is() {
    let sample = Sample::make();
    let [mut same, mut older, mut refused, mut reachable, mut repaired, mut kept] = [0; 6];
    for seed in seeds() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = settings(&directory).path;
        let damaged = sample.damaged(seed);
        std::fs::write(&path, &damaged).expect("written");
        match Snapshot::open(settings(&directory)) {
            Ok(opened) => {
                let (channels, rest) = content_of(&opened);
                if opened.was_open {
                    // The database went back to an earlier transaction. The start says that events may be lost.
                    assert_ne!(opened.epoch(), sample.epoch, "TICKGATE_SEED={seed}");
                    older += 1;
                } else {
                    assert_eq!(opened.epoch(), sample.epoch, "TICKGATE_SEED={seed}");
                    assert!(
                        channels == sample.channels && rest == sample.rest,
                        "TICKGATE_SEED={seed}"
                    );
                    same += 1;
                }
            }
            Err(error) => {
                assert!(error.is_damage(), "TICKGATE_SEED={seed}: {error}");
                assert!(
                    std::fs::read(&path).expect("read") == damaged,
                    "TICKGATE_SEED={seed}: {error}"
                );
                refused += 1;
                // A first page without a whole commit record says nothing, and a file that was cut off may have lost it all.
                let is_reachable = !(seed.is_multiple_of(5) && matches!(seed % 8, 5..)) && seed % 8 != 5;
                reachable += usize::from(is_reachable);
                if let Some(channels) = repair_one(&directory, &damaged, &sample, seed) {
                    repaired += usize::from(is_reachable);
                    kept += channels;
                }
            }
        }
    }
    if seeds().count() as u64 >= SEEDS {
        let counts = format!("{same} {older} {refused}, {repaired} of {reachable}, {kept} channels");
        assert!(same > 10 && refused > 10 && reachable > 5, "{counts}");
        // A page holds a part of 280 channels.
        assert!(repaired * 2 > reachable && kept > repaired * 200, "{counts}");
    }
}

/// Repairs a damaged file. Returns how many channels are left, each of which must be as it was; `None` if nothing of the
/// file can be read.
fn repair_one(directory: &tempfile::TempDir, damaged: &[u8], sample: &Sample, seed: u64) -> Option<usize> {
    let path = settings(directory).path;
    match repair(&path) {
        Ok(Repaired::Replaced {
            kept,
            lost_channels,
            original,
            ..
        }) => {
            assert!(
                std::fs::read(original).expect("kept") == damaged,
                "TICKGATE_SEED={seed}"
            );
            let opened = Snapshot::open(settings(directory)).expect("repaired");
            assert!(
                opened.was_open && opened.epoch() != sample.epoch,
                "TICKGATE_SEED={seed}"
            );
            let (channels, _) = content_of(&opened);
            assert_eq!(channels.len() as u64, kept.channels, "TICKGATE_SEED={seed}");
            for (name, content) in &channels {
                assert_eq!(sample.channels.get(name), Some(content), "TICKGATE_SEED={seed}");
                assert!(!lost_channels.contains(name), "TICKGATE_SEED={seed}");
            }
            Some(channels.len())
        }
        Ok(Repaired::Whole(found)) => panic!("TICKGATE_SEED={seed}: {found:?}"),
        Err(error) => {
            assert!(error.is_damage(), "TICKGATE_SEED={seed}: {error}");
            assert!(
                std::fs::read(&path).expect("read") == damaged,
                "TICKGATE_SEED={seed}: {error}"
            );
            None
        }
    }
}

#[test]
fn a_file_that_was_cut_off_never_counts_as_a_new_one() {
    let sample = Sample::make();
    for len in [0, 1, 8, 9, 63, 64, 320, 4095, 4096, 8192, sample.bytes.len() - 1] {
        let directory = tempfile::tempdir().expect("a directory");
        let path = settings(&directory).path;
        std::fs::write(&path, &sample.bytes[..len]).expect("written");
        let error = Snapshot::open(settings(&directory)).err().expect("refused");
        assert!(error.is_damage(), "{len}: {error}");
        assert_eq!(std::fs::metadata(&path).expect("there").len(), len as u64);
        let aside = drop_file(&path).expect("set aside");
        assert_eq!(std::fs::metadata(&aside).expect("there").len(), len as u64);
        assert!(Snapshot::open(settings(&directory)).expect("a new one").is_new());
    }
}

#[test]
fn the_seal_finds_a_row_that_is_missing_and_one_that_is_too_many() {
    let change = |change: fn(&mut save::Tables<'_>)| {
        let directory = tempfile::tempdir().expect("a directory");
        let run = Run::start(&directory, Classes::default(), at(0, 1000));
        run.publish(ORDER, "1", Some("x"), at(0, 1000));
        run.publish(KILL, "1", None, at(0, 1000));
        run.snapshot.close(&run.hub, at(0, 1000)).expect("written");
        // A change by which the database itself remains whole.
        let database = Database::create(settings(&directory).path).expect("opened");
        let transaction = database.begin_write().expect("begun");
        change(&mut save::Tables::open(&transaction).expect("there"));
        transaction.commit().expect("written");
        drop(database);
        let error = Snapshot::open(settings(&directory)).err().expect("refused");
        assert!(error.is_damage(), "{error}");
        error.to_string()
    };
    let error = change(|tables| drop(tables.ids.pop_first().expect("removed").expect("there")));
    assert!(error.contains("rows, and had"), "{error}");
    let error = change(|tables| drop(tables.channels.remove(KILL).expect("removed")));
    assert!(error.contains("a channel that it does not have"), "{error}");
    let error = change(|tables| drop(tables.lasts.remove(KILL).expect("removed")));
    assert!(
        error.contains("rows, and had") || error.contains("rows of a channel are missing"),
        "{error}"
    );
    let error = change(|tables| {
        let row = tables.stripes.get(3).expect("read").expect("there").value();
        tables
            .stripes
            .insert(3, (row.0, (row.1.0 + 1, row.1.1)))
            .expect("written");
    });
    assert!(error.contains("differs from its checksum"), "{error}");
    let error = change(|tables| {
        layout::STRIPE.insert(&mut tables.stripes, 3, (77, 0)).expect("written");
    });
    assert!(error.contains("differ from its seal"), "{error}");
}

#[test]
fn a_damaged_first_page_is_made_anew_as_long_as_one_of_its_copies_is_whole() {
    let sample = Sample::make();
    let newest = 64 + 128 * usize::from(sample.bytes[9] & 1);
    let older = 64 + 192 - newest;
    let directory = tempfile::tempdir().expect("a directory");
    let path = settings(&directory).path;
    // Each part is damaged from one byte up to another.
    let repaired = |parts: &[(usize, usize)]| {
        let mut damaged = sample.bytes.clone();
        parts.iter().for_each(|&(from, to)| damaged[from..to].fill(0xAB));
        std::fs::write(&path, &damaged).expect("written");
        repair(&path)
    };
    for (parts, loses) in [
        (&[(0, 64)][..], false),
        (&[(0, 64), (older, older + 128)][..], true),
        (&[(newest, newest + 128)][..], true),
    ] {
        match repaired(parts) {
            Ok(Repaired::Replaced {
                kept, may_be_earlier, ..
            }) => {
                assert_eq!((kept.channels, may_be_earlier), (280, loses), "{parts:?}");
                let opened = Snapshot::open(settings(&directory)).expect("repaired");
                assert!(content_of(&opened).0 == sample.channels, "{parts:?}");
            }
            // The commit before the last one is whole as well, and the database takes it by itself.
            Ok(Repaired::Whole(found)) if parts[0].0 == newest => assert!(found.contents.channels > 0),
            other => panic!("{parts:?}: {other:?}"),
        }
    }
    for part in [(64, 320), (0, 4096)] {
        let error = repaired(&[part])
            .expect_err("nothing says where the tables are")
            .to_string();
        assert!(error.contains("both of its copies"), "{error}");
    }
}
