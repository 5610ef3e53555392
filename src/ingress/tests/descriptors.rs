//! Running out of descriptors.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use super::*;

const CHILD: &str = "TICKGATE_TEST_DESCRIPTORS_CHILD";

/// Runs in a process of its own, because it lowers the limit of descriptors.
#[test]
fn running_out_of_descriptors_is_survived() {
    if std::env::var_os(CHILD).is_some() {
        return child_with_few_descriptors();
    }
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args([
            "--exact",
            "ingress::tests::descriptors::running_out_of_descriptors_is_survived",
            "--nocapture",
        ])
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    let mut lines = BufReader::new(child.stdout.take().expect("piped"))
        .lines()
        .map(|line| line.expect("text"));
    let mut said = |what: &str| {
        lines
            .find_map(|line| line.split_once(what).map(|(_, rest)| rest.to_owned()))
            .expect("the child speaks")
    };
    let address: std::net::SocketAddr = said("ADDRESS ").parse().expect("an address");
    // More connections than the child has descriptors. The kernel completes them.
    let crowd: Vec<_> = (0..80)
        .map(|_| std::net::TcpStream::connect(address).expect("connected"))
        .collect();
    said("PAUSED");
    // The crowd stays, and its silent connections make room.
    let mut stream = std::net::TcpStream::connect(address).expect("connected");
    stream.write_all(&handshake("/open", &[])).expect("sent");
    let mut status = String::new();
    BufReader::new(stream).read_line(&mut status).expect("an answer");
    assert_eq!(status.trim_end(), "HTTP/1.1 101 Switching Protocols");
    drop(crowd);
    drop(child.stdin.take());
    assert!(child.wait().expect("ended").success());
}

#[tokio::main(flavor = "current_thread")]
async fn child_with_few_descriptors() {
    let fixture = fixture(|settings| settings.handshake_timeout_ms = 60_000);
    let limit = rustix::process::Rlimit {
        current: Some(40),
        maximum: Some(40),
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).expect("lowered");
    println!("\nADDRESS {}", fixture.address);
    until("out of descriptors", || fixture.metrics.accept.paused.get() > 0).await;
    println!("\nPAUSED");
    // Until the parent hangs up.
    let wait = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    assert_eq!(wait.await.expect("joined").expect("end of input"), 0);
}
