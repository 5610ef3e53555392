//! The traces of one shard.
//!
//! Invariant: without a trace nothing here runs. A connection that is traced has [`Flags::TRACED`], so a flush of any other
//! connection tests one bit of its hot record. A trace ends by itself, by time and by bytes.

use bytes::Bytes;

use super::ShardCore;
use crate::hub::Popped;
use crate::session::Output;
use crate::shard::connection::Flags;
use crate::shard::frame::{Content, Frame};
use crate::shard::mailbox::{Trace, TraceLine, TraceTarget};
use crate::time::Now;
use tickgate_protocol::channel::{Channel, Pattern};
use tickgate_protocol::disconnect::Disconnect;

/// The longest text of a line, in bytes.
const TEXT_MAX: usize = 4096;

/// The traces that are under way.
#[derive(Default)]
pub(super) struct Traces {
    active: Vec<Active>,
    has_channels: bool,
}

struct Active {
    trace: Trace,
    left: u64,
}

impl Active {
    /// Tells a line. Returns whether the trace goes on.
    fn tell(&mut self, line: TraceLine) -> bool {
        self.left = self.left.saturating_sub(line.weight());
        self.left > 0 && self.trace.lines.send(line).is_ok()
    }
}

impl Traces {
    /// Whether there is a trace.
    pub(super) const fn is_active(&self) -> bool {
        !self.active.is_empty()
    }

    /// Whether there is a trace of a channel.
    pub(super) const fn has_channels(&self) -> bool {
        self.has_channels
    }

    fn begin(&mut self, trace: Trace) {
        let left = trace.bytes_max;
        self.active.push(Active { trace, left });
        self.changed();
    }

    fn changed(&mut self) {
        let is_channel = |active: &Active| matches!(active.trace.target, TraceTarget::Channel(_));
        self.has_channels = self.active.iter().any(is_channel);
    }

    /// Tells a line to each trace that wants it.
    fn tell(&mut self, now: Now, wants: impl Fn(&TraceTarget) -> bool, line: impl Fn() -> TraceLine) {
        let before = self.active.len();
        self.active.retain_mut(|active| {
            active.trace.ends_ms > now.mono_ms && (!wants(&active.trace.target) || active.tell(line()))
        });
        if self.active.len() != before {
            self.changed();
        }
    }
}

impl ShardCore {
    /// Begins a trace. Connections that it follows are marked.
    pub(super) fn begin_trace(&mut self, trace: Trace, now: Now) {
        self.traces.begin(trace);
        for slot in self.connections.slots() {
            self.mark_traced(slot, now);
        }
    }

    /// Ends a trace before its time.
    pub(super) fn end_trace(&mut self, id: u64) {
        self.traces.active.retain(|active| active.trace.id != id);
        self.traces.changed();
    }

    /// Marks a connection if a trace follows it: after a trace began, and after the connection has got its user.
    pub(super) fn mark_traced(&mut self, slot: u32, now: Now) {
        if self.connections.cold(slot).is_none() || self.connections.hot(slot).flags.has(Flags::TRACED) {
            return;
        }
        if self
            .traces
            .active
            .iter()
            .any(|active| self.follows(&active.trace.target, slot))
        {
            self.connections.hot_mut(slot).flags.set(Flags::TRACED);
            self.trace_line(slot, now, |line| line.what = "followed");
        }
    }

    fn follows(&self, target: &TraceTarget, slot: u32) -> bool {
        match target {
            TraceTarget::User(tenant, user) => self
                .connections
                .cold(slot)
                .is_some_and(|cold| cold.is_user(*tenant, user)),
            TraceTarget::Connection(tenant, id) => {
                let own = self.connections.endpoint(slot).settings.tenant;
                self.connections.id(slot) == *id && tenant.is_none_or(|tenant| tenant == own)
            }
            TraceTarget::Channel(_) => false,
        }
    }

    /// Tells a line about a connection that is marked.
    fn trace_line(&mut self, slot: u32, now: Now, fill: impl Fn(&mut TraceLine)) {
        let Some(cold) = self.connections.cold(slot) else {
            return;
        };
        let id = self.connections.id(slot);
        let identity = cold.session.identity();
        let user = identity.and_then(|identity| identity.user.clone());
        let tenant = self.connections.endpoint(slot).settings.tenant;
        let client_id = cold.session.client_id();
        let wants = |target: &TraceTarget| match target {
            TraceTarget::User(of, wanted) => *of == tenant && user.as_deref() == Some(&**wanted),
            TraceTarget::Connection(of, wanted) => *wanted == id && of.is_none_or(|of| of == tenant),
            TraceTarget::Channel(_) => false,
        };
        let line = || {
            let mut line = TraceLine {
                at_ms: now.unix_ms,
                client_id: Some(client_id.as_str().into()),
                user: user.clone(),
                ..TraceLine::default()
            };
            fill(&mut line);
            line
        };
        self.traces.tell(now, wants, line);
    }

