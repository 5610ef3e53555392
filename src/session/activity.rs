//! What a session holds only while something is under way, in one box that is freed when it holds nothing.

use std::collections::VecDeque;

use super::parts::Parts;
use super::rate_limit::{CommandMeter, Refusals};
use crate::auth::TokenError;
use tickgate_protocol::channel::{Channel, Pattern};
use tickgate_protocol::message::{RequestId, RequestRef, Resume};
use tickgate_protocol::rate::Rate;

/// Deadlines, requests and meters of a session that is not idle.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// Why the handshake's token was refused. The client is told when the connection opens.
    pub(super) handshake_refusal: Option<TokenError>,
    /// When an unauthenticated connection is closed, in monotonic milliseconds.
    pub(super) auth_deadline_ms: Option<u64>,
    /// When the client was asked for a sign of life, in monotonic milliseconds.
    pub(super) challenged_ms: Option<u64>,
    /// The `auth` (or CONNECT) whose token is being verified.
    pub(super) verify: Option<PendingRequest>,
    /// The `publish` whose event waits for credit.
    pub(super) publish: Option<PendingRequest>,
    /// The subscribe request under way. There is one at a time, so that subscription changes keep their order.
    pub(super) subscribe: Option<PendingSubscribe>,
    /// Subscription changes that wait for the subscribe request under way, oldest first.
    pub(super) deferred: VecDeque<SubscriptionChange>,
    /// The messages of a `subscribe` that the last one completes.
    pub(super) parts: Option<Parts>,
    /// Commands in flight: the number of the request, and the client's id.
    pub(super) commands: Vec<(u32, RequestId)>,
    /// Commands in flight from before a Socket.IO DISCONNECT. Their answers are discarded, but until then they count
    /// against the bound; otherwise a client could reset the bound by leaving and connecting again.
    pub(super) orphaned_commands: Vec<(u32, RequestId)>,
    /// The rate limit of commands.
    pub(super) command_meter: CommandMeter,
    /// Messages refused because they exceeded the rate limit.
    pub(super) refusals: Refusals,
}

/// A request that waits for the shard's answer.
#[derive(Debug)]
pub(super) struct PendingRequest {
    pub(super) request: u32,
    pub(super) request_ref: RequestRef,
}

/// A subscribe request that waits for the shard's answer.
#[derive(Debug)]
pub(super) struct PendingSubscribe {
    pub(super) request: u32,
    /// The limit of the identity that was applied to the request.
    pub(super) limit: Option<Rate>,
    /// `None`: these are the automatic subscriptions, which are not answered.
    pub(super) client_request: Option<Subscribe>,
}

/// A client's `subscribe`.
#[derive(Debug)]
pub(super) struct Subscribe {
    pub(super) request_ref: RequestRef,
    /// The patterns that the client named, including those that it held already.
    pub(super) patterns: Vec<Pattern>,
    pub(super) max_rate: Option<Rate>,
    /// Channels of its `recover` of which the request makes no use.
    pub(super) ignored: Vec<Channel>,
}

/// A client's `subscribe` or `unsubscribe`.
#[derive(Debug)]
pub(super) struct SubscriptionChange {
    /// `false`: an `unsubscribe`.
    pub(super) subscribe: bool,
    pub(super) request_ref: RequestRef,
    pub(super) patterns: Vec<Pattern>,
    pub(super) resume: Option<Resume>,
    pub(super) max_rate: Option<Rate>,
    /// Another message has more of its `recover`.
    pub(super) more: bool,
}

impl Activity {
    /// All commands that wait for their answers, including those from before a DISCONNECT.
    pub(super) fn in_flight(&self) -> impl Iterator<Item = &(u32, RequestId)> {
        self.commands.iter().chain(&self.orphaned_commands)
    }

    /// Whether a subscribe request is under way or waits.
    pub(super) fn is_subscribing(&self) -> bool {
        self.subscribe.is_some() || self.parts.is_some() || self.deferred.iter().any(|change| change.subscribe)
    }

    /// Whether the request with this number waits for its answer.
    pub(super) fn awaits(&self, number: u32) -> bool {
        let single = [&self.verify, &self.publish];
        single.into_iter().flatten().any(|pending| pending.request == number)
            || self.subscribe.as_ref().is_some_and(|pending| pending.request == number)
            || self.in_flight().any(|(request, _)| *request == number)
    }

    /// Whether the box can be freed: its content is equivalent to the default.
    pub(super) fn is_idle(&self, now_mono_ms: u64) -> bool {
        self.handshake_refusal.is_none()
            && self.auth_deadline_ms.is_none()
            && self.challenged_ms.is_none()
            && self.verify.is_none()
            && self.publish.is_none()
            && self.subscribe.is_none()
            && self.deferred.is_empty()
            && self.parts.is_none()
            && self.commands.is_empty()
            && self.orphaned_commands.is_empty()
            && self.command_meter.is_full(now_mono_ms)
            && self.refusals.is_idle(now_mono_ms)
    }
}
