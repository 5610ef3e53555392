//! SIGUSR2: the gateway restarts in place under clients, publications and new connections, alone and beside a broker. No
//! connection fails, no publication is lost, and every client gets every event of its channel.
//!
//! `TICKGATE_RESTART_CLIENTS` and `TICKGATE_RESTART_CONNECTS` (a second) make the crowd larger. With `--nocapture` the tests
//! print what they measure.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::net::UnixDatagram;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::clients::{Bare, Told};
use crate::crowd::{history, variable};
use crate::harness::{Gateway, event, trader, until, within};
use crate::listener::{Listener, Way};
use crate::nats_server;
use crate::restart::snapshot;
use tickgate::time::unix_ms;

const CHANNEL: &str = "grid.g.order";

/// How many events all clients together get in a second. The clients share the machine with the gateway: at a fixed rate of
/// events, a large crowd would measure how fast the test reads.
const DELIVERIES_PER_SECOND: u64 = 20_000;
/// The shortest time between two events, in milliseconds.
const EVENT_INTERVAL_MS_MIN: u64 = 5;

/// The clients have one address, and a busy machine gives them time late. Real ones are on machines of their own.
const SERVER: &str = "shards = 2\nmax_pending_per_ip = 0\nhandshake_timeout = \"1m\"";

/// Clients are told a random time below this to come back after, in milliseconds.
const RECONNECT_AFTER_MS_MAX: u64 = 10_000;
/// A crowd of this size comes back when it is told to. A smaller one comes back sooner in proportion, so that the connections
/// come as densely as those of the large one, and the test is shorter.
const CLIENTS_ON_TIME: u64 = 5_000;

/// The clients that a shard can surely close in a second while the clients, on the same two cores, read and answer.
const CLOSES_PER_SECOND: u64 = 1_250;

/// The drain that a crowd needs in place, in milliseconds: the closes take four fifths of it, on two shards.
const fn drain_ms(clients: u64) -> u64 {
    let closes_ms = clients * 1000 / (2 * CLOSES_PER_SECOND);
    let drain_ms = closes_ms * 5 / 4;
    if drain_ms > 1000 { drain_ms } else { 1000 }
}

/// What the clients see of a restart.
#[derive(Default)]
struct Measured {
    // After which time each of them was told to come back, in milliseconds.
    told_ms: Vec<u64>,
    // When each of them was back.
    back: Vec<Instant>,
    // How old events were on arrival, before a client's connection was closed, in milliseconds.
    delays_ms: Vec<u64>,
}

impl Measured {
    /// The delay that this part of the events does not exceed, in milliseconds.
    fn delay_ms(&mut self, part: f64) -> u64 {
        self.delays_ms.sort_unstable();
        let last = self.delays_ms.len().saturating_sub(1);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "an index"
        )]
        let index = (last as f64 * part) as usize;
        self.delays_ms.get(index).copied().unwrap_or_default()
    }

    /// How many clients came back in each second after the first one.
    fn came_back(&self) -> Vec<usize> {
        let Some(first) = self.back.iter().min() else {
            return Vec::new();
        };
        let mut counts = Vec::new();
        for back in &self.back {
            let second = usize::try_from((*back - *first).as_secs()).expect("soon");
            counts.resize(counts.len().max(second + 1), 0);
            counts[second] += 1;
        }
        counts
    }

    /// Asserts that the clients were told times that are spread evenly. A count of random times is farther than six standard
    /// deviations from the mean in one of many millions of runs.
    fn assert_even(&self, clients: u64) {
        let mut counts = [0_u32; 10];
        for told_ms in &self.told_ms {
            let part = told_ms * counts.len() as u64 / RECONNECT_AFTER_MS_MAX;
            counts[usize::try_from(part).expect("below ten")] += 1;
        }
        let mean = f64::from(u32::try_from(clients).expect("fits")) / 10.0;
        let is_even = |count: &u32| (f64::from(*count) - mean).abs() <= 6.0 * mean.sqrt();
        assert!(counts.iter().all(is_even), "told to come back by tenths: {counts:?}");
    }
}