    /// A message came from a client that is followed. `refusals` says by which rules or limits it was refused.
    pub(super) fn trace_received(&mut self, slot: u32, message: &[u8], refusals: &[String], now: Now) {
        if message.is_empty() {
            return;
        }
        self.trace_line(slot, now, |line| {
            line.what = "in";
            line.bytes = Some(message.len() as u64);
            line.text = Some(Bytes::copy_from_slice(&message[..message.len().min(TEXT_MAX)]));
        });
        for refusal in refusals {
            self.trace_line(slot, now, |line| {
                line.what = "refused";
                line.detail = Some(refusal.as_str().into());
            });
        }
    }

    /// `bytes` of what waits for a client that is followed were written.
    pub(super) fn trace_sent(&mut self, slot: u32, bytes: usize, now: Now) {
        if !self.traces.is_active() {
            return self.connections.hot_mut(slot).flags.clear(Flags::TRACED);
        }
        let mut lines = Vec::new();
        let hot = self.connections.hot(slot);
        hot.outbox.completed(self.fanout.outgoing().pool(), bytes, |frame| {
            push_lines(frame, &mut lines)
        });
        for (channel, length, text) in lines {
            self.trace_line(slot, now, |line| {
                line.what = "out";
                line.channel = channel.as_ref().map(|channel| channel.as_str().into());
                line.bytes = Some(length);
                line.text.clone_from(&text);
            });
        }
    }

    /// A session that is followed has ended.
    pub(super) fn trace_ended(&mut self, slot: u32, ending: Disconnect, now: Now) {
        self.trace_line(slot, now, |line| {
            line.what = "ended";
            line.detail = Some(format!("{} {}", ending.code(), ending.reason()).into());
        });
    }

    /// A session asks for something that a trace of a channel wants to know.
    pub(super) fn trace_asked(&mut self, slot: u32, output: &Output, now: Now) {
        let (what, patterns): (_, &[Pattern]) = match output {
            Output::Subscribe { patterns, .. } => ("subscribes", patterns),
            Output::Unsubscribe { patterns } => ("unsubscribes", patterns),
            Output::Publish { event, .. } => return self.trace_publish(slot, &event.channel, now),
            _ => return,
        };
        self.trace_channel(slot, now, what, |channel| {
            let pattern = patterns.iter().find(|pattern| pattern.matches(channel))?;
            Some(pattern.as_str().into())
        });
    }

    fn trace_publish(&mut self, slot: u32, channel: &Channel, now: Now) {
        self.trace_channel(slot, now, "publishes", |traced| {
            (traced == channel).then(|| channel.as_str().into())
        });
    }

    fn trace_channel(&mut self, slot: u32, now: Now, what: &'static str, name: impl Fn(&Channel) -> Option<Box<str>>) {
        let Some(cold) = self.connections.cold(slot) else {
            return;
        };
        let user = cold.session.identity().and_then(|identity| identity.user.clone());
        let client_id = cold.session.client_id();
        let name = |target: &TraceTarget| match target {
            TraceTarget::Channel(channel) => name(channel),
            TraceTarget::User(..) | TraceTarget::Connection(..) => None,
        };
        let targets: Vec<_> = self
            .traces
            .active
            .iter()
            .filter_map(|active| name(&active.trace.target))
            .collect();
        let Some(named) = targets.into_iter().next() else {
            return;
        };
        self.traces.tell(
            now,
            |target| name(target).is_some(),
            || TraceLine {
                at_ms: now.unix_ms,
                what,
                client_id: Some(client_id.as_str().into()),
                user: user.clone(),
                channel: Some(named.clone()),
                ..TraceLine::default()
            },
        );
    }

    /// The events of a run are about to be delivered.
    pub(super) fn trace_run(&mut self) {
        let now = self.now;
        for Popped { event, .. } in self.fanout.run() {
            let wants =
                |target: &TraceTarget| matches!(target, TraceTarget::Channel(channel) if *channel == event.channel);
            self.traces.tell(now, wants, || TraceLine {
                at_ms: now.unix_ms,
                what: "delivered",
                channel: Some(event.channel.as_str().into()),
                bytes: Some(event.data.len() as u64),
                detail: Some(event.name.clone()),
                text: Some(Bytes::copy_from_slice(&event.data[..event.data.len().min(TEXT_MAX)])),
                ..TraceLine::default()
            });
        }
    }
}

/// The channel, the length and the beginning of each message of a frame.
fn push_lines(frame: &Frame, lines: &mut Vec<(Option<Channel>, u64, Option<Bytes>)>) {
    let channel = match &frame.content {
        Content::Run(events) => return events.iter().for_each(|event| push_lines(event, lines)),
        Content::Event(event) => Some(event.channel.clone()),
        Content::Reply => None,
    };
    let (length, text) = payload(&frame.bytes);
    lines.push((channel, length, text));
}

/// The length of a finished frame's payload (RFC 6455, section 5.2; a server does not mask), and its beginning unless it is
/// compressed or not text.
fn payload(frame: &Bytes) -> (u64, Option<Bytes>) {
    let start = match frame.get(1) {
        Some(126) => 4,
        Some(127) => 10,
        _ => 2,
    };
    let length = frame.len().saturating_sub(start);
    let is_plain_text = frame.first() == Some(&0x81);
    let end = (start + TEXT_MAX).min(frame.len());
    let text = (is_plain_text && start <= end).then(|| Bytes::copy_from_slice(&frame[start..end]));
    (length as u64, text)
}
