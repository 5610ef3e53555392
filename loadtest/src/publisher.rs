//! Publishes events as they become due, over one connection, by HTTP requests, one long request or WebSocket frames.
//!
//! Invariant: An event's stamp is the time at which it was due, however late it is sent. While a request is in progress,
//! or a chunk or frame is not written yet, events that become due wait; the next one carries all of them.

use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;

use crate::adapter::{Adapter, PublishBy, Publishing};
use crate::options::Url;
use crate::protocol::{self, Stamp};

/// The events to publish, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// When the first event is due.
    pub(crate) start: Instant,
    /// Time between two events.
    pub(crate) interval_ns: u64,
    /// Number of events; `u64::MAX` to publish until told to stop.
    pub(crate) events: u64,
    /// Length of each event's `data` in bytes.
    pub(crate) data_bytes: usize,
    /// Index of the first channel, and the number of channels. Events go to them in rotation.
    pub(crate) first_channel: u64,
    pub(crate) channels: u64,
}

impl Schedule {
    fn due(&self, index: u64) -> Instant {
        self.start + Duration::from_nanos(self.interval_ns * index)
    }

    /// When the event is sent, if all events that become due within `every` are sent together at its end.
    fn sent_at(&self, index: u64, every: Duration) -> Instant {
        let due_ns = self.interval_ns * index;
        let every_ns = (every.as_nanos() as u64).max(1);
        self.start + Duration::from_nanos(due_ns.next_multiple_of(every_ns))
    }
}

/// Approximate maximum size of one request or frame, below the limits of servers.
const REQUEST_BYTES: usize = 4 << 20;

/// The URL and the credentials to publish with.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) url: Url,
    pub(crate) key: Option<String>,
    pub(crate) adapter: Arc<Adapter>,
    /// The events that become due within this time are sent together, at its end. 0: each when it is due.
    pub(crate) every: Duration,
}

pub(crate) struct Publisher {
    pub(crate) stream: TcpStream,
    target: Target,
    epoch: Instant,
    schedule: Option<Schedule>,
    sent: u64,
    sequences: Vec<u64>,
    request: Vec<u8>,
    written: usize,
    /// Whether the head of the long request is sent, or is in `request`.
    is_streaming: bool,
    response: Vec<u8>,
    is_waiting: bool,
    /// The longest time that an event waited in the tool before its request began, in nanoseconds.
    pub(crate) late_ns_max: u64,
    pub(crate) published: u64,
}

