//! Saving and restoring the names of evicted channels.

use super::*;
use crate::hub::STRIPES;

impl Run {
    /// Starts a run that keeps the state of a single channel and `tombstones` tombstones.
    fn start_small(directory: &tempfile::TempDir, tombstones: usize) -> Self {
        let settings = hub::Settings {
            state: hub::StateSettings {
                channels: 1,
                tombstones,
                ..hub::StateSettings::default()
            },
            ..hub::Settings::default()
        };
        Self::start_with(directory, settings, at(0, 1000))
    }

    /// The channels that were evicted after the version `known`, and whether there may have been others.
    fn evicted_since(&self, known: u64) -> (Vec<String>, bool) {
        let mut scan = hub::TombstoneScan::new(vec![(Pattern::parse("grid.*").expect("valid"), known)]);
        let mut names = Vec::new();
        let found = &mut |_, tombstone: &hub::Tombstone| names.push(tombstone.channel.as_str().to_owned());
        while self.inbox.scan_tombstones(&mut scan, 1000, found).is_some() {}
        (names, scan.has_forgotten())
    }
}

#[test]
fn names_of_evicted_channels_survive_a_restart_and_forgotten_ones_stay_forgotten() {
    let directory = tempfile::tempdir().expect("a directory");
    let expected =
        |names: &[&str], has_forgotten| (names.iter().map(|name| (*name).to_owned()).collect(), has_forgotten);
    let [trade, risk] = ["grid.a.trade", "grid.a.risk"];
    // All channels are in one stripe, which remembers one name. The first one is evicted with version 3.
    let mut first = Run::start_small(&directory, STRIPES);
    first.publish(ORDER, "1", None, at(1, 1001));
    first.publish(trade, "2", None, at(2, 1002));
    first.snapshot.save(&first.hub, at(2, 1002)).expect("written");
    // The second one is evicted with version 5, and the name of the first is forgotten for it.
    first.publish(risk, "4", None, at(3, 1003));
    let epoch = first.hub.epoch();
    first.snapshot.close(&first.hub, at(3, 1003)).expect("written");

    let now = at(0, 2000);
    let mut second = Run::start_small(&directory, 1000 * STRIPES);
    assert_eq!(second.hub.epoch(), epoch);
    assert_eq!(
        second.evicted_since(0),
        expected(&[trade], true),
        "the row of the first is gone"
    );
    assert_eq!(second.evicted_since(3), expected(&[trade], false));
    assert_eq!(second.evicted_since(5), expected(&[], false));
    // The positions from which on nothing of these channels was missed.
    let is_complete = |run: &Run, name, offset| run.read(name, Since::After(offset), now).is_some();
    assert_eq!([1, 2].map(|offset| is_complete(&second, trade, offset)), [false, true]);
    assert_eq!([2, 3].map(|offset| is_complete(&second, ORDER, offset)), [false, true]);
    // The next one is evicted with version 7, and is saved beside the earlier one.
    second.publish(ORDER, "6", None, at(1, 2001));
    second.snapshot.save(&second.hub, at(1, 2001)).expect("written");
    assert_eq!(second.evicted_since(0), expected(&[trade, risk], true));
    drop(second); // killed

    // In the new epoch all versions are higher by one.
    let third = Run::start_small(&directory, 1000 * STRIPES);
    assert_ne!(third.hub.epoch(), epoch);
    assert_eq!(third.evicted_since(4), expected(&[trade, risk], false));
    assert_eq!(third.evicted_since(6), expected(&[risk], false));
    third.snapshot.close(&third.hub, now).expect("written");
    // A run that keeps fewer names knows that there were others.
    let fourth = Run::start_small(&directory, STRIPES);
    assert_eq!(fourth.evicted_since(4), expected(&[risk], true));
    assert_eq!(fourth.evicted_since(6), expected(&[risk], false));
    fourth.snapshot.close(&fourth.hub, now).expect("written");
    let fifth = Run::start_small(&directory, 1000 * STRIPES);
    assert_eq!(
        fifth.evicted_since(4),
        expected(&[risk], true),
        "its row is gone as well"
    );
}
