//! What a shard keeps of one connection.
//!
//! Invariant: a delivery touches [`Hot`] only, one cache line; everything else lies in [`Cold`], and what most
//! connections never need in [`Extra`], which they do not have.

use std::net::IpAddr;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::catch_up::CatchUp;
use super::outbox::Outbox;
use crate::session::Session;
use crate::shard::mailbox::ConnectionPermit;
use crate::shard::mailbox::polling::PollError;
use tickgate_protocol::channel::Channel;
use tickgate_protocol::disconnect::Disconnect;
use tickgate_protocol::wire::{Decoder, Deflate};

/// The life of a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Stage {
    /// Nobody's.
    #[default]
    Vacant,
    /// The session lives.
    Open,
    /// The session is over; what is queued is being flushed, input is thrown away.
    Flushing,
    /// All is flushed and our side is shut down; input is thrown away until the peer closes its side.
    Lingering,
}

/// Yes-or-no facts of a connection, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags(u8);

impl Flags {
    /// It stands in the list of connections to flush.
    pub(super) const DIRTY: u8 = 1;
    /// The socket took no more; it is flushed when it says that it does again.
    pub(super) const BLOCKED: u8 = 1 << 1;
    /// The driver shall read no more for now.
    pub(super) const PAUSED: u8 = 1 << 2;
    /// The peer closed its side.
    pub(super) const PEER_CLOSED: u8 = 1 << 3;
    /// A loss has yet to be told: [`Extra::gap`].
    pub(super) const GAP: u8 = 1 << 4;
    /// It catches up with some channels: [`Extra::catch_up`].
    pub(super) const CATCH_UP: u8 = 1 << 5;
    /// It has no socket to write to: what is queued leaves by polls ([`Extra::polling`]). Blocked: no GET waits.
    pub(super) const POLLING: u8 = 1 << 7;

    pub(super) const fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }
    pub(super) const fn set(&mut self, bit: u8) {
        self.0 |= bit;
    }
    pub(super) const fn clear(&mut self, bit: u8) {
        self.0 &= !bit;
    }
}

/// What every delivery touches: one cache line, whole. (56 bytes would do, but most of such lines would straddle two
/// cache lines, and one more line is what a delivery costs.)
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Hot {
    pub(super) outbox: Outbox,
    /// Messages written completely.
    pub(super) delivered: u64,
    /// The number of the event it got last: doubles of overlapping patterns are dropped by it.
    pub(super) stamp: u32,
    /// Who the slot belongs to: a name with another generation is stale. 0: never taken.
    pub(super) generation: u32,
    /// Events dropped.
    pub(super) dropped: u32,
    /// Place in the list of endpoints.
    pub(super) endpoint: u16,
    pub(super) stage: Stage,
    pub(super) flags: Flags,
}

const _: () = assert!(size_of::<Hot>() == 64);

/// What only the connection's own traffic touches.
#[derive(Debug)]
pub(super) struct Cold {
    pub(super) session: Session,
    pub(super) decoder: Decoder,
    /// Held until the connection is gone.
    pub(super) permit: Box<dyn ConnectionPermit>,
    pub(super) extra: Option<Box<Extra>>,
    pub(super) address: Option<IpAddr>,
    /// Open: memory that a half-received message takes, as counted in the shard's budget. Closing: input thrown away.
    /// In bytes.
    pub(super) input_bytes: u32,
    /// Its place in the shard's list of those with a half-received message, when it is in it.
    pub(super) assembly_place: u32,
    /// Open: when the message in assembly must be complete. Closing: when the socket is dropped. 0: no deadline.
    pub(super) deadline_ms: u64,
}

// Without the session, but with the timer's links and the list of patterns, which lie elsewhere.
const _: () = assert!(size_of::<Cold>() - size_of::<Session>() + 12 + 24 <= 116);

/// What most connections never have.
#[derive(Debug, Default)]
pub(super) struct Extra {
    /// Input that waits until the session takes some again.
    pub(super) held: Vec<u8>,
    /// Events that were dropped and not yet told.
    pub(super) gap: Option<Gap>,
    /// Channels that are read from the hub.
    pub(super) catch_up: Option<CatchUp>,
    /// The polls of an Engine.IO session.
    pub(super) polling: Option<Box<Polling>>,
}

impl Extra {
    fn is_idle(&self) -> bool {
        self.held.is_empty() && self.gap.is_none() && self.catch_up.is_none() && self.polling.is_none()
    }
}

/// What carries a session that has no socket to write to.
#[derive(Debug, Default)]
pub(super) struct Polling {
    /// Whoever answers the GET that waits.
    pub(super) get: Option<oneshot::Sender<Bytes>>,
    /// The POST that is not read to its end.
    pub(super) post: Option<Post>,
    /// When a socket that does not complete its probe is dropped. 0: there is none.
    pub(super) probe_deadline_ms: u64,
    /// What was agreed on compression with that socket.
    pub(super) deflate: Option<Deflate>,
    /// How the session ended: a socket that takes over its last words closes with it.
    pub(super) ending: Option<Disconnect>,
}

/// A POST's body, and how far it is read.
#[derive(Debug)]
pub(super) struct Post {
    pub(super) body: Bytes,
    pub(super) position: Option<usize>,
    pub(super) answer: oneshot::Sender<Result<(), PollError>>,
}

/// How many channels a `dropped` message names; the events of others are only counted.
pub(super) const GAP_CHANNELS_MAX: usize = 32;

/// A loss to tell.
#[derive(Debug)]
pub(super) struct Gap {
    /// Where it is in the order of frames: the first one dropped, so that it is told before anything later.
    pub(super) sequence: u32,
    /// How many events.
    pub(super) count: u64,
    /// Of which channels, as far as there is room.
    pub(super) channels: Vec<Channel>,
}

impl Gap {
    /// Counts `count` more events.
    pub(super) fn add(&mut self, count: u32, channel: &Channel) {
        self.count += u64::from(count);
        if self.channels.len() < GAP_CHANNELS_MAX && !self.channels.contains(channel) {
            self.channels.push(channel.clone());
        }
    }
}

impl Cold {
    /// The box for what most connections never have.
    pub(super) fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    /// What it catches up with.
    pub(super) fn catch_up(&mut self) -> &mut CatchUp {
        self.extra().catch_up.get_or_insert_default()
    }

    /// What it catches up with, if there is anything.
    pub(super) fn catch_up_if_any(&mut self) -> Option<&mut CatchUp> {
        self.extra.as_mut()?.catch_up.as_mut()
    }

    /// Gives the box back when nothing is in it any more.
    pub(super) fn shrink(&mut self) {
        self.extra.take_if(|extra| extra.is_idle());
    }

    /// Bytes of input held back.
    pub(super) fn held_bytes(&self) -> usize {
        self.extra.as_deref().map_or(0, |extra| extra.held.len())
    }

    /// The polls of an Engine.IO session that has some.
    pub(super) fn polling(&mut self) -> Option<&mut Polling> {
        self.extra.as_deref_mut()?.polling.as_deref_mut()
    }
}
