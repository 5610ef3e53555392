//! What is done in which order, and what is measured in between.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::options::{Fanout, Idle, Options, Scenario, Server};
use crate::process::{self, Sample};
use crate::publisher::Schedule;
use crate::report::{FanoutReport, IdleReport, LatencyMs, Memory, Tool};
use crate::worker::{Order, Progress, Worker};

/// Runs what the command line asks for and prints the report.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    match &options.scenario {
        Scenario::Fanout(fanout) => {
            let report = run_fanout(fanout)?;
            crate::report::write(&report, &report.to_string(), fanout.server.json.as_deref())
        }
        Scenario::Idle(idle) => {
            let report = run_idle(idle)?;
            crate::report::write(&report, &report.to_string(), idle.server.json.as_deref())
        }
    }
}

fn run_fanout(options: &Fanout) -> Result<FanoutReport, String> {
    let server = &options.server;
    let fleet = Fleet::start(server)?;
    let before = fleet.server_sample()?;
    fleet.connect(0, &subscriptions(server, options.clients))?;
    let connected = fleet.server_sample()?;
    fleet.publish_and_drain(options, options.rate * options.warmup_seconds)?;
    fleet.tell_all(|| Order::Reset)?;

    let events = options.rate * options.seconds;
    let counters = fleet.counters();
    let (server_start, tool_start) = (fleet.server_sample()?, process::sample(std::process::id())?);
    let phase = fleet.publish_and_drain(options, events)?;
    let server_end = fleet.server_sample()?;
    let counters = fleet.counters().since(&counters);
    let late_ms_max = fleet.progress.late_ns_max.load(Relaxed) as f64 / 1e6;
    let ended = fleet.progress.ended.load(Relaxed);
    let first_error = fleet.first_error();
    let latencies_us = fleet.finish()?;

    let whole = server_start.as_ref().zip(server_end.as_ref());
    let publishing = server_start.as_ref().zip(phase.server_due.as_ref());
    let per_thread = |cores: f64| cores / server.threads as f64;
    let tool_cores = per_thread(phase.tool_due.cores_since(&tool_start));
    let tool_waited = phase.tool_due.waited_since(&tool_start);
    Ok(FanoutReport {
        name: server.name.clone(),
        clients: options.clients,
        clients_ended: ended,
        first_error,
        events_per_second: options.rate,
        seconds: options.seconds,
        events,
        deliveries_expected: expected_deliveries(server, options.clients, events),
        deliveries: counters.events,
        missing: counters.missing,
        out_of_order: counters.out_of_order,
        latency_ms: LatencyMs::of(&latencies_us),
        behind_ms: phase.behind.as_secs_f64() * 1e3,
        server_cpu_us_per_delivery: whole
            .map(|(start, end)| (end.cpu - start.cpu).as_secs_f64() * 1e6 / counters.events.max(1) as f64),
        server_waited: publishing.map(|(start, end)| end.waited_since(start)),
        server_cores: publishing.map(|(start, end)| end.cores_since(start)),
        server_rss_bytes: server_end.as_ref().map(|sample| sample.rss_bytes),
        set_up_cpu_us: set_up_cpu_us(before.as_ref(), connected.as_ref(), options.clients),
        tool: Tool::judge(tool_cores, tool_waited, late_ms_max, publishing),
    })
}

fn run_idle(options: &Idle) -> Result<IdleReport, String> {
    let server = &options.server;
    let pid_needed = "idle measures the server's process: --pid is needed";
    let fleet = Fleet::start(server)?;
    let before = fleet.server_sample()?.ok_or(pid_needed)?;
    fleet.connect(0, &subscriptions(server, options.clients))?;
    settle();
    let connected = fleet.server_sample()?.ok_or(pid_needed)?;
    if options.stalled {
        fleet.stall_one(options)?;
    }
    settle();

    let idle_start = fleet.server_sample()?.ok_or(pid_needed)?;
    std::thread::sleep(Duration::from_secs(options.seconds));
    let idle_end = fleet.server_sample()?.ok_or(pid_needed)?;

    let counters = fleet.counters();
    let burst = Schedule {
        interval_ns: 0,
        ..schedule(server, 1, options.burst_events)
    };
    let expected = expected_deliveries(server, options.clients, options.burst_events);
    fleet.publish(burst)?;
    fleet.wait_for_events(counters.events + expected, Duration::from_secs(60))?;
    let counters = fleet.counters().since(&counters);
    settle();
    let after = fleet.server_sample()?.ok_or(pid_needed)?;
    let ended = fleet.progress.ended.load(Relaxed);
    let first_error = fleet.first_error();
    fleet.finish()?;

    Ok(IdleReport {
        name: server.name.clone(),
        clients: options.clients,
        clients_ended: ended,
        first_error,
        set_up_cpu_us: set_up_cpu_us(Some(&before), Some(&connected), options.clients).unwrap_or(0.0),
        memory_before: Memory::of(&before),
        memory_connected: Memory::of(&connected),
        memory_after_burst: Memory::of(&after),
        bytes_per_connection: per_connection(&before, &connected, options.clients),
        bytes_per_connection_after_burst: per_connection(&before, &after, options.clients),
        burst_events: options.burst_events,
        burst_deliveries: counters.events,
        burst_missing: expected.saturating_sub(counters.events),
        idle_seconds: options.seconds,
        idle_cores: idle_end.cores_since(&idle_start),
        with_stalled_client: options.stalled,
    })
}

