//! Clients of several gateways under traffic: they break off at random, come back at any gateway, and check what they get.
//!
//! A client holds one channel. What it gets of each publisher there is contiguous. When it comes back to a channel with a
//! history, it gets what it missed, or is told that something may be missing and begins anew. On a channel without one it
//! begins anew after each break, which tells it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tickgate::broker::{Link, Readiness};
use tickgate::hub::Epoch;

use crate::losses::Ledger;
use crate::node::{Got, HISTORY_SIZE, Node, until, until_with, with_id};

pub(crate) const CHANNELS: [&str; 3] = ["kept.a", "kept.b", "plain.a"];

/// The gateways, each of which has a publisher.
pub(crate) const GATEWAYS: usize = 3;

/// The pause of each publisher after an event of every channel.
const PACE: Duration = Duration::from_millis(2);

/// The longest time, in milliseconds, that a client stays away. A history is about as long.
const AWAY_MS_MAX: u64 = 400;

/// A client that cannot join at one gateway for this long tries another one.
const JOIN_MAX: Duration = Duration::from_secs(10);

/// An event that a gateway delivered.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// The index in [`CHANNELS`].
    channel: usize,
    /// 0 on a channel without state.
    version: u64,
    publisher: usize,
    number: u64,
}

impl Seen {
    fn of((channel, version, data): &Got) -> Self {
        let (publisher, number) = serde_json::from_str(data).expect("a publisher and a number");
        let channel = CHANNELS.iter().position(|name| name == channel);
        Self {
            channel: channel.expect("one of the channels"),
            version: *version,
            publisher,
            number,
        }
    }
}

#[derive(Default)]
struct Client {
    channel: usize,
    // The epoch and the version of the newest event, on a channel with a history.
    position: Option<(Epoch, u64)>,
    // Up to this version it has recovered, so that what the gateway delivers now may be older.
    recovered_to: u64,
    // Of each publisher, the number that comes next, if it has got one since it began.
    next: [Option<u64>; GATEWAYS],
}

impl Client {
    fn take(&mut self, epoch: Epoch, seen: Seen, traffic: &Traffic) -> Result<(), String> {
        if seen.version > 0 && seen.version <= self.recovered_to {
            return Ok(());
        }
        let next = &mut self.next[seen.publisher];
        if let Some(expected) = next.filter(|expected| *expected != seen.number) {
            let Some(losses) = traffic.losses.as_ref().filter(|_| expected < seen.number) else {
                return Err(format!(
                    "a client got {seen:?} instead of number {expected}; its position was {:?}",
                    self.position
                ));
            };
            losses.note_skipped(seen.channel, seen.publisher, expected..seen.number);
        }
        *next = Some(seen.number + 1);
        if seen.version > 0 {
            if let (Some(losses), Some((_, before))) = (&traffic.losses, self.position) {
                losses.note_step(before, seen.version);
            }
            self.position = Some((epoch, seen.version));
        }
        Ok(())
    }

    /// Joins at a gateway. Returns `false` if it has to wait.
    fn come_back(&mut self, node: &Node, traffic: &Traffic) -> Result<bool, String> {
        let version = self.position.map_or(0, |(_, version)| version);
        if node.broker.prepare(version) != Readiness::Ready {
            return Ok(false);
        }
        let Some((epoch, version)) = self.position else {
            self.next = Default::default();
            return Ok(true);
        };
        let Some(missed) = node.page(CHANNELS[self.channel], epoch, version) else {
            self.check_told(traffic)?;
            traffic.told.fetch_add(1, Ordering::Relaxed);
            *self = Self {
                channel: self.channel,
                ..Self::default()
            };
            return Ok(true);
        };
        traffic.recovered.fetch_add(1, Ordering::Relaxed);
        self.recovered_to = version;
        let newest = missed.last().map_or(version, |got| got.1);
        for got in &missed {
            let seen = Seen::of(got);
            traffic.check_version(seen)?;
            self.take(epoch, seen, traffic)?;
        }
        self.recovered_to = newest;
        Ok(true)
    }

