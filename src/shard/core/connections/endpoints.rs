//! What the connections of one endpoint share in a shard: settings, bounds, and the format of their events.

use std::sync::Arc;

use bytes::Bytes;

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
    pub(in crate::shard::core) bounds: Bounds,
    /// An outbox with more bytes of events than this may have no room for the next event.
    pub(in crate::shard::core) pressed_bytes: u32,
    /// The format of events; `None`: these connections get no events.
    pub(in crate::shard::core) format: Option<WireFormat>,
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
    fn new(settings: &Arc<session::Settings>, deflate: Option<Deflate>) -> Self {
        let limits = &settings.limits;
        Self {
            settings: settings.clone(),
            deflate,
            bounds: Bounds {
                event_frames: limits.outbox_frames,
                event_bytes: limits.outbox_bytes,
                reply_frames: limits.reply_frames,
                reply_bytes: limits.reply_bytes,
            },
            pressed_bytes: limits
                .outbox_bytes
                .saturating_sub(limits.event_bytes.saturating_add(ENVELOPE_BYTES_MAX))
                .min(limits.outbox_bytes / 2),
            format: settings.dialect.encoding().map(|encoding| WireFormat {
                encoding,
                deflated: deflate.is_some(),
            }),
            connections: 0,
            has_skipped: false,
        }
    }

    /// Whether it is an echo endpoint: it has no events, and its replies are as long as the messages of its clients.
    pub(in crate::shard::core) const fn is_echo(&self) -> bool {
        self.format.is_none()
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

    /// Counts one more connection of an endpoint; returns the endpoint's index. There are at most eight of them for each
    /// endpoint of the configuration: one without compression, and one for each window size.
    ///
    /// # Panics
    ///
    /// With more than 65,536 endpoints.
    pub(super) fn enter(
        &mut self,
        settings: &Arc<session::Settings>,
        deflate: Option<Deflate>,
        inbox: &Inbox,
        metrics: &ShardMetrics,
    ) -> u16 {
        let is_same = |endpoint: &Endpoint| Arc::ptr_eq(&endpoint.settings, settings) && endpoint.deflate == deflate;
        let index = self.list.iter().position(is_same).unwrap_or_else(|| {
            let endpoint = Endpoint::new(settings, deflate);
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
