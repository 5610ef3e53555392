//! From the log into the hub.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Position, Replica};
use crate::broker::message::{Decoded, Problem, Source};
use crate::event::Refusal;
use crate::hub::{Credit, Receipt, Stamp, Wakes};
use tickgate_protocol::channel::{Channel, Tenant};

/// An event that is applied later than this comes to a gateway that was stopped, in milliseconds. A merged value that it was
/// about to hand over may take the place of a newer one.
const LATE_MS: u64 = 1000;

/// The place of a message in the log.
#[derive(Clone, Copy, Debug)]
pub(in crate::broker) struct Place {
    /// Its number.
    pub(in crate::broker) sequence: u64,
    /// When the broker stored it, in Unix milliseconds.
    pub(in crate::broker) stored_ms: u64,
    /// Whether the log is read back into a hub that began empty.
    pub(in crate::broker) is_replayed: bool,
}

impl Replica {
    async fn credit(&self, bytes: usize, wakes: &mut Wakes) -> Credit<'_> {
        match self.hub.credit_now(Tenant::DEFAULT, bytes) {
            Some(credit) => credit,
            None => {
                self.hub.wake(std::mem::take(wakes));
                self.hub.credit(Tenant::DEFAULT, bytes).await
            }
        }
    }

    /// Applies an event of a channel that keeps state. `hand_over` stores the merged value of the channel, if it is due.
    pub(in crate::broker) async fn apply_kept(
        &self,
        place: Place,
        (name, payload): (&str, &Bytes),
        wakes: &mut Wakes,
        hand_over: impl FnOnce(&Channel),
    ) {
        let decoded = self.decoder.decode(name, payload);
        let credit = self.credit(payload.len(), wakes).await;
        let now = self.clock.now();
        let mut position = self.position.lock();
        position.applied = place.sequence;
        let version = position.table.as_ref().and_then(|table| table.version(place.sequence));
        let age_ms = position.age_ms(place.stored_ms, now);
        let is_late = (decoded.as_ref()).is_ok_and(|decoded| position.is_fenced_off(0, decoded.fence));
        drop(position);
        let is_replayed = place.is_replayed;
        match (decoded, version) {
            (Ok(Decoded { event, source, .. }), _) if is_late => self.drop_late(&event.channel, source),
            (Ok(Decoded { event, source, fence }), Some(version)) => {
                let is_own = source.gateway == self.gateway;
                let hands_over = is_own || is_replayed || age_ms > LATE_MS;
                let merges = hands_over && self.hub.class_of(&event.channel).merges();
                let merged = merges.then(|| event.channel.clone());
                let stamp = Stamp {
                    version,
                    age_ms,
                    is_replayed,
                };
                if fence.is_none() && !is_replayed {
                    (self.applied)(&event.channel);
                }
                let receipt = self.hub.apply(event, stamp, now, credit, wakes);
                self.metrics.applied_log.add(1);
                self.metrics.delay_ms.store(age_ms, Ordering::Relaxed);
                // The restored value of its channel contains the event.
                let is_known = receipt.duplicate;
                if is_own {
                    let receipt = Receipt {
                        duplicate: false,
                        ..receipt
                    };
                    self.pending.finish(source.number, Ok(receipt), Instant::now());
                }
                if let Some(channel) = merged.filter(|_| !is_known)
                    && self.note_merged(&channel)
                    && !is_replayed
                {
                    hand_over(&channel);
                }
            }
            (Err(problem), _) => self.skip(problem, name),
            // Older than all terms: no client can have a position there.
            (Ok(_), None) => {}
        }
    }

    /// Applies an event of a channel that keeps no state. `note` moves the position of its stream.
    pub(in crate::broker) async fn apply_plain(
        &self,
        stored_ms: u64,
        (name, payload): (&str, &Bytes),
        wakes: &mut Wakes,
        note: impl FnOnce(&mut Position),
    ) {
        let decoded = self.decoder.decode(name, payload);
        let credit = self.credit(payload.len(), wakes).await;
        let now = self.clock.now();
        let (age_ms, is_late) = {
            let mut position = self.position.lock();
            note(&mut position);
            let fence = decoded.as_ref().map_or(None, |decoded| decoded.fence);
            (position.age_ms(stored_ms, now), position.is_fenced_off(1, fence))
        };
        let is_kept = |channel| self.hub.class_of(channel).keeps_state();
        match decoded {
            Ok(Decoded { event, .. }) if is_kept(&event.channel) => self.skip(Problem::Lane, name),
            Ok(Decoded { event, source, .. }) if is_late => self.drop_late(&event.channel, source),
            Ok(Decoded { event, source, fence }) => {
                if fence.is_none() {
                    (self.applied)(&event.channel);
                }
                let receipt = self.hub.apply(event, Stamp::default(), now, credit, wakes);
                self.metrics.applied_plain.add(1);
                self.metrics.plain_delay_ms.store(age_ms, Ordering::Relaxed);
                if source.gateway == self.gateway {
                    self.pending.finish(source.number, Ok(receipt), Instant::now());
                }
            }
            Err(problem) => self.skip(problem, name),
        }
    }

    /// Drops an event of a gateway that did not have the duties any more when it arrived.
    fn drop_late(&self, channel: &Channel, source: Source) {
        self.metrics.fenced.add(1);
        if self.late_logged.lock().is_due(Instant::now()) {
            tracing::info!(
                %channel,
                "an event of a feed, a source or a report came after the duties of its gateway had ended (said once a minute)"
            );
        }
        if source.gateway == self.gateway {
            self.pending
                .finish(source.number, Err(Refusal::Rejected), Instant::now());
        }
    }

    pub(in crate::broker) fn skip(&self, problem: Problem, name: &str) {
        self.metrics.skipped.add(1);
        if self.skipped_logged.lock().is_due(Instant::now()) {
            tracing::warn!(name, %problem, "a message of the broker is skipped (said once a minute)");
        }
    }

    /// The broker has refused an event, a merged value or the claim of a key.
    pub(in crate::broker) fn log_refused(&self, reason: &str) {
        if self.refused_logged.lock().is_due(Instant::now()) {
            tracing::warn!(reason, "the broker refuses to store something (said once a minute)");
        }
    }
}

/// Lets something that may happen often be logged once a minute.
#[derive(Debug, Default)]
pub(super) struct OnceAMinute(Option<Instant>);

impl OnceAMinute {
    fn is_due(&mut self, now: Instant) -> bool {
        let is_due = |logged: Instant| now.saturating_duration_since(logged) >= Duration::from_secs(60);
        let is_due = self.0.is_none_or(is_due);
        if is_due {
            self.0 = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_often_is_logged_once_a_minute() {
        let (mut logged, start) = (OnceAMinute::default(), Instant::now());
        let seconds = [0, 1, 59, 60, 61, 120];
        let due = seconds.map(|second| logged.is_due(start + Duration::from_secs(second)));
        assert_eq!(due, [true, false, false, true, false, true]);
    }
}
