//! The newest values of channels, kept until the period ends in which they came.
//!
//! A channel runs in a group while the group's clients got an update of it within the last period. A value of a channel that
//! does not run is sent at once, and the channel runs from then on. A value of a channel that runs waits, and a newer one
//! replaces it. When the group's period ends, what waits is sent.
//!
//! Invariants: a value that waits is the newest that was taken out of the inbox, and is sent when the current period of the
//! group ends. In any `n` periods, a group gets at most `n + 1` updates of a channel. Every channel in here runs in some
//! group. The work of the end of a period is taken in steps, so its bound is the caller's.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use slab::Slab;

use super::pace::{Group, Groups};
use crate::event::Event;
use crate::hub::Popped;
use tickgate_protocol::channel::Channel;

/// Memory for this many channels is kept when there are fewer.
const KEPT: usize = 1024;

/// The channels that run in some group; see the module's docs.
#[derive(Default)]
pub(super) struct Paced {
    channels: Slab<Running>,
    by_channel: HashMap<Channel, u32, RandomState>,
    groups: Box<[Members; Group::COUNT]>,
    // The groups that have a period.
    active: Groups,
    // The periods whose end is being carried out.
    ends: VecDeque<End>,
    // What groups have of channels with merged records.
    merged: HashMap<(u32, Group), Merged, RandomState>,
}

struct Running {
    newest: Popped,
    // In which groups the channel runs.
    groups: Groups,
    // In which of them it was sent before the end of the period, so that it runs for the next one, too.
    sent: Groups,
    // In which of them a value waits for all clients.
    waits: Groups,
    // In which of them a value waits for the clients that are in their first period.
    owed: Groups,
}

#[derive(Default)]
struct Members {
    channels: Vec<u32>,
    ends_ms: u64,
}

struct End {
    group: Group,
    // The channels that are still to be looked at.
    channels: Vec<u32>,
}

/// What a group has of a channel with merged records.
#[derive(Clone, Copy, Debug, Default)]
struct Merged {
    // The version that the group's clients have; `None`: nothing waits.
    above: Option<u64>,
    // The state was read from the hub when the inbox ended here: earlier events are in it.
    read_at: u64,
}

/// What became of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Noted {
    /// The groups that get it at once.
    pub(super) at_once: Groups,
    /// The groups in which it replaces a value that waited.
    pub(super) replaced: Groups,
}

/// A value that is due, because the period of its group has ended.
pub(super) struct Due {
    /// The group.
    pub(super) group: Group,
    /// The newest event of the channel.
    pub(super) newest: Popped,
    /// Whether all clients of the group get it, or only those that are in their first period.
    pub(super) is_for_all: bool,
    /// For merged records: the version that the clients of the group have.
    pub(super) above: Option<u64>,
}

/// The next step of the end of a period.
pub(super) enum Step {
    /// A value is due.
    Due(Due),
    /// The period of this group has ended.
    Ended(Group),
}

impl Running {
    fn waits(&self) -> Groups {
        self.waits.or(self.owed)
    }
}

impl Paced {
    /// Takes in an event of a channel that these groups want.
    pub(super) fn note(&mut self, event: &Popped, groups: Groups, now_ms: u64) -> Noted {
        let number = self.number_of(event);
        let running = &mut self.channels[number as usize];
        running.newest = share(event);
        let mut waiting = groups.and(running.groups);
        if event.event.class.merges() {
            for group in waiting.iter() {
                let merged = self.merged.entry((number, group)).or_default();
                if event.index < merged.read_at {
                    waiting.remove(group);
                } else if merged.above.is_none() {
                    merged.above = Some(event.event.version.saturating_sub(1));
                }
            }
        }
        let replaced = running.waits.and(waiting);
        running.waits = running.waits.or(waiting);
        let at_once = groups.without(running.groups);
        running.sent = running.sent.or(at_once);
        running.groups = running.groups.or(at_once);
        for group in at_once.iter() {
            self.groups[group.index()].channels.push(number);
            self.begin(group, now_ms);
        }
        Noted { at_once, replaced }
    }

    fn number_of(&mut self, event: &Popped) -> u32 {
        let channel = &event.event.channel;
        if let Some(number) = self.by_channel.get(channel) {
            return *number;
        }
        let running = Running {
            newest: share(event),
            groups: Groups::NONE,
            sent: Groups::NONE,
            waits: Groups::NONE,
            owed: Groups::NONE,
        };
        let number = u32::try_from(self.channels.insert(running)).expect("fewer than 2^32 channels");
        self.by_channel.insert(channel.clone(), number);
        number
    }

    /// A value that this group got at once is owed to its clients that are in their first period.
    pub(super) fn owe(&mut self, channel: &Channel, group: Group) {
        let Some(number) = self.by_channel.get(channel).copied() else {
            return;
        };
        let running = &mut self.channels[number as usize];
        running.owed.insert(group);
        if running.newest.event.class.merges() {
            let merged = self.merged.entry((number, group)).or_default();
            let above = running.newest.event.version.saturating_sub(1);
            merged.above.get_or_insert(above);
        }
    }

    /// Lets the group's current period end, even if no channel runs in it.
    pub(super) fn begin(&mut self, group: Group, now_ms: u64) {
        if !self.active.contains(group) {
            self.active.insert(group);
            self.groups[group.index()].ends_ms = group.period_end_ms(now_ms);
        }
    }

