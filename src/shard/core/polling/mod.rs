//! Sessions without a socket: GETs take out what is queued, POSTs bring packets in, and a socket may take over.
//!
//! Invariants: the answer to a GET is what would have been written to a socket, in the same order. It is taken out of the
//! outbox only for a GET whose client is still there. A polling session is blocked while no GET waits, so the same bounds
//! and losses apply as for a socket that takes no more bytes. After the socket has taken over, nothing leaves by a poll.
//!
//! Per file: `body` (from frames to the body of an answer), `upgrade` (the socket that takes over).

mod body;
mod upgrade;

use std::io::IoSlice;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::bandwidth::within;
use super::connections::Connection;
use super::{Arrival, Sent, ShardCore};
use crate::session::Input;
use crate::session::transport::{PollAdmission, awaits_final_poll};
use crate::shard::connection::{Cold, Flags, Post};
use crate::shard::mailbox::ConnectionId;
use crate::shard::mailbox::polling::{Open, Poll, PollError, PollRequest};
use crate::time::Now;
use tickgate_protocol::dialect::engine_io::Revision;
use tickgate_protocol::dialect::engine_io::payload::{self, Item};
use tickgate_protocol::disconnect::Disconnect;
use tickgate_protocol::wire::{Error as WireError, Message};

use body::Body;
pub(super) use body::Polling;
pub(super) use upgrade::PROBE_MS;

const NOT_POLLING: PollError = PollError::BadRequest("the session uses a WebSocket");
const NO_UPGRADE: PollError = PollError::BadRequest("the session has a WebSocket already");
const BAD_PAYLOAD: &str = "body is not a payload of Engine.IO packets";

impl ShardCore {
    /// Opens a session. Its first GET waits for the `open` packet already.
    pub(super) fn open_session(&mut self, open: Open, now: Now) {
        let arrival = Arrival {
            settings: open.settings,
            engine_io: Some(open.opening),
            identity: Ok(None),
            address: open.address,
            nonce: open.nonce,
            deflate: None,
            permit: open.permit,
        };
        let id = self.adopt(arrival, now);
        if let Some(slot) = self.connections.slot(id)
            && let Some(transport) = self.connections.cold_mut(slot).and_then(Cold::transport)
            && transport.get(open.number) == PollAdmission::Accepted
        {
            self.attach_get(slot, open.answer);
        }
    }

    /// A request of a session.
    pub(super) fn on_poll(&mut self, poll: Poll, now: Now) {
        let Poll {
            to,
            tenant,
            secret,
            number,
            request,
        } = poll;
        let is_named = |cold: &Cold| cold.session.has_secret(&secret);
        let mut slot = self.connections.slot(to);
        slot = slot.filter(|slot| self.connections.endpoint(*slot).settings.tenant == tenant);
        slot = slot.filter(|&slot| self.connections.cold(slot).is_some_and(is_named));
        if let Some(overdue) = slot
            && self.connections.is_overdue(overdue, now)
        {
            // A session whose time is over is not served any more. Its timer has not expired yet.
            self.tell(overdue, Input::Timer, now);
            slot = self.connections.slot(to);
        }
        let open = slot.filter(|&slot| self.connections.is_open(slot));
        match (request, slot, open) {
            (PollRequest::Get(reply), Some(slot), _) => {
                let _ = reply.send(self.get(slot, number, now));
            }
            (PollRequest::PostHead(reply), _, Some(slot)) => {
                let transport = self.connections.cold_mut(slot).and_then(Cold::transport);
                let admission = transport.map(|transport| transport.post(number));
                let concurrent = "another POST of the session is under way";
                let _ = reply.send(self.admit_poll(slot, admission, concurrent, now));
            }
            (PollRequest::PostBody(body, reply), _, Some(slot)) => self.posted(slot, number, body, reply, now),
            (PollRequest::MayUpgrade(reply), _, Some(slot)) => {
                let transport = self.connections.cold(slot).and_then(|cold| cold.session.transport());
                let may_upgrade = transport
                    .copied()
                    .is_some_and(|mut transport| transport.add_candidate());
                let _ = reply.send(if may_upgrade { Ok(()) } else { Err(NO_UPGRADE) });
            }
            (PollRequest::PostFailed(ending), _, Some(slot)) => self.tell(slot, Input::End(ending), now),
            (PollRequest::Gone, Some(slot), _) => self.client_gone(slot, number, now),
            // The session has ended, and its last packets wait for a GET. POSTs are accepted and discarded meanwhile, as
            // the input of a closing socket is. If they were refused, the client would take its transport for broken and
            // not send that GET.
            (PollRequest::PostHead(reply) | PollRequest::PostBody(_, reply), Some(slot), None)
                if self.connections.hot(slot).flags.has(Flags::POLLING) =>
            {
                let _ = reply.send(Ok(()));
            }
            (PollRequest::Get(reply), None, _) => {
                let _ = reply.send(Err(PollError::UnknownSession));
            }
            (
                PollRequest::PostHead(reply) | PollRequest::PostBody(_, reply) | PollRequest::MayUpgrade(reply),
                _,
                None,
            ) => {
                let _ = reply.send(Err(PollError::UnknownSession));
            }
            (PollRequest::PostFailed(_), _, None) | (PollRequest::Gone, None, _) => {}
        }
    }

