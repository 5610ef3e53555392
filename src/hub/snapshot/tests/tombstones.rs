//! The names of channels that were evicted, written down and taken back.

use super::*;

impl Run {
    /// One that keeps a single channel and remembers so many names.
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

    /// What a client is told that comes back with the number `known` as its newest position: which channels were evicted
    /// since, and whether there may have been others.
    fn evicted_since(&self, known: u64) -> (Vec<String>, bool) {
        let mut search = hub::TombstoneScan::new(vec![(Pattern::parse("grid.*").expect("valid"), known)]);
        let mut names = Vec::new();
        let each = &mut |channel: &Channel| names.push(channel.as_str().to_owned());
        while self.inbox.scan_tombstones(&mut search, 1000, each).is_some() {}
        (names, search.has_forgotten())
    }
}

#[test]
fn names_of_evicted_channels_outlive_a_restart_and_those_that_are_forgotten_stay_so() {
    let directory = tempfile::tempdir().expect("a directory");
    let told = |names: &[&str], has_forgotten| (names.iter().map(|name| (*name).to_owned()).collect(), has_forgotten);
    let [trade, risk] = ["grid.a.trade", "grid.a.risk"];
    // All are of one stripe, which remembers one name. Evicted with the number 3 is the first.
    let mut first = Run::start_small(&directory, STRIPES);
    first.publish(ORDER, "1", None, at(1, 1001));
    first.publish(trade, "2", None, at(2, 1002));
    first.snapshot.save(&first.hub, at(2, 1002)).expect("written");
    // And the second with the number 5, for which the first is forgotten.
    first.publish(risk, "4", None, at(3, 1003));
    let epoch = first.hub.epoch();
    first.snapshot.close(&first.hub, at(3, 1003)).expect("written");

    let now = at(0, 2000);
    let mut second = Run::start_small(&directory, 1000 * STRIPES);
    assert_eq!(second.hub.epoch(), epoch);
    assert_eq!(
        second.evicted_since(0),
        told(&[trade], true),
        "the row of the first is gone"
    );
    assert_eq!(second.evicted_since(3), told(&[trade], false));
    assert_eq!(second.evicted_since(5), told(&[], false));
    // From which position on nothing was missed of them.
    let is_complete = |run: &Run, name, offset| run.read(name, Since::After(offset), now).is_some();
    assert_eq!([1, 2].map(|offset| is_complete(&second, trade, offset)), [false, true]);
    assert_eq!([2, 3].map(|offset| is_complete(&second, ORDER, offset)), [false, true]);
    // The next one has the number 7 and is written beside what was there.
    second.publish(ORDER, "6", None, at(1, 2001));
    second.snapshot.save(&second.hub, at(1, 2001)).expect("written");
    assert_eq!(second.evicted_since(0), told(&[trade, risk], true));
    drop(second); // killed

    // In the new epoch all numbers are one higher.
    let third = Run::start_small(&directory, 1000 * STRIPES);
    assert_ne!(third.hub.epoch(), epoch);
    assert_eq!(third.evicted_since(4), told(&[trade, risk], false));
    assert_eq!(third.evicted_since(6), told(&[risk], false));
    third.snapshot.close(&third.hub, now).expect("written");
    // Whoever has room for fewer knows of the rest that it is gone.
    let fourth = Run::start_small(&directory, STRIPES);
    assert_eq!(fourth.evicted_since(4), told(&[risk], true));
    assert_eq!(fourth.evicted_since(6), told(&[risk], false));
    fourth.snapshot.close(&fourth.hub, now).expect("written");
    let fifth = Run::start_small(&directory, 1000 * STRIPES);
    assert_eq!(fifth.evicted_since(4), told(&[risk], true), "its row is gone, too");
}
