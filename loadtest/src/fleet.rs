//! All workers of a run, with the operations that scenarios consist of.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::adapter::{Adapter, PublishBy};
use crate::client::{Common, Spec};
use crate::measured::{GROUPS, Lap, Measured};
use crate::options::{Server, Url};
use crate::process::{self, Sample};
use crate::publisher::{Publisher, Schedule, Target};
use crate::recorder::{Recorder, View};
use crate::report::Series;
use crate::requests::{self, Kind};
use crate::token::Tokens;
use crate::worker::{Order, Shared, Worker};

pub(crate) struct Fleet<'a> {
    pub(crate) server: &'a Server,
    pub(crate) adapter: Arc<Adapter>,
    pub(crate) epoch: Instant,
    pub(crate) started_unix_ms: u64,
    tokens: Tokens,
    orders: Vec<Sender<Order>>,
    threads: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
    recorder: Recorder,
    /// Number of connections so far.
    serial: usize,
}

/// Number of channels beside the published ones, for clients that must receive events of their own.
pub(crate) const EXTRA_CHANNELS: u64 = 1;

/// The samples of both processes at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Samples {
    pub(crate) server: Option<Sample>,
    pub(crate) proxy: Option<Sample>,
    pub(crate) tool: Sample,
}

impl<'a> Fleet<'a> {
    /// Starts the workers and prepares for `clients` simultaneous connections.
    pub(crate) fn start(server: &'a Server, clients: usize) -> Result<Self, String> {
        crate::limit::raise_descriptors(clients)?;
        let mut adapter = Adapter::load(&server.adapter)?;
        if let Some(subscribe) = &server.subscribe_frame {
            adapter.subscribe.clone_from(subscribe);
        }
        if let Some(marker) = &server.ready_marker {
            adapter.subscribed.clone_from(marker);
        }
        adapter.set_rate(server.max_rate)?;
        let adapter = Arc::new(adapter);
        let url = Url::parse(&server.url, &adapter.path)?;
        let tokens = tokens(server, &adapter, clients)?;
        let target = target(server, &adapter, &url, &tokens)?;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = server.threads.unwrap_or(cores).max(1);
        let measured: Vec<_> = (0..threads).map(|_| Arc::new(Measured::new())).collect();
        let epoch = Instant::now();
        let started_unix_ms = std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .unwrap_or_default()
            .as_millis() as u64;
        let mut fleet = Self {
            server,
            adapter: Arc::clone(&adapter),
            epoch,
            started_unix_ms,
            tokens,
            orders: Vec::new(),
            threads: Vec::new(),
            shared: Arc::default(),
            recorder: Recorder::new(measured.clone(), server.pid, epoch)?,
            serial: 0,
        };
        let mut publisher = Some(Publisher::connect(target, epoch)?);
        for (index, measured) in measured.into_iter().enumerate() {
            let (common, window) = (
                Common::new(&url, &adapter, epoch, server.compression),
                server.connect_window.div_ceil(threads),
            );
            let worker = Worker::new(common, window, publisher.take(), measured, Arc::clone(&fleet.shared))
                .map_err(|error| error.to_string())?;
            let (sender, receiver) = channel();
            let thread = std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || worker.run(&receiver))
                .map_err(|error| error.to_string())?;
            fleet.orders.push(sender);
            fleet.threads.push(thread);
        }
        Ok(fleet)
    }

    pub(crate) fn workers(&self) -> usize {
        self.orders.len()
    }

    pub(crate) fn users(&self) -> usize {
        self.tokens.count()
    }

    pub(crate) fn samples(&self) -> Result<Samples, String> {
        Ok(Samples {
            server: self.server.pid.map(process::sample).transpose()?,
            proxy: self.server.proxy_pid.map(process::sample).transpose()?,
            tool: process::sample(std::process::id())?,
        })
    }

    pub(crate) fn view(&self) -> View {
        self.recorder.view()
    }

    /// Begins a phase of the run and returns the latencies of the previous one.
    pub(crate) fn enter(&mut self, name: &'static str) -> Lap {
        self.recorder.enter(name)
    }

    /// Ends the last phase of the run and returns its latencies.
    pub(crate) fn leave(&mut self) -> Lap {
        self.recorder.leave()
    }

    pub(crate) fn first_error(&self) -> Option<String> {
        self.shared
            .first_error
            .lock()
            .expect("no thread panics with it")
            .clone()
    }

    fn fatal(&self) -> Option<String> {
        self.shared.fatal.lock().expect("no thread panics with it").clone()
    }

    pub(crate) fn tell_all(&self, order: impl Fn() -> Order) -> Result<(), String> {
        (0..self.orders.len()).try_for_each(|worker| self.tell(worker, order()))
    }

    fn tell(&self, worker: usize, order: Order) -> Result<(), String> {
        self.orders[worker]
            .send(order)
            .map_err(|_| self.fatal().unwrap_or_else(|| "a worker ended".into()))
    }

    /// Polls `done` every few milliseconds. Returns `false` if `limit` passes first.
    pub(crate) fn wait(&mut self, limit: Duration, mut done: impl FnMut(&View) -> bool) -> Result<bool, String> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(error) = self.fatal() {
                return Err(error);
            }
            self.recorder.tick()?;
            if done(&self.view()) {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for `time`, while the recorder keeps recording.
    pub(crate) fn pass(&mut self, time: Duration) -> Result<(), String> {
        self.wait(time, |_| false).map(|_| ())
    }

    /// The name of the channel of this index, or the pattern that replaces it.
    pub(crate) fn channel(&self, index: u64) -> String {
        match &self.server.pattern {
            Some(pattern) if index < self.server.channels => pattern.clone(),
            _ => self.adapter.channel(index),
        }
    }

    /// Starts to connect `count` clients, due evenly over `spread`. Does not wait for them.
    pub(crate) fn connect(
        &mut self,
        group: usize,
        count: usize,
        spread: Duration,
        channels: impl Fn(usize) -> Vec<String>,
    ) -> Result<(), String> {
        let start_ns = self.epoch.elapsed().as_nanos() as u64;
        let step_ns = spread.as_nanos() as u64 / count.max(1) as u64;
        let mut shares = vec![Vec::new(); self.workers()];
        for index in 0..count {
            let spec = Spec {
                serial: self.serial,
                group,
                token: self.tokens.of(self.serial).cloned(),
                channels: channels(index),
                sequences: (self.server.channels + EXTRA_CHANNELS) as usize,
                due_ns: start_ns + step_ns * index as u64,
            };
            self.serial += 1;
            shares[index % self.orders.len()].push(spec);
        }
        let orders = shares.into_iter().enumerate();
        orders
            .into_iter()
            .try_for_each(|(worker, share)| self.tell(worker, Order::Connect(share)))
    }

    /// Waits until `wanted` clients have become live since the start. It is an error if one ends or `limit` passes.
    pub(crate) fn await_live(&mut self, wanted: u64, limit: Duration) -> Result<(), String> {
        let live = |view: &View| view.counters.sum(|group| group.ready);
        let ended = |view: &View| view.counters.sum(|group| group.ended);
        let all = self.wait(limit, |view| live(view) + ended(view) >= wanted)?;
        let view = self.view();
        if ended(&view) > 0 || !all {
            let error = self
                .first_error()
                .unwrap_or_else(|| "no answer to the subscription".into());
            return Err(format!("{} of {wanted} clients ready: {error}", live(&view)));
        }
        Ok(())
    }

    /// Connects clients, assigned to the published channels in rotation, over the configured ramp. Waits until all are
    /// live.
    pub(crate) fn connect_all(&mut self, group: usize, count: usize) -> Result<(), String> {
        let before = self.view().counters.sum(|group| group.ready);
        let ramp = Duration::from_secs(self.server.ramp_seconds);
        let names: Vec<_> = (0..self.server.channels).map(|index| self.channel(index)).collect();
        let server = self.server;
        let channels = |index| {
            channels_of(server, index)
                .into_iter()
                .map(|channel| names[channel].clone())
        };
        self.connect(group, count, ramp, |index| channels(index).collect())?;
        self.await_live(before + count as u64, ramp + Duration::from_secs(120))
    }

    pub(crate) fn schedule(&self, rate: u64, events: u64) -> Schedule {
        Schedule {
            start: Instant::now() + Duration::from_millis(20),
            interval_ns: 1_000_000_000 / rate,
            events,
            data_bytes: self.server.data_bytes,
            first_channel: 0,
            channels: self.server.channels,
        }
    }

    /// Begins to publish. Does not wait.
    pub(crate) fn begin_publishing(&mut self, schedule: Schedule) -> Result<(), String> {
        self.tell(0, Order::Publish(schedule))
    }

    /// Publishes a whole schedule, and waits until the server has accepted it.
    pub(crate) fn publish(&mut self, schedule: Schedule) -> Result<(), String> {
        let target = self.view().counters.requests.published + schedule.events;
        let time = Duration::from_nanos(schedule.interval_ns * schedule.events) + Duration::from_secs(60);
        self.begin_publishing(schedule)?;
        if self.wait(time, |view| {
            view.counters.requests.published >= target && view.is_published
        })? {
            Ok(())
        } else {
            Err("the server accepts events too slowly: gave up when it was a minute late".into())
        }
    }

    /// Stops publishing, and waits until the publisher is quiet.
    pub(crate) fn end_publishing(&mut self) -> Result<(), String> {
        self.tell(0, Order::EndPublishing)?;
        // The worker takes the order after its current work, so the order is done once the count stops moving.
        let mut last = u64::MAX;
        let mut since = Instant::now();
        let quiet = self.wait(Duration::from_secs(60), |view| {
            if view.counters.requests.published != last {
                (last, since) = (view.counters.requests.published, Instant::now());
            }
            view.is_published && since.elapsed() > Duration::from_millis(50)
        })?;
        if quiet {
            Ok(())
        } else {
            Err("the server does not answer the publisher".into())
        }
    }

    /// Starts requests of a group's clients. Does not wait for the answers.
    pub(crate) fn request(&mut self, kind: Kind, group: usize, per_second: u64, seconds: u64) -> Result<(), String> {
        let start = Instant::now() + Duration::from_millis(20);
        let plans = requests::shares(kind, start, per_second, seconds, group, self.workers());
        plans
            .into_iter()
            .enumerate()
            .try_for_each(|(worker, plan)| self.tell(worker, Order::Request(plan)))
    }

    /// Waits until `value` reaches `target`, or has not changed for three seconds, or `limit` has passed.
    pub(crate) fn drain(&mut self, target: u64, limit: Duration, value: impl Fn(&View) -> u64) -> Result<(), String> {
        let (mut seen, mut since) = (value(&self.view()), Instant::now());
        self.wait(limit, |view| {
            let now = value(view);
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
            now >= target || since.elapsed() > Duration::from_secs(3)
        })?;
        Ok(())
    }

    /// Disconnects a group of clients. Their counters are kept.
    pub(crate) fn disconnect(&mut self, group: usize) -> Result<(), String> {
        debug_assert!(group < GROUPS);
        self.tell_all(|| Order::Disconnect(group))
    }

    /// Stops the workers and returns the whole time series.
    pub(crate) fn finish(self) -> Result<Series, String> {
        let series = self.recorder.finish();
        self.shared.stop.store(true, Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| "a worker panicked")?;
        }
        Ok(series)
    }
}

