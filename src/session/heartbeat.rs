//! What happens by itself: pings, warnings, and the endings that time brings.

use super::machine::Session;
use super::{Context, Outputs};
use tickgate_protocol::disconnect::Disconnect;
use tickgate_protocol::message::Reply;
use tickgate_protocol::wire::encode;

impl Session {
    /// Does whatever is due.
    pub(super) fn timer(&mut self, context: &Context<'_>, out: &mut Outputs) {
        let now_ms = context.now.mono_ms;
        if self.has_expired(context) {
            return self.end(Disconnect::TokenExpired, out);
        }
        if self.auth_deadline_ms().is_some_and(|at| at <= now_ms) {
            return self.end(Disconnect::AuthTimeout, out);
        }
        if self.silence_deadline_ms(context).is_some_and(|at| at <= now_ms) {
            return self.end(Disconnect::HeartbeatTimeout, out);
        }
        self.warn_of_expiry(context, out);
        self.report_refusals(context, out);
        if self.next_ping_ms <= now_ms {
            let interval_ms = context.settings.heartbeat_interval_ms.max(1);
            // Late by whole intervals: one ping, and the phase stays.
            let late = (now_ms - self.next_ping_ms) / interval_ms;
            self.next_ping_ms += (late + 1) * interval_ms;
            if !self.ping_engine_io(out) {
                out.frame(|bytes| encode::ping(bytes, &[]));
                out.reply(&Reply::Ping, context);
            }
        }
    }

    /// Warns once that the token ends soon.
    pub(super) fn warn_of_expiry(&mut self, context: &Context<'_>, out: &mut Outputs) {
        if self.warning_at_ms(context).is_some_and(|at| at <= context.now.unix_ms)
            && let Some(expires_at_ms) = self.identity.as_ref().and_then(|identity| identity.exp_ms)
        {
            self.expiry_warned = true;
            out.reply(&Reply::AuthExpiring { expires_at_ms }, context);
        }
    }

    /// Sets the next deadline.
    pub(super) fn arm(&mut self, context: &Context<'_>) {
        let now = context.now;
        let on_mono = |unix_ms: u64| now.mono_ms.saturating_add(unix_ms.saturating_sub(now.unix_ms));
        let deadlines = [
            self.expires_at_ms().map(on_mono),
            self.warning_at_ms(context).map(on_mono),
            self.auth_deadline_ms(),
            self.silence_deadline_ms(context),
            self.extra.as_ref().and_then(|extra| extra.refusals.report_due_ms()),
        ];
        self.deadline_ms = deadlines.into_iter().flatten().fold(self.next_ping_ms, u64::min);
    }

    /// Whether the token's time is over.
    pub(super) fn has_expired(&self, context: &Context<'_>) -> bool {
        self.expires_at_ms().is_some_and(|at| at <= context.now.unix_ms)
    }

    // When the token ends, leeway included, in Unix milliseconds.
    fn expires_at_ms(&self) -> Option<u64> {
        self.identity.as_ref()?.expires_at_ms
    }

    // When its owner is to be warned, in Unix milliseconds; `None`: was warned, or never ends.
    fn warning_at_ms(&self, context: &Context<'_>) -> Option<u64> {
        if self.expiry_warned {
            return None;
        }
        let exp_ms = self.expires_at_ms().and(self.identity.as_ref()?.exp_ms)?;
        Some(exp_ms.saturating_sub(context.settings.expiry_warning_ms))
    }

    /// When an unauthenticated connection ends, on the monotonic clock. A token that came in time is waited for,
    /// however long its verification takes.
    pub(super) fn auth_deadline_ms(&self) -> Option<u64> {
        let extra = self.extra.as_ref()?;
        extra.auth_deadline_ms.filter(|_| extra.verify.is_none())
    }

    // Nobody is blamed for silence while the session does not listen.
    fn silence_deadline_ms(&self, context: &Context<'_>) -> Option<u64> {
        self.wants_input()
            .then(|| self.last_seen_ms + context.settings.heartbeat_timeout_ms)
    }
}
