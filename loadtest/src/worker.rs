//! One thread of the tool: an epoll loop over its share of the clients, and in the first one the publisher.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::{Events, Interest, Poll, Token};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use crate::client::{Client, Common};
use crate::options::Server;
use crate::protocol::{Stamp, upgrade_request};
use crate::publisher::{Publisher, Schedule};

/// What the scenario asks of a worker.
pub(crate) enum Order {
    /// Connect these clients, each with the text it subscribes with.
    Connect { first: usize, subscribe: Vec<String> },
    /// Publish (the first worker only).
    Publish(Schedule),
    /// Stop reading client number `first` of this worker for good.
    Stall(usize),
    /// Forget the latencies so far.
    Reset,
}

/// What workers tell while they run.
#[derive(Default)]
pub(crate) struct Progress {
    pub(crate) ready: AtomicU64,
    pub(crate) ended: AtomicU64,
    pub(crate) events: AtomicU64,
    pub(crate) missing: AtomicU64,
    pub(crate) out_of_order: AtomicU64,
    pub(crate) published: AtomicU64,
    pub(crate) publisher_done: AtomicBool,
    pub(crate) late_ns_max: AtomicU64,
    /// When the last event arrived, nanoseconds since the start.
    pub(crate) last_arrival_ns: AtomicU64,
    pub(crate) stop: AtomicBool,
    /// The first thing that went wrong; the clients it happened to are in `ended`.
    pub(crate) first_error: Mutex<Option<String>>,
    /// The publisher failed: the run is worth nothing.
    pub(crate) fatal: Mutex<Option<String>>,
}

impl Progress {
    fn client_ended(&self, error: String) {
        self.ended.fetch_add(1, Relaxed);
        self.first_error
            .lock()
            .expect("no thread panics with it")
            .get_or_insert(error);
    }
}

/// What takes longer is counted as ten minutes.
const LATENCY_US_MAX: u64 = 600_000_000;

const TIMER: Token = Token(usize::MAX);
const PUBLISHER: Token = Token(usize::MAX - 1);

pub(crate) struct Worker {
    poll: Poll,
    timer: rustix::fd::OwnedFd,
    common: Common,
    connect_window: usize,
    clients: Vec<Option<Client>>,
    /// Not yet connecting, in reverse order.
    waiting: Vec<(usize, String)>,
    connecting: usize,
    publisher: Option<Publisher>,
    epoch: Instant,
    latencies_us: Histogram<u64>,
    scratch: Vec<u8>,
    progress: Arc<Progress>,
}

