//! The rules of the catch-up state, and one client of one channel in many interleavings.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

mod alone;
mod replay;

use alone::Alone;

fn channel(name: &str) -> Channel {
    Channel::parse(name).expect("valid")
}

#[test]
fn a_channel_is_read_where_it_was_set_aside() {
    let (mut catch_up, a, b) = (Alone::default(), channel("a"), channel("b"));
    assert!(catch_up.set_aside(&a, 7, 10));
    assert!(catch_up.set_aside(&b, 8, 12));
    assert!(!catch_up.set_aside(&a, 9, 13), "it has a position already");
    assert_eq!(catch_up.take_due(Some(9)), None, "what was queued before goes before");
    let due = catch_up.take_due(Some(10)).expect("its position has come");
    assert_eq!((due.channel, due.need, due.withheld), (a, Need::Newest { above: 6 }, 0));
    assert_eq!(catch_up.take_due(Some(11)), None);
    assert_eq!(catch_up.take_due(None).expect("nothing is queued").channel, b);
    // Sequence numbers wrap.
    let mut catch_up = Alone::default();
    catch_up.set_aside(&b, 1, 2);
    assert_eq!(catch_up.take_due(Some(u32::MAX)), None);
    assert!(catch_up.take_due(Some(3)).is_some());
}

#[test]
fn a_frame_that_is_passed_over_is_owed() {
    let a = channel("a");
    // Of merged records, those that changed since are owed, too.
    for (has_records, above) in [(false, 8), (true, 4)] {
        let mut catch_up = Alone {
            has_records,
            ..Alone::default()
        };
        assert!(!catch_up.passes_over(&a, 3));
        catch_up.set_aside(&a, 9, 1);
        assert!(catch_up.passes_over(&a, 5));
        assert!(catch_up.passes_over(&a, 7));
        assert_eq!(catch_up.take_due(None).expect("due").need, Need::Newest { above });
        assert_eq!(catch_up.numbers.len(), 0);
    }
    // A value that is owed as a whole is not read instead of an event of an earlier subscription.
    let mut catch_up = Alone::default();
    catch_up.note_began_at(3);
    catch_up.subscribe(a.clone(), Need::Whole { since: 3 });
    assert_eq!(catch_up.take_due(None), None, "the answer goes first");
    schedule(&mut catch_up, 4);
    assert!(!catch_up.passes_over(&a, 2), "it is of an earlier subscription");
    assert_eq!(catch_up.take_due(None).expect("due").need, Need::Whole { since: 3 });
}

#[test]
fn a_frame_that_the_read_does_not_give_is_not_passed_over() {
    let a = channel("a");
    for need in [Need::After(44), Need::LastOrAfter(44)] {
        let mut catch_up = Alone::default();
        catch_up.subscribe(a.clone(), need);
        schedule(&mut catch_up, 1);
        let passed: Vec<u64> = (42..=45).filter(|version| catch_up.passes_over(&a, *version)).collect();
        assert_eq!(passed, [45], "{need:?}");
        assert_eq!(catch_up.take_due(None).expect("due").withheld, 1);
    }
}

#[test]
fn live_events_are_held_back_up_to_the_position_of_the_last_read() {
    let (mut catch_up, a) = (Alone::default(), channel("a"));
    catch_up.subscribe(a.clone(), Need::After(41));
    schedule(&mut catch_up, 1);
    assert!(catch_up.withholds(&a, 5));
    catch_up.take_due(None).expect("due");
    assert!(catch_up.finish(&a, 8, 6, false));
    assert!(catch_up.withholds(&a, 7));
    assert!(!catch_up.withholds(&a, 8));
    assert!(catch_up.is_empty());
    // If no event comes after the last read, the position alone settles the channel.
    catch_up.subscribe(a.clone(), Need::After(41));
    assert!(catch_up.finish(&a, 8, 6, false));
    catch_up.settle(&a, 7);
    assert_eq!(catch_up.len(), 1);
    catch_up.settle(&a, 8);
    assert!(catch_up.is_empty());
    catch_up.subscribe(a.clone(), Need::After(41));
    assert!(!catch_up.finish(&a, 8, 8, false), "the inbox was empty");
    assert!(catch_up.is_empty());
}

fn held(patterns: &[&str]) -> Box<[Pattern]> {
    let valid = |text: &&str| Pattern::parse(text).expect("valid");
    patterns.iter().map(valid).collect()
}

fn schedule(catch_up: &mut Alone, first: u32) {
    let mut taken = 0;
    catch_up.schedule(Progress::default(), |count| {
        taken = count;
        first
    });
    assert!(taken > 0, "there is something to schedule");
}

