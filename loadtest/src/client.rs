//! One client: the handshake, the steps before the subscription, then events, their sequence numbers and requests.
//!
//! Invariant: Whether an event is received, missing, late or stray is decided by the client's own sequence numbers
//! only, never by what the server reports about itself.

use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Instant;

use memchr::memmem::Finder;
use mio::net::TcpStream;
use socket2::{Domain, Protocol, Socket, Type};

use crate::adapter::Adapter;
use crate::deflate::Inflater;
use crate::measured::Measurements;
use crate::options::Url;
use crate::protocol::{self, RequestId, Stamp};
use crate::sequences::{Membership, Sequences};

/// State that all clients of a worker share.
pub(crate) struct Common {
    pub(crate) url: Url,
    pub(crate) adapter: Arc<Adapter>,
    pub(crate) stamp: Finder<'static>,
    pub(crate) request_id: Finder<'static>,
    /// The start of the run; times are nanoseconds since then.
    pub(crate) epoch: Instant,
    /// Present if clients offer compression.
    inflater: Option<RefCell<Inflater>>,
}

impl Common {
    pub(crate) fn new(url: &Url, adapter: &Arc<Adapter>, epoch: Instant, compression: bool) -> Self {
        Self {
            url: url.clone(),
            adapter: Arc::clone(adapter),
            stamp: Stamp::finder(),
            request_id: RequestId::finder(),
            epoch,
            inflater: compression.then(RefCell::default),
        }
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }
}

/// The description of a client to connect.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// Number of the connection in the whole run; it determines the source address.
    pub(crate) serial: usize,
    pub(crate) group: usize,
    pub(crate) token: Option<Arc<str>>,
    /// The channels to subscribe, one after the other.
    pub(crate) channels: Vec<String>,
    /// The number of channels whose sequences it checks.
    pub(crate) sequences: usize,
    /// When the connection is due, in nanoseconds since the epoch.
    pub(crate) due_ns: u64,
}

/// The progress of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    Handshake,
    /// Waiting for the message of the adapter's step of this index.
    Opening(usize),
    /// Waiting for the answer to the subscription of this index.
    Subscribing(usize),
    Ready,
}

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    spec: Spec,
    state: State,
    /// The beginning of an incomplete frame.
    tail: Vec<u8>,
    sequences: Sequences,
    membership: Option<Box<Membership>>,
}

/// Maximum number of connections from one source address to one server address. It is far below the kernel's default
/// range of 28,000 ports, because finding a free port takes milliseconds when most are taken. Ports of connections that
/// have ended stay taken for a minute.
const CONNECTIONS_PER_ADDRESS: usize = 5_000;

/// The loopback address to connect number `serial` from, or `None` to leave the choice to the kernel. `run` varies the
/// address between runs, so that a run does not find the ports of the previous one taken.
fn source_address(serial: usize, server: SocketAddr, run: u32) -> Option<Ipv4Addr> {
    let step = serial / CONNECTIONS_PER_ADDRESS;
    let is_needed = step > 0 && server.is_ipv4() && server.ip().is_loopback();
    is_needed.then(|| {
        Ipv4Addr::new(
            127,
            1 + (run % 250) as u8,
            (step / 250 % 250) as u8,
            1 + (step % 250) as u8,
        )
    })
}

