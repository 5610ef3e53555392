use std::collections::VecDeque;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const BOUNDS: Bounds = Bounds {
    event_frames: 12,
    event_bytes: 400,
    reply_frames: 6,
    reply_bytes: 200,
};

fn frame(byte: u8, length: usize) -> Rc<Frame> {
    let bytes = Bytes::from(vec![byte; length]);
    Rc::new(Frame { bytes, origin: None })
}

fn written(outbox: &Outbox, pool: &Pool) -> Vec<u8> {
    let mut slices = [IoSlice::new(&[]); 64];
    let filled = outbox.gather(pool, None, &mut slices);
    slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect()
}

#[test]
fn an_outbox_is_forty_bytes() {
    assert_eq!(size_of::<Outbox>(), 40);
}

#[test]
fn events_and_replies_leave_in_the_order_they_came() {
    let (mut pool, mut outbox) = (Pool::default(), Outbox::default());
    outbox.push_reply(&mut pool, frame(1, 1), &BOUNDS).expect("room");
    assert!(outbox.push_event(&mut pool, &frame(2, 1), &BOUNDS));
    assert!(outbox.push_event(&mut pool, &frame(3, 1), &BOUNDS));
    outbox.push_reply(&mut pool, frame(4, 1), &BOUNDS).expect("room");
    assert_eq!(written(&outbox, &pool), [1, 2, 3, 4]);
}

#[test]
fn what_is_leaked_leaves_and_is_never_freed() {
    let (mut pool, mut outbox) = (Pool::default(), Outbox::default());
    let (event, reply, later) = (frame(1, 4), frame(2, 4), frame(3, 4));
    assert!(outbox.push_event(&mut pool, &event, &BOUNDS));
    outbox.push_reply(&mut pool, reply.clone(), &BOUNDS).expect("room");
    outbox.leak(&pool);
    assert!(outbox.push_event(&mut pool, &later, &BOUNDS));
    outbox.advance(&mut pool, 6);
    outbox.clear(&mut pool);
    let holders = [&event, &reply, &later].map(Rc::strong_count);
    // One of each is this test's.
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
fn a_partly_sent_reply_does_not_protect_the_event_behind_it() {
    let (mut pool, mut outbox) = (Pool::default(), Outbox::default());
    outbox.push_reply(&mut pool, frame(1, 2), &BOUNDS).expect("room");
    assert!(outbox.push_event(&mut pool, &frame(2, 1), &BOUNDS));
    outbox.advance(&mut pool, 1);
    assert!(outbox.drop_oldest(&mut pool).is_some());
    assert_eq!(written(&outbox, &pool), [1]);
}

#[test]
fn a_lone_event_longer_than_the_bound_goes_and_nothing_joins_it() {
    let (mut pool, mut outbox) = (Pool::default(), Outbox::default());
    assert!(outbox.push_event(&mut pool, &frame(1, 1000), &BOUNDS));
    assert!(!outbox.push_event(&mut pool, &frame(2, 1), &BOUNDS));
}

#[derive(Clone, Debug)]
enum Step {
    Event(usize),
    Reply(usize),
    Tell,
    Write(usize),
    Clear,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1usize..90).prop_map(Step::Event),
        3 => (1usize..60).prop_map(Step::Reply),
        1 => Just(Step::Tell),
        3 => (0usize..200).prop_map(Step::Write),
        1 => Just(Step::Clear),
    ];
    prop::collection::vec(step, 1..400)
}

struct Queued {
    is_event: bool,
    sequence: u32,
    bytes: Vec<u8>,
}

proptest! {
    // The model is one queue in which the oldest droppable event is searched for.
    #[test]
    fn agrees_with_one_plain_queue(steps in steps(), start in prop_oneof![Just(0u32), Just(u32::MAX - 40)]) {
        let mut pool = Pool::default();
        let mut outbox = Outbox { next_sequence: start, ..Outbox::default() };
        let mut model = VecDeque::<Queued>::new();
        let (mut sent, mut sequence, mut gap) = (0usize, start, None::<u32>);
        for (number, step) in steps.into_iter().enumerate() {
            let byte = u8::try_from(number % 251).expect("below 251");
            match step {
                Step::Event(length) => loop {
                    let frames = model.iter().filter(|queued| queued.is_event).count();
                    let bytes: usize = model.iter().filter(|queued| queued.is_event).map(|queued| queued.bytes.len()).sum();
                    let fits = frames == 0 || (frames < 12 && bytes + length <= 400);
                    prop_assert_eq!(outbox.push_event(&mut pool, &frame(byte, length), &BOUNDS), fits);
                    if fits {
                        model.push_back(Queued { is_event: true, sequence, bytes: vec![byte; length] });
                        sequence = sequence.wrapping_add(1);
                        break;
                    }
                    let victim = (0..model.len()).find(|&place| model[place].is_event && (place > 0 || sent == 0));
                    let dropped = outbox.drop_oldest(&mut pool);
                    let expected = victim.and_then(|place| model.remove(place));
                    prop_assert_eq!(
                        dropped.as_ref().map(|(frame, sequence)| (frame.bytes.to_vec(), *sequence)),
                        expected.map(|queued| (queued.bytes, queued.sequence))
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
                Step::Reply(length) => {
                    let frames = model.iter().filter(|queued| !queued.is_event).count();
                    let bytes: usize = model.iter().filter(|queued| !queued.is_event).map(|queued| queued.bytes.len()).sum();
                    let fits = frames < 6 && (frames == 0 || bytes + length <= 200);
                    prop_assert_eq!(outbox.push_reply(&mut pool, frame(byte, length), &BOUNDS).is_ok(), fits);
                    if fits {
                        model.push_back(Queued { is_event: false, sequence, bytes: vec![byte; length] });
                        sequence = sequence.wrapping_add(1);
                    }
                }
                Step::Tell => if let Some(gap) = gap.take() {
                    outbox.push_at_gap(&mut pool, frame(byte, 3), gap);
                    let place = model.iter().position(|queued| !precedes(queued.sequence, gap)).unwrap_or(model.len());
                    let place = place.max(usize::from(sent > 0));
                    let behind = place.checked_sub(1).map_or(gap, |place| model[place].sequence.wrapping_add(1));
                    let sequence = if precedes(gap, behind) { behind } else { gap };
                    model.insert(place, Queued { is_event: false, sequence, bytes: vec![byte; 3] });
                },
                Step::Write(bytes) => {
                    let pending = written(&outbox, &pool).len();
                    let mut left = bytes.min(pending) + sent;
                    let finished = outbox.advance(&mut pool, bytes.min(pending));
                    let mut expected = 0;
                    while model.front().is_some_and(|queued| queued.bytes.len() <= left) {
                        left -= model.pop_front().map_or(0, |queued| queued.bytes.len());
                        expected += 1;
                    }
                    sent = left;
                    prop_assert_eq!(finished.frames, expected);
                }
                Step::Clear => {
                    outbox.clear(&mut pool);
                    model.clear();
                    (sent, gap) = (0, None);
                }
            }
            let expected: Vec<u8> = model.iter().flat_map(|queued| queued.bytes.clone()).skip(sent).collect();
            prop_assert_eq!(written(&outbox, &pool), expected);
            prop_assert_eq!(pool.used(), model.len());
            prop_assert_eq!(outbox.is_empty(), model.is_empty());
        }
    }
}
