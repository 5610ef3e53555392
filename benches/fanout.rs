//! Fan-out to loopback clients: the gateway, the naive server, and two bare loops as a lower bound: one `write` per
//! client and event, and one io_uring submission per 1024 clients.
//!
//! `cargo bench --bench fanout` measures 1000 clients, in about two minutes. `TICKGATE_BENCH_CLIENTS=1000,5000,15000` names
//! other sizes. One iteration publishes one event, or ten at once, and ends when the last client has its last frame.
//! Criterion reports wall time. After each case the benchmark prints the CPU time of the server's own threads per
//! delivery, which is the figure to compare. The clients run in a process of their own, since many machines do not
//! allow one process the descriptors of both ends of 15,000 connections. (`tickgate-loadtest` measures the gateway's
//! binary from another process and at a fixed rate.)
#![allow(missing_docs)]

#[path = "support/bare.rs"]
mod bare;
#[path = "support/crowd.rs"]
mod crowd;
#[path = "support/naive.rs"]
#[allow(unreachable_pub, reason = "shared with the load tool's example")]
mod naive;
#[path = "support/post.rs"]
mod post;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use bare::Loop;
use criterion::{BenchmarkId, Criterion, Throughput};
use crowd::Crowd;
use post::Post;
use tickgate::config::{Config, Environment};
use tickgate::gateway::Gateway;
use tickgate::ingress::http::LocalAddress;
use tickgate_protocol::wire::encode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SUBSCRIBE: &str = r#"{"type":"subscribe","channels":["load.0"]}"#;
const KEY: &str = "0123456789abcdef0123456789abcdef";

/// Runs the cases of one server. `publish` publishes the given number of events to all clients.
fn measure(
    criterion: &mut Criterion,
    name: &str,
    threads: &[&str],
    (crowd, clients): (Crowd, usize),
    mut publish: impl FnMut(usize),
) {
    let mut group = criterion.benchmark_group(format!("fanout_{clients}"));
    group
        .sample_size(if clients > 1000 { 10 } else { 20 })
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(4));
    for events in [1usize, 10] {
        group.throughput(Throughput::Elements((events * clients) as u64));
        let (cpu, deliveries) = (cpu_of(threads), crowd.received());
        group.bench_function(BenchmarkId::new(name, events), |bencher| {
            bencher.iter(|| {
                let target = crowd.received() + (events * clients) as u64;
                publish(events);
                crowd.wait_for(target);
            });
        });
        let cpu_us = (cpu_of(threads) - cpu).as_secs_f64() * 1e6;
        let deliveries = crowd.received() - deliveries;
        println!(
            "{name}, {clients} clients, {events} at once: {:.2} us CPU of its threads per delivery",
            cpu_us / deliveries as f64
        );
    }
    group.finish();
}

/// CPU time of this process's threads whose names begin with one of `names`.
fn cpu_of(names: &[&str]) -> Duration {
    let threads = std::fs::read_dir("/proc/self/task")
        .expect("/proc is mounted")
        .flatten();
    let of = |thread: std::fs::DirEntry| {
        let name = std::fs::read_to_string(thread.path().join("comm")).ok()?;
        let times = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        let matches = names.iter().any(|prefix| name.starts_with(prefix));
        matches.then(|| times.split(' ').next()?.parse::<u64>().ok())?
    };
    Duration::from_nanos(threads.filter_map(of).sum())
}

/// The message that the servers send, as a frame and as the body of a publish request.
fn data() -> String {
    format!("{{\"pad\":\"{}\"}}", "x".repeat(147))
}

