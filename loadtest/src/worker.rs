//! One thread of the tool: an epoll loop over its share of the clients. The first worker also runs the publisher.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use crate::client::{Client, Common, Spec};
use crate::measured::{GROUPS, Measured, Measurements};
use crate::protocol::RequestId;
use crate::publisher::{Publisher, Schedule};
use crate::requests::{Kind, Plan, Progress};

/// An order from the scenario to a worker.
pub(crate) enum Order {
    /// Connect these clients as they become due.
    Connect(Vec<Spec>),
    /// Publish; for the first worker only.
    Publish(Schedule),
    /// Drop the events that are not published yet.
    EndPublishing,
    /// Send requests.
    Request(Plan),
    /// The clients of this group stop reading.
    Stall(usize),
    /// The clients of this group read again.
    Resume(usize),
    /// The tool closes the connections of this group.
    Disconnect(usize),
}

/// State shared by all workers and the scenario.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) stop: AtomicBool,
    /// The first error of a client; a counter says how many clients ended.
    pub(crate) first_error: Mutex<Option<String>>,
    /// An error that ends the run.
    pub(crate) fatal: Mutex<Option<String>>,
}

impl Shared {
    fn client_error(&self, error: String) {
        self.first_error
            .lock()
            .expect("no thread panics with it")
            .get_or_insert_with(|| tickgate_escape::line(&error).into_owned());
    }
}

const STALLED_BUFFER_BYTES: usize = 32 * 1024;
/// Maximum number of connections to begin or end in one pass of the loop. That takes one or two milliseconds of system
/// calls, and other clients receive between two passes.
const CONNECTS: usize = 64;

const TIMER: Token = Token(usize::MAX);
const PUBLISHER: Token = Token(usize::MAX - 1);

pub(crate) struct Worker {
    poll: Poll,
    timer: rustix::fd::OwnedFd,
    common: Common,
    connect_window: usize,
    clients: Vec<Option<Client>>,
    /// Indices into `clients`, by group.
    groups: [Vec<usize>; GROUPS],
    /// Clients that are not connecting yet, in the order of their due times.
    waiting: VecDeque<Spec>,
    connecting: usize,
    /// Indices of the clients to disconnect.
    leaving: Vec<usize>,
    requests: Option<Progress>,
    publisher: Option<Publisher>,
    scratch: Vec<u8>,
    measured: Arc<Measured>,
    shared: Arc<Shared>,
}

impl Worker {
    pub(crate) fn new(
        common: Common,
        connect_window: usize,
        mut publisher: Option<Publisher>,
        measured: Arc<Measured>,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let raw = std::os::fd::AsRawFd::as_raw_fd(&timer);
        let registry = poll.registry();
        registry.register(&mut mio::unix::SourceFd(&raw), TIMER, Interest::READABLE)?;
        if let Some(publisher) = &mut publisher {
            let interest = Interest::READABLE | Interest::WRITABLE;
            registry.register(&mut publisher.stream, PUBLISHER, interest)?;
        }
        Ok(Self {
            poll,
            timer,
            common,
            connect_window,
            clients: Vec::new(),
            groups: Default::default(),
            waiting: VecDeque::new(),
            connecting: 0,
            leaving: Vec::new(),
            requests: None,
            publisher,
            scratch: vec![0; 256 * 1024],
            measured,
            shared,
        })
    }

    /// Runs until it is told to stop, or until an error ends the run.
    pub(crate) fn run(mut self, orders: &Receiver<Order>) {
        let mut events = Events::with_capacity(1024);
        while !self.shared.stop.load(Relaxed) {
            if let Err(error) = self.pass(&mut events, orders) {
                self.shared
                    .fatal
                    .lock()
                    .expect("no thread panics with it")
                    .get_or_insert(error);
                break;
            }
        }
    }