    // Two polls of one kind at a time end the session: the client is confused, or two clients use it.
    fn admit_poll(
        &mut self,
        slot: u32,
        admission: Option<PollAdmission>,
        concurrent: &'static str,
        now: Now,
    ) -> Result<(), PollError> {
        match admission {
            Some(PollAdmission::Accepted) => Ok(()),
            Some(PollAdmission::Concurrent) => {
                self.tell(slot, Input::Malformed(WireError::Protocol(concurrent)), now);
                Err(PollError::BadRequest(concurrent))
            }
            Some(PollAdmission::NotPolling) | None => Err(NOT_POLLING),
        }
    }

    fn get(&mut self, slot: u32, number: u64, now: Now) -> Result<oneshot::Receiver<Bytes>, PollError> {
        let transport = self.connections.cold_mut(slot).and_then(Cold::transport);
        let admission = transport.map(|transport| transport.get(number));
        let concurrent = "another GET of the session is waiting";
        self.admit_poll(slot, admission, concurrent, now)?;
        if let Some(cold) = self.connections.cold_mut(slot) {
            cold.session.polled(now);
        }
        let (answer, receiver) = oneshot::channel();
        self.attach_get(slot, answer);
        Ok(receiver)
    }

    // A GET waits from now on: it takes out what is queued, like a socket that is writable again.
    fn attach_get(&mut self, slot: u32, answer: oneshot::Sender<Bytes>) {
        if let Some(Connection { hot, cold, .. }) = self.connections.get(slot) {
            cold.polls_or_new().get = Some(answer);
            hot.flags.clear(Flags::BLOCKED);
            self.fanout.outgoing_mut().mark_dirty(slot, hot);
        }
    }

    fn posted(
        &mut self,
        slot: u32,
        number: u64,
        body: Bytes,
        answer: oneshot::Sender<Result<(), PollError>>,
        now: Now,
    ) {
        self.metrics.bytes_in.bump(body.len() as u64);
        self.connections.count_in(slot, body.len());
        let Some(cold) = self.connections.cold_mut(slot) else {
            return;
        };
        if !cold.transport().is_some_and(|transport| transport.is_posting(number)) {
            let _ = answer.send(Err(NOT_POLLING));
            return;
        }
        cold.polls_or_new().post = Some(Post {
            body,
            position: Some(0),
            answer,
        });
        self.feed_post(slot, now);
    }

    /// Hands the packets of a POST to the session, as many as it takes. The POST is answered when the session has taken all
    /// of them, so that a client whose messages have to wait does not send further ones.
    pub(super) fn feed_post(&mut self, slot: u32, now: Now) {
        while self.connections.is_open(slot)
            && let Some(mut connection) = self.connections.get(slot)
        {
            if !connection.takes_input() {
                connection.hot.flags.set(Flags::PAUSED);
                return;
            }
            let revision = connection.cold.revision();
            let Some(post) = connection.cold.polls().and_then(|polls| polls.post.as_mut()) else {
                return;
            };
            // Cloning takes a reference; the body is not copied.
            let body = post.body.clone();
            let item = payload::next(revision, &body, &mut post.position);
            let input = match &item {
                None => return finish_post(connection.cold),
                Some(Ok(Item::Text(packet))) => Input::Frame(Message::Text(packet)),
                Some(Ok(Item::Binary(data))) => Input::Frame(Message::Binary(data)),
                Some(Err(payload::BadPayload)) => Input::Malformed(WireError::Protocol(BAD_PAYLOAD)),
            };
            self.metrics.messages_in.bump(1);
            self.sessions.handle(&mut connection, input, now);
            self.carry_out(slot, now);
        }
    }

