//! A real Redis server for a test.

#![allow(dead_code, reason = "every test file uses a part of it")]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tickgate::auth::Secret;
use tickgate::backend::redis::RedisServer;

/// A Redis server in a temporary directory, without persistence.
pub(crate) struct Redis {
    port: u16,
    directory: tempfile::TempDir,
    process: Child,
}

impl Redis {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        // Another process may take the port before Redis does. Then the next attempt uses another port.
        for _ in 0..10 {
            let free = TcpListener::bind("127.0.0.1:0").expect("bound");
            let port = free.local_addr().expect("an address").port();
            drop(free);
            let mut process = spawn(port, &directory);
            if came_up(port, &mut process) {
                return Self {
                    port,
                    directory,
                    process,
                };
            }
        }
        panic!("redis-server did not start (is it installed?)");
    }

    pub(crate) fn address(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// The server as the default user without a password.
    pub(crate) fn server(&self) -> RedisServer {
        RedisServer {
            address: self.address().parse().expect("an address"),
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
        assert!(answer.starts_with([':', '+', '$']), "{command:?}: {answer}");
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

    /// A number of `INFO`.
    pub(crate) fn info(&self, name: &str) -> u64 {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("connected");
        stream.write_all(b"*1\r\n$4\r\nINFO\r\n").expect("sent");
        let lines = BufReader::new(stream).lines().map_while(Result::ok);
        let mut values = lines.filter_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok());
        values.next().expect("a number of INFO")
    }

    /// Stops the server, calls `meanwhile`, and starts an empty server on the same port.
    pub(crate) fn restart_with(mut self, meanwhile: impl FnOnce(Self) -> Self) -> Self {
        self.process.kill().expect("killed");
        self.process.wait().expect("waited for");
        let mut redis = meanwhile(self);
        redis.process = spawn(redis.port, &redis.directory);
        assert!(
            came_up(redis.port, &mut redis.process),
            "redis-server did not come back"
        );
        redis
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(port: u16, directory: &tempfile::TempDir) -> Child {
    Command::new("redis-server")
        .args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ])
        .arg("--dir")
        .arg(directory.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is installed (Debian: redis-server)")
}

/// Waits until the server accepts connections; `false` if it exits first.
fn came_up(port: u16, process: &mut Child) -> bool {
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        if process.try_wait().expect("waited for").is_some() {
            return false;
        }
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("redis-server is neither up nor gone");
}
