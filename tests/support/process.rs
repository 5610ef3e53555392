//! A server's process: stopping and going on.

#![allow(dead_code, reason = "every test file uses a part of it")]

use std::net::TcpListener;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// A port that nobody listens on at present.
pub(crate) fn free_port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").expect("bound");
    free.local_addr().expect("an address").port()
}

/// Sends a signal to the process.
pub(crate) fn signal(process: &Child, name: &str) {
    let pid = process.id().to_string();
    let sent = Command::new("kill").args(["-s", name, &pid]).status();
    assert!(sent.is_ok_and(|status| status.success()), "kill -s {name}");
}

/// The process does not run, but its sockets stay open.
pub(crate) fn freeze(process: &Child) {
    signal(process, "STOP");
    // A thread that runs on another core goes on for a moment.
    let tasks = format!("/proc/{}/task", process.id());
    let is_stopped = |task: std::io::Result<std::fs::DirEntry>| {
        let status = std::fs::read_to_string(task.expect("a thread").path().join("status"));
        status.is_ok_and(|status| status.contains("State:\tT"))
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    while !std::fs::read_dir(&tasks).expect("a process").all(is_stopped) {
        assert!(Instant::now() < deadline, "the server was not stopped");
        std::thread::yield_now();
    }
}

/// The process goes on.
pub(crate) fn thaw(process: &Child) {
    signal(process, "CONT");
}
