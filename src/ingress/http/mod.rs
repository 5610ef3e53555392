//! What the public and the admin listener have in common: sockets, the accept loop, HTTP/1 with its limits, answers.
//!
//! Invariant: nothing a peer sends ends a listener, and whatever waits for a peer has a deadline.

pub mod request;
pub mod response;

mod accept;
mod address;
mod error;
mod health;
mod listen;
mod socket;

pub use accept::{accept_forever, linger};
pub use address::{AddressError, ListenAddress, LocalAddress};
pub use error::HttpErrorCode;
pub use health::Health;
pub use listen::{Inherited, Listener, Passed};
pub use socket::{Accepted, Socket};

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;

use crate::auth::{Identity, TokenError};

/// Verifies a token on the caller's thread.
pub type Verify = dyn Fn(&str) -> Result<Arc<Identity>, TokenError> + Send + Sync;

/// Most bytes of a request's head: request line (with the token in its query) and headers.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;

/// Most header lines of a request.
pub const HEADER_LINES_MAX: usize = 100;

/// HTTP/1 as both listeners speak it: a head has to be complete within `head_timeout`, also on a kept-alive
/// connection. hyper answers a head above the limits with 431 (414 for the target) and one it cannot read with 400.
#[must_use]
pub fn http1(head_timeout: Duration) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_headers(HEADER_LINES_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(HEAD_BYTES_MAX);
    builder
}