/// A client that reads, and connects again after the time that it was told, until it has the event that is the last one.
async fn stay(
    gateway: Arc<Gateway>,
    mut listener: Listener,
    clients: u64,
    last: Arc<AtomicUsize>,
    connected: Arc<AtomicUsize>,
    measured: Arc<Mutex<Measured>>,
) -> Listener {
    let (mut is_back, mut told_ms) = (false, None);
    let has_last = |listener: &Listener| {
        let last = last.load(Relaxed);
        last > 0 && listener.last_number(CHANNEL) == Some(last as u64)
    };
    loop {
        let mut connection = listener.connect(gateway.public).await;
        connected.fetch_add(1, Relaxed);
        if is_back {
            measured.lock().expect("not poisoned").back.push(Instant::now());
        }
        loop {
            match within("a message", connection.next()).await {
                Told::Message(message) => {
                    if let Some(at_ms) = message["timestamp"]
                        .as_u64()
                        .filter(|_| !is_back && message["type"] == "event")
                    {
                        let delay_ms = unix_ms().saturating_sub(at_ms);
                        measured.lock().expect("not poisoned").delays_ms.push(delay_ms);
                    }
                    told_ms = told_ms.or(message["data"]["reconnect_after_ms"].as_u64());
                    listener.take(&message, &mut connection).await;
                }
                Told::Closed(code, reason) => {
                    assert_eq!((code, reason.as_str()), (1012, "gateway restarting"));
                    break;
                }
                other => panic!("{other:?}"),
            }
            if has_last(&listener) {
                return listener;
            }
        }
        is_back = true;
        let told_ms = told_ms.take().expect("it was told when to come back");
        measured.lock().expect("not poisoned").told_ms.push(told_ms);
        let after_ms = told_ms * clients.min(CLIENTS_ON_TIME) / CLIENTS_ON_TIME;
        tokio::time::sleep(Duration::from_millis(after_ms)).await;
    }
}

/// Opens connections at this pace until the end. Each must be upgraded. Returns their number and the longest handshake.
async fn connect_steadily(gateway: Arc<Gateway>, per_second: u64, is_over: Arc<AtomicBool>) -> (usize, Duration) {
    let target = Arc::new(format!("/ws?token={}", trader()));
    let mut pace = tokio::time::interval(Duration::from_secs(1) / u32::try_from(per_second).expect("few"));
    let mut attempts = Vec::new();
    while !is_over.load(Relaxed) {
        pace.tick().await;
        let (address, target) = (gateway.public, Arc::clone(&target));
        attempts.push(tokio::spawn(async move {
            let start = Instant::now();
            // It panics when it is refused or cut off.
            drop(Bare::upgraded(address, &target).await);
            start.elapsed()
        }));
    }
    let (mut longest, count) = (Duration::ZERO, attempts.len());
    for attempt in attempts {
        longest = longest.max(attempt.await.expect("every handshake succeeds"));
    }
    (count, longest)
}

/// Publishes until the end, each event on a connection of its own. Each must be accepted. Returns their number.
async fn publish_steadily(gateway: Arc<Gateway>, clients: u64, is_over: Arc<AtomicBool>) -> usize {
    let interval_ms = EVENT_INTERVAL_MS_MIN.max(clients * 1000 / DELIVERIES_PER_SECOND);
    let mut number = 1;
    while !is_over.load(Relaxed) {
        gateway.publish(vec![event(CHANNEL, number)]).await;
        number += 1;
        tokio::time::sleep(Duration::from_millis(interval_ms)).await;
    }
    number
}

/// Clients, new connections and publications while a gateway restarts.
struct Busy {
    gateway: Arc<Gateway>,
    clients: u64,
    last: Arc<AtomicUsize>,
    connected: Arc<AtomicUsize>,
    measured: Arc<Mutex<Measured>>,
    staying: Vec<JoinHandle<Listener>>,
    is_over: Arc<AtomicBool>,
    connecting: JoinHandle<(usize, Duration)>,
    publishing: JoinHandle<usize>,
}

