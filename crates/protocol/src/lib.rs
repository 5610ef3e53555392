//! What tickgate speaks: channel names, frames, JSON, messages and dialects, as data and codecs.
//!
//! Invariant: nothing here does I/O, reads a clock, holds a lock or knows a connection. The package does not depend on
//! hyper, so the compiler keeps it so, and fuzz targets and other tools build it in seconds.
//!
//! # Layout
//!
//! A module imports only from modules above it:
//!
//! - [`channel`]: the grammar of channel names and patterns, matching, and the classes of channels.
//! - [`disconnect`]: every reason for which a connection ends, with its close code.
//! - [`json`]: reading JSON without building a tree, and writing it.
//! - [`event`]: what identifies an event (epoch, offset) and the formats it is encoded in.
//! - [`wire`]: RFC 6455 frames and permessage-deflate (RFC 7692).
//! - [`message`]: what clients say and are told, independent of a dialect.
//! - [`dialect`]: the bytes of those messages: native, typed, Socket.IO over Engine.IO.

// `channel::generate` is also compiled by the gateway's tests, under this name.
#[cfg(test)]
extern crate self as tickgate_protocol;

pub mod channel;
pub mod dialect;
pub mod disconnect;
pub mod event;
pub mod json;
pub mod message;
pub mod wire;