impl Publisher {
    pub(crate) fn connect(target: Target, epoch: Instant) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("publisher: {}: {error}", target.url.address);
        let mut stream = std::net::TcpStream::connect(target.url.address).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let mut response = Vec::new();
        if target.adapter.publish.by == PublishBy::Frame {
            response = open_socket(&mut stream, &target).map_err(|error| format!("publisher: {error}"))?;
        }
        stream.set_nonblocking(true).map_err(failed)?;
        Ok(Self {
            stream: TcpStream::from_std(stream),
            target,
            epoch,
            schedule: None,
            sent: 0,
            sequences: Vec::new(),
            request: Vec::new(),
            written: 0,
            is_streaming: false,
            response,
            is_waiting: false,
            late_ns_max: 0,
            published: 0,
        })
    }

    pub(crate) fn begin(&mut self, schedule: Schedule) {
        self.schedule = Some(schedule);
        self.sent = 0;
        self.late_ns_max = 0;
    }

    /// Drops the events that are not sent yet.
    pub(crate) fn end(&mut self) {
        if let Some(schedule) = &mut self.schedule {
            schedule.events = self.sent;
        }
    }

    /// When the next event is due, unless a request is in progress.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let schedule = self.schedule.filter(|_| !self.is_waiting)?;
        (self.sent < schedule.events).then(|| self.sent_at(&schedule))
    }

    /// When the next event is sent.
    fn sent_at(&self, schedule: &Schedule) -> Instant {
        schedule.sent_at(self.sent, self.target.every)
    }

    /// Sends what is due, unless a request is in progress.
    pub(crate) fn tick(&mut self, now: Instant) -> Result<(), String> {
        let is_http = self.target.adapter.publish.by == PublishBy::Http;
        while let Some(schedule) = self.schedule.filter(|_| !self.is_waiting) {
            if self.sent == schedule.events || self.sent_at(&schedule) > now {
                break;
            }
            let late = now.duration_since(self.sent_at(&schedule)).as_nanos();
            self.late_ns_max = self.late_ns_max.max(u64::try_from(late).unwrap_or(u64::MAX));
            // All chunks or frames that are due share a write.
            while self.sent < schedule.events && self.sent_at(&schedule) <= now && self.request.len() < REQUEST_BYTES {
                self.compose(&schedule, now);
                if is_http {
                    break;
                }
            }
            self.is_waiting = true;
            self.writable()?;
        }
        Ok(())
    }

    fn compose(&mut self, schedule: &Schedule, now: Instant) {
        let adapter = Arc::clone(&self.target.adapter);
        let publish = &adapter.publish;
        let mut body = publish.prefix.clone();
        let first = self.sent;
        while self.sent < schedule.events
            && self.sent - first < publish.items
            && body.len() < REQUEST_BYTES
            && schedule.due(self.sent) <= now
        {
            if self.sent > first {
                body.push_str(&publish.separator);
            }
            let (channel, data) = self.next_event(schedule);
            let item = publish.item.replace("{channel}", &adapter.channel(channel));
            body.push_str(&item.replacen("{data}", &data, 1));
        }
        body.push_str(&publish.suffix);
        match publish.by {
            PublishBy::Http => {
                let head = self.http_head(&format!("Content-Length: {}", body.len()));
                self.request = [head.as_bytes(), body.as_bytes()].concat();
            }
            PublishBy::Stream => {
                if !std::mem::replace(&mut self.is_streaming, true) {
                    self.request = self.http_head("Transfer-Encoding: chunked").into_bytes();
                }
                self.request
                    .extend(format!("{:x}\r\n{body}\r\n", body.len()).into_bytes());
            }
            PublishBy::Frame => self
                .request
                .extend(protocol::client_frame(protocol::TEXT, body.as_bytes())),
        }
        self.published += self.sent - first;
    }

    /// The next event's channel and data.
    fn next_event(&mut self, schedule: &Schedule) -> (u64, String) {
        let channel = schedule.first_channel + self.sent % schedule.channels;
        let index = channel as usize;
        if self.sequences.len() <= index {
            self.sequences.resize(index + 1, 0);
        }
        self.sequences[index] += 1;
        let stamp = Stamp {
            channel,
            sequence: self.sequences[index],
            due_ns: schedule.due(self.sent).duration_since(self.epoch).as_nanos() as u64,
        };
        self.sent += 1;
        (channel, stamp.data(schedule.data_bytes))
    }

    /// The head of a request, with the header that says how long the body is.
    fn http_head(&self, length: &str) -> String {
        let Url { host, path, .. } = &self.target.url;
        let key = self.target.key.as_deref();
        let mut head = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\n{length}\r\n");
        for header in &self.target.adapter.publish.headers {
            // A header with `{key}` is left out if there is no key.
            if key.is_some() || !header.contains("{key}") {
                head.push_str(&header.replace("{key}", key.unwrap_or_default()));
                head.push_str("\r\n");
            }
        }
        head.push_str("\r\n");
        head
    }

    /// Writes the rest of the request.
    pub(crate) fn writable(&mut self) -> Result<(), String> {
        while self.written < self.request.len() {
            match self.stream.write(&self.request[self.written..]) {
                Ok(written) => self.written += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(format!("publisher: {error}")),
            }
        }
        self.request.clear();
        self.written = 0;
        // A chunk or a frame has no response: it is done once it is written.
        self.is_waiting &= self.target.adapter.publish.by == PublishBy::Http;
        Ok(())
    }

    /// Reads the response. An error response ends the run, since its measurements would be meaningless.
    pub(crate) fn readable(&mut self) -> Result<(), String> {
        let mut chunk = [0; 4096];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    let mut told = "publisher: the server closed the connection".to_owned();
                    if !self.response.is_empty() {
                        told = format!("{told}: {}", String::from_utf8_lossy(&self.response));
                    }
                    return Err(told);
                }
                Ok(length) => self.response.extend_from_slice(&chunk[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("publisher: {error}")),
            }
        }
        let Publishing { by, refused, .. } = &self.target.adapter.publish;
        if *by == PublishBy::Stream && !self.response.is_empty() {
            let response = String::from_utf8_lossy(&self.response);
            return Err(format!("publisher: the server ended the stream: {response}"));
        }
        if *by == PublishBy::Frame {
            let mut used = 0;
            while let Some((frame, length)) = protocol::server_frame(&self.response[used..])? {
                used += length;
                let payload = String::from_utf8_lossy(frame.payload);
                match frame.opcode {
                    protocol::CLOSE => return Err(format!("publisher: the server closed: {payload}")),
                    // A ping is not answered, because a pong would have to wait for the frame in progress. Published
                    // events show that the connection is alive.
                    protocol::TEXT if refused.iter().any(|mark| payload.contains(mark.as_str())) => {
                        return Err(format!("publisher: the server answered {payload}"));
                    }
                    _ => {}
                }
            }
            self.response.drain(..used);
        } else if let Some(length) = whole_response(&self.response, refused)? {
            self.response.drain(..length);
            self.is_waiting = false;
        }
        Ok(())
    }

    /// Whether the whole schedule was sent and answered.
    pub(crate) fn is_done(&self) -> bool {
        !self.is_waiting && self.schedule.is_none_or(|schedule| self.sent == schedule.events)
    }
}

