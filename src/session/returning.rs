//! Socket.IO's connection state recovery: a client that comes back gets its subscriptions and what it missed.
//!
//! A client gets a `pid` with CONNECT, and sends it with the offset of its newest event when it comes back. What the session
//! had is [suspended](Output::Suspend) when it ends, and taken back by its `pid`. Then the session subscribes as before, and answers
//! CONNECT when that is done: with the same `pid` if everything is recovered, and otherwise as for a new client.
//!
//! Invariant: what was suspended for one client is given to one connection. A session that ends before it has answered CONNECT
//! suspends it again.

use std::sync::Arc;

use super::activity::PendingSubscribe;
use super::{Context, Output, Outputs, Session};
use crate::auth::Identity;
use tickgate_protocol::channel::Pattern;
use tickgate_protocol::disconnect::Disconnect;
use tickgate_protocol::event::Epoch;
use tickgate_protocol::message::{Cursor, Offset, Recovered, Resume, SubscribeOutcome};
use tickgate_protocol::rate::Rate;

/// What a session had that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspended {
    /// The user; `None` for an anonymous client.
    pub user: Option<Box<str>>,
    /// The patterns, each with the rate that the client asked for.
    pub patterns: Vec<(Pattern, Option<Rate>)>,
    /// How long the client may be away, in milliseconds.
    pub window_ms: u64,
    /// The hub's newest version when the last of the patterns was subscribed.
    pub subscribed_at: u64,
}

impl Suspended {
    /// Whether the client may lack last values of channels with a history. An offset that is not above the version at which
    /// it subscribed last may be from before the answer, which brings them.
    fn owes_values(&self, offset: &Offset) -> bool {
        let newest = offset.newest.iter().map(|(_, version)| *version);
        offset.owes_values || newest.fold(offset.version, u64::max) <= self.subscribed_at
    }
}

/// What a client says that comes back.
#[derive(Clone, Debug)]
pub(super) struct Return {
    pub(super) pid: Box<str>,
    pub(super) offset: Offset,
}

/// A session that takes back what was suspended.
#[derive(Debug)]
pub(super) struct Returning {
    back: Return,
    identity: Arc<Identity>,
    // The number of the request under way.
    request: u32,
    // `None` until it was taken.
    suspended: Option<Suspended>,
}

impl Session {
    /// Accepts CONNECT, or takes back first what the client had before.
    pub(super) fn accept_connect(&mut self, identity: Arc<Identity>, context: &Context<'_>, out: &mut Outputs) {
        let back = self.engine_io.as_mut().and_then(|engine_io| engine_io.back.take());
        let Some(back) = back else {
            return self.connected(identity, None, context, out);
        };
        let request = self.next_request();
        self.activity().auth_deadline_ms = None;
        out.list.push(Output::TakeBack {
            request,
            pid: back.pid.clone(),
            user: identity.user.as_deref().map(Into::into),
        });
        let returning = Returning {
            back: *back,
            identity,
            request,
            suspended: None,
        };
        if let Some(engine_io) = &mut self.engine_io {
            engine_io.returning = Some(Box::new(returning));
        }
    }

