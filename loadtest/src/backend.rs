//! A backend that answers every request with success at once, so that the server in front of it is measured.
//!
//! Invariant: One thread with one epoll loop serves all connections. An incomplete request does not delay others.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 28\r\n\r\n{\"success\":true,\"data\":null}";
const LISTENER: Token = Token(0);

/// Runs until it is dropped.
pub(crate) struct Backend {
    address: std::net::SocketAddr,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Backend {
    pub(crate) fn start(address: &str) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("backend on {address}: {error}");
        let listener = std::net::TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let mut listener = TcpListener::from_std(listener);
        let poll = Poll::new().map_err(failed)?;
        poll.registry()
            .register(&mut listener, LISTENER, Interest::READABLE)
            .map_err(failed)?;
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let serve = Serve {
            poll,
            listener,
            connections: HashMap::new(),
            next: 1,
            answered: Arc::clone(&answered),
        };
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("backend".into())
            .spawn(move || serve.run(&stopped))
            .map_err(failed)?;
        Ok(Self {
            address: bound,
            stop,
            answered,
            thread: Some(thread),
        })
    }

    /// The address it listens on.
    pub(crate) fn address(&self) -> std::net::SocketAddr {
        self.address
    }

    /// The number of requests that were answered.
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Relaxed)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed already.
            let _ = thread.join();
        }
    }
}

struct Serve {
    poll: Poll,
    listener: TcpListener,
    connections: HashMap<usize, Connection>,
    next: usize,
    answered: Arc<AtomicU64>,
}

struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Serve {
    fn run(mut self, stop: &AtomicBool) {
        let mut events = Events::with_capacity(256);
        while !stop.load(Relaxed) {
            match self.poll.poll(&mut events, Some(Duration::from_millis(50))) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return,
                _ => {}
            }
            for event in events.iter() {
                match event.token() {
                    LISTENER => self.accept(),
                    Token(number) => {
                        let Some(connection) = self.connections.get_mut(&number) else {
                            continue;
                        };
                        if connection.serve(&self.answered).is_none() {
                            self.connections.remove(&number);
                        }
                    }
                }
            }
        }
    }

    fn accept(&mut self) {
        // `accept` fails if no connection waits, or if descriptors run out. The server reports errors in the second case.
        while let Ok((mut stream, _)) = self.listener.accept() {
            let token = Token(self.next);
            let is_registered = self.poll.registry().register(&mut stream, token, Interest::READABLE);
            if is_registered.is_ok() {
                // With Nagle's algorithm an answer could wait for the acknowledgement of the previous one.
                let _ = stream.set_nodelay(true);
                let received = Vec::new();
                self.connections.insert(self.next, Connection { stream, received });
                self.next += 1;
            }
        }
    }
}

impl Connection {
    /// Reads what has arrived and answers the complete requests in it. Returns `None` when the connection has ended.
    fn serve(&mut self, answered: &AtomicU64) -> Option<()> {
        let mut chunk = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(length) => self.received.extend_from_slice(&chunk[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Some(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return None,
            }
            while let Some(length) = whole_request(&self.received)? {
                self.received.drain(..length);
                // Count before the answer is sent, so that the count includes every answer that has arrived.
                answered.fetch_add(1, Relaxed);
                // A full socket ends the connection: a server that does not read its answers cannot be measured.
                self.stream.write_all(ANSWER).ok()?;
            }
        }
    }
}

/// The length of the request at the start of `bytes`; `Some(None)` if it is incomplete, `None` if it is malformed.
fn whole_request(bytes: &[u8]) -> Option<Option<usize>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head) = request.parse(bytes).ok()? else {
        return Some(None);
    };
    let mut lengths = request
        .headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length: usize = match lengths.next() {
        Some(header) => std::str::from_utf8(header.value).ok()?.parse().ok()?,
        None => 0,
    };
    let whole = head.checked_add(length)?;
    Some((bytes.len() >= whole).then_some(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_length_of_the_answer_is_correct() {
        let text = std::str::from_utf8(ANSWER).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{head}");
    }

    #[test]
    fn each_request_is_answered_once_however_it_is_split() {
        let backend = Backend::start("127.0.0.1:0").unwrap();
        let mut stream = std::net::TcpStream::connect(backend.address()).unwrap();
        let request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}";
        let two_and_a_half = [&request[..], request, &request[..20]].concat();
        stream.write_all(&two_and_a_half).unwrap();
        let mut answers = vec![0; 2 * ANSWER.len()];
        stream.read_exact(&mut answers).unwrap();
        assert_eq!(answers, [ANSWER, ANSWER].concat());
        stream.write_all(&request[20..]).unwrap();
        stream.read_exact(&mut answers[..ANSWER.len()]).unwrap();
        assert_eq!(backend.answered(), 3);
        // Input that is not HTTP ends this connection only.
        stream.write_all(b"\x16\x03\x01\x02").unwrap();
        assert_eq!(stream.read(&mut answers).unwrap(), 0);
    }

    #[test]
    fn an_incomplete_request_is_recognised_at_every_length() {
        let request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}";
        for cut in 0..request.len() {
            assert_eq!(whole_request(&request[..cut]), Some(None), "{cut}");
        }
        assert_eq!(whole_request(b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n"), None);
    }
}
