//! What the public and the admin listener have in common: sockets, the accept loop, HTTP/1 with its limits, answers.
//!
//! Invariant: nothing a peer sends ends a listener, and whatever waits for a peer has a deadline.

mod address;

pub use address::{AddressError, ListenAddress, LocalAddress};