/// Every channel that is read, with its position.
fn read_all(catch_up: &mut Alone) -> Vec<(String, u32)> {
    let due = std::iter::from_fn(|| catch_up.take_due(None));
    due.map(|due| (due.channel.as_str().to_owned(), due.position)).collect()
}

#[test]
fn each_channel_of_a_request_has_its_own_position() {
    let mut catch_up = Alone::default();
    for name in ["a", "b", "c"] {
        catch_up.subscribe(channel(name), Need::LastAndAfter(3));
    }
    let mut asked = 0;
    assert!(catch_up.schedule(Progress::default(), |count| {
        asked = count;
        u32::MAX - 1
    }));
    assert_eq!(asked, 3);
    assert!(!catch_up.schedule(Progress::default(), |_| unreachable!("there is none left")));
    catch_up.set_aside(&channel("d"), 7, 1);
    // Sequence numbers wrap between these channels.
    assert_eq!(catch_up.take_due(Some(u32::MAX - 2)), None);
    assert_eq!(
        catch_up.take_due(Some(u32::MAX - 1)).map(|due| due.position),
        Some(u32::MAX - 1)
    );
    assert_eq!(
        catch_up.take_due(Some(u32::MAX - 1)),
        None,
        "the next one's frames come behind"
    );
    let rest = [("b", u32::MAX), ("c", 0), ("d", 1)].map(|(name, position)| (name.to_owned(), position));
    assert_eq!(read_all(&mut catch_up), rest);
}

#[test]
fn a_channel_that_was_given_back_and_subscribed_again_has_a_new_position() {
    for shares in [1, 2, 100] {
        let (mut catch_up, a, b) = (Alone::default(), channel("a"), channel("b"));
        catch_up.set_aside(&a, 1, 5);
        catch_up.set_aside(&b, 2, 6);
        catch_up.leave(held(&["b"]));
        while !catch_up.sweep(shares).1 {}
        assert_eq!(catch_up.len(), 1, "what was left is forgotten");
        catch_up.subscribe(a.clone(), Need::After(3));
        schedule(&mut catch_up, 9);
        assert_eq!(catch_up.take_due(None).expect("due").channel, b);
        assert_eq!(catch_up.next_due(), Some(9));
    }
}

#[test]
fn the_old_entry_of_a_channel_that_is_subscribed_again_is_void() {
    let (mut catch_up, a, b) = (Alone::default(), channel("a"), channel("b"));
    // An event that was still queued when the channel was given back, as the first of two.
    catch_up.set_aside(&a, 1, 5);
    catch_up.set_aside(&b, 2, 6);
    catch_up.subscribe(a.clone(), Need::Whole { since: 4 });
    schedule(&mut catch_up, 9);
    let read = read_all(&mut catch_up);
    assert_eq!(read, [("b".to_owned(), 5), ("a".to_owned(), 9)]);
}

#[test]
fn channels_that_were_given_back_cost_nothing_at_once_and_are_swept_out_in_steps() {
    let mut catch_up = Alone::default();
    for n in 0..1000u64 {
        let name = if n % 2 == 0 { "a" } else { "b" };
        catch_up.subscribe(channel(&format!("{name}.s{n}")), Need::After(n));
    }
    schedule(&mut catch_up, 10);
    catch_up.set_aside(&channel("b.last"), 7, 2000);
    catch_up.leave(held(&["b.*", "c.*"]));
    assert_eq!(catch_up.len(), 1001, "they are not looked at");
    assert!(!catch_up.passes_over(&channel("a.s0"), 9), "it will not be read");
    assert!(catch_up.passes_over(&channel("b.s1"), 9));
    assert_eq!(catch_up.sweep(100), (100, false));
    assert_eq!(
        catch_up.take_due(None),
        None,
        "the first is swept, but the second may not be"
    );
    assert_eq!(catch_up.next_due(), Some(10), "what is queued behind waits");
    // In the middle of the sweep.
    catch_up.leave(held(&["b.*"]));
    catch_up.set_aside(&channel("b.later"), 8, 2001);
    let mut steps = 100;
    loop {
        let (taken, is_through) = catch_up.sweep(100);
        assert!(taken <= 100);
        steps += taken;
        if is_through {
            break;
        }
    }
    // Each name takes a step, and each name that is kept takes another for the patterns that were given back meanwhile.
    assert_eq!((steps, catch_up.len()), (1002 + 502, 502));
    assert_eq!(catch_up.sweep(100), (0, true));
    let read = read_all(&mut catch_up);
    let names: Vec<&str> = read.iter().map(|(name, _)| name.as_str()).collect();
    let all: Vec<String> = (0..500).map(|n| format!("b.s{}", 2 * n + 1)).collect();
    assert_eq!(names[..500], all);
    assert_eq!(names[500..], ["b.last", "b.later"]);
    assert!(
        read[..500].iter().all(|(_, position)| *position == 10),
        "a replay has one position"
    );
    assert_eq!((read[500].1, read[501].1), (2000, 2001));
}

