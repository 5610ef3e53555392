//! The protocol of tickgate: channel names, WebSocket frames, JSON, messages and dialects, as data and codecs.
//!
//! Invariant: nothing here does I/O, reads a clock, holds a lock or knows a connection. The package depends neither on the
//! gateway nor on hyper, so fuzz targets and other tools build it in seconds.
//!
//! # Layout
//!
//! A module imports only from modules above it:
//!
//! - [`rate`]: the rates at which a client can have values.
//! - [`channel`]: the grammar of channel names and patterns, matching, and the classes of channels.
//! - [`disconnect`]: every reason for the end of a connection, with its close code.
//! - [`json`]: reads JSON without building a tree, and writes it.
//! - [`event`]: the position of an event (epoch, offset) and the formats it is encoded in.
//! - [`trace_context`]: the `traceparent` that names a trace (W3C Trace Context).
//! - [`wire`]: RFC 6455 frames and permessage-deflate (RFC 7692).
//! - [`message`]: the requests of clients and the replies to them, independent of a dialect.
//! - [`dialect`]: the encodings of those messages: native, typed, and Socket.IO over Engine.IO.

// The gateway's tests compile `channel::generate` too, which therefore names this crate by its name.
#[cfg(test)]
extern crate self as tickgate_protocol;

pub mod channel;
pub mod dialect;
pub mod disconnect;
pub mod event;
pub mod json;
pub mod message;
pub mod rate;
pub mod trace_context;
pub mod wire;
