use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::shard::frame::FramedEvent;
use tickgate_protocol::channel::Channel;

const BOUNDS: Bounds = Bounds {
    event_frames: 12,
    event_bytes: 400,
    reply_frames: 6,
    reply_bytes: 200,
};

fn frame(byte: u8, length: usize) -> Rc<Frame> {
    let bytes = Bytes::from(vec![byte; length]);
    Frame::reply(bytes)
}

/// The frame of an event that was read from the hub.
fn page_frame(byte: u8, length: usize) -> Rc<Frame> {
    let bytes = Bytes::from(vec![byte; length]);
    let channel = Channel::parse("a.b").expect("valid");
    let origin = FramedEvent {
        channel,
        class: Arc::default(),
        version: 1,
    };
    Frame::new(bytes, Content::Event(origin))
}

fn written(outbox: &Outbox, pool: &Pool) -> Vec<u8> {
    let mut slices = [IoSlice::new(&[]); 128];
    let filled = outbox.gather(pool, None, &mut slices);
    slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect()
}

#[test]
fn an_outbox_is_forty_bytes() {
    assert_eq!(size_of::<Outbox>(), 40);
}

#[test]
fn events_and_replies_leave_in_the_order_of_queueing() {
    let (mut pool, mut outbox) = (Pool::default(), Outbox::default());
    outbox
        .push_reply(&mut pool, frame(1, 1), &BOUNDS)
        .expect("within the bounds");
    assert!(outbox.push_event(&mut pool, &frame(2, 1), &BOUNDS));
    assert!(outbox.push_event(&mut pool, &frame(3, 1), &BOUNDS));
    outbox
        .push_reply(&mut pool, frame(4, 1), &BOUNDS)
        .expect("within the bounds");
    assert_eq!(written(&outbox, &pool), [1, 2, 3, 4]);
}

#[test]
fn leaked_frames_are_sent_and_never_freed() {
    let (mut pool, mut outbox) = (Pool::default(), Outbox::default());
    let (event, reply, later) = (frame(1, 4), frame(2, 4), frame(3, 4));
    assert!(outbox.push_event(&mut pool, &event, &BOUNDS));
    outbox
        .push_reply(&mut pool, reply.clone(), &BOUNDS)
        .expect("within the bounds");
    outbox.leak(&pool);
    assert!(outbox.push_event(&mut pool, &later, &BOUNDS));
    outbox.advance(&mut pool, 6);
    outbox.clear(&mut pool);
    let holders = [&event, &reply, &later].map(Rc::strong_count);
    // The test itself holds one reference to each.
    assert_eq!((holders, pool.used()), ([2, 2, 1], 0));
}

#[test]
fn a_partly_sent_event_is_never_dropped() {
    let (mut pool, mut outbox) = (Pool::default(), Outbox::default());
    assert!(outbox.push_event(&mut pool, &frame(1, 4), &BOUNDS));
    assert!(outbox.push_event(&mut pool, &frame(2, 4), &BOUNDS));
    outbox.advance(&mut pool, 1);
    let dropped = outbox.drop_oldest(&mut pool).expect("the second one");
    assert_eq!(dropped.0.bytes[0], 2);
    assert!(outbox.drop_oldest(&mut pool).is_none());
    assert_eq!(written(&outbox, &pool), [1, 1, 1]);
    assert!(outbox.push_event(&mut pool, &frame(3, 1), &BOUNDS));
    assert_eq!(written(&outbox, &pool), [1, 1, 1, 3]);
}

