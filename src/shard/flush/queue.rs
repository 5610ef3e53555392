//! The kernel's end of [`super::uring`]: a queue of sends that it carries out in one system call.
//!
//! Invariant: a queue that [`open`] gives out was seen to complete a send that cannot be done at once with EAGAIN,
//! before the call that submitted it returned. That is what `MSG_DONTWAIT` asks for; without it the kernel would keep
//! the send, and its buffers, until the socket takes more.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use io_uring::{IoUring, opcode, types};
use libc::{iovec, msghdr};
use rustix::io::Errno;
use rustix::net::SendFlags;

/// Messages in one submission.
pub(super) const DEPTH: usize = 1024;

const FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

/// What one message sends, and where to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message {
    pub(super) socket: RawFd,
    /// The first of its slices.
    pub(super) slices: *mut iovec,
    /// How many they are, 1 to 1024.
    pub(super) count: usize,
}

/// What became of one message.
pub(super) struct Completion {
    /// Its place in what was pushed.
    pub(super) place: usize,
    /// Bytes sent, or why none were.
    pub(super) result: Result<usize, Errno>,
}

/// Carries out sends; implemented by the kernel's ring, and by one that fails on purpose.
pub(super) trait Queue {
    /// Takes up to [`DEPTH`] messages in. What was pushed before has completed, all of it.
    ///
    /// # Safety
    ///
    /// The slices of each message, and the bytes they name, must stay as they are until the message's completion has
    /// been taken, or until the caller gives the queue up, which closes the ring but waits for nothing.
    unsafe fn push(&mut self, messages: &[Message]);

    /// Has the kernel take what it has not taken yet, in the order in which it was pushed, and wait until so many
    /// have completed.
    fn enter(&mut self, wait_for: usize) -> Result<(), Errno>;

    /// How many the kernel has not taken yet: the last ones pushed. It will not touch them before the next
    /// [`Queue::enter`].
    fn untaken(&mut self) -> usize;

    /// Something that has completed.
    fn completion(&mut self) -> Option<Completion>;
}

/// A ring, of which only the thread that made it makes use.
struct Kernel {
    ring: IoUring,
    // Of the messages in the ring that have several slices; place by place.
    headers: Box<[msghdr]>,
}

/// Makes a ring and tries whether it does what is needed.
pub(super) fn open() -> io::Result<Box<dyn Queue>> {
    let ring = IoUring::builder().build(DEPTH as u32)?;
    // SAFETY: all zeroes is a valid `msghdr`: null pointers and lengths of 0.
    let empty: msghdr = unsafe { std::mem::zeroed() };
    let mut kernel = Kernel {
        ring,
        headers: vec![empty; DEPTH].into(),
    };
    probe(&mut kernel)?;
    Ok(Box::new(kernel))
}

/// Sends to a socket that is full: both ways of sending must say so at once.
fn probe(kernel: &mut Kernel) -> io::Result<()> {
    static BYTES: [u8; 4096] = [0; 4096];
    // Static, like the bytes: a kernel that fails the probe may have kept the send.
    static SLICES: [Slice; 2] = [Slice::of(&BYTES), Slice::of(&BYTES)];
    let (full, _unread) = UnixStream::pair()?;
    while rustix::net::send(&full, &BYTES, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).is_ok() {}
    let message = |count| Message {
        socket: full.as_raw_fd(),
        slices: SLICES.as_ptr().cast_mut().cast(),
        count,
    };
    // SAFETY: the slices and what they name are never freed and never change.
    unsafe { kernel.push(&[message(1), message(2)]) };
    kernel.enter(0)?;
    for _ in 0..2 {
        match kernel.completion().map(|completion| completion.result) {
            Some(Err(Errno::AGAIN)) => {}
            Some(Err(error)) => return Err(error.into()),
            Some(Ok(_)) => return Err(io::Error::other("a full socket took more")),
            None => return Err(io::Error::other("a send to a full socket did not complete at once")),
        }
    }
    Ok(())
}

/// An `iovec` that can be kept: what it names is static.
#[repr(transparent)]
struct Slice(iovec);

// SAFETY: what it names is static, and neither it nor that is ever written to.
unsafe impl Sync for Slice {}

impl Slice {
    const fn of(bytes: &'static [u8]) -> Self {
        Self(iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        })
    }
}

impl Queue for Kernel {
    unsafe fn push(&mut self, messages: &[Message]) {
        let mut queue = self.ring.submission();
        for (place, message) in messages.iter().enumerate() {
            let socket = types::Fd(message.socket);
            let entry = if message.count == 1 {
                // SAFETY: a message has so many slices, at the place it names (promised by the caller).
                let slice = unsafe { *message.slices };
                let bytes = u32::try_from(slice.iov_len).unwrap_or(u32::MAX);
                opcode::Send::new(socket, slice.iov_base.cast(), bytes)
                    .flags(FLAGS)
                    .build()
            } else {
                let header = &mut self.headers[place];
                header.msg_iov = message.slices;
                // `usize` with glibc, `i32` with musl.
                header.msg_iovlen = message.count as _;
                opcode::SendMsg::new(socket, header).flags(FLAGS as u32).build()
            };
            // SAFETY: the slices and the bytes stay until the completion (promised by the caller); the header stays
            // with `self`, and is written again only by the next `push`, when this one has completed.
            let pushed = unsafe { queue.push(&entry.user_data(place as u64)) };
            assert!(pushed.is_ok(), "at most {DEPTH} messages, and none left from before");
        }
    }

    fn enter(&mut self, wait_for: usize) -> Result<(), Errno> {
        let entered = self.ring.submit_and_wait(wait_for);
        entered
            .map(|_| ())
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }

    fn untaken(&mut self) -> usize {
        self.ring.submission().len()
    }

    fn completion(&mut self) -> Option<Completion> {
        let completion = self.ring.completion().next()?;
        Some(Completion {
            place: usize::try_from(completion.user_data()).unwrap_or(usize::MAX),
            result: usize::try_from(completion.result()).map_err(|_| Errno::from_raw_os_error(-completion.result())),
        })
    }
}
