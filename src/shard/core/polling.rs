//! Sessions without a socket: GETs take out what is queued, POSTs bring packets in, and a socket may take over.
//!
//! Invariants: a GET's answer is what a socket would have been written, in the same order, taken out of the outbox by
//! [`ShardCore::pending`] and [`ShardCore::sent`]; it is taken out only for a GET whose client is still there. A session that
//! is polled is blocked while no GET waits, so that its bounds and what is dropped are those of a socket that takes no
//! more. Once the socket has taken over nothing leaves by a poll.

use std::io::IoSlice;
use std::mem;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{Action, Arrival, ShardCore, decoder};
use crate::session::Input;
use crate::session::transport::{CandidateAction, PollAdmission, Transport, awaits_final_poll};
use crate::shard::connection::{Cold, Flags, Polling, Post, Stage};
use crate::shard::frame::Frame;
use crate::shard::mailbox::ConnectionId;
use crate::shard::mailbox::polling::{Open, Poll, PollError, PollRequest};
use crate::time::Now;
use tickgate_protocol::dialect::engine_io::payload::{self, Item};
use tickgate_protocol::dialect::engine_io::{Revision, SECRET_BYTES};
use tickgate_protocol::disconnect::Disconnect;
use tickgate_protocol::wire::encode::{self, first};
use tickgate_protocol::wire::{Decoder, Deflate, Message};

/// One answer holds no more, unless a single packet does.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// A message on a socket that does not carry its session yet is no longer: `2probe`, `5`. So what is received of one is
/// too little to count against the bound of half-received messages.
const PROBE_BYTES_MAX: u32 = 16;

/// A socket that has not completed its probe by then is dropped; the session goes on polling.
const PROBE_MS: u64 = 10_000;

