//! A challenge: whether the client is still there, because a newer connection of its user wants its place.
//!
//! The outcome for a silent client comes before that for one that answers, so that dead connections make room first.

use super::{Context, Output, Outputs, Session};
use crate::time::Now;
use tickgate_protocol::dialect::engine_io::{Packet, Revision, encode_packet};
use tickgate_protocol::message::Reply;
use tickgate_protocol::wire::encode;

/// How long the client may take to answer, in milliseconds.
const ANSWER_MS: u64 = 5_000;

/// After how many milliseconds the outcome for a client that answers is reported. The permits of silent connections are
/// given back by then, whichever shard has them.
const OUTCOME_MS: u64 = ANSWER_MS + 1_000;

impl Session {
    /// Asks the client for a sign of life, which is any frame, packet or poll.
    pub(super) fn on_challenge(&mut self, context: &Context<'_>, out: &mut Outputs) {
        let now_ms = context.now.mono_ms;
        if self.activity().challenged_ms.is_some() {
            return;
        }
        self.activity().challenged_ms = Some(now_ms);
        // A frame within this millisecond is an answer, too.
        self.last_seen_ms = self.last_seen_ms.min(now_ms.saturating_sub(1));
        self.ping(context, out);
    }

    /// Reports the outcome, if it is due.
    pub(super) fn report_challenge(&mut self, context: &Context<'_>, out: &mut Outputs) {
        if self.is_challenge_due(context)
            && let Some(challenged_ms) = self.activity().challenged_ms.take()
        {
            let has_answered = self.has_answered(challenged_ms);
            out.list.push(Output::Challenged { has_answered });
        }
    }

    /// When the outcome is due, in monotonic milliseconds. The time begins again after a pause in which nobody could be
    /// heard.
    pub(super) fn challenge_deadline_ms(&self, context: &Context<'_>) -> Option<u64> {
        let challenged_ms = self.activity.as_ref()?.challenged_ms?;
        let has_answered = self.has_answered(challenged_ms);
        let begins_ms = challenged_ms.max(context.resumed_ms);
        Some(begins_ms + if has_answered { OUTCOME_MS } else { ANSWER_MS })
    }

    fn is_challenge_due(&self, context: &Context<'_>) -> bool {
        self.challenge_deadline_ms(context)
            .is_some_and(|at| at <= context.now.mono_ms)
    }

    /// Whether the next timer would report that the client is silent.
    pub(super) fn misses_answer(&self, context: &Context<'_>) -> bool {
        let challenged_ms = self.activity.as_ref().and_then(|activity| activity.challenged_ms);
        self.is_challenge_due(context) && challenged_ms.is_some_and(|challenged_ms| !self.has_answered(challenged_ms))
    }

    /// Reports that the client polls, which answers a challenge.
    pub fn polled(&mut self, now: Now) {
        let is_challenged = self
            .activity
            .as_ref()
            .is_some_and(|activity| activity.challenged_ms.is_some());
        if is_challenged {
            self.last_seen_ms = now.mono_ms;
        }
    }

    // While the session takes no frames, the client may have sent some.
    fn has_answered(&self, challenged_ms: u64) -> bool {
        self.last_seen_ms >= challenged_ms || !self.wants_input()
    }

    /// Sends what makes a client that is alive send something.
    pub(super) fn ping(&self, context: &Context<'_>, out: &mut Outputs) {
        match &self.engine_io {
            None => {
                out.frame(|bytes| encode::ping(bytes, &[]));
                let cursor = self.cursor(context);
                out.reply(&Reply::Ping { cursor }, context);
            }
            Some(engine_io) => match engine_io.revision {
                Revision::Four => out.frame(|bytes| encode_packet(bytes, Packet::Ping(""))),
                // Only clients of this revision send pings. A poll that ends is followed by the next one.
                Revision::Three if engine_io.transport.is_polling() => {
                    out.frame(|bytes| encode_packet(bytes, Packet::Noop));
                }
                Revision::Three => out.frame(|bytes| encode::ping(bytes, &[])),
            },
        }
    }
}
