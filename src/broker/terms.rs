//! Terms: how the sequence numbers of the log become the versions of events, also when a broker has lost the end of its
//! log and gives numbers again.
//!
//! Whoever finds that the broker is not the same as before writes a notice into the log that opens a new term, before it
//! publishes anything. The versions of a term begin above all versions that were given before, so no version is given
//! twice. All notices carry the table of the terms, so the newest one says everything.
//!
//! Invariant: a version that [`Table::lost`] does not contain stands for the same event of the log on every gateway and for
//! ever, unless the broker's clock is set back by more than its start takes. See the model in the tests.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::hub::LOG_STEP;

/// Terms that are remembered. Positions of older ones are not valid.
pub(super) const TERMS_MAX: usize = 64;

/// The versions of a term begin at the milliseconds since this time, shifted: 2026-01-01T00:00:00Z.
const BEGINNING_MS: u64 = 1_767_225_600_000;

/// 2048 versions for each millisecond, which is 128 events. Versions stay below 2^53 for 139 years.
const SHIFT: u32 = 11;

/// The highest version: the highest integer that every client can read.
pub(super) const VERSION_MAX: u64 = (1 << 53) - 1;

/// One term: the log from one sequence number on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Term {
    /// A random number.
    pub(super) id: u64,
    /// The sequence number of the notice that opened the term.
    pub(super) first: u64,
    /// The version of that notice.
    pub(super) start: u64,
}

/// The terms of a log, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    /// The epoch of all versions.
    pub(super) epoch: u64,
    pub(super) terms: Vec<Term>,
}

/// What a gateway writes into the log once a second, and to open a term.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Notice {
    /// The version of this format.
    pub(super) v: u8,
    /// The name of the gateway.
    pub(super) node: String,
    /// What the classes of channels of the gateway are, as a hash.
    pub(super) classes: u64,
    /// The broker that the gateway was connected to when the newest term was opened. It is another one after each start.
    pub(super) incarnation: String,
    pub(super) epoch: u64,
    pub(super) terms: Vec<Term>,
    /// If set, the notice opens a term with this id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) opens: Option<u64>,
    /// No version that the gateway knows is as high. The new term begins here or later.
    #[serde(default)]
    pub(super) above: u64,
}

/// The format of notices and events that this version writes and reads.
pub(super) const FORMAT: u8 = 1;

impl Notice {
    /// Reads a notice.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let notice: Self = serde_json::from_slice(bytes).ok()?;
        (notice.v == FORMAT && notice.terms.len() <= TERMS_MAX && (notice.opens.is_some() || !notice.terms.is_empty()))
            .then_some(notice)
    }
}

impl Table {
    /// The table that a notice gives, which the broker stored under `sequence` at `stored_ms`. `None`: the notice is not
    /// valid there.
    pub(super) fn of(notice: &Notice, sequence: u64, stored_ms: u64) -> Option<Self> {
        let mut table = Self {
            epoch: notice.epoch,
            terms: notice.terms.clone(),
        };
        if let Some(id) = notice.opens {
            let known = table.terms.last().map_or(0, |term| term.end(sequence));
            let above = notice.above.max(known).min(VERSION_MAX).next_multiple_of(LOG_STEP);
            let by_time = stored_ms.saturating_sub(BEGINNING_MS).min(VERSION_MAX >> SHIFT) << SHIFT;
            let (first, start) = (sequence, by_time.max(above));
            table.terms.push(Term { id, first, start });
            let excess = table.terms.len().saturating_sub(TERMS_MAX);
            table.terms.drain(..excess);
        }
        let ascends = |pair: &[Term]| pair[0].first < pair[1].first && pair[0].end(pair[1].first) <= pair[1].start;
        let is_valid = table.terms.windows(2).all(ascends)
            && table
                .terms
                .iter()
                .all(|term| term.start.is_multiple_of(LOG_STEP) && term.start < VERSION_MAX)
            && table.terms.last().is_some_and(|term| term.first <= sequence);
        is_valid.then_some(table)
    }

    /// When the newest term began, in Unix milliseconds, by the broker's clock, or later.
    pub(super) fn began_ms(&self) -> u64 {
        BEGINNING_MS + (self.current().start >> SHIFT)
    }

    /// The newest term.
    pub(super) fn current(&self) -> Term {
        *self.terms.last().expect("a table has a term")
    }

    /// The version of what has this sequence number. `None`: it is older than all terms.
    pub(super) fn version(&self, sequence: u64) -> Option<u64> {
        let term = self.terms.iter().rev().find(|term| term.first <= sequence)?;
        Some(term.version(sequence))
    }

