//! What all sessions of a shard share: the memory for decoding input and for their outputs.
//!
//! Invariant: between two calls of [`ShardCore`](super::ShardCore), no output waits.

use std::mem;
use std::ops::Range;
use std::sync::Arc;

use super::connections::Connection;
use crate::metrics::ShardMetrics;
use crate::session::{Input, Output, Outputs, Settings};
use crate::shard::connection::Cold;
use crate::time::Now;
use tickgate_protocol::disconnect::Disconnect;
use tickgate_protocol::json::Scratch;
use tickgate_protocol::wire::deflate::Inflated;
use tickgate_protocol::wire::{self, Decoder, Inflater, Message};

/// The most bytes that the compressed messages of one read may inflate to, unless a single message may be longer. A read
/// brings at most 16 KiB. A client that gets 64 times that out of many messages wants to keep the shard busy.
const INFLATED_BYTES_PER_READ: u64 = 1024 * 1024;

/// Memory that is kept for the next replies, in bytes.
const OUTPUT_BYTES_KEPT: usize = 64 * 1024;

/// The shared memory of all sessions; see the module's docs.
pub(super) struct Sessions {
    scratch: Scratch,
    inflater: Inflater,
    outputs: Outputs,
    // Reused for each batch of outputs.
    batch: Vec<Output>,
    // The message that was read last, of a connection that is traced.
    traced: Vec<u8>,
    metrics: Arc<ShardMetrics>,
}

/// How far the input of one read has been decoded.
pub(super) struct Feed {
    /// Where the next frame begins.
    pub(super) position: usize,
    /// A data message was completed.
    pub(super) is_new_message: bool,
    // What had been inflated before this read.
    inflated: Inflated,
}

impl Sessions {
    pub(super) fn new(metrics: Arc<ShardMetrics>) -> Self {
        Self {
            scratch: Scratch::default(),
            inflater: Inflater::default(),
            outputs: Outputs::default(),
            batch: Vec::new(),
            traced: Vec::new(),
            metrics,
        }
    }

    /// Hands an input to a session. Its outputs wait for [`Sessions::take_outputs`].
    pub(super) fn handle(&mut self, connection: &mut Connection<'_>, input: Input<'_>, now: Now) {
        let context = connection.context(now);
        let session = &mut connection.cold.session;
        session.handle(input, &context, &mut self.scratch, &mut self.outputs);
    }

    /// The message that [`Sessions::feed`] handed to a session that is traced, empty for a frame without text; and by which
    /// rules or limits the session refused what it asks for.
    pub(super) fn take_traced(&mut self) -> (Vec<u8>, Vec<String>) {
        (
            mem::take(&mut self.traced),
            self.outputs.refusals.take().unwrap_or_default(),
        )
    }

    /// Begins to decode the input of one read.
    pub(super) const fn begin_feed(&self) -> Feed {
        Feed {
            position: 0,
            is_new_message: false,
            inflated: self.inflater.inflated(),
        }
    }

    /// Decodes the next message and hands it to the session. Returns `false` if no message is complete.
    pub(super) fn feed(
        &mut self,
        connection: &mut Connection<'_>,
        input: &mut [u8],
        feed: &mut Feed,
        is_traced: bool,
        now: Now,
    ) -> bool {
        let context = connection.context(now);
        let Cold { session, decoder, .. } = &mut *connection.cold;
        let inflated_bytes = self.inflater.inflated().bytes - feed.inflated.bytes;
        let input = match decoder.next(input, &mut feed.position, &mut self.inflater) {
            Ok(Some(_)) if inflated_bytes > inflated_bytes_max(context.settings) => {
                Input::End(Disconnect::RateLimitAbuse)
            }
            Ok(Some(message)) => {
                let is_data = matches!(message, Message::Text(_) | Message::Binary(_));
                self.metrics.messages_in.bump(is_data.into());
                feed.is_new_message |= is_data;
                if is_traced {
                    self.traced = text_of(&message).to_vec();
                    self.outputs.refusals = Some(Vec::new());
                }
                Input::Frame(message)
            }
            Ok(None) => return false,
            Err(error) => Input::Malformed(error),
        };
        session.handle(input, &context, &mut self.scratch, &mut self.outputs);
        true
    }

    /// Ends the input of one read.
    pub(super) fn end_feed(&self, feed: &Feed) {
        let now = self.inflater.inflated();
        let metrics = &self.metrics;
        metrics.inflated_messages.bump(now.messages - feed.inflated.messages);
        metrics.inflated_bytes.bump(now.bytes - feed.inflated.bytes);
    }

    /// Decodes the next message of a socket that does not carry its session yet.
    pub(super) fn decode<'m>(
        &'m mut self,
        decoder: &'m mut Decoder,
        input: &'m mut [u8],
        position: &mut usize,
    ) -> Result<Option<Message<'m>>, wire::Error> {
        decoder.next(input, position, &mut self.inflater)
    }

    /// The outputs that wait. They are to be given back with [`Sessions::reuse_outputs`].
    pub(super) fn take_outputs(&mut self) -> Option<Vec<Output>> {
        if self.outputs.list.is_empty() {
            return None;
        }
        Some(mem::replace(&mut self.outputs.list, mem::take(&mut self.batch)))
    }

    /// Keeps the memory of outputs that have been carried out.
    pub(super) fn reuse_outputs(&mut self, mut batch: Vec<Output>) {
        batch.clear();
        self.batch = batch;
    }

    /// The bytes of an [`Output::Reply`].
    pub(super) fn reply(&self, range: Range<usize>) -> &[u8] {
        &self.outputs.bytes[range]
    }

    /// All outputs have been carried out. Returns how many messages were refused because they came too fast.
    pub(super) fn clear_outputs(&mut self) -> u64 {
        self.outputs.bytes.clear();
        // The memory for one long reply is not kept for ever.
        self.outputs.bytes.shrink_to(OUTPUT_BYTES_KEPT);
        let refused = mem::take(&mut self.outputs.refused_messages);
        self.metrics.rate_limited.bump(refused);
        let recovered = mem::take(&mut self.outputs.sessions_recovered);
        let unrecovered = mem::take(&mut self.outputs.sessions_unrecovered);
        self.metrics.sessions_recovered.bump(recovered);
        self.metrics.sessions_unrecovered.bump(unrecovered);
        refused
    }
}

/// The text of a message, and nothing of other frames.
fn text_of<'m>(message: &'m Message<'_>) -> &'m [u8] {
    match message {
        Message::Text(text) => text.as_ref(),
        _ => &[],
    }
}

fn inflated_bytes_max(settings: &Settings) -> u64 {
    INFLATED_BYTES_PER_READ.max(2 * u64::from(settings.limits.message_bytes))
}
