//! The kernel's part of [`super::uring`]: a queue of sends that one system call carries out.
//!
//! Invariant: before [`open`] returns a queue, it has verified that the kernel completes a send to a full socket with
//! EAGAIN before the submitting call returns. `MSG_DONTWAIT` requests that. Without it the kernel would keep the send
//! and its buffers until the socket has space.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use io_uring::{IoUring, opcode, types};
use libc::{iovec, msghdr};
use rustix::io::Errno;
use rustix::net::SendFlags;

/// The maximum number of messages in one submission.
pub(super) const DEPTH: usize = 1024;

const FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

/// The bytes to send to one socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message {
    pub(super) socket: RawFd,
    /// The first of the slices.
    pub(super) slices: *mut iovec,
    /// The number of slices, 1 to 1024.
    pub(super) count: usize,
}

/// The result of one message.
pub(super) struct Completion {
    /// The index of the message in what was pushed.
    pub(super) index: usize,
    /// The number of bytes sent, or an error if none were.
    pub(super) result: Result<usize, Errno>,
}

/// Carries out sends. Implemented by the kernel's ring, and by a test queue that fails on purpose.
pub(super) trait Queue {
    /// Adds up to [`DEPTH`] messages. All messages that were pushed before must have completed.
    ///
    /// # Safety
    ///
    /// The slices of each message, and the bytes they point to, must stay valid and unchanged until the completion of
    /// the message was taken out, or until the caller drops the queue, which closes the ring without waiting.
    unsafe fn push(&mut self, messages: &[Message]);

    /// Submits the messages that the kernel has not taken yet, in the order of pushing, and waits until `wait_for`
    /// messages have completed.
    ///
    /// # Errors
    ///
    /// The system call failed. The kernel may have taken some of the messages.
    fn enter(&mut self, wait_for: usize) -> Result<(), Errno>;

    /// The number of messages that the kernel has not taken yet. These are the last ones pushed, and the kernel does
    /// not touch them before the next [`Queue::enter`].
    fn untaken(&mut self) -> usize;

    /// Takes out the next completion; `None`: there is none.
    fn completion(&mut self) -> Option<Completion>;
}

/// The kernel's ring. Only the thread that created it uses it.
struct Kernel {
    ring: IoUring,
    // The headers of the messages with several slices, by the index of the message.
    headers: Box<[msghdr]>,
}

/// Creates a ring and tests whether it behaves as needed.
///
/// # Errors
///
/// The kernel does not allow io_uring, or it does not behave as needed.
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

/// Sends to a full socket in both ways. Both must fail with EAGAIN at once.
fn probe(kernel: &mut Kernel) -> io::Result<()> {
    static BYTES: [u8; 4096] = [0; 4096];
    // Static, like the bytes: if the probe fails, the kernel may still be using them.
    static SLICES: [Slice; 2] = [Slice::of(&BYTES), Slice::of(&BYTES)];
    let (full, _unread) = UnixStream::pair()?;
    while rustix::net::send(&full, &BYTES, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).is_ok() {}
    let message = |count| Message {
        socket: full.as_raw_fd(),
        slices: SLICES.as_ptr().cast_mut().cast(),
        count,
    };
    // SAFETY: the slices and the bytes they point to are never freed and never change.
    unsafe { kernel.push(&[message(1), message(2)]) };
    kernel.enter(0)?;
    for _ in 0..2 {
        match kernel.completion().map(|completion| completion.result) {
            Some(Err(Errno::AGAIN)) => {}
            Some(Err(error)) => return Err(error.into()),
            Some(Ok(_)) => return Err(io::Error::other("a send to a full socket succeeded")),
            None => return Err(io::Error::other("a send to a full socket did not complete at once")),
        }
    }
    Ok(())
}

/// An `iovec` that points to static bytes.
#[repr(transparent)]
struct Slice(iovec);

// SAFETY: the bytes are static, and neither they nor the `iovec` are ever written to.
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
        for (index, message) in messages.iter().enumerate() {
            let socket = types::Fd(message.socket);
            let entry = if message.count == 1 {
                // SAFETY: `slices` points to `count` valid slices (promised by the caller).
                let slice = unsafe { *message.slices };
                let bytes = u32::try_from(slice.iov_len).unwrap_or(u32::MAX);
                opcode::Send::new(socket, slice.iov_base.cast(), bytes)
                    .flags(FLAGS)
                    .build()
            } else {
                let header = &mut self.headers[index];
                header.msg_iov = message.slices;
                // The field is `usize` with glibc and `i32` with musl.
                header.msg_iovlen = message.count as _;
                opcode::SendMsg::new(socket, header).flags(FLAGS as u32).build()
            };
            // SAFETY: the slices and the bytes stay valid until the completion (promised by the caller). The header is
            // owned by `self`; only the next `push` writes to it, and this message has completed by then.
            let pushed = unsafe { queue.push(&entry.user_data(index as u64)) };
            assert!(
                pushed.is_ok(),
                "at most {DEPTH} messages, and all earlier ones have completed"
            );
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
            index: usize::try_from(completion.user_data()).unwrap_or(usize::MAX),
            result: usize::try_from(completion.result()).map_err(|_| Errno::from_raw_os_error(-completion.result())),
        })
    }
}