    /// The versions that no event of the log has: they were given to events that the log has lost, or to none.
    pub(super) fn lost(&self) -> Vec<Range<u64>> {
        let gap = |pair: &[Term]| pair[0].end(pair[1].first)..pair[1].start;
        self.terms.windows(2).map(gap).filter(|gap| !gap.is_empty()).collect()
    }

    /// The positions that no client can have, or that may stand for events which the log has lost: also those of terms that
    /// are forgotten, because nobody knows any more which of them were lost. A hub that has followed the log for long may
    /// still have events of these.
    pub(super) fn not_valid(&self) -> Vec<Range<u64>> {
        // A hub that begins with the first event of a term has the position before it; 0 is the beginning of every channel.
        let forgotten = 1..self.terms[0].start.saturating_sub(1);
        std::iter::once(forgotten).chain(self.lost()).collect()
    }

    /// Whether everything that was applied up to `applied` under the table `before` is the same in this log, whose newest
    /// number is `last`.
    pub(super) fn continues(&self, before: &Self, applied: u64, last: u64) -> bool {
        let term = before.current();
        let Some(index) = self.terms.iter().position(|known| *known == term) else {
            return false;
        };
        let lost_at = self.terms.get(index + 1).map_or(u64::MAX, |next| next.first);
        self.epoch == before.epoch && applied < lost_at && applied <= last
    }

    /// Forgets the terms that have no event in the log any more, which begins at `first`.
    pub(super) fn forget_before(&mut self, first: u64) {
        let gone = self.terms.iter().skip(1).take_while(|next| next.first <= first).count();
        self.terms.drain(..gone);
    }
}

impl Term {
    fn version(&self, sequence: u64) -> u64 {
        self.start
            .saturating_add(sequence.saturating_sub(self.first).saturating_mul(LOG_STEP))
    }

