//! What clients got of a log that has lost its end several times, and what is in the log at last.
//!
//! An event that was published may be lost when a replica takes the place of its master, and clients may have got it. A client
//! that comes back with its position must be told that something may be missing. Every other client gets everything that is in
//! the log behind its position.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::Mutex;

use serde_json::Value;
use tickgate::hub::LOG_STEP;

use crate::crowd::CHANNELS;
use crate::redis_server::Redis;

/// An event: the index of its channel in [`CHANNELS`], its publisher and its number there.
pub(crate) type Event = (usize, usize, u64);

/// What the log has at last.
#[derive(Debug, Default)]
pub(crate) struct Log {
    all: HashSet<Event>,
    // Those of channels with a history, by their versions.
    kept: BTreeMap<u64, Event>,
}

impl Log {
    /// Reads all events out of a server, which has forgotten none.
    pub(crate) fn read(server: &Redis) -> Self {
        let client = redis::Client::open(server.address()).expect("an address");
        let mut connection = client.get_connection().expect("connected");
        let mut command = redis::cmd("XRANGE");
        command.arg("{suite.one}:events").arg("-").arg("+");
        let entries: Vec<(String, HashMap<String, Vec<u8>>)> = command.query(&mut connection).expect("entries");
        let mut terms = BTreeMap::new();
        let mut events = Vec::new();
        for (id, fields) in &entries {
            let sequence: u64 = id
                .strip_prefix("0-")
                .and_then(|number| number.parse().ok())
                .expect("a number");
            let name = std::str::from_utf8(&fields["n"]).expect("a name");
            if name.starts_with('t') {
                let notice: Value = serde_json::from_slice(&fields["p"]).expect("a notice");
                let number = |term: &Value, name: &str| term[name].as_u64().expect("a number");
                let known = notice["terms"].as_array().expect("terms").iter();
                terms.extend(known.map(|term| (number(term, "first"), number(term, "start"))));
            }
            if let Some(channel) = CHANNELS.iter().position(|channel| name[1..] == format!("~.{channel}")) {
                let data = fields["p"].split(|byte| *byte == b'\n').nth(1).expect("data");
                let (publisher, number) = serde_json::from_slice(data).expect("a publisher and a number");
                events.push((sequence, name.starts_with('k'), (channel, publisher, number)));
            }
        }
        let mut log = Self::default();
        for (sequence, is_kept, event) in events {
            log.all.insert(event);
            if is_kept {
                let (first, start) = terms.range(..=sequence).next_back().expect("a term");
                log.kept.insert(start + (sequence - first) * LOG_STEP, event);
            }
        }
        log
    }
}

/// What clients got, to be compared with the log when all is over.
#[derive(Default)]
pub(crate) struct Ledger(Mutex<Got>);

#[derive(Default)]
struct Got {
    events: HashMap<u64, Event>,
    // The versions of events of one channel that a client got one after the other, without being told of a loss.
    steps: HashSet<(u64, u64)>,
    // Events that a client did not get between two others.
    skipped: HashSet<Event>,
    // The positions of clients that were told, although the history is long enough for them.
    told: HashSet<u64>,
}

impl Ledger {
    /// A gateway delivered an event of a channel with a history.
    pub(crate) fn note(&self, version: u64, event: Event) -> Result<(), String> {
        let known = *self.got().events.entry(version).or_insert(event);
        if known == event {
            Ok(())
        } else {
            Err(format!("the version {version} stands for {known:?} and for {event:?}"))
        }
    }

    pub(crate) fn note_step(&self, before: u64, version: u64) {
        self.got().steps.insert((before, version));
    }

    pub(crate) fn note_skipped(&self, channel: usize, publisher: usize, numbers: Range<u64>) {
        let events = numbers.map(|number| (channel, publisher, number));
        self.got().skipped.extend(events);
    }

    pub(crate) fn note_told(&self, position: u64) {
        self.got().told.insert(position);
    }

    fn got(&self) -> std::sync::MutexGuard<'_, Got> {
        self.0.lock().expect("whole")
    }

    /// Compares with the log. Returns how many events clients got that were lost.
    pub(crate) fn check(&self, log: &Log) -> Result<usize, String> {
        let got = self.got();
        for (version, event) in &got.events {
            if log.kept.get(version).is_some_and(|other| other != event) {
                return Err(format!("the version {version} of {event:?} stands for another event"));
            }
        }
        for (before, version) in &got.steps {
            if !log.kept.contains_key(before) && log.kept.contains_key(version) {
                return Err(format!("the position {before} is lost, and the client was not told"));
            }
            let channel = got.events[version].0;
            let missed = log
                .kept
                .range(before + 1..*version)
                .find(|(_, event)| event.0 == channel);
            if let Some(missed) = missed {
                return Err(format!(
                    "between {before} and {version} a client did not get {missed:?}"
                ));
            }
        }
        if let Some(event) = got.skipped.iter().find(|event| log.all.contains(*event)) {
            return Err(format!("{event:?} is in the log, and a client did not get it"));
        }
        if let Some(position) = got.told.iter().find(|position| log.kept.contains_key(*position)) {
            return Err(format!(
                "the position {position} is in the log, and the client was told of a loss"
            ));
        }
        Ok(got
            .events
            .keys()
            .filter(|version| !log.kept.contains_key(*version))
            .count())
    }
}

#[test]
fn the_check_of_losses_finds_wrong_positions_gaps_and_needless_losses() {
    let event = |number| (0, 1, number);
    let log = Log {
        all: [1, 2, 5, 6].map(event).into(),
        kept: [(16, event(1)), (32, event(2)), (160, event(5)), (176, event(6))].into(),
    };
    // The events 3 and 4 were lost.
    let ledger = |steps: &[(u64, u64)]| {
        let ledger = Ledger::default();
        for (version, number) in [(16, 1), (32, 2), (48, 3), (64, 4), (160, 5), (176, 6)] {
            ledger.note(version, event(number)).expect("one meaning");
        }
        steps
            .iter()
            .for_each(|(before, version)| ledger.note_step(*before, *version));
        ledger
    };
    let good = ledger(&[(16, 32), (32, 48), (48, 64), (32, 160), (160, 176)]);
    good.note_skipped(0, 1, 3..5);
    good.note_told(64);
    assert_eq!(good.check(&log), Ok(2));
    assert!(good.note(48, event(5)).is_err(), "two events with one version");
    for wrong in [(48, 160), (16, 160), (32, 176)] {
        assert!(ledger(&[wrong]).check(&log).is_err(), "{wrong:?}");
    }
    good.note_skipped(0, 1, 5..6);
    assert!(good.check(&log).is_err(), "an event is missing");
    let needless = ledger(&[]);
    needless.note_told(32);
    assert!(needless.check(&log).is_err(), "told for nothing");
}