    /// What was suspended for the client, with the epoch in which it was suspended; `None`: nothing is there.
    pub(super) fn on_taken_back(
        &mut self,
        request: u32,
        suspended: Option<(Suspended, Epoch)>,
        context: &Context<'_>,
        out: &mut Outputs,
    ) {
        let Some(engine_io) = &mut self.engine_io else { return };
        let Some(mut returning) = engine_io.returning.take_if(|returning| returning.request == request) else {
            return;
        };
        let offset = returning.back.offset.clone();
        let Some((suspended, epoch)) = suspended.filter(|(_, epoch)| offset.is_of(*epoch)) else {
            out.sessions_unrecovered += 1;
            return self.connected(returning.identity, None, context, out);
        };
        // The limits and permissions are those of now.
        let bytes_before = self.bytes_per_second(context.settings);
        self.identity = Some(returning.identity.clone());
        self.limit_bytes(bytes_before, context.settings, out);
        let patterns: Vec<_> = suspended.patterns.iter().map(|(pattern, _)| pattern.clone()).collect();
        let Ok(patterns) = self.new_patterns(&patterns, context) else {
            out.sessions_unrecovered += 1;
            return self.connected(returning.identity, None, context, out);
        };
        let owes_values = suspended.owes_values(&offset);
        returning.suspended = Some(suspended);
        returning.request = self.next_request();
        let (request, limit) = (returning.request, self.granted(None));
        self.activity().subscribe = Some(PendingSubscribe {
            request,
            limit,
            client_request: None,
        });
        let cursor = Cursor {
            epoch,
            holder: self.holder(context),
            version: offset.version,
            owes_values,
        };
        out.list.push(Output::Subscribe {
            request,
            patterns,
            resume: Some(Resume::Cursor {
                cursor: Some(cursor),
                newest: offset.newest,
                seen: Vec::new(),
            }),
            max_rate: limit,
            is_automatic: true,
        });
        if let Some(engine_io) = &mut self.engine_io {
            engine_io.returning = Some(returning);
        }
    }

    /// The session is subscribed as before. Returns `false` if it does not take anything back.
    pub(super) fn on_returned(
        &mut self,
        interned: &[Pattern],
        outcome: &SubscribeOutcome,
        context: &Context<'_>,
        out: &mut Outputs,
    ) -> bool {
        let Some(engine_io) = &mut self.engine_io else {
            return false;
        };
        let Some(returning) = engine_io.returning.take() else {
            return false;
        };
        let Returning {
            back,
            identity,
            suspended,
            ..
        } = *returning;
        let is_whole = matches!(&outcome.recovered, Some(Recovered::Except(channels)) if channels.is_empty());
        if !is_whole || outcome.cut {
            out.list.push(Output::Unsubscribe {
                patterns: interned.to_vec(),
            });
            out.sessions_unrecovered += 1;
            self.connected(identity, None, context, out);
            return true;
        }
        self.patterns = interned.to_vec();
        if let (Some(engine_io), Some(suspended)) = (&mut self.engine_io, &suspended) {
            // Last values are on their way only if they were owed.
            engine_io.subscribed_at = match suspended.owes_values(&back.offset) {
                true => outcome.began_at,
                false => suspended.subscribed_at,
            };
        }
        out.sessions_recovered += 1;
        self.connected(identity, Some(back.pid), context, out);
        for (pattern, wish) in suspended.into_iter().flat_map(|suspended| suspended.patterns) {
            self.change_wishes(&[pattern], wish, out);
        }
        true
    }

    /// What the session had, for its client to take back after this ending. To be called before the session is closed.
    pub(super) fn suspend(&mut self, ending: Disconnect) -> Option<Output> {
        let engine_io = self.engine_io.as_mut()?;
        if let Some(returning) = engine_io.returning.take() {
            let (pid, suspended) = (returning.back.pid, returning.suspended?);
            return Some(Output::Suspend { pid, suspended });
        }
        // After these the client stays away, or what it had means nothing any more.
        let is_final = matches!(
            ending,
            Disconnect::ByOperator | Disconnect::Displaced | Disconnect::RateLimitAbuse | Disconnect::Resync
        );
        let (pid, window_ms) = (engine_io.pid.take()?, engine_io.window_ms?);
        let subscribed_at = engine_io.subscribed_at;
        if is_final || self.patterns.is_empty() {
            return None;
        }
        let wished = self.patterns.iter().enumerate();
        let user = self.identity.as_ref().and_then(|identity| identity.user.as_deref());
        let suspended = Suspended {
            user: user.map(Into::into),
            patterns: wished
                .map(|(index, pattern)| (pattern.clone(), self.wishes.get(index)))
                .collect(),
            window_ms,
            subscribed_at,
        };
        Some(Output::Suspend { pid, suspended })
    }
}
