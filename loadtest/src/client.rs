//! One subscribed client: handshake, subscription, then frames and their sequence numbers.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use memchr::memmem::{self, Finder};
use mio::net::TcpStream;
use socket2::{Domain, Protocol, Socket, Type};

use crate::protocol::{self, Stamp};

/// What all clients of a worker share.
pub(crate) struct Common {
    pub(crate) server: SocketAddr,
    pub(crate) request: String,
    pub(crate) ready_marker: Finder<'static>,
    pub(crate) needs_marker: bool,
    pub(crate) stamp: Finder<'static>,
    /// Channels published to: so many sequences each client follows.
    pub(crate) channels: usize,
}

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    Handshake,
    Subscribing,
    Ready,
}

/// What a batch of received bytes amounted to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Received {
    /// Events, of which some may be doubles.
    pub(crate) events: u64,
    /// Events that were skipped by a sequence number.
    pub(crate) missing: u64,
    /// Events behind or equal to one that had come before.
    pub(crate) out_of_order: u64,
    /// The client became ready.
    pub(crate) ready: bool,
}

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    state: State,
    subscribe: Vec<u8>,
    /// The beginning of a frame whose rest has not come.
    tail: Vec<u8>,
    sequences: Sequences,
}

/// Last sequence number by channel; 0: none yet.
#[derive(Debug)]
struct Sequences(Vec<u64>);

impl Sequences {
    fn count(&mut self, stamp: Stamp, received: &mut Received) {
        received.events += 1;
        let channel = usize::try_from(stamp.channel).unwrap_or(usize::MAX);
        let Some(last) = self.0.get_mut(channel) else { return };
        if stamp.sequence <= *last {
            received.out_of_order += 1;
        } else {
            // The first event of a channel may have any number: the client may have come later than others.
            received.missing += if *last == 0 { 0 } else { stamp.sequence - *last - 1 };
            *last = stamp.sequence;
        }
    }
}

/// Connections from one source address to one server address: below the kernel's default range of ports.
const CONNECTIONS_PER_ADDRESS: usize = 20_000;