impl ShardCore {
    /// Opens a session; its first GET waits for the `open` packet already.
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
        if let Some(slot) = self.slot(id)
            && let Some(transport) = self.cold[slot].as_mut().and_then(|cold| cold.session.transport_mut())
            && transport.get(open.number) == PollAdmission::Accepted
        {
            self.attach_get(slot, open.answer);
        }
    }

    /// A request of a session.
    pub(super) fn on_poll(&mut self, poll: Poll, now: Now) {
        let Poll {
            to,
            secret,
            number,
            request,
        } = poll;
        let named = |cold: &Cold| cold.session.has_secret(&secret);
        let mut slot = self
            .slot(to)
            .filter(|&slot| self.cold[slot].as_ref().is_some_and(named));
        if let Some(due) = slot
            && self.is_overdue(due, now)
        {
            // The timer is about to say so; a session whose time is over is not served any more.
            self.tell(due, Input::Timer, now);
            slot = self.slot(to);
        }
        let open = slot.filter(|&slot| self.hot[slot].stage == Stage::Open);
        match (request, slot, open) {
            (PollRequest::Get(reply), Some(slot), _) => {
                let _ = reply.send(self.get(slot, number, now));
            }
            (PollRequest::PostHead(reply), _, Some(slot)) => {
                let _ = reply.send(self.begin_post(slot, number, now));
            }
            (PollRequest::PostBody(body, reply), _, Some(slot)) => self.posted(slot, number, body, reply, now),
            (PollRequest::MayUpgrade(reply), _, Some(slot)) => {
                let wanted = self.cold[slot]
                    .as_ref()
                    .and_then(|cold| cold.session.transport().copied());
                let is_wanted = wanted.is_some_and(|mut transport| transport.add_candidate());
                let _ = reply.send(if is_wanted { Ok(()) } else { Err(PollError::BadRequest) });
            }
            (PollRequest::PostFailed(ending), _, Some(slot)) => self.tell(slot, Input::End(ending), now),
            (PollRequest::Gone, Some(slot), _) => self.client_gone(slot, number, now),
            // Its last words wait for a GET. What it says meanwhile is thrown away as a socket's is: refused, it would take
            // its transport for broken, and not hear them.
            (PollRequest::PostHead(reply) | PollRequest::PostBody(_, reply), Some(slot), None)
                if self.hot[slot].flags.has(Flags::POLLING) =>
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

    fn is_overdue(&self, slot: u32, now: Now) -> bool {
        let cold = self.cold[slot].as_ref();
        self.hot[slot].stage == Stage::Open && cold.is_some_and(|cold| cold.session.next_deadline_ms() <= now.mono_ms)
    }

    fn get(&mut self, slot: u32, number: u64, now: Now) -> Result<oneshot::Receiver<Bytes>, PollError> {
        let transport = self.cold[slot].as_mut().and_then(|cold| cold.session.transport_mut());
        match transport.map(|transport| transport.get(number)) {
            Some(PollAdmission::Accepted) => {
                let (answer, receiver) = oneshot::channel();
                self.attach_get(slot, answer);
                Ok(receiver)
            }
            Some(PollAdmission::Concurrent) => {
                self.end_polling(slot, now);
                Err(PollError::BadRequest)
            }
            Some(PollAdmission::NotPolling) | None => Err(PollError::BadRequest),
        }
    }

    // Somebody takes what is queued again, and may have waited for it already.
    fn attach_get(&mut self, slot: u32, answer: oneshot::Sender<Bytes>) {
        if let Some(cold) = &mut self.cold[slot] {
            cold.extra().polling.get_or_insert_default().get = Some(answer);
            let hot = &mut self.hot[slot];
            hot.flags.clear(Flags::BLOCKED);
            self.outgoing.mark_dirty(slot, hot);
        }
    }

    fn begin_post(&mut self, slot: u32, number: u64, now: Now) -> Result<(), PollError> {
        let transport = self.cold[slot].as_mut().and_then(|cold| cold.session.transport_mut());
        match transport.map(|transport| transport.post(number)) {
            Some(PollAdmission::Accepted) => Ok(()),
            Some(PollAdmission::Concurrent) => {
                self.end_polling(slot, now);
                Err(PollError::BadRequest)
            }
            Some(PollAdmission::NotPolling) | None => Err(PollError::BadRequest),
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
        self.stats.bytes_in.bump(body.len() as u64);
        let Some(cold) = &mut self.cold[slot] else { return };
        if !cold
            .session
            .transport()
            .is_some_and(|transport| transport.is_posting(number))
        {
            let _ = answer.send(Err(PollError::BadRequest));
            return;
        }
        cold.extra().polling.get_or_insert_default().post = Some(Post {
            body,
            position: Some(0),
            answer,
        });
        self.feed_post(slot, now);
    }

    /// Hands the packets of a POST to the session, as many as it takes. When it has taken all the POST is answered, so
    /// that a client whose messages must wait waits with the next ones.
    pub(super) fn feed_post(&mut self, slot: u32, now: Now) {
        loop {
            if self.hot[slot].stage != Stage::Open {
                return;
            }
            if !self.takes_input(slot) {
                self.hot[slot].flags.set(Flags::PAUSED);
                return;
            }
            let Some(cold) = &mut self.cold[slot] else { return };
            let revision = cold.session.revision().unwrap_or(Revision::Four);
            let Some(post) = cold.polling().and_then(|polling| polling.post.as_mut()) else {
                return;
            };
            // A reference: the body itself stays where it is.
            let body = post.body.clone();
            let item = payload::next(revision, &body, &mut post.position);
            let input = match &item {
                None => return self.finish_post(slot),
                Some(Ok(Item::Text(packet))) => Input::Frame(Message::Text(packet)),
                Some(Ok(Item::Binary(data))) => Input::Frame(Message::Binary(data)),
                Some(Err(payload::BadPayload)) => Input::End(Disconnect::Protocol),
            };
            self.stats.messages_in.bump(1);
            self.handle(slot, input, now);
            self.carry_out(slot, now);
        }
    }

    fn finish_post(&mut self, slot: u32) {
        let Some(cold) = &mut self.cold[slot] else { return };
        if let Some(transport) = cold.session.transport_mut() {
            transport.post_finished();
        }
        if let Some(post) = cold.polling().and_then(|polling| polling.post.take()) {
            let _ = post.answer.send(Ok(()));
        }
    }

    // Two polls of one kind at a time: the client is confused, or two are one.
    fn end_polling(&mut self, slot: u32, now: Now) {
        self.tell(slot, Input::End(Disconnect::Protocol), now);
    }

    fn client_gone(&mut self, slot: u32, number: u64, now: Now) {
        let transport = self.cold[slot].as_ref().and_then(|cold| cold.session.transport());
        if !transport.is_some_and(|transport| transport.ends_with_request(number)) {
            return;
        }
        if self.hot[slot].stage == Stage::Open {
            self.tell(slot, Input::Lost, now);
        } else {
            self.remove(slot);
        }
    }

    /// Answers the GETs for which there is something. Once a turn, when everybody else was written.
    pub fn serve_polls(&mut self, now: Now) {
        for _ in 0..self.outgoing.polls.len() {
            let Some(slot) = self.outgoing.polls.pop_front() else {
                return;
            };
            let flags = &mut self.hot[slot].flags;
            if flags.has(Flags::POLLING) && flags.has(Flags::DIRTY) {
                flags.clear(Flags::DIRTY);
                self.serve_poll(slot, now);
            }
        }
    }

    /// Whether [`ShardCore::serve_polls`] may find one.
    #[must_use]
    pub fn has_polls(&self) -> bool {
        !self.outgoing.polls.is_empty()
    }

    fn serve_poll(&mut self, slot: u32, now: Now) {
        let id = self.id(slot);
        let Some(cold) = &mut self.cold[slot] else { return };
        let answers_gets_at_once = cold
            .session
            .transport()
            .is_some_and(|transport| transport.answers_gets_at_once());
        let revision = cold.session.revision().unwrap_or(Revision::Four);
        let waiting = cold.polling().and_then(|polling| polling.get.take());
        // Whoever has gone away is told of by a message of its own: until then nothing is taken out.
        let Some(answer) = waiting.filter(|answer| !answer.is_closed()) else {
            return self.blocked(id, now);
        };
        let mut body = self.take_out(id, revision, now);
        if body.is_empty() {
            if !answers_gets_at_once {
                if let Some(polling) = self.cold[slot].as_mut().and_then(Cold::polling) {
                    polling.get = Some(answer);
                }
                return;
            }
            payload::append(revision, "6", &mut body);
        }
        self.stats.polls.bump(1);
        // When its client is gone in this very moment, that is told by a message, too, and ends the session.
        let _ = answer.send(body.into());
        // Its last words may have been the end of it.
        if let Some(slot) = self.slot(id) {
            if let Some(transport) = self.cold[slot].as_mut().and_then(|cold| cold.session.transport_mut()) {
                transport.get_answered();
            }
            self.blocked(id, now);
        }
    }

    // The payloads of the frames that wait, as one body.
    fn take_out(&mut self, id: ConnectionId, revision: Revision, now: Now) -> Vec<u8> {
        let mut body = Vec::new();
        let mut frames = mem::take(&mut self.poll_scratch);
        loop {
            let mut slices = [IoSlice::new(&[]); 64];
            let filled = self.pending(id, now, &mut slices);
            frames.clear();
            for slice in &slices[..filled] {
                frames.extend_from_slice(slice);
            }
            let mut taken = 0;
            let mut is_full = false;
            while let Some(frame) = first(&frames[taken..]) {
                // The end of the transport goes alone: official clients see to it at once and to messages a moment later,
                // so that what stood before it in one answer would not be heard.
                let is_close = frame.payload == b"1";
                if !body.is_empty() && (is_close || body.len() + frame.payload.len() > ANSWER_BYTES_MAX) {
                    is_full = true;
                    break;
                }
                // Control frames are a socket's.
                if frame.is_text
                    && let Ok(packet) = str::from_utf8(frame.payload)
                {
                    payload::append(revision, packet, &mut body);
                }
                taken += frame.bytes;
            }
            if taken == 0 {
                break;
            }
            let sent = self.sent(id, taken, now);
            if is_full || sent == super::Sent::Drained {
                break;
            }
        }
        frames.clear();
        frames.shrink_to(ANSWER_BYTES_MAX);
        self.poll_scratch = frames;
        body
    }

    /// A socket for a session that polls; its bytes are the next [`ShardCore::on_bytes`] of the connection. `None`: it is
    /// not wanted, close it.
    pub fn adopt_candidate(
        &mut self,
        to: ConnectionId,
        secret: &[u8; SECRET_BYTES],
        deflate: Option<Deflate>,
        now: Now,
    ) -> Option<ConnectionId> {
        let slot = self.open(to)?;
        let cold = self.cold[slot].as_mut()?;
        if !cold.session.has_secret(secret) || !cold.session.transport_mut()?.add_candidate() {
            return None;
        }
        cold.decoder = decoder(PROBE_BYTES_MAX, deflate);
        let polling = cold.extra().polling.get_or_insert_default();
        polling.deflate = deflate;
        polling.probe_deadline_ms = now.mono_ms + PROBE_MS;
        self.arm(slot);
        Some(to)
    }

    /// Bytes from a socket that does not carry its session yet.
    pub(super) fn feed_candidate(&mut self, slot: u32, input: &mut [u8], now: Now) {
        let mut position = 0;
        loop {
            let Some(cold) = &mut self.cold[slot] else { return };
            let said = match cold.decoder.next(input, &mut position, &mut self.inflater) {
                Ok(None) => return,
                Ok(Some(Message::Text(text))) => cold
                    .session
                    .transport_mut()
                    .map(|transport| transport.on_candidate_text(text)),
                Ok(Some(_)) | Err(_) => None,
            };
            match said {
                Some(CandidateAction::AnswerProbe) => {
                    let id = self.id(slot);
                    self.actions.push_back(Action::AnswerProbe(id));
                    // A GET that waits keeps the client from going on.
                    self.outgoing.mark_dirty(slot, &mut self.hot[slot]);
                }
                Some(CandidateAction::Upgraded) => {
                    self.upgraded(slot, now);
                    return self.on_input(slot, &mut input[position..], now);
                }
                Some(CandidateAction::Drop) | None => return self.abandon_candidate(slot),
            }
        }
    }

    // From here on the socket takes what is queued: also when the session ended while its client, between its last GET and
    // the `5`, had nothing to hear that by.
    fn upgraded(&mut self, slot: u32, now: Now) {
        let Some(cold) = &mut self.cold[slot] else { return };
        let revision = cold.session.revision().unwrap_or(Revision::Four);
        let has_post = cold.session.transport().is_some_and(Transport::has_post);
        let polling = cold.extra.as_deref_mut().and_then(|extra| extra.polling.take());
        let Polling {
            get,
            post,
            deflate,
            ending,
            ..
        } = polling.map(|polling| *polling).unwrap_or_default();
        let before = self.hot[slot].endpoint;
        let settings = self.endpoints[usize::from(before)].settings.clone();
        // What follows is as long as messages may be; the decoder stands between two of them.
        cold.decoder = decoder(settings.limits.message_bytes, deflate);
        if deflate.is_some() {
            // Events come compressed from here on; what is queued is what it is.
            self.hot[slot].endpoint = self.endpoint(&settings, deflate);
            self.leave_endpoint(before);
        }
        if let Some(answer) = get {
            let mut body = Vec::new();
            payload::append(revision, "6", &mut body);
            let _ = answer.send(body.into());
        }
        let hot = &mut self.hot[slot];
        if let Some(ending) = ending {
            let mut close = Vec::new();
            encode::close(&mut close, ending);
            hot.outbox
                .push_last(&mut self.outgoing.pool, Frame::reply(close.into()));
        }
        hot.flags.clear(Flags::POLLING | Flags::BLOCKED | Flags::DIRTY);
        self.outgoing.mark_dirty(slot, hot);
        self.stats.polling.add(-1);
        self.stats.transports_upgraded.bump(1);
        self.arm(slot);
        if let Some(Post { answer, .. }) = post {
            let _ = answer.send(Err(PollError::BadRequest));
        }
        if has_post && ending.is_none() {
            // What it brings, or brought and was not read yet, would come behind what the socket brings.
            self.end_polling(slot, now);
        }
    }

    /// Forgets a socket that does not carry its session; the session goes on polling.
    pub(super) fn abandon_candidate(&mut self, slot: u32) {
        let id = self.id(slot);
        let Some(cold) = &mut self.cold[slot] else { return };
        if let Some(transport) = cold.session.transport_mut() {
            transport.drop_candidate();
        }
        if let Some(polling) = cold.polling() {
            polling.probe_deadline_ms = 0;
        }
        // What was received of a message goes with its socket.
        cold.decoder = Decoder::new(0);
        self.actions.push_back(Action::Drop(id));
    }

    /// When a socket's probe must be complete; 0: there is none.
    pub(super) fn probe_deadline_ms(&self, slot: u32) -> u64 {
        let extra = self.cold[slot].as_ref().and_then(|cold| cold.extra.as_deref());
        extra
            .and_then(|extra| extra.polling.as_deref())
            .map_or(0, |polling| polling.probe_deadline_ms)
    }

    /// The session of a connection that is polled is over. Whether nobody is waited for: then it is to be removed.
    pub(super) fn end_polls(&mut self, slot: u32, ending: Disconnect) -> bool {
        let Some(cold) = &mut self.cold[slot] else { return false };
        let Some(polling) = cold.polling() else { return false };
        polling.ending = Some(ending);
        let waits = polling.get.as_ref().is_some_and(|get| !get.is_closed());
        if let Some(Post { answer, .. }) = polling.post.take() {
            // The packet that ended it was the last of what the client had to say, or broke the protocol; or it is told why
            // nothing more was read.
            let is_fine = ending == Disconnect::Normal || awaits_final_poll(ending);
            let _ = answer.send(if is_fine { Ok(()) } else { Err(PollError::BadRequest) });
        }
        !waits && !awaits_final_poll(ending)
    }
}
