//! The records that a shard keeps for one connection.
//!
//! Invariant: a delivery touches only [`Hot`], which is one cache line. All other state is in [`Cold`]. State that most
//! connections never need is in [`Extra`], which is allocated on first use.

use std::net::IpAddr;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::catch_up::CatchUp;
use super::outbox::Outbox;
use crate::session::{Session, transport::Transport};
use crate::shard::mailbox::ConnectionPermit;
use crate::shard::mailbox::polling::PollError;
use tickgate_protocol::channel::{Channel, Tenant};
use tickgate_protocol::dialect::engine_io::Revision;
use tickgate_protocol::disconnect::Disconnect;
use tickgate_protocol::wire::{Decoder, Deflate};

/// The stages of a slot's life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Stage {
    /// No connection has the slot.
    #[default]
    Vacant,
    /// The session is alive.
    Open,
    /// The session has ended. Queued frames are flushed and input is discarded.
    Flushing,
    /// Everything is flushed and the writing side is shut down. Input is discarded until the peer closes its side.
    Lingering,
}

/// The flags of a connection, as a bit set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags(u8);

impl Flags {
    /// The connection is in the list of connections to flush.
    pub(super) const DIRTY: u8 = 1;
    /// The socket took no more bytes. The connection is flushed again when the socket is writable. With
    /// [`Flags::POLLING`]: no GET waits.
    pub(super) const BLOCKED: u8 = 1 << 1;
    /// The driver must not read from the socket for now.
    pub(super) const PAUSED: u8 = 1 << 2;
    /// The peer closed its side.
    pub(super) const PEER_CLOSED: u8 = 1 << 3;
    /// The client has not been told of dropped events yet: [`Extra::gap`].
    pub(super) const GAP: u8 = 1 << 4;
    /// The connection catches up with some channels: [`Extra::catch_up`].
    pub(super) const CATCH_UP: u8 = 1 << 5;
    /// A trace follows the connection.
    pub(super) const TRACED: u8 = 1 << 6;
    /// The connection has no socket to write to. Queued frames leave in answers to polls: [`Extra::polls`].
    pub(super) const POLLING: u8 = 1 << 7;

    /// Whether any of these bits is set.
    pub(super) const fn has(self, bits: u8) -> bool {
        self.0 & bits != 0
    }
    pub(super) const fn set(&mut self, bits: u8) {
        self.0 |= bits;
    }
    pub(super) const fn clear(&mut self, bits: u8) {
        self.0 &= !bits;
    }
}

/// The state that every delivery touches: exactly one cache line. (56 bytes would be enough, but most records of that
/// size would span two cache lines, and one more cache line doubles the cost of a delivery.)
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Hot {
    pub(super) outbox: Outbox,
    /// Messages written completely.
    pub(super) delivered: u64,
    /// The stamp of the last event that the connection got. It filters out the duplicates of overlapping patterns.
    pub(super) stamp: u32,
    /// The generation of the slot's connection; an id with another generation is stale. 0: the slot was never taken.
    pub(super) generation: u32,
    /// Events dropped.
    pub(super) dropped: u32,
    /// Index in the list of endpoints.
    pub(super) endpoint: u16,
    pub(super) stage: Stage,
    pub(super) flags: Flags,
}

const _: () = assert!(size_of::<Hot>() == 64);

/// The state that only the connection's own traffic touches.
#[derive(Debug)]
pub(super) struct Cold {
    pub(super) session: Session,
    pub(super) decoder: Decoder,
    /// Held until the connection is removed.
    pub(super) permit: Box<dyn ConnectionPermit>,
    pub(super) extra: Option<Box<Extra>>,
    pub(super) address: Option<IpAddr>,
    /// While open: bytes of a half-received message, as counted in the shard's budget. While closing: bytes of discarded
    /// input.
    pub(super) input_bytes: u32,
    /// Index in the shard's list of half-received messages, while the connection is in that list.
    pub(super) assembly_index: u32,
    /// While open: when the half-received message must be complete. While closing: when the socket is dropped. In
    /// monotonic milliseconds; 0: no deadline.
    pub(super) deadline_ms: u64,
}

// Without the session. The 36 bytes are the timer's links and the list of patterns, which are stored elsewhere.
const _: () = assert!(size_of::<Cold>() - size_of::<Session>() + 12 + 24 <= 116);

/// The state that most connections never have.
#[derive(Debug, Default)]
pub(super) struct Extra {
    /// Input that waits until the session takes input again.
    pub(super) held: Vec<u8>,
    /// Dropped events of which the client has not been told yet.
    pub(super) gap: Option<Gap>,
    /// Channels that are read from the hub.
    pub(super) catch_up: Option<CatchUp>,
    /// The polls of an Engine.IO session.
    pub(super) polls: Option<Box<Polls>>,
}

