//! The sockets of a shard, and how they are registered with its poll.
//!
//! Invariant: a socket is in the ready list at most once.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use socket2::SockRef;

use crate::shard::core::ShardCore;
use crate::shard::flush::{self, Outcome};
use crate::shard::mailbox::ConnectionId;
use crate::shard::slots::Slots;
use crate::time::Now;

/// The bound on bytes in a socket that the kernel has not sent yet. Without it the kernel hides a stalled client: one
/// socket took 3.9 MB that the client never read.
const UNSENT_BYTES: u32 = 16 * 1024;

/// The sockets, by the slot of their connection.
pub(super) struct Sockets {
    pub(super) registry: Registry,
    slots: Slots<Socket>,
    // Sockets that may have bytes to read.
    pub(super) ready: VecDeque<ConnectionId>,
}

/// One socket and its readiness (12 bytes).
#[derive(Debug, Default)]
pub(super) struct Socket {
    pub(super) fd: Option<OwnedFd>,
    generation: u32,
    // The socket may have bytes to read.
    pub(super) readable: bool,
    // The socket is in the ready list.
    pub(super) listed: bool,
    // The peer closed its side. A short read is not the last one then, so reading goes on until the end.
    pub(super) read_closed: bool,
    // The socket is registered for writability too.
    awaits_writable: bool,
}

/// The token of a connection has its slot and its generation, so that an event for an earlier connection of the slot is
/// ignored. No connection has the token `WAKER`.
pub(super) fn token(id: ConnectionId) -> Token {
    Token(id.slot as usize | (id.generation as usize) << 32)
}

const _: () = assert!(size_of::<usize>() == 8, "tokens need 64 bits");
const _: () = assert!(size_of::<Socket>() <= 12);

/// Turns off Nagle's algorithm and bounds the unsent bytes in the kernel. A Unix socket has neither option and needs
/// neither: it sends at once, and its buffer is small.
pub(super) fn prepare(fd: &OwnedFd) {
    let socket = SockRef::from(fd);
    if socket.set_tcp_nodelay(true).is_ok() {
        // Old kernels refuse this. The bounds of the outbox hold all the same.
        let _ = socket.set_tcp_notsent_lowat(UNSENT_BYTES);
    }
}

impl Sockets {
    pub(super) const fn new(registry: Registry) -> Self {
        Self {
            registry,
            slots: Slots::new(),
            ready: VecDeque::new(),
        }
    }

    pub(super) fn insert(&mut self, id: ConnectionId, fd: OwnedFd) {
        self.slots.reserve(id.slot);
        self.slots[id.slot] = Socket {
            fd: Some(fd),
            generation: id.generation,
            ..Socket::default()
        };
    }

    pub(super) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Socket> {
        if (id.slot as usize) < self.slots.len() {
            Some(&mut self.slots[id.slot]).filter(|socket| socket.fd.is_some() && socket.generation == id.generation)
        } else {
            None
        }
    }

    pub(super) fn fd(&self, id: ConnectionId) -> Option<BorrowedFd<'_>> {
        let socket = self.slots.get(id.slot)?;
        let fd = socket.fd.as_ref().filter(|_| socket.generation == id.generation)?;
        Some(fd.as_fd())
    }

    /// Puts a socket that may have bytes to read into the ready list.
    pub(super) fn set_ready(&mut self, id: ConnectionId) {
        if let Some(socket) = self.get_mut(id) {
            socket.readable = true;
            if !socket.listed {
                socket.listed = true;
                self.ready.push_back(id);
            }
        }
    }

    /// Closes the socket, which also removes it from the poll.
    pub(super) fn remove(&mut self, id: ConnectionId) {
        if let Some(socket) = self.get_mut(id) {
            *socket = Socket::default();
        }
    }

    fn await_writable(&mut self, id: ConnectionId, is_awaited: bool) -> io::Result<()> {
        let Some(socket) = self.get_mut(id) else { return Ok(()) };
        // Registered again each time, so that the poll reports the socket even if it has become writable already.
        if !is_awaited && !socket.awaits_writable {
            return Ok(());
        }
        socket.awaits_writable = is_awaited;
        let interest = if is_awaited {
            Interest::READABLE | Interest::WRITABLE
        } else {
            Interest::READABLE
        };
        let Some(fd) = socket.fd.as_ref().map(AsRawFd::as_raw_fd) else {
            return Ok(());
        };
        self.registry.reregister(&mut SourceFd(&fd), token(id), interest)
    }
}

impl flush::Sockets for Sockets {
    fn socket(&self, id: ConnectionId) -> Option<BorrowedFd<'_>> {
        self.fd(id)
    }

    fn written(&mut self, core: &mut ShardCore, id: ConnectionId, outcome: Outcome, now: Now) {
        let is_watched = match outcome {
            Outcome::Drained => self.await_writable(id, false),
            Outcome::Blocked => {
                core.blocked(id, now);
                self.await_writable(id, true)
            }
            Outcome::Failed => return core.on_socket_error(id, now),
        };
        if let Err(error) = is_watched {
            tracing::warn!(%error, "failed to register a connection with the poll");
            core.on_socket_error(id, now);
        }
    }
}