    fn pass(&mut self, events: &mut Events, orders: &Receiver<Order>) -> Result<(), String> {
        self.take_orders(orders).map_err(|error| error.to_string())?;
        self.disconnect_some();
        self.connect_more();
        self.request();
        self.publish()?;
        self.set_timer().map_err(|error| error.to_string())?;
        match self.poll.poll(events, Some(Duration::from_millis(10))) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.to_string()),
            _ => {}
        }
        for event in events.iter() {
            match event.token() {
                TIMER => {
                    // Only the wake-up matters. Reading fails if the timer was set again meanwhile.
                    let _ = rustix::io::read(&self.timer, &mut [0; 8]);
                }
                PUBLISHER => {
                    if let Some(publisher) = &mut self.publisher {
                        publisher.writable()?;
                        publisher.readable()?;
                    }
                }
                Token(number) => self.client_event(number, event.is_writable()),
            }
        }
        Ok(())
    }

    fn take_orders(&mut self, orders: &Receiver<Order>) -> io::Result<()> {
        loop {
            match orders.try_recv() {
                Ok(Order::Connect(specs)) => self.waiting.extend(specs),
                Ok(Order::Publish(schedule)) => {
                    if let Some(publisher) = &mut self.publisher {
                        publisher.begin(schedule);
                    }
                }
                Ok(Order::EndPublishing) => {
                    if let Some(publisher) = &mut self.publisher {
                        publisher.end();
                    }
                }
                Ok(Order::Request(plan)) => self.requests = Some(Progress::new(plan)),
                Ok(Order::Stall(group)) => self.stall(group)?,
                Ok(Order::Resume(group)) => self.resume(group)?,
                Ok(Order::Disconnect(group)) => self.leaving.append(&mut self.groups[group]),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return Ok(()),
            }
        }
    }

    fn disconnect_some(&mut self) {
        let kept = self.leaving.len().saturating_sub(CONNECTS);
        for number in self.leaving.drain(kept..) {
            if let Some(client) = self.clients[number].take() {
                self.connecting -= usize::from(!client.is_ready());
                self.measured.lock().counters.groups[client.group()].left += u64::from(client.is_ready());
            }
        }
    }

    fn stall(&mut self, group: usize) -> io::Result<()> {
        for &number in &self.groups[group] {
            if let Some(client) = &mut self.clients[number] {
                self.poll.registry().deregister(&mut client.stream)?;
                // A small buffer fills soon. With a much smaller one the client would read slowly afterwards.
                socket2::SockRef::from(&client.stream).set_recv_buffer_size(STALLED_BUFFER_BYTES)?;
            }
        }
        Ok(())
    }

    fn resume(&mut self, group: usize) -> io::Result<()> {
        for &number in &self.groups[group] {
            if let Some(client) = &mut self.clients[number] {
                let interest = Interest::READABLE | Interest::WRITABLE;
                self.poll
                    .registry()
                    .register(&mut client.stream, Token(number), interest)?;
            }
        }
        Ok(())
    }

    /// Connects clients that are due, at most [`CONNECTS`] at a time, so that reading and publishing are not delayed.
    fn connect_more(&mut self) {
        let now_ns = self.common.now_ns();
        let limit = self.connect_window.min(self.connecting + CONNECTS);
        while self.connecting < limit {
            if self.waiting.front().is_none_or(|spec| spec.due_ns > now_ns) {
                return;
            }
            let Some(spec) = self.waiting.pop_front() else { return };
            let (number, group) = (self.clients.len(), spec.group);
            let connected = Client::connect(&self.common, spec).and_then(|mut client| {
                let interest = Interest::READABLE | Interest::WRITABLE;
                self.poll
                    .registry()
                    .register(&mut client.stream, Token(number), interest)?;
                Ok(client)
            });
            match connected {
                Ok(client) => {
                    self.clients.push(Some(client));
                    self.groups[group].push(number);
                    self.connecting += 1;
                }
                Err(error) => {
                    self.clients.push(None);
                    self.measured.lock().counters.groups[group].ended += 1;
                    self.shared.client_error(format!("connect: {error}"));
                }
            }
        }
    }

    /// Sends the requests that are due.
    fn request(&mut self) {
        let Some(requests) = &mut self.requests else { return };
        let plan = requests.plan;
        while let Some((sequence, due)) = requests.begin(Instant::now()) {
            let due_ns = due.duration_since(self.common.epoch).as_nanos() as u64;
            let group = &self.groups[plan.group];
            let mut measured = self.measured.lock();
            let position = usize::try_from(sequence).unwrap_or(usize::MAX) % group.len().max(1);
            let Some(client) = group.get(position).and_then(|number| self.clients[*number].as_mut()) else {
                // Its client has ended, so this request is never answered.
                measured.counters.requests.sent += 1;
                continue;
            };
            let asked = match plan.kind {
                Kind::Command => {
                    measured.counters.requests.sent += 1;
                    client.command(&self.common, RequestId { due_ns, sequence })
                }
                Kind::Toggle => client.toggle(&self.common, due_ns, &mut measured),
            };
            if let Err(error) = asked {
                // The next event of the socket reports the same error and ends the client.
                self.shared.client_error(error);
            }
        }
    }

    fn publish(&mut self) -> Result<(), String> {
        let Some(publisher) = &mut self.publisher else {
            return Ok(());
        };
        publisher.tick(Instant::now())?;
        let mut measured = self.measured.lock();
        measured.counters.requests.published = publisher.published;
        measured.late_ns_max = publisher.late_ns_max;
        measured.is_published = publisher.is_done();
        Ok(())
    }

    /// Sets the timer to the next due time. The timeout of a poll is rounded up to a whole millisecond, which would be
    /// added to each latency.
    fn set_timer(&mut self) -> io::Result<()> {
        let connect = self.waiting.front().filter(|_| self.connecting < self.connect_window);
        let connect = connect.map(|spec| self.common.epoch + Duration::from_nanos(spec.due_ns));
        let requests = self.requests.as_ref().and_then(Progress::next_due);
        let publisher = self.publisher.as_ref().and_then(Publisher::next_due);
        let leaving = (!self.leaving.is_empty()).then(Instant::now);
        let Some(due) = [connect, requests, publisher, leaving].into_iter().flatten().min() else {
            return Ok(());
        };
        let wait = due
            .saturating_duration_since(Instant::now())
            .max(Duration::from_nanos(1));
        let spec = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec {
                tv_sec: wait.as_secs() as i64,
                tv_nsec: i64::from(wait.subsec_nanos()),
            },
        };
        rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec)?;
        Ok(())
    }

    fn client_event(&mut self, number: usize, is_writable: bool) {
        let Some(Some(client)) = self.clients.get_mut(number) else {
            return;
        };
        let was_ready = client.is_ready();
        let mut measured = self.measured.lock();
        let written = if is_writable {
            client.writable(&self.common)
        } else {
            Ok(())
        };
        let received = written.and_then(|()| client.readable(&self.common, &mut self.scratch, &mut measured));
        if !was_ready && (client.is_ready() || received.is_err()) {
            self.connecting -= 1;
        }
        if let Err(error) = received {
            end(&mut measured, client);
            self.clients[number] = None;
            drop(measured);
            self.shared.client_error(error);
        }
    }
}

fn end(measured: &mut Measurements, client: &Client) {
    measured.counters.groups[client.group()].ended += 1;
}
