//! Restoring the state from the file.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::content::{Content, Stored, StoredEvent};
use super::{Loaded, Snapshot, unix_ms};
use crate::event::{Event, EventId, EventMeta, NewEvent, PublishOptions, Transit};
use crate::hub::{ChannelExport, Hub, IDS_RESTORED_MAX, RecordExport, STRIPES, StripeCounters, Tombstone};
use crate::time::Now;
use tickgate_protocol::channel::{Channel, Class};

impl Snapshot {
    /// Restores the file's content into the hub, and makes the hub note its changes from now on. The hub must be new and
    /// have this snapshot's epoch.
    pub fn load(&mut self, hub: &Hub, now: Now) -> Loaded {
        hub.track();
        // In a new epoch all versions grow by one, so that no floor is zero. A floor of zero would say that the history is
        // complete from the channel's beginning, although events may be lost. The shift also applies if the last run never
        // saved anything.
        let shift = u64::from(self.was_open);
        let content = std::mem::take(&mut self.content);
        let contents = content.count();
        let mut loaded = Loaded {
            channels: contents.channels,
            events: contents.events,
            was_open: self.was_open,
            unknown_tenants: BTreeMap::new(),
        };
        let counters = content.counters.map(|counters| StripeCounters {
            newest: counters.newest + shift,
            evicted: counters.evicted + shift,
            forgotten: counters.forgotten + shift,
        });
        // Before the channels, because channels that exceed the bounds are evicted at once, with new versions.
        restore_counters(hub, &counters);
        let Content {
            mut tombstones,
            channels,
            ids,
            ..
        } = content;
        tombstones.sort_unstable_by_key(|(version, ..)| *version);
        let tenants = &self.settings.tenants;
        for (version, _, stored) in tombstones {
            match stored.name.channel(tenants) {
                Ok(channel) => {
                    let latest = stored.latest + shift;
                    let floor = 0;
                    hub.restore_tombstone(version + shift, Tombstone { channel, latest, floor });
                }
                Err(tenant) => {
                    loaded.unknown_tenants.entry(tenant).or_default();
                }
            }
        }
        let mut is_moved = false;
        for stored in channels.into_values() {
            let channel = match stored.name.channel(tenants) {
                Ok(channel) => channel,
                Err(tenant) => {
                    *loaded.unknown_tenants.entry(tenant).or_default() += 1;
                    continue;
                }
            };
            let stripe = stored.stripe;
            let class = Arc::clone(hub.class_of(&channel));
            is_moved |= hub.restore(export(stored, channel, &class, shift, now), now) != stripe;
        }
        // What is dropped leaves the file with the next save, which must be complete for that.
        self.is_behind |= !loaded.unknown_tenants.is_empty();
        if is_moved || !loaded.unknown_tenants.is_empty() {
            // The channels are distributed over the stripes in another way than when the file was written, or some are
            // dropped, of which a client may have to be told when their tenant is back. So every counter must be at the
            // maximum.
            let newest = counters.iter().map(|counters| counters.newest).max();
            restore_counters(hub, &[StripeCounters::at(newest.unwrap_or_default()); STRIPES]);
        }
        let oldest_ms = now.unix_ms.saturating_sub(self.settings.dedup_window_ms);
        let mut ids: Vec<_> = ids.into_iter().filter(|id| id.noted_ms >= oldest_ms).collect();
        // Only the newest ids are restored, in the order of their age.
        ids.sort_unstable_by_key(|id| (id.noted_ms, id.stripe, id.id));
        for id in ids.drain(ids.len().saturating_sub(IDS_RESTORED_MAX)..) {
            // 0 stands for a channel without versions.
            let version = if id.version == 0 { 0 } else { id.version + shift };
            hub.restore_id(id.stripe, EventId(id.id.to_be_bytes()), version);
        }
        loaded
    }
}

fn restore_counters(hub: &Hub, all: &[StripeCounters; STRIPES]) {
    for (stripe, counters) in (0u8..).zip(all) {
        hub.restore_counters(stripe, *counters);
    }
}

fn export(stored: Stored, channel: Channel, class: &Arc<Class>, shift: u64, now: Now) -> ChannelExport {
    let Stored {
        floor,
        latest,
        fresh_until_ms,
        record_key,
        last,
        events,
        records,
        ..
    } = stored;
    let age_ms = |at_unix_ms: i64| unix_ms(now).saturating_sub(at_unix_ms);
    // 0: the last value did not end by itself when it was written.
    let last_at_ms = last.as_ref().map(|last| last.at_unix_ms).filter(|at_ms| *at_ms != 0);
    let event = |stored: StoredEvent| {
        let new = NewEvent {
            channel: channel.clone(),
            name: stored.name,
            data: stored.data,
            timestamp_ms: stored.timestamp_ms,
            options: PublishOptions::default(),
        };
        let version = stored.version + shift;
        let meta = EventMeta {
            offset: class.history.map(|_| version),
            version,
            class: Arc::clone(class),
        };
        Arc::new(Event::in_transit(new, meta, Transit::default()))
    };
    let record = |stored: super::content::StoredRecord| RecordExport {
        name: stored.name.into(),
        raw: stored.raw.into(),
        version: stored.version + shift,
        index: stored.index,
    };
    ChannelExport {
        floor: floor + shift,
        latest: latest + shift,
        last: last.map(event),
        last_age_ms: last_at_ms.map(age_ms),
        fresh_ms: fresh_until_ms.map(|until_ms| until_ms.saturating_sub(unix_ms(now))),
        events: (events.into_iter())
            .map(|stored| {
                let age_ms = age_ms(stored.at_unix_ms);
                (event(stored), age_ms)
            })
            .collect(),
        records: records.into_iter().map(record).collect(),
        record_key,
        restarted: true,
        channel: channel.clone(),
    }
}
