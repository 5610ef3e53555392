//! Many subscribed clients that read and count, on one thread.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

/// Shorter payloads are replies and heartbeats.
const EVENT_BYTES_MIN: usize = 200;

pub(crate) struct Crowd {
    shared: Arc<Shared>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    received: AtomicU64,
    stop: AtomicBool,
    changed: Condvar,
    lock: Mutex<()>,
}

impl Crowd {
    /// Connects, says `first` (a text message, if any) and waits for one answer each.
    pub(crate) fn connect(address: SocketAddr, path: &str, first: &str, count: usize) -> Self {
        let poll = Poll::new().expect("a poll");
        let mut clients: Vec<Client> = (0..count).map(|_| Client::connect(address, path, first)).collect();
        for (index, client) in clients.iter_mut().enumerate() {
            poll.registry()
                .register(&mut client.stream, Token(index), Interest::READABLE)
                .expect("registered");
        }
        let shared = Arc::<Shared>::default();
        let reader = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("crowd".into())
                .spawn(move || read_all(poll, &mut clients, &shared))
        };
        Self {
            shared,
            reader: Some(reader.expect("a thread")),
        }
    }

    /// Events received by all clients together.
    pub(crate) fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Acquire)
    }

    /// Blocks until so many have been received; panics when they do not come.
    pub(crate) fn wait_for(&self, target: u64) {
        let mut guard = self.shared.lock.lock().expect("the reader lives");
        while self.received() < target {
            let (next, timeout) = self
                .shared
                .changed
                .wait_timeout(guard, Duration::from_secs(10))
                .expect("the reader lives");
            assert!(!timeout.timed_out(), "{} of {target} events came", self.received());
            guard = next;
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        let ended = self.reader.take().map(JoinHandle::join);
        assert!(matches!(ended, Some(Ok(()))), "the reader panicked");
    }
}

fn read_all(mut poll: Poll, clients: &mut [Client], shared: &Shared) {
    let mut events = Events::with_capacity(1024);
    let mut scratch = vec![0; 64 * 1024];
    while !shared.stop.load(Ordering::Acquire) {
        if let Err(error) = poll.poll(&mut events, Some(Duration::from_millis(50))) {
            assert_eq!(error.kind(), ErrorKind::Interrupted);
        }
        let received: u64 = events
            .iter()
            .map(|event| clients[event.token().0].read(&mut scratch))
            .sum();
        if received > 0 {
            shared.received.fetch_add(received, Ordering::AcqRel);
            drop(shared.lock.lock().expect("the waiter lives"));
            shared.changed.notify_all();
        }
    }
}

struct Client {
    stream: TcpStream,
    /// An incomplete frame header.
    head: Vec<u8>,
    /// What is left of the payload of the frame being read.
    payload_left: usize,
}

impl Client {
    fn connect(address: SocketAddr, path: &str, first: &str) -> Self {
        let mut stream = std::net::TcpStream::connect(address).expect("the server listens");
        stream.set_nodelay(true).expect("a TCP socket");
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("the server reads");
        let mut response = Vec::new();
        while !response.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("an answer");
            response.push(byte[0]);
        }
        assert!(
            response.starts_with(b"HTTP/1.1 101"),
            "{}",
            String::from_utf8_lossy(&response)
        );
        if !first.is_empty() {
            let frame = [&[0x81, 0x80 | first.len() as u8, 0, 0, 0, 0], first.as_bytes()].concat();
            stream.write_all(&frame).expect("the server reads");
            let mut head = [0; 2];
            stream.read_exact(&mut head).expect("a reply");
            assert!(head[0] == 0x81 && head[1] < 126, "a short text, not {head:02x?}");
            let mut reply = vec![0; usize::from(head[1])];
            stream.read_exact(&mut reply).expect("a reply");
            let reply = String::from_utf8_lossy(&reply);
            assert!(reply.contains("\"subscribed\""), "{reply}");
        }
        stream.set_nonblocking(true).expect("a socket");
        Self {
            stream: TcpStream::from_std(stream),
            head: Vec::new(),
            payload_left: 0,
        }
    }

    /// Reads what is there; how many events began in it.
    fn read(&mut self, scratch: &mut [u8]) -> u64 {
        let mut events = 0;
        loop {
            match self.stream.read(scratch) {
                Ok(0) => panic!("the server closed a connection"),
                Ok(length) => {
                    events += self.count(&scratch[..length]);
                    if length < scratch.len() {
                        return events;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return events,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn count(&mut self, mut bytes: &[u8]) -> u64 {
        let mut events = 0;
        while !bytes.is_empty() {
            let skipped = self.payload_left.min(bytes.len());
            self.payload_left -= skipped;
            bytes = &bytes[skipped..];
            let [byte, rest @ ..] = bytes else { break };
            self.head.push(*byte);
            bytes = rest;
            let length = match *self.head {
                [_, short @ 0..126] => usize::from(short),
                [_, 126, high, low] => usize::from(u16::from_be_bytes([high, low])),
                _ => continue,
            };
            self.head.clear();
            self.payload_left = length;
            events += u64::from(length >= EVENT_BYTES_MIN);
        }
        events
    }
}

/// Accepts one client and answers its handshake without looking at it.
pub(crate) fn accept_plainly(listener: &TcpListener) -> std::net::TcpStream {
    let (mut stream, _) = listener.accept().expect("a client");
    stream.set_nodelay(true).expect("a TCP socket");
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a request");
        request.push(byte[0]);
    }
    stream
        .write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        .expect("the client reads");
    stream
}
