//! A shard reads a page of a channel while publishers publish. The page and the live events from its position on must meet
//! exactly.

use shuttle::thread;

use super::super::rig::*;
use super::{holds, is_found, publish};
use crate::hub::Since;
use crate::time::Now;

const PUBLISHERS: u64 = 2;
const EVENTS_EACH: u64 = 3;

fn reads(since: Since, rule: Rule) {
    let (hub, mut inboxes) = hub(64, 1, NO_FRAME);
    let mut inbox = inboxes.pop().expect("one");
    inbox.join(&pattern("kept.a.b"));
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|_| {
            let hub = hub.clone();
            thread::spawn(move || {
                for number in 0..EVENTS_EACH {
                    publish(&hub, event("kept.a.b", number));
                }
            })
        })
        .collect();
    // An event that is popped before the page is read is also in the page.
    inbox.pop();
    let channel = channel("kept.a.b");
    plant(&inbox, rule, |_| ());
    let page = inbox.read(&channel, since, NO_LIMIT, Now::default());
    assert!(!page.more && !page.overtaken);
    let mut last = page.last;
    let mut take = || {
        while let Some(popped) = inbox.pop() {
            if popped.index < page.at {
                continue;
            }
            let version = popped.event.version;
            assert!(version > last, "a duplicate: {version} after {last}");
            assert!(version == last + 1, "a gap: {version} after {last}");
            last = version;
        }
    };
    take();
    for publisher in publishers {
        publisher.join().expect("no panic");
    }
    take();
    assert_eq!(last, PUBLISHERS * EVENTS_EACH, "a gap at the end");
}

#[test]
fn a_page_and_the_live_events_from_its_position_on_meet_exactly() {
    holds(|| reads(Since::After(0), Rule::UnderLock));
    holds(|| reads(Since::Newest { above: 0 }, Rule::UnderLock));
}

#[test]
fn a_position_that_is_read_after_the_unlock_is_found() {
    is_found("a gap", || reads(Since::After(0), Rule::AfterUnlock));
}

#[test]
fn a_page_without_a_position_is_found() {
    is_found("a duplicate", || reads(Since::After(0), Rule::Nowhere));
}
