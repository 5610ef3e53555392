//! An accepted connection, TCP or Unix, with the bytes that were read before HTTP began.
//!
//! Invariant: a connection is registered with the runtime that serves it, not with the one that accepts it. So the accept
//! loop yields an [`Accepted`], which becomes a [`Socket`] on the serving runtime.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
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
        match &mut this.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.flushed.store(false, Relaxed);
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
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
