//! Starting and ending a gateway.

#[path = "support/gateway.rs"]
mod gateway;
#[path = "support/process.rs"]
mod process;

use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use gateway::{Client, PATIENCE, answer, connect, start, until};
use serde_json::json;
use tickgate::gateway::{Error, Gateway};
use tickgate::ingress::ListenAddress;

#[test]
fn a_drain_tells_every_client_and_closes_cleanly() {
    let running = start(|settings| settings.drain_ms = 1_000);
    let mut clients: Vec<_> = (0..20)
        .map(|n| running.client(&running.trader(&format!("u{n}"))))
        .collect();
    for client in &mut clients {
        client.subscribe(&["grid.*"]);
    }
    assert_eq!(running.admin("GET", "/readyz", "").status, 200);
    running.gateway.handle().drain();
    running.gateway.handle().drain();
    let not_ready = running.admin("GET", "/readyz", "");
    assert_eq!((not_ready.status, not_ready.code().as_str()), (503, "NOT_READY"));
    assert_eq!(running.admin("GET", "/healthz", "").status, 200);
    assert_eq!(
        running.admin("GET", "/api/websocket/stats", "").json()["is_running"],
        json!(false)
    );
    // The public listener still answers, so that a proxy chooses another gateway at once.
    let mut stream = connect(running.public);
    let request = "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("sent");
    let refused = answer(&mut stream);
    assert_eq!((refused.status, refused.code().as_str()), (503, "DRAINING"));
    assert!(refused.head.to_lowercase().contains("\r\nretry-after: "), "{refused:?}");

    let ended = std::thread::spawn(move || running.gateway.wait());
    for client in &mut clients {
        let told = client.json();
        assert_eq!(
            (&told["type"], &told["data"]["reason"]),
            (&json!("going_away"), &json!("restart"))
        );
        assert_eq!(client.close_code(), Some(1012));
    }
    // Only now do the clients answer with a Close of their own.
    drop(clients);
    ended.join().expect("joined").expect("a clean end");
}

#[test]
fn several_gateways_in_one_process_end_independently() {
    let (first, second) = (start(|_| {}), start(|_| {}));
    let mut client = second.client(&second.trader("u1"));
    client.subscribe(&["grid.*"]);
    first.gateway.stop().expect("a clean end");
    assert!(
        std::net::TcpStream::connect(first.public).is_err(),
        "its listener is closed"
    );
    assert!(std::net::TcpStream::connect(first.admin).is_err());
    second.publish(r#"{"channel":"grid.a","event":"e","data":1}"#);
    assert_eq!(client.json()["data"], 1);
    // A dropped gateway ends, too, and tells its clients.
    drop(second);
    assert!(matches!(client.close_code(), Some(1001 | 1012)));
}

#[test]
fn both_wildcards_listen_on_one_port_and_the_ipv6_one_alone_serves_both() {
    let listen = |addresses: &[&str]| {
        let free = std::net::TcpListener::bind("0.0.0.0:0").expect("bound");
        let port = free.local_addr().expect("bound").port();
        drop(free);
        let address = |address: &&str| format!("{address}:{port}").parse().expect("an address");
        let mut settings = gateway::settings();
        settings.ingress.listen = addresses.iter().map(address).collect();
        Gateway::start(settings).map(|gateway| (gateway, port))
    };
    for addresses in [&["0.0.0.0", "[::]"][..], &["[::]", "127.0.0.1"], &["[::]"]] {
        if let Err(error) = std::net::TcpListener::bind(("::1", 0)) {
            return eprintln!("skipped, the machine has no IPv6: {error}");
        }
        // Another test may take the port before the gateway does.
        let mut attempts = (0..10).map(|_| listen(addresses));
        let last = attempts.find(Result::is_ok).unwrap_or_else(|| listen(addresses));
        let (gateway, port) = last.unwrap_or_else(|error| panic!("{addresses:?}: {error}"));
        for peer in ["127.0.0.1", "::1"] {
            let stream = std::net::TcpStream::connect((peer, port)).expect("connected");
            stream.set_read_timeout(Some(PATIENCE)).expect("set");
            let mut client = Client::open(stream, "/echo");
            client.send("hello");
            assert_eq!(client.text(), "hello", "{addresses:?} from {peer}");
        }
        gateway.stop().expect("a clean end");
    }
}

#[test]
fn unix_sockets_are_served_and_removed() {
    let directory = tempfile::tempdir().expect("a directory");
    let (public, admin) = (
        directory.path().join("public.sock"),
        directory.path().join("admin.sock"),
    );
    let mut settings = gateway::settings();
    settings.ingress.listen = vec![ListenAddress::Unix(public.clone())];
    settings.admin.listen = ListenAddress::Unix(admin.clone());
    let gateway = Gateway::start(settings).expect("started");
    let mode = std::fs::metadata(&public).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o660, "other users may not connect");
    let stream = UnixStream::connect(&public).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    let mut client = Client::open(stream, "/echo");
    client.send("hello");
    assert_eq!(client.text(), "hello");
    let mut stream = UnixStream::connect(&admin).expect("connected");
    stream
        .write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect("sent");
    assert_eq!(answer(&mut stream).status, 200);
    gateway.stop().expect("a clean end");
    assert!(!public.exists() && !admin.exists());
}

