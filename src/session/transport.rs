//! What carries an Engine.IO session: long polling, a WebSocket, or the one on its way to the other.
//!
//! ```text
//!              socket arrives               "2probe"                "5"
//!   Polling ------------------> Candidate ------------> Probing ----------> WebSocket
//!      ^                            |                      |
//!      +------- socket lost, anything else said on it -----+
//! ```
//!
//! Invariants: there is at most one GET, one POST and one socket at a time; what is queued leaves through the polls
//! until the `5` has come and through the socket from then on, so it is never on two ways at once. While the client
//! probes it waits for its GET to end, so no GET waits then: it gets what there is, or a NOOP.

use tickgate_protocol::disconnect::Disconnect;

/// The state of a session's transport. Pure: what it says is done by the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    carrier: Carrier,
    // The newest GET, and whether it waits.
    get: u64,
    waits: bool,
    // The POST whose body is on its way or not read to its end yet.
    post: Option<u64>,
}

/// What carries the session now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// GETs and POSTs.
    Polling,
    /// The same; a socket has come and said nothing yet.
    Candidate,
    /// The same; the socket was probed and GETs are answered at once.
    Probing,
    /// A socket alone.
    WebSocket,
}

/// What to do with a poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is the one of its kind: go on.
    Taken,
    /// The session polls no more: 400, and nothing else.
    NotPolling,
    /// There is one of its kind already: 400, and the session ends.
    Concurrent,
}

/// What a packet on the candidate socket comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Answer `3probe` on the socket, and a waiting GET with a NOOP.
    AnswerProbe,
    /// The socket carries the session from here on.
    Upgraded,
    /// Close the socket; the session goes on polling.
    Abandon,
}

impl Transport {
    /// A session opened by a poll.
    #[must_use]
    pub const fn polling() -> Self {
        Self {
            carrier: Carrier::Polling,
            get: 0,
            waits: false,
            post: None,
        }
    }

    /// A session opened by a WebSocket.
    #[must_use]
    pub const fn web_socket() -> Self {
        Self {
            carrier: Carrier::WebSocket,
            ..Self::polling()
        }
    }

    /// What carries it.
    #[must_use]
    pub const fn carrier(&self) -> Carrier {
        self.carrier
    }

    /// Its name for operators: a session that probes still polls.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self.carrier {
            Carrier::Polling | Carrier::Candidate | Carrier::Probing => "polling",
            Carrier::WebSocket => "websocket",
        }
    }

    /// Whether polls carry it.
    #[must_use]
    pub const fn is_polling(&self) -> bool {
        !matches!(self.carrier, Carrier::WebSocket)
    }

    /// A GET, by its number.
    pub const fn get(&mut self, number: u64) -> Admission {
        if !self.is_polling() {
            return Admission::NotPolling;
        }
        if self.waits {
            return Admission::Concurrent;
        }
        self.get = number;
        self.waits = true;
        Admission::Taken
    }

    /// Whether a GET waits to be answered.
    #[must_use]
    pub const fn has_get(&self) -> bool {
        self.waits
    }

    /// Whether a GET with nothing to tell is answered all the same.
    #[must_use]
    pub const fn hurries(&self) -> bool {
        matches!(self.carrier, Carrier::Probing)
    }

    /// The GET was answered.
    pub const fn answered(&mut self) {
        self.waits = false;
    }

    /// A POST, by its number.
    pub const fn post(&mut self, number: u64) -> Admission {
        if !self.is_polling() {
            return Admission::NotPolling;
        }
        if self.post.is_some() {
            return Admission::Concurrent;
        }
        self.post = Some(number);
        Admission::Taken
    }

    /// Whether this is the POST that is taken. None is once a socket carries the session: what it brings would come behind
    /// what was sent later.
    #[must_use]
    pub const fn is_posting(&self, number: u64) -> bool {
        self.is_polling() && matches!(self.post, Some(taken) if taken == number)
    }

    /// Whether a POST was begun and not read to its end.
    #[must_use]
    pub const fn has_post(&self) -> bool {
        self.post.is_some()
    }

    /// The POST was read to its end.
    pub const fn posted(&mut self) {
        self.post = None;
    }

    /// The client of a poll is gone before the poll was answered, or before its answer was written. Whether the session
    /// is over by that: what the answer held is lost, and Engine.IO has no second delivery.
    #[must_use]
    pub const fn is_lost_with(&self, number: u64) -> bool {
        self.is_polling() && (self.get == number || self.is_posting(number))
    }

    /// A socket came. `false`: there is one already, it is not wanted.
    pub const fn candidate(&mut self) -> bool {
        if !matches!(self.carrier, Carrier::Polling) {
            return false;
        }
        self.carrier = Carrier::Candidate;
        true
    }

    /// A text message came on the candidate socket.
    pub fn said(&mut self, text: &str) -> Step {
        match (self.carrier, text) {
            (Carrier::Candidate, "2probe") => {
                self.carrier = Carrier::Probing;
                Step::AnswerProbe
            }
            (Carrier::Probing, "5") => {
                self.carrier = Carrier::WebSocket;
                Step::Upgraded
            }
            _ => self.abandon(),
        }
    }

    /// The candidate socket is lost, late, or said what it may not.
    pub const fn abandon(&mut self) -> Step {
        if self.is_polling() {
            self.carrier = Carrier::Polling;
        }
        Step::Abandon
    }
}

