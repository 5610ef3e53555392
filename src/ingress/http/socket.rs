//! An accepted connection: TCP or Unix, with the bytes that were read ahead of HTTP.
//!
//! Invariant: who accepts does not serve. A connection becomes a [`Socket`] on the runtime that serves it.

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

/// A connection that nobody serves yet.
#[derive(Debug)]
pub struct Accepted(Bare);

#[derive(Debug)]
enum Bare {
    Tcp(std::net::TcpStream, SocketAddr),
    Unix(std::os::unix::net::UnixStream),
}

impl Accepted {
    /// A non-blocking one.
    pub(super) const fn tcp(stream: std::net::TcpStream, peer: SocketAddr) -> Self {
        Self(Bare::Tcp(stream, peer))
    }

    /// A non-blocking one.
    pub(super) const fn unix(stream: std::os::unix::net::UnixStream) -> Self {
        Self(Bare::Unix(stream))
    }

    /// To be served on the current runtime.
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

/// A connection. One type for both kinds, so that what runs on it is compiled once.
#[derive(Debug)]
pub struct Socket {
    stream: Stream,
    peer: Option<IpAddr>,
    // Read from the stream before HTTP began (a PROXY header's surplus); read again first.
    ahead: Bytes,
    flushed: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// The address at the other end, a v4 one never written as v6; `None` on a Unix socket.
    #[must_use]
    pub fn peer(&self) -> Option<IpAddr> {
        self.peer
    }

    /// Whether everything that was to be written is written: hyper asks for a flush only when its own buffer is empty.
    #[must_use]
    pub fn flushed(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flushed)
    }

    /// Puts bytes back: they are what is read next.
    pub fn unread(&mut self, bytes: Bytes) {
        debug_assert!(self.ahead.is_empty(), "once, before HTTP begins");
        self.ahead = bytes;
    }

    /// The bare non-blocking descriptor, no longer known to tokio, and what was put back and not read since.
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