#[test]
fn a_gateway_that_cannot_start_reports_why_and_leaves_nothing_running() {
    let running = start(|_| {});
    let taken = ListenAddress::Tcp(running.public);
    let mut settings = gateway::settings();
    settings.ingress.listen.push(taken.clone());
    match Gateway::start(settings) {
        Err(Error::Listen { address, .. }) => assert_eq!(address, taken),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("the port is taken"),
    }
    let mut settings = gateway::settings();
    settings.node = "two.segments".into();
    assert!(matches!(Gateway::start(settings), Err(Error::Node(_))));
}

#[test]
fn ended_connections_free_their_limits() {
    let running = start(|settings| settings.ingress.max_connections = 2);
    let token = running.trader("u1");
    let (first, _second) = (running.client(&token), running.client(&token));
    let request = format!(
        "GET /ws?token={token} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let status = || {
        let mut stream = connect(running.public);
        stream.write_all(request.as_bytes()).expect("sent");
        answer(&mut stream).status
    };
    assert_eq!(status(), 503);
    drop(first);
    until("a place", || status() == 101);
}

#[test]
fn the_limit_per_user_holds_for_both_ways_to_authenticate() {
    let running = start(|settings| settings.ingress.max_connections_per_user = 1);
    let token = running.trader("u1");
    let _first = running.client(&token);
    let mut second = Client::open(connect(running.public), "/ws");
    second.send(&json!({ "type": "auth", "token": token }).to_string());
    let answer = second.receive();
    let told = matches!(&answer, gateway::Received::Text(text) if text.contains(r#""success":false"#));
    assert!(told || matches!(answer, gateway::Received::Close(_)), "{answer:?}");
    let mut third = Client::open(connect(running.public), "/ws");
    third.send(&json!({ "type": "auth", "token": running.trader("u2") }).to_string());
    assert_eq!(third.json()["success"], true);
}

/// A process that ends with the test, also when the test fails.
struct Process(Child);

impl Process {
    fn terminate(&self) {
        process::signal(&self.0, "TERM");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the binary with a listening socket, passed as systemd does.
fn with_passed_socket(listener: &std::net::TcpListener, config: &std::path::Path) -> Process {
    let socket = OwnedFd::from(listener.try_clone().expect("cloned"));
    let script = "exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" serve --config \"$1\"";
    let mut child = Command::new("/bin/sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_tickgate")])
        .arg(config)
        .stdin(Stdio::from(socket))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let log = BufReader::new(child.stderr.take().expect("piped"));
    let (up, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // The log is read to its end, so that the child process never blocks on it.
        for line in log.lines().map_while(Result::ok) {
            if line.contains("listening for the admin API") {
                let _ = up.send(());
            }
        }
    });
    let process = Process(child);
    wait.recv_timeout(PATIENCE).expect("the gateway is up");
    process
}

#[test]
fn clients_of_a_passed_socket_wait_for_the_next_process() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("bound");
    let directory = tempfile::tempdir().expect("a directory");
    let config = directory.path().join("tickgate.toml");
    let text = "[server]\nadmin_listen = \"127.0.0.1:0\"\ndrain = \"2s\"\n[auth]\nmode = \"off\"\n";
    std::fs::write(&config, text).expect("written");

    let mut first = with_passed_socket(&listener, &config);
    let mut old = Client::open(connect(address), "/ws");
    // A shard has the connection from here on. One that no shard has taken yet is closed without `going_away`.
    old.send(r#"{"type":"ping"}"#);
    assert_eq!(old.json()["type"], "pong");
    first.terminate();
    assert_eq!(old.json()["type"], "going_away");
    // During the drain, a new client waits for the next process instead of being refused.
    let waiting = std::thread::spawn(move || {
        let mut client = Client::open(connect(address), "/ws");
        client.send(r#"{"type":"ping"}"#);
        client.json()
    });
    assert_eq!(old.close_code(), Some(1012));
    drop(old);
    assert!(first.0.wait().expect("ended").success());
    assert!(!waiting.is_finished(), "no process has answered it");

    let mut second = with_passed_socket(&listener, &config);
    assert_eq!(waiting.join().expect("served")["type"], "pong");
    second.terminate();
    assert!(second.0.wait().expect("ended").success());
}