/// Whether the last words of a polling session wait for its next GET. They do not when the client left, fell silent or
/// broke the protocol: then it finds the session gone.
#[must_use]
pub const fn waits_for_last_poll(ending: Disconnect) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn probing() -> Transport {
        let mut transport = Transport::polling();
        assert!(transport.candidate());
        assert_eq!(transport.said("2probe"), Step::AnswerProbe);
        transport
    }

    #[test]
    fn a_probe_and_an_upgrade_move_the_session_to_the_socket() {
        let mut transport = Transport::polling();
        assert!(transport.candidate() && !transport.candidate());
        assert!(!transport.hurries());
        assert_eq!(transport.said("2probe"), Step::AnswerProbe);
        assert!(transport.hurries() && transport.is_polling());
        assert_eq!(transport.said("5"), Step::Upgraded);
        assert_eq!(
            (transport.carrier(), transport.name()),
            (Carrier::WebSocket, "websocket")
        );
        assert_eq!(transport.get(1), Admission::NotPolling);
        assert_eq!(transport.post(2), Admission::NotPolling);
        assert!(!transport.candidate());
    }

    #[test]
    fn a_socket_that_says_anything_else_is_dropped_and_another_may_come() {
        for text in ["5", "2", "3probe", "4hello", "", "2probe2"] {
            let mut transport = Transport::polling();
            assert!(transport.candidate());
            assert_eq!(transport.said(text), Step::Abandon, "{text}");
            assert_eq!(transport.carrier(), Carrier::Polling);
            assert!(transport.candidate());
        }
        for text in ["4hello", "2probe"] {
            let mut transport = probing();
            assert_eq!(transport.said(text), Step::Abandon, "{text}");
            assert_eq!(transport.carrier(), Carrier::Polling);
        }
        let mut transport = probing();
        transport.abandon();
        assert!(!transport.hurries() && transport.candidate());
    }

    #[test]
    fn one_get_and_one_post_at_a_time() {
        let mut transport = Transport::polling();
        assert_eq!(transport.get(1), Admission::Taken);
        assert_eq!(transport.post(2), Admission::Taken, "beside each other");
        assert_eq!(transport.get(3), Admission::Concurrent);
        assert_eq!(transport.post(4), Admission::Concurrent);
        transport.answered();
        transport.posted();
        assert_eq!(transport.get(5), Admission::Taken);
        assert_eq!(transport.post(6), Admission::Taken);
        assert!(transport.is_posting(6) && !transport.is_posting(2));
    }

    #[test]
    fn only_the_newest_get_and_an_open_post_take_the_session_with_them() {
        let mut transport = Transport::polling();
        let _ = (transport.get(1), transport.post(2));
        assert!(transport.is_lost_with(1) && transport.is_lost_with(2));
        transport.answered();
        assert!(transport.is_lost_with(1), "answered, and the answer was not written");
        let _ = transport.get(3);
        transport.posted();
        assert!(!transport.is_lost_with(1) && !transport.is_lost_with(2));
        let mut transport = probing();
        let _ = transport.get(1);
        transport.answered();
        transport.said("5");
        assert!(!transport.is_lost_with(1), "the client has gone on to its socket");
        let mut transport = probing();
        let _ = transport.post(1);
        transport.said("5");
        assert!(transport.has_post() && !transport.is_posting(1));
    }
}