    fn client_gone(&mut self, slot: u32, number: u64, now: Now) {
        let transport = self.connections.cold_mut(slot).and_then(Cold::transport);
        if !transport.is_some_and(|transport| transport.ends_with_request(number)) {
            return;
        }
        if self.connections.is_open(slot) {
            self.tell(slot, Input::Lost, now);
        } else {
            self.remove(slot);
        }
    }

    /// Answers the GETs for which something is queued. To be called once a turn, after all sockets were written to.
    pub fn serve_polls(&mut self, now: Now) {
        for _ in 0..self.fanout.outgoing().polls() {
            let Some(slot) = self.fanout.outgoing_mut().pop_poll() else {
                return;
            };
            let flags = &mut self.connections.hot_mut(slot).flags;
            if flags.has(Flags::POLLING) && flags.has(Flags::DIRTY) {
                flags.clear(Flags::DIRTY);
                self.serve_poll(slot, now);
            }
        }
    }

    /// Whether [`ShardCore::serve_polls`] may have something to do.
    #[must_use]
    pub fn has_polls(&self) -> bool {
        self.fanout.outgoing().polls() > 0
    }

    fn serve_poll(&mut self, slot: u32, now: Now) {
        let Some(Connection { id, cold, .. }) = self.connections.get(slot) else {
            return;
        };
        let answers_at_once = cold
            .transport()
            .is_some_and(|transport| transport.answers_gets_at_once());
        let revision = cold.revision();
        let waiting = cold.polls().and_then(|polls| polls.get.take());
        // If the client of the GET has gone, a message will say so. Until then nothing is taken out.
        let Some(answer) = waiting.filter(|answer| !answer.is_closed()) else {
            return self.blocked(id, now);
        };
        let mut body = self.take_out(id, revision, now);
        if body.is_end {
            // Dropping `answer` refuses the GET.
            return;
        }
        if body.bytes.is_empty() {
            if !answers_at_once {
                if let Some(polls) = self.connections.cold_mut(slot).and_then(Cold::polls) {
                    polls.get = Some(answer);
                }
                return;
            }
            body.push(revision, "6");
        }
        self.metrics.polls.bump(1);
        // If the client goes at this moment, a message will say so and end the session.
        let _ = answer.send(body.bytes.into());
        // The connection may have been removed with its last frame.
        if let Some(slot) = self.connections.slot(id) {
            if let Some(transport) = self.connections.cold_mut(slot).and_then(Cold::transport) {
                transport.get_answered();
            }
            self.blocked(id, now);
        }
    }

    // Takes the queued frames out of the outbox, as the body of one answer.
    fn take_out(&mut self, id: ConnectionId, revision: Revision, now: Now) -> Body {
        let mut body = Body::default();
        while let Some(slot) = self.connections.slot(id) {
            let mut slices = [IoSlice::new(&[]); 64];
            let allowed = self.allowed_bytes(slot, now);
            if allowed == 0 {
                break;
            }
            let until = self.prepare(slot, slices.len(), now);
            let outgoing = self.fanout.outgoing();
            let filled = outgoing.gather(self.connections.hot(slot), until, &mut slices);
            let filled = within(&slices[..filled], allowed);
            let taken = self.polling.append(revision, &slices[..filled], &mut body);
            if taken.bytes == 0 || self.sent(id, taken.bytes, now) == Sent::Drained || taken.is_full {
                break;
            }
        }
        self.polling.shrink();
        body
    }

    /// The session of a polling connection has ended. Returns whether the connection is to be removed at once, since no
    /// GET is there or will come for the last packets.
    pub(super) fn end_polls(&mut self, slot: u32, ending: Disconnect) -> bool {
        let Some(cold) = self.connections.cold_mut(slot) else {
            return false;
        };
        let reason = cold.session.ending_reason().unwrap_or(ending.reason());
        let Some(polls) = cold.polls() else {
            return false;
        };
        polls.ending = Some(ending);
        let waits = polls.get.as_ref().is_some_and(|get| !get.is_closed());
        if let Some(Post { answer, .. }) = polls.post.take() {
            // The POST is accepted if its packet ended the session in order, or if the client is still told why the
            // session ended. It is refused if it broke the protocol.
            let is_accepted = ending == Disconnect::Normal || awaits_final_poll(ending);
            let _ = answer.send(if is_accepted {
                Ok(())
            } else {
                Err(PollError::BadRequest(reason))
            });
        }
        !waits && !awaits_final_poll(ending)
    }
}

fn finish_post(cold: &mut Cold) {
    if let Some(transport) = cold.transport() {
        transport.post_finished();
    }
    if let Some(post) = cold.polls().and_then(|polls| polls.post.take()) {
        let _ = post.answer.send(Ok(()));
    }
}
