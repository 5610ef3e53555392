//! What the connections of one endpoint share in a shard: settings, bounds, and the format of their events.

use std::sync::Arc;

use bytes::Bytes;

use super::Connections;
use crate::hub::Inbox;
use crate::metrics::ShardMetrics;
use crate::session;
use crate::shard::outbox::Bounds;
use tickgate_protocol::channel::Pattern;
use tickgate_protocol::event::WireFormat;
use tickgate_protocol::wire::{Deflate, deflate, encode};

/// The most bytes that a frame has beside its event's `data`: a channel and a name, each byte of which is escaped in the
/// worst case, and the keys.
pub(in crate::shard::core) const ENVELOPE_BYTES_MAX: u32 = 2048;

/// What the connections of one endpoint with the same compression share.
pub(in crate::shard::core) struct Endpoint {
    pub(in crate::shard::core) settings: Arc<session::Settings>,
    pub(in crate::shard::core) deflate: Option<Deflate>,
    /// The connections are sent at most 2 to the power of this, and less than twice that, in bytes per second; `None`: they
    /// have no limit. Each has its exact limit elsewhere.
    pub(in crate::shard::core) limit: Option<u32>,
    pub(in crate::shard::core) bounds: Bounds,
    /// An outbox with more bytes of events than this may have no room for the next event.
    pub(in crate::shard::core) pressed_bytes: u32,
    /// The format of events; `None`: these connections get no events.
    pub(in crate::shard::core) format: Option<WireFormat>,
    /// Whether clients may get their sessions back, for which events have offsets.
    pub(in crate::shard::core) recovers: bool,
    connections: u32,
    // A skipped automatic subscription has been logged as a warning.
    has_skipped: bool,
}

/// The endpoints of a shard.
#[derive(Default)]
pub(in crate::shard::core) struct Endpoints {
    list: Vec<Endpoint>,
}

impl Endpoint {
    fn new(settings: &Arc<session::Settings>, deflate: Option<Deflate>, limit: Option<u32>) -> Self {
        let limits = &settings.limits;
        let outbox_bytes = limit.map_or(limits.outbox_bytes, |log2| limits.outbox_bytes.min(1 << log2));
        Self {
            settings: settings.clone(),
            deflate,
            limit,
            bounds: Bounds {
                event_frames: limits.outbox_frames,
                event_bytes: outbox_bytes,
                reply_frames: limits.reply_frames,
                reply_bytes: limits.reply_bytes,
            },
            pressed_bytes: match limit {
                // What does not fit is not lost because it came too fast for the shard, but for the limit.
                Some(_) => u32::MAX,
                None => outbox_bytes
                    .saturating_sub(limits.event_bytes.saturating_add(ENVELOPE_BYTES_MAX))
                    .min(outbox_bytes / 2),
            },
            format: settings.dialect.encoding().map(|encoding| WireFormat {
                encoding,
                deflated: deflate.is_some(),
            }),
            recovers: settings.dialect.recovery_window_ms().is_some(),
            connections: 0,
            has_skipped: false,
        }
    }

    /// Whether it is an echo endpoint: it has no events, and its replies are as long as the messages of its clients.
    pub(in crate::shard::core) const fn is_echo(&self) -> bool {
        self.format.is_none()
    }

    /// Whether connections of this endpoint are sent at most so many bytes in a second.
    #[inline]
    pub(in crate::shard::core) const fn is_limited(&self) -> bool {
        self.limit.is_some()
    }

    /// Whether a client whose replies wait is not read from, instead of being closed when there are too many of them.
    pub(in crate::shard::core) const fn waits_for_readers(&self) -> bool {
        self.is_echo() || self.is_limited()
    }

    /// The text by which clients of this endpoint name a pattern; `None` if they use the pattern itself.
    pub(in crate::shard::core) fn subscription_name(&self, pattern: &Pattern) -> Option<String> {
        self.settings.dialect.subscription_name(pattern)
    }

    /// The frame of a reply or control message, compressed if the connections of this endpoint get it so.
    pub(in crate::shard::core) fn reply(&self, frame: &[u8], inbox: &Inbox, metrics: &ShardMetrics) -> Bytes {
        let fits = |deflate: Deflate| deflate.fits(encode::payload_bytes(frame));
        if self.deflate.is_some_and(fits)
            && let Some(deflated) = deflate::frame(frame, inbox.deflate_bytes_min())
        {
            metrics.deflated_messages.bump(1);
            metrics.deflate_saved_bytes.bump((frame.len() - deflated.len()) as u64);
            return Bytes::from(deflated);
        }
        Bytes::copy_from_slice(frame)
    }
}

