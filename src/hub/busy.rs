//! Which channels get the most events, estimated from a sample of what is published.
//!
//! Invariant: every published event is noted with the same chance, one in [`SAMPLED`], in whatever order channels are
//! published to, because the gaps between noted events are random. A stripe keeps at most [`NOTES_MAX`] notes.

use std::collections::{HashMap, VecDeque};

use super::Hub;
use crate::time::Now;
use tickgate_protocol::channel::{Channel, Tenant};

/// One event in so many is noted.
const SAMPLED: u32 = 32;

/// Notes of one stripe. Then the error of a channel that gets half of a stripe's events is below a tenth.
const NOTES_MAX: usize = 256;

/// Older notes do not count.
const WINDOW_MS: u64 = 5 * 60_000;

/// How much is published to a channel, as an estimate.
#[derive(Clone, Debug, PartialEq)]
pub struct BusyChannel {
    /// The channel.
    pub channel: Channel,
    /// Events per second.
    pub events_per_s: f64,
    /// Bytes of their data per second.
    pub bytes_per_s: f64,
}

struct Note {
    channel: Channel,
    bytes: u32,
    at_ms: u64,
}

/// The notes of one stripe.
pub(super) struct Notes {
    notes: VecDeque<Note>,
    // Events up to the next note, that one included.
    gap: u32,
    // The state of a xorshift generator, which is never 0.
    random: u32,
    // Notes from before this time may be gone.
    since_ms: u64,
}

impl Default for Notes {
    fn default() -> Self {
        Self {
            notes: VecDeque::new(),
            gap: SAMPLED,
            random: 0x9e37_79b9,
            since_ms: 0,
        }
    }
}

impl Notes {
    /// Counts a published event with `bytes` of data.
    #[inline]
    pub(super) fn count(&mut self, channel: &Channel, bytes: usize, now: Now) {
        self.gap -= 1;
        if self.gap == 0 {
            self.note(channel, bytes, now);
        }
    }

    #[cold]
    fn note(&mut self, channel: &Channel, bytes: usize, now: Now) {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        // 1 to 63, whose mean is 32.
        self.gap = 1 + self.random % (2 * SAMPLED - 1);
        if self.notes.len() == NOTES_MAX {
            self.since_ms = self.notes.pop_front().map_or(0, |note| note.at_ms);
        }
        self.notes.push_back(Note {
            channel: channel.clone(),
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
            at_ms: now.mono_ms,
        });
    }

    /// What is published to each channel of a tenant.
    fn rates(&self, tenant: Tenant, now: Now) -> impl Iterator<Item = BusyChannel> {
        let since_ms = self.since_ms.max(now.mono_ms.saturating_sub(WINDOW_MS));
        let mut counts = HashMap::<Channel, (f64, f64)>::new();
        let recent = self.notes.iter().filter(|note| note.at_ms >= since_ms);
        for note in recent.filter(|note| note.channel.tenant() == tenant) {
            let (events, bytes) = counts.entry(note.channel.clone()).or_default();
            *events += f64::from(SAMPLED);
            *bytes += f64::from(SAMPLED) * f64::from(note.bytes);
        }
        // Of the first moments a rate would say little. Where notes are full, they are many, however short the time is.
        let least_ms = if self.since_ms == 0 { 1000 } else { 1 };
        let ms = now.mono_ms.saturating_sub(since_ms).clamp(least_ms, WINDOW_MS);
        let seconds = f64::from(u32::try_from(ms).unwrap_or(u32::MAX)) / 1000.0;
        counts.into_iter().map(move |(channel, (events, bytes))| BusyChannel {
            channel,
            events_per_s: events / seconds,
            bytes_per_s: bytes / seconds,
        })
    }
}

impl Hub {
    /// At most `limit` channels of a tenant that get the most events, the busiest first.
    #[must_use]
    pub fn busiest(&self, tenant: Tenant, limit: usize, now: Now) -> Vec<BusyChannel> {
        let mut found = Vec::new();
        for stripe in &self.stripes {
            found.extend(stripe.lock().notes.rates(tenant, now));
        }
        found.sort_by(|a, b| {
            let by_rate = b.events_per_s.total_cmp(&a.events_per_s);
            by_rate.then_with(|| a.channel.cmp(&b.channel))
        });
        found.truncate(limit);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Now {
        Now {
            mono_ms: ms,
            unix_ms: ms,
        }
    }

    fn channel(n: usize) -> Channel {
        Channel::parse(&format!("market.{n}.price")).expect("valid")
    }

    fn rate(notes: &Notes, n: usize, now: Now) -> f64 {
        let mut rates = notes.rates(channel(n).tenant(), now);
        rates
            .find(|busy| busy.channel == channel(n))
            .map_or(0.0, |busy| busy.events_per_s)
    }

    /// A sample of every 32nd event would only see one channel of these.
    #[test]
    fn channels_in_turn_are_noted_alike() {
        let mut notes = Notes::default();
        for n in 0..32 * 1000 {
            notes.count(&channel(n % 32), 100, at(n as u64));
        }
        // Each gets 31 of the 1000 events of a second. The notes are those of the last 8 seconds.
        let now = at(32 * 1000);
        let seen = (0..32).filter(|n| rate(&notes, *n, now) > 0.0).count();
        assert!(seen > 28, "{seen} of 32 channels");
        let total: f64 = (0..32).map(|n| rate(&notes, n, now)).sum();
        assert!((900.0..1100.0).contains(&total), "{total}");
    }

    #[test]
    fn a_channel_may_fill_the_notes_in_less_than_a_second() {
        let mut notes = Notes::default();
        for n in 0..40_000 {
            notes.count(&channel(0), 100, at(1_000 + n / 40));
        }
        let seen = rate(&notes, 0, at(2_000));
        assert!((36_000.0..44_000.0).contains(&seen), "{seen} of 40,000");
    }

    #[test]
    fn a_rate_is_that_of_the_last_minutes() {
        let mut notes = Notes::default();
        for second in 0..600 {
            let events = if second < 300 { 30 } else { 10 };
            (0..events).for_each(|_| notes.count(&channel(0), 100, at(second * 1000)));
            (0..3).for_each(|_| notes.count(&channel(1), 1000, at(second * 1000)));
        }
        let now = at(600_000);
        let (many, few) = (rate(&notes, 0, now), rate(&notes, 1, now));
        assert!((8.0..12.0).contains(&many), "{many}");
        assert!((1.5..5.0).contains(&few), "{few}");
        assert!(notes.rates(Tenant::new(1).expect("few"), now).next().is_none());
        // Nothing was published for longer than the window.
        assert!(notes.rates(channel(0).tenant(), at(1_000_000)).next().is_none());
    }
}
