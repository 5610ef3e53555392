//! What connections of one endpoint share in a shard: settings, bounds, and the form in which they get events.

use std::sync::Arc;

use bytes::Bytes;

use super::ShardCore;
use crate::hub::Inbox;
use crate::metrics::ShardMetrics;
use crate::session;
use crate::shard::outbox::Bounds;
use tickgate_protocol::event::WireFormat;
use tickgate_protocol::wire::{Deflate, deflate, encode};

/// What a frame has beside its event's `data`: a channel, a name (each byte escaped at worst) and the keys.
pub(super) const ENVELOPE_BYTES_MAX: u32 = 2048;

/// What connections of one endpoint, and with one kind of compression, share here.
pub(super) struct Endpoint {
    pub(super) settings: Arc<session::Settings>,
    pub(super) deflate: Option<Deflate>,
    pub(super) bounds: Bounds,
    // With more than so many bytes of events in it an outbox may have no room for the next one.
    pub(super) pressed_bytes: u32,
    // How its connections get events; `None`: they get none.
    pub(super) form: Option<WireFormat>,
    pub(super) connections: u32,
    // Whether it was told that a client may not have its automatic subscriptions.
    pub(super) has_skipped: bool,
}

impl Endpoint {
    /// It has no events, and its replies are as long as what its clients send.
    pub(super) const fn is_echo(&self) -> bool {
        self.form.is_none()
    }

    /// The frame of a reply or control message as its connections get it.
    pub(super) fn reply(&self, frame: &[u8], inbox: &Inbox, stats: &ShardMetrics) -> Bytes {
        let fits = |deflate: Deflate| deflate.fits(encode::payload_bytes(frame));
        if self.deflate.is_some_and(fits)
            && let Some(deflated) = deflate::frame(frame, inbox.deflate_bytes_min())
        {
            stats.deflated_messages.bump(1);
            stats.deflate_saved_bytes.bump((frame.len() - deflated.len()) as u64);
            return Bytes::from(deflated);
        }
        Bytes::copy_from_slice(frame)
    }
}

impl ShardCore {
    /// The place of an endpoint among those in use. There are at most eight for each of the configuration: connections
    /// without compression, and with each window.
    pub(super) fn endpoint(&mut self, settings: &Arc<session::Settings>, deflate: Option<Deflate>) -> u16 {
        let known = |endpoint: &Endpoint| Arc::ptr_eq(&endpoint.settings, settings) && endpoint.deflate == deflate;
        let place = self.endpoints.iter().position(known).unwrap_or_else(|| {
            let limits = &settings.limits;
            let endpoint = Endpoint {
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
                form: settings.dialect.encoding().map(|encoding| WireFormat {
                    encoding,
                    deflated: deflate.is_some(),
                }),
                connections: 0,
                has_skipped: false,
            };
            if let Some(place) = self.endpoints.iter().position(|known| known.connections == 0) {
                self.endpoints[place] = endpoint;
                place
            } else {
                self.endpoints.push(endpoint);
                self.endpoints.len() - 1
            }
        });
        let endpoint = &mut self.endpoints[place];
        endpoint.connections += 1;
        if endpoint.connections == 1
            && let Some(form) = endpoint.form
        {
            self.inbox.add_demand(form, 1);
        }
        self.stats.deflate_connections.add(deflate.is_some().into());
        u16::try_from(place).expect("fewer than 65,536 endpoints")
    }

    /// One connection less of an endpoint.
    pub(super) fn leave_endpoint(&mut self, place: u16) {
        let endpoint = &mut self.endpoints[usize::from(place)];
        endpoint.connections -= 1;
        if endpoint.connections == 0
            && let Some(form) = endpoint.form
        {
            self.inbox.add_demand(form, -1);
        }
        let deflated = endpoint.deflate.is_some();
        self.stats.deflate_connections.add(-i64::from(deflated));
    }
}
