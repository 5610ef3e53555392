//! The transport of an Engine.IO session: long polling, a WebSocket, or an upgrade from the first to the second.
//!
//! ```text
//!              socket arrives               "2probe"                "5"
//!   Polling ------------------> Candidate ------------> Probing ----------> WebSocket
//!      ^                            |                      |
//!      +---- socket lost, or any other text arrived on it -+
//! ```
//!
//! Invariants: there is at most one GET, one POST and one socket at a time. Queued packets leave in answers to GETs
//! until the upgrade packet `5` has arrived, and through the socket from then on, so they never use both at once. While
//! the client probes it waits for its GET to end, so no GET is kept waiting then: it gets the queued packets, or a
//! NOOP.

use tickgate_protocol::disconnect::{Advice, Disconnect};

/// The state of a session's transport. It performs no I/O; the shard acts on what the methods return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    carrier: Carrier,
    // The number of the newest GET, and whether it waits for its answer.
    get: u64,
    get_waits: bool,
    // The number of the POST whose body has not been handled completely.
    post: Option<u64>,
}

/// The means by which packets travel now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// Long polling with GETs and POSTs.
    Polling,
    /// Long polling. A socket was opened for the session, and no probe has arrived on it yet.
    Candidate,
    /// Long polling. The socket was probed, and GETs are answered at once.
    Probing,
    /// A WebSocket.
    WebSocket,
}

/// Whether a GET or POST is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollAdmission {
    /// It is the only one of its kind: handle it.
    Accepted,
    /// The session does not use polling any more: answer 400. The session goes on.
    NotPolling,
    /// There is another one of its kind: answer 400 and end the session.
    Concurrent,
}

/// What to do after a packet on the candidate socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CandidateAction {
    /// Answer `3probe` on the socket, and a waiting GET with a NOOP.
    AnswerProbe,
    /// Use the socket for the session from now on.
    Upgraded,
    /// Close the socket. The session goes on with polling.
    Drop,
}

impl Transport {
    /// The transport of a session that a poll opened.
    #[must_use]
    pub const fn polling() -> Self {
        Self {
            carrier: Carrier::Polling,
            get: 0,
            get_waits: false,
            post: None,
        }
    }

    /// The transport of a session that a WebSocket opened.
    #[must_use]
    pub const fn web_socket() -> Self {
        Self {
            carrier: Carrier::WebSocket,
            ..Self::polling()
        }
    }

    /// The current carrier.
    #[must_use]
    pub const fn carrier(&self) -> Carrier {
        self.carrier
    }

    /// The name shown to operators: `polling` or `websocket`. A session that probes is still polling.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self.carrier {
            Carrier::Polling | Carrier::Candidate | Carrier::Probing => "polling",
            Carrier::WebSocket => "websocket",
        }
    }

    /// Whether packets travel by polling.
    #[must_use]
    pub const fn is_polling(&self) -> bool {
        !matches!(self.carrier, Carrier::WebSocket)
    }

    /// Reports a GET with its number.
    pub const fn get(&mut self, number: u64) -> PollAdmission {
        if !self.is_polling() {
            return PollAdmission::NotPolling;
        }
        if self.get_waits {
            return PollAdmission::Concurrent;
        }
        self.get = number;
        self.get_waits = true;
        PollAdmission::Accepted
    }

    /// Whether a GET waits for its answer.
    #[must_use]
    pub const fn has_get(&self) -> bool {
        self.get_waits
    }

    /// Whether a GET is answered at once even if no packet is queued.
    #[must_use]
    pub const fn answers_gets_at_once(&self) -> bool {
        matches!(self.carrier, Carrier::Probing)
    }

    /// Reports that the GET was answered.
    pub const fn get_answered(&mut self) {
        self.get_waits = false;
    }

    /// Reports a POST with its number.
    pub const fn post(&mut self, number: u64) -> PollAdmission {
        if !self.is_polling() {
            return PollAdmission::NotPolling;
        }
        if self.post.is_some() {
            return PollAdmission::Concurrent;
        }
        self.post = Some(number);
        PollAdmission::Accepted
    }

    /// Whether this is the POST that was accepted. Always `false` once a socket carries the session: the packets of the
    /// POST would take effect after packets that were sent later.
    #[must_use]
    pub const fn is_posting(&self, number: u64) -> bool {
        self.is_polling() && matches!(self.post, Some(taken) if taken == number)
    }

    /// Whether a POST was accepted and not handled completely.
    #[must_use]
    pub const fn has_post(&self) -> bool {
        self.post.is_some()
    }

    /// Reports that the POST was handled completely.
    pub const fn post_finished(&mut self) {
        self.post = None;
    }

    /// Whether the session ends when the client of this request disconnects before the answer was written. The packets
    /// of the answer are lost then, and Engine.IO has no second delivery.
    #[must_use]
    pub const fn ends_with_request(&self, number: u64) -> bool {
        self.is_polling() && (self.get == number || self.is_posting(number))
    }

    /// Reports a new socket. Returns `false` if it is not wanted, because there is one already.
    pub const fn add_candidate(&mut self) -> bool {
        if !matches!(self.carrier, Carrier::Polling) {
            return false;
        }
        self.carrier = Carrier::Candidate;
        true
    }

    /// Reports a text message on the candidate socket.
    pub fn on_candidate_text(&mut self, text: &str) -> CandidateAction {
        match (self.carrier, text) {
            (Carrier::Candidate, "2probe") => {
                self.carrier = Carrier::Probing;
                CandidateAction::AnswerProbe
            }
            (Carrier::Probing, "5") => {
                self.carrier = Carrier::WebSocket;
                CandidateAction::Upgraded
            }
            _ => self.drop_candidate(),
        }
    }

    /// Gives the candidate socket up: it is lost or late, or an unexpected message arrived on it.
    pub const fn drop_candidate(&mut self) -> CandidateAction {
        if self.is_polling() {
            self.carrier = Carrier::Polling;
        }
        CandidateAction::Drop
    }
}