#[test]
fn channels_given_back_before_they_had_a_position_are_swept_out() {
    let (mut catch_up, a, b) = (Alone::default(), channel("a"), channel("b"));
    catch_up.subscribe(a.clone(), Need::After(3));
    catch_up.subscribe(b, Need::After(3));
    catch_up.leave(held(&["b"]));
    assert_eq!(catch_up.sweep(10), (2, true));
    catch_up.subscribe(a, Need::After(7));
    schedule(&mut catch_up, 4);
    assert_eq!(read_all(&mut catch_up), [("b".to_owned(), 4), ("a".to_owned(), 4)]);
}

#[test]
fn the_state_of_a_removed_connection_is_freed_in_steps() {
    let mut catch_up = Alone::default();
    for n in 0..90 {
        catch_up.subscribe(channel(&format!("a.s{n}")), Need::After(3));
    }
    schedule(&mut catch_up, 0);
    for n in 0..10 {
        catch_up.set_aside(&channel(&format!("b.s{n}")), 7, 100 + n);
    }
    catch_up.leave(held(&["a.*"]));
    catch_up.sweep(20);
    catch_up.subscribe(channel("c"), Need::After(3));
    // 10 channels without history, 91 with history, and the names of these in batches.
    let Alone {
        catch_up, mut numbers, ..
    } = catch_up;
    assert_eq!(numbers.len(), 10);
    let mut deferred = catch_up.into_deferred_drop();
    let freed: Vec<usize> = (0..6).map(|_| deferred.free(&mut numbers, 50)).collect();
    assert_eq!((freed, numbers.len()), (vec![50, 50, 50, 42, 0, 0], 0));
}

/// A channel of numbered events, a shard's inbox, a small outbox, and a client that takes one frame at a time.
struct Rig {
    channel: Channel,
    published: u64,
    inbox: VecDeque<u64>,
    popped: u64,
    // (version, sequence); version 0: a frame that is not of this channel.
    outbox: VecDeque<(u64, u32)>,
    sequence: u32,
    catch_up: Alone,
    got: Vec<u64>,
}

const OUTBOX: usize = 4;

#[derive(Clone, Copy, Debug)]
enum Step {
    Publish,
    Pop,
    QueueOther,
    Take,
    Read,
}

/// The planted fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// The position of the last page is ignored, so its events are delivered again.
    IgnoresPosition,
    /// Every page except the first begins one event too late.
    SkipsAtPages,
    /// A channel is read while older frames of it are still queued, and these are sent, too.
    ReadsTooEarly,
}

impl Rig {
    fn new(after: Option<u64>, published: u64) -> Self {
        let mut rig = Self {
            channel: channel("a.b"),
            published,
            inbox: VecDeque::new(),
            popped: 0,
            outbox: VecDeque::new(),
            sequence: 0,
            catch_up: Alone::default(),
            got: Vec::new(),
        };
        if let Some(after) = after {
            rig.catch_up.subscribe(rig.channel.clone(), Need::After(after));
            rig.catch_up.schedule(Progress::default(), |_| 0);
            rig.sequence = 1;
        }
        rig
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence += 1;
        self.sequence - 1
    }