impl Client {
    /// Starts to connect. Client number `index` takes the next loopback address when one has no ports left.
    pub(crate) fn connect(common: &Common, index: usize, subscribe: &str) -> std::io::Result<Self> {
        let socket = Socket::new(Domain::for_address(common.server), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        let step = index / CONNECTIONS_PER_ADDRESS;
        if step > 0 && common.server.ip().is_loopback() {
            let source = Ipv4Addr::new(127, 0, (step / 250) as u8, 1 + (step % 250) as u8);
            socket.bind(&SocketAddr::V4(SocketAddrV4::new(source, 0)).into())?;
        }
        match socket.connect(&common.server.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
        let subscribe = match subscribe {
            "" => Vec::new(),
            text => protocol::client_frame(protocol::TEXT, text.as_bytes()),
        };
        Ok(Self {
            stream: TcpStream::from_std(socket.into()),
            state: State::Connecting,
            subscribe,
            tail: Vec::new(),
            sequences: Sequences(vec![0; common.channels]),
        })
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// The socket is writable: when it has just connected, the handshake goes out.
    pub(crate) fn writable(&mut self, common: &Common) -> Result<(), String> {
        if self.state == State::Connecting {
            if let Some(error) = self.stream.take_error().map_err(text)? {
                return Err(format!("connect: {error}"));
            }
            self.send(common.request.as_bytes())?;
            self.state = State::Handshake;
        }
        Ok(())
    }

    /// Everything a client sends is small and sent alone: a socket that cannot take it is broken.
    fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        match self.stream.write(bytes) {
            Ok(written) if written == bytes.len() => Ok(()),
            Ok(_) => Err("send: the socket is full".into()),
            Err(error) => Err(format!("send: {error}")),
        }
    }

    /// Reads until the socket is empty; calls `event` with the stamp of each event.
    pub(crate) fn readable(
        &mut self,
        common: &Common,
        scratch: &mut [u8],
        mut event: impl FnMut(Stamp),
    ) -> Result<Received, String> {
        let mut received = Received::default();
        loop {
            match self.stream.read(scratch) {
                Ok(0) => return Err("the server closed the connection".into()),
                Ok(length) => {
                    self.take(common, &scratch[..length], &mut received, &mut event)?;
                    if length < scratch.len() {
                        return Ok(received);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(received),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("read: {error}")),
            }
        }
    }

    fn take(
        &mut self,
        common: &Common,
        bytes: &[u8],
        received: &mut Received,
        event: &mut impl FnMut(Stamp),
    ) -> Result<(), String> {
        if self.tail.is_empty() {
            let used = self.parse(common, bytes, received, event)?;
            self.tail.extend_from_slice(&bytes[used..]);
        } else {
            let mut joined = std::mem::take(&mut self.tail);
            joined.extend_from_slice(bytes);
            let used = self.parse(common, &joined, received, event)?;
            joined.drain(..used);
            self.tail = joined;
        }
        Ok(())
    }

    fn parse(
        &mut self,
        common: &Common,
        bytes: &[u8],
        received: &mut Received,
        event: &mut impl FnMut(Stamp),
    ) -> Result<usize, String> {
        let mut used = 0;
        if self.state == State::Handshake {
            let Some(length) = protocol::upgrade_response(bytes)? else {
                return Ok(0);
            };
            used = length;
            self.begin_subscription(common, received)?;
        }
        while let Some((frame, length)) = protocol::server_frame(&bytes[used..])? {
            used += length;
            match frame.opcode {
                protocol::TEXT => self.message(common, frame.payload, received, event)?,
                protocol::PING => self.send(&protocol::client_frame(protocol::PONG, frame.payload))?,
                protocol::CLOSE => return Err(format!("the server closed: {}", close_text(frame.payload))),
                _ => {}
            }
        }
        Ok(used)
    }

    fn begin_subscription(&mut self, common: &Common, received: &mut Received) -> Result<(), String> {
        let subscribe = std::mem::take(&mut self.subscribe);
        if !subscribe.is_empty() {
            self.send(&subscribe)?;
        }
        self.state = if common.needs_marker {
            State::Subscribing
        } else {
            State::Ready
        };
        received.ready |= self.state == State::Ready;
        Ok(())
    }

    fn message(
        &mut self,
        common: &Common,
        message: &[u8],
        received: &mut Received,
        event: &mut impl FnMut(Stamp),
    ) -> Result<(), String> {
        if self.state == State::Subscribing {
            if common.ready_marker.find(message).is_some() {
                self.state = State::Ready;
                received.ready = true;
                return Ok(());
            }
            if memmem::find(message, b"\"error\"").is_some() {
                return Err(String::from_utf8_lossy(message).into_owned());
            }
        }
        if let Some(stamp) = Stamp::find(&common.stamp, message) {
            self.sequences.count(stamp, received);
            event(stamp);
        }
        Ok(())
    }
}

fn close_text(payload: &[u8]) -> String {
    match payload {
        [high, low, reason @ ..] => {
            format!(
                "{} {}",
                u16::from_be_bytes([*high, *low]),
                String::from_utf8_lossy(reason)
            )
        }
        _ => "without a code".into(),
    }
}

fn text(error: std::io::Error) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_doubles_and_late_events_are_seen_by_channel() {
        let (mut sequences, mut received) = (Sequences(vec![0; 2]), Received::default());
        for (channel, sequence) in [(0, 7), (1, 1), (0, 8), (0, 11), (0, 9), (1, 1), (1, 2), (0, 12), (9, 5)] {
            sequences.count(
                Stamp {
                    channel,
                    sequence,
                    due_ns: 0,
                },
                &mut received,
            );
        }
        // Channel 0 skips 9 and 10, then 9 comes late; channel 1 has a double.
        assert_eq!((received.events, received.missing, received.out_of_order), (9, 2, 2));
    }
}