impl Client {
    /// Starts to connect.
    pub(crate) fn connect(common: &Common, spec: Spec) -> std::io::Result<Self> {
        let server = common.url.address;
        let socket = Socket::new(Domain::for_address(server), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if let Some(source) = source_address(spec.serial, server, std::process::id()) {
            socket.bind(&SocketAddr::V4(SocketAddrV4::new(source, 0)).into())?;
        }
        match socket.connect(&server.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
        Ok(Self {
            stream: TcpStream::from_std(socket.into()),
            state: State::Connecting,
            tail: Vec::new(),
            sequences: Sequences::new(spec.sequences),
            membership: None,
            spec,
        })
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    pub(crate) fn group(&self) -> usize {
        self.spec.group
    }

    /// Called when the socket is writable. Sends the handshake if the connection has just been established.
    pub(crate) fn writable(&mut self, common: &Common) -> Result<(), String> {
        if self.state == State::Connecting {
            if let Some(error) = self.stream.take_error().map_err(text)? {
                return Err(format!("connect: {error}"));
            }
            let token = self.spec.token.as_deref();
            let request =
                protocol::upgrade_request(&common.url, common.adapter.token, token, common.inflater.is_some());
            self.send(request.as_bytes())?;
            self.state = State::Handshake;
        }
        Ok(())
    }

    /// Sends the adapter's command with this id.
    pub(crate) fn command(&mut self, common: &Common, id: RequestId) -> Result<(), String> {
        self.send_text(&common.adapter.command.replace("{id}", &id.text()))
    }

    /// Unsubscribes or subscribes. The request is queued while another one is not answered yet.
    pub(crate) fn toggle(&mut self, common: &Common, due_ns: u64, measured: &mut Measurements) -> Result<(), String> {
        self.membership.get_or_insert_default().push(due_ns);
        self.toggle_next(common, measured)
    }

    fn toggle_next(&mut self, common: &Common, measured: &mut Measurements) -> Result<(), String> {
        let Some(subscribes) = self.membership.as_mut().and_then(|membership| membership.begin_next()) else {
            return Ok(());
        };
        measured.counters.requests.sent += 1;
        let Adapter {
            subscribe, unsubscribe, ..
        } = &*common.adapter;
        let template = if subscribes { subscribe } else { unsubscribe };
        self.send_text(&template.replace("{channel}", &self.spec.channels[0]))
    }

    fn send_text(&mut self, text: &str) -> Result<(), String> {
        self.send(&protocol::client_frame(protocol::TEXT, text.as_bytes()))
    }

    /// Sends a message. Messages are small and sent one at a time, so a socket that cannot take one is broken.
    fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        match self.stream.write(bytes) {
            Ok(written) if written == bytes.len() => Ok(()),
            Ok(_) => Err("send: the socket is full".into()),
            Err(error) => Err(format!("send: {error}")),
        }
    }

    /// Reads until the socket is empty, and counts what arrived.
    pub(crate) fn readable(
        &mut self,
        common: &Common,
        scratch: &mut [u8],
        measured: &mut Measurements,
    ) -> Result<(), String> {
        loop {
            match self.stream.read(scratch) {
                Ok(0) => return Err("the server closed the connection".into()),
                Ok(length) => {
                    measured.counters.groups[self.spec.group].bytes += length as u64;
                    let now_ns = common.now_ns();
                    self.take(common, &scratch[..length], now_ns, measured)?;
                    if length < scratch.len() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("read: {error}")),
            }
        }
    }

    fn take(&mut self, common: &Common, bytes: &[u8], now_ns: u64, measured: &mut Measurements) -> Result<(), String> {
        if self.tail.is_empty() {
            let used = self.parse(common, bytes, now_ns, measured)?;
            self.tail.extend_from_slice(&bytes[used..]);
        } else {
            let mut joined = std::mem::take(&mut self.tail);
            joined.extend_from_slice(bytes);
            let used = self.parse(common, &joined, now_ns, measured)?;
            joined.drain(..used);
            self.tail = joined;
        }
        Ok(())
    }

    fn parse(
        &mut self,
        common: &Common,
        bytes: &[u8],
        now_ns: u64,
        measured: &mut Measurements,
    ) -> Result<usize, String> {
        let mut used = 0;
        if self.state == State::Handshake {
            let Some(length) = protocol::upgrade_response(bytes, common.inflater.is_some())? else {
                return Ok(0);
            };
            used = length;
            self.open(common, 0, now_ns, measured)?;
        }
        while let Some((frame, length)) = protocol::server_frame(&bytes[used..])? {
            used += length;
            match frame.opcode {
                protocol::TEXT | protocol::BINARY if frame.deflated => {
                    let inflater = common.inflater.as_ref();
                    let mut inflater = inflater
                        .ok_or("a compressed message without an agreement")?
                        .borrow_mut();
                    self.message(common, inflater.inflate(frame.payload)?, now_ns, measured)?;
                }
                protocol::TEXT | protocol::BINARY => self.message(common, frame.payload, now_ns, measured)?,
                protocol::PING => self.send(&protocol::client_frame(protocol::PONG, frame.payload))?,
                protocol::CLOSE => return Err(format!("the server closed: {}", close_text(frame.payload))),
                _ => {}
            }
        }
        Ok(used)
    }

    /// Continues with the adapter's step `step`, and subscribes after the last step.
    fn open(
        &mut self,
        common: &Common,
        mut step: usize,
        now_ns: u64,
        measured: &mut Measurements,
    ) -> Result<(), String> {
        while let Some(next) = common.adapter.open.get(step) {
            if !next.r#await.is_empty() && self.state != State::Opening(step) {
                self.state = State::Opening(step);
                return Ok(());
            }
            if !next.send.is_empty() {
                self.send_text(
                    &next
                        .send
                        .replace("{token}", self.spec.token.as_deref().unwrap_or_default()),
                )?;
            }
            step += 1;
        }
        self.subscribe(common, 0, now_ns, measured)
    }

    /// Continues with the subscription of index `first`. The client is ready after the last one.
    fn subscribe(
        &mut self,
        common: &Common,
        first: usize,
        now_ns: u64,
        measured: &mut Measurements,
    ) -> Result<(), String> {
        let Adapter {
            subscribe, subscribed, ..
        } = &*common.adapter;
        for number in first..self.spec.channels.len() {
            if !subscribe.is_empty() {
                self.send_text(&subscribe.replace("{channel}", &self.spec.channels[number]))?;
            }
            if !subscribed.is_empty() {
                self.state = State::Subscribing(number);
                return Ok(());
            }
        }
        self.state = State::Ready;
        measured.counters.groups[self.spec.group].ready += 1;
        let live_us = now_ns.saturating_sub(self.spec.due_ns) / 1000;
        measured.lap.live_us[self.spec.group].saturating_record(live_us);
        Ok(())
    }

    fn message(
        &mut self,
        common: &Common,
        message: &[u8],
        now_ns: u64,
        measured: &mut Measurements,
    ) -> Result<(), String> {
        let may_receive = self
            .membership
            .as_ref()
            .is_none_or(|membership| membership.may_receive());
        let mut is_event = false;
        Stamp::each(&common.stamp, message, |stamp| {
            is_event = true;
            let latency_us = now_ns.saturating_sub(stamp.due_ns) / 1000;
            measured.lap.events_us[self.spec.group].saturating_record(latency_us);
            let group = &mut measured.counters.groups[self.spec.group];
            self.sequences.count(stamp, group);
            group.stray += u64::from(!may_receive);
            measured.last_arrival_ns = measured.last_arrival_ns.max(now_ns);
        });
        let adapter = &*common.adapter;
        for answer in &adapter.answers {
            // Some servers put several lines into one message, so a ping may stand among events.
            let is_to_answer = |line: &[u8]| line == answer.to.as_bytes();
            if message.split(|byte| *byte == b'\n').any(is_to_answer) {
                self.send_text(&answer.with)?;
            }
        }
        if is_event {
            return Ok(());
        }
        let is_error = adapter.errors.iter().any(|mark| contains(message, mark));
        match self.state {
            State::Opening(_) | State::Subscribing(_) if is_error => Err(String::from_utf8_lossy(message).into_owned()),
            State::Opening(step) if contains(message, &adapter.open[step].r#await) => {
                self.open(common, step, now_ns, measured)
            }
            State::Subscribing(number) if contains(message, &adapter.subscribed) => {
                self.subscribe(common, number + 1, now_ns, measured)
            }
            State::Ready => self.answer(common, message, is_error, now_ns, measured),
            _ => Ok(()),
        }
    }

    /// Handles a message to a live client that is not an event.
    fn answer(
        &mut self,
        common: &Common,
        message: &[u8],
        is_error: bool,
        now_ns: u64,
        measured: &mut Measurements,
    ) -> Result<(), String> {
        let adapter = &*common.adapter;
        let mut due_ns = None;
        if let Some(id) = RequestId::find(&common.request_id, message) {
            due_ns = Some(id.due_ns);
        } else if let Some(membership) = &mut self.membership {
            let mark = if membership.is_subscribing() {
                &adapter.subscribed
            } else {
                &adapter.unsubscribed
            };
            if is_error || contains(message, mark) {
                due_ns = membership.answered(!is_error);
                if !membership.may_receive() {
                    self.sequences.restart();
                }
            }
        }
        let Some(due_ns) = due_ns else {
            measured.counters.requests.errors += u64::from(is_error);
            if !adapter.dropped.is_empty() && contains(message, &adapter.dropped) {
                measured.counters.groups[self.spec.group].told_dropped += reported_count(message);
            }
            return Ok(());
        };
        let requests = &mut measured.counters.requests;
        requests.answered += 1;
        let is_good = if self.membership.is_some() {
            !is_error
        } else {
            contains(message, &adapter.succeeded)
        };
        requests.failed += u64::from(!is_good);
        measured
            .lap
            .requests_us
            .saturating_record(now_ns.saturating_sub(due_ns) / 1000);
        self.toggle_next(common, measured)
    }
}

fn contains(message: &[u8], mark: &str) -> bool {
    memchr::memmem::find(message, mark.as_bytes()).is_some()
}

/// The number after `"count":`. A report of lost events without a number counts as one.
fn reported_count(message: &[u8]) -> u64 {
    let mark = b"\"count\":";
    let Some(at) = memchr::memmem::find(message, mark) else {
        return 1;
    };
    let digits = message[at + mark.len()..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number: u64, digit| {
        number.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
    })
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
    fn source_addresses_are_loopback_and_differ_when_ports_run_out() {
        let server = SocketAddr::from(([127, 0, 0, 1], 80));
        assert_eq!(source_address(CONNECTIONS_PER_ADDRESS - 1, server, 7), None);
        let of_run = |run| {
            (1..50_000).map(move |step| source_address(step * CONNECTIONS_PER_ADDRESS, server, run).expect("needed"))
        };
        let addresses: Vec<_> = of_run(7).chain(of_run(8)).collect();
        let is_other = |address: &Ipv4Addr| address.is_loopback() && *address != Ipv4Addr::LOCALHOST;
        assert!(addresses.iter().all(is_other));
        let distinct: std::collections::HashSet<_> = addresses.iter().collect();
        assert_eq!(distinct.len(), addresses.len());
        assert_eq!(source_address(50_000, SocketAddr::from(([10, 0, 0, 1], 80)), 7), None);
    }

    #[test]
    fn the_reported_number_of_lost_events_is_read() {
        assert_eq!(
            reported_count(br#"{"type":"dropped","data":{"count":17,"channels":[]}}"#),
            17
        );
        assert_eq!(reported_count(br#"{"type":"dropped"}"#), 1);
    }
}
