//! The thread around the shard's core: it polls, reads, writes and reads the clock.
//!
//! Invariants: the work of a turn (one pass of the loop) is bounded, whatever clients and publishers do. Work beyond
//! the bounds stays in FIFO lists, and the next turn follows without waiting. Readiness is edge-triggered, so a socket
//! is in the ready list, or was read until empty after its last event, or waits for [`Action::Resume`].

mod sockets;

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use rustix::time::{ClockId, clock_gettime};
use socket2::SockRef;

use super::Settings;
use super::coalesce::{Coalescer, Tick};
use super::core::{Action, Arrival, PROBE_ANSWER, ShardCore};
use super::flush::Flusher;
use crate::broker::Broker;
use crate::hub::{Doorbell, Inbox};
use crate::metrics::ShardMetrics;
use crate::shard::mailbox::polling::Upgrade;
use crate::shard::mailbox::{Adopt, ConnectionId, Mailbox, Services, ShardMessage};
use crate::time::{Clock, Now, monotonic_us};
use sockets::{Sockets, prepare, token};

// The bounds of one turn. Together they allow about 10 ms of CPU time.
const READS: usize = 256;
const READ_BYTES: usize = 16 * 1024;
const MESSAGES: usize = 256;
const EVENTS: usize = 512;
const TIMERS: usize = 512;
const SENDS: usize = 4096;
const POLL_EVENTS: usize = 1024;

/// Reads from a connection that is about to end because something did not come in time.
const SUSPECT_READS: usize = 16;

/// A turn that begins this much later than it should is behind a pause. It is much longer than a turn, and much shorter
/// than the time that a client has for anything.
const PAUSE_MS: u64 = 500;

/// How long the shard may wait without listening to the doorbell, in milliseconds.
const AWAKE_MS_MAX: u64 = 2;

const CPU_EVERY_MS: u64 = 1_000;

const WAKER: Token = Token(usize::MAX);

/// A shard's thread.
pub(super) struct Reactor {
    shard: u16,
    core: ShardCore,
    poll: Poll,
    sockets: Sockets,
    mailbox: Mailbox,
    doorbell: Arc<Doorbell>,
    clock: Clock,
    metrics: Arc<ShardMetrics>,
    coalescer: Coalescer,
    flusher: Flusher,
    // The last flush reached its bound. Its remaining frames are written before more events are taken.
    is_behind: bool,
    buffer: Box<[u8]>,
    cpu_due_ms: u64,
    // When the next turn should begin at the latest, in monotonic milliseconds.
    turn_due_ms: u64,
}

/// Creates the poll of a shard. Its creator calls this before it starts the thread, so that it gets the error.
///
/// # Errors
///
/// The operating system refuses a poll or a waker.
pub(super) fn open_poll(doorbell: &Doorbell) -> io::Result<Poll> {
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), WAKER)?;
    doorbell.connect(move || {
        if let Err(error) = waker.wake() {
            tracing::error!(%error, "failed to wake a shard");
        }
    });
    Ok(poll)
}

impl Reactor {
    pub(super) fn new(
        settings: Settings,
        clock: Clock,
        poll: Poll,
        inbox: Inbox,
        mailbox: Mailbox,
        services: Arc<dyn Services>,
        broker: Arc<dyn Broker>,
    ) -> io::Result<Self> {
        let metrics = mailbox.metrics().clone();
        let doorbell = inbox.doorbell().clone();
        Ok(Self {
            shard: settings.shard,
            core: ShardCore::new(settings, inbox, services, broker, metrics.clone(), clock.now()),
            sockets: Sockets::new(poll.registry().try_clone()?),
            poll,
            mailbox,
            doorbell,
            clock,
            coalescer: Coalescer::new(settings.coalesce),
            flusher: Flusher::open(settings.shard, settings.flush, &metrics)?,
            metrics,
            is_behind: false,
            buffer: vec![0; READ_BYTES].into(),
            cpu_due_ms: 0,
            turn_due_ms: u64::MAX,
        })
    }

