//! tickgate: a WebSocket edge gateway.
//!
//! It stands behind nginx and in front of a trading platform's backends, pushes their events to very many
//! browsers and apps, and takes their commands back.
//!
//! # The life of an event, in the order in which it happens
//!
//! 1. [`admin`] (or a client's `publish`, in [`session`]) takes it in and checks it.
//! 2. [`hub`] numbers it, keeps what its channel's class keeps, and puts it into the inbox of every shard that wants it.
//! 3. [`dialect`] encodes it, once per dialect, as a finished WebSocket frame.
//! 4. [`shard`] pops it and looks its subscribers up in the table (`shard/table.rs`).
//! 5. Each subscriber's outbox (`shard/outbox.rs`) takes a reference to the frame. Where it does not fit, or its channel
//!    is still being caught up with, it stays in the hub and is read from there later (`shard/catch_up.rs`).
//! 6. At the end of the turn every dirty connection is flushed once (`shard/flush.rs`).
//!
//! # The life of a connection
//!
//! 1. [`door`] accepts it, believes or disbelieves its proxy, and serves HTTP until it asks for an upgrade.
//! 2. The door checks origin, limits and token ([`verify`]), answers 101 and hands the bare socket to a shard by
//!    [`mailbox`]. A client that polls has no socket: its session is with a shard, and the door carries the bodies.
//! 3. The shard's reactor reads; [`wire`] cuts frames; [`session`] decides; `shard/outbox.rs` holds the answers.
//! 4. Every ending is a [`disconnect::Disconnect`]: a close code, whose fault it was, and when to come back.
//!
//! # Rooms
//!
//! A room imports only from rooms on the lines above its own, and from its neighbours as long as that makes no circle
//! (`tests/architecture/` reads this table and holds the crate to it):
//!
//! | line | rooms | may not |
//! |---|---|---|
//! | 1 | [`channel`] [`disconnect`] [`event`] [`json`] [`limits`] [`stats`] [`sync`] [`time`] | do I/O |
//! | 2 | [`wire`] | do I/O, know JSON |
//! | 3 | [`message`] [`dialect`] | hold connection state, read a clock |
//! | 4 | [`auth`] | do I/O |
//! | 5 | [`session`] | do I/O, read a clock, see another connection |
//! | 6 | [`hub`] | know sockets, wait under a lock |
//! | 7 | [`mailbox`] | know sessions |
//! | 8 | [`shard`] | await; lock except in publish, join, read and leave; allocate per delivery |
//! | 9 | [`broker`] [`commands`] [`feeds`] [`figures`] [`http`] [`snapshot`] [`verify`] | reach a shard but by mailbox |
//! | 10 | [`door`] [`admin`] [`pulse`] | touch a session; admin reads shards by query |
//! | 11 | [`config`] [`gateway`] [`demo`] | be imported by a line above |

pub mod admin;
pub mod auth;
pub mod broker;
pub mod channel;
pub mod commands;
pub mod config;
pub mod demo;
pub mod dialect;
pub mod disconnect;
pub mod door;
pub mod event;
pub mod feeds;
pub mod figures;
pub mod gateway;
pub mod http;
pub mod hub;
pub mod json;
pub mod limits;
pub mod mailbox;
pub mod message;
pub mod pulse;
pub mod session;
pub mod shard;
pub mod snapshot;
pub mod stats;
pub mod sync;
pub mod time;
pub mod verify;
pub mod wire;