/// Gives allocators and timers the time to hand memory back.
fn settle() {
    std::thread::sleep(Duration::from_secs(2));
}

fn per_connection(before: &Sample, after: &Sample, clients: usize) -> f64 {
    (after.anonymous_bytes as f64 - before.anonymous_bytes as f64) / clients as f64
}

fn set_up_cpu_us(before: Option<&Sample>, after: Option<&Sample>, clients: usize) -> Option<f64> {
    let (before, after) = before.zip(after)?;
    Some((after.cpu - before.cpu).as_secs_f64() * 1e6 / clients as f64)
}

/// What each client sends to subscribe.
fn subscriptions(server: &Server, clients: usize) -> Vec<String> {
    let channel = |client: usize| match &server.pattern {
        Some(pattern) => pattern.clone(),
        None => format!("load.{}", client % server.channels),
    };
    (0..clients)
        .map(|client| server.subscribe_frame.replace("{channel}", &channel(client)))
        .collect()
}

fn expected_deliveries(server: &Server, clients: usize, events: u64) -> u64 {
    if server.pattern.is_some() {
        return events * clients as u64;
    }
    let (clients, channels) = (clients as u64, server.channels as u64);
    let share = |total: u64, index: u64| total / channels + u64::from(index < total % channels);
    (0..channels)
        .map(|index| share(events, index) * share(clients, index))
        .sum()
}

fn schedule(server: &Server, rate: u64, events: u64) -> Schedule {
    Schedule {
        start: Instant::now() + Duration::from_millis(20),
        interval_ns: 1_000_000_000 / rate,
        events,
        data_bytes: server.data_bytes,
        first_channel: 0,
        channels: server.channels as u64,
    }
}

/// All workers, from outside.
struct Fleet<'a> {
    server: &'a Server,
    orders: Vec<Sender<Order>>,
    threads: Vec<JoinHandle<Histogram<u64>>>,
    progress: Arc<Progress>,
    epoch: Instant,
}

#[derive(Clone, Copy)]
struct Counters {
    events: u64,
    missing: u64,
    out_of_order: u64,
}

impl Counters {
    fn since(&self, earlier: &Self) -> Self {
        Self {
            events: self.events - earlier.events,
            missing: self.missing - earlier.missing,
            out_of_order: self.out_of_order - earlier.out_of_order,
        }
    }
}

/// A published phase.
struct Phase {
    /// From when the last event was due to the last arrival.
    behind: Duration,
    /// Both processes when the last event was due.
    server_due: Option<Sample>,
    tool_due: Sample,
}

impl<'a> Fleet<'a> {
    fn start(server: &'a Server) -> Result<Self, String> {
        raise_descriptor_limit();
        let (progress, epoch) = (Arc::new(Progress::default()), Instant::now());
        let mut fleet = Self {
            server,
            orders: Vec::new(),
            threads: Vec::new(),
            progress,
            epoch,
        };
        for index in 0..server.threads.max(1) {
            let worker = Worker::new(server, epoch, index == 0, Arc::clone(&fleet.progress))?;
            let (sender, receiver) = channel();
            fleet.orders.push(sender);
            fleet.threads.push(std::thread::spawn(move || worker.run(&receiver)));
        }
        Ok(fleet)
    }

    fn server_sample(&self) -> Result<Option<Sample>, String> {
        self.server.pid.map(process::sample).transpose()
    }

    fn counters(&self) -> Counters {
        Counters {
            events: self.progress.events.load(Relaxed),
            missing: self.progress.missing.load(Relaxed),
            out_of_order: self.progress.out_of_order.load(Relaxed),
        }
    }

    fn first_error(&self) -> Option<String> {
        self.progress
            .first_error
            .lock()
            .expect("no thread panics with it")
            .clone()
    }

    fn tell_all(&self, order: impl Fn() -> Order) -> Result<(), String> {
        (0..self.orders.len()).try_for_each(|worker| self.tell(worker, order()))
    }

    fn tell(&self, worker: usize, order: Order) -> Result<(), String> {
        self.orders[worker]
            .send(order)
            .map_err(|_| self.fatal().unwrap_or_else(|| "a worker ended".into()))
    }

    fn fatal(&self) -> Option<String> {
        self.progress.fatal.lock().expect("no thread panics with it").clone()
    }