#[test]
fn a_run_is_split_to_drop_one_of_its_events_unless_a_part_of_it_was_sent() {
    let (mut pool, mut outbox) = (Pool::default(), Outbox::default());
    let run = |bytes: [u8; 3]| Frame::run(bytes.map(|byte| frame(byte, 2)).into());
    assert!(outbox.push_event(&mut pool, &run([1, 2, 3]), &BOUNDS));
    assert!(outbox.push_event(&mut pool, &run([4, 5, 6]), &BOUNDS));
    assert_eq!((pool.used(), outbox.event_frames()), (2, 6));
    outbox.advance(&mut pool, 3);
    let dropped = outbox.drop_oldest(&mut pool).expect("the first of the second run");
    assert_eq!((dropped.0.bytes[0], dropped.1), (4, 3));
    assert_eq!(written(&outbox, &pool), [2, 3, 3, 5, 5, 6, 6]);
    assert_eq!(
        outbox.advance(&mut pool, 5).event_frames,
        4,
        "the first run and one of the second"
    );
    assert_eq!((pool.used(), outbox.event_frames()), (1, 1));
}

#[test]
fn a_run_that_does_not_fit_as_a_whole_is_not_queued() {
    let (mut pool, mut outbox) = (Pool::default(), Outbox::default());
    let run = |events: u8| Frame::run((0..events).map(|byte| frame(byte, 1)).collect());
    assert!(
        !outbox.push_event(&mut pool, &run(13), &BOUNDS),
        "not even if no other event is queued"
    );
    assert!(outbox.push_event(&mut pool, &run(12), &BOUNDS));
    assert!(!outbox.push_event(&mut pool, &run(2), &BOUNDS));
}

#[test]
fn a_partly_sent_reply_does_not_protect_the_event_behind_it() {
    let (mut pool, mut outbox) = (Pool::default(), Outbox::default());
    outbox
        .push_reply(&mut pool, frame(1, 2), &BOUNDS)
        .expect("within the bounds");
    assert!(outbox.push_event(&mut pool, &frame(2, 1), &BOUNDS));
    outbox.advance(&mut pool, 1);
    assert!(outbox.drop_oldest(&mut pool).is_some());
    assert_eq!(written(&outbox, &pool), [1]);
}

#[test]
fn a_single_event_longer_than_the_bound_is_queued_alone() {
    let (mut pool, mut outbox) = (Pool::default(), Outbox::default());
    assert!(outbox.push_event(&mut pool, &frame(1, 1000), &BOUNDS));
    assert!(!outbox.push_event(&mut pool, &frame(2, 1), &BOUNDS));
}

#[derive(Clone, Debug)]
enum Step {
    Event(usize),
    /// Several events as one frame; the length of each in bytes.
    Run(Vec<usize>),
    Reply(usize),
    Tell,
    /// Frames read from the hub; how far their sequence number lies before the first queued one.
    Page(Vec<usize>, u32),
    /// Events whose byte is a multiple of the first number are passed over, until the second number of events was kept.
    PassOver(u8, usize),
    Write(usize),
    Clear,
}

/// Pages are pushed onto at most this many frames, so that one call of `gather` shows all frames.
const PAGES_UP_TO: usize = 100;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1usize..90).prop_map(Step::Event),
        3 => prop::collection::vec(1usize..40, 2..7).prop_map(Step::Run),
        3 => (1usize..60).prop_map(Step::Reply),
        1 => Just(Step::Tell),
        2 => (prop::collection::vec(1usize..40, 1..4), 0u32..3).prop_map(|(page, before)| Step::Page(page, before)),
        2 => (1u8..4, 0usize..8).prop_map(|(divisor, limit)| Step::PassOver(divisor, limit)),
        3 => (0usize..200).prop_map(Step::Write),
        1 => Just(Step::Clear),
    ];
    prop::collection::vec(step, 1..400)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Event,
    Reply,
    Page,
}

struct Queued {
    kind: Kind,
    sequence: u32,
    // More than one: a run.
    parts: Vec<Vec<u8>>,
}

impl Queued {
    fn one(kind: Kind, sequence: u32, bytes: Vec<u8>) -> Self {
        let parts = vec![bytes];
        Self { kind, sequence, parts }
    }
    fn len(&self) -> usize {
        self.parts.iter().map(Vec::len).sum()
    }
}

/// The number of frames and bytes of a kind.
fn queued(model: &VecDeque<Queued>, kind: Kind) -> (usize, usize) {
    let of_kind = || model.iter().filter(|queued| queued.kind == kind);
    (
        of_kind().map(|queued| queued.parts.len()).sum(),
        of_kind().map(Queued::len).sum(),
    )
}