/// Whether the last packets of a polling session are kept for its next GET. They are not if the client left, fell
/// silent or violated the protocol: its next request finds the session gone.
#[must_use]
pub const fn awaits_final_poll(ending: Disconnect) -> bool {
    !matches!(
        ending,
        Disconnect::Normal
            | Disconnect::Lost
            | Disconnect::Protocol
            | Disconnect::Unsupported
            | Disconnect::InvalidUtf8
            | Disconnect::TooBig
            | Disconnect::HeartbeatTimeout
    )
}

/// Whether a polling session ends with a `close` packet. Some libraries do not reconnect after one (`python-socketio`).
/// So a session whose client should reconnect ends with a refused GET instead, as if it had never been.
#[must_use]
pub const fn ends_with_close_packet(ending: Disconnect) -> bool {
    matches!(ending.advice(), Advice::Stay | Advice::ReconnectLater)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probing() -> Transport {
        let mut transport = Transport::polling();
        assert!(transport.add_candidate());
        assert_eq!(transport.on_candidate_text("2probe"), CandidateAction::AnswerProbe);
        transport
    }

    #[test]
    fn a_probe_and_an_upgrade_move_the_session_to_the_socket() {
        let mut transport = Transport::polling();
        assert!(transport.add_candidate() && !transport.add_candidate());
        assert!(!transport.answers_gets_at_once());
        assert_eq!(transport.on_candidate_text("2probe"), CandidateAction::AnswerProbe);
        assert!(transport.answers_gets_at_once() && transport.is_polling());
        assert_eq!(transport.on_candidate_text("5"), CandidateAction::Upgraded);
        assert_eq!(
            (transport.carrier(), transport.name()),
            (Carrier::WebSocket, "websocket")
        );
        assert_eq!(transport.get(1), PollAdmission::NotPolling);
        assert_eq!(transport.post(2), PollAdmission::NotPolling);
        assert!(!transport.add_candidate());
    }

    #[test]
    fn an_unexpected_text_drops_the_candidate_and_another_may_follow() {
        for text in ["5", "2", "3probe", "4hello", "", "2probe2"] {
            let mut transport = Transport::polling();
            assert!(transport.add_candidate());
            assert_eq!(transport.on_candidate_text(text), CandidateAction::Drop, "{text}");
            assert_eq!(transport.carrier(), Carrier::Polling);
            assert!(transport.add_candidate());
        }
        for text in ["4hello", "2probe"] {
            let mut transport = probing();
            assert_eq!(transport.on_candidate_text(text), CandidateAction::Drop, "{text}");
            assert_eq!(transport.carrier(), Carrier::Polling);
        }
        let mut transport = probing();
        transport.drop_candidate();
        assert!(!transport.answers_gets_at_once() && transport.add_candidate());
    }

    #[test]
    fn one_get_and_one_post_are_accepted_at_a_time() {
        let mut transport = Transport::polling();
        assert_eq!(transport.get(1), PollAdmission::Accepted);
        assert_eq!(transport.post(2), PollAdmission::Accepted, "beside each other");
        assert_eq!(transport.get(3), PollAdmission::Concurrent);
        assert_eq!(transport.post(4), PollAdmission::Concurrent);
        transport.get_answered();
        transport.post_finished();
        assert_eq!(transport.get(5), PollAdmission::Accepted);
        assert_eq!(transport.post(6), PollAdmission::Accepted);
        assert!(transport.is_posting(6) && !transport.is_posting(2));
    }

    #[test]
    fn only_the_newest_get_and_an_open_post_end_the_session_when_their_client_is_gone() {
        let mut transport = Transport::polling();
        let _ = (transport.get(1), transport.post(2));
        assert!(transport.ends_with_request(1) && transport.ends_with_request(2));
        transport.get_answered();
        assert!(
            transport.ends_with_request(1),
            "answered, and the answer was not written"
        );
        let _ = transport.get(3);
        transport.post_finished();
        assert!(!transport.ends_with_request(1) && !transport.ends_with_request(2));
        let mut transport = probing();
        let _ = transport.get(1);
        transport.get_answered();
        transport.on_candidate_text("5");
        assert!(!transport.ends_with_request(1), "the client has gone on to its socket");
        let mut transport = probing();
        let _ = transport.post(1);
        transport.on_candidate_text("5");
        assert!(transport.has_post() && !transport.is_posting(1));
    }
}
