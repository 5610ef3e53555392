//! Publishes over one keep-alive connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

pub(crate) struct Post {
    stream: BufReader<TcpStream>,
    key: String,
}

impl Post {
    pub(crate) fn connect(address: SocketAddr, key: Option<&str>) -> Self {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_nodelay(true).expect("a TCP socket");
        let key = key.map_or(String::new(), |key| format!("Authorization: Bearer {key}\r\n"));
        Self {
            stream: BufReader::new(stream),
            key,
        }
    }

    /// Publishes and waits for the response, which must be 200.
    pub(crate) fn send(&mut self, body: &str) {
        let request = format!(
            "POST /api/publish HTTP/1.1\r\nHost: bench\r\n{}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.key,
            body.len()
        );
        self.stream
            .get_mut()
            .write_all(request.as_bytes())
            .expect("the server reads");
        let (mut line, mut length) = (String::new(), 0);
        self.stream.read_line(&mut line).expect("an answer");
        assert!(line.contains(" 200 "), "{line}");
        while line != "\r\n" {
            line.clear();
            self.stream.read_line(&mut line).expect("a header");
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a number");
            }
        }
        self.stream.read_exact(&mut vec![0; length]).expect("a body");
    }
}