/// Splits the run at an index into entries of its events. A reply whose position is within the run, where the run kept it
/// back, goes before the event of that position.
fn split(model: &mut VecDeque<Queued>, index: usize) {
    let run = model.remove(index).expect("an index of the queue");
    let mut at = index;
    for (number, bytes) in (0u32..).zip(run.parts) {
        let event = Queued::one(run.kind, run.sequence.wrapping_add(number), bytes);
        let goes_before = |next: &Queued| next.kind == Kind::Reply && !precedes(event.sequence, next.sequence);
        while model.get(at).is_some_and(goes_before) {
            at += 1;
        }
        model.insert(at, event);
        at += 1;
    }
}

#[test]
fn a_loss_is_told_before_an_event_that_comes_after_a_partly_sent_page() {
    let (mut pool, mut outbox) = (Pool::default(), Outbox::default());
    let gap = outbox.take_sequence();
    // The page is read while nothing is queued, so it has the number that the next event would get.
    let next = outbox.next_sequence;
    outbox.push_page(&mut pool, &mut vec![page_frame(b'p', 4)], next);
    outbox.advance(&mut pool, 1);
    outbox.push_at_gap(&mut pool, frame(b'!', 1), gap);
    assert!(outbox.push_event(&mut pool, &frame(b'e', 1), &BOUNDS));
    assert_eq!(written(&outbox, &pool), b"ppp!e");
}

