//! Events to `POST /api/publish`, as they become due, over one keep-alive connection.
//!
//! Invariant: an event's stamp is the time at which it was due, however late it is really sent; while a request is
//! under way, what becomes due waits and goes out together in the next one.

use std::io::{ErrorKind, Read, Write};
use std::time::Instant;

use mio::net::TcpStream;

use crate::options::Url;
use crate::protocol::Stamp;

/// What to publish.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// When the first event is due.
    pub(crate) start: Instant,
    /// Between two events.
    pub(crate) interval_ns: u64,
    /// How many.
    pub(crate) events: u64,
    /// Length of each event's `data`.
    pub(crate) data_bytes: usize,
    /// The first channel's index, and how many take turns.
    pub(crate) first_channel: u64,
    pub(crate) channels: u64,
}

impl Schedule {
    fn due(&self, index: u64) -> Instant {
        self.start + std::time::Duration::from_nanos(self.interval_ns * index)
    }
}

/// Events in one request: bounded in count and in bytes, below what servers accept.
const EVENTS_PER_REQUEST: u64 = 1000;
const REQUEST_BYTES: usize = 4 << 20;

pub(crate) struct Publisher {
    pub(crate) stream: TcpStream,
    url: Url,
    key: Option<String>,
    epoch: Instant,
    schedule: Option<Schedule>,
    sent: u64,
    sequences: Vec<u64>,
    request: Vec<u8>,
    written: usize,
    response: Vec<u8>,
    is_waiting: bool,
    /// The longest time an event waited in the tool before its request began.
    pub(crate) late_ns_max: u64,
    pub(crate) published: u64,
}

impl Publisher {
    pub(crate) fn connect(url: &Url, key: Option<&str>, epoch: Instant) -> Result<Self, String> {
        let stream = std::net::TcpStream::connect(url.address).map_err(|error| format!("publisher: {error}"))?;
        stream
            .set_nonblocking(true)
            .and_then(|()| stream.set_nodelay(true))
            .map_err(|error| error.to_string())?;
        Ok(Self {
            stream: TcpStream::from_std(stream),
            url: url.clone(),
            key: key.map(str::to_owned),
            epoch,
            schedule: None,
            sent: 0,
            sequences: Vec::new(),
            request: Vec::new(),
            written: 0,
            response: Vec::new(),
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

    /// When there is something to do again, if that depends on the clock alone.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let schedule = self.schedule.filter(|_| !self.is_waiting)?;
        (self.sent < schedule.events).then(|| schedule.due(self.sent))
    }

    /// Sends what is due, unless a request is under way.
    pub(crate) fn tick(&mut self, now: Instant) -> Result<(), String> {
        let Some(schedule) = self.schedule else { return Ok(()) };
        if self.is_waiting || self.sent == schedule.events || schedule.due(self.sent) > now {
            return Ok(());
        }
        let late = now.duration_since(schedule.due(self.sent)).as_nanos();
        self.late_ns_max = self.late_ns_max.max(u64::try_from(late).unwrap_or(u64::MAX));
        self.compose(&schedule, now);
        self.is_waiting = true;
        self.writable()
    }

    fn compose(&mut self, schedule: &Schedule, now: Instant) {
        let mut body = String::from("[");
        let first = self.sent;
        while self.sent < schedule.events
            && self.sent - first < EVENTS_PER_REQUEST
            && body.len() < REQUEST_BYTES
            && schedule.due(self.sent) <= now
        {
            let channel = schedule.first_channel + self.sent % schedule.channels;
            let index = channel as usize;
            if self.sequences.len() <= index {
                self.sequences.resize(index + 1, 0);
            }
            self.sequences[index] += 1;
            let due_ns = schedule.due(self.sent).duration_since(self.epoch).as_nanos() as u64;
            let stamp = Stamp {
                channel,
                sequence: self.sequences[index],
                due_ns,
            };
            let data = stamp.data(schedule.data_bytes);
            let comma = if self.sent == first { "" } else { "," };
            body.push_str(&format!(
                "{comma}{{\"channel\":\"load.{channel}\",\"event\":\"tick\",\"data\":{data}}}"
            ));
            self.sent += 1;
        }
        body.push(']');
        let Url { host, path, .. } = &self.url;
        let key = self
            .key
            .as_ref()
            .map_or(String::new(), |key| format!("Authorization: Bearer {key}\r\n"));
        let length = body.len();
        self.request = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\n{key}Content-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
        .into_bytes();
        self.written = 0;
        self.published += self.sent - first;
    }

    /// Writes what is left of the request.
    pub(crate) fn writable(&mut self) -> Result<(), String> {
        while self.written < self.request.len() {
            match self.stream.write(&self.request[self.written..]) {
                Ok(written) => self.written += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(format!("publisher: {error}")),
            }
        }
        Ok(())
    }

    /// Reads the answer; anything but a clean 200 ends the run, since the figures would mean nothing.
    pub(crate) fn readable(&mut self) -> Result<(), String> {
        let mut chunk = [0; 4096];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err("publisher: the server closed the connection".into()),
                Ok(length) => self.response.extend_from_slice(&chunk[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("publisher: {error}")),
            }
        }
        if let Some(length) = whole_response(&self.response)? {
            self.response.drain(..length);
            self.is_waiting = false;
        }
        Ok(())
    }

    /// Whether everything of the schedule was sent and answered.
    pub(crate) fn is_done(&self) -> bool {
        !self.is_waiting && self.schedule.is_none_or(|schedule| self.sent == schedule.events)
    }
}

fn whole_response(bytes: &[u8]) -> Result<Option<usize>, String> {
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
        .and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok())
        .ok_or("publisher: the response has no Content-Length")?;
    let Some(body) = bytes.get(head..head + length) else {
        return Ok(None);
    };
    let body_text = String::from_utf8_lossy(body);
    if response.code != Some(200) || body_text.contains("\"errors\"") {
        return Err(format!(
            "publisher: the server answered {} {body_text}",
            response.code.unwrap_or(0)
        ));
    }
    Ok(Some(head + length))
}