impl Busy {
    async fn begin(gateway: Gateway, clients: u64) -> Self {
        gateway.publish(vec![event(CHANNEL, 0)]).await;
        let gateway = Arc::new(gateway);
        let (last, connected) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let measured = Arc::<Mutex<Measured>>::default();
        let ways = Way::ALL.into_iter().cycle().zip(0..clients);
        let staying: Vec<_> = ways
            .map(|(way, _)| {
                tokio::spawn(stay(
                    Arc::clone(&gateway),
                    Listener::new(vec![CHANNEL.to_owned()], way),
                    clients,
                    Arc::clone(&last),
                    Arc::clone(&connected),
                    Arc::clone(&measured),
                ))
            })
            .collect();
        until("all clients", async || {
            (connected.load(Relaxed) as u64 == clients).then_some(())
        })
        .await;
        let is_over = Arc::<AtomicBool>::default();
        let per_second = variable("TICKGATE_RESTART_CONNECTS", 100);
        Self {
            connecting: tokio::spawn(connect_steadily(Arc::clone(&gateway), per_second, Arc::clone(&is_over))),
            publishing: tokio::spawn(publish_steadily(Arc::clone(&gateway), clients, Arc::clone(&is_over))),
            gateway,
            clients,
            last,
            connected,
            measured,
            staying,
            is_over,
        }
    }

    /// Waits until every client is back, and asserts that nothing failed and nothing is missing. Returns the gateway.
    async fn end(self) -> Gateway {
        until("all clients again", async || {
            (self.connected.load(Relaxed) as u64 >= 2 * self.clients).then_some(())
        })
        .await;
        self.is_over.store(true, Relaxed);
        let (handshakes, longest) = self.connecting.await.expect("no handshake failed");
        let published = self.publishing.await.expect("no publication failed");
        println!("{handshakes} handshakes, the longest took {longest:?}; {published} events");
        {
            let mut measured = self.measured.lock().expect("not poisoned");
            let (p50, p99) = (measured.delay_ms(0.5), measured.delay_ms(0.99));
            println!("events of those who were not closed yet: p50 {p50} ms, p99 {p99} ms");
            println!("clients that came back, by seconds: {:?}", measured.came_back());
            measured.assert_even(self.clients);
        }
        // The clients that wait for the last event learn its number, and it comes once more than that.
        self.last.store(published, Relaxed);
        self.gateway.publish(vec![event(CHANNEL, published)]).await;
        let history = history(&self.gateway, CHANNEL).await;
        assert_eq!(history.len(), published + 1, "every event that was accepted is kept");
        for listener in self.staying {
            let listener = listener.await.expect("the client got everything");
            assert_eq!(listener.recovered[CHANNEL], true);
            listener.assert_received_all(CHANNEL, &history);
        }
        Arc::into_inner(self.gateway).expect("the last owner")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_in_place_fails_no_connection_and_loses_no_event() {
    let clients = variable("TICKGATE_RESTART_CLIENTS", 60);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let server = format!("{SERVER}\nrestart_drain = \"{}ms\"", drain_ms(clients));
    let busy = Busy::begin(Gateway::start(&server, &snapshot(&directory)).await, clients).await;
    let gateway = Arc::clone(&busy.gateway);
    let signalled = Instant::now();
    gateway.signal("USR2");
    let restarted = "restarted: connections that waited are accepted";
    until("the restart", async || gateway.log().contains(restarted).then_some(())).await;
    drop(gateway);
    let mut gateway = busy.end().await;
    let (_, metrics) = gateway.metrics().await;
    let paused = metrics
        .lines()
        .find_map(|line| line.strip_prefix("tickgate_restart_paused_seconds_total "));
    let paused: f64 = paused.expect("measured").parse().expect("a number");
    println!("the gateway did not accept for {paused} s");
    assert!(paused > 0.0 && paused < signalled.elapsed().as_secs_f64(), "{paused} s");
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
}

/// A process that is no child of the test. Dropping it kills it.
struct Successor(u32);

impl Successor {
    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.0.to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -s {name}");
    }

    fn has_ended(&self) -> bool {
        // It is a zombie until the process with the id 1 has waited for it.
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0));
        status.map_or(true, |status| status.contains("State:\tZ"))
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-s", "KILL", &self.0.to_string()]).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_with_a_shared_broker_goes_on_until_its_successor_is_ready() {
    let clients = variable("TICKGATE_RESTART_CLIENTS", 20);
    let nats = nats_server::Nats::start();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let manager = directory.path().join("notify");
    let notices = UnixDatagram::bind(&manager).expect("bound");
    let broker = format!("[broker]\nkind = \"nats\"\nurl = [\"{}\"]", nats.url());
    let manager = manager.to_str().expect("UTF-8");
    let gateway = Gateway::start_as(&["serve"], &[("NOTIFY_SOCKET", manager)], SERVER, &broker).await;
    until("ready", async || {
        (gateway.admin("GET", "/readyz", "").await.0 == 200).then_some(())
    })
    .await;
    let busy = Busy::begin(gateway, clients).await;
    busy.gateway.signal("USR2");
    let mut notice = [0; 64];
    let length = within("the notice", notices.recv(&mut notice)).await.expect("received");
    let notice = std::str::from_utf8(&notice[..length]).expect("text");
    let pid = notice.strip_prefix("MAINPID=").expect("the main process").parse();
    let successor = Successor(pid.expect("a number"));
    let mut gateway = busy.end().await;
    // The old process ends by itself, and the new one serves at its addresses.
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert_eq!(gateway.admin("GET", "/readyz", "").await.0, 200);
    assert!(
        gateway
            .metrics()
            .await
            .1
            .contains("tickgate_restart_paused_seconds_total 0\n")
    );
    successor.signal("TERM");
    until("its end", async || successor.has_ended().then_some(())).await;
}

