//! An accepted connection, TCP or Unix, with the bytes that were read before HTTP began.
//!
//! A client that ends its side behind a whole request still gets the response: while the response is made and written,
//! [`EndOfInput`] keeps the end of input from hyper, which would drop the request's handler.
//!
//! Invariant: a connection is registered with the runtime that serves it, not with the one that accepts it. So the accept
//! loop yields an [`Accepted`], which becomes a [`Socket`] on the serving runtime.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A connection that no runtime serves yet.
#[derive(Debug)]
pub struct Accepted(Bare);

#[derive(Debug)]
enum Bare {
    Tcp(std::net::TcpStream, SocketAddr),
    Unix(std::os::unix::net::UnixStream),
}

impl Accepted {
    /// Wraps a non-blocking TCP stream.
    pub(super) const fn tcp(stream: std::net::TcpStream, peer: SocketAddr) -> Self {
        Self(Bare::Tcp(stream, peer))
    }

    /// Wraps a non-blocking Unix stream.
    pub(super) const fn unix(stream: std::os::unix::net::UnixStream) -> Self {
        Self(Bare::Unix(stream))
    }

    /// Registers the connection with the current runtime.
    ///
    /// # Errors
    ///
    /// When the runtime cannot register the descriptor.
    pub fn open(self) -> io::Result<Socket> {
        let (stream, peer) = match self.0 {
            Bare::Tcp(stream, peer) => (
                Stream::Tcp(TcpStream::from_std(stream)?),
                Some(peer.ip().to_canonical()),
            ),
            Bare::Unix(stream) => (Stream::Unix(UnixStream::from_std(stream)?), None),
        };
        Ok(Socket {
            stream,
            peer,
            ahead: Bytes::new(),
            flushed: Arc::new(AtomicBool::new(true)),
            end_of_input: Arc::default(),
        })
    }
}

/// A connection that the current runtime serves. TCP and Unix sockets are one type, so that the HTTP code is compiled
/// once.
#[derive(Debug)]
pub struct Socket {
    stream: Stream,
    peer: Option<IpAddr>,
    // Bytes that were read behind a PROXY header; `poll_read` yields them first.
    ahead: Bytes,
    flushed: Arc<AtomicBool>,
    end_of_input: Arc<EndOfInput>,
}

/// Whether hyper may see the end of a connection's input.
#[derive(Debug, Default)]
pub struct EndOfInput(Mutex<Hold>);

#[derive(Debug, Default)]
enum Hold {
    /// The end is passed on.
    #[default]
    Open,
    /// A response is being made. The waker is there once the end has been read.
    Held(Option<Waker>),
    /// Part of the response is written.
    Writing(Option<Waker>),
}

impl EndOfInput {
    /// Keeps the end of input back until the next response is written.
    pub fn hold(&self) {
        *self.0.lock() = Hold::Held(None);
    }

    /// Passes the end of input on, and wakes the reader if the end has been read.
    fn release(&self) {
        let before = std::mem::take(&mut *self.0.lock());
        if let Hold::Held(Some(waker)) | Hold::Writing(Some(waker)) = before {
            waker.wake();
        }
    }

    /// The end has been read. Returns whether it is kept back; then the reader is woken later.
    fn keep(&self, cx: &Context<'_>) -> bool {
        match &mut *self.0.lock() {
            Hold::Open => false,
            Hold::Held(waker) | Hold::Writing(waker) => {
                *waker = Some(cx.waker().clone());
                true
            }
        }
    }

    fn wrote(&self) {
        let mut hold = self.0.lock();
        if let Hold::Held(waker) = &mut *hold {
            *hold = Hold::Writing(waker.take());
        }
    }

    fn flushed(&self) {
        if matches!(*self.0.lock(), Hold::Writing(_)) {
            self.release();
        }
    }
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// The peer's address, an IPv4 address never as an IPv4-mapped one; `None` for a Unix socket.
    #[must_use]
    pub fn peer(&self) -> Option<IpAddr> {
        self.peer
    }

    /// Whether all responses are written to the kernel. hyper flushes only when its own buffer is empty.
    #[must_use]
    pub fn flushed(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flushed)
    }

    /// Decides whether hyper may see the end of the input.
    #[must_use]
    pub fn end_of_input(&self) -> Arc<EndOfInput> {
        Arc::clone(&self.end_of_input)
    }

    /// Puts bytes back: they are read next. Must be called at most once, before HTTP begins.
    pub fn unread(&mut self, bytes: Bytes) {
        debug_assert!(self.ahead.is_empty(), "bytes are put back at most once");
        self.ahead = bytes;
    }

    /// The non-blocking descriptor, deregistered from tokio, and the bytes that were put back and not read since.
    ///
    /// # Errors
    ///
    /// When the descriptor cannot be deregistered.
    pub fn into_fd(self) -> io::Result<(OwnedFd, Bytes)> {
        let fd = match self.stream {
            Stream::Tcp(stream) => OwnedFd::from(stream.into_std()?),
            Stream::Unix(stream) => OwnedFd::from(stream.into_std()?),
        };
        Ok((fd, self.ahead))
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.ahead.is_empty() {
            let n = this.ahead.len().min(buf.remaining());
            buf.put_slice(&this.ahead[..n]);
            this.ahead.advance(n);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = match &mut this.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        let is_end = matches!(read, Poll::Ready(Ok(()))) && buf.filled().len() == before && buf.remaining() > 0;
        if is_end && this.end_of_input.keep(cx) {
            return Poll::Pending;
        }
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.flushed.store(false, Relaxed);
        self.end_of_input.wrote();
        match &mut self.get_mut().stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.flushed.store(false, Relaxed);
        self.end_of_input.wrote();
        match &mut self.get_mut().stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.flushed.store(true, Relaxed);
        self.end_of_input.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
