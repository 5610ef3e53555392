//! Log lines about connections: when they open, what they ask for, and why they end.
//!
//! Invariant: of the endings that are somebody's fault, a shard logs as many at level `info` as a [`LineLimit`] allows.
//! The rest is counted, and one line tells how many there were. All other lines have the level `debug`.

use super::connections::Connections;
use crate::session::Output;
use crate::session::limits::LineLimit;
use crate::shard::connection::Cold;
use crate::time::Now;
use tickgate_protocol::channel::Pattern;
use tickgate_protocol::disconnect::{Blame, Disconnect};

/// The log lines of one shard.
pub(super) struct Journal {
    // Those about endings.
    lines: LineLimit,
}

impl Journal {
    pub(super) const fn new(now: Now) -> Self {
        Self {
            lines: LineLimit::new(now.mono_ms),
        }
    }

    /// A connection was taken in.
    pub(super) fn opened(connections: &Connections, slot: u32) {
        let Some(cold) = connections.cold(slot) else { return };
        let settings = &connections.endpoint(slot).settings;
        let transport = cold
            .session
            .transport()
            .map_or("websocket", |transport| transport.name());
        tracing::debug!(
            client_id = cold.session.client_id(),
            tenant = settings.tenant_name.as_deref(),
            user = user(cold),
            address = cold.address.map(tracing::field::display),
            dialect = settings.dialect.name(),
            transport,
            "a connection opened"
        );
    }

    /// A session asks for something.
    pub(super) fn asked(connections: &Connections, slot: u32, output: &Output) {
        if !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        let Some(cold) = connections.cold(slot) else { return };
        let (client_id, user) = (cold.session.client_id(), user(cold));
        let tenant = connections.endpoint(slot).settings.tenant_name.as_deref();
        match output {
            Output::Subscribe { patterns, max_rate, .. } => {
                let max_rate = max_rate.map(tracing::field::display);
                tracing::debug!(
                    client_id,
                    tenant,
                    user,
                    patterns = list(patterns),
                    max_rate,
                    "a client subscribes"
                );
            }
            Output::SetRate { patterns, max_rate } => {
                let max_rate = max_rate.map(tracing::field::display);
                tracing::debug!(
                    client_id,
                    tenant,
                    user,
                    patterns = list(patterns),
                    max_rate,
                    "a client's rate changes"
                );
            }
            Output::Unsubscribe { patterns } => {
                tracing::debug!(
                    client_id,
                    tenant,
                    user,
                    patterns = list(patterns),
                    "a client unsubscribes"
                );
            }
            Output::Publish { event, .. } => {
                tracing::debug!(
                    client_id,
                    tenant,
                    user,
                    channel = event.channel.as_str(),
                    "a client publishes"
                );
            }
            _ => {}
        }
    }

    /// A session has ended; its connection is still there.
    pub(super) fn ended(&mut self, connections: &Connections, slot: u32, ending: Disconnect, now: Now) {
        let Some(cold) = connections.cold(slot) else { return };
        let (hot, session, traffic) = (connections.hot(slot), &cold.session, connections.traffic(slot));
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    client_id = session.client_id(),
                    tenant = connections.endpoint(slot).settings.tenant_name.as_deref(),
                    user = user(cold),
                    address = cold.address.map(tracing::field::display),
                    dialect = connections.endpoint(slot).settings.dialect.name(),
                    code = ending.code(),
                    ending = ending.label(),
                    blame = blame(ending),
                    seconds = now.unix_ms.saturating_sub(session.connected_at_ms()) / 1000,
                    messages_out = hot.delivered,
                    bytes_in = traffic.bytes_in,
                    bytes_out = traffic.bytes_out,
                    dropped = hot.dropped,
                    "a connection ended: {}",
                    ending.reason()
                )
            };
        }
        if is_routine(ending) {
            line!(debug);
        } else if let Some(left_out) = self.lines.take(now.mono_ms) {
            report(left_out);
            line!(info);
        }
    }

    /// Tells how many endings were not logged, as soon as there may be a line again.
    pub(super) fn report(&mut self, now: Now) {
        if let Some(left_out) = self.lines.take_left_out(now.mono_ms) {
            report(left_out);
        }
    }
}

fn report(endings: u64) {
    if endings > 0 {
        tracing::info!(
            endings,
            "more connections ended than are logged; tickgate_endings_total counts them by their ending"
        );
    }
}

/// Whether an ending is neither a fault nor a decision about this client: it left, or all clients have to leave.
pub(super) const fn is_routine(ending: Disconnect) -> bool {
    matches!(
        ending,
        Disconnect::Normal | Disconnect::Lost | Disconnect::Restart | Disconnect::DrainDeadline
    )
}

const fn blame(ending: Disconnect) -> &'static str {
    match ending.blame() {
        Blame::Client => "client",
        Blame::Gateway => "gateway",
        Blame::Operator => "operator",
    }
}

fn user(cold: &Cold) -> Option<&str> {
    cold.session.identity()?.user.as_deref()
}

/// Patterns, separated by spaces.
fn list(patterns: &[Pattern]) -> String {
    let texts: Vec<_> = patterns.iter().map(Pattern::as_str).collect();
    texts.join(" ")
}