    /// A client is told that something is missing only if the history is too short for it, or its position is lost.
    fn check_told(&self, traffic: &Traffic) -> Result<(), String> {
        let published = traffic.published.iter().map(|rounds| rounds.load(Ordering::Relaxed));
        let of = |(next, rounds): (&Option<u64>, u64)| (rounds + 1).saturating_sub(next.unwrap_or(0));
        // At most, with the events that are on their way.
        let missed: u64 = self.next.iter().zip(published).map(of).sum();
        if missed > u64::from(HISTORY_SIZE) {
            return Ok(());
        }
        if let (Some(losses), Some((_, position))) = (&traffic.losses, self.position) {
            losses.note_told(position);
            return Ok(());
        }
        Err(format!(
            "a client of {} that missed at most {missed} events was not given them; its position was {:?}",
            CHANNELS[self.channel], self.position
        ))
    }
}

/// What everybody does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Publishers publish, and clients break off and come back.
    #[default]
    Storm,
    /// Nobody publishes, and all clients come back.
    Gather,
    /// Each publisher publishes once more, and all clients get everything.
    Last,
}

/// What the gateways and whoever makes the faults share.
#[derive(Default)]
pub(crate) struct Traffic {
    phase: Mutex<Phase>,
    /// How many rounds of events each gateway has published.
    pub(crate) published: [AtomicU64; GATEWAYS],
    kills: [AtomicBool; GATEWAYS],
    // The clients that each gateway has while they gather.
    joined: [AtomicUsize; GATEWAYS],
    is_last_published: [AtomicBool; GATEWAYS],
    // The version of each event on each channel, by its publisher and its number.
    versions: Mutex<[[Vec<u64>; GATEWAYS]; CHANNELS.len()]>,
    repeats: AtomicU64,
    recovered: AtomicU64,
    told: AtomicU64,
    wrong: Mutex<Option<String>>,
    // Set if the server may lose events.
    losses: Option<Ledger>,
}

impl Traffic {
    /// The traffic at a server that may lose the end of its log.
    pub(crate) fn with_losses() -> Self {
        Self {
            losses: Some(Ledger::default()),
            ..Self::default()
        }
    }

    /// What clients got, if the server may have lost events.
    pub(crate) fn losses(&self) -> Option<&Ledger> {
        self.losses.as_ref()
    }

    /// Kills a gateway as soon as its publisher has an answer. It starts anew and knows nothing.
    pub(crate) fn kill(&self, gateway: usize) {
        self.kills[gateway].store(true, Ordering::SeqCst);
    }

    /// Whether something wrong was found.
    pub(crate) fn is_wrong(&self) -> bool {
        self.wrong.lock().expect("whole").is_some()
    }

    fn is_in(&self, phase: Phase) -> bool {
        *self.phase.lock().expect("whole") == phase
    }

    fn begin(&self, phase: Phase) {
        *self.phase.lock().expect("whole") = phase;
    }

    fn check(&self, outcome: Result<(), String>) {
        if let Err(wrong) = outcome {
            *self.wrong.lock().expect("whole") = Some(wrong.clone());
            panic!("{wrong}");
        }
    }

    /// Every gateway gives an event the same version. One that is lost and published again has another one.
    fn check_version(&self, seen: Seen) -> Result<(), String> {
        if let Some(losses) = &self.losses {
            return match seen.version {
                0 => Ok(()),
                version => losses.note(version, (seen.channel, seen.publisher, seen.number)),
            };
        }
        let versions = &mut self.versions.lock().expect("whole")[seen.channel][seen.publisher];
        let index = usize::try_from(seen.number).expect("small");
        if versions.len() <= index {
            versions.resize(index + 1, 0);
        }
        if versions[index] != 0 && versions[index] != seen.version {
            return Err(format!("{seen:?} has the version {} elsewhere", versions[index]));
        }
        versions[index] = seen.version;
        Ok(())
    }
}

/// Ends all gateways if its thread fails. They would wait for each other for ever.
struct Alarm<'t>(&'t Traffic);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut wrong = self.0.wrong.lock().expect("whole");
            wrong.get_or_insert("a thread has failed".to_owned());
        }
    }
}

/// One gateway with its publisher and its clients.
struct Gateway<'t> {
    index: usize,
    traffic: &'t Traffic,
    random: StdRng,
    number: u64,
    // Whether some events with the number may be published already. They are not delivered again.
    is_begun: bool,
    clients: Vec<Client>,
    away: Vec<(Instant, Client)>,
    waiting: Vec<(Instant, Client)>,
    arrivals: mpsc::Receiver<Client>,
    doors: Vec<mpsc::Sender<Client>>,
}

