//! What the timer does: pings, expiry warnings, reports of refused messages, and timeouts.

use super::parts::Parts;
use super::{Context, Outputs, Session};
use tickgate_protocol::disconnect::Disconnect;
use tickgate_protocol::message::Reply;

impl Session {
    /// Does everything that is due.
    pub(super) fn on_timer(&mut self, context: &Context<'_>, out: &mut Outputs) {
        let now_ms = context.now.mono_ms;
        if self.has_expired(context) {
            return self.end(Disconnect::TokenExpired, out);
        }
        if self.is_late_to_authenticate(context) {
            return self.end(Disconnect::AuthTimeout, out);
        }
        if self.is_silent(context) {
            return self.end(Disconnect::HeartbeatTimeout, out);
        }
        self.warn_of_expiry(context, out);
        self.report_refusals(context, out);
        self.expire_parts(context, out);
        self.report_challenge(context, out);
        if self.next_ping_ms <= now_ms {
            let interval_ms = context.settings.heartbeat_interval_ms.max(1);
            // A timer that is late by several intervals sends one ping and keeps the phase.
            let late = (now_ms - self.next_ping_ms) / interval_ms;
            self.next_ping_ms += (late + 1) * interval_ms;
            self.ping(context, out);
        }
    }

    /// Warns the client once, when its token is about to expire.
    pub(super) fn warn_of_expiry(&mut self, context: &Context<'_>, out: &mut Outputs) {
        if self.warning_at_ms(context).is_some_and(|at| at <= context.now.unix_ms)
            && let Some(expires_at_ms) = self.identity.as_ref().and_then(|identity| identity.exp_ms)
        {
            self.expiry_warned = true;
            out.reply(&Reply::AuthExpiring { expires_at_ms }, context);
        }
    }

    /// Computes when the timer is due next.
    pub(super) fn update_deadline(&mut self, context: &Context<'_>) {
        let now = context.now;
        let on_mono = |unix_ms: u64| now.mono_ms.saturating_add(unix_ms.saturating_sub(now.unix_ms));
        let deadlines = [
            self.expires_at_ms().map(on_mono),
            self.warning_at_ms(context).map(on_mono),
            self.auth_deadline_ms(context),
            self.silence_deadline_ms(context),
            self.challenge_deadline_ms(context),
            self.activity
                .as_ref()
                .and_then(|activity| activity.refusals.report_due_ms()),
            self.activity
                .as_ref()
                .and_then(|activity| activity.parts.as_ref().map(Parts::due_ms)),
        ];
        self.deadline_ms = deadlines.into_iter().flatten().fold(self.next_ping_ms, u64::min);
    }

    /// Whether the token has expired.
    pub(super) fn has_expired(&self, context: &Context<'_>) -> bool {
        self.expires_at_ms().is_some_and(|at| at <= context.now.unix_ms)
    }

    // When the token expires, leeway included, in Unix milliseconds.
    fn expires_at_ms(&self) -> Option<u64> {
        self.identity.as_ref()?.expires_at_ms
    }

    // When to warn the client, in Unix milliseconds; `None`: it was warned, or the token never expires.
    fn warning_at_ms(&self, context: &Context<'_>) -> Option<u64> {
        if self.expiry_warned {
            return None;
        }
        let exp_ms = self.expires_at_ms().and(self.identity.as_ref()?.exp_ms)?;
        Some(exp_ms.saturating_sub(context.settings.expiry_warning_ms))
    }

    /// When an unauthenticated connection is closed, in monotonic milliseconds. `None` while a token is being verified:
    /// a token that arrived in time may take any time to verify.
    fn auth_deadline_ms(&self, context: &Context<'_>) -> Option<u64> {
        let activity = self.activity.as_ref()?;
        let deadline_ms = activity.auth_deadline_ms.filter(|_| activity.verify.is_none())?;
        Some(deadline_ms.max(context.resumed_ms + context.settings.auth_timeout_ms))
    }

    /// Whether the time in which the client must authenticate has passed.
    pub(super) fn is_late_to_authenticate(&self, context: &Context<'_>) -> bool {
        self.auth_deadline_ms(context)
            .is_some_and(|at| at <= context.now.mono_ms)
    }

    // When the client has been silent for too long. `None` while the session takes no frames: the client may have sent
    // some.
    //
    // A client that was silent before a pause has the whole time again, in which it is pinged at least once. How much
    // longer it has is random, so that not all of them are closed at one time.
    fn silence_deadline_ms(&self, context: &Context<'_>) -> Option<u64> {
        let settings = context.settings;
        let heard_ms = if self.last_seen_ms < context.resumed_ms {
            context.resumed_ms + self.nonce % settings.heartbeat_interval_ms.max(1)
        } else {
            self.last_seen_ms
        };
        self.wants_input().then(|| heard_ms + settings.heartbeat_timeout_ms)
    }

    fn is_silent(&self, context: &Context<'_>) -> bool {
        self.silence_deadline_ms(context)
            .is_some_and(|at| at <= context.now.mono_ms)
    }

    /// Whether [`Input::Timer`](super::Input::Timer) would end the session because something did not come in time. The
    /// driver reads from the socket first, where it may lie.
    #[must_use]
    pub fn misses_input(&self, context: &Context<'_>) -> bool {
        self.is_late_to_authenticate(context) || self.is_silent(context) || self.misses_answer(context)
    }
}
