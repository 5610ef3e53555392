//! One connection while it speaks HTTP: how long it may, whether it has a place among the pending ones, and whether what
//! it was answered is written.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{CONNECTION, HeaderValue};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::serve::Pending;
use super::visitor::{Admission, Refusal};
use super::{Door, polling};
use crate::ingress::http::Socket;
use crate::ingress::http::response::HttpResponse;

/// Requests on one connection that are no polls; the last is answered with `Connection: close`. So few that their
/// answers fit into any socket's buffer: hyper gives the socket back as soon as a 101 is written to its own, and what a
/// client that does not read left there would be lost. Polls of a session are not counted, for a connection may carry any
/// number of them, of any length; so a socket is taken over only when all is written ([`Visit::is_flushed`]). What opens a
/// session is counted: a connection opens few.
const REQUESTS_MAX: u32 = 32;

/// However a client spends it: after so long a connection that still speaks HTTP is closed, unless it polls.
const LIFETIME: Duration = Duration::from_secs(60);

/// One connection while it speaks HTTP.
pub(super) struct Visit {
    pub(super) door: Arc<Door>,
    /// Who speaks to us: the PROXY header's client, else the peer; `None` on a Unix socket.
    pub(super) hop: Option<IpAddr>,
    pub(super) requests: AtomicU32,
    // Those among them that are no polls.
    counted: AtomicU32,
    flushed: Arc<AtomicBool>,
    pub(super) state: Mutex<State>,
}

pub(super) struct State {
    started: Instant,
    admission: Option<Admission>,
    // Its share of the pending connections. One that waits for its session's packets gives it back meanwhile.
    place: Option<Pending>,
    // Requests that wait for a session, however long it takes.
    waiting: u32,
    // The poll whose answer is being written.
    pub(super) unwritten: Option<polling::Client>,
}

impl Visit {
    pub(super) fn new(door: Arc<Door>, hop: Option<IpAddr>, socket: &Socket, place: Pending) -> Arc<Self> {
        Arc::new(Self {
            door,
            hop,
            requests: AtomicU32::new(0),
            counted: AtomicU32::new(0),
            flushed: socket.flushed(),
            state: Mutex::new(State {
                started: Instant::now(),
                admission: None,
                place: Some(place),
                waiting: 0,
                unwritten: None,
            }),
        })
    }

    /// Whether it has asked for anything yet.
    pub(super) fn has_asked(&self) -> bool {
        self.requests.load(Relaxed) > 0
    }

    /// When it is over by itself.
    pub(super) fn deadline(&self) -> Instant {
        let state = self.state.lock();
        if state.waiting > 0 {
            Instant::now() + LIFETIME
        } else {
            state.started + LIFETIME
        }
    }

    /// Whether everything that was answered before is written.
    pub(super) fn is_flushed(&self) -> bool {
        self.flushed.load(Relaxed)
    }

    /// What an upgrade was answered for.
    pub(super) fn admit(&self, admission: Admission) {
        self.state.lock().admission = Some(admission);
    }

    /// The connection speaks HTTP no more: what was let in, if anything.
    pub(super) fn finish(&self) -> Option<Admission> {
        let mut state = self.state.lock();
        if let Some(client) = state.unwritten.take().filter(|_| self.is_flushed()) {
            client.served();
        }
        state.admission.take()
    }

    /// The answer to a poll is about to be written.
    pub(super) fn writes(&self, client: polling::Client) {
        self.state.lock().unwritten = Some(client);
    }

    /// A request waits for its session from here on, until this is dropped.
    pub(super) fn wait(self: &Arc<Self>) -> Waiting {
        let address = Arc::as_ptr(self) as usize;
        self.door
            .polling
            .lock()
            .entry(address)
            .or_insert_with(|| Arc::downgrade(self));
        let mut state = self.state.lock();
        state.waiting += 1;
        state.place = None;
        Waiting(Arc::clone(self))
    }

    /// Whether a poll waits, or its answer to be written.
    pub(super) fn is_answering(&self) -> bool {
        self.state.lock().waiting > 0 || !self.is_flushed()
    }

    pub(super) fn has_place(&self) -> bool {
        self.state.lock().place.is_some()
    }

    /// The answer to what is no poll, the last one if there were many or if its request has a body that nobody reads.
    pub(super) fn counted(&self, answer: HttpResponse, has_body: bool) -> HttpResponse {
        let count = self.counted.fetch_add(1, Relaxed) + 1;
        self.last(answer, count >= REQUESTS_MAX || has_body || !self.has_place())
    }

    pub(super) fn last(&self, mut answer: HttpResponse, is_last: bool) -> HttpResponse {
        if is_last && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            answer
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }

    pub(super) fn refused(&self, Refusal(why, answer): Refusal, path: &str) -> HttpResponse {
        self.door.stats.refuse(why);
        // Never the query: the token stands there.
        tracing::debug!(why = why.label(), path, hop = ?self.hop, "refused");
        *answer
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.door.polling.lock().remove(&(std::ptr::from_ref(self) as usize));
    }
}

/// A request that waits for its session. It needs no place among the pending connections: there are at most two of a
/// session, and the session has a place of its own.
pub(super) struct Waiting(Arc<Visit>);

impl Drop for Waiting {
    fn drop(&mut self) {
        let door = &self.0.door;
        let place = Arc::clone(&door.pending).try_acquire_owned().ok();
        let mut state = self.0.state.lock();
        // There is an answer to write.
        self.0.flushed.store(false, Relaxed);
        state.waiting -= 1;
        state.started = Instant::now();
        // Without a place the connection ends with this answer.
        state.place = place.map(|place| Pending::count(&door.stats, place));
    }
}