    /// Runs until a drain is complete.
    ///
    /// # Errors
    ///
    /// The poll failed.
    pub(super) fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(POLL_EVENTS);
        while !self.core.is_finished() {
            let timeout = self.turn();
            self.give_way();
            self.wait(&mut events, timeout)?;
        }
        Ok(())
    }

    /// Lets other threads run if only work is left that can wait.
    ///
    /// A thread that has work keeps its core for milliseconds, unless it says that others may have it. Where all cores are
    /// taken, publishers would wait for that.
    fn give_way(&self) {
        if self.core.has_slow_work() && self.core.waiting_events() == 0 {
            std::thread::yield_now();
        }
    }

    fn wait(&mut self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        let is_interrupted = |error: &io::Error| error.kind() == io::ErrorKind::Interrupted;
        match self.poll.poll(events, timeout) {
            Ok(()) => {}
            // The process was stopped and goes on, for example. What is ready by now is read before any timer runs.
            Err(error) if is_interrupted(&error) => match self.poll.poll(events, Some(Duration::ZERO)) {
                Ok(()) => {}
                Err(error) if is_interrupted(&error) => return Ok(()),
                Err(error) => return Err(error),
            },
            Err(error) => return Err(error),
        }
        for event in &*events {
            self.on_event(event);
        }
        Ok(())
    }

    /// Makes one pass of the loop: does all pending work, within bounds. Returns how long the next poll may wait.
    fn turn(&mut self) -> Option<Duration> {
        self.doorbell.answer();
        let now = self.clock.now();
        self.note_pause(now);
        self.metrics.turns.bump(1);
        self.core.begin_turn(now);
        self.take_messages(now);
        self.read_ready(now);
        // Answers to probes are sent before anything else that is written in this turn.
        self.carry_out(now);
        self.core.retry_parked(now);
        self.read_suspects(now);
        let more_timers = self.core.run_timers(TIMERS, now);
        self.tick(now);
        self.carry_out(now);
        self.update_gauges(now);
        let timeout = self.timeout(more_timers);
        self.turn_due_ms = timeout.map_or(u64::MAX, |timeout| {
            now.mono_ms + u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)
        });
        timeout
    }

    /// Notices that the thread did not run for a while. Nothing was read meanwhile, so nobody is blamed for it.
    fn note_pause(&mut self, now: Now) {
        let paused_ms = now.mono_ms.saturating_sub(self.turn_due_ms);
        if paused_ms < PAUSE_MS {
            return;
        }
        self.core.end_pause(paused_ms, now);
        self.metrics.pauses.bump(1);
        self.metrics.paused_us.bump(paused_ms * 1000);
        let shard = self.shard;
        tracing::warn!(
            shard,
            paused_ms,
            "the shard did not run: the process was stopped or had no CPU"
        );
    }

    /// Reads from connections that are about to end because something did not come in time.
    fn read_suspects(&mut self, now: Now) {
        self.core.find_due(TIMERS, now);
        let mut next = 0;
        while let Some((id, index)) = self.core.next_suspect(next, now) {
            next = index;
            for _ in 0..SUSPECT_READS {
                if !self.core.wants_input(id) {
                    break;
                }
                self.read(id, now);
                if !self.sockets.get_mut(id).is_some_and(|socket| socket.readable) {
                    break;
                }
            }
        }
        self.carry_out(now);
    }

    fn timeout(&self, more_timers: bool) -> Option<Duration> {
        let is_busy = more_timers
            || !self.sockets.ready.is_empty()
            || self.core.has_dirty()
            || self.core.has_turn_to_begin()
            || self.core.has_polls()
            || !self.mailbox.is_empty();
        if is_busy || self.core.is_finished() {
            return Some(Duration::ZERO);
        }
        let now_ms = self.clock.now().mono_ms;
        let turn_ms = self.core.next_turn_ms();
        let mut until_ms = self.core.next_timer_ms().into_iter().chain(turn_ms).min();
        let waiting = self.core.waiting_events();
        if waiting > 0 {
            // Events are being coalesced. The doorbell need not ring meanwhile; the short wait bounds the delay of
            // answers in the mailbox.
            let events_ms = self.coalescer.due_ms().min(now_ms + AWAKE_MS_MAX);
            until_ms = Some(until_ms.map_or(events_ms, |ms| ms.min(events_ms)));
        } else if !self.doorbell.fall_asleep() {
            return Some(Duration::ZERO);
        }
        until_ms.map(|ms| Duration::from_millis(ms.saturating_sub(now_ms)))
    }

    fn take_messages(&mut self, now: Now) {
        for _ in 0..MESSAGES {
            let Some(message) = self.mailbox.pop() else { return };
            if let ShardMessage::Upgrade(upgrade) = message {
                self.adopt_candidate(*upgrade, now);
            } else if let Some(adopt) = self.core.on_message(message, now) {
                self.adopt(*adopt, now);
            }
        }
    }

    fn adopt(&mut self, mut adopt: Adopt, now: Now) {
        let unread = std::mem::take(&mut adopt.unread);
        let (fd, arrival) = Arrival::split(adopt);
        let id = self.core.adopt(arrival, now);
        self.watch(id, fd, &unread, now);
    }

    /// Takes a socket for a session that uses long polling.
    fn adopt_candidate(&mut self, upgrade: Upgrade, now: Now) {
        // A socket that the session does not want is dropped, which closes it.
        if let Some(id) = self
            .core
            .adopt_candidate((upgrade.to, upgrade.tenant), &upgrade.secret, upgrade.deflate, now)
        {
            self.watch(id, upgrade.socket, &upgrade.unread, now);
        }
    }

    fn watch(&mut self, id: ConnectionId, fd: OwnedFd, unread: &[u8], now: Now) {
        // Bytes that were read together with the request precede all bytes of the socket.
        for chunk in unread.chunks(READ_BYTES) {
            let input = &mut self.buffer[..chunk.len()];
            input.copy_from_slice(chunk);
            self.core.on_bytes(id, input, now);
        }
        prepare(&fd);
        let registered = self
            .sockets
            .registry
            .register(&mut SourceFd(&fd.as_raw_fd()), token(id), Interest::READABLE);
        self.sockets.insert(id, fd);
        if let Err(error) = registered {
            tracing::warn!(%error, "failed to register a connection with the poll");
            self.core.on_socket_error(id, now);
        }
    }

    fn answer_probe(&mut self, id: ConnectionId, now: Now) {
        let sent = self.sockets.fd(id).map(|fd| {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            rustix::net::send(fd, PROBE_ANSWER, flags)
        });
        // A new socket always has space for these few bytes, so anything else is an error.
        if !matches!(sent, Some(Ok(bytes)) if bytes == PROBE_ANSWER.len()) {
            self.core.on_socket_error(id, now);
        }
    }

    fn on_event(&mut self, event: &Event) {
        if event.token() == WAKER {
            return;
        }
        let id = self.id(event.token());
        let Some(socket) = self.sockets.get_mut(id) else { return };
        socket.read_closed |= event.is_read_closed();
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.sockets.set_ready(id);
        }
        if event.is_writable() || event.is_write_closed() || event.is_error() {
            self.core.writable(id);
        }
    }

    /// Reads once from each socket of the ready list, in its order.
    fn read_ready(&mut self, now: Now) {
        for _ in 0..READS.min(self.sockets.ready.len()) {
            let Some(id) = self.sockets.ready.pop_front() else {
                return;
            };
            let Some(socket) = self.sockets.get_mut(id) else {
                continue;
            };
            socket.listed = false;
            if !self.core.wants_input(id) {
                // The connection is closing and has discarded its share of input. The peer has closed its side, so it
                // does not wait for an answer.
                let is_over = socket.read_closed && self.core.is_closing(id);
                if is_over {
                    self.core.on_end_of_input(id, now);
                }
                continue;
            }
            self.read(id, now);
        }
    }

    fn read(&mut self, id: ConnectionId, now: Now) {
        let Some(socket) = self.sockets.get_mut(id) else { return };
        let Some(fd) = &socket.fd else { return };
        match rustix::net::recv(fd, &mut *self.buffer, RecvFlags::DONTWAIT) {
            Ok((0, _)) => {
                socket.readable = false;
                self.core.on_end_of_input(id, now);
            }
            Ok((bytes, _)) => {
                // A short read means that the socket is empty, except when the peer has closed its side: data and the
                // end are one event of the poll.
                socket.readable = bytes == READ_BYTES || socket.read_closed;
                let again = socket.readable;
                self.core.on_bytes(id, &mut self.buffer[..bytes], now);
                if again {
                    self.sockets.set_ready(id);
                }
            }
            Err(Errno::AGAIN) => socket.readable = false,
            Err(Errno::INTR) => self.sockets.set_ready(id),
            Err(_) => {
                socket.readable = false;
                self.core.on_socket_error(id, now);
            }
        }
    }

    /// Takes and delivers events if the coalescer allows it, and writes dirty connections.
    fn tick(&mut self, now: Now) {
        let began = Instant::now();
        let is_due = self.coalescer.is_due(now.mono_ms);
        // When values are due, connections are flushed anyway, so the events that wait go with them.
        let delivered = if !self.is_behind && (is_due || self.core.has_due_values(now)) {
            self.core.deliver(EVENTS)
        } else {
            0
        };
        self.flusher
            .flush(&mut self.core, &mut self.sockets, SENDS, &self.metrics, now);
        if let Some(published_us) = self.core.take_measured_us() {
            let age_us = monotonic_us().wrapping_sub(published_us);
            self.metrics.latency.bump(Duration::from_micros(age_us.into()));
        }
        self.core.serve_polls(now);
        self.is_behind = self.core.has_dirty();
        if delivered > 0 {
            self.coalescer.ticked(Tick {
                start_ms: now.mono_ms,
                cost: began.elapsed(),
                took_all: delivered < EVENTS && !self.core.is_pressed(),
            });
        }
    }

    fn carry_out(&mut self, now: Now) {
        while let Some(action) = self.core.next_action() {
            match action {
                Action::Resume(id) => {
                    if self.sockets.get_mut(id).is_some_and(|socket| socket.readable) {
                        self.sockets.set_ready(id);
                    }
                }
                Action::ShutDown(id) => {
                    if let Some(fd) = self.sockets.fd(id)
                        && SockRef::from(&fd).shutdown(Shutdown::Write).is_err()
                    {
                        self.core.on_socket_error(id, now);
                    }
                }
                Action::Remove(id) | Action::Drop(id) => self.sockets.remove(id),
                Action::AnswerProbe(id) => self.answer_probe(id, now),
            }
        }
    }

    fn update_gauges(&mut self, now: Now) {
        self.core.update_gauges();
        if now.mono_ms >= self.cpu_due_ms {
            self.cpu_due_ms = now.mono_ms + CPU_EVERY_MS;
            let cpu = clock_gettime(ClockId::ThreadCPUTime);
            let us =
                u64::try_from(cpu.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(cpu.tv_nsec).unwrap_or(0) / 1000;
            self.metrics.cpu_us.bump(us.saturating_sub(self.metrics.cpu_us.get()));
        }
    }
}

impl Reactor {
    fn id(&self, token: Token) -> ConnectionId {
        let bits = token.0 as u64;
        ConnectionId {
            shard: self.shard,
            slot: u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(u32::MAX),
            generation: u32::try_from(bits >> 32).unwrap_or(u32::MAX),
        }
    }
}

#[cfg(test)]
mod tests;