#[tokio::test]
async fn a_successor_that_does_not_get_ready_leaves_the_gateway_as_it_is() {
    let nats = nats_server::Nats::start();
    let proxy = nats_server::Proxy::start(nats.port);
    let broker = format!("[broker]\nkind = \"nats\"\nurl = [\"nats://127.0.0.1:{}\"]", proxy.port);
    let environment = [("NOTIFY_SOCKET", "/nonexistent")];
    let mut gateway = Gateway::start_as(&["serve"], &environment, "drain = \"1s\"", &broker).await;
    until("ready", async || {
        (gateway.admin("GET", "/readyz", "").await.0 == 200).then_some(())
    })
    .await;
    // The new process waits for the broker.
    proxy.cut();
    let start_another = async |times: usize| {
        gateway.signal("USR2");
        let waits = "the process before this one goes on";
        until("the new process", async || {
            (gateway.log().matches(waits).count() == times).then_some(())
        })
        .await;
        let log = gateway.log();
        let line = { log.lines() }.rfind(|line| line.contains("the new program starts beside this one"));
        let line: Value = serde_json::from_str(line.expect("a line")).expect("JSON");
        let pid = line["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        Successor(pid.expect("a number"))
    };
    start_another(1).await.signal("KILL");
    let ended = "ended before it was ready; this one goes on";
    until("its end", async || gateway.log().contains(ended).then_some(())).await;
    // The next one ends together with the gateway.
    let successor = start_another(2).await;
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
    until("its end", async || successor.has_ended().then_some(())).await;
}

#[tokio::test]
async fn a_gateway_that_cannot_be_replaced_goes_on() {
    let mut gateway = Gateway::start("", "").await;
    let mut client = gateway.connect(&trader()).await;
    gateway.configure("shards = 1000", "");
    gateway.signal("USR2");
    until("the refusal", async || {
        let log = gateway.log();
        (log.contains("the gateway does not restart") && log.contains("server.shards")).then_some(())
    })
    .await;
    client.subscribe(&[CHANNEL]).await;
    gateway.publish(vec![event(CHANNEL, 1)]).await;
    assert_eq!(gateway.admin("GET", "/readyz", "").await.0, 200);
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_signal_ends_a_gateway_that_restarts() {
    let mut gateway = Gateway::start("restart_drain = \"1m\"", "").await;
    // It reads nothing, so the drain takes its time.
    let mut client = gateway.connect_bare(&format!("/ws?token={}", trader())).await;
    gateway.signal("USR2");
    until("the restart", async || {
        gateway.log().contains("restarting: new connections wait").then_some(())
    })
    .await;
    gateway.signal("TERM");
    let (_, end) = client.rest().await;
    assert_eq!(end, Told::Closed(1012, "gateway restarting".to_owned()));
    drop(client);
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert!(
        gateway.log().contains("the gateway ends instead of restarting"),
        "{}",
        gateway.log()
    );
}
