//! What the public and the admin listener share: listening sockets, the accept loop, the places of connections, HTTP/1
//! with its limits, the room for bodies, health, responses and their error codes.
//!
//! Invariant: no input of a peer ends a listener, and every wait for a peer has a deadline.

pub mod request;
pub mod response;

mod accept;
mod address;
mod again;
mod bodies;
mod error;
mod gate;
mod health;
mod inherit;
mod listen;
mod places;
mod socket;

pub use accept::{accept_until_closed, linger};
pub use address::{AddressError, ListenAddress, ListenerName, ListenerNameError, ListenerNames, LocalAddress};
pub use again::PollAgain;
pub use bodies::{BYTES_FREE, BodyRoom, BodyShare, NoRoom};
pub use error::HttpErrorCode;
pub use gate::{Closed, Gate};
pub use health::Health;
pub use inherit::{
    ACCEPTS, HandedOver, Handover, Inherited, Kept, Passed, PassedSocket, Predecessor, RESTART_VARIABLE, monotonic,
};
pub use listen::Listener;
pub use places::{Displaced, Loss, Place, Places, network};
pub use socket::{Accepted, EndOfInput, Socket};

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;

use crate::auth::{Identity, TokenError};
use crate::pause::PauseTimer;
use tickgate_protocol::channel::Tenant;

/// Verifies a token on the calling thread.
pub type Verify = dyn Fn(Tenant, &str) -> Result<Arc<Identity>, TokenError> + Send + Sync;

/// Longest head of a request, in bytes: the request line (with the token in its query) and the headers.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;

/// Most header lines of a request.
pub const HEADER_LINES_MAX: usize = 100;

/// HTTP/1 with the limits of both listeners.
///
/// Every head of a connection must be complete within `head_timeout`. hyper answers a head above the limits with 431
/// (414 for the request target) and a malformed one with 400.
#[must_use]
pub fn http1(head_timeout: Duration) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(PauseTimer)
        .header_read_timeout(head_timeout)
        .max_headers(HEADER_LINES_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(HEAD_BYTES_MAX);
    builder
}