fn publish_body(events: usize) -> String {
    let event = format!(r#"{{"channel":"load.0","event":"tick","data":{}}}"#, data());
    format!("[{}]", vec![event; events].join(","))
}

/// Measures a loop on a thread of its own, without a server.
fn bare_loop(criterion: &mut Criterion, kind: Loop, clients: usize) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let accepting = std::thread::spawn(move || {
        (0..clients)
            .map(|_| crowd::accept_plainly(&listener))
            .collect::<Vec<TcpStream>>()
    });
    let crowd = Crowd::connect(address, "/", "", clients);
    let sockets = accepting.join().expect("accepted");
    let mut frame = Vec::new();
    encode::text(
        &mut frame,
        &format!(
            r#"{{"type":"event","channel":"load.0","event":"tick","timestamp":1703836800000,"data":{}}}"#,
            data()
        ),
    );
    let (orders, taken) = std::sync::mpsc::channel::<usize>();
    let sender = std::thread::Builder::new()
        .name("bare".into())
        .spawn(move || bare::run(kind, &sockets, &frame, taken));
    let name = match kind {
        Loop::Write => "bare_send_loop",
        Loop::IoUring => "bare_io_uring_loop",
    };
    measure(criterion, name, &["bare"], (crowd, clients), |events| {
        orders.send(events).expect("it runs")
    });
    drop(orders);
    sender.expect("a thread").join().expect("it ended");
}

fn tickgate(criterion: &mut Criterion, flush: &str, clients: usize) {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(
        file.path(),
        format!(
            r#"
        [server]
        flush = "{flush}"
        listen = ["127.0.0.1:0"]
        admin_listen = "127.0.0.1:0"
        shards = 1
        [auth]
        mode = "off"
        [auth.anonymous]
        channels = ["load.*"]
        [admin]
        key_env = "BENCH_ADMIN_KEY"
        "#
        ),
    )
    .expect("written");
    let environment = Environment::of([("BENCH_ADMIN_KEY", KEY)]);
    let config = Config::load(Some(file.path()), &environment).unwrap_or_else(|problems| panic!("{problems}"));
    let gateway = Gateway::start(config.gateway(20_000)).expect("it starts");
    let crowd = Crowd::connect(tcp(&gateway.addresses()[0]), "/ws", SUBSCRIBE, clients);
    let mut post = Post::connect(tcp(gateway.admin_address()), Some(KEY));
    let bodies = [publish_body(1), publish_body(10)];
    let name = format!("tickgate_{flush}");
    measure(
        criterion,
        &name,
        &["shard", "ingress", "main"],
        (crowd, clients),
        |events| post.send(&bodies[usize::from(events > 1)]),
    );
    gateway.stop().expect("it ends well");
}

fn tcp(address: &LocalAddress) -> SocketAddr {
    match address {
        LocalAddress::Tcp(address) => *address,
        other => panic!("{other:?} instead of a TCP address"),
    }
}

fn naive_server(criterion: &mut Criterion, clients: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("naive")
        .enable_all()
        .build()
        .expect("a runtime");
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .expect("a port");
    let address = listener.local_addr().expect("bound");
    runtime.spawn(naive::Naive::new().serve(listener));
    let crowd = Crowd::connect(address, "/ws", SUBSCRIBE, clients);
    let mut post = Post::connect(address, None);
    let bodies = [publish_body(1), publish_body(10)];
    measure(criterion, "naive", &["naive"], (crowd, clients), |events| {
        post.send(&bodies[usize::from(events > 1)])
    });
    runtime.shutdown_background();
}

fn raise_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("up to the maximum is allowed");
}

fn main() {
    raise_descriptors();
    if crowd::serve_if_child() {
        return;
    }
    let sizes = std::env::var("TICKGATE_BENCH_CLIENTS").unwrap_or_else(|_| "1000".into());
    let mut criterion = Criterion::default().configure_from_args();
    for clients in sizes.split(',').map(|size| size.parse().expect("a number of clients")) {
        bare_loop(&mut criterion, Loop::Write, clients);
        bare_loop(&mut criterion, Loop::IoUring, clients);
        for flush in ["io_uring", "writev"] {
            tickgate(&mut criterion, flush, clients);
        }
        naive_server(&mut criterion, clients);
    }
    criterion.final_summary();
}
