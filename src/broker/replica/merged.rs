//! Handing merged values over to gateways that read the log back later: the log does not keep all events that brought them.
//!
//! Invariant: a value that has changed is handed over soon after, and again if it is not known whether the broker has stored it.
//! The gateway that published the events does it. One that has read events back which no value contained does it as well, since
//! their publisher may have ended before it could.

use std::time::{Duration, Instant};

use bytes::Bytes;
use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::Replica;
use crate::broker::merged::{Decoded, decode, encode};
use crate::broker::message::Problem;
use crate::broker::terms::Table;
use crate::hub::Merged;
use tickgate_protocol::channel::Channel;

/// How long after an event its channel's value is handed over, if there were not many events before.
const AFTER: Duration = Duration::from_secs(2);

/// The log keeps so many times as many events of a channel as may come before its value is handed over. So that many gateways
/// may publish to it.
const IN_LOG: u64 = 64;

/// About so many bytes of values are handed over in a second; more wait.
const BYTES_PER_SECOND: usize = 4 << 20;

/// Which merged values have changed.
#[derive(Debug, Default)]
pub(in crate::broker) struct Merging {
    changed: HashMap<Channel, Changed, RandomState>,
    // Values that are on their way, by number.
    sent: HashMap<u64, Channel, RandomState>,
    next: u64,
}

#[derive(Clone, Copy, Debug)]
struct Changed {
    since: Instant,
    events: u64,
}

/// A merged value that is to be stored.
pub(in crate::broker) struct Value {
    /// Its number. See [`Replica::value_answered`].
    pub(in crate::broker) number: u64,
    pub(in crate::broker) channel: Channel,
    pub(in crate::broker) payload: Bytes,
}

impl Merging {
    /// Notes an event. Returns whether the channel had `every` of them.
    fn note(&mut self, channel: &Channel, every: u64, now: Instant) -> bool {
        if let Some(changed) = self.changed.get_mut(channel) {
            changed.events += 1;
            return changed.events >= every;
        }
        let changed = Changed { since: now, events: 1 };
        self.changed.insert(channel.clone(), changed);
        every <= 1
    }

    /// The channels whose value is due, the oldest change first.
    fn due(&self, now: Instant) -> Vec<Channel> {
        let is_due = |changed: &Changed| now.saturating_duration_since(changed.since) >= AFTER;
        let due = self.changed.iter().filter(|(_, changed)| is_due(changed));
        let mut due: Vec<_> = due.map(|(channel, changed)| (changed.since, channel)).collect();
        due.sort_unstable_by_key(|(since, _)| *since);
        due.into_iter().map(|(_, channel)| channel.clone()).collect()
    }

    fn send(&mut self, channel: &Channel) -> u64 {
        self.changed.remove(channel);
        self.next += 1;
        self.sent.insert(self.next, channel.clone());
        self.next
    }

    /// A value that may not be stored is handed over again.
    fn not_stored(&mut self, channel: Channel, now: Instant) {
        let changed = Changed { since: now, events: 1 };
        self.changed.entry(channel).or_insert(changed);
    }
}

impl Replica {
    /// Notes an event of a channel whose value is merged. Returns whether the value is to be handed over now.
    pub(super) fn note_merged(&self, channel: &Channel) -> bool {
        let every = (self.membership.events_per_channel / IN_LOG).max(8);
        self.merging.lock().note(channel, every, Instant::now())
    }

    /// Gives the values that are due to `store`.
    pub(in crate::broker) fn hand_over(&self, bytes_max: usize, mut store: impl FnMut(Value)) {
        let due = self.merging.lock().due(Instant::now());
        let mut bytes = 0;
        for channel in due {
            if bytes >= BYTES_PER_SECOND {
                break;
            }
            if let Some(value) = self.value(&channel, bytes_max) {
                bytes += value.payload.len();
                store(value);
            }
        }
    }

