//! Dialects translate between bytes and the one internal model, nothing else.

/// How an endpoint speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// JSON messages, subprotocol `zigquant-v2`.
    Native,
    /// Returns every message as it came; for conformance suites and load tests.
    Echo,
}