/// The indices of the channels that a client subscribes to. With one each, the channels are assigned in rotation.
pub(crate) fn channels_of(server: &Server, client: usize) -> Vec<usize> {
    let channels = usize::try_from(server.channels).unwrap_or(usize::MAX);
    let count = usize::try_from(server.subscriptions)
        .unwrap_or(usize::MAX)
        .min(channels);
    if count == 1 {
        return vec![client % channels];
    }
    // The first of a shuffle, by Knuth's MMIX generator.
    let mut random = (client as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut all: Vec<usize> = (0..channels).collect();
    for index in 0..count {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let left = (channels - index) as u64;
        all.swap(index, index + ((random >> 33) % left) as usize);
    }
    all.truncate(count);
    all
}

fn tokens(server: &Server, adapter: &Adapter, clients: usize) -> Result<Tokens, String> {
    let Some(variable) = &server.secret_env else {
        return Ok(Tokens::one(server.token.as_deref()));
    };
    if !adapter.has_token() {
        return Err(format!("adapter {} has no tokens: remove --secret-env", server.adapter));
    }
    let secret = std::env::var(variable).map_err(|_| format!("the variable {variable} is not set"))?;
    Ok(Tokens::mint(&secret, server.users.unwrap_or(clients)))
}

fn target(server: &Server, adapter: &Arc<Adapter>, clients: &Url, tokens: &Tokens) -> Result<Target, String> {
    let publish = &adapter.publish;
    let path = if publish.path.is_empty() { "/" } else { &publish.path };
    let (url, key) = match publish.by {
        PublishBy::Http | PublishBy::Stream => (Url::parse(&server.publish_url, path)?, server.publish_key.clone()),
        PublishBy::Frame => {
            let mut url = clients.clone();
            if !publish.path.is_empty() {
                url.path.clone_from(&publish.path);
            }
            let token = server.token.as_deref().or_else(|| tokens.of(0).map(|token| &**token));
            (url, token.map(str::to_owned))
        }
    };
    Ok(Target {
        url,
        key,
        adapter: Arc::clone(adapter),
        every: Duration::from_millis(server.publish_every_ms),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use clap::Parser;

    use super::*;
    use crate::options::{Command, Options};

    #[test]
    fn each_client_has_channels_of_its_own_choice_and_all_are_chosen() {
        let options = Options::parse_from(["tool", "fanout", "--channels", "50", "--subscriptions", "20"]);
        let Command::Fanout(fanout) = options.command else {
            panic!("fanout")
        };
        let mut counts = [0; 50];
        for client in 0..500 {
            let chosen = channels_of(&fanout.server, client);
            assert_eq!(chosen, channels_of(&fanout.server, client));
            assert_eq!(chosen.iter().collect::<HashSet<_>>().len(), 20);
            chosen.iter().for_each(|channel| counts[*channel] += 1);
        }
        assert!(counts.iter().all(|count| (150..250).contains(count)), "{counts:?}");
    }
}
