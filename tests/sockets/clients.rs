//! Clients: that of fastwebsockets for regular behaviour, and a bare socket for everything else.

#![allow(dead_code, reason = "`tests/recovery` and `tests/sockets` use a part of it each")]

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use fastwebsockets::{FragmentCollector, Frame, OpCode, Payload, WebSocketError};
use http_body_util::Empty;
use hyper::Request;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::within;

/// What a client received.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Told {
    Message(Value),
    Binary(Vec<u8>),
    /// The close code (1005 when there is none) and the reason.
    Closed(u16, String),
    /// The connection ended without a Close frame.
    Lost,
}

/// The client of fastwebsockets. It answers pings and Close frames automatically.
pub(crate) struct Client(FragmentCollector<TokioIo<Upgraded>>);

impl Client {
    pub(crate) async fn connect(address: SocketAddr, target: &str) -> Result<Self, WebSocketError> {
        let stream = TcpStream::connect(address).await.expect("connected");
        stream.set_nodelay(true).expect("set");
        let request = Request::get(target)
            .header("Host", address.to_string())
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", fastwebsockets::handshake::generate_key())
            .body(Empty::<Bytes>::new())
            .expect("a request");
        let executor = TokioExecutor::new();
        let handshake = fastwebsockets::handshake::client(&executor, request, stream);
        let (mut socket, _) = within("the handshake", handshake).await?;
        socket.set_max_message_size(64 << 20);
        Ok(Self(FragmentCollector::new(socket)))
    }

    pub(crate) async fn send(&mut self, message: &Value) {
        let payload = Payload::Owned(message.to_string().into_bytes());
        within("sending", self.0.write_frame(Frame::text(payload)))
            .await
            .expect("sent");
    }

    pub(crate) async fn send_frame(&mut self, frame: Frame<'_>) -> Result<(), WebSocketError> {
        within("sending", self.0.write_frame(frame)).await
    }

    /// The next message that is not a JSON ping.
    pub(crate) async fn next(&mut self) -> Told {
        loop {
            let told = match within("a message", self.0.read_frame()).await {
                Err(_) => Told::Lost,
                Ok(frame) => match frame.opcode {
                    OpCode::Text => Told::Message(serde_json::from_slice(&frame.payload).expect("JSON")),
                    OpCode::Close => closed(&frame.payload),
                    OpCode::Binary => Told::Binary(frame.payload.to_vec()),
                    _ => continue,
                },
            };
            if !matches!(&told, Told::Message(message) if message["type"] == "ping") {
                return told;
            }
        }
    }

    /// The next message, which must be one of this type.
    pub(crate) async fn expect(&mut self, kind: &str) -> Value {
        match self.next().await {
            Told::Message(message) if message["type"] == kind => message,
            other => panic!("expected {kind}, got {other:?}"),
        }
    }

    /// Subscribes and waits for the confirmation.
    pub(crate) async fn subscribe(&mut self, channels: &[&str]) -> Value {
        self.send(&json!({"type": "subscribe", "channels": channels})).await;
        self.expect("subscribed").await
    }

    /// All messages until the connection ends, and how it ended.
    pub(crate) async fn rest(&mut self) -> (Vec<Value>, Told) {
        let mut messages = Vec::new();
        loop {
            match self.next().await {
                Told::Message(message) => messages.push(message),
                Told::Binary(_) => {}
                end => return (messages, end),
            }
        }
    }
}

fn closed(payload: &[u8]) -> Told {
    match payload {
        [high, low, reason @ ..] => Told::Closed(
            u16::from_be_bytes([*high, *low]),
            String::from_utf8_lossy(reason).into_owned(),
        ),
        _ => Told::Closed(1005, String::new()),
    }
}

/// A bare socket after the upgrade. It sends any bytes, and reads only when it is told to.
pub(crate) struct Bare {
    stream: TcpStream,
    received: Vec<u8>,
    messages: Vec<Value>,
    // How many bytes may still be read before the connection counts as lost.
    left: u64,
}

