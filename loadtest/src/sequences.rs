//! The state that decides what a client should receive: sequence numbers by channel, and its subscription.

use std::collections::VecDeque;

use crate::measured::Group;
use crate::protocol::Stamp;

/// The highest sequence number by channel; 0 before the first event.
#[derive(Debug)]
pub(crate) struct Sequences(Box<[u64]>);

impl Sequences {
    pub(crate) fn new(channels: usize) -> Self {
        Self(vec![0; channels].into())
    }

    /// Counts an event, and the gap between it and the previous one of its channel.
    pub(crate) fn count(&mut self, stamp: Stamp, group: &mut Group) {
        group.events += 1;
        let channel = usize::try_from(stamp.channel).unwrap_or(usize::MAX);
        let Some(last) = self.0.get_mut(channel) else { return };
        if stamp.sequence <= *last {
            group.out_of_order += 1;
        } else {
            // The first event may have any number, because a client may subscribe after publishing has begun.
            group.missing += if *last == 0 { 0 } else { stamp.sequence - *last - 1 };
            *last = stamp.sequence;
        }
    }

    /// Forgets the sequence numbers, so that events missed while not subscribed do not count as lost.
    pub(crate) fn restart(&mut self) {
        self.0.fill(0);
    }
}

/// The subscription of a client that unsubscribes and subscribes repeatedly. At most one request is in progress.
/// Requests that become due meanwhile are queued; their latency is measured from their due time.
#[derive(Debug, Default)]
pub(crate) struct Membership {
    is_unsubscribed: bool,
    pending_due_ns: Option<u64>,
    waiting: VecDeque<u64>,
}

impl Membership {
    pub(crate) fn push(&mut self, due_ns: u64) {
        self.waiting.push_back(due_ns);
    }

    /// Begins the next queued request if none is in progress. Returns whether it subscribes.
    pub(crate) fn begin_next(&mut self) -> Option<bool> {
        if self.pending_due_ns.is_none() {
            self.pending_due_ns = Some(self.waiting.pop_front()?);
            return Some(self.is_unsubscribed);
        }
        None
    }

    pub(crate) fn is_subscribing(&self) -> bool {
        self.is_unsubscribed
    }

    /// Ends the request in progress, successfully or not, and returns when it was due.
    pub(crate) fn answered(&mut self, is_success: bool) -> Option<u64> {
        let due_ns = self.pending_due_ns.take()?;
        self.is_unsubscribed ^= is_success;
        Some(due_ns)
    }

    /// Whether events may arrive: from the subscribe request until the server confirms the end of the subscription.
    pub(crate) fn may_receive(&self) -> bool {
        !self.is_unsubscribed || self.pending_due_ns.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_duplicates_and_late_events_are_counted_by_channel() {
        let (mut sequences, mut group) = (Sequences::new(2), Group::default());
        for (channel, sequence) in [(0, 7), (1, 1), (0, 8), (0, 11), (0, 9), (1, 1), (1, 2), (0, 12), (9, 5)] {
            let stamp = Stamp {
                channel,
                sequence,
                due_ns: 0,
            };
            sequences.count(stamp, &mut group);
        }
        // Channel 0 skips 9 and 10, then 9 arrives late. Channel 1 has a duplicate.
        assert_eq!((group.events, group.missing, group.out_of_order), (9, 2, 2));
    }

    #[test]
    fn requests_of_one_client_run_one_at_a_time_and_alternate() {
        let mut membership = Membership::default();
        assert_eq!(membership.begin_next(), None);
        membership.push(1);
        membership.push(2);
        assert_eq!(membership.begin_next(), Some(false));
        assert_eq!(membership.begin_next(), None, "one is in progress");
        assert!(membership.may_receive(), "events may come until the end is confirmed");
        assert_eq!(membership.answered(true), Some(1));
        assert!(!membership.may_receive());
        assert_eq!(membership.begin_next(), Some(true));
        assert!(membership.may_receive());
        assert_eq!(membership.answered(false), Some(2), "refused");
        assert!(!membership.may_receive());
        assert_eq!(membership.answered(true), None, "nothing was asked");
    }
}
