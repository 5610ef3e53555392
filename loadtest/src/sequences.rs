//! What one client should have received: sequence numbers by channel, and whether it is subscribed.

use std::collections::VecDeque;

use crate::measured::Group;
use crate::protocol::Stamp;

/// Last sequence number by channel; 0: none yet.
#[derive(Debug)]
pub(crate) struct Sequences(Box<[u64]>);

impl Sequences {
    pub(crate) fn new(channels: usize) -> Self {
        Self(vec![0; channels].into())
    }

    /// Counts an event, and what lies between it and the last one of its channel.
    pub(crate) fn count(&mut self, stamp: Stamp, group: &mut Group) {
        group.events += 1;
        let channel = usize::try_from(stamp.channel).unwrap_or(usize::MAX);
        let Some(last) = self.0.get_mut(channel) else { return };
        if stamp.sequence <= *last {
            group.out_of_order += 1;
        } else {
            // The first event of a channel may have any number: the client may have come later than others.
            group.missing += if *last == 0 { 0 } else { stamp.sequence - *last - 1 };
            *last = stamp.sequence;
        }
    }

    /// The client was not subscribed for a while: what it has missed meanwhile is no loss.
    pub(crate) fn restart(&mut self) {
        self.0.fill(0);
    }
}

/// Whether a client that comes and goes is subscribed. At most one of its requests is under way; those that become due
/// meanwhile wait, and count from when they were due.
#[derive(Debug, Default)]
pub(crate) struct Membership {
    is_away: bool,
    asked_due_ns: Option<u64>,
    waiting: VecDeque<u64>,
}

impl Membership {
    pub(crate) fn wants(&mut self, due_ns: u64) {
        self.waiting.push_back(due_ns);
    }

    /// Begins the next request, if one waits and none is under way: whether it subscribes.
    pub(crate) fn ask(&mut self) -> Option<bool> {
        if self.asked_due_ns.is_none() {
            self.asked_due_ns = Some(self.waiting.pop_front()?);
            return Some(self.is_away);
        }
        None
    }

    pub(crate) fn asks_to_subscribe(&self) -> bool {
        self.is_away
    }

    /// The request under way was answered; when it had been due.
    pub(crate) fn answered(&mut self, is_granted: bool) -> Option<u64> {
        let due_ns = self.asked_due_ns.take()?;
        self.is_away ^= is_granted;
        Some(due_ns)
    }

    /// Whether events may come: until the end of the subscription is confirmed, and as soon as a new one is asked for.
    pub(crate) fn is_held(&self) -> bool {
        !self.is_away || self.asked_due_ns.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_doubles_and_late_events_are_seen_by_channel() {
        let (mut sequences, mut group) = (Sequences::new(2), Group::default());
        for (channel, sequence) in [(0, 7), (1, 1), (0, 8), (0, 11), (0, 9), (1, 1), (1, 2), (0, 12), (9, 5)] {
            let stamp = Stamp {
                channel,
                sequence,
                due_ns: 0,
            };
            sequences.count(stamp, &mut group);
        }
        // Channel 0 skips 9 and 10, then 9 comes late; channel 1 has a double.
        assert_eq!((group.events, group.missing, group.out_of_order), (9, 2, 2));
    }

    #[test]
    fn requests_of_one_client_wait_for_each_other_and_alternate() {
        let mut membership = Membership::default();
        assert_eq!(membership.ask(), None);
        membership.wants(1);
        membership.wants(2);
        assert_eq!(membership.ask(), Some(false));
        assert_eq!(membership.ask(), None, "one is under way");
        assert!(membership.is_held(), "events may come until the end is confirmed");
        assert_eq!(membership.answered(true), Some(1));
        assert!(!membership.is_held());
        assert_eq!(membership.ask(), Some(true));
        assert!(membership.is_held());
        assert_eq!(membership.answered(false), Some(2), "refused");
        assert!(!membership.is_held());
        assert_eq!(membership.answered(true), None, "nothing was asked");
    }
}