    /// Waits until `done`, looking every few milliseconds; `false` when `limit` passed before.
    fn wait(&self, limit: Duration, mut done: impl FnMut() -> bool) -> Result<bool, String> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(error) = self.fatal() {
                return Err(error);
            }
            if done() {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Connects one client per subscription, spread over the workers, and waits until all are ready.
    fn connect(&self, first: usize, subscriptions: &[String]) -> Result<(), String> {
        let wanted = self.settled() + subscriptions.len() as u64;
        let share = subscriptions.len().div_ceil(self.orders.len());
        for (worker, part) in subscriptions.chunks(share).enumerate() {
            self.tell(
                worker,
                Order::Connect {
                    first: first + worker * share,
                    subscribe: part.to_vec(),
                },
            )?;
        }
        let all = self.wait(Duration::from_secs(120), || self.settled() >= wanted)?;
        let failed = self.progress.ended.load(Relaxed);
        if failed > 0 || !all {
            let ready = self.progress.ready.load(Relaxed);
            let error = self
                .first_error()
                .unwrap_or_else(|| "no answer to the subscription".into());
            return Err(format!("{ready} of {} clients ready: {error}", subscriptions.len()));
        }
        Ok(())
    }

    fn settled(&self) -> u64 {
        self.progress.ready.load(Relaxed) + self.progress.ended.load(Relaxed)
    }

    fn publish(&self, schedule: Schedule) -> Result<(), String> {
        let target = self.progress.published.load(Relaxed) + schedule.events;
        let time = Duration::from_nanos(schedule.interval_ns * schedule.events) + Duration::from_secs(60);
        self.tell(0, Order::Publish(schedule))?;
        let progress = &self.progress;
        let done = self.wait(time, || {
            progress.published.load(Relaxed) == target && progress.publisher_done.load(Relaxed)
        })?;
        if done {
            Ok(())
        } else {
            Err("the server takes events too slowly: giving up a minute late".into())
        }
    }

    fn publish_and_drain(&self, options: &Fanout, events: u64) -> Result<Phase, String> {
        let schedule = schedule(self.server, options.rate, events);
        let last_due = schedule.start + Duration::from_nanos(schedule.interval_ns * events.saturating_sub(1));
        let target = self.counters().events + expected_deliveries(self.server, options.clients, events);
        self.publish(schedule)?;
        let (server_due, tool_due) = (self.server_sample()?, process::sample(std::process::id())?);
        self.wait_for_events(target, Duration::from_secs(options.drain_seconds))?;
        let arrived = self.epoch + Duration::from_nanos(self.progress.last_arrival_ns.load(Relaxed));
        Ok(Phase {
            behind: arrived.saturating_duration_since(last_due),
            server_due,
            tool_due,
        })
    }

    /// Waits until so many events arrived, or nothing has arrived for three seconds, or `limit` passed.
    fn wait_for_events(&self, target: u64, limit: Duration) -> Result<(), String> {
        let (mut seen, mut since) = (self.counters().events, Instant::now());
        self.wait(limit, || {
            let events = self.counters().events;
            if events != seen {
                (seen, since) = (events, Instant::now());
            }
            events >= target || since.elapsed() > Duration::from_secs(3)
        })?;
        Ok(())
    }

    /// Adds a client on a channel of its own that stops reading, and sends it more than its socket can hold.
    fn stall_one(&self, options: &Idle) -> Result<(), String> {
        let index = options.clients;
        let channel = self.server.channels;
        let subscribe = self
            .server
            .subscribe_frame
            .replace("{channel}", &format!("load.{channel}"));
        self.tell(
            0,
            Order::Connect {
                first: index,
                subscribe: vec![subscribe],
            },
        )?;
        let wanted = index as u64 + 1;
        if !self.wait(Duration::from_secs(10), || self.settled() >= wanted)? {
            return Err("the client that is to stall does not get ready".into());
        }
        let share = options.clients.div_ceil(self.orders.len()).min(options.clients);
        self.tell(0, Order::Stall(share))?;
        let flood = Schedule {
            interval_ns: 0,
            data_bytes: 16 * 1024,
            first_channel: channel as u64,
            channels: 1,
            ..schedule(self.server, 1, 1000)
        };
        self.publish(flood)
    }

    /// Stops the workers and adds up their latencies.
    fn finish(self) -> Result<Histogram<u64>, String> {
        self.progress.stop.store(true, Relaxed);
        let mut all: Option<Histogram<u64>> = None;
        for thread in self.threads {
            let part = thread.join().map_err(|_| "a worker panicked")?;
            match &mut all {
                Some(all) => all.add(&part).map_err(|error| error.to_string())?,
                None => all = Some(part),
            }
        }
        all.ok_or_else(|| "no worker".into())
    }
}

/// As many descriptors as the system allows: one per client.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // When it fails, the first client without a descriptor says so.
    let _ = setrlimit(Resource::Nofile, limit);
}