    /// When the next period ends, in monotonic milliseconds.
    pub(super) fn next_end_ms(&self) -> Option<u64> {
        self.active.iter().map(|group| self.groups[group.index()].ends_ms).min()
    }

    /// Whether the end of a period is being carried out.
    pub(super) fn is_ending(&self) -> bool {
        !self.ends.is_empty()
    }

    /// Ends the periods whose time has come. [`Paced::next`] has the steps.
    pub(super) fn end_periods(&mut self, now_ms: u64) {
        for group in self.active.iter() {
            let members = &mut self.groups[group.index()];
            // The end of an earlier period may not be done yet. Then this one ends with the next.
            if members.ends_ms <= now_ms && !self.ends.iter().any(|end| end.group == group) {
                members.ends_ms = group.period_end_ms(now_ms);
                let mut channels = mem::take(&mut members.channels);
                // The oldest first.
                channels.reverse();
                self.ends.push_back(End { group, channels });
            }
        }
    }

    /// Takes the next step of the periods that have ended.
    pub(super) fn next(&mut self) -> Option<Step> {
        if let Some(due) = self.next_due_if(|_, _| true) {
            return Some(Step::Due(due));
        }
        let group = self.ends.pop_front()?.group;
        if self.groups[group.index()].channels.is_empty() {
            self.active.remove(group);
        }
        Some(Step::Ended(group))
    }

    /// Takes the next value that is due in the first of the groups, if `is_wanted`: called with the newest event and whether
    /// it is for all clients. Channels without a value to send are passed.
    pub(super) fn next_due_if(&mut self, is_wanted: impl FnOnce(&Event, bool) -> bool) -> Option<Due> {
        let end = self.ends.front_mut()?;
        let group = end.group;
        while let Some(&number) = end.channels.last() {
            let running = &mut self.channels[number as usize];
            if running.waits().contains(group) {
                let is_for_all = running.waits.contains(group);
                if !is_wanted(&running.newest.event, is_for_all) {
                    return None;
                }
                end.channels.pop();
                running.waits.remove(group);
                running.owed.remove(group);
                running.sent.remove(group);
                self.groups[group.index()].channels.push(number);
                let merged = self.merged.get_mut(&(number, group));
                return Some(Due {
                    group,
                    newest: share(&running.newest),
                    is_for_all,
                    above: merged.and_then(|merged| merged.above.take()),
                });
            }
            end.channels.pop();
            if running.sent.contains(group) {
                running.sent.remove(group);
                self.groups[group.index()].channels.push(number);
                continue;
            }
            running.groups.remove(group);
            self.merged.remove(&(number, group));
            if running.groups.is_empty() {
                let Running { newest, .. } = self.channels.remove(number as usize);
                self.by_channel.remove(&newest.event.channel);
            }
        }
        self.shrink();
        None
    }

    // Many channels may have run for a moment.
    fn shrink(&mut self) {
        if self.by_channel.capacity() / 8 > self.by_channel.len().max(KEPT / 8) {
            self.by_channel.shrink_to(KEPT.max(2 * self.by_channel.len()));
            self.channels.shrink_to_fit();
        }
    }

    /// The merged records of a channel were read from the hub for a group, while the inbox ended at `at`.
    pub(super) fn note_read(&mut self, channel: &Channel, group: Group, at: u64) {
        if let Some(number) = self.by_channel.get(channel) {
            self.merged.entry((*number, group)).or_default().read_at = at;
        }
    }

    /// Whether a value of the channel waits in a group, for all clients or, if `is_fresh`, for those in their first period.
    pub(super) fn waits(&self, channel: &Channel, group: Group, is_fresh: bool) -> bool {
        let running = self
            .by_channel
            .get(channel)
            .map(|number| &self.channels[*number as usize]);
        running.is_some_and(|running| running.waits.contains(group) || is_fresh && running.owed.contains(group))
    }

    /// The newest event of a channel, if it runs in some group.
    pub(super) fn newest(&self, channel: &Channel) -> Option<&Popped> {
        let number = self.by_channel.get(channel)?;
        Some(&self.channels[*number as usize].newest)
    }

    /// The channels of which a value waits in one of these groups, with their newest events, and how many channels were
    /// looked at.
    pub(super) fn waiting(&self, groups: Groups) -> (Vec<Waiting>, usize) {
        let mut found = Vec::new();
        let mut looked = 0;
        for group in groups.and(self.active).iter() {
            let ends = self.ends.iter().filter(|end| end.group == group);
            let members = ends
                .map(|end| &end.channels)
                .chain([&self.groups[group.index()].channels]);
            for number in members.flatten() {
                looked += 1;
                let running = &self.channels[*number as usize];
                if running.waits().contains(group) {
                    let merged = self.merged.get(&(*number, group));
                    found.push(Waiting {
                        group,
                        newest: share(&running.newest),
                        is_for_all: running.waits.contains(group),
                        above: merged.and_then(|merged| merged.above),
                    });
                }
            }
        }
        (found, looked)
    }
}

/// A value that waits.
pub(super) type Waiting = Due;

fn share(event: &Popped) -> Popped {
    Popped {
        index: event.index,
        stripe: event.stripe,
        event: Arc::clone(&event.event),
    }
}

#[cfg(test)]
mod tests;
