//! The state of one connection while it speaks HTTP: its deadline, its pending slot, and whether its responses are
//! written.
//!
//! Invariant: a connection either holds a [`PendingSlot`], or a request of it waits for an Engine.IO session, or its
//! next response is its last one.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use hashbrown::HashMap;
use hyper::StatusCode;
use hyper::header::{CONNECTION, HeaderValue};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::admission::Admission;
use super::http::response::HttpResponse;
use super::http::{EndOfInput, Loss, Socket};
use super::pending::{PendingConnections, PendingSlot};
use super::session_request::PollGuard;

/// Most requests on one connection that are not polls of a session; the last one is answered with `Connection: close`.
///
/// Their responses together fit into any socket's send buffer. This matters because hyper returns the socket as soon as
/// it has buffered a 101; what a client that does not read left in that buffer would be lost. Polls have no such limit,
/// neither in number nor in length, so an upgrade after polls also requires [`HttpConnection::is_flushed`].
const REQUESTS_MAX: u32 = 32;

/// How long a connection may speak HTTP, unless it polls. The first response after that is its last one.
const LIFETIME: Duration = Duration::from_secs(60);

/// How long a request may take, from its head, or from the end of its wait, until its response is written.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

/// One connection while it speaks HTTP.
pub(super) struct HttpConnection {
    /// The last hop in front of the gateway: the client that the PROXY header names, else the peer; `None` for a Unix
    /// socket.
    pub(super) hop: Option<IpAddr>,
    requests: AtomicU32,
    // Requests that are not polls of a session.
    counted_requests: AtomicU32,
    flushed: Arc<AtomicBool>,
    end_of_input: Arc<EndOfInput>,
    head_timeout: Duration,
    pending: Arc<PendingConnections>,
    loss: Arc<Loss>,
    polling: Arc<PollingConnections>,
    state: Mutex<State>,
}

struct State {
    lifetime_start: Instant,
    phase: Phase,
    admission: Option<Admission>,
    slot: Option<PendingSlot>,
    // The address that the slot counts for.
    address: Option<IpAddr>,
    // Requests that wait for their session without a deadline.
    waiting: u32,
    // The poll whose response is being written.
    unwritten: Option<PollGuard>,
}

/// What the connection does. Each phase has its own deadline.
#[derive(Clone, Copy)]
enum Phase {
    /// It waits for a request's head since this time: from accept, or from when the previous response was written.
    Head(Instant),
    /// A request is served since this time.
    Request(Instant),
    /// The response to a request that began at this time is being written.
    Response(Instant),
}

impl HttpConnection {
    /// The first head must be complete within `head_timeout` of `accepted`, later ones within `head_timeout` of the
    /// previous response. `address` is the one that the slot counts for.
    pub(super) fn new(
        hop: Option<IpAddr>,
        accepted: Instant,
        head_timeout: Duration,
        socket: &Socket,
        (slot, address): (PendingSlot, Option<IpAddr>),
        pending: Arc<PendingConnections>,
        polling: Arc<PollingConnections>,
    ) -> Arc<Self> {
        Arc::new(Self {
            hop,
            requests: AtomicU32::new(0),
            counted_requests: AtomicU32::new(0),
            flushed: socket.flushed(),
            end_of_input: socket.end_of_input(),
            head_timeout,
            pending,
            loss: slot.place.loss(),
            polling,
            state: Mutex::new(State {
                lifetime_start: accepted,
                phase: Phase::Head(accepted),
                admission: None,
                slot: Some(slot),
                address,
                waiting: 0,
                unwritten: None,
            }),
        })
    }

    /// A request has arrived. It implies that the client has the last response, or does not want it.
    ///
    /// With `holds_end`, a client that ends its side behind the request still gets the response. `client` is the client's
    /// address if a trusted proxy may have named it in the request; `None` within it if the proxy named none.
    pub(super) fn begin_request(&self, holds_end: bool, client: Option<Option<IpAddr>>) {
        self.requests.fetch_add(1, Relaxed);
        if holds_end {
            self.end_of_input.hold();
        }
        let mut state = self.state.lock();
        state.phase = Phase::Request(Instant::now());
        if let Some(client) = client {
            state.address = client;
        }
        let address = state.address;
        if let Some(slot) = &mut state.slot {
            slot.place.set_silent(false);
            if client.is_some() {
                slot.place.set_address(address);
            }
        }
        if let Some(poll) = state.unwritten.take() {
            poll.finish();
        }
    }

    /// The response to the request is about to be written.
    pub(super) fn begin_response(&self) {
        self.flushed.store(false, Relaxed);
        let mut state = self.state.lock();
        if let Phase::Request(since) = state.phase {
            state.phase = Phase::Response(since);
        }
    }

    /// Whether the client has sent a request.
    pub(super) fn has_requests(&self) -> bool {
        self.requests.load(Relaxed) > 0
    }