    /// The merged value of a channel in at most `bytes_max` bytes; `None`: there is none any more.
    pub(in crate::broker) fn value(&self, channel: &Channel, bytes_max: usize) -> Option<Value> {
        // Before the value is read: an event that comes in between is noted again.
        let number = self.merging.lock().send(channel);
        let Some(merged) = self.hub.merged(channel) else {
            self.merging.lock().sent.remove(&number);
            return None;
        };
        let (payload, is_too_large) = encode(&merged, self.hub.epoch(), bytes_max);
        if is_too_large {
            self.metrics.merged_too_large.add(1);
            tracing::warn!(
                channel = channel.as_str(),
                bytes_max,
                "a merged value is too large for one message of the broker: on a gateway that starts later it may be incomplete"
            );
        }
        Some(Value {
            number,
            channel: merged.channel,
            payload,
        })
    }

    /// The value with this number is stored, or the broker refuses it: then it is handed over after the next event.
    pub(in crate::broker) fn value_answered(&self, number: u64, is_stored: bool) {
        let was_sent = self.merging.lock().sent.remove(&number).is_some();
        if was_sent && is_stored {
            self.metrics.merged.add(1);
        }
    }

    /// The session is over: whether the values that were on their way are stored is not known.
    pub(in crate::broker) fn values_lost(&self) {
        let mut merging = self.merging.lock();
        let (sent, now) = (std::mem::take(&mut merging.sent), Instant::now());
        for (_, channel) in sent {
            merging.not_stored(channel, now);
        }
    }

    /// Reads a merged value of the log that has this table. `None`: it is skipped.
    pub(in crate::broker) fn read_merged(&self, (name, payload): (&str, &[u8]), table: &Table) -> Option<Merged> {
        let channel = self.decoder.channel(name).ok_or(Problem::Name);
        let Decoded {
            epoch,
            merged,
            is_too_large,
        } = match channel.and_then(|channel| decode(channel, payload)) {
            Ok(decoded) => decoded,
            Err(problem) => {
                self.skip(problem, name);
                return None;
            }
        };
        let is_lost = |version| table.lost().iter().any(|lost| lost.contains(&version));
        if epoch.0 != table.epoch || is_lost(merged.version) {
            // Of a log that does not exist any more.
            return None;
        }
        if is_too_large {
            tracing::warn!(
                channel = merged.channel.as_str(),
                "the merged value was too large for the broker: it may be incomplete until all of it is published again"
            );
            return None;
        }
        Some(merged)
    }

    /// Restores a merged value that the broker stored at `stored_ms`, before the log is read back.
    pub(in crate::broker) fn restore_merged(&self, merged: Merged, stored_ms: u64) -> bool {
        let now = self.clock.now();
        let age_ms = self.position.lock().age_ms(stored_ms, now);
        self.hub.restore_merged(merged, now, age_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(name: &str) -> Channel {
        Channel::parse(name).expect("valid")
    }

    #[test]
    fn a_value_is_due_after_a_while_or_after_many_events_until_it_is_stored() {
        let (mut merging, start) = (Merging::default(), Instant::now());
        let (a, b) = (channel("rows.a"), channel("rows.b"));
        let later = start + AFTER / 2;
        assert!(!merging.note(&a, 3, start) && !merging.note(&b, 3, later));
        assert!(merging.due(later).is_empty());
        assert_eq!(merging.due(start + AFTER), std::slice::from_ref(&a));
        assert_eq!(merging.due(later + AFTER), [a.clone(), b.clone()]);
        assert!(!merging.note(&a, 3, later) && merging.note(&a, 3, later));
        let number = merging.send(&a);
        assert_eq!(merging.due(later + AFTER), [b]);
        let unsent = merging.sent.remove(&number).expect("on its way");
        merging.not_stored(unsent, later);
        assert!(merging.due(later + AFTER).contains(&a));
        assert!(merging.note(&channel("rows.c"), 1, start));
    }
}