    // The first version behind the term, if the next term begins at `next`. Hubs number their evictions behind the last
    // event.
    fn end(&self, next: u64) -> u64 {
        self.version(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    const DAY_MS: u64 = 24 * 3600 * 1000;

    fn notice(terms: &[Term], opens: Option<u64>, above: u64) -> Notice {
        Notice {
            v: FORMAT,
            node: "a".into(),
            classes: 7,
            incarnation: "i".into(),
            epoch: 1,
            terms: terms.to_vec(),
            opens,
            above,
        }
    }

    #[test]
    fn a_term_begins_at_the_time_of_its_notice_or_above_all_known_versions() {
        let first = Table::of(&notice(&[], Some(1), 0), 10, BEGINNING_MS + DAY_MS).expect("valid");
        assert_eq!(first.current().start, DAY_MS << SHIFT);
        assert_eq!(first.began_ms(), BEGINNING_MS + DAY_MS);
        assert_eq!(first.version(9), None);
        assert_eq!(first.version(13), Some((DAY_MS << SHIFT) + 3 * LOG_STEP));
        // The clock stands still.
        let above = first.version(100).expect("in the term") + 5;
        let second = Table::of(&notice(&first.terms, Some(2), above), 50, BEGINNING_MS + DAY_MS).expect("valid");
        assert_eq!(second.current().start, first.version(101).expect("in the term"));
        assert_eq!(second.version(49), first.version(49));
        let lost = second.lost();
        let expected = first.version(50).expect("in the term")..second.current().start;
        assert_eq!((lost.len(), lost.first()), (1, Some(&expected)));
        let start = first.current().start;
        assert_eq!(second.not_valid(), [1..start - 1, expected]);
        assert!(second.continues(&first, 49, 60) && !second.continues(&first, 50, 60));
        assert!(!second.continues(&first, 49, 40), "the log is shorter");
        assert!(!first.continues(&second, 51, 60), "an unknown term");
    }

    #[test]
    fn tables_that_contradict_themselves_are_refused() {
        let good = Term {
            id: 1,
            first: 10,
            start: 1600,
        };
        let of = |terms: &[Term]| Table::of(&notice(terms, None, 0), 100, BEGINNING_MS);
        assert!(of(&[good]).is_some());
        let overlapping = Term {
            id: 2,
            first: 20,
            start: 1616,
        };
        let later = Term { first: 101, ..good };
        let uneven = Term { start: 1601, ..good };
        let huge = Term {
            start: u64::MAX - 15,
            ..good
        };
        for terms in [
            &[good, overlapping][..],
            &[good, good],
            &[later],
            &[uneven],
            &[huge],
            &[],
        ] {
            assert_eq!(of(terms), None, "{terms:?}");
        }
        assert_eq!(Notice::parse(b"{}"), None);
        assert_eq!(
            Notice::parse(&serde_json::to_vec(&notice(&[], None, 0)).expect("JSON")),
            None
        );
    }

    #[test]
    fn terms_that_are_trimmed_away_are_forgotten() {
        let mut table = Table::of(&notice(&[], Some(0), 0), 1, BEGINNING_MS + DAY_MS).expect("valid");
        for id in 1..100u64 {
            let next = notice(&table.terms, Some(id), 0);
            table = Table::of(&next, 1 + 10 * id, BEGINNING_MS + DAY_MS + id).expect("valid");
        }
        assert_eq!(table.terms.len(), TERMS_MAX);
        let current = table.current();
        table.forget_before(975);
        assert_eq!(
            table.terms.iter().map(|term| term.first).collect::<Vec<_>>(),
            [971, 981, 991]
        );
        table.forget_before(5000);
        assert_eq!(table.terms, [current]);
    }

    /// A log that loses its end, the gateways that follow it, and the clients that recover on other gateways.
    struct World {
        random: StdRng,
        // Each entry is an event's identity, or a notice with the time at which it was stored.
        log: Vec<Entry>,
        incarnation: u64,
        clock_ms: u64,
        gateways: Vec<Gateway>,
        events: u64,
        // Positions with all events up to them, as the client got them.
        clients: Vec<(u64, u64, Vec<u64>)>,
        answered: u64,
        fences: bool,
    }

    #[derive(Clone)]
    enum Entry {
        Event(u64),
        Notice(Box<Notice>, u64),
    }

    #[derive(Default)]
    struct Gateway {
        attached: Option<u64>,
        table: Option<Table>,
        applied: u64,
        events: Vec<u64>,
    }

    impl World {
        fn new(seed: u64, fences: bool) -> Self {
            Self {
                random: StdRng::seed_from_u64(seed),
                log: Vec::new(),
                incarnation: 0,
                clock_ms: BEGINNING_MS + DAY_MS,
                gateways: (0..3).map(|_| Gateway::default()).collect(),
                events: 0,
                clients: Vec::new(),
                answered: 0,
                fences,
            }
        }

        fn newest_notice(&self) -> Option<(Notice, Table)> {
            let newest = self
                .log
                .iter()
                .enumerate()
                .rev()
                .find_map(|(index, entry)| match entry {
                    Entry::Notice(notice, stored_ms) => Some((index as u64 + 1, notice, *stored_ms)),
                    Entry::Event(_) => None,
                });
            let (sequence, notice, stored_ms) = newest?;
            let table = Table::of(notice, sequence, stored_ms).expect("gateways write valid notices");
            Some(((**notice).clone(), table))
        }

        fn attach(&mut self, index: usize) {
            let incarnation = self.incarnation.to_string();
            let newest = self.newest_notice();
            let is_current = newest
                .as_ref()
                .is_some_and(|(notice, _)| notice.incarnation == incarnation);
            let table = match newest {
                Some((_, table)) if is_current || !self.fences => table,
                newest => {
                    let table = newest.map(|(_, table)| table);
                    let own = self.gateways[index].table.as_ref();
                    let epoch = table.as_ref().map_or_else(|| self.random.random(), |table| table.epoch);
                    let head = |table: &Table, at: u64| table.version(at).unwrap_or(0) + LOG_STEP;
                    let above = own.map_or(0, |own| head(own, self.gateways[index].applied));
                    let above = above.max(table.as_ref().map_or(0, |table| head(table, self.log.len() as u64)));
                    let notice = Notice {
                        incarnation,
                        epoch,
                        ..notice(
                            &table.map_or(Vec::new(), |table| table.terms),
                            Some(self.random.random()),
                            above,
                        )
                    };
                    self.log.push(Entry::Notice(Box::new(notice), self.clock_ms));
                    self.newest_notice().expect("just written").1
                }
            };
            let gateway = &mut self.gateways[index];
            let last = self.log.len() as u64;
            let before = gateway.table.take();
            if !before.is_some_and(|before| table.continues(&before, gateway.applied, last)) {
                *gateway = Gateway::default();
            }
            gateway.table = Some(table);
            gateway.attached = Some(self.incarnation);
        }

        fn follow(&mut self, index: usize) {
            let gateway = &mut self.gateways[index];
            if gateway.attached != Some(self.incarnation) {
                return;
            }
            let up_to = self.random.random_range(gateway.applied..=self.log.len() as u64);
            while gateway.applied < up_to {
                gateway.applied += 1;
                match &self.log[gateway.applied as usize - 1] {
                    Entry::Event(event) => gateway.events.push(*event),
                    Entry::Notice(notice, stored_ms) if notice.opens.is_some() => {
                        let table = Table::of(notice, gateway.applied, *stored_ms);
                        let known = gateway.table.as_ref().map_or(0, |table| table.current().first);
                        if gateway.applied > known {
                            gateway.table = table;
                        }
                    }
                    Entry::Notice(..) => {}
                }
            }
        }

        fn publish(&mut self, index: usize) {
            if self.gateways[index].attached == Some(self.incarnation) {
                self.events += 1;
                self.log.push(Entry::Event(self.events));
            }
        }

        fn crash(&mut self) {
            self.incarnation += 1;
            let lost = self.random.random_range(0..=self.log.len().min(6));
            self.log.truncate(self.log.len() - lost);
            // The clock may be set back while the broker starts, by less than the start takes.
            self.clock_ms = self.clock_ms + self.random.random_range(1000..3000) - self.random.random_range(0..1000);
        }

        fn leave(&mut self, index: usize) {
            let gateway = &self.gateways[index];
            if let Some(table) = &gateway.table
                && let Some(version) = table.version(gateway.applied)
            {
                self.clients.push((table.epoch, version, gateway.events.clone()));
            }
        }

        /// A client comes back. Returns whether the answer was wrong.
        fn recover(&mut self, index: usize) -> bool {
            if self.clients.is_empty() || self.gateways[index].attached != Some(self.incarnation) {
                return false;
            }
            let at = self.random.random_range(0..self.clients.len());
            let (epoch, version, seen) = &self.clients[at];
            let gateway = &self.gateways[index];
            let Some(table) = &gateway.table else { return false };
            let head = table.version(gateway.applied).unwrap_or(0);
            if *epoch != table.epoch || *version > head || table.lost().iter().any(|lost| lost.contains(version)) {
                return false;
            }
            let Some(term) = table.terms.iter().rev().find(|term| term.start <= *version) else {
                return false;
            };
            self.answered += 1;
            let up_to = (term.first + (version - term.start) / LOG_STEP) as usize;
            let event = |entry: &Entry| match entry {
                Entry::Event(event) => Some(*event),
                Entry::Notice(..) => None,
            };
            let missed_none: Vec<u64> = self.log[..up_to.min(self.log.len())].iter().filter_map(event).collect();
            missed_none != *seen
        }

        fn step(&mut self) -> bool {
            let index = self.random.random_range(0..self.gateways.len());
            self.clock_ms += self.random.random_range(0..3);
            match self.random.random_range(0..100) {
                0..2 => self.crash(),
                2..20 => self.attach(index),
                20..50 => self.follow(index),
                50..75 => self.publish(index),
                75..85 => self.leave(index),
                85..86 => self.gateways[index] = Gateway::default(),
                _ => return self.recover(index),
            }
            false
        }
    }

    fn run(seed: u64, fences: bool) -> (u64, u64) {
        let mut world = World::new(seed, fences);
        let wrong = (0..600).filter(|_| world.step()).count() as u64;
        (wrong, world.answered)
    }

    fn runs() -> std::ops::Range<u64> {
        match std::env::var("TICKGATE_SEED").ok().and_then(|seed| seed.parse().ok()) {
            Some(seed) => seed..seed + 1,
            None => 0..std::env::var("TICKGATE_SEEDS").map_or(2000, |seeds| seeds.parse().expect("a number")),
        }
    }

    #[test]
    fn recovered_is_never_wrong_when_the_end_of_the_log_is_lost() {
        let mut answered = 0;
        for seed in runs() {
            let (wrong, answers) = run(seed, true);
            answered += answers;
            assert_eq!(wrong, 0, "TICKGATE_SEED={seed}");
        }
        println!("{answered} answers were true");
        let runs = runs().count() as u64;
        assert!(runs == 1 || answered > 10 * runs, "{answered} answers in {runs} runs");
    }

    #[test]
    fn without_notices_that_open_terms_recovered_is_wrong() {
        let wrong = (0..200).filter(|seed| run(*seed, false).0 > 0).count();
        assert!(wrong > 20, "{wrong} runs of 200 with wrong answers");
    }
}