impl Gateway<'_> {
    /// Lives again and again, until all is over.
    fn run(mut self, start: impl Fn() -> Node) {
        let _alarm = Alarm(self.traffic);
        loop {
            let mut node = start();
            node.wait_for(Link::Up);
            node.join("*");
            let is_killed = self.live(&mut node);
            node.take_messages();
            let is_whole = node.resyncs == 0 || self.traffic.losses.is_some();
            assert!(is_whole, "every connection got everything");
            if !is_killed {
                return;
            }
            drop(node);
            self.leave_all();
        }
    }

    /// Returns whether the gateway is killed.
    fn live(&mut self, node: &mut Node) -> bool {
        loop {
            if self.traffic.is_in(Phase::Storm) {
                if self.publish(node) {
                    return true;
                }
                if !self.clients.is_empty() && self.random.random_bool(0.5) {
                    let index = self.random.random_range(0..self.clients.len());
                    let client = self.clients.swap_remove(index);
                    self.leave(client);
                }
            } else if self.traffic.is_in(Phase::Gather) {
                if self.is_begun && self.publish(node) {
                    return true;
                }
                self.traffic.joined[self.index].store(self.clients.len(), Ordering::SeqCst);
            } else {
                if !self.traffic.is_last_published[self.index].load(Ordering::Relaxed) {
                    self.publish(node);
                    self.traffic.is_last_published[self.index].store(true, Ordering::Relaxed);
                }
                until_with("every event", || {
                    self.tend(node);
                    self.is_complete()
                });
                return false;
            }
            if self.tend(node) {
                return true;
            }
            std::thread::sleep(PACE);
        }
    }

    /// Publishes an event on each channel, and again until it is confirmed. Returns whether the gateway is killed.
    fn publish(&mut self, node: &mut Node) -> bool {
        self.is_begun = true;
        for name in CHANNELS {
            let (index, number) = (self.index, self.number);
            let event = || with_id(name, format!("[{index},{number}]"), &format!("{index}-{number}"));
            while node.publish(vec![event()])[0].is_err() {
                self.traffic.repeats.fetch_add(1, Ordering::Relaxed);
                if self.tend(node) {
                    return true;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        self.number += 1;
        self.is_begun = false;
        self.traffic.published[self.index].store(self.number, Ordering::Relaxed);
        false
    }

    /// Delivers events, and lets clients leave and join. Returns whether the gateway is killed.
    fn tend(&mut self, node: &mut Node) -> bool {
        let traffic = self.traffic;
        assert!(!traffic.is_wrong(), "another thread has found something wrong");
        if traffic.kills[self.index].load(Ordering::SeqCst) {
            traffic.joined[self.index].store(0, Ordering::SeqCst);
            traffic.kills[self.index].store(false, Ordering::SeqCst);
            return true;
        }
        let mut got = Vec::new();
        node.take(&mut got);
        node.take_messages();
        if std::mem::take(&mut node.resyncs) > 0 {
            if traffic.losses.is_none() {
                traffic.check(Err("connections were ended, but the log has lost nothing".to_owned()));
            }
            // Something may be missing before what has come.
            got.clear();
            self.leave_all();
        }
        let epoch = node.hub.epoch();
        for seen in got.iter().map(Seen::of) {
            traffic.check(traffic.check_version(seen));
            let clients = self.clients.iter_mut().filter(|client| client.channel == seen.channel);
            clients.for_each(|client| traffic.check(client.take(epoch, seen, traffic)));
        }
        let now = Instant::now();
        let back = self.away.extract_if(.., |(until, _)| *until <= now).collect::<Vec<_>>();
        back.into_iter().for_each(|(_, client)| self.go_anywhere(client));
        self.waiting
            .extend(self.arrivals.try_iter().map(|client| (now, client)));
        for (since, mut client) in std::mem::take(&mut self.waiting) {
            match client.come_back(node, traffic) {
                Ok(true) => self.clients.push(client),
                Ok(false) if now - since >= JOIN_MAX => self.go_anywhere(client),
                Ok(false) => self.waiting.push((since, client)),
                Err(wrong) => traffic.check(Err(wrong)),
            }
        }
        false
    }

    fn leave(&mut self, client: Client) {
        let away = Duration::from_millis(self.random.random_range(0..AWAY_MS_MAX));
        self.away.push((Instant::now() + away, client));
    }

    fn leave_all(&mut self) {
        for client in std::mem::take(&mut self.clients) {
            self.leave(client);
        }
    }

    fn go_anywhere(&mut self, client: Client) {
        let door = self.random.random_range(0..self.doors.len());
        // After the end of all gateways nobody takes it.
        let _ = self.doors[door].send(client);
    }

    /// Whether each client has the last event of each publisher.
    fn is_complete(&self) -> Result<(), String> {
        let mut missing = self.clients.iter().filter(|client| {
            let totals = self.traffic.published.iter().map(|total| total.load(Ordering::Relaxed));
            !client.next.iter().zip(totals).all(|(next, total)| *next == Some(total))
        });
        let all = self.traffic.is_last_published.iter();
        if !{ all }.all(|is_published| is_published.load(Ordering::Relaxed)) {
            return Err("a publisher is not done".to_owned());
        }
        missing.next().map_or(Ok(()), |client| {
            Err(format!(
                "a client of {} has {:?}",
                CHANNELS[client.channel], client.next
            ))
        })
    }
}

/// Runs the gateways that `start` starts by their indices, with so many clients, and `faults` meanwhile. Then checks that each
/// client got everything that it was promised, but for what the server may lose.
pub(crate) fn under_traffic(
    traffic: &Traffic,
    (seed, clients): (u64, usize),
    start: impl Fn(usize) -> Node + Sync,
    faults: impl FnOnce(&Traffic),
) {
    let start = &start;
    let (doors, arrivals): (Vec<_>, Vec<_>) = (0..GATEWAYS).map(|_| mpsc::channel()).unzip();
    std::thread::scope(|scope| {
        for (index, arrivals) in arrivals.into_iter().enumerate() {
            let of = |number| Client {
                channel: number / GATEWAYS % CHANNELS.len(),
                ..Client::default()
            };
            let gateway = Gateway {
                index,
                traffic,
                random: StdRng::seed_from_u64(seed + 1 + index as u64),
                number: 0,
                is_begun: false,
                clients: (index..clients).step_by(GATEWAYS).map(of).collect(),
                away: Vec::new(),
                waiting: Vec::new(),
                arrivals,
                doors: doors.clone(),
            };
            scope.spawn(move || gateway.run(|| start(index)));
        }
        let _alarm = Alarm(traffic);
        until("traffic", || is_published(traffic, 1));
        faults(traffic);
        // A busy machine may have had no time for events between the faults.
        until("traffic", || is_published(traffic, 20) || traffic.is_wrong());
        traffic.begin(Phase::Gather);
        until_with("all clients", || {
            let joined: usize = traffic.joined.iter().map(|joined| joined.load(Ordering::SeqCst)).sum();
            let is_killed = traffic.kills.iter().any(|kill| kill.load(Ordering::SeqCst));
            if joined == clients && !is_killed || traffic.is_wrong() {
                Ok(())
            } else {
                Err(format!("{joined} of {clients}"))
            }
        });
        traffic.begin(Phase::Last);
    });
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let published: u64 = traffic
        .published
        .iter()
        .map(|rounds| count(rounds) * CHANNELS.len() as u64)
        .sum();
    let (repeats, recovered, told) = (count(&traffic.repeats), count(&traffic.recovered), count(&traffic.told));
    println!("{published} events, {repeats} repeats; clients recovered {recovered} times and began anew {told} times");
    assert!(
        published > 100 && recovered > 0,
        "{published} events, {recovered} recovered"
    );
}

fn is_published(traffic: &Traffic, rounds: u64) -> bool {
    traffic
        .published
        .iter()
        .all(|count| count.load(Ordering::Relaxed) >= rounds)
}

#[test]
fn the_check_of_a_client_finds_gaps_doubles_and_needless_losses() {
    let mut client = Client::default();
    let traffic = Traffic::default();
    let mut take = |number| {
        let seen = Seen {
            channel: 0,
            version: 10 + number,
            publisher: 1,
            number,
        };
        client.take(Epoch(1), seen, &traffic).is_ok()
    };
    assert!(take(5) && take(6), "it begins anywhere");
    assert!(!take(6), "a double");
    assert!(!take(8), "a gap");
    traffic.published[1].store(7 + u64::from(HISTORY_SIZE) - GATEWAYS as u64, Ordering::Relaxed);
    assert!(client.check_told(&traffic).is_err(), "the history has everything");
    traffic.published[1].fetch_add(1, Ordering::Relaxed);
    assert!(client.check_told(&traffic).is_ok());
    let of = |version| Seen {
        channel: 0,
        version,
        publisher: 0,
        number: 3,
    };
    assert!(traffic.check_version(of(7)).is_ok() && traffic.check_version(of(7)).is_ok());
    assert!(traffic.check_version(of(8)).is_err(), "two versions of one event");
}
