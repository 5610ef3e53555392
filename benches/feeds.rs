//! Polls ten thousand users every ten seconds over HTTP, with feeds on one thread. It measures whether the interval
//! holds, and the CPU time of the polls. The source is a server on another thread of this process. Every third response
//! for a user differs from the previous one.
//!
//! `cargo bench --bench feeds` takes about a minute. The environment variables `USERS` and `INTERVAL_MS` change the load.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use tickgate::backend::feeds::{FeedSettings, PublishMode, Runner, Settings, SourceSettings};
use tickgate::broker::{Duties, Embedded};
use tickgate::hub::Hub;
use tickgate_protocol::channel::Pattern;

/// The number of intervals measured, after the first one, which spreads out the users.
const INTERVALS: u32 = 4;

fn main() {
    let users = setting("USERS", 10_000);
    let interval = Duration::from_millis(setting("INTERVAL_MS", 10_000) as u64);
    let times: Arc<Vec<Mutex<Vec<Instant>>>> = Arc::new((0..users).map(|_| Mutex::default()).collect());
    let source = source(&times);
    let (hub, mut inboxes) = Hub::new(tickgate::hub::Settings::default(), 1, |_, _| Bytes::new());
    let feed = FeedSettings {
        channel: "user.{id}.balance".parse().expect("a channel"),
        event: "balance_update".into(),
        source: SourceSettings::Http(format!("http://{source}/{{id}}").parse().expect("a URL")),
        publish: PublishMode::Changed,
        interval,
        timeout: Duration::from_secs(5),
    };
    let settings = Settings {
        feeds: vec![feed],
        ..Settings::default()
    };
    let broker = Arc::new(Embedded::new(Arc::clone(&hub), tickgate::time::Clock::start()));
    let (feeds, runner) = Runner::new(
        settings,
        hub,
        broker,
        tickgate::time::Clock::start(),
        (Duties::alone(), None),
    );
    let mut inbox = inboxes.pop().expect("one");
    for user in 0..users {
        inbox.join(&Pattern::parse(&format!("user.{user}.balance")).expect("valid"));
    }
    let over = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&over);
    let shard = std::thread::spawn(move || {
        let mut events = 0_u64;
        while !seen.load(Ordering::Relaxed) {
            while inbox.pop().is_some() {
                events += 1;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        events
    });
    let begun = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        // The timeout drops the polls that are still running.
        let _ = tokio::time::timeout(interval * (INTERVALS + 1), runner.run()).await;
    });
    let cpu = clock_gettime(ClockId::ThreadCPUTime);
    let elapsed = begun.elapsed();
    over.store(true, Ordering::Relaxed);
    let events = shard.join().expect("no panic");
    let sample = feeds.read().remove(0);

    // The first gap is random and is left out.
    let mut gaps: Vec<Duration> = times
        .iter()
        .flat_map(|times| {
            let times = times.lock();
            times
                .windows(2)
                .skip(1)
                .map(|pair| pair[1] - pair[0])
                .collect::<Vec<_>>()
        })
        .collect();
    gaps.sort_unstable();
    let gap = |part: usize| {
        gaps.get((gaps.len().saturating_sub(1)) * part / 1000)
            .copied()
            .unwrap_or_default()
    };
    println!("{users} users every {interval:?}, {elapsed:.1?}: {sample:?}");
    println!("events received: {events}");
    println!(
        "from poll to poll of a user ({} gaps): least {:.2?}, median {:.2?}, 99.9 % {:.2?}, most {:.2?}",
        gaps.len(),
        gap(0),
        gap(500),
        gap(999),
        gap(1000)
    );
    let cpu = Duration::new(cpu.tv_sec.unsigned_abs(), u32::try_from(cpu.tv_nsec).unwrap_or(0));
    println!(
        "CPU of the feeds' thread: {:.1} % of a core",
        cpu.as_secs_f64() / elapsed.as_secs_f64() * 100.0
    );
}

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

/// Starts a server on its own thread. It records the time of each request for a user.
fn source(times: &Arc<Vec<Mutex<Vec<Instant>>>>) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    listener.set_nonblocking(true).expect("set");
    let address = listener.local_addr().expect("an address");
    let times = Arc::clone(times);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            while let Ok((stream, _)) = listener.accept().await {
                let times = Arc::clone(&times);
                let answer = service_fn(move |request: Request<hyper::body::Incoming>| {
                    let asked = request.uri().path()[1..].parse::<usize>().map_or(0, |user| {
                        let mut times = times[user].lock();
                        times.push(Instant::now());
                        times.len()
                    });
                    let body = format!(
                        r#"{{"total_balance":{},"available_balance":1.5,"used_margin":0}}"#,
                        asked / 3
                    );
                    async move { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(body)))) }
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
            }
        });
    });
    address
}
