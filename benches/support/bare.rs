//! Sending alone: what no server can beat without sending less often.

use std::io::Write;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::mpsc::Receiver;

use io_uring::{IoUring, opcode, types};

/// How the loop sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loop {
    Write,
    IoUring,
}

const DEPTH: usize = 1024;

/// For each order that many times: the frame to every socket.
pub(crate) fn run(kind: Loop, sockets: &[TcpStream], frame: &[u8], orders: Receiver<usize>) {
    let mut ring = IoUring::new(DEPTH as u32).expect("io_uring is allowed here");
    for events in orders {
        for _ in 0..events {
            match kind {
                Loop::Write => {
                    for mut socket in sockets {
                        socket.write_all(frame).expect("a client that reads");
                    }
                }
                Loop::IoUring => sockets
                    .chunks(DEPTH)
                    .for_each(|sockets| submit(&mut ring, sockets, frame)),
            }
        }
    }
}

fn submit(ring: &mut IoUring, sockets: &[TcpStream], frame: &[u8]) {
    for socket in sockets {
        let socket = types::Fd(socket.as_raw_fd());
        let entry = opcode::Send::new(socket, frame.as_ptr(), frame.len() as u32)
            .flags(libc::MSG_NOSIGNAL)
            .build();
        // SAFETY: the frame and the sockets outlive the ring's work: all completions are waited for below.
        unsafe { ring.submission().push(&entry) }.expect("room for each");
    }
    ring.submit_and_wait(sockets.len()).expect("submitted");
    for completion in ring.completion() {
        assert_eq!(completion.result(), frame.len() as i32, "a client that reads");
    }
}