    /// When the connection must have made progress. It moves on while a request waits for its session.
    ///
    /// Must be called after each poll of the connection, so that it notices when a response has been written and when the
    /// client is silent.
    pub(super) fn deadline(&self) -> Instant {
        let mut state = self.state.lock();
        if state.waiting > 0 {
            return Instant::now() + RESPONSE_TIMEOUT;
        }
        if matches!(state.phase, Phase::Response(_)) && self.is_flushed() {
            state.phase = Phase::Head(Instant::now());
        }
        let waits_for_client = !matches!(state.phase, Phase::Request(_));
        if let Some(slot) = &mut state.slot {
            slot.place.set_silent(waits_for_client);
        }
        match state.phase {
            Phase::Head(since) => since + self.head_timeout,
            Phase::Request(since) | Phase::Response(since) => since + RESPONSE_TIMEOUT,
        }
    }

    /// Whether all earlier responses are written to the kernel.
    pub(super) fn is_flushed(&self) -> bool {
        self.flushed.load(Relaxed)
    }

    /// Remembers what the upgrade was granted for, until [`finish`](Self::finish).
    pub(super) fn admit(&self, admission: Admission) {
        self.state.lock().admission = Some(admission);
    }

    /// Tells when the connection loses its slot to a newer one.
    pub(super) fn loss(&self) -> Arc<Loss> {
        Arc::clone(&self.loss)
    }

    /// From now on the gateway only waits for the client to read its last response.
    pub(super) fn begin_linger(&self) {
        if let Some(slot) = &mut self.state.lock().slot {
            slot.place.set_silent(true);
        }
    }

    /// The connection has stopped speaking HTTP. Returns what its upgrade was granted for, if it had one.
    pub(super) fn finish(&self) -> Option<Admission> {
        let mut state = self.state.lock();
        if let Some(poll) = state.unwritten.take().filter(|_| self.is_flushed()) {
            poll.finish();
        }
        state.admission.take()
    }

    /// Keeps the guard of a poll whose response is about to be written.
    pub(super) fn set_unwritten(&self, poll: PollGuard) {
        self.state.lock().unwritten = Some(poll);
    }

    /// Lets a request wait for its session without a deadline, until the result is dropped.
    ///
    /// Meanwhile the connection gives its pending slot back: at most two requests of a session wait, and the session
    /// counts against the connection limits itself.
    pub(super) fn wait(self: &Arc<Self>) -> Waiting {
        self.polling.insert(self);
        let mut state = self.state.lock();
        state.waiting += 1;
        state.slot = None;
        Waiting(Arc::clone(self))
    }

    /// Whether a poll waits, or the response to one is not written yet.
    fn is_answering(&self) -> bool {
        self.state.lock().waiting > 0 || !self.is_flushed()
    }

    /// Whether the connection holds a pending slot.
    pub(super) fn has_slot(&self) -> bool {
        self.state.lock().slot.is_some()
    }

    /// Counts a request that is not a poll. Its response is the connection's last one after [`REQUESTS_MAX`] of them or
    /// after [`LIFETIME`], when its body is not read, or when the connection has no pending slot.
    pub(super) fn count_request(&self, response: HttpResponse, has_body: bool) -> HttpResponse {
        let count = self.counted_requests.fetch_add(1, Relaxed) + 1;
        let is_old = self.state.lock().lifetime_start.elapsed() >= LIFETIME;
        let is_last = count >= REQUESTS_MAX || is_old || has_body || !self.has_slot();
        close_after(response, is_last)
    }
}

/// Adds `Connection: close` when `is_last`, except to a 101.
pub(super) fn close_after(mut response: HttpResponse, is_last: bool) -> HttpResponse {
    if is_last && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

impl Drop for HttpConnection {
    fn drop(&mut self) {
        self.polling.remove(self);
    }
}

/// A request that waits for its session.
pub(super) struct Waiting(Arc<HttpConnection>);

impl Drop for Waiting {
    fn drop(&mut self) {
        let address = self.0.state.lock().address;
        let slot = self.0.pending.try_take(address, &self.0.loss);
        let mut state = self.0.state.lock();
        // A response is about to be written.
        self.0.flushed.store(false, Relaxed);
        state.waiting -= 1;
        let now = Instant::now();
        state.lifetime_start = now;
        state.phase = Phase::Request(now);
        // Without a slot the connection ends with this response.
        state.slot = slot;
    }
}

/// The connections that have polled, by their address in memory. A drain waits for their responses.
#[derive(Default)]
pub(super) struct PollingConnections(Mutex<HashMap<usize, Weak<HttpConnection>>>);

impl PollingConnections {
    /// Whether a poll of some connection waits, or the response to one is not written yet.
    pub(super) fn is_answering(&self) -> bool {
        // Dropping the last owner of a connection locks the map, so the map must not be locked meanwhile.
        let connections: Vec<_> = self.0.lock().values().filter_map(Weak::upgrade).collect();
        connections.iter().any(|connection| connection.is_answering())
    }

    fn insert(&self, connection: &Arc<HttpConnection>) {
        let address = Arc::as_ptr(connection) as usize;
        self.0
            .lock()
            .entry(address)
            .or_insert_with(|| Arc::downgrade(connection));
    }

    fn remove(&self, connection: &HttpConnection) {
        self.0.lock().remove(&(std::ptr::from_ref(connection) as usize));
    }
}