/// Opens the WebSocket of a publisher that sends frames, and does the adapter's steps before the first event. Returns
/// the bytes that the server has sent after that.
fn open_socket(stream: &mut std::net::TcpStream, target: &Target) -> Result<Vec<u8>, String> {
    let text = |error: std::io::Error| error.to_string();
    stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(text)?;
    let adapter = &target.adapter;
    let request = protocol::upgrade_request(&target.url, adapter.token, target.key.as_deref(), false);
    stream.write_all(request.as_bytes()).map_err(text)?;
    let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
    let mut more = |bytes: &mut Vec<u8>, stream: &mut std::net::TcpStream| match stream.read(&mut chunk) {
        Ok(0) => Err("the server closed the connection".to_owned()),
        Ok(length) => {
            bytes.extend_from_slice(&chunk[..length]);
            Ok(())
        }
        Err(error) => Err(error.to_string()),
    };
    let head = loop {
        match protocol::upgrade_response(&bytes, false)? {
            Some(head) => break head,
            None => more(&mut bytes, stream)?,
        }
    };
    bytes.drain(..head);
    for step in &adapter.open {
        while !step.r#await.is_empty() {
            let Some((frame, length)) = protocol::server_frame(&bytes)? else {
                more(&mut bytes, stream)?;
                continue;
            };
            let is_it = String::from_utf8_lossy(frame.payload).contains(step.r#await.as_str());
            bytes.drain(..length);
            if is_it {
                break;
            }
        }
        if !step.send.is_empty() {
            let text_sent = step.send.replace("{token}", target.key.as_deref().unwrap_or_default());
            stream
                .write_all(&protocol::client_frame(protocol::TEXT, text_sent.as_bytes()))
                .map_err(text)?;
        }
    }
    Ok(bytes)
}

fn whole_response(bytes: &[u8], refused: &[String]) -> Result<Option<usize>, String> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(format!("publisher: bad response: {error}")),
    };
    let length = response
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok());
    let code = response.code.unwrap_or(0);
    let length = match length {
        Some(length) => length,
        None if code == 204 => 0,
        None => return Err("publisher: the response has no Content-Length".into()),
    };
    let Some(body) = bytes.get(head..head + length) else {
        return Ok(None);
    };
    let body_text = String::from_utf8_lossy(body);
    let is_good = (200..300).contains(&code) && !refused.iter().any(|mark| body_text.contains(mark.as_str()));
    if is_good {
        Ok(Some(head + length))
    } else {
        Err(format!("publisher: the server answered {code} {body_text}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_sent_together_at_the_end_of_the_time_that_they_share() {
        let start = Instant::now();
        let schedule = Schedule {
            start,
            interval_ns: 500_000,
            events: 100,
            data_bytes: 64,
            first_channel: 0,
            channels: 1,
        };
        let sent_at = |every_ms, index| schedule.sent_at(index, Duration::from_millis(every_ms)) - start;
        let micros = |every_ms| [0, 1, 4, 5].map(|index| sent_at(every_ms, index).as_micros());
        assert_eq!(micros(2), [0, 2_000, 2_000, 4_000]);
        assert_eq!(micros(0), [0, 500, 2_000, 2_500]);
    }

    #[test]
    fn only_a_complete_success_response_allows_the_next_request() {
        let refused = ["\"errors\"".to_owned()];
        let whole = |text: &str| whole_response(text.as_bytes(), &refused);
        let good = "HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n{\"published\":1}";
        assert_eq!(whole(good), Ok(Some(good.len())));
        assert_eq!(whole(&good[..good.len() - 1]), Ok(None));
        assert_eq!(whole(&good[..20]), Ok(None));
        assert!(whole("HTTP/1.1 204 No Content\r\n\r\n").unwrap().is_some());
        for (bad, told) in [
            ("HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\n{}", "401 {}"),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{\"errors\":[]}",
                "\"errors\"",
            ),
            ("HTTP/1.1 200 OK\r\n\r\n", "no Content-Length"),
            ("HELLO\r\n\r\n", "bad response"),
        ] {
            let error = whole(bad).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }
}