impl Endpoints {
    /// An endpoint by its index.
    #[inline]
    pub(in crate::shard::core) fn get(&self, index: u16) -> &Endpoint {
        &self.list[usize::from(index)]
    }

    /// The endpoints that have connections.
    pub(in crate::shard::core) fn in_use(&self) -> impl Iterator<Item = &Endpoint> + Clone {
        self.list.iter().filter(|endpoint| endpoint.connections > 0)
    }

    /// Counts one more connection of an endpoint; returns the endpoint's index. For each endpoint of the configuration there
    /// are at most eight for each magnitude of a limit: one without compression, and one for each window size.
    ///
    /// # Panics
    ///
    /// With more than 65,536 endpoints.
    pub(super) fn enter(
        &mut self,
        settings: &Arc<session::Settings>,
        deflate: Option<Deflate>,
        limit: Option<u32>,
        inbox: &Inbox,
        metrics: &ShardMetrics,
    ) -> u16 {
        let is_same = |endpoint: &Endpoint| {
            Arc::ptr_eq(&endpoint.settings, settings) && endpoint.deflate == deflate && endpoint.limit == limit
        };
        let index = self.list.iter().position(is_same).unwrap_or_else(|| {
            let endpoint = Endpoint::new(settings, deflate, limit);
            if let Some(index) = self.list.iter().position(|known| known.connections == 0) {
                self.list[index] = endpoint;
                index
            } else {
                self.list.push(endpoint);
                self.list.len() - 1
            }
        });
        let endpoint = &mut self.list[index];
        endpoint.connections += 1;
        if endpoint.connections == 1
            && let Some(format) = endpoint.format
        {
            inbox.add_demand(format, 1);
        }
        metrics.deflate_connections.add(deflate.is_some().into());
        u16::try_from(index).expect("at most 65,536 endpoints")
    }

    /// Counts one connection less of an endpoint.
    pub(super) fn leave(&mut self, index: u16, inbox: &Inbox, metrics: &ShardMetrics) {
        let endpoint = &mut self.list[usize::from(index)];
        endpoint.connections -= 1;
        if endpoint.connections == 0
            && let Some(format) = endpoint.format
        {
            inbox.add_demand(format, -1);
        }
        let deflated = endpoint.deflate.is_some();
        metrics.deflate_connections.add(-i64::from(deflated));
    }

    /// Notes a skipped automatic subscription; returns whether it was the endpoint's first.
    pub(super) fn note_skipped(&mut self, index: u16) -> bool {
        let endpoint = &mut self.list[usize::from(index)];
        !std::mem::replace(&mut endpoint.has_skipped, true)
    }
}

impl Connections {
    /// Moves a connection to the endpoint with the same settings and another compression.
    pub(in crate::shard::core) fn change_deflate(&mut self, slot: u32, deflate: Option<Deflate>, inbox: &Inbox) {
        let before = self.hot[slot].endpoint;
        let Endpoint { settings, limit, .. } = self.endpoints.get(before);
        let (settings, limit) = (settings.clone(), *limit);
        self.hot[slot].endpoint = self.endpoints.enter(&settings, deflate, limit, inbox, &self.metrics);
        self.endpoints.leave(before, inbox, &self.metrics);
    }

    /// Moves a connection to the endpoint with the same settings and the outboxes of connections that are sent so many bytes in
    /// a second; 0: without a limit.
    pub(in crate::shard::core) fn change_limit(&mut self, slot: u32, bytes_per_second: u32, inbox: &Inbox) {
        let before = self.hot[slot].endpoint;
        let Endpoint { settings, deflate, .. } = self.endpoints.get(before);
        let (settings, deflate, limit) = (settings.clone(), *deflate, bytes_per_second.checked_ilog2());
        self.hot[slot].endpoint = self.endpoints.enter(&settings, deflate, limit, inbox, &self.metrics);
        self.endpoints.leave(before, inbox, &self.metrics);
    }
}

#[cfg(test)]
impl Endpoints {
    /// How many endpoints there is memory for.
    pub(in crate::shard::core) fn len(&self) -> usize {
        self.list.len()
    }

    /// Replaces the settings of an endpoint.
    pub(in crate::shard::core) fn set_settings(&mut self, index: usize, settings: Arc<session::Settings>) {
        self.list[index].settings = settings;
    }
}
