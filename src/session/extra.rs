//! What most connections do not need most of the time, in one box that is given back when it holds nothing.

use std::collections::VecDeque;

use super::metering::{CommandMeter, Refusals};
use crate::auth::TokenError;
use tickgate_protocol::channel::Pattern;
use tickgate_protocol::message::{Recover, RequestId, RequestRef};

/// The rarely used parts of a session.
#[derive(Debug, Default)]
pub(super) struct Extra {
    /// Why the handshake's token was refused; told when the connection opens.
    pub(super) handshake_refusal: Option<TokenError>,
    /// When an unauthenticated connection ends, on the monotonic clock.
    pub(super) auth_deadline_ms: Option<u64>,
    /// The token that is being verified.
    pub(super) verify: Option<Pending>,
    /// The event that waits for room.
    pub(super) publish: Option<Pending>,
    /// The patterns that are being joined. One join at a time, so that subscription changes keep their order.
    pub(super) join: Option<PendingJoin>,
    /// Subscription changes that wait behind the join, oldest first.
    pub(super) deferred: VecDeque<SubscriptionChange>,
    /// Commands that wait for their answers.
    pub(super) commands: Vec<(u32, RequestId)>,
    /// Those of a connection to the namespace that its client has left: nobody is told their answers, but until these
    /// are here they count, or leaving and coming back would set the bound back.
    pub(super) left: Vec<(u32, RequestId)>,
    /// The commands' own bucket.
    pub(super) command_meter: CommandMeter,
    /// What was refused for coming too fast.
    pub(super) refusals: Refusals,
}

/// A request that waits for its answer.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) request: u32,
    pub(super) request_ref: RequestRef,
}

/// What waits for its join.
#[derive(Debug)]
pub(super) struct PendingJoin {
    pub(super) request: u32,
    /// `None`: the automatic subscriptions, which nobody asked for.
    pub(super) asked: Option<Subscribe>,
}

/// A `subscribe`.
#[derive(Debug)]
pub(super) struct Subscribe {
    pub(super) request_ref: RequestRef,
    /// As the client asked; what was held already is among them.
    pub(super) patterns: Vec<Pattern>,
}

/// A `subscribe` or `unsubscribe`.
#[derive(Debug)]
pub(super) struct SubscriptionChange {
    pub(super) subscribe: bool,
    pub(super) request_ref: RequestRef,
    pub(super) patterns: Vec<Pattern>,
    pub(super) recover: Option<Recover>,
}

impl Extra {
    /// All commands that wait for their answers.
    pub(super) fn in_flight(&self) -> impl Iterator<Item = &(u32, RequestId)> {
        self.commands.iter().chain(&self.left)
    }

    /// Whether a request of this number waits for its answer.
    pub(super) fn awaits(&self, number: u32) -> bool {
        let single = [&self.verify, &self.publish];
        single.into_iter().flatten().any(|pending| pending.request == number)
            || self.join.as_ref().is_some_and(|join| join.request == number)
            || self.in_flight().any(|(request, _)| *request == number)
    }

    /// Whether it can be given back: nothing in it differs from a new one.
    pub(super) fn is_idle(&self, now_mono_ms: u64) -> bool {
        self.handshake_refusal.is_none()
            && self.auth_deadline_ms.is_none()
            && self.verify.is_none()
            && self.publish.is_none()
            && self.join.is_none()
            && self.deferred.is_empty()
            && self.commands.is_empty()
            && self.left.is_empty()
            && self.command_meter.is_full(now_mono_ms)
            && self.refusals.is_over(now_mono_ms)
    }
}