impl Worker {
    pub(crate) fn new(
        server: &Server,
        epoch: Instant,
        has_publisher: bool,
        progress: Arc<Progress>,
    ) -> Result<Self, String> {
        let poll = Poll::new().map_err(text)?;
        let timer = rustix::time::timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )
        .map_err(|error| error.to_string())?;
        let raw = std::os::fd::AsRawFd::as_raw_fd(&timer);
        poll.registry()
            .register(&mut mio::unix::SourceFd(&raw), TIMER, Interest::READABLE)
            .map_err(text)?;
        let mut publisher = None;
        if has_publisher {
            let mut new = Publisher::connect(&server.publish_url, server.publish_key.as_deref(), epoch)?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry()
                .register(&mut new.stream, PUBLISHER, interest)
                .map_err(text)?;
            publisher = Some(new);
        }
        Ok(Self {
            poll,
            timer,
            common: Common {
                server: server.url.address,
                request: upgrade_request(&server.url, server.token.as_deref()),
                ready_marker: memchr::memmem::Finder::new(server.ready_marker.as_bytes()).into_owned(),
                needs_marker: !server.ready_marker.is_empty(),
                stamp: Stamp::finder(),
                channels: server.channels,
            },
            connect_window: server.connect_window.div_ceil(server.threads),
            clients: Vec::new(),
            waiting: Vec::new(),
            connecting: 0,
            publisher,
            epoch,
            latencies_us: Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).map_err(|error| error.to_string())?,
            scratch: vec![0; 256 * 1024],
            progress,
        })
    }

    /// Runs until told to stop; returns publish-to-arrival times in microseconds.
    pub(crate) fn run(mut self, orders: &Receiver<Order>) -> Histogram<u64> {
        let mut events = Events::with_capacity(1024);
        while !self.progress.stop.load(Relaxed) {
            if let Err(error) = self.turn(&mut events, orders) {
                self.progress
                    .fatal
                    .lock()
                    .expect("no thread panics with it")
                    .get_or_insert(error);
                break;
            }
        }
        self.latencies_us
    }

    fn turn(&mut self, events: &mut Events, orders: &Receiver<Order>) -> Result<(), String> {
        self.take_orders(orders)?;
        self.connect_more();
        self.publish()?;
        match self.poll.poll(events, Some(Duration::from_millis(10))) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.to_string()),
            _ => {}
        }
        for event in events.iter() {
            match event.token() {
                TIMER => {
                    // Only its waking counts; a number that is not there any more was read before.
                    let _ = rustix::io::read(&self.timer, &mut [0; 8]);
                }
                PUBLISHER => {
                    if let Some(publisher) = &mut self.publisher {
                        publisher.writable()?;
                        publisher.readable()?;
                    }
                }
                Token(index) => self.client_event(index, event.is_writable()),
            }
        }
        Ok(())
    }

    fn take_orders(&mut self, orders: &Receiver<Order>) -> Result<(), String> {
        loop {
            match orders.try_recv() {
                Ok(Order::Connect { first, subscribe }) => {
                    self.waiting.extend(
                        subscribe
                            .into_iter()
                            .enumerate()
                            .map(|(i, text)| (first + i, text))
                            .rev(),
                    );
                }
                Ok(Order::Publish(schedule)) => {
                    self.progress.publisher_done.store(false, Relaxed);
                    if let Some(publisher) = &mut self.publisher {
                        publisher.begin(schedule);
                    }
                }
                Ok(Order::Stall(index)) => {
                    if let Some(Some(client)) = self.clients.get_mut(index) {
                        self.poll.registry().deregister(&mut client.stream).map_err(text)?;
                        // The smallest window the kernel gives, so that the server sees the stall soon.
                        socket2::SockRef::from(&client.stream)
                            .set_recv_buffer_size(1)
                            .map_err(text)?;
                    }
                }
                Ok(Order::Reset) => self.latencies_us.reset(),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return Ok(()),
            }
        }
    }

    fn connect_more(&mut self) {
        while self.connecting < self.connect_window {
            let Some((index, subscribe)) = self.waiting.pop() else {
                return;
            };
            let token = Token(self.clients.len());
            let connected = Client::connect(&self.common, index, &subscribe).and_then(|mut client| {
                let interest = Interest::READABLE | Interest::WRITABLE;
                self.poll.registry().register(&mut client.stream, token, interest)?;
                Ok(client)
            });
            match connected {
                Ok(client) => {
                    self.clients.push(Some(client));
                    self.connecting += 1;
                }
                Err(error) => {
                    self.clients.push(None);
                    self.progress.client_ended(format!("connect: {error}"));
                }
            }
        }
    }

    fn publish(&mut self) -> Result<(), String> {
        let Some(publisher) = &mut self.publisher else {
            return Ok(());
        };
        publisher.tick(Instant::now())?;
        self.progress.published.store(publisher.published, Relaxed);
        self.progress.late_ns_max.store(publisher.late_ns_max, Relaxed);
        self.progress.publisher_done.store(publisher.is_done(), Relaxed);
        if let Some(due) = publisher.next_due() {
            // A poll's own timeout is rounded up to a whole millisecond, which would be added to each latency.
            let wait = due
                .saturating_duration_since(Instant::now())
                .max(Duration::from_nanos(1));
            let none = Timespec { tv_sec: 0, tv_nsec: 0 };
            let value = Timespec {
                tv_sec: wait.as_secs() as i64,
                tv_nsec: i64::from(wait.subsec_nanos()),
            };
            let spec = Itimerspec {
                it_interval: none,
                it_value: value,
            };
            rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec)
                .map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn client_event(&mut self, index: usize, is_writable: bool) {
        let Some(Some(client)) = self.clients.get_mut(index) else {
            return;
        };
        let was_ready = client.is_ready();
        let (epoch, latencies_us) = (self.epoch, &mut self.latencies_us);
        let mut now_ns = 0;
        let written = if is_writable {
            client.writable(&self.common)
        } else {
            Ok(())
        };
        let received = written.and_then(|()| {
            client.readable(&self.common, &mut self.scratch, |stamp| {
                if now_ns == 0 {
                    now_ns = epoch.elapsed().as_nanos() as u64;
                }
                latencies_us.saturating_record(now_ns.saturating_sub(stamp.due_ns) / 1000);
            })
        });
        match received {
            Ok(received) => {
                let progress = &self.progress;
                if received.ready {
                    self.connecting -= 1;
                    progress.ready.fetch_add(1, Relaxed);
                }
                if received.events > 0 {
                    progress.events.fetch_add(received.events, Relaxed);
                    progress.missing.fetch_add(received.missing, Relaxed);
                    progress.out_of_order.fetch_add(received.out_of_order, Relaxed);
                    progress.last_arrival_ns.fetch_max(now_ns, Relaxed);
                }
            }
            Err(error) => {
                self.connecting -= usize::from(!was_ready);
                self.clients[index] = None;
                self.progress.client_ended(error);
            }
        }
    }
}

fn text(error: io::Error) -> String {
    error.to_string()
}