impl Extra {
    fn is_empty(&self) -> bool {
        self.held.is_empty() && self.gap.is_none() && self.catch_up.is_none() && self.polls.is_none()
    }
}

/// The HTTP requests that carry an Engine.IO session without a socket.
#[derive(Debug, Default)]
pub(super) struct Polls {
    /// Sends the answer of the GET that waits.
    pub(super) get: Option<oneshot::Sender<Bytes>>,
    /// The POST whose body the session has not taken completely.
    pub(super) post: Option<Post>,
    /// When a candidate socket is dropped if its probe is not complete, in monotonic milliseconds. 0: no candidate.
    pub(super) probe_deadline_ms: u64,
    /// The compression that was negotiated on the candidate socket.
    pub(super) deflate: Option<Deflate>,
    /// How the session ended. If the candidate socket takes over after that, it is closed with this ending.
    pub(super) ending: Option<Disconnect>,
}

/// The body of a POST that is being read.
#[derive(Debug)]
pub(super) struct Post {
    pub(super) body: Bytes,
    /// Where in `body` the next packet begins; `None`: it is read to its end.
    pub(super) position: Option<usize>,
    pub(super) answer: oneshot::Sender<Result<(), PollError>>,
}

/// How many channels a `dropped` message names. Events of further channels are counted but not named.
pub(super) const GAP_CHANNELS_MAX: usize = 32;

/// Dropped events of which the client has not been told yet.
#[derive(Debug)]
pub(super) struct Gap {
    /// The sequence number of the first dropped event, so that the client is told before it gets anything later.
    pub(super) sequence: u32,
    /// How many events were dropped.
    pub(super) count: u64,
    /// The first [`GAP_CHANNELS_MAX`] channels of those events.
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
    /// The extra state, created if there is none.
    pub(super) fn extra_or_new(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    /// The channels that the connection catches up with, created if there are none.
    pub(super) fn catch_up_or_new(&mut self) -> &mut CatchUp {
        self.extra_or_new().catch_up.get_or_insert_default()
    }

    /// The channels that the connection catches up with.
    pub(super) fn catch_up(&mut self) -> Option<&mut CatchUp> {
        self.extra.as_mut()?.catch_up.as_mut()
    }

    /// The polls of an Engine.IO session, created if there are none.
    pub(super) fn polls_or_new(&mut self) -> &mut Polls {
        self.extra_or_new().polls.get_or_insert_default()
    }

    /// The polls of an Engine.IO session.
    pub(super) fn polls(&mut self) -> Option<&mut Polls> {
        self.extra.as_deref_mut()?.polls.as_deref_mut()
    }

    /// Takes out the input that was held back.
    pub(super) fn take_held(&mut self) -> Vec<u8> {
        let extra = self.extra.as_deref_mut();
        extra.map_or_else(Vec::new, |extra| std::mem::take(&mut extra.held))
    }

    /// Frees the extra state if it is empty.
    pub(super) fn shrink(&mut self) {
        self.extra.take_if(|extra| extra.is_empty());
    }

    /// Bytes of input held back.
    pub(super) fn held_bytes(&self) -> usize {
        self.extra.as_deref().map_or(0, |extra| extra.held.len())
    }

    /// When the candidate socket's probe must be complete, in monotonic milliseconds; 0: there is no candidate.
    pub(super) fn probe_deadline_ms(&self) -> u64 {
        let polls = self.extra.as_deref().and_then(|extra| extra.polls.as_deref());
        polls.map_or(0, |polls| polls.probe_deadline_ms)
    }

    /// The transport of an Engine.IO session.
    pub(super) fn transport(&mut self) -> Option<&mut Transport> {
        self.session.transport_mut()
    }

    /// The revision of the Engine.IO protocol that the session speaks.
    pub(super) fn revision(&self) -> Revision {
        self.session.revision().unwrap_or(Revision::Four)
    }

    /// Whether the client may see channels for admins.
    pub(super) fn is_admin(&self) -> bool {
        let identity = self.session.identity();
        identity.is_some_and(|identity| identity.sees_gateway())
    }

    /// Whether the client has authenticated as this user of this tenant.
    pub(super) fn is_user(&self, tenant: Tenant, user: &str) -> bool {
        let identity = self.session.identity();
        identity.is_some_and(|identity| identity.tenant == tenant && identity.user.as_deref() == Some(user))
    }
}
