//! Many subscribed clients that read and count. They run in a process of their own, with its own descriptors and CPU
//! time.
//!
//! The process runs this program again, with an environment variable that describes the clients ([`serve_if_child`]).
//! It prints `ready`, then one line with the number of events for each batch received. It exits when its input ends.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

/// Minimum payload of an event. Shorter payloads are replies and heartbeats.
const EVENT_BYTES_MIN: usize = 200;

const VARIABLE: &str = "TICKGATE_BENCH_CROWD";

pub(crate) struct Crowd {
    shared: Arc<Shared>,
    child: Child,
}

#[derive(Default)]
struct Shared {
    received: AtomicU64,
    changed: Condvar,
    lock: Mutex<()>,
}

impl Crowd {
    /// Connects, sends `first` if it is not empty, and waits for one answer per client.
    pub(crate) fn connect(address: SocketAddr, path: &str, first: &str, count: usize) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .env(VARIABLE, format!("{address} {path} {count} {first}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program starts again");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let ready = lines.next().expect("a line").expect("text");
        assert_eq!(ready, "ready", "the clients could not connect");
        let shared = Arc::<Shared>::default();
        let counting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for line in lines {
                let received: u64 = line.expect("text").parse().expect("a number");
                counting.received.fetch_add(received, Ordering::AcqRel);
                drop(counting.lock.lock().expect("the waiter lives"));
                counting.changed.notify_all();
            }
        });
        Self { shared, child }
    }

    /// Events received by all clients together.
    pub(crate) fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Acquire)
    }

    /// Blocks until `target` events have been received. Panics if none arrives for 30 seconds.
    pub(crate) fn wait_for(&self, target: u64) {
        let mut guard = self.shared.lock.lock().expect("the reader lives");
        while self.received() < target {
            let (next, timeout) = self
                .shared
                .changed
                .wait_timeout(guard, Duration::from_secs(30))
                .expect("the reader lives");
            assert!(!timeout.timed_out(), "{} of {target} events arrived", self.received());
            guard = next;
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let ended = self.child.wait().expect("it was started");
        assert!(ended.success(), "the clients failed: {ended}");
    }
}

/// Runs the clients if this process was started for them. Returns whether it was.
pub(crate) fn serve_if_child() -> bool {
    let Ok(order) = std::env::var(VARIABLE) else {
        return false;
    };
    let mut words = order.splitn(4, ' ');
    let mut word = || words.next().expect("four words");
    let address = word().parse().expect("an address");
    let (path, count) = (word(), word().parse().expect("a number"));
    let first = word();
    let poll = Poll::new().expect("a poll");
    let mut clients: Vec<Client> = (0..count).map(|_| Client::connect(address, path, first)).collect();
    for (index, client) in clients.iter_mut().enumerate() {
        poll.registry()
            .register(&mut client.stream, Token(index), Interest::READABLE)
            .expect("registered");
    }
    println!("ready");
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    read_all(poll, &mut clients)
}

fn read_all(mut poll: Poll, clients: &mut [Client]) -> ! {
    let mut events = Events::with_capacity(1024);
    let mut scratch = vec![0; 64 * 1024];
    let mut out = std::io::stdout();
    loop {
        if let Err(error) = poll.poll(&mut events, None) {
            assert_eq!(error.kind(), ErrorKind::Interrupted);
        }
        let received: u64 = events
            .iter()
            .map(|event| clients[event.token().0].read(&mut scratch))
            .sum();
        if received > 0 && writeln!(out, "{received}").and_then(|()| out.flush()).is_err() {
            std::process::exit(0);
        }
    }
}

struct Client {
    stream: TcpStream,
    /// An incomplete frame header.
    head: Vec<u8>,
    /// The number of payload bytes that are still to be read of the current frame.
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

    /// Reads what has arrived, and returns how many events began in it.
    fn read(&mut self, scratch: &mut [u8]) -> u64 {
        let mut events = 0;
        loop {
            match self.stream.read(scratch) {
                Ok(0) => std::process::exit(0),
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

/// Accepts one client and answers its handshake without checking it.
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
