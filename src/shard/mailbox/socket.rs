//! A socket on its way to a shard.

use std::os::fd::OwnedFd;

use tickgate_protocol::disconnect::Disconnect;
use tickgate_protocol::wire::encode;

/// The socket of a connection whose client has its 101, until a shard takes it.
///
/// A shard may end before it sees the socket, in a drain. The socket then closes with 1012 (Service Restart), so that its
/// client knows that it must connect again, and does not take the end for a network failure.
#[derive(Debug)]
pub struct UnclaimedSocket(Option<OwnedFd>);

impl UnclaimedSocket {
    /// Wraps a non-blocking socket.
    #[must_use]
    pub const fn new(socket: OwnedFd) -> Self {
        Self(Some(socket))
    }

    /// Takes the socket.
    ///
    /// # Panics
    ///
    /// Never: only this function and dropping take the socket, and both consume `self`.
    #[must_use]
    pub fn claim(mut self) -> OwnedFd {
        self.0.take().expect("a socket is claimed once")
    }
}

impl Drop for UnclaimedSocket {
    fn drop(&mut self) {
        if let Some(socket) = self.0.take() {
            let mut frame = Vec::new();
            encode::close(&mut frame, Disconnect::Restart);
            // A fresh socket has room for it. Whether the client gets it, nothing here can know.
            let _ = rustix::net::send(&socket, &frame, rustix::net::SendFlags::NOSIGNAL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_socket_that_no_shard_takes_closes_with_1012() {
        let (ours, mut client) = UnixStream::pair().expect("a pair");
        drop(UnclaimedSocket::new(ours.into()));
        let mut received = Vec::new();
        client.read_to_end(&mut received).expect("the end");
        let mut expected = Vec::new();
        encode::close(&mut expected, Disconnect::Restart);
        assert_eq!(received, expected);
        assert_eq!(u16::from_be_bytes([received[2], received[3]]), 1012);

        let (ours, mut client) = UnixStream::pair().expect("a pair");
        drop(UnclaimedSocket::new(ours.into()).claim());
        received.clear();
        client.read_to_end(&mut received).expect("the end");
        assert_eq!(received, b"");
    }
}
