//! The socket that may take a polling session over: the candidate.

use super::super::connections::{Connection, decoder};
use super::super::{Action, ShardCore};
use crate::session::Input;
use crate::session::transport::{CandidateAction, Transport, ends_with_close_packet};
use crate::shard::connection::{Cold, Flags, Polls, Post};
use crate::shard::frame::Frame;
use crate::shard::mailbox::ConnectionId;
use crate::shard::mailbox::polling::PollError;
use crate::time::Now;
use tickgate_protocol::channel::Tenant;
use tickgate_protocol::dialect::engine_io::SECRET_BYTES;
use tickgate_protocol::dialect::engine_io::payload;
use tickgate_protocol::wire::encode;
use tickgate_protocol::wire::{Decoder, Deflate, Error as WireError, Message};

/// The most bytes of a message on a candidate socket, which is `2probe` or `5`. That is too little to count against the
/// budget of half-received messages.
const PROBE_BYTES_MAX: u32 = 16;

/// A candidate that has not completed its probe after this time is dropped. The session goes on polling.
pub(in crate::shard::core) const PROBE_MS: u64 = 10_000;

/// The rule that a client breaks whose POST is not answered when it upgrades.
const OVERTAKEN: &str = "upgrade before the answer to a POST";

impl ShardCore {
    /// A socket for a session of a tenant that polls. Its bytes go to [`ShardCore::on_bytes`] of the connection that is returned.
    /// `None`: the socket is not wanted and must be closed.
    pub fn adopt_candidate(
        &mut self,
        (to, tenant): (ConnectionId, Tenant),
        secret: &[u8; SECRET_BYTES],
        deflate: Option<Deflate>,
        now: Now,
    ) -> Option<ConnectionId> {
        let Connection { cold, endpoint, .. } = self.connections.find_open(to)?;
        let is_named = endpoint.settings.tenant == tenant && cold.session.has_secret(secret);
        if !is_named || !cold.transport()?.add_candidate() {
            return None;
        }
        cold.decoder = decoder(PROBE_BYTES_MAX, deflate);
        let polls = cold.polls_or_new();
        polls.deflate = deflate;
        polls.probe_deadline_ms = now.mono_ms + PROBE_MS;
        self.connections.arm(to.slot);
        Some(to)
    }

    /// Bytes from a candidate socket.
    pub(in crate::shard::core) fn feed_candidate(&mut self, slot: u32, input: &mut [u8], now: Now) {
        let mut position = 0;
        loop {
            let Some(Connection { id, hot, cold, .. }) = self.connections.get(slot) else {
                return;
            };
            let Cold { session, decoder, .. } = cold;
            let step = match self.sessions.decode(decoder, input, &mut position) {
                Ok(None) => return,
                Ok(Some(Message::Text(text))) => session
                    .transport_mut()
                    .map(|transport| transport.on_candidate_text(text)),
                Ok(Some(_)) | Err(_) => None,
            };
            match step {
                Some(CandidateAction::AnswerProbe) => {
                    self.control.act(Action::AnswerProbe(id));
                    // While a GET waits, the client does not go on: it gets an answer.
                    self.fanout.outgoing_mut().mark_dirty(slot, hot);
                }
                Some(CandidateAction::Upgraded) => {
                    self.upgraded(slot, now);
                    return self.on_input(slot, &mut input[position..], now);
                }
                Some(CandidateAction::Drop) | None => return self.abandon_candidate(slot),
            }
        }
    }

    // From now on the socket takes what is queued. The session may have ended already: between its last GET and the `5`,
    // the client had no request by which to learn of that.
    fn upgraded(&mut self, slot: u32, now: Now) {
        let Some(Connection {
            hot, cold, endpoint, ..
        }) = self.connections.get(slot)
        else {
            return;
        };
        let revision = cold.revision();
        let has_post = cold.session.transport().is_some_and(Transport::has_post);
        let polls = cold.extra.as_deref_mut().and_then(|extra| extra.polls.take());
        let Polls {
            get,
            post,
            deflate,
            ending,
            ..
        } = polls.map(|polls| *polls).unwrap_or_default();
        // The decoder is between two messages. Those to come may be of full length.
        cold.decoder = decoder(endpoint.settings.limits.message_bytes, deflate);
        if let Some(answer) = get {
            let mut body = Vec::new();
            payload::append(revision, "6", &mut body);
            let _ = answer.send(body.into());
        }
        // Other endings have queued a Close frame.
        if let Some(ending) = ending.filter(|ending| ends_with_close_packet(*ending)) {
            let mut close = Vec::new();
            encode::close(&mut close, ending);
            self.fanout.outgoing_mut().push_last(hot, Frame::reply(close.into()));
        }
        hot.flags.clear(Flags::POLLING | Flags::BLOCKED | Flags::DIRTY);
        self.fanout.outgoing_mut().mark_dirty(slot, hot);
        if deflate.is_some() {
            // Events are compressed from now on. Frames that are queued already stay as they are.
            self.connections.change_deflate(slot, deflate, self.fanout.inbox());
        }
        self.metrics.polling.add(-1);
        self.metrics.transports_upgraded.bump(1);
        self.connections.arm(slot);
        if let Some(Post { answer, .. }) = post {
            let _ = answer.send(Err(PollError::BadRequest(OVERTAKEN)));
        }
        if has_post && ending.is_none() {
            // What the POST brings, or has brought and was not read yet, would come behind what the socket brings.
            self.tell(slot, Input::Malformed(WireError::Protocol(OVERTAKEN)), now);
        }
    }

    /// Drops a candidate socket. The session goes on polling.
    pub(in crate::shard::core) fn abandon_candidate(&mut self, slot: u32) {
        let Some(Connection { id, cold, .. }) = self.connections.get(slot) else {
            return;
        };
        if let Some(transport) = cold.transport() {
            transport.drop_candidate();
        }
        if let Some(polls) = cold.polls() {
            polls.probe_deadline_ms = 0;
        }
        // Frees the partly received message of the socket.
        cold.decoder = Decoder::new(0);
        self.control.act(Action::Drop(id));
    }
}
