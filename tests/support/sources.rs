//! A source for feeds: an HTTP server that counts its requests.

#![allow(dead_code, reason = "every test file uses a part of it")]

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::gateway::until;

#[derive(Default)]
struct Content {
    bodies: Mutex<HashMap<String, String>>,
    // The status and more header lines of a path, if not `200 OK`.
    heads: Mutex<HashMap<String, String>>,
    // The head of the last request.
    request: Mutex<String>,
    asked: Mutex<BTreeMap<String, u64>>,
}

/// An HTTP server with one text per path, and 404 for other paths. It serves one request per connection.
pub(crate) struct HttpSource {
    address: SocketAddr,
    content: Arc<Content>,
    running: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl HttpSource {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let mut source = Self {
            address: listener.local_addr().expect("an address"),
            content: Arc::default(),
            running: None,
        };
        source.serve(listener);
        source
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn set(&self, path: &str, body: &str) {
        self.content
            .bodies
            .lock()
            .expect("whole")
            .insert(path.into(), body.into());
    }

    /// The status with more header lines that a path is answered with, such as `302 Found\r\nLocation: /`.
    pub(crate) fn set_head(&self, path: &str, head: &str) {
        self.content
            .heads
            .lock()
            .expect("whole")
            .insert(path.into(), head.into());
    }

    /// The head of the last request.
    pub(crate) fn last_request(&self) -> String {
        self.content.request.lock().expect("whole").clone()
    }

    pub(crate) fn forget(&self, path: &str) {
        self.content.bodies.lock().expect("whole").remove(path);
    }

    /// The number of requests for a path.
    pub(crate) fn asked(&self, path: &str) -> u64 {
        self.content
            .asked
            .lock()
            .expect("whole")
            .get(path)
            .copied()
            .unwrap_or(0)
    }

    /// The number of requests for all paths with this prefix.
    pub(crate) fn requests_below(&self, start: &str) -> u64 {
        let asked = self.content.asked.lock().expect("whole");
        asked
            .iter()
            .filter(|(path, _)| path.starts_with(start))
            .map(|(_, count)| count)
            .sum()
    }

    /// Closes the port.
    pub(crate) fn stop(&mut self) {
        if let Some((ended, thread)) = self.running.take() {
            ended.store(true, Ordering::SeqCst);
            // Wakes up the accept loop.
            let _ = TcpStream::connect(self.address);
            thread.join().expect("no panic");
        }
    }

    /// Opens the same port again.
    pub(crate) fn restart(&mut self) {
        let mut listener = None;
        until("the port is free", || {
            listener = TcpListener::bind(self.address).ok();
            listener.is_some()
        });
        self.serve(listener.expect("bound"));
    }

    fn serve(&mut self, listener: TcpListener) {
        let (ended, content) = (Arc::new(AtomicBool::new(false)), Arc::clone(&self.content));
        let seen = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if seen.load(Ordering::SeqCst) {
                    return;
                }
                // The client may have disconnected.
                let _ = stream.and_then(|stream| answer(stream, &content));
            }
        });
        self.running = Some((ended, thread));
    }
}

impl Drop for HttpSource {
    fn drop(&mut self) {
        self.stop();
    }
}

fn answer(mut stream: TcpStream, content: &Content) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    let mut head = String::new();
    while let Some(line) = lines.next().transpose()?.filter(|line| !line.is_empty()) {
        head.push_str(&line);
        head.push('\n');
    }
    *content.request.lock().expect("whole") = head;
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    *content.asked.lock().expect("whole").entry(path.clone()).or_default() += 1;
    let body = content.bodies.lock().expect("whole").get(&path).cloned();
    let (status, body) = body.map_or(("404 Not Found", String::new()), |body| ("200 OK", body));
    let head = content.heads.lock().expect("whole").get(&path).cloned();
    let status = head.unwrap_or_else(|| status.to_owned());
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}