proptest! {
    // The model is a single queue, which is searched for the oldest event that can be dropped.
    #[test]
    fn agrees_with_a_single_queue(steps in steps(), start in prop_oneof![Just(0u32), Just(u32::MAX - 40)]) {
        let mut pool = Pool::default();
        let mut outbox = Outbox { next_sequence: start, ..Outbox::default() };
        let mut model = VecDeque::<Queued>::new();
        let (mut sent, mut sequence, mut gap) = (0usize, start, None::<u32>);
        for (number, step) in steps.into_iter().enumerate() {
            let byte = u8::try_from(number % 251).expect("below 251");
            match step {
                Step::Event(length) => loop {
                    let (frames, bytes) = queued(&model, Kind::Event);
                    let fits = frames == 0 || (frames < 12 && bytes + length <= 400);
                    prop_assert_eq!(outbox.push_event(&mut pool, &frame(byte, length), &BOUNDS), fits);
                    if fits {
                        model.push_back(Queued::one(Kind::Event, sequence, vec![byte; length]));
                        sequence = sequence.wrapping_add(1);
                        break;
                    }
                    let victim = (0..model.len()).find(|&index| model[index].kind == Kind::Event && (index > 0 || sent == 0));
                    let dropped = outbox.drop_oldest(&mut pool);
                    let expected = victim.and_then(|index| {
                        split(&mut model, index);
                        model.remove(index)
                    });
                    prop_assert_eq!(
                        dropped.as_ref().map(|(frame, sequence)| (frame.bytes.to_vec(), *sequence)),
                        expected.map(|queued| (queued.parts.concat(), queued.sequence))
                    );
                    gap = Some(match dropped {
                        Some((_, sequence)) => sequence,
                        None => outbox.take_sequence(),
                    });
                    if victim.is_none() {
                        sequence = sequence.wrapping_add(1);
                        break;
                    }
                },
                Step::Run(lengths) => {
                    let (frames, bytes) = queued(&model, Kind::Event);
                    let total: usize = lengths.iter().sum();
                    let fits = frames + lengths.len() <= 12 && bytes + total <= 400;
                    let run = Frame::run(lengths.iter().map(|length| frame(byte, *length)).collect());
                    prop_assert_eq!(outbox.push_event(&mut pool, &run, &BOUNDS), fits);
                    if fits {
                        let count = u32::try_from(lengths.len()).expect("a few");
                        let parts = lengths.into_iter().map(|length| vec![byte; length]).collect();
                        model.push_back(Queued { kind: Kind::Event, sequence, parts });
                        sequence = sequence.wrapping_add(count);
                    }
                }
                Step::Reply(length) => {
                    let (frames, bytes) = queued(&model, Kind::Reply);
                    let fits = frames < 6 && (frames == 0 || bytes + length <= 200);
                    prop_assert_eq!(outbox.push_reply(&mut pool, frame(byte, length), &BOUNDS).is_ok(), fits);
                    if fits {
                        model.push_back(Queued::one(Kind::Reply, sequence, vec![byte; length]));
                        sequence = sequence.wrapping_add(1);
                    }
                }
                Step::Tell => if let Some(gap) = gap.take() {
                    outbox.push_at_gap(&mut pool, frame(byte, 3), gap);
                    // The frames of a page share one sequence number: after a part of the first is after all of them.
                    let behind = model.front().filter(|_| sent > 0).map_or(gap, |first| first.sequence.wrapping_add(1));
                    let told = if precedes(gap, behind) { behind } else { gap };
                    let index = model.iter().position(|queued| !precedes(queued.sequence, told)).unwrap_or(model.len());
                    model.insert(index, Queued::one(Kind::Reply, told, vec![byte; 3]));
                    if precedes(sequence, told) {
                        sequence = told;
                    }
                },
                Step::Page(lengths, before) => if sent == 0 && model.len() < PAGES_UP_TO {
                    let first = model.front().map_or(sequence, |queued| queued.sequence);
                    let due = first.wrapping_sub(before);
                    let mut page = lengths.iter().map(|length| page_frame(byte, *length)).collect();
                    outbox.push_page(&mut pool, &mut page, due);
                    for length in lengths.iter().rev() {
                        model.push_front(Queued::one(Kind::Page, due, vec![byte; *length]));
                    }
                },
                Step::PassOver(divisor, limit) => {
                    let passed = outbox.pass_over(&mut pool, limit, |frame| frame.bytes[0].is_multiple_of(divisor));
                    let (mut left, mut frames, mut bytes) = (limit, 0, 0);
                    let mut index = usize::from(sent > 0);
                    while index < model.len() && left > 0 {
                        if model[index].kind == Kind::Event {
                            split(&mut model, index);
                        }
                        let queued = &model[index];
                        if queued.kind == Kind::Event && queued.parts[0][0].is_multiple_of(divisor) {
                            frames += 1;
                            bytes += queued.len();
                            model.remove(index);
                            continue;
                        }
                        left -= usize::from(queued.kind == Kind::Event);
                        index += 1;
                    }
                    prop_assert_eq!((passed.event_frames, passed.event_bytes as usize), (frames, bytes));
                }
                Step::Write(bytes) => {
                    let pending = written(&outbox, &pool).len();
                    let mut left = bytes.min(pending) + sent;
                    let finished = outbox.advance(&mut pool, bytes.min(pending));
                    let mut expected = 0;
                    while model.front().is_some_and(|queued| queued.len() <= left) {
                        let Some(queued) = model.pop_front() else { break };
                        left -= queued.len();
                        expected += queued.parts.len();
                    }
                    sent = left;
                    prop_assert_eq!(finished.frames as usize, expected);
                }
                Step::Clear => {
                    outbox.clear(&mut pool);
                    model.clear();
                    (sent, gap) = (0, None);
                }
            }
            let expected: Vec<u8> = model.iter().flat_map(|queued| queued.parts.concat()).skip(sent).collect();
            let (frames, bytes) = queued(&model, Kind::Event);
            prop_assert_eq!((outbox.event_frames() as usize, outbox.event_bytes() as usize), (frames, bytes));
            prop_assert_eq!(written(&outbox, &pool), expected);
            prop_assert_eq!(pool.used(), model.len());
            prop_assert_eq!(outbox.is_empty(), model.is_empty());
            prop_assert_eq!(outbox.first_sequence(&pool), model.front().map(|queued| queued.sequence));
        }
    }
}