impl Bare {
    pub(crate) async fn upgraded(address: SocketAddr, target: &str) -> Self {
        let stream = TcpStream::connect(address).await.expect("connected");
        let mut bare = Self {
            stream,
            received: Vec::new(),
            messages: Vec::new(),
            left: u64::MAX,
        };
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        bare.send(request.as_bytes()).await.expect("sent");
        let head = within("the handshake", async {
            loop {
                if let Some(end) = bare.received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                    return String::from_utf8_lossy(&bare.received.drain(..end + 4).collect::<Vec<_>>()).into_owned();
                }
                assert!(bare.more().await, "the handshake was cut off");
            }
        })
        .await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        bare
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// The socket, and how many bytes were read from it together with the answer to the handshake.
    pub(crate) fn into_stream(self) -> (TcpStream, usize) {
        (self.stream, self.received.len())
    }

    /// Reads what has arrived, without waiting. Returns all messages since the handshake and the end when the connection
    /// has ended.
    pub(crate) async fn ended_meanwhile(&mut self) -> Option<(Vec<Value>, Told)> {
        self.ended_within(Duration::from_millis(1)).await
    }

    /// As [`ended_meanwhile`](Self::ended_meanwhile), but waits for at most `time`.
    pub(crate) async fn ended_within(&mut self, time: Duration) -> Option<(Vec<Value>, Told)> {
        // `take` can be cancelled: bytes that were read stay in `received`, parsed messages in `messages`.
        let end = tokio::time::timeout(time, self.take(|_| false)).await.ok()??;
        Some((std::mem::take(&mut self.messages), end))
    }

    /// Reads at most this many more bytes. Then the connection counts as lost, also in the middle of a frame.
    pub(crate) fn cut_after(&mut self, bytes: u64) {
        self.left = bytes;
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.left == 0
    }

    /// Ends the connection like a crash: with a reset, and without reading the rest.
    pub(crate) fn reset(self) {
        socket2::SockRef::from(&self.stream)
            .set_linger(Some(Duration::ZERO))
            .expect("set");
    }

    async fn more(&mut self) -> bool {
        let read = (&mut self.stream).take(self.left).read_buf(&mut self.received).await;
        let count = read.unwrap_or(0);
        self.left -= count as u64;
        count > 0
    }

    /// The next frame: opcode and payload; `None` at the end.
    async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some((header, length)) = parse_header(&self.received)
                && self.received.len() >= header + length
            {
                let frame: Vec<u8> = self.received.drain(..header + length).collect();
                return Some((frame[0] & 0x0f, frame[header..].to_vec()));
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// Waits for the next message or the end. It can be cancelled without losing messages.
    pub(crate) async fn next(&mut self) -> Told {
        while let Some((opcode, payload)) = self.frame().await {
            match opcode {
                1 => return Told::Message(serde_json::from_slice(&payload).expect("JSON")),
                8 => return closed(&payload),
                _ => {}
            }
        }
        Told::Lost
    }

    /// Reads messages into `messages`. Returns `None` when one is `wanted`, or the end of the connection.
    async fn take(&mut self, wanted: impl Fn(&Value) -> bool) -> Option<Told> {
        loop {
            match within("a message", self.next()).await {
                Told::Message(message) => {
                    let found = wanted(&message);
                    self.messages.push(message);
                    if found {
                        return None;
                    }
                }
                end => return Some(end),
            }
        }
    }

    /// All messages until the connection ends, and how it ended.
    pub(crate) async fn rest(&mut self) -> (Vec<Value>, Told) {
        let end = self.take(|_| false).await.expect("only the end ends it");
        (std::mem::take(&mut self.messages), end)
    }

    /// All messages up to the event with this number.
    pub(crate) async fn until_event(&mut self, number: usize) -> Vec<Value> {
        let end = self.take(|message| message["data"]["n"] == number).await;
        assert_eq!(end, None, "ended before event {number} came");
        std::mem::take(&mut self.messages)
    }
}

/// The lengths of the header and the payload of an unmasked frame; `None` when the header is incomplete.
fn parse_header(bytes: &[u8]) -> Option<(usize, usize)> {
    let (header, length) = match *bytes.get(1)? {
        126 => (4, u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)),
        masked if masked >= 128 => panic!("the gateway masked a frame"),
        length => (2, u64::from(length)),
    };
    Some((header, usize::try_from(length).expect("fits")))
}

/// A client's frame, masked with zeros.
pub(crate) fn masked(fin: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![u8::from(fin) << 7 | opcode];
    match payload.len() {
        length @ ..126 => frame.push(0x80 | u8::try_from(length).expect("small")),
        length @ ..65536 => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(length).expect("fits").to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// A client's text message.
pub(crate) fn text(message: &Value) -> Vec<u8> {
    masked(true, 1, message.to_string().as_bytes())
}
