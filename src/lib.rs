//! tickgate: a WebSocket edge gateway.
//!
//! It stands behind nginx and in front of a trading platform's backends, pushes their events to very many
//! browsers and apps, and takes their commands back.
//!
//! # The life of an event
//!
//! 1. [`admin`] takes an event from a backend, or [`session`] takes a client's `publish`, and checks it.
//! 2. [`hub`] numbers it, keeps what its channel's class keeps, and puts it into the inbox of every shard that wants it.
//! 3. [`tickgate_protocol::dialect`] encodes it once per dialect, as a finished WebSocket frame.
//! 4. [`shard`] pops it and looks up its subscribers in the subscription table (`shard/table.rs`).
//! 5. Each subscriber's outbox (`shard/outbox.rs`) takes a reference to the frame. An event that does not fit, or whose
//!    channel is still being caught up with, stays in the hub and is read from there later (`shard/catch_up.rs`).
//! 6. At the end of the turn every connection with queued frames is flushed once (`shard/flush/`).
//!
//! # The life of a connection
//!
//! 1. [`ingress`] accepts it, reads the proxy header of a trusted proxy, and serves HTTP until an upgrade is requested.
//! 2. It checks origin, limits and token ([`auth::verifier`]), answers 101 and hands the bare socket to a shard by
//!    [`shard::mailbox`]. A client that polls has no socket: its session lives in a shard, and the ingress carries the
//!    bodies of its requests.
//! 3. The shard's reactor reads; [`tickgate_protocol::wire`] decodes frames; [`session`] decides; the outbox holds the
//!    replies.
//! 4. Every connection ends with a [`Disconnect`](tickgate_protocol::disconnect::Disconnect): a close code, who is to
//!    blame, and when the client should come back.
//!
//! # Layers
//!
//! The package `tickgate-protocol` stands below all of them: data and codecs without I/O. A module imports only from
//! modules on the lines above its own, and from its neighbours as long as that makes no circle. A nested module that
//! has a line of its own is named with its parent. `tests/architecture/` reads this table and checks the crate against
//! it.
//!
//! | line | modules | may not |
//! |---|---|---|
//! | 1 | [`event`] [`log_level`] [`memory`] [`metrics`] [`pause`] [`sync`] [`time`] | do I/O |
//! | 2 | [`auth`] | do I/O |
//! | 3 | [`session`] | do I/O, read a clock, see another connection |
//! | 4 | [`hub`] | know sockets, wait under a lock |
//! | 5 | [`hub::snapshot`] [`redis`] [`shard::mailbox`] [`suspended`] | know sessions |
//! | 6 | [`broker`] | know sessions |
//! | 7 | [`shard`] | await; lock except in publish, subscribe, read, leave and to look up a revoked token; allocate per delivery |
//! | 8 | [`auth::verifier`] [`backend`] | reach a shard except by mailbox |
//! | 9 | [`ingress`] | touch a session |
//! | 10 | [`admin`] | touch a session; read a shard except by query |
//! | 11 | [`config`] [`gateway`] | be imported by a line above |

pub mod admin;
pub mod auth;
pub mod backend;
pub mod broker;
pub mod config;
pub mod event;
pub mod gateway;
pub mod hub;
pub mod ingress;
pub mod log_level;
pub mod memory;
pub mod metrics;
pub mod pause;
pub mod redis;
pub mod session;
pub mod shard;
pub mod suspended;
pub mod sync;
pub mod time;

#[cfg(test)]
#[path = "../crates/protocol/src/channel/generate.rs"]
mod generate;