    fn step(&mut self, step: Step, fault: Fault) {
        match step {
            Step::Publish => {
                self.published += 1;
                self.inbox.push_back(self.published);
            }
            Step::Pop => {
                let Some(version) = self.inbox.pop_front() else { return };
                let index = self.popped;
                self.popped += 1;
                if self.catch_up.withholds(&self.channel, index) {
                    return;
                }
                let sequence = self.next_sequence();
                if self.outbox.len() < OUTBOX {
                    self.outbox.push_back((version, sequence));
                } else {
                    self.catch_up.set_aside(&self.channel, version, sequence);
                }
            }
            Step::QueueOther => {
                if self.outbox.len() < OUTBOX {
                    let sequence = self.next_sequence();
                    self.outbox.push_back((0, sequence));
                }
            }
            Step::Take => {
                while let Some(&(version, sequence)) = self.outbox.front() {
                    if self.catch_up.next_due().is_some_and(|due| !precedes(sequence, due)) {
                        return;
                    }
                    self.outbox.pop_front();
                    let is_passed_over = version > 0 && self.catch_up.passes_over(&self.channel, version);
                    if !is_passed_over {
                        self.got.extend(Some(version).filter(|version| *version > 0));
                        return;
                    }
                }
            }
            Step::Read => {
                let head = self.outbox.front().map(|(_, sequence)| *sequence);
                let head = head.filter(|_| fault != Fault::ReadsTooEarly);
                let Some(due) = self.catch_up.take_due(head) else {
                    return;
                };
                let (at, position) = (self.popped + self.inbox.len() as u64, due.position);
                let last = match due.need {
                    Need::Newest { above } => {
                        assert!(above < self.published);
                        self.got.push(self.published);
                        self.published
                    }
                    Need::Whole { .. } => unreachable!("no channel of this test needs a whole value"),
                    // A page of two events.
                    Need::LastAndAfter(_) => unreachable!("no channel of this test has a last value and a history"),
                    Need::After(since) | Need::LastOrAfter(since) => {
                        let last = self.published.min(since + 2);
                        self.got.extend(since + 1..=last);
                        last
                    }
                };
                if last < self.published {
                    let skip = u64::from(fault == Fault::SkipsAtPages);
                    let sequence = self.next_sequence();
                    let left = Need::After(last + skip);
                    self.catch_up
                        .read_on(due, (left, last + 1), Progress::default(), || sequence);
                    self.catch_up
                        .postpone_replay(position, Progress::default(), || sequence);
                } else if fault == Fault::IgnoresPosition {
                    self.catch_up.forget(&due.channel);
                } else {
                    self.catch_up.finish(&due.channel, at, self.popped, false);
                }
            }
        }
    }

    /// Plays the steps, then drains everything.
    fn play(mut self, steps: &[Step], fault: Fault) -> Vec<u64> {
        for step in steps {
            self.step(*step, fault);
        }
        while !self.inbox.is_empty() || !self.outbox.is_empty() || self.catch_up.next_due().is_some() {
            for step in [Step::Pop, Step::Take, Step::Read] {
                self.step(step, fault);
            }
        }
        self.got
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Publish),
        3 => Just(Step::Pop),
        1 => Just(Step::QueueOther),
        1 => Just(Step::Take),
        1 => Just(Step::Read),
    ];
    prop::collection::vec(step, 0..60)
}

/// Without conflation, the client gets every event after `after` once and in order. With conflation, the versions only
/// increase, up to the newest.
fn wrong(got: &[u64], after: u64, published: u64, conflates: bool) -> Option<String> {
    let is_upwards = got.windows(2).all(|pair| pair[0] < pair[1]);
    let is_whole = conflates || got.iter().copied().eq(after + 1..=published);
    let is_to_the_end = published == after || got.last() == Some(&published);
    (!is_upwards || !is_whole || !is_to_the_end).then(|| format!("{got:?} of {after}..={published}"))
}

proptest! {
    #[test]
    fn a_replay_joins_the_live_events_without_gap_or_duplicate(steps in steps(), missed in 0u64..9) {
        let publishes = steps.iter().filter(|step| matches!(step, Step::Publish)).count() as u64;
        let rig = Rig::new(Some(41), 41 + missed);
        // The outbox never overflows here, since live events after the replay are taken at once.
        let calm: Vec<Step> = steps.iter().flat_map(|step| [*step, Step::Take, Step::Take]).collect();
        let got = rig.play(&calm, Fault::None);
        prop_assert_eq!(wrong(&got, 41, 41 + missed + publishes, false), None);
    }

    #[test]
    fn a_channel_that_overflows_goes_on_with_its_newest(steps in steps()) {
        let publishes = steps.iter().filter(|step| matches!(step, Step::Publish)).count() as u64;
        let got = Rig::new(None, 0).play(&steps, Fault::None);
        prop_assert_eq!(wrong(&got, 0, publishes, true), None);
    }
}

/// Each planted fault must be found by an interleaving of a fixed set.
#[test]
fn planted_faults_are_found() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    for fault in [Fault::IgnoresPosition, Fault::SkipsAtPages, Fault::ReadsTooEarly] {
        let mut runner = TestRunner::deterministic();
        let is_found = (0..500).any(|_| {
            let steps = steps().new_tree(&mut runner).expect("steps").current();
            let publishes = steps.iter().filter(|step| matches!(step, Step::Publish)).count() as u64;
            let replay = Rig::new(Some(0), 5).play(&steps, fault);
            let live = Rig::new(None, 0).play(&steps, fault);
            wrong(&replay, 0, 5 + publishes, true).is_some() && fault != Fault::SkipsAtPages
                || wrong(&live, 0, publishes, true).is_some()
                || fault == Fault::SkipsAtPages && !replay.iter().take(5).copied().eq(1..=5)
        });
        assert!(is_found, "{fault:?} went unnoticed");
    }
}
